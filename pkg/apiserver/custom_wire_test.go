package apiserver_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/scale"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
)

const seaV1 = "/apis/sea.example.com/v1/namespaces/default/boats"

func boat(name, spec string) string {
	return fmt.Sprintf(`{"apiVersion":"sea.example.com/v1","kind":"Boat","metadata":{"name":%q},"spec":%s}`, name, spec)
}

func TestCustomFormats(t *testing.T) {
	c := startCustom(t)
	c.define(t, boats)
	ctx := limited(t)
	for name, spec := range map[string]string{"a": `{"color":"red","crew":2}`, "b": `{"color":"blue"}`} {
		if code, _, body := raw(t, c.instance, "POST", seaV1, asJSON, boat(name, spec)); code != http.StatusCreated {
			t.Fatalf("%d %s", code, body)
		}
	}
	for _, r := range []struct {
		name, method, path, contentType, body, accept string
		code                                          int
		want                                          string // parts of the answer, by |
	}{
		{"list", "GET", seaV1, "", "", "", 200, `{"kind":"BoatList","apiVersion":"sea.example.com/v1",|"items":[{"apiVersion":"sea.example.com/v1","kind":"Boat",`},
		{"YAML out", "GET", seaV1 + "/a", "", "", "application/yaml", 200, "kind: Boat\n|color: red"},
		{"YAML in", "POST", seaV1, "application/yaml", "apiVersion: sea.example.com/v1\nkind: Boat\nmetadata: {name: yaml}\nspec: {color: green}\n", "", 201, `"color":"green"`},
		{"no protobuf out", "GET", seaV1 + "/a", "", "", "application/vnd.kubernetes.protobuf", 406, "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf"},
		{"protobuf or JSON", "GET", seaV1 + "/a", "", "", "application/vnd.kubernetes.protobuf,application/json", 200, `"kind":"Boat"`},
		{"no protobuf in", "POST", seaV1, "application/vnd.kubernetes.protobuf", "k8s\x00", "", 400, ""},
		{"no strategic merge", "PATCH", seaV1 + "/a", string(types.StrategicMergePatchType), "{}", "", 415, "accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"},
		{"table", "GET", seaV1, "", "", "application/json;as=Table;v=v1;g=meta.k8s.io", 200,
			`"name":"Color","type":"string"|"description":"How many"|"cells":["a","red",2,"|"cells":["b","blue",null,"`},
		{"selector", "GET", seaV1 + "?fieldSelector=spec.color%3Dblue", "", "", "", 200, `"name":"b"`},
		{"unknown selector", "GET", seaV1 + "?fieldSelector=spec.length%3D1", "", "", "", 400, "field label not supported: spec.length"},
		{"other version", "GET", "/apis/sea.example.com/v2/namespaces/default/boats", "", "", "", 404, "404 page not found"},
		{"version of the body", "POST", seaV1, asJSON, `{"apiVersion":"sea.example.com/v9","kind":"Boat","metadata":{"name":"x"}}`, "", 400,
			"the API version in the data (sea.example.com/v9) does not match the expected API version (sea.example.com/v1)"},
		{"options of its group", "DELETE", seaV1 + "/none", asJSON, `{"apiVersion":"sea.example.com/v1","kind":"DeleteOptions"}`, "", 404, `boats.sea.example.com \"none\" not found`},
		{"options of no group", "DELETE", seaV1 + "/none", asJSON, `{"apiVersion":"no.such/v1","kind":"DeleteOptions"}`, "", 404, `boats.sea.example.com \"none\" not found`},
		{"no options", "DELETE", seaV1 + "/none", asJSON, `{"apiVersion":"sea.example.com/v1","kind":"Boat"}`, "", 400, `no kind \"Boat\" is registered`},
	} {
		t.Run(r.name, func(t *testing.T) {
			var headers []string
			if r.accept != "" {
				headers = []string{"Accept", r.accept}
			}
			code, _, body := raw(t, c.instance, r.method, r.path, r.contentType, r.body, headers...)
			if code != r.code {
				t.Errorf("%d %s", code, body)
			}
			for part := range strings.SplitSeq(r.want, "|") {
				if !strings.Contains(string(body), part) {
					t.Errorf("%s\nhas no %s", body, part)
				}
			}
		})
	}
	t.Run("metadata in protobuf", func(t *testing.T) {
		client, err := metadata.NewForConfig(rest.CopyConfig(c.config)) // which speaks protobuf
		if err != nil {
			t.Fatal(err)
		}
		resource := client.Resource(schema.GroupVersionResource{Group: "sea.example.com", Version: "v1", Resource: "boats"}).Namespace("default")
		list, err := resource.List(ctx, metav1.ListOptions{})
		if err != nil || len(list.Items) != 3 || list.Items[0].Name != "a" {
			t.Fatalf("%v %+v", err, list)
		}
		watch, err := resource.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
		if err != nil {
			t.Fatal(err)
		}
		defer watch.Stop()
		if err := resource.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{FieldSelector: "spec.color=green"}); err != nil {
			t.Fatal(err)
		}
		event := <-watch.ResultChan()
		if gone, ok := event.Object.(*metav1.PartialObjectMetadata); event.Type != "DELETED" || !ok || gone.Name != "yaml" {
			t.Errorf("%+v", event)
		}
	})
	t.Run("watch by field", func(t *testing.T) {
		objects := c.of("sea.example.com", "v1", "boats", "default")
		watch, err := objects.Watch(ctx, metav1.ListOptions{FieldSelector: "spec.color=blue", ResourceVersion: "0"})
		if err != nil {
			t.Fatal(err)
		}
		defer watch.Stop()
		for _, color := range []string{"blue", "red"} {
			if _, err := objects.Patch(ctx, "a", types.MergePatchType, []byte(`{"spec":{"color":"`+color+`"}}`), metav1.PatchOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		var seen []string
		for len(seen) < 3 {
			event := <-watch.ResultChan()
			seen = append(seen, fmt.Sprint(event.Type, " ", event.Object.(metav1.Object).GetName()))
		}
		if want := []string{"ADDED b", "ADDED a", "DELETED a"}; !slices.Equal(seen, want) {
			t.Errorf("%v", seen)
		}
	})
}

func TestCustomScale(t *testing.T) {
	c := startCustom(t)
	c.define(t, boats)
	ctx := limited(t)
	for name, spec := range map[string]string{"a": `{"color":"red","crew":2}`, "none": `{"color":"blue"}`} {
		if code, _, body := raw(t, c.instance, "POST", seaV1, asJSON, boat(name, spec)); code != http.StatusCreated {
			t.Fatalf("%d %s", code, body)
		}
	}
	if code, _, body := raw(t, c.instance, "PATCH", seaV1+"/a/status", string(types.MergePatchType), `{"status":{"crew":1,"selector":"x=y"}}`); code != 200 {
		t.Fatalf("%d %s", code, body)
	}
	config := rest.CopyConfig(c.config)
	found := discovery.NewDiscoveryClientForConfigOrDie(config)
	scales, err := scale.NewForConfig(config, fixedMapper{}, dynamicPath, scale.NewDiscoveryScaleKindResolver(found))
	if err != nil {
		t.Fatal(err)
	}
	resource := schema.GroupResource{Group: "sea.example.com", Resource: "boats"}
	got, err := scales.Scales("default").Get(ctx, resource, "a", metav1.GetOptions{})
	if err != nil || got.Spec.Replicas != 2 || got.Status != (autoscalingv1.ScaleStatus{Replicas: 1, Selector: "x=y"}) {
		t.Fatalf("%v %+v", err, got)
	}
	got.Spec.Replicas = 5
	if got, err = scales.Scales("default").Update(ctx, resource, got, metav1.UpdateOptions{FieldManager: "scaler"}); err != nil || got.Spec.Replicas != 5 {
		t.Fatalf("%v %+v", err, got)
	}
	whole, err := c.of("sea.example.com", "v1", "boats", "default").Get(ctx, "a", metav1.GetOptions{})
	if err != nil || text(t, whole, "spec", "crew") != "5" || whole.GetGeneration() != 2 {
		t.Errorf("%v %v", err, whole)
	}
	if !slices.ContainsFunc(whole.GetManagedFields(), func(e metav1.ManagedFieldsEntry) bool {
		return e.Manager == "scaler" && e.Subresource == "scale" && e.APIVersion == "sea.example.com/v1" && strings.Contains(string(e.FieldsV1.Raw), `"f:crew"`)
	}) {
		t.Errorf("%+v", whole.GetManagedFields())
	}
	for path, want := range map[string]string{"GET": "the spec replicas field \\\".spec.crew\\\" does not exist", "PATCH": "the spec replicas field \\\".spec.crew\\\" cannot be empty"} {
		if _, _, body := raw(t, c.instance, path, seaV1+"/none/scale", string(types.MergePatchType), `{}`); !strings.Contains(string(body), want) {
			t.Errorf("%s: %s", path, body)
		}
	}
	if code, _, body := raw(t, c.instance, "PATCH", seaV1+"/none/scale", string(types.MergePatchType), `{"spec":{"replicas":3}}`); code != 200 || !strings.Contains(string(body), `"replicas":3`) {
		t.Errorf("%d %s", code, body)
	}
	_, err = scales.Scales("default").Patch(ctx, resource.WithVersion("v1"), "a", types.MergePatchType, []byte(`{"spec":{"replicas":-1}}`), metav1.PatchOptions{})
	if err == nil || !strings.Contains(err.Error(), "must be greater than or equal to 0") && !strings.Contains(err.Error(), "should be a non-negative integer") {
		t.Error(err)
	}
}

// What is defined appears in discovery and OpenAPI, and goes with its definition.
func TestCustomDiscovery(t *testing.T) {
	c := startCustom(t)
	get := func(path, accept string) string {
		_, _, body := raw(t, c.instance, "GET", path, "", "", "Accept", accept)
		return string(body)
	}
	const aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
	before := get("/openapi/v2", "application/json")
	c.define(t, boats)
	for path, want := range map[string]string{
		"/apis":                               `"name":"sea.example.com"`,
		"/apis/sea.example.com":               `"preferredVersion":{"groupVersion":"sea.example.com/v1","version":"v1"}`,
		"/apis/sea.example.com/v1":            `{"name":"boats","singularName":"boat","namespaced":true,"kind":"Boat","verbs":["delete","deletecollection","get","list","patch","create","update","watch"],"shortNames":["bt"],"categories":["all","fleet"],"storageVersionHash":`,
		"/apis/sea.example.com/v1?scale":      `{"name":"boats/scale","singularName":"","namespaced":true,"group":"autoscaling","version":"v1","kind":"Scale","verbs":["get","patch","update"]}`,
		"/openapi/v3":                         `"apis/sea.example.com/v1":{"serverRelativeURL":"/openapi/v3/apis/sea.example.com/v1?hash=`,
		"/openapi/v3/apis/sea.example.com/v1": `"com.example.sea.v1.Boat":{"description":"A boat floats.","properties":{`,
		"/openapi/v2":                         `"com.example.sea.v1.BoatList":`,
	} {
		if body := get(path, "application/json"); !strings.Contains(body, want) {
			t.Errorf("%s has no %s: %.600s", path, want, body)
		}
	}
	if body := get("/apis", aggregated); !strings.Contains(body, `{"resource":"boats","responseKind":{"group":"sea.example.com","version":"v1","kind":"Boat"},"scope":"Namespaced"`) {
		t.Errorf("aggregated: %.300s", body)
	}
	t.Run("v3 in full", func(t *testing.T) {
		var document struct {
			Paths      map[string]map[string]any
			Components struct{ Schemas map[string]map[string]any }
		}
		if err := json.Unmarshal([]byte(get("/openapi/v3/apis/sea.example.com/v1", "application/json")), &document); err != nil {
			t.Fatal(err)
		}
		boat := document.Components.Schemas["com.example.sea.v1.Boat"]
		for path, want := range map[string]string{
			"x-kubernetes-group-version-kind":                             `[{"group":"sea.example.com","kind":"Boat","version":"v1"}]`,
			"x-kubernetes-selectable-fields":                              `[{"fieldPath":"spec.color"}]`,
			"properties metadata allOf":                                   `[{"$ref":"#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}]`,
			"properties spec properties length":                           `{"default":7,"type":"integer"}`,
			"properties spec properties maybe nullable":                   `true`,
			"properties spec required":                                    `["color"]`,
			"properties spec properties masts x-kubernetes-list-map-keys": `["name"]`,
		} {
			var at any = boat
			for step := range strings.FieldsSeq(path) {
				m, _ := at.(map[string]any)
				at = m[step]
			}
			if got, _ := json.Marshal(at); string(got) != want {
				t.Errorf("%s is %s", path, got)
			}
		}
		for path := range document.Paths {
			if !strings.HasPrefix(path, "/apis/sea.example.com/v1/") {
				t.Error(path)
			}
		}
		if n := len(document.Paths); n != 5 {
			t.Errorf("%d paths", n)
		}
		if _, ok := document.Components.Schemas["io.k8s.api.autoscaling.v1.Scale"]; !ok {
			t.Error("no Scale")
		}
	})
	t.Run("protobuf", func(t *testing.T) {
		client := discovery.NewDiscoveryClientForConfigOrDie(rest.CopyConfig(c.config))
		if _, err := client.OpenAPISchema(); err != nil {
			t.Error(err)
		}
		paths, err := client.OpenAPIV3().Paths()
		if err != nil {
			t.Fatal(err)
		}
		for _, gv := range []string{"apis/sea.example.com/v1", "apis/apiextensions.k8s.io/v1"} {
			if _, err := paths[gv].Schema("application/com.github.proto-openapi.spec.v3.v1.0+protobuf"); err != nil {
				t.Errorf("%s: %v", gv, err)
			}
		}
	})
	t.Run("references", func(t *testing.T) {
		for _, path := range []string{"/openapi/v2", "/openapi/v3/apis/sea.example.com/v1", "/openapi/v3/apis/apiextensions.k8s.io/v1"} {
			dangling(t, path, get(path, "application/json"))
		}
	})
	if err := c.crds.ApiextensionsV1().CustomResourceDefinitions().Delete(limited(t), "boats.sea.example.com", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, "still discovered", func() bool { return !strings.Contains(get("/apis", "application/json"), "sea.example.com") })
	if after := get("/openapi/v2", "application/json"); after != before {
		t.Error("OpenAPI isn't what it was")
	}
	if code, _, _ := raw(t, c.instance, "GET", "/openapi/v3/apis/sea.example.com/v1", "", ""); code != 404 {
		t.Error(code)
	}
}

// dangling finds references to definitions that a document doesn't have.
func dangling(t *testing.T, path, document string) {
	t.Helper()
	var d struct {
		Definitions map[string]any
		Components  struct{ Schemas map[string]any }
	}
	if err := json.Unmarshal([]byte(document), &d); err != nil {
		t.Fatal(err)
	}
	decoder := json.NewDecoder(strings.NewReader(document))
	isRef := false
	for {
		token, err := decoder.Token()
		if err == io.EOF {
			return
		}
		name, ok := token.(string)
		if isRef && ok {
			name = name[strings.LastIndexByte(name, '/')+1:]
			if d.Definitions[name] == nil && d.Components.Schemas[name] == nil {
				t.Errorf("%s: no %s", path, name)
			}
		}
		isRef = name == "$ref"
	}
}

type fixedMapper struct{}

func (fixedMapper) ResourceFor(r schema.GroupVersionResource) (schema.GroupVersionResource, error) {
	r.Version = "v1"
	return r, nil
}

func (fixedMapper) ResourcesFor(r schema.GroupVersionResource) ([]schema.GroupVersionResource, error) {
	return []schema.GroupVersionResource{r}, nil
}

func dynamicPath(schema.GroupVersionKind) string { return "/apis" }
