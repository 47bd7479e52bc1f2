package placement

import (
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"
)

func node(change ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "one", Labels: map[string]string{"zone": "a"}}}
	n.Status.Allocatable = list("cpu=4", "memory=8Gi", "ephemeral-storage=10Gi", "pods=3", "example.com/gpu=2")
	for _, c := range change {
		c(n)
	}
	return n
}

func pod(change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}}
	p.Spec.Containers = []corev1.Container{{Name: "main"}}
	for _, c := range change {
		c(p)
	}
	return p
}

func list(items ...string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for _, item := range items {
		i := slices.Index([]byte(item), '=')
		l[corev1.ResourceName(item[:i])] = resource.MustParse(item[i+1:])
	}
	return l
}

func requesting(items ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests = list(items...) }
}

func port(ip string, number int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostIP: ip, HostPort: number, ContainerPort: 80}}
	}
}

func taint(key string, effect corev1.TaintEffect) func(*corev1.Node) {
	return func(n *corev1.Node) { n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: effect}) }
}

func tolerating(t corev1.Toleration) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.Tolerations = append(p.Spec.Tolerations, t) }
}

func messages(reasons []Reason) []string {
	var texts []string
	for _, r := range reasons {
		texts = append(texts, r.Message)
	}
	return texts
}

func TestCheck(t *testing.T) {
	unschedulable := func(n *corev1.Node) { n.Spec.Unschedulable = true }
	selector := func(value string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"zone": value} }
	}
	affinity := func(requirement corev1.NodeSelectorRequirement) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
				NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{requirement}}}}}}
		}
	}
	cases := []struct {
		name         string
		pod          *corev1.Pod
		node         *corev1.Node
		others       []*corev1.Pod
		which        Predicate
		want         []string
		unresolvable bool
	}{
		{name: "fits", pod: pod(requesting("cpu=4", "memory=8Gi")), node: node()},
		{name: "unschedulable", pod: pod(), node: node(unschedulable), want: []string{MessageUnschedulable}, unresolvable: true},
		{name: "unschedulable is nothing to an agent", pod: pod(), node: node(unschedulable), which: Admission},
		{name: "unschedulable, tolerated", node: node(unschedulable),
			pod: pod(tolerating(corev1.Toleration{Key: corev1.TaintNodeUnschedulable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}))},
		{name: "another node's name", pod: pod(func(p *corev1.Pod) { p.Spec.NodeName = "two" }), node: node(), want: []string{MessageNodeName}, unresolvable: true},
		{name: "taint", pod: pod(), node: node(taint("dedicated", corev1.TaintEffectNoSchedule)), want: []string{MessageTaints}, unresolvable: true},
		{name: "taint that only prefers", pod: pod(), node: node(taint("dedicated", corev1.TaintEffectPreferNoSchedule))},
		{name: "NoSchedule doesn't evict", pod: pod(), node: node(taint("dedicated", corev1.TaintEffectNoSchedule)), which: Admission},
		{name: "NoExecute does", pod: pod(), node: node(taint("dedicated", corev1.TaintEffectNoExecute)), which: Admission, want: []string{MessageNoExecute}, unresolvable: true},
		{name: "toleration of one of two taints", node: node(taint("a", corev1.TaintEffectNoSchedule), taint("b", corev1.TaintEffectNoExecute)),
			pod: pod(tolerating(corev1.Toleration{Key: "a", Operator: corev1.TolerationOpExists})), want: []string{MessageTaints}, unresolvable: true},
		{name: "toleration of everything", node: node(taint("a", corev1.TaintEffectNoSchedule), taint("b", corev1.TaintEffectNoExecute)),
			pod: pod(tolerating(corev1.Toleration{Operator: corev1.TolerationOpExists}))},
		{name: "toleration of another value", node: node(taint("a", corev1.TaintEffectNoSchedule)),
			pod: pod(tolerating(corev1.Toleration{Key: "a", Value: "x"})), want: []string{MessageTaints}, unresolvable: true},
		{name: "selector", pod: pod(selector("a")), node: node()},
		{name: "selector of another", pod: pod(selector("b")), node: node(), want: []string{MessageNodeAffinity}, unresolvable: true},
		{name: "affinity", pod: pod(affinity(corev1.NodeSelectorRequirement{Key: "zone", Operator: corev1.NodeSelectorOpNotIn, Values: []string{"b"}})), node: node()},
		{name: "affinity of another", pod: pod(affinity(corev1.NodeSelectorRequirement{Key: "zone", Operator: corev1.NodeSelectorOpDoesNotExist})), node: node(),
			want: []string{MessageNodeAffinity}, unresolvable: true},
		{name: "affinity that can't be parsed", pod: pod(affinity(corev1.NodeSelectorRequirement{Key: "zone", Operator: "Near"})), node: node(),
			want: []string{MessageNodeAffinity}, unresolvable: true},
		{name: "port taken on all addresses", pod: pod(port("10.0.0.1", 80)), node: node(), others: []*corev1.Pod{pod(port("", 80))}, want: []string{MessageHostPorts}},
		{name: "all addresses, port taken on one", pod: pod(port("0.0.0.0", 80)), node: node(), others: []*corev1.Pod{pod(port("10.0.0.1", 80))}, want: []string{MessageHostPorts}},
		{name: "same port, other address", pod: pod(port("10.0.0.2", 80)), node: node(), others: []*corev1.Pod{pod(port("10.0.0.1", 80))}},
		{name: "same port, other protocol", node: node(), others: []*corev1.Pod{pod(port("", 80))},
			pod: pod(port("", 80), func(p *corev1.Pod) { p.Spec.Containers[0].Ports[0].Protocol = corev1.ProtocolUDP })},
		{name: "full", pod: pod(requesting("cpu=2", "memory=1Gi")), node: node(), others: []*corev1.Pod{pod(requesting("cpu=3"))}, want: []string{"Insufficient cpu"}},
		{name: "too big for the node, ever", pod: pod(requesting("cpu=5")), node: node(), want: []string{"Insufficient cpu"}, unresolvable: true},
		{name: "everything short", pod: pod(requesting("cpu=2", "memory=1Gi", "ephemeral-storage=1Gi", "example.com/gpu=2")), node: node(),
			others: []*corev1.Pod{pod(requesting("cpu=3", "memory=8Gi", "ephemeral-storage=10Gi", "example.com/gpu=1")), pod(), pod()},
			want:   []string{"Too many pods", "Insufficient cpu", "Insufficient memory", "Insufficient ephemeral-storage", "Insufficient example.com/gpu"}},
		{name: "what no node has", pod: pod(requesting("example.com/fpga=1")), node: node(), want: []string{"Insufficient example.com/fpga"}, unresolvable: true},
		{name: "a request of nothing fits a node that is over-committed", pod: pod(), node: node(), others: []*corev1.Pod{pod(requesting("cpu=9"))}},
		{name: "a daemon set doesn't mind a full node", pod: pod(requesting("cpu=5"), port("", 80)), node: node(), others: []*corev1.Pod{pod(port("", 80))}, which: Daemon},
		{name: "only the first failing predicate is told", pod: pod(selector("b"), requesting("cpu=5")), node: node(), want: []string{MessageNodeAffinity}, unresolvable: true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if c.which == 0 {
				c.which = Scheduling
			}
			got := Check(c.pod, c.node, c.others, c.which)
			if !slices.Equal(messages(got), c.want) {
				t.Errorf("got %q, want %q", messages(got), c.want)
			}
			if Unresolvable(got) != c.unresolvable {
				t.Errorf("unresolvable: got %v, want %v", !c.unresolvable, c.unresolvable)
			}
		})
	}
}

