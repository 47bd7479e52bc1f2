package podgc

import (
	"cmp"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"

	"skiff/pkg/controller/workload"
)

// Quarantine is how long a node has to be missing before its pods are given up:
// a node may be deleted and registered anew.
const Quarantine = 40 * time.Second

// Snapshot is what a plan is made from.
type Snapshot struct {
	Pods  []*v1.Pod
	Nodes map[string]*v1.Node
	// Missing says since when nodes that pods name haven't existed.
	Missing map[string]time.Time
	// Threshold is how many ended pods may stay; 0: any number.
	Threshold int
	Now       time.Time
}

// Step is the forced deletion of one pod.
type Step struct {
	Pod    *v1.Pod
	Reason string
	// Orphaned: its node is gone, which has to be verified, and is written into its conditions.
	Orphaned bool
}

// Decide finds the pods that nobody else will remove.
func Decide(s Snapshot) []Step {
	var steps []Step
	var ended []*v1.Pod
	for _, pod := range s.Pods {
		node := s.Nodes[pod.Spec.NodeName]
		since, missing := s.Missing[pod.Spec.NodeName]
		switch {
		case pod.Spec.NodeName != "" && node == nil:
			if missing && s.Now.Sub(since) >= Quarantine {
				steps = append(steps, Step{Pod: pod, Reason: "its node no longer exists", Orphaned: true})
			}
		case pod.Spec.NodeName == "" && pod.DeletionTimestamp != nil:
			steps = append(steps, Step{Pod: pod, Reason: "it was deleted before it had a node"})
		case pod.DeletionTimestamp != nil && outOfService(node):
			steps = append(steps, Step{Pod: pod, Reason: "it is terminating on a node that is out of service"})
		case workload.Ended(pod):
			ended = append(ended, pod)
		}
	}
	if surplus := len(ended) - s.Threshold; s.Threshold > 0 && surplus > 0 {
		slices.SortFunc(ended, func(a, b *v1.Pod) int {
			return cmp.Or(cmp.Compare(evicted(a), evicted(b)),
				a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
		})
		for _, pod := range ended[:surplus] {
			steps = append(steps, Step{Pod: pod, Reason: "more pods have ended than are kept"})
		}
	}
	return steps
}

// evicted sorts pods that a kubelet evicted first: of the ended ones they tell least.
func evicted(pod *v1.Pod) int {
	if pod.Status.Phase == v1.PodFailed && pod.Status.Reason == "Evicted" {
		return 0
	}
	return 1
}

// outOfService: somebody has declared that the node is down for good, and it isn't ready.
func outOfService(node *v1.Node) bool {
	for _, c := range node.Status.Conditions {
		if c.Type == v1.NodeReady && c.Status == v1.ConditionTrue {
			return false
		}
	}
	return slices.ContainsFunc(node.Spec.Taints, func(t v1.Taint) bool { return t.Key == v1.TaintNodeOutOfService })
}
