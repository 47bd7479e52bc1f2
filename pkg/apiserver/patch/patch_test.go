package patch

import (
	"encoding/json"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"skiff/pkg/api"
	"skiff/pkg/api/catalogue"
)

func deployment() *appsv1.Deployment {
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "d", Namespace: "n", Labels: map[string]string{"a": "b"}},
		Spec: appsv1.DeploymentSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{
			{Name: "one", Image: "i:1", Env: []corev1.EnvVar{{Name: "X", Value: "1"}}}, {Name: "two", Image: "j:1"},
		}}}},
	}
}

func TestApply(t *testing.T) {
	for _, c := range []struct {
		name       string
		kind       types.PatchType
		body       string
		want       string // images and env of the result, or a part of the error
		violations string
	}{
		{"JSON", types.JSONPatchType, `[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"i:2"}]`, "one=i:2[X=1] two=j:1", ""},
		{"JSON test that fails", types.JSONPatchType, `[{"op":"test","path":"/metadata/name","value":"x"}]`, "the server rejected our request due to an error in our request", ""},
		{"JSON that replaces all by nothing", types.JSONPatchType, `[{"op":"replace","path":""}]`, "the server rejected our request due to an error in our request", ""},
		{"merge replaces lists", types.MergePatchType, `{"spec":{"template":{"spec":{"containers":[{"name":"one","image":"i:2"}]}}}}`, "one=i:2", ""},
		{"strategic merges lists by key", types.StrategicMergePatchType, `{"spec":{"template":{"spec":{"containers":[{"name":"two","image":"j:2"},{"name":"one","env":[{"name":"Y","value":"2"}]}]}}}}`, "two=j:2 one=i:1[Y=2 X=1]", ""},
		{"strategic deletes by key", types.StrategicMergePatchType, `{"spec":{"template":{"spec":{"containers":[{"$patch":"delete","name":"two"}]}}}}`, "one=i:1[X=1]", ""},
		{"a field nobody knows", types.StrategicMergePatchType, `{"spec":{"nonsense":1}}`, "one=i:1[X=1] two=j:1", `unknown field "spec.nonsense"`},
		{"a field twice", types.MergePatchType, `{"metadata":{"labels":{"x":"1"}},"metadata":{}}`, "one=i:1[X=1] two=j:1", `duplicate field "metadata"`},
		{"not an object", types.MergePatchType, `[1]`, "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}", ""},
		{"a wrong type", types.MergePatchType, `{"spec":{"replicas":"many"}}`, "Invalid value", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := Patch{
				Type: c.kind, Body: []byte(c.body), Strict: true,
				New: func() runtime.Object { return &appsv1.Deployment{} },
				Decode: func(document []byte) (runtime.Object, error) {
					obj, _, err := api.StrictJSON.Decode(document, ptr(appsv1.SchemeGroupVersion.WithKind("Deployment")), &appsv1.Deployment{})
					return obj, err
				},
			}
			before := deployment()
			got, violations, err := p.Apply(before)
			if err != nil {
				if !strings.Contains(err.Error(), c.want) {
					t.Fatalf("%v, want %s", err, c.want)
				}
				if !apierrors.IsBadRequest(err) && !apierrors.IsInvalid(err) && apierrors.ReasonForError(err) == "" {
					t.Errorf("%#v is no answer to a client", err)
				}
				return
			}
			if text := containers(got.(*appsv1.Deployment)); text != c.want {
				t.Errorf("%s, want %s", text, c.want)
			}
			var found []string
			for _, v := range violations {
				found = append(found, v.Error())
			}
			if strings.Join(found, "; ") != c.violations {
				t.Errorf("violations %v, want %s", found, c.violations)
			}
			if containers(before) != "one=i:1[X=1] two=j:1" {
				t.Error("the current object was changed")
			}
		})
	}
}

func ptr[T any](v T) *T { return &v }

func containers(d *appsv1.Deployment) string {
	var all []string
	for _, c := range d.Spec.Template.Spec.Containers {
		text := c.Name + "=" + c.Image
		var env []string
		for _, e := range c.Env {
			env = append(env, e.Name+"="+e.Value)
		}
		if env != nil {
			text += "[" + strings.Join(env, " ") + "]"
		}
		all = append(all, text)
	}
	return strings.Join(all, " ")
}

func configuration(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := json.Unmarshal([]byte(text), &u.Object); err != nil {
		t.Fatal(err)
	}
	return u
}

func TestServerSideApply(t *testing.T) {
	kind := catalogue.Default().View().ByKind(appsv1.SchemeGroupVersion.WithKind("Deployment"))
	m := NewManagers().Of(kind, "")
	live := m.Update(kind.New(), deployment(), "creator")
	const base = `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d","namespace":"n"},"spec":{"replicas":3,"template":{"spec":{"containers":[{"name":"one","image":"%"}]}}}}`

	_, err := m.Apply(live, configuration(t, strings.Replace(base, "%", "i:2", 1)), "applier", false)
	if !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `.spec.template.spec.containers[name="one"].image`) {
		t.Fatalf("%v", err)
	}
	applied, err := m.Apply(live, configuration(t, strings.Replace(base, "%", "i:2", 1)), "applier", true)
	if err != nil {
		t.Fatal(err)
	}
	if got := containers(applied.(*appsv1.Deployment)); got != "one=i:2[X=1] two=j:1" {
		t.Error(got)
	}
	// What the applier had and now leaves out goes.
	without := configuration(t, `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d","namespace":"n"},"spec":{"template":{"spec":{"containers":[{"name":"one","image":"i:2"}]}}}}`)
	applied, err = m.Apply(applied, without, "applier", false)
	if err != nil {
		t.Fatal(err)
	}
	if r := applied.(*appsv1.Deployment).Spec.Replicas; r == nil || *r != 1 { // the default
		t.Errorf("replicas %v", r)
	}
}

func TestStatusOwnsNoSpec(t *testing.T) {
	kind := catalogue.Default().View().ByKind(appsv1.SchemeGroupVersion.WithKind("Deployment"))
	managers := NewManagers()
	live := managers.Of(kind, "").Update(kind.New(), deployment(), "creator")
	next := live.DeepCopyObject().(*appsv1.Deployment)
	next.Spec.Paused = true
	next.Status.Replicas = 2
	next = managers.Of(kind, "status").Update(live, next, "controller").(*appsv1.Deployment)
	for _, e := range next.ManagedFields {
		if e.Manager == "controller" && (e.Subresource != "status" || strings.Contains(e.FieldsV1.String(), "f:spec") || !strings.Contains(e.FieldsV1.String(), "f:status")) {
			t.Errorf("%+v", e)
		}
	}
}