func TestRequests(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	container := func(policy *corev1.ContainerRestartPolicy, items ...string) corev1.Container {
		return corev1.Container{RestartPolicy: policy, Resources: corev1.ResourceRequirements{Requests: list(items...)}}
	}
	p := pod(requesting("cpu=500m"), func(p *corev1.Pod) {
		p.Spec.InitContainers = []corev1.Container{container(nil, "cpu=2"), container(&always, "cpu=100m"), container(nil, "memory=1Gi")}
		p.Spec.Overhead = list("cpu=10m", "memory=1Mi")
	})
	got := Prepare(p)
	if got.Requests.MilliCPU != 2010 || got.Requests.Memory != 1<<30+1<<20 {
		t.Errorf("requests: %+v", got.Requests)
	}
	empty := Prepare(pod())
	if empty.ScoredCPU != 100 || empty.ScoredMemory != 200<<20 || empty.Requests.MilliCPU != 0 {
		t.Errorf("a pod without requests: %+v scored %d %d", empty.Requests, empty.ScoredCPU, empty.ScoredMemory)
	}
	podLevel := Prepare(pod(func(p *corev1.Pod) {
		p.Spec.Resources = &corev1.ResourceRequirements{Requests: list("cpu=3")}
	}))
	if podLevel.Requests.MilliCPU != 3000 || podLevel.ScoredCPU != 3000 || podLevel.ScoredMemory != 200<<20 {
		t.Errorf("pod-level requests: %+v scored %d %d", podLevel.Requests, podLevel.ScoredCPU, podLevel.ScoredMemory)
	}
}

// What a node says after any sequence of additions and removals is what a
// fresh node with the remaining pods says.
func TestNodeIsItsPods(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		random := func() *Pod {
			p := pod(requesting(fmt.Sprintf("cpu=%dm", rapid.IntRange(0, 3000).Draw(t, "cpu")), fmt.Sprintf("example.com/gpu=%d", rapid.IntRange(0, 1).Draw(t, "gpu"))))
			if rapid.Bool().Draw(t, "port") {
				port(rapid.SampledFrom([]string{"", "0.0.0.0", "10.0.0.1"}).Draw(t, "ip"), rapid.Int32Range(80, 82).Draw(t, "port"))(p)
			}
			p.Spec.Priority = ptr.To(int32(0))
			return Prepare(p)
		}
		n := NewNode(node())
		var on []*Pod
		for range rapid.IntRange(0, 20).Draw(t, "steps") {
			if len(on) == 0 || rapid.Bool().Draw(t, "add") {
				p := random()
				n.Add(p)
				on = append(on, p)
				continue
			}
			i := rapid.IntRange(0, len(on)-1).Draw(t, "which")
			if !n.Remove(on[i]) {
				t.Fatal("a pod that was added could not be removed")
			}
			if n.Remove(on[i]) {
				t.Fatal("a pod was removed twice")
			}
			on = slices.Delete(on, i, i+1)
		}
		fresh := NewNode(node())
		for _, p := range on {
			fresh.Add(p)
		}
		for range 5 {
			p := random()
			if got, want := messages(n.Check(p, Scheduling)), messages(fresh.Check(p, Scheduling)); !slices.Equal(got, want) {
				t.Fatalf("got %q, a fresh node says %q", got, want)
			}
		}
		gotCPU, gotMemory := n.Scored()
		if wantCPU, wantMemory := fresh.Scored(); gotCPU != wantCPU || gotMemory != wantMemory {
			t.Fatalf("scored %d %d, want %d %d", gotCPU, gotMemory, wantCPU, wantMemory)
		}
	})
}
