package api

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestValidateMeta(t *testing.T) {
	k := Define[corev1.Service, corev1.ServiceList](corev1.SchemeGroupVersion, "services",
		Kind{Namespaced: true, NameValidation: validation.NameIsDNS1035Label})
	meta := func(change func(*metav1.ObjectMeta)) *corev1.Service {
		s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "shop", UID: "1"}}
		if change != nil {
			change(&s.ObjectMeta)
		}
		return s
	}
	old := meta(nil)
	for _, c := range []struct {
		name     string
		obj, old *corev1.Service
		want     string // of the only error; empty: none
	}{
		{name: "good", obj: meta(nil)},
		{name: "no name", obj: meta(func(m *metav1.ObjectMeta) { m.Name = "" }), want: "metadata.name: Required value: name or generateName is required"},
		{name: "the kind's rule", obj: meta(func(m *metav1.ObjectMeta) { m.Name = "1st" }), want: `metadata.name: Invalid value: "1st": a DNS-1035 label must`},
		{name: "a name from before the rule stays", obj: meta(func(m *metav1.ObjectMeta) { m.Name = "1st" }),
			old: meta(func(m *metav1.ObjectMeta) { m.Name = "1st" })},
		{name: "no namespace", obj: meta(func(m *metav1.ObjectMeta) { m.Namespace = "" }), want: "metadata.namespace: Required value"},
		{name: "bad label", obj: meta(func(m *metav1.ObjectMeta) { m.Labels = map[string]string{"a b": ""} }), want: `metadata.labels: Invalid value: "a b": name part must`},
		{name: "huge annotations", obj: meta(func(m *metav1.ObjectMeta) { m.Annotations = map[string]string{"a": strings.Repeat("x", 256<<10)} }),
			want: "metadata.annotations: Too long: may not be more than 262144 bytes"},
		{name: "finalizer without a domain", obj: meta(func(m *metav1.ObjectMeta) { m.Finalizers = []string{"mine"} }),
			want: `metadata.finalizers[0]: Invalid value: "mine": name is neither a standard finalizer name nor is it fully qualified`},
		{name: "standard finalizer", obj: meta(func(m *metav1.ObjectMeta) { m.Finalizers = []string{"orphan"} })},
		{name: "uid changed", obj: meta(func(m *metav1.ObjectMeta) { m.UID = "2" }), old: old, want: `metadata.uid: Invalid value: "2": field is immutable`},
		{name: "label added", obj: meta(func(m *metav1.ObjectMeta) { m.Labels = map[string]string{"a": "b"} }), old: old},
		{name: "name changed", obj: meta(func(m *metav1.ObjectMeta) { m.Name = "web2" }), old: old, want: `metadata.name: Invalid value: "web2": field is immutable`},
	} {
		t.Run(c.name, func(t *testing.T) {
			var stored Object
			if c.old != nil {
				stored = c.old
				c.obj.ResourceVersion = "5"
			}
			errs := ValidateMeta(k, c.obj, stored)
			switch {
			case c.want == "" && len(errs) > 0:
				t.Error(errs)
			case c.want != "" && (len(errs) != 1 || !strings.HasPrefix(errs[0].Error(), c.want)):
				t.Errorf("got %v, want %s…", errs, c.want)
			}
		})
	}
}
