package apiserver

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"skiff/pkg/api"
)

// TestPlanDeletion has one line per state and request, as "<finalizers> <grace>" of the result.
func TestPlanDeletion(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	plainKind := &api.Kind{Resource: "configmaps"}
	graceful := &api.Kind{Resource: "pods", GraceSeconds: func(_ api.Object, o *metav1.DeleteOptions) int64 { return ptr.Deref(o.GracePeriodSeconds, 30) }}
	orphaning := &api.Kind{Resource: "replicationcontrollers", DefaultGarbageCollection: metav1.DeletePropagationOrphan}
	events := &api.Kind{Resource: "events"}

	grace := func(seconds int64) *metav1.DeleteOptions { return &metav1.DeleteOptions{GracePeriodSeconds: &seconds} }
	policy := func(p metav1.DeletionPropagation) *metav1.DeleteOptions {
		return &metav1.DeleteOptions{PropagationPolicy: &p}
	}
	none := &metav1.DeleteOptions{}
	// marked is an object that has been deleted ago seconds before, with this much grace.
	marked := func(seconds, ago int64, finalizers ...string) *corev1.ConfigMap {
		deadline := metav1.NewTime(now.Add(time.Duration(seconds-ago) * time.Second))
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &deadline, DeletionGracePeriodSeconds: &seconds, Finalizers: finalizers}}
	}
	with := func(finalizers ...string) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Finalizers: finalizers}}
	}
	for _, c := range []struct {
		name    string
		kind    *api.Kind
		obj     *corev1.ConfigMap
		options *metav1.DeleteOptions
		want    string
	}{
		{"nothing holds it", plainKind, with(), none, "remove"},
		{"a finalizer holds it", plainKind, with("a"), none, "mark [a] 0 +0s"},
		{"it is marked already", plainKind, marked(0, 5, "a"), none, "unchanged"},
		{"its last finalizer went", plainKind, marked(0, 5), none, "remove"},
		{"orphan", plainKind, with(), policy("Orphan"), "mark [orphan] 0 +0s"},
		{"foreground", plainKind, with("a"), policy("Foreground"), "mark [a foregroundDeletion] 0 +0s"},
		{"background takes a finalizer back", plainKind, with("foregroundDeletion"), policy("Background"), "remove"},
		{"the finalizer stands without a policy", plainKind, with("orphan"), none, "mark [orphan] 0 +0s"},
		{"the old way to orphan", plainKind, with(), &metav1.DeleteOptions{OrphanDependents: ptr.To(true)}, "mark [orphan] 0 +0s"},
		{"a kind that orphans by default", orphaning, with(), none, "mark [orphan] 0 +0s"},
		{"unless asked otherwise", orphaning, with(), policy("Background"), "remove"},
		{"nobody collects events", events, with(), policy("Orphan"), "remove"},

		{"grace by default", graceful, with(), none, "mark [] 30 +30s"},
		{"grace as asked", graceful, with(), grace(5), "mark [] 5 +5s"},
		{"no grace", graceful, with(), grace(0), "mark [] 0 +0s, remove"},
		{"less than none", graceful, with(), grace(-3), "mark [] 1 +1s"},
		{"no grace, but held", graceful, with("a"), grace(0), "mark [a] 0 +0s"},
		{"later, without saying", graceful, marked(30, 10), none, "unchanged"},
		{"later, longer", graceful, marked(30, 10), grace(60), "unchanged"},
		{"later, shorter", graceful, marked(30, 10), grace(15), "mark [] 15 +5s"},
		{"later, shorter than what has passed", graceful, marked(30, 10), grace(5), "mark [] 1 +0s"},
		{"later, at once", graceful, marked(30, 10), grace(0), "mark [] 0 +0s, remove"},
		{"its grace was over", graceful, marked(0, 10), none, "remove"},
	} {
		p := planDeletion(c.kind, c.obj, c.options.DeepCopy(), now)
		got := "unchanged"
		var parts []string
		if !p.unchanged && (p.markFirst || !p.remove) {
			parts = append(parts, fmt.Sprintf("mark %v %d +%s", p.next.GetFinalizers(), *p.next.GetDeletionGracePeriodSeconds(), p.next.GetDeletionTimestamp().Sub(now)))
		}
		if p.remove {
			parts = append(parts, "remove")
		}
		if len(parts) > 0 {
			got = strings.Join(parts, ", ")
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestDeletionRaisesGeneration(t *testing.T) {
	obj := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Generation: 3, Finalizers: []string{"a"}}}
	planDeletion(&api.Kind{}, obj, &metav1.DeleteOptions{}, time.Now())
	planDeletion(&api.Kind{}, obj, &metav1.DeleteOptions{}, time.Now())
	if obj.Generation != 4 {
		t.Errorf("generation %d", obj.Generation)
	}
}

func TestNegotiation(t *testing.T) {
	c := newCodec()
	for _, x := range []struct{ accept, want string }{
		{"", "application/json"},
		{"*/*", "application/json"},
		{"application/*", "application/json"},
		{"application/yaml", "application/yaml"},
		{"application/vnd.kubernetes.protobuf,application/json", "application/vnd.kubernetes.protobuf"},
		{"application/json;q=0.5, application/yaml", "application/yaml"},
		{"text/html, application/json;q=0.1", "application/json"},
		{"text/html", "none"},
		{"application/json;as=Table;v=v1;g=meta.k8s.io", "application/json Table"},
		{"application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json", "application/json"},
		{"application/json;as=Nonsense;v=v1;g=meta.k8s.io", "none"},
		{"application/json;as=Table;v=v9;g=meta.k8s.io,application/json", "application/json"},
		{"application/json;stream=watch", "application/json"},
		{"application/yaml;stream=watch", "none"},
		{`application/vnd.kubernetes.protobuf;as="PartialObjectMetadata";g=meta.k8s.io;v=v1`, "application/vnd.kubernetes.protobuf PartialObjectMetadata"},
	} {
		r, err := http.NewRequest("GET", "/", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Accept", x.accept)
		got := "none"
		if a := c.accept(r, metadataAllowed); a != nil {
			got = a.info.MediaType
			if a.as != nil {
				got += " " + a.as.Kind
			}
		}
		if got != x.want {
			t.Errorf("%s: %s, want %s", x.accept, got, x.want)
		}
	}
}

func TestManager(t *testing.T) {
	for agent, want := range map[string]string{
		"kubectl/v1.36.0 (linux/amd64)": "kubectl", "Mozilla": "Mozilla", "": "", "a\x00b/1": "ab", strings.Repeat("ü", 100): strings.Repeat("ü", 64),
	} {
		if got := manager("", agent); got != want {
			t.Errorf("%q: %q", agent, got)
		}
	}
	if manager("mine", "kubectl/1") != "mine" {
		t.Error("the name asked for was not taken")
	}
}
