package scheduler

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"
)

type podOption = func(*corev1.Pod)
type nodeOption = func(*corev1.Node)

func testNode(name string, options ...nodeOption) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}}
	n.Status.Allocatable = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi"), corev1.ResourcePods: resource.MustParse("110")}
	for _, o := range options {
		o(n)
	}
	return n
}

func zone(z string) nodeOption {
	return func(n *corev1.Node) { n.Labels[corev1.LabelTopologyZone] = z }
}

func tainted(key string, effect corev1.TaintEffect) nodeOption {
	return func(n *corev1.Node) { n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: effect}) }
}

func cordoned(n *corev1.Node) { n.Spec.Unschedulable = true }

func testPod(name string, options ...podOption) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name)}}
	p.Spec.SchedulerName = corev1.DefaultSchedulerName
	p.Spec.Containers = []corev1.Container{{Name: "main"}}
	for _, o := range options {
		o(p)
	}
	return p
}

func cpu(q string) podOption {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(q)}
	}
}

func on(node string) podOption { return func(p *corev1.Pod) { p.Spec.NodeName = node } }

func priority(n int32) podOption { return func(p *corev1.Pod) { p.Spec.Priority = &n } }

func labelled(kv ...string) podOption {
	return func(p *corev1.Pod) {
		p.Labels = map[string]string{}
		for i := 0; i < len(kv); i += 2 {
			p.Labels[kv[i]] = kv[i+1]
		}
	}
}

func owned(uid string) podOption {
	return func(p *corev1.Pod) {
		p.OwnerReferences = []metav1.OwnerReference{{UID: types.UID(uid), Controller: ptr.To(true)}}
	}
}

func selecting(kv ...string) *metav1.LabelSelector {
	p := &corev1.Pod{}
	labelled(kv...)(p)
	return &metav1.LabelSelector{MatchLabels: p.Labels}
}

func affinityOf(p *corev1.Pod) *corev1.Affinity {
	if p.Spec.Affinity == nil {
		p.Spec.Affinity = &corev1.Affinity{}
	}
	return p.Spec.Affinity
}

func apartFrom(key string, kv ...string) podOption {
	return func(p *corev1.Pod) {
		affinityOf(p).PodAntiAffinity = &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{TopologyKey: key, LabelSelector: selecting(kv...)}}}
	}
}

func togetherWith(key string, kv ...string) podOption {
	return func(p *corev1.Pod) {
		affinityOf(p).PodAffinity = &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{TopologyKey: key, LabelSelector: selecting(kv...)}}}
	}
}

func spread(key string, skew int32, action corev1.UnsatisfiableConstraintAction, kv ...string) podOption {
	return func(p *corev1.Pod) {
		p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints,
			corev1.TopologySpreadConstraint{TopologyKey: key, MaxSkew: skew, WhenUnsatisfiable: action, LabelSelector: selecting(kv...)})
	}
}

func onNamedNode(name string) podOption {
	return func(p *corev1.Pod) {
		affinityOf(p).NodeAffinity = &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{name}}}}}}}
	}
}

func claiming(name string) podOption {
	return func(p *corev1.Pod) {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}})
	}
}

