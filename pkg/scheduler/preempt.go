package scheduler

import (
	"cmp"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"skiff/pkg/placement"
)

// candidate is a node on which deleting victims makes room.
type candidate struct {
	slot       int
	victims    []*pod // most important first
	violations int    // of disruption budgets
}

// At most so many candidates are worked out: beyond that, looking for a better one costs more than it is worth.
const maxCandidates = 100

// preempt looks for pods of lower priority whose deletion lets p in, and says
// why there are none otherwise. Nothing changes.
func (k *class) preempt(p *pod, nominated int) (*Preemption, string) {
	c := k.cluster
	if p.Spec.PreemptionPolicy != nil && *p.Spec.PreemptionPolicy == corev1.PreemptNever {
		return nil, "not eligible due to preemptionPolicy=Never."
	}
	if nominated != none && !placement.Unresolvable(k.reasons(nominated)) && c.leaving(p, nominated) {
		return nil, "not eligible due to a terminating pod on the nominated node."
	}
	var candidates []candidate
	rejected := map[string]int{}
	for slot, n := range c.nodes {
		if n == nil {
			continue
		}
		if placement.Unresolvable(k.reasons(slot)) || len(candidates) >= maxCandidates {
			rejected[messageNoUse]++
			continue
		}
		found, reasons := k.victimsOn(p, slot)
		for _, r := range reasons {
			rejected[r.Message]++
		}
		if reasons == nil {
			candidates = append(candidates, found)
		}
	}
	if len(candidates) == 0 {
		return nil, fmt.Sprintf("0/%d nodes are available: %s.", len(c.slots), histogram(rejected))
	}
	best := slices.MinFunc(candidates, func(a, b candidate) int { return k.compare(a, b) })
	result := &Preemption{Node: c.nodes[best.slot].name, victims: best.victims}
	for _, v := range best.victims {
		result.Victims = append(result.Victims, v.key)
	}
	return result, ""
}

var reasonNoVictim = []placement.Reason{{Message: messageNoVictim, Unresolvable: true}}

// victimsOn takes all pods of lower priority off a node, and puts back, the most
// important ones first and those protected by a budget before others, as many as leave room for p.
func (k *class) victimsOn(p *pod, slot int) (candidate, []placement.Reason) {
	n := k.cluster.nodes[slot]
	var lower []*pod
	for _, o := range n.pods {
		if o.priority < p.priority {
			lower = append(lower, o)
		}
	}
	if len(lower) == 0 {
		return candidate{}, reasonNoVictim
	}
	slices.SortFunc(lower, importance)
	off := func(o *pod) { n.Remove(o.Pod); k.tell(slot, o, -1) }
	on := func(o *pod) { n.Add(o.Pod); k.tell(slot, o, 1) }
	fits := func() []placement.Reason {
		if reasons := k.check(slot, n); reasons != nil {
			return reasons
		}
		return k.groupReasons(k.verdicts[slot].group)
	}
	for _, o := range lower {
		off(o)
	}
	result := candidate{slot: slot}
	if reasons := fits(); reasons != nil {
		for _, o := range lower {
			on(o)
		}
		return result, reasons
	}
	protected, free := k.cluster.byBudget(lower)
	for i, o := range slices.Concat(protected, free) {
		on(o)
		if fits() != nil {
			off(o)
			result.victims = append(result.victims, o)
			if i < len(protected) {
				result.violations++
			}
		}
	}
	for _, o := range result.victims {
		on(o)
	}
	slices.SortFunc(result.victims, importance)
	return result, nil
}

// importance orders pods: higher priority first, then the older ones.
func importance(a, b *pod) int {
	if a.priority != b.priority {
		return cmp.Compare(b.priority, a.priority)
	}
	return cmp.Or(cmp.Compare(age(a), age(b)), cmp.Compare(a.key, b.key))
}

// age orders pods by when they came.
func age(p *pod) int64 { return p.CreationTimestamp.Unix() }

// compare orders candidates, the one that hurts least first: fewest budgets violated, lowest highest
// priority, lowest sum of priorities, fewest pods, youngest most important one, name.
func (k *class) compare(a, b candidate) int {
	sum := func(c candidate) (n int64) {
		for _, v := range c.victims {
			n += int64(v.priority) + 1<<31 // so that many of low priority count more than few
		}
		return n
	}
	return cmp.Or(
		cmp.Compare(a.violations, b.violations),
		cmp.Compare(a.victims[0].priority, b.victims[0].priority),
		cmp.Compare(sum(a), sum(b)),
		cmp.Compare(len(a.victims), len(b.victims)),
		cmp.Compare(age(b.victims[0]), age(a.victims[0])),
		cmp.Compare(k.cluster.nodes[a.slot].name, k.cluster.nodes[b.slot].name))
}

// byBudget divides pods into those whose deletion would violate a disruption budget and the others, in order.
func (c *cluster) byBudget(pods []*pod) (protected, free []*pod) {
	type budget struct {
		*policyv1.PodDisruptionBudget
		selector labels.Selector
		allowed  int32
	}
	var budgets []*budget
	for _, key := range keysOf(c.budgets) {
		b := c.budgets[key]
		if selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector); err == nil && !selector.Empty() {
			budgets = append(budgets, &budget{b, selector, b.Status.DisruptionsAllowed})
		}
	}
	for _, p := range pods {
		violates := false
		for _, b := range budgets {
			if b.Namespace != p.Namespace || len(p.Labels) == 0 || !b.selector.Matches(labels.Set(p.Labels)) {
				continue
			}
			if _, counted := b.Status.DisruptedPods[p.Name]; counted {
				continue
			}
			b.allowed--
			violates = violates || b.allowed < 0
		}
		if violates {
			protected = append(protected, p)
		} else {
			free = append(free, p)
		}
	}
	return protected, free
}

// leavingForPreemption reports whether a pod is terminating because a scheduler preempted it.
func leavingForPreemption(p *pod) bool {
	return p.DeletionTimestamp != nil && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue && c.Reason == corev1.PodReasonPreemptionByScheduler
	})
}
