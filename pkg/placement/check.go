package placement

import (
	"cmp"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Predicate is a set of checks.
type Predicate uint

// The single checks, in the order in which they are made.
const (
	Unschedulable Predicate = 1 << iota
	NodeName
	Taints          // NoSchedule and NoExecute
	NoExecuteTaints // NoExecute alone
	NodeAffinity    // node selector and required node affinity
	HostPorts
	Fit // resources, and the number of pods
)

// What each asker checks.
const (
	// Scheduling is for a pod that has no node yet.
	Scheduling = Unschedulable | NodeName | Taints | NodeAffinity | HostPorts | Fit
	// Admission is for an agent that was given the pod.
	Admission = NodeName | NoExecuteTaints | NodeAffinity | HostPorts | Fit
	// Daemon is for a daemon set that wants a pod on each node it fits, full or not.
	Daemon = NodeName | Taints | NodeAffinity
)

// Reason says why a pod doesn't fit a node.
type Reason struct {
	Predicate Predicate
	// Message is Kubernetes' text, made to follow a number of nodes.
	Message string
	// Unresolvable: removing pods from the node would not help.
	Unresolvable bool
	// For Fit: what there is too little of, and how much. Requested, used and capacity
	// are in the resource's unit (milli for CPU).
	Resource                  corev1.ResourceName
	Requested, Used, Capacity int64
}

// The messages that say it all; those of resources are "Insufficient <resource>".
const (
	MessageUnschedulable = "node(s) were unschedulable"
	MessageNodeName      = "node(s) didn't match the requested node name"
	MessageTaints        = "node(s) had untolerated taint(s)"
	MessageNoExecute     = "node(s) had taints that the pod didn't tolerate" // the kubelet's text
	MessageNodeAffinity  = "node(s) didn't match Pod's node affinity/selector"
	MessageHostPorts     = "node(s) didn't have free ports for the requested pod ports"
	MessageTooManyPods   = "Too many pods"
)

var (
	unschedulable   = []Reason{{Predicate: Unschedulable, Message: MessageUnschedulable, Unresolvable: true}}
	otherNode       = []Reason{{Predicate: NodeName, Message: MessageNodeName, Unresolvable: true}}
	tainted         = []Reason{{Predicate: Taints, Message: MessageTaints, Unresolvable: true}}
	evicting        = []Reason{{Predicate: NoExecuteTaints, Message: MessageNoExecute, Unresolvable: true}}
	noAffinity      = []Reason{{Predicate: NodeAffinity, Message: MessageNodeAffinity, Unresolvable: true}}
	portTaken       = []Reason{{Predicate: HostPorts, Message: MessageHostPorts}}
	unschedulableAs = corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}
)

// Check returns why the pod may not be placed on the node, judged by a set of
// predicates; nil means that it fits. The returned slice must not be changed.
func (n *Node) Check(pod *Pod, which Predicate) []Reason {
	node := n.node
	switch {
	case which&Unschedulable != 0 && node.Spec.Unschedulable && !pod.Tolerates(&unschedulableAs):
		return unschedulable
	case which&NodeName != 0 && pod.Spec.NodeName != "" && pod.Spec.NodeName != node.Name:
		return otherNode
	}
	if len(node.Spec.Taints) > 0 {
		if which&Taints != 0 {
			if _, found := pod.Untolerated(node.Spec.Taints, corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute); found {
				return tainted
			}
		}
		if which&NoExecuteTaints != 0 {
			if _, found := pod.Untolerated(node.Spec.Taints, corev1.TaintEffectNoExecute); found {
				return evicting
			}
		}
	}
	if which&NodeAffinity != 0 && !pod.MatchesNode(node) {
		return noAffinity
	}
	if which&HostPorts != 0 && n.portConflict(pod) {
		return portTaken
	}
	if which&Fit != 0 {
		return n.fit(pod)
	}
	return nil
}

func (n *Node) portConflict(pod *Pod) bool {
	for _, wanted := range pod.ports {
		if slices.ContainsFunc(n.ports, wanted.conflicts) {
			return true
		}
	}
	return false
}

func (n *Node) fit(pod *Pod) []Reason {
	var reasons []Reason
	if used := int64(len(n.pods)); used+1 > n.podLimit {
		reasons = append(reasons, Reason{Predicate: Fit, Message: MessageTooManyPods, Resource: corev1.ResourcePods,
			Requested: 1, Used: used, Capacity: n.podLimit})
	}
	short := func(name corev1.ResourceName, message string, requested, used, capacity int64) {
		if requested > 0 && requested > capacity-used {
			if message == "" {
				message = fmt.Sprintf("Insufficient %v", name)
			}
			reasons = append(reasons, Reason{Predicate: Fit, Message: message, Unresolvable: requested > capacity,
				Resource: name, Requested: requested, Used: used, Capacity: capacity})
		}
	}
	needs, used, has := &pod.Requests, &n.requested, &n.allocatable
	short(corev1.ResourceCPU, "Insufficient cpu", needs.MilliCPU, used.MilliCPU, has.MilliCPU)
	short(corev1.ResourceMemory, "Insufficient memory", needs.Memory, used.Memory, has.Memory)
	short(corev1.ResourceEphemeralStorage, "Insufficient ephemeral-storage", needs.EphemeralStorage, used.EphemeralStorage, has.EphemeralStorage)
	if len(needs.Scalar) > 0 {
		first := len(reasons)
		for name, quantity := range needs.Scalar {
			short(name, "", quantity, used.Scalar[name], has.Scalar[name])
		}
		slices.SortFunc(reasons[first:], func(a, b Reason) int { return cmp.Compare(a.Resource, b.Resource) })
	}
	return reasons
}

// Check is the one-shot form: does pod fit node beside others, by the predicates in which?
func Check(pod *corev1.Pod, node *corev1.Node, others []*corev1.Pod, which Predicate) []Reason {
	n := NewNode(node)
	for _, other := range others {
		n.Add(Prepare(other))
	}
	return n.Check(Prepare(pod), which)
}

// Unresolvable reports whether taking pods off the node can't help.
func Unresolvable(reasons []Reason) bool {
	return slices.ContainsFunc(reasons, func(r Reason) bool { return r.Unresolvable })
}
