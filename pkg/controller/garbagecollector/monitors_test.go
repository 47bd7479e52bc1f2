package garbagecollector

import (
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	fakediscovery "k8s.io/client-go/discovery/fake"
	clienttesting "k8s.io/client-go/testing"
)

func TestDiscover(t *testing.T) {
	all := []string{"get", "list", "watch", "delete"}
	client := &fakediscovery.FakeDiscovery{Fake: &clienttesting.Fake{Resources: []*metav1.APIResourceList{
		{GroupVersion: "v1", APIResources: []metav1.APIResource{
			{Name: "pods", Kind: "Pod", Namespaced: true, Verbs: all},
			{Name: "pods/log", Kind: "Pod", Namespaced: true, Verbs: all},
			{Name: "events", Kind: "Event", Namespaced: true, Verbs: all},
			{Name: "bindings", Kind: "Binding", Namespaced: true, Verbs: []string{"create"}},
		}},
		{GroupVersion: "x.io/v1", APIResources: []metav1.APIResource{{Name: "toys", Kind: "Toy", Verbs: all}}},
		{GroupVersion: "x.io/v1beta1", APIResources: []metav1.APIResource{
			{Name: "toys", Kind: "Toy", Verbs: all},
			{Name: "games", Kind: "Game", Verbs: all},
		}},
	}}}
	d, err := discover(client)
	if err != nil {
		t.Fatal(err)
	}
	want := map[schema.GroupVersionResource]schema.GroupVersionKind{
		pods: pod,
		{Group: "x.io", Version: "v1", Resource: "toys"}:       {Group: "x.io", Version: "v1", Kind: "Toy"},
		{Group: "x.io", Version: "v1beta1", Resource: "games"}: {Group: "x.io", Version: "v1beta1", Kind: "Game"},
	}
	if fmt.Sprint(d.watchable) != fmt.Sprint(want) {
		t.Errorf("watches %v", d.watchable)
	}
	if m := d.kinds[pod]; m.resource != pods || !m.namespaced {
		t.Errorf("%+v", m)
	}
	if m := d.kinds[schema.GroupVersionKind{Group: "x.io", Version: "v1beta1", Kind: "Toy"}]; m.resource.Version != "v1beta1" || m.namespaced {
		t.Errorf("%+v", m)
	}
	if _, known := d.kinds[schema.GroupVersionKind{Version: "v1", Kind: "Binding"}]; !known {
		t.Error("an owner's kind need not be watchable")
	}
}