func TestDecisions(t *testing.T) {
	three := []corev1.Node{*testNode("a", zone("x")), *testNode("b", zone("x")), *testNode("c", zone("y"))}
	boundClaim := corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "data", Annotations: map[string]string{annotationBindComplete: "yes"}},
		Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "disk"}}
	disk := corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "disk"}, Spec: corev1.PersistentVolumeSpec{NodeAffinity: &corev1.VolumeNodeAffinity{
		Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{
			{Key: corev1.LabelTopologyZone, Operator: corev1.NodeSelectorOpIn, Values: []string{"y"}}}}}}}}}
	cases := []struct {
		name    string
		pod     *corev1.Pod
		objects Objects
		node    string
		message string
		victims string
	}{
		{name: "no nodes", pod: testPod("p"), message: "no nodes available to schedule pods"},
		{name: "ties go to the first name", pod: testPod("p"), objects: Objects{Nodes: three}, node: "a"},
		{name: "the emptiest node", pod: testPod("p", cpu("1")), objects: Objects{Nodes: three, Pods: []corev1.Pod{*testPod("1", cpu("2"), on("a")), *testPod("2", cpu("1"), on("b")), *testPod("3", cpu("3"), on("c"))}}, node: "b"},
		{name: "each its reason", pod: testPod("p", cpu("3")),
			objects: Objects{Nodes: []corev1.Node{*testNode("a", cordoned), *testNode("b", tainted("t", corev1.TaintEffectNoSchedule)), *testNode("c"), *testNode("d")},
				Pods: []corev1.Pod{*testPod("1", cpu("2"), on("c")), *testPod("2", cpu("2"), on("d"))}},
			message: "0/4 nodes are available: 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable, 2 Insufficient cpu. preemption: 0/4 nodes are available: 2 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling."},
		{name: "finished pods take no room", pod: testPod("p", cpu("3")), objects: Objects{Nodes: three[:1], Pods: []corev1.Pod{*testPod("1", cpu("3"), on("a"), func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })}}, node: "a"},
		{name: "pinned to a full node", pod: testPod("p", cpu("3"), onNamedNode("a")), objects: Objects{Nodes: three, Pods: []corev1.Pod{*testPod("1", cpu("2"), on("a"))}},
			message: "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]. preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling."},
		{name: "never preempts", pod: testPod("p", cpu("9"), func(p *corev1.Pod) { p.Spec.PreemptionPolicy = ptr.To(corev1.PreemptNever) }), objects: Objects{Nodes: three},
			message: "0/3 nodes are available: 3 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never."},
		{name: "avoids taints that prefer", pod: testPod("p"), objects: Objects{Nodes: []corev1.Node{*testNode("a", tainted("t", corev1.TaintEffectPreferNoSchedule)), *testNode("b")}, Pods: []corev1.Pod{*testPod("1", cpu("3"), on("b"))}}, node: "b"},
		{name: "spreads pods of an owner", pod: testPod("p", owned("rs")), objects: Objects{Nodes: three, Pods: []corev1.Pod{*testPod("1", owned("rs"), on("a"))}}, node: "c"},
		{name: "spreads pods of a service", pod: testPod("p", labelled("app", "web")), objects: Objects{Nodes: three[:2], Pods: []corev1.Pod{*testPod("1", labelled("app", "web"), on("a")), *testPod("2", cpu("1"), on("b"))},
			Services: []corev1.Service{{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "web"}}}}}, node: "b"},
		{name: "apart", pod: testPod("p", labelled("app", "db"), apartFrom(corev1.LabelTopologyZone, "app", "db")), objects: Objects{Nodes: three, Pods: []corev1.Pod{*testPod("1", labelled("app", "db"), on("b"))}}, node: "c"},
		{name: "apart, nowhere", pod: testPod("p", labelled("app", "db"), apartFrom(corev1.LabelTopologyZone, "app", "db")),
			objects: Objects{Nodes: three, Pods: []corev1.Pod{*testPod("1", labelled("app", "db"), on("b")), *testPod("2", labelled("app", "db"), on("c"))}},
			message: "0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules. preemption: 0/3 nodes are available: 3 No preemption victims found for incoming pod."},
		{name: "kept away", pod: testPod("p", labelled("app", "db")), objects: Objects{Nodes: three[:2], Pods: []corev1.Pod{*testPod("1", apartFrom(corev1.LabelTopologyZone, "app", "db"), on("b"))}},
			message: "0/2 nodes are available: 2 node(s) didn't satisfy existing pods anti-affinity rules. preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod."},
		{name: "together", pod: testPod("p", togetherWith(corev1.LabelTopologyZone, "app", "db")), objects: Objects{Nodes: three, Pods: []corev1.Pod{*testPod("1", labelled("app", "db"), on("c"))}}, node: "c"},
		{name: "together, with nobody", pod: testPod("p", togetherWith(corev1.LabelTopologyZone, "app", "db")), objects: Objects{Nodes: three},
			message: "0/3 nodes are available: 3 node(s) didn't match pod affinity rules. preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."},
		{name: "together, the first", pod: testPod("p", labelled("app", "db"), togetherWith(corev1.LabelTopologyZone, "app", "db")), objects: Objects{Nodes: three}, node: "a"},
		{name: "spread holds", pod: testPod("p", labelled("app", "w"), spread(corev1.LabelTopologyZone, 1, corev1.DoNotSchedule, "app", "w")), objects: Objects{Nodes: three, Pods: []corev1.Pod{*testPod("1", labelled("app", "w"), on("a"))}}, node: "c"},
		{name: "spread, other side full", pod: testPod("p", cpu("1"), labelled("app", "w"), spread(corev1.LabelTopologyZone, 1, corev1.DoNotSchedule, "app", "w")),
			objects: Objects{Nodes: three, Pods: []corev1.Pod{*testPod("1", labelled("app", "w"), on("a")), *testPod("2", cpu("4"), on("c"))}},
			message: "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't match pod topology spread constraints. preemption: 0/3 nodes are available: 3 No preemption victims found for incoming pod."},
		{name: "spread, label missing", pod: testPod("p", spread("rack", 1, corev1.DoNotSchedule, "app", "w")), objects: Objects{Nodes: three},
			message: "0/3 nodes are available: 3 node(s) didn't match pod topology spread constraints (missing required label). preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."},
		{name: "claim unknown", pod: testPod("p", claiming("data")), objects: Objects{Nodes: three},
			message: `0/3 nodes are available: persistentvolumeclaim "data" not found. preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.`},
		{name: "claim unbound", pod: testPod("p", claiming("data")), objects: Objects{Nodes: three, Claims: []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "data"}}}},
			message: "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims. preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."},
		{name: "volume elsewhere", pod: testPod("p", claiming("data")), objects: Objects{Nodes: three, Claims: []corev1.PersistentVolumeClaim{boundClaim}, Volumes: []corev1.PersistentVolume{disk}}, node: "c"},
		{name: "preempts the least important", pod: testPod("p", cpu("3"), priority(10)),
			objects: Objects{Nodes: three[:2], Pods: []corev1.Pod{*testPod("1", cpu("2"), on("a"), priority(5)), *testPod("2", cpu("1"), on("a"), priority(1)), *testPod("3", cpu("2"), on("b"), priority(4))}},
			message: "0/2 nodes are available: 2 Insufficient cpu.", victims: "b: ns/3"},
		{name: "preempts as few as possible", pod: testPod("p", cpu("2"), priority(10)),
			objects: Objects{Nodes: three[:1], Pods: []corev1.Pod{*testPod("1", cpu("1"), on("a"), priority(5)), *testPod("2", cpu("1"), on("a"), priority(1)), *testPod("3", cpu("2"), on("a"), priority(3))}},
			message: "0/1 nodes are available: 1 Insufficient cpu.", victims: "a: ns/3"},
		{name: "spares what a budget protects", pod: testPod("p", cpu("2"), priority(10)),
			objects: Objects{Nodes: three[:2], Pods: []corev1.Pod{*testPod("1", cpu("4"), on("a"), priority(1), labelled("app", "db")), *testPod("2", cpu("4"), on("b"), priority(5))},
				Budgets: []policyv1.PodDisruptionBudget{{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "db"}, Spec: policyv1.PodDisruptionBudgetSpec{Selector: selecting("app", "db"), MinAvailable: ptr.To(intstr.FromInt32(1))}}}},
			message: "0/2 nodes are available: 2 Insufficient cpu.", victims: "b: ns/2"},
		{name: "preempts for anti-affinity", pod: testPod("p", priority(10), labelled("app", "db"), apartFrom(corev1.LabelHostname, "app", "db")),
			objects: Objects{Nodes: three[:1], Pods: []corev1.Pod{*testPod("1", on("a"), labelled("app", "db")), *testPod("2", on("a"))}},
			message: "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules.", victims: "a: ns/1"},
		{name: "waits on the node it made room on", pod: testPod("p", cpu("3"), priority(10), func(p *corev1.Pod) { p.Status.NominatedNodeName = "b" }), objects: Objects{Nodes: three}, node: "b"},
		{name: "room that another made for itself", pod: testPod("p", cpu("3")), objects: Objects{Nodes: three[:1], Pods: []corev1.Pod{*testPod("1", cpu("2"), priority(10), func(p *corev1.Pod) { p.Status.NominatedNodeName = "a" })}},
			message: "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			d, reports := Explain(c.pod, &c.objects)
			if d.Node != c.node || d.Message != c.message {
				t.Errorf("got %q %q\nwant %q %q", d.Node, d.Message, c.node, c.message)
			}
			victims := ""
			if d.Preemption != nil {
				victims = d.Preemption.Node + ": " + strings.Join(d.Preemption.Victims, " ")
			}
			if victims != c.victims {
				t.Errorf("victims: got %q, want %q", victims, c.victims)
			}
			if (c.node != "") != (d.Feasible > 0) && c.node != "b" {
				t.Errorf("%d feasible nodes in %+v", d.Feasible, reports)
			}
		})
	}
}

