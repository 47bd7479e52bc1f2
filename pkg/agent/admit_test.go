package agent

import (
	"net/netip"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
)

// A node may have changed for the scheduler, and not yet for the agent: what
// the agent has seen last is no ground to reject a pod for good.
func TestAdmissionLooksAgain(t *testing.T) {
	node := func(taints ...v1.Taint) *v1.Node {
		return &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Spec: v1.NodeSpec{Taints: taints},
			Status: v1.NodeStatus{Allocatable: v1.ResourceList{v1.ResourcePods: resource.MustParse("10")}}}
	}
	taint := v1.Taint{Key: "a", Effect: v1.TaintEffectNoExecute}
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", UID: "p"}, Spec: v1.PodSpec{NodeName: "n"}}
	for _, c := range []struct {
		name       string
		seen, is   *v1.Node
		wantReason string
	}{
		{"the taint is gone", node(taint), node(), ""},
		{"the taint is there", node(taint), node(taint), "TaintToleration"},
		{"all is well", node(), node(), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, err := New(Config{Client: fake.NewClientset(c.is), NodeName: "n", NodeIPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}})
			if err != nil {
				t.Fatal(err)
			}
			a.node = newNode(a)
			a.node.last.Store(c.seen)
			got := a.admit(t.Context(), pod, false)
			if got == nil && c.wantReason != "" || got != nil && got.Reason != c.wantReason {
				t.Errorf("%+v, want reason %q", got, c.wantReason)
			}
		})
	}
}

// Extended resources are somebody's entries in the node's status: they are counted where they are
// listed, and ignored where they aren't.
func TestAdmissionCountsExtendedResources(t *testing.T) {
	node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: v1.NodeStatus{Allocatable: v1.ResourceList{
		v1.ResourcePods: resource.MustParse("10"), "example.com/listed": resource.MustParse("1")}}}
	a, err := New(Config{Client: fake.NewClientset(node), NodeName: "n", NodeIPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}})
	if err != nil {
		t.Fatal(err)
	}
	a.node = newNode(a)
	a.node.last.Store(node)
	for _, c := range []struct {
		name       types.UID
		resource   v1.ResourceName
		wantReason string
	}{
		{"first", "example.com/listed", ""},
		{"second", "example.com/listed", "OutOfexample.com/listed"},
		{"elsewhere", "example.com/other", ""},
		{"no huge pages", "hugepages-2Mi", "OutOfhugepages-2Mi"},
	} {
		amount := v1.ResourceList{c.resource: resource.MustParse("1")}
		pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: string(c.name), UID: c.name}, Spec: v1.PodSpec{NodeName: "n",
			Containers: []v1.Container{{Resources: v1.ResourceRequirements{Requests: amount, Limits: amount}}}}}
		got := a.admit(t.Context(), pod, false)
		if got == nil && c.wantReason != "" || got != nil && got.Reason != c.wantReason {
			t.Errorf("%s: %+v, want reason %q", c.name, got, c.wantReason)
		}
	}
}

func TestResourcesOfOthersStay(t *testing.T) {
	list := func(pairs ...string) v1.ResourceList {
		l := v1.ResourceList{}
		for i := 0; i < len(pairs); i += 2 {
			l[v1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
		}
		return l
	}
	own := list("cpu", "4", "pods", "110")
	capacity, allocatable := resources(own, list("cpu", "1", "example.com/dongle", "3", "hugepages-16Ki", "5"), list("cpu", "1"))
	if want := list("cpu", "4", "pods", "110", "example.com/dongle", "3"); !equality.Semantic.DeepEqual(capacity, want) {
		t.Errorf("capacity %v, want %v", capacity, want)
	}
	if want := list("cpu", "3", "pods", "110", "example.com/dongle", "3"); !equality.Semantic.DeepEqual(allocatable, want) {
		t.Errorf("allocatable %v, want %v", allocatable, want)
	}
	if len(own) != 2 {
		t.Errorf("the node's own list was changed: %v", own)
	}
}
