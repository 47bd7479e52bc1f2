package scheduler

import (
	"fmt"
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"skiff/pkg/placement"
)

// exhaustive is the scheduler as one would first write it: it asks every node
// and every pod, each time. It shares the per-node parts with the real one, and
// nothing of classes, groups, tallies, trees and logs.
type exhaustive struct {
	nodes      map[string]*corev1.Node
	pods       map[string]*corev1.Pod // with a node
	namespaces map[string]labels.Set
}

// place returns the best node, or why there is none.
func (e *exhaustive) place(p *corev1.Pod) (string, string) {
	best, bestScore := "", int64(math.MinInt64)
	rejected := map[string]int{}
	for _, name := range keysOf(e.nodes) {
		n := e.nodes[name]
		if reasons := e.reject(p, n); len(reasons) > 0 {
			for _, r := range reasons {
				rejected[r]++
			}
			continue
		}
		if score := e.score(p, n); score > bestScore {
			best, bestScore = name, score
		}
	}
	if best != "" {
		return best, ""
	}
	return "", fmt.Sprintf("0/%d nodes are available: %s.", len(e.nodes), histogram(rejected))
}

func (e *exhaustive) on(node string) (all []*corev1.Pod) {
	for _, key := range keysOf(e.pods) {
		if e.pods[key].Spec.NodeName == node {
			all = append(all, e.pods[key])
		}
	}
	return all
}

func (e *exhaustive) reject(p *corev1.Pod, n *corev1.Node) (reasons []string) {
	for _, r := range placement.Check(p, n, e.on(n.Name), placement.Scheduling) {
		reasons = append(reasons, r.Message)
	}
	if reasons != nil {
		return reasons
	}
	for _, check := range []func(*corev1.Pod, *corev1.Node) string{e.rejectSpread, e.rejectAffinity} {
		if reason := check(p, n); reason != "" {
			return []string{reason}
		}
	}
	return nil
}

func (e *exhaustive) constraints(p *corev1.Pod, action corev1.UnsatisfiableConstraintAction) (all []corev1.TopologySpreadConstraint) {
	for _, c := range p.Spec.TopologySpreadConstraints {
		if c.WhenUnsatisfiable == action {
			all = append(all, c)
		}
	}
	return all
}

// domains counts, per value of the constraint's key, the pods that count.
func (e *exhaustive) domains(p *corev1.Pod, c corev1.TopologySpreadConstraint, all []corev1.TopologySpreadConstraint) map[string]int64 {
	selector, _ := metav1.LabelSelectorAsSelector(c.LabelSelector)
	counts := map[string]int64{}
	for _, n := range e.nodes {
		eligible := placement.Prepare(p).MatchesNode(n)
		if c.NodeTaintsPolicy != nil && *c.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor {
			_, found := placement.Prepare(p).Untolerated(n.Spec.Taints, corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute)
			eligible = eligible && !found
		}
		for _, other := range all {
			if _, has := n.Labels[other.TopologyKey]; !has {
				eligible = false
			}
		}
		if !eligible {
			continue
		}
		counts[n.Labels[c.TopologyKey]] += 0
		for _, o := range e.on(n.Name) {
			if o.Namespace == p.Namespace && o.DeletionTimestamp == nil && selector.Matches(labels.Set(o.Labels)) {
				counts[n.Labels[c.TopologyKey]]++
			}
		}
	}
	return counts
}

func (e *exhaustive) rejectSpread(p *corev1.Pod, n *corev1.Node) string {
	hard := e.constraints(p, corev1.DoNotSchedule)
	for _, c := range hard {
		value, has := n.Labels[c.TopologyKey]
		if !has {
			return messageSpreadLabel
		}
		counts := e.domains(p, c, hard)
		least := int64(math.MaxInt32)
		for _, count := range counts {
			least = min(least, count)
		}
		if c.MinDomains != nil && len(counts) < int(*c.MinDomains) || len(counts) < 1 {
			least = 0
		}
		self := int64(0)
		if selector, _ := metav1.LabelSelectorAsSelector(c.LabelSelector); selector.Matches(labels.Set(p.Labels)) {
			self = 1
		}
		if counts[value]+self-least > int64(c.MaxSkew) {
			return messageSpread
		}
	}
	return ""
}

func (e *exhaustive) selects(t *corev1.PodAffinityTerm, of, p *corev1.Pod) bool {
	parsed, _ := newTerm(of.Namespace, t)
	return parsed.matches(&pod{Pod: &placement.Pod{Pod: p}}, e.namespaces)
}

func required(p *corev1.Pod) (affinity, anti []corev1.PodAffinityTerm) {
	if a := p.Spec.Affinity; a != nil {
		if a.PodAffinity != nil {
			affinity = a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution
		}
		if a.PodAntiAffinity != nil {
			anti = a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution
		}
	}
	return affinity, anti
}

