package nodelifecycle

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	coordination "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/controller/controllertest"
)

// TestNodeFallsSilent lets one of two nodes stop renewing its lease of five seconds.
func TestNodeFallsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		lease := func(name string) *coordination.Lease {
			return &coordination.Lease{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: v1.NamespaceNodeLease},
				Spec: coordination.LeaseSpec{LeaseDurationSeconds: new(int32(5)), RenewTime: &metav1.MicroTime{Time: time.Now()}}}
		}
		a, b := nodeOf(v1.ConditionTrue), nodeOf(v1.ConditionTrue)
		a.Name, b.Name = "a", "b"
		pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "shop"}, Spec: v1.PodSpec{NodeName: "b"},
			Status: v1.PodStatus{Phase: v1.PodRunning, Conditions: []v1.PodCondition{{Type: v1.PodReady, Status: v1.ConditionTrue}}}}
		client := controllertest.NewClient(a, b, lease("a"), lease("b"), pod)
		c := controllertest.Config(t, client)
		controllertest.Run(t, c, New(c, Config{Rates: DefaultRates}).Run)

		renew := func(name string) {
			l := lease(name)
			if _, err := client.CoordinationV1().Leases(l.Namespace).Update(ctx, l, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		state := func() string {
			node, err := client.CoreV1().Nodes().Get(ctx, "b", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			p, err := client.CoreV1().Pods("shop").Get(ctx, "p", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return fmt.Sprintf("%s %d %s", readiness(node), len(node.Spec.Taints), p.Status.Conditions[0].Status)
		}
		for range 20 {
			time.Sleep(time.Second)
			renew("a")
			renew("b")
		}
		if got := state(); got != "True 0 True" {
			t.Fatalf("while it renews: %s", got)
		}
		for i := range 6 {
			time.Sleep(time.Second)
			renew("a")
			if got := state(); got != "True 0 True" {
				t.Fatalf("%d s after: %s", i+1, got)
			}
		}
		time.Sleep(1500 * time.Millisecond)
		if got := state(); got != "Unknown 1 False" {
			t.Fatalf("7.5 s after: %s", got)
		}
		renew("a")
		time.Sleep(settle)
		if got := state(); got != "Unknown 2 False" {
			t.Fatalf("when no other node has followed: %s", got)
		}
		node, err := client.CoreV1().Nodes().Get(ctx, "a", metav1.GetOptions{})
		if err != nil || readiness(node) != v1.ConditionTrue {
			t.Fatalf("the other node: %v, %v", node.Status, err)
		}
	})
}