// The fast path gives the same answers as asking everybody each time, whatever happens in between.
func TestFastPathIsExhaustive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fast, slow := newCluster(), &exhaustive{nodes: map[string]*corev1.Node{}, pods: map[string]*corev1.Pod{}, namespaces: map[string]labels.Set{}}
		name := func(kind string, n int) string {
			return fmt.Sprintf("%s%d", kind, rapid.IntRange(0, n-1).Draw(t, kind))
		}
		templates := make([]*corev1.Pod, rapid.IntRange(1, 4).Draw(t, "templates"))
		for i := range templates {
			templates[i] = randomPod(t, fmt.Sprintf("template%d", i))
		}
		serial := 0
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0, 1:
				n := randomNode(t, name("node", 6))
				slow.nodes[n.Name] = n
				fast.setNode(n)
			case 2:
				if n := name("node", 6); slow.nodes[n] != nil && rapid.IntRange(0, 2).Draw(t, "really") == 0 {
					delete(slow.nodes, n)
					fast.removeNode(n)
				}
			case 3:
				for _, key := range keysOf(slow.pods) {
					if rapid.IntRange(0, 3).Draw(t, "gone") == 0 {
						delete(slow.pods, key)
						fast.removePod(key)
					}
				}
			case 4:
				ns := name("ns", 2)
				slow.namespaces[ns] = labels.Set{"team": name("team", 2)}
				fast.namespaces[ns] = slow.namespaces[ns]
				fast.epoch++
			default:
				p := rapid.SampledFrom(templates).Draw(t, "template").DeepCopy()
				serial++
				p.Name = fmt.Sprintf("pod%d", serial)
				want, why := slow.place(p)
				digested := newPod(p)
				d := fast.decide(digested, digested.signature())
				if len(slow.nodes) == 0 {
					continue
				}
				if message, _, _ := strings.Cut(d.Message, " preemption:"); d.Node != want || message != why {
					t.Fatalf("%s: got %q %q\nwant %q %q", p.Name, d.Node, message, want, why)
				}
				if d.Node != "" {
					placed := p.DeepCopy()
					placed.Spec.NodeName = d.Node
					slow.pods[keyOf(p)] = placed
					fast.addPod(digested, d.Node)
				}
			}
		}
	})
}

