package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"skiff/pkg/placement"
)

// Decision is where a pod goes, and why.
type Decision struct {
	Pod string // namespace/name
	// Node is the pod's place; "" if there is none.
	Node string
	// Nodes is how many were considered, Feasible how many would do.
	Nodes, Feasible int
	// Score of the chosen node.
	Score Score
	// Message says why the pod has no place, in Kubernetes' words.
	Message string
	// Rejected counts nodes by reason. A node has one reason, or several if it lacks several resources.
	Rejected map[string]int
	// Preemption is set when pods could make room.
	Preemption *Preemption
}

// Preemption is a way to make room: delete Victims ("namespace/name") from Node.
type Preemption struct {
	Node    string
	Victims []string

	victims []*pod
}

func sortedSet(all []string) []string {
	slices.Sort(all)
	return slices.Compact(all)
}

const (
	messageNoNodes  = "no nodes available to schedule pods"
	messageNoUse    = "Preemption is not helpful for scheduling"
	messageNoVictim = "No preemption victims found for incoming pod"
	messagePinned   = "node(s) didn't satisfy plugin(s) [NodeAffinity]"
)

// decide finds the place of a pod that has none. key is its signature.
func (c *cluster) decide(p *pod, key string) Decision {
	d := Decision{Pod: p.key, Nodes: len(c.slots)}
	if d.Nodes == 0 {
		d.Message = messageNoNodes
		return d
	}
	nominated := c.unreserve(p.key) // what it reserved doesn't count against itself
	k := c.classOf(p, key)
	slot := none
	if nominated != none && k.broken == "" && k.reasons(nominated) == nil {
		slot = nominated
	} else if k.broken == "" {
		slot = k.pick()
	}
	if slot != none {
		d.Node = c.nodes[slot].name
		d.Score = k.score(c.nodes[slot])
		shared := k.groupParts(k.verdicts[slot].group)
		d.Score.Spread += shared.Spread
		d.Score.PodAffinity += shared.PodAffinity
		return d
	}
	if nominated == none && k.failure != nil && k.failedAt == c.now() {
		d = *k.failure // nothing happened since the last pod of the class failed
		d.Pod = p.key
		return d
	}
	k.explain(p, nominated, &d)
	if nominated != none && d.Preemption == nil && c.leaving(p, nominated) {
		c.reserve(p, c.nodes[nominated].name)
	}
	if d.Preemption == nil {
		remembered := d
		k.failure, k.failedAt = &remembered, c.now()
	}
	return d
}

// leaving reports whether pods that p preempted on a node are still on their way out.
func (c *cluster) leaving(p *pod, slot int) bool {
	return slices.ContainsFunc(c.nodes[slot].pods, func(o *pod) bool { return o.priority < p.priority && leavingForPreemption(o) })
}

// explain says why pods of the class fit nowhere, and what preemption could do for p.
func (k *class) explain(p *pod, nominated int, d *Decision) {
	total := d.Nodes
	if k.broken != "" {
		d.Rejected = map[string]int{k.broken: total}
		d.Message = fmt.Sprintf("0/%d nodes are available: %s. preemption: 0/%d nodes are available: %d %s.", total, k.broken, total, total, messageNoUse)
		return
	}
	d.Rejected = map[string]int{}
	for slot, n := range k.cluster.nodes {
		if n == nil {
			continue
		}
		for _, r := range k.reasons(slot) {
			d.Rejected[r.Message]++
		}
	}
	d.Message = fmt.Sprintf("0/%d nodes are available: %s.", total, histogram(d.Rejected))
	var why string
	if d.Preemption, why = k.preempt(p, nominated); why != "" {
		d.Message += " preemption: " + why
	}
}

// reasons says why the node in a slot won't do; nil if it will.
func (k *class) reasons(slot int) []placement.Reason {
	v := &k.verdicts[slot]
	switch {
	case v.group == nil:
		return reasonPinned
	case v.reasons != nil:
		return v.reasons
	}
	return k.groupReasons(v.group)
}

var reasonPinned = []placement.Reason{{Message: messagePinned, Unresolvable: true}}

// histogram is "1 Insufficient cpu, 2 node(s) were unschedulable", sorted as Kubernetes sorts it: as text.
func histogram(counts map[string]int) string {
	var parts []string
	for reason, n := range counts {
		parts = append(parts, fmt.Sprintf("%d %s", n, reason))
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

func keysOf[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