// sameDomain reports whether two nodes have the same value of a key.
func sameDomain(a, b *corev1.Node, key string) bool {
	x, hasX := a.Labels[key]
	y, hasY := b.Labels[key]
	return hasX && hasY && x == y
}

func (e *exhaustive) rejectAffinity(p *corev1.Pod, n *corev1.Node) string {
	affinity, anti := required(p)
	all := func(o *corev1.Pod) bool {
		return !slices.ContainsFunc(affinity, func(t corev1.PodAffinityTerm) bool { return !e.selects(&t, p, o) })
	}
	satisfied, anywhere := true, false
	for _, t := range affinity {
		if _, has := n.Labels[t.TopologyKey]; !has {
			return messageAffinity
		}
		here := false
		for _, o := range e.pods {
			node := e.nodes[o.Spec.NodeName]
			if node == nil || !all(o) {
				continue
			}
			_, has := node.Labels[t.TopologyKey]
			anywhere = anywhere || has
			here = here || sameDomain(node, n, t.TopologyKey)
		}
		satisfied = satisfied && here
	}
	if !satisfied && (anywhere || !all(p)) {
		return messageAffinity
	}
	for _, t := range anti {
		for _, o := range e.pods {
			if node := e.nodes[o.Spec.NodeName]; node != nil && e.selects(&t, p, o) && sameDomain(node, n, t.TopologyKey) {
				return messageAnti
			}
		}
	}
	for _, o := range e.pods {
		_, theirs := required(o)
		for _, t := range theirs {
			if node := e.nodes[o.Spec.NodeName]; node != nil && e.selects(&t, o, p) && sameDomain(node, n, t.TopologyKey) {
				return messageKeptAway
			}
		}
	}
	return ""
}

func (e *exhaustive) score(p *corev1.Pod, n *corev1.Node) int64 {
	alone := &node{Node: placement.NewNode(n), name: n.Name}
	for _, o := range e.on(n.Name) {
		alone.Add(placement.Prepare(o))
	}
	k := &class{pod: newPod(p)}
	total := k.score(alone).total()

	owner := metav1.GetControllerOf(p)
	sameOwner := func(o *corev1.Pod) bool {
		theirs := metav1.GetControllerOf(o)
		return owner != nil && theirs != nil && theirs.UID == owner.UID && o.DeletionTimestamp == nil
	}
	soft := e.constraints(p, corev1.ScheduleAnyway)
	if len(p.Spec.TopologySpreadConstraints) == 0 {
		for _, o := range e.pods {
			node := e.nodes[o.Spec.NodeName]
			if node == nil || !sameOwner(o) {
				continue
			}
			if node.Name == n.Name {
				total -= costHost
			}
			if sameDomain(node, n, corev1.LabelTopologyZone) && placement.Prepare(p).MatchesNode(node) {
				total -= costZone
			}
		}
	}
	var grouped []corev1.TopologySpreadConstraint
	for _, c := range soft {
		if c.TopologyKey != corev1.LabelHostname {
			grouped = append(grouped, c)
		}
	}
	for _, c := range soft {
		selector, _ := metav1.LabelSelectorAsSelector(c.LabelSelector)
		if c.TopologyKey == corev1.LabelHostname {
			for _, o := range e.on(n.Name) {
				if o.Namespace == p.Namespace && o.DeletionTimestamp == nil && selector.Matches(labels.Set(o.Labels)) {
					total -= costHost
				}
			}
			continue
		}
		if value, has := n.Labels[c.TopologyKey]; has {
			total -= costDomain * e.domains(p, c, grouped)[value]
		} else {
			total -= costNoDomain
		}
	}
	return total + e.attraction(p, n)
}

func (e *exhaustive) attraction(p *corev1.Pod, n *corev1.Node) int64 {
	sum := int64(0)
	preferred := func(of, other *corev1.Pod, node *corev1.Node) {
		a := of.Spec.Affinity
		if a == nil {
			return
		}
		add := func(terms []corev1.WeightedPodAffinityTerm, sign int64) {
			for _, t := range terms {
				if e.selects(&t.PodAffinityTerm, of, other) && sameDomain(node, n, t.PodAffinityTerm.TopologyKey) {
					sum += sign * int64(t.Weight)
				}
			}
		}
		if a.PodAffinity != nil {
			add(a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution, 1)
		}
		if a.PodAntiAffinity != nil {
			add(a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution, -1)
		}
	}
	for _, o := range e.pods {
		node := e.nodes[o.Spec.NodeName]
		if node == nil {
			continue
		}
		preferred(p, o, node)
		preferred(o, p, node)
		theirs, _ := required(o)
		for _, t := range theirs {
			if e.selects(&t, o, p) && sameDomain(node, n, t.TopologyKey) {
				sum += weightOfRequired
			}
		}
	}
	if sum == 0 {
		return 0
	}
	return int64(math.Copysign(maxAttraction*(1-math.Exp2(-math.Abs(float64(sum))/halfAttraction)), float64(sum)))
}