func randomNode(t *rapid.T, name string) *corev1.Node {
	n := testNode(name)
	if z := rapid.IntRange(0, 3).Draw(t, "zone"); z > 0 {
		zone(fmt.Sprintf("z%d", z))(n)
	}
	n.Labels["disk"] = rapid.SampledFrom([]string{"ssd", "hdd"}).Draw(t, "disk")
	if effect := rapid.SampledFrom([]corev1.TaintEffect{"", "", "", corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule}).Draw(t, "effect"); effect != "" {
		tainted("t", effect)(n)
	}
	n.Spec.Unschedulable = rapid.IntRange(0, 9).Draw(t, "cordoned") == 0
	return n
}

func randomPod(t *rapid.T, name string) *corev1.Pod {
	p := testPod(name)
	chance := func(what string, of int) bool { return rapid.IntRange(0, of-1).Draw(t, what) == 0 }
	app := func() string { return rapid.SampledFrom([]string{"a", "b"}).Draw(t, "app") }
	key := func() string {
		return rapid.SampledFrom([]string{corev1.LabelHostname, corev1.LabelTopologyZone, "disk"}).Draw(t, "key")
	}
	p.Namespace = rapid.SampledFrom([]string{"ns0", "ns1"}).Draw(t, "namespace")
	labelled("app", app())(p)
	if chance("owner", 2) {
		owned(name)(p)
	}
	cpu(rapid.SampledFrom([]string{"0", "100m", "1", "3"}).Draw(t, "cpu"))(p)
	if chance("selector", 4) {
		p.Spec.NodeSelector = map[string]string{"disk": "ssd"}
	}
	if chance("port", 6) {
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: 80}}
	}
	if chance("tolerates", 4) {
		p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	}
	for range rapid.IntRange(0, 2).Draw(t, "constraints") {
		spread(key(), rapid.Int32Range(1, 2).Draw(t, "skew"), rapid.SampledFrom([]corev1.UnsatisfiableConstraintAction{corev1.DoNotSchedule, corev1.ScheduleAnyway}).Draw(t, "action"), "app", app())(p)
		c := &p.Spec.TopologySpreadConstraints[len(p.Spec.TopologySpreadConstraints)-1]
		if chance("minDomains", 3) && c.WhenUnsatisfiable == corev1.DoNotSchedule {
			c.MinDomains = ptr.To(int32(3))
		}
		if chance("taints", 3) {
			c.NodeTaintsPolicy = ptr.To(corev1.NodeInclusionPolicyHonor)
		}
	}
	term := func() corev1.PodAffinityTerm {
		term := corev1.PodAffinityTerm{TopologyKey: key(), LabelSelector: selecting("app", app())}
		switch rapid.IntRange(0, 3).Draw(t, "namespaces") {
		case 0:
			term.Namespaces = []string{"ns0"}
		case 1:
			term.NamespaceSelector = selecting("team", "team0")
		}
		return term
	}
	a := affinityOf(p)
	a.PodAffinity, a.PodAntiAffinity = &corev1.PodAffinity{}, &corev1.PodAntiAffinity{}
	if chance("together", 4) {
		a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution = []corev1.PodAffinityTerm{term()}
	}
	if chance("apart", 4) {
		a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution = []corev1.PodAffinityTerm{term()}
	}
	if chance("prefers", 3) {
		a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution = []corev1.WeightedPodAffinityTerm{{Weight: 50, PodAffinityTerm: term()}}
	}
	if chance("avoids", 3) {
		a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution = []corev1.WeightedPodAffinityTerm{{Weight: 100, PodAffinityTerm: term()}}
	}
	return p
}

