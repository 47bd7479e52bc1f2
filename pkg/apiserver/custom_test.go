package apiserver_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	crdv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdclient "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"
)

// until waits for what must come true soon.
func until(t testing.TB, otherwise string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(otherwise)
		}
	}
}

// custom is a server and clients for custom resources.
type custom struct {
	*instance
	crds    crdclient.Interface
	objects dynamic.Interface
}

func startCustom(t testing.TB) *custom { return withClients(t, start(t)) }

func withClients(t testing.TB, i *instance) *custom {
	t.Helper()
	config := rest.CopyConfig(i.config)
	crds, err := crdclient.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	objects, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return &custom{i, crds, objects}
}

func readCRD(t testing.TB, text string) *crdv1.CustomResourceDefinition {
	t.Helper()
	crd := &crdv1.CustomResourceDefinition{}
	if err := yaml.UnmarshalStrict([]byte(text), crd); err != nil {
		t.Fatal(err)
	}
	return crd
}

// define creates a definition and waits until it is established.
func (c *custom) define(t testing.TB, text string) *crdv1.CustomResourceDefinition {
	t.Helper()
	crd, err := c.crds.ApiextensionsV1().CustomResourceDefinitions().Create(limited(t), readCRD(t, text), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return c.await(t, crd.Name, crdv1.Established, crdv1.ConditionTrue)
}

func (c *custom) await(t testing.TB, name string, condition crdv1.CustomResourceDefinitionConditionType, status crdv1.ConditionStatus) (crd *crdv1.CustomResourceDefinition) {
	t.Helper()
	until(t, name+" didn't become "+string(condition)+"="+string(status), func() bool {
		var err error
		if crd, err = c.crds.ApiextensionsV1().CustomResourceDefinitions().Get(limited(t), name, metav1.GetOptions{}); err != nil {
			t.Fatal(err)
		}
		for _, is := range crd.Status.Conditions {
			if is.Type == condition {
				return is.Status == status
			}
		}
		return false
	})
	return crd
}

// of is a client of a kind's objects.
func (c *custom) of(group, version, resource, namespace string) dynamic.ResourceInterface {
	client := c.objects.Resource(schema.GroupVersionResource{Group: group, Version: version, Resource: resource})
	if namespace == "" {
		return client
	}
	return client.Namespace(namespace)
}

func object(t testing.TB, text string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(u.Object)
	if err != nil {
		t.Fatal(err)
	}
	if err := u.UnmarshalJSON(data); err != nil { // numbers as clients have them
		t.Fatal(err)
	}
	return u
}

// text is a part of an object as JSON.
func text(t testing.TB, u *unstructured.Unstructured, path ...string) string {
	t.Helper()
	value, _, err := unstructured.NestedFieldNoCopy(u.Object, path...)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

const boats = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.sea.example.com}
spec:
  group: sea.example.com
  scope: Namespaced
  names: {plural: boats, kind: Boat, shortNames: [bt], categories: [all, fleet]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.crew, statusReplicasPath: .status.crew, labelSelectorPath: .status.selector}}
    selectableFields: [{jsonPath: .spec.color}]
    additionalPrinterColumns:
    - {name: Color, type: string, jsonPath: .spec.color}
    - {name: Crew, type: integer, jsonPath: .spec.crew, description: How many}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    schema:
      openAPIV3Schema:
        type: object
        description: A boat floats.
        properties:
          spec:
            type: object
            required: [color]
            properties:
              color: {type: string, enum: [red, blue, green]}
              crew: {type: integer, minimum: 0}
              length: {type: integer, default: 7}
              masts:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name]
                items:
                  type: object
                  required: [name]
                  properties: {name: {type: string}, height: {type: integer, default: 3}}
              port: {x-kubernetes-int-or-string: true}
              free: {type: object, x-kubernetes-preserve-unknown-fields: true}
              maybe: {type: string, nullable: true}
              never: {type: string}
          status:
            type: object
            properties: {crew: {type: integer}, selector: {type: string}, at: {type: string}}
`

func TestCustomResource(t *testing.T) {
	c := startCustom(t)
	crd := c.define(t, boats)
	if crd.Spec.Names.Singular != "boat" || crd.Spec.Names.ListKind != "BoatList" || crd.Spec.Conversion.Strategy != crdv1.NoneConverter ||
		len(crd.Status.StoredVersions) != 1 || crd.Status.StoredVersions[0] != "v1" || crd.Generation != 1 {
		t.Errorf("defaults: %+v", crd)
	}
	boats := c.of("sea.example.com", "v1", "boats", "default")
	ctx := limited(t)
	made, err := boats.Create(ctx, object(t, `
