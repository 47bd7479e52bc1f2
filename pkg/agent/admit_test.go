package agent

import (
	"net/netip"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