func oneCPU() *resource.Quantity { return resource.NewQuantity(1, resource.DecimalSI) }

// A class that was looked at before a pod came whose affinity concerns it.
func TestClassNoticesNewTerms(t *testing.T) {
	for name, c := range map[string]struct {
		newcomer *corev1.Pod
		want     string
	}{
		"kept away": {testPod("new", on("a"), apartFrom(corev1.LabelTopologyZone, "app", "web")), "c"},
		"attracted": {testPod("new", on("c"), func(p *corev1.Pod) {
			affinityOf(p).PodAffinity = &corev1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{
				{Weight: 100, PodAffinityTerm: corev1.PodAffinityTerm{TopologyKey: corev1.LabelTopologyZone, LabelSelector: selecting("app", "web")}}}}
		}), "c"},
		"by host":    {testPod("new", on("a"), apartFrom(corev1.LabelHostname, "app", "web")), "b"},
		"not at all": {testPod("new", on("c"), apartFrom(corev1.LabelHostname, "app", "db")), "a"},
	} {
		cluster := newCluster()
		for _, n := range []*corev1.Node{testNode("a", zone("x")), testNode("b", zone("x")), testNode("c", zone("y"))} {
			cluster.setNode(n)
		}
		p := newPod(testPod("p", labelled("app", "web")))
		if d := cluster.decide(p, p.signature()); d.Node != "a" {
			t.Fatalf("%s: first %q", name, d.Node)
		}
		cluster.addPod(newPod(c.newcomer), c.newcomer.Spec.NodeName)
		if d := cluster.decide(p, p.signature()); d.Node != c.want {
			t.Errorf("%s: got %q, want %q", name, d.Node, c.want)
		}
	}
}
