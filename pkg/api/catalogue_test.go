package api

import (
	"slices"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func row(group, version, resource, kind string) *Kind {
	return &Kind{GroupVersionKind: schema.GroupVersionKind{Group: group, Version: version, Kind: kind}, Resource: resource}
}

func TestOrder(t *testing.T) {
	c, err := NewCatalogue(
		row("b.example", "v1", "bs", "B"),
		row("a.example", "v1beta1", "as", "A"), row("a.example", "v1", "as", "A"), row("a.example", "v2", "as", "A"),
		row("apps", "v1", "deployments", "Deployment"),
		row("", "v1", "pods", "Pod"), row("", "v1", "nodes", "Node"),
	)
	if err != nil {
		t.Fatal(err)
	}
	var groups []string
	for _, g := range c.View().Groups() {
		groups = append(groups, g.Name)
	}
	if want := []string{"", "apps", "a.example", "b.example"}; !slices.Equal(groups, want) {
		t.Errorf("groups %q, want %q", groups, want)
	}
	if got, want := c.View().Groups()[2].Versions, []string{"v2", "v1", "v1beta1"}; !slices.Equal(got, want) {
		t.Errorf("versions %v, want %v", got, want)
	}
	if core := c.View().In(schema.GroupVersion{Version: "v1"}); len(core) != 2 || core[0].Resource != "nodes" {
		t.Errorf("core: %v", core)
	}
}

func TestChangeIsAllOrNothing(t *testing.T) {
	pods := row("", "v1", "pods", "Pod")
	c, err := NewCatalogue(pods)
	if err != nil {
		t.Fatal(err)
	}
	for name, add := range map[string][]*Kind{
		"a resource twice": {row("x", "v1", "xs", "X"), row("", "v1", "pods", "Other")},
		"a kind twice":     {row("x", "v1", "xs", "X"), row("", "v1", "others", "Pod")},
	} {
		if err := c.Change([]schema.GroupVersionResource{{Group: "x", Version: "v1", Resource: "xs"}}, add...); err == nil {
			t.Errorf("%s was taken", name)
		}
		if n := len(c.View().Kinds()); n != 1 {
			t.Errorf("%s left %d rows", name, n)
		}
	}
	replacement := row("", "v1", "pods", "Pod")
	if err := c.Change([]schema.GroupVersionResource{pods.GroupVersionResource()}, replacement); err != nil {
		t.Fatal(err)
	}
	if c.View().ByKind(pods.GroupVersionKind) != replacement {
		t.Error("the row wasn't replaced")
	}
}

// Readers see either the catalogue before a change or the one after.
func TestReadersNeverSeeHalfAChange(t *testing.T) {
	a, b := row("x", "v1", "as", "A"), row("x", "v1", "bs", "B")
	remove := []schema.GroupVersionResource{a.GroupVersionResource(), b.GroupVersionResource()}
	c, err := NewCatalogue()
	if err != nil {
		t.Fatal(err)
	}
	var writer sync.WaitGroup
	writer.Go(func() {
		for range 500 {
			if err := c.Change(nil, a, b); err != nil {
				t.Error(err)
			}
			if err := c.Change(remove); err != nil {
				t.Error(err)
			}
		}
	})
	for range 1000 {
		v := c.View()
		if (v.ByKind(a.GroupVersionKind) == nil) != (v.ByKind(b.GroupVersionKind) == nil) {
			t.Error("one row without the other")
		}
	}
	writer.Wait()
}

func TestDefineDerives(t *testing.T) {
	k := Define[corev1.ConfigMap, corev1.ConfigMapList](corev1.SchemeGroupVersion, "configmaps", Kind{})
	if k.Kind != "ConfigMap" || k.Singular != "configmap" || k.StoragePath != "configmaps" || !k.HasVerb("deletecollection") || k.HasVerb("log") {
		t.Errorf("%+v", k)
	}
	if k.GroupResource().String() != "configmaps" || k.StoredKind() != k.GroupVersionKind {
		t.Errorf("%v, %v", k.GroupResource(), k.StoredKind())
	}
}
