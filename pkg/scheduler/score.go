package scheduler

import (
	"math"

	corev1 "k8s.io/api/core/v1"
)

// Score is how well a node suits a pod, by cause, in thousandths of a point;
// the node with the largest sum wins. Each part has the range of Kubernetes' plugin of the same
// name times its weight, but is measured absolutely instead of against the other nodes, so that
// placing a pod on one node doesn't change the score of another. The ranges below are in points.
type Score struct {
	LeastAllocated    int64 // 0..100: the share of CPU and memory that stays free
	BalancedResources int64 // 50..100: whether the pod evens out the use of CPU and memory
	Taints            int64 // 300 without PreferNoSchedule taints that the pod doesn't tolerate, less with each
	NodeAffinity      int64 // 0..200: preferred node affinity
	Spread            int64 // ≤ 0: pods of the same kind nearby
	PodAffinity       int64 // -200..200: preferred affinity between pods
	Pods              int64 // a thousandth off for each pod on the node, so that equals take turns
}

const point = 1000

func (s Score) total() int64 {
	return s.LeastAllocated + s.BalancedResources + s.Taints + s.NodeAffinity + s.Spread + s.PodAffinity + s.Pods
}

// What a pod of the same owner, service or spread constraint costs on the node,
// in the zone, and in the domain of an explicit constraint.
const (
	costHost       = 60 * point
	costZone       = 12 * point
	costDomain     = 60 * point
	costNoDomain   = 200 * point // the node lacks the label of an explicit constraint
	maxAttraction  = 200 * point
	halfAttraction = 100 // weights that sum up to this give half of it
)

// score is what can be told of the node alone.
func (k *class) score(n *node) Score {
	p := k.pod
	var s Score
	has, used := n.Allocatable(), n.Requested()
	cpu, memory := n.Scored()
	s.LeastAllocated = (free(cpu+p.ScoredCPU, has.MilliCPU) + free(memory+p.ScoredMemory, has.Memory)) / 2
	if p.Requests.MilliCPU > 0 || p.Requests.Memory > 0 {
		with := balance(used.MilliCPU+p.Requests.MilliCPU, has.MilliCPU, used.Memory+p.Requests.Memory, has.Memory)
		without := balance(used.MilliCPU, has.MilliCPU, used.Memory, has.Memory)
		s.BalancedResources = 50*point + (50*point+with-without)/2
	}
	s.Taints = 300 * point
	intolerable := int64(0)
	object := n.Object()
	for i := range object.Spec.Taints {
		if t := &object.Spec.Taints[i]; t.Effect == corev1.TaintEffectPreferNoSchedule && !p.Tolerates(t) {
			intolerable++
		}
	}
	if intolerable > 0 {
		s.Taints = 60 * point / intolerable
	}
	if p.nodes != nil {
		s.NodeAffinity = 200 * point * p.nodes.Score(object) / max(1, preferredSum(p))
	}
	s.Pods = -int64(len(n.Pods()))
	for _, matches := range k.byHost {
		for _, o := range n.pods {
			if matches(o) {
				s.Spread -= costHost
			}
		}
	}
	return s
}

func preferredSum(p *pod) (sum int64) {
	for _, t := range p.Spec.Affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution {
		sum += int64(t.Weight)
	}
	return sum
}

// free is the share of capacity that is left: 100 points are all of it.
func free(used, capacity int64) int64 {
	if capacity <= 0 || used > capacity {
		return 0
	}
	return int64(float64(capacity-used) / float64(capacity) * 100 * point)
}

// balance is 100 points when CPU and memory are used to the same share, and 50 when one is full and the other is free.
func balance(cpu, cpuCapacity, memory, memoryCapacity int64) int64 {
	if cpuCapacity <= 0 || memoryCapacity <= 0 {
		return 100 * point
	}
	a := min(1, float64(cpu)/float64(cpuCapacity))
	b := min(1, float64(memory)/float64(memoryCapacity))
	return int64((1 - math.Abs(a-b)/2) * 100 * point)
}

// groupParts is what pods elsewhere contribute.
func (k *class) groupParts(g *group) Score {
	var s Score
	attracted := int64(0)
	for i, t := range k.tallies {
		d := g.domains[i]
		switch {
		case t.kind == spreadOwner && d != nil:
			s.Spread -= costZone * d.count
		case t.kind == spreadSoft && d != nil:
			s.Spread -= costDomain * d.count
		case t.kind == spreadSoft:
			s.Spread -= costNoDomain
		case t.kind == attraction && d != nil:
			attracted += d.count
		}
	}
	if attracted != 0 {
		x := math.Abs(float64(attracted)) / halfAttraction
		s.PodAffinity = int64(math.Copysign(maxAttraction*(1-math.Exp2(-x)), float64(attracted)))
	}
	return s
}
