package node

import (
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
)

// unscheduled waits until the scheduler says why it doesn't place a pod, in
// its condition and in an event.
func unscheduled(t *testing.T, ns, name, message string) {
	t.Helper()
	waitPod(t, ns, name, "unschedulable: "+message, func(p *v1.Pod) bool {
		for _, c := range p.Status.Conditions {
			if c.Type == v1.PodScheduled && c.Status == v1.ConditionFalse && c.Reason == v1.PodReasonUnschedulable {
				return strings.HasPrefix(c.Message, message)
			}
		}
		return false
	})
	event(t, ns, name, "FailedScheduling", message)
}

// TestPlacing changes nodes, and so has the cluster for itself.
func TestPlacing(t *testing.T) {
	ns := newNamespace(t)
	master, two := clusterName+"-master-1", clusterName+"-worker-2"
	const box = "\ncontainers: [{name: c, image: HELLO}]"
	on := func(name, node string) {
		t.Helper()
		if p := waitPod(t, ns, name, "ready", ready); p.Spec.NodeName != node {
			t.Errorf("%s is on %s, want %s", name, p.Spec.NodeName, node)
		}
	}
	pod(t, ns, "by-label", "nodeSelector: {disk: fast}"+box)
	pod(t, ns, "too-big", "containers: [{name: c, image: HELLO, resources: {requests: {cpu: '1000'}}}]")
	pod(t, ns, "affine", fmt.Sprintf(`affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [%s]}]}]}}}`, two)+box)
	pod(t, ns, "prefers", fmt.Sprintf(`affinity: {nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 100, preference: {matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [%s]}]}}]}}`, two)+box)
	pod(t, ns, "tolerates", fmt.Sprintf("tolerations: [{operator: Exists}]\nnodeSelector: {kubernetes.io/hostname: %s}", master)+box)
	pod(t, ns, "gated", "schedulingGates: [{name: example.com/wait}]"+box)
	unscheduled(t, ns, "by-label", "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 node(s) didn't match Pod's node affinity/selector.")
	unscheduled(t, ns, "too-big", "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu.")
	on("affine", two)
	on("prefers", two)
	on("tolerates", master)
	expect(t, "gated", column(t, ns, "gated"), "SchedulingGated")
	must(t, "patch", "pod", "gated", "-n", ns, "--type=json", `-p=[{"op":"remove","path":"/spec/schedulingGates/0"}]`)
	waitPod(t, ns, "gated", "ready", ready)
	must(t, "label", "node", two, "disk=fast")
	defer ctl("label", "node", two, "disk-")
	on("by-label", two)

	// Taints: who is there stays or goes by its effect, who tolerates it isn't concerned.
	must(t, "taint", "node", two, "a=b:NoSchedule")
	defer ctl("taint", "node", two, "a-")
	pod(t, ns, "kept-off", "nodeSelector: {disk: fast}"+box)
	pod(t, ns, "let-in", "nodeSelector: {disk: fast}\ntolerations: [{key: a, value: b}]"+box)
	on("let-in", two)
	unscheduled(t, ns, "kept-off", "0/3 nodes are available: ")
	must(t, "taint", "node", two, "a=b:NoExecute", "a:NoSchedule-")
	eventually(t, 20*time.Second, "pods are evicted by the taint", func() error {
		out, err := ctl("get", "pods", "-n", ns, "-o", "name", "--field-selector", "spec.nodeName="+two)
		if err == nil && strings.TrimSpace(out) != "pod/let-in" {
			err = fmt.Errorf("%q", out)
		}
		return err
	})
	must(t, "taint", "node", two, "a-")
	on("kept-off", two)

	// Cordon, drain, uncordon.
	must(t, "create", "deployment", "d", "-n", ns, "--image="+helloImage, "--replicas=4")
	must(t, "patch", "deployment", "d", "-n", ns, "-p", `{"spec":{"template":{"spec":{"terminationGracePeriodSeconds":1}}}}`)
	must(t, "rollout", "status", "-n", ns, "deployment/d", "--timeout=60s")
	if out := must(t, "drain", two, "--pod-selector=app=d", "--timeout=60s"); !strings.Contains(out, "evicting pod") || !strings.Contains(out, "drained") {
		t.Errorf("drain: %q", out)
	}
	defer ctl("uncordon", two)
	pod(t, ns, "waits", "nodeSelector: {disk: fast}"+box)
	unscheduled(t, ns, "waits", "0/3 nodes are available: ")
	expect(t, "nodes", strings.Fields(must(t, "get", "node", two, "--no-headers"))[1], "Ready,SchedulingDisabled")
	must(t, "rollout", "status", "-n", ns, "deployment/d", "--timeout=60s")
	expect(t, "pods of the deployment left there", must(t, "get", "pods", "-n", ns, "-l", "app=d", "-o", "name", "--field-selector", "spec.nodeName="+two), "")
	must(t, "uncordon", two)
	on("waits", two)
}