apiVersion: sea.example.com/v1
kind: Boat
metadata: {name: a, finalizers: [x.example.com/held]}
spec: {color: red, crew: 2, unknown: 1, free: {any: thing}, maybe: null, never: null, port: http, masts: [{name: main}]}
status: {at: sea}
`), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := text(t, made, "spec"); got != `{"color":"red","crew":2,"free":{"any":"thing"},"length":7,"masts":[{"height":3,"name":"main"}],"maybe":null,"port":"http"}` {
		t.Errorf("pruned and defaulted: %s", got)
	}
	if made.GetGeneration() != 1 || text(t, made, "status") != "null" || made.GetUID() == "" {
		t.Errorf("%v", made)
	}
	t.Run("stored as JSON where Kubernetes has it", func(t *testing.T) {
		answer, err := c.etcd.Client().Get(ctx, "/registry/sea.example.com/boats/default/a")
		if err != nil || len(answer.Kvs) != 1 || !strings.HasPrefix(string(answer.Kvs[0].Value), `{"apiVersion":"sea.example.com/v1","kind":"Boat",`) {
			t.Errorf("%v %v", err, answer)
		}
		answer, err = c.etcd.Client().Get(ctx, "/registry/apiextensions.k8s.io/customresourcedefinitions/boats.sea.example.com")
		if err != nil || len(answer.Kvs) != 1 || answer.Kvs[0].Value[0] != '{' {
			t.Errorf("%v %v", err, answer)
		}
	})
	t.Run("status", func(t *testing.T) {
		made.Object["status"] = map[string]any{"crew": int64(1), "selector": "a=b"}
		made.SetLabels(map[string]string{"x": "y"})
		unstructured.SetNestedField(made.Object, "blue", "spec", "color")
		updated, err := boats.UpdateStatus(ctx, made, metav1.UpdateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if text(t, updated, "status") != `{"crew":1,"selector":"a=b"}` || text(t, updated, "spec", "color") != `"red"` || updated.GetLabels() != nil || updated.GetGeneration() != 1 {
			t.Errorf("%v", updated)
		}
		made = updated
	})
	t.Run("update", func(t *testing.T) {
		unstructured.SetNestedField(made.Object, "green", "spec", "color")
		delete(made.Object, "status")
		updated, err := boats.Update(ctx, made, metav1.UpdateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if text(t, updated, "status", "crew") != `1` || updated.GetGeneration() != 2 {
			t.Errorf("%v", updated)
		}
		updated.SetResourceVersion("")
		_, err = boats.Update(ctx, updated, metav1.UpdateOptions{})
		if err == nil || !strings.Contains(err.Error(), "metadata.resourceVersion: Invalid value: 0: must be specified for an update") {
			t.Errorf("%v", err)
		}
	})
	t.Run("invalid", func(t *testing.T) {
		_, err := boats.Create(ctx, object(t, `{apiVersion: sea.example.com/v1, kind: Boat, metadata: {name: b}, spec: {color: pink, masts: [{name: m}, {name: m}]}}`), metav1.CreateOptions{})
		want := `Boat.sea.example.com "b" is invalid: [spec.color: Unsupported value: "pink": supported values: "red", "blue", "green", spec.masts[1]: Duplicate value: {"name":"m"}]`
		if err == nil || err.Error() != want {
			t.Errorf("%v\nwant %s", err, want)
		}
		_, err = boats.Create(ctx, object(t, `{apiVersion: sea.example.com/v1, kind: Ship, metadata: {name: b}, spec: {color: red}}`), metav1.CreateOptions{})
		if want := `Ship.sea.example.com "b" is invalid: kind: Invalid value: "Ship": must be Boat`; err == nil || err.Error() != want {
			t.Errorf("%v\nwant %s", err, want)
		}
	})
	t.Run("deletion ends watches", func(t *testing.T) {
		watch, err := boats.Watch(ctx, metav1.ListOptions{ResourceVersion: "0"})
		if err != nil {
			t.Fatal(err)
		}
		if event := <-watch.ResultChan(); event.Type != "ADDED" {
			t.Fatalf("%+v", event)
		}
		if err := c.crds.ApiextensionsV1().CustomResourceDefinitions().Delete(ctx, crd.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		held := c.await(t, crd.Name, crdv1.Terminating, crdv1.ConditionTrue)
		if len(held.Finalizers) != 1 || held.Finalizers[0] != crdv1.CustomResourceCleanupFinalizer {
			t.Errorf("%+v", held.ObjectMeta)
		}
		// The condition may be stored a moment before the server itself has seen it.
		until(t, "objects are still created", func() bool {
			_, err = boats.Create(ctx, object(t, `{apiVersion: sea.example.com/v1, kind: Boat, metadata: {name: late}, spec: {color: red}}`), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
			return err != nil
		})
		if want := `boats.sea.example.com "late" is forbidden: create not allowed while custom resource definition is terminating`; err.Error() != want || !apierrors.IsForbidden(err) {
			t.Errorf("%v\nwant %s", err, want)
		}
		var last *unstructured.Unstructured
		until(t, "the object isn't deleted", func() bool {
			if last, err = boats.Get(ctx, "a", metav1.GetOptions{}); err != nil {
				t.Fatal(err)
			}
			return last.GetDeletionTimestamp() != nil
		})
		last.SetFinalizers(nil)
		if _, err := boats.Update(ctx, last, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		until(t, "the definition stays", func() bool {
			_, err := c.crds.ApiextensionsV1().CustomResourceDefinitions().Get(ctx, crd.Name, metav1.GetOptions{})
			return apierrors.IsNotFound(err)
		})
		types := ""
		for event := range watch.ResultChan() {
			types += string(event.Type) + " "
		}
		if types != "MODIFIED DELETED " {
			t.Errorf("the watch saw %s", types)
		}
		until(t, "still served", func() bool {
			code, _, _ := raw(t, c.instance, "GET", "/apis/sea.example.com/v1/namespaces/default/boats", "", "")
			return code == http.StatusNotFound
		})
	})
}
