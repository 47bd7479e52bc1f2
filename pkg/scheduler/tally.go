package scheduler

import (
	"math"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"skiff/pkg/placement"
)

// A tally counts, per domain of a topology key, pods on nodes that matter to
// one class: those that its spread constraints and affinity terms select, or that select it.
type tally struct {
	kind  tallyKind
	key   string
	weigh func(*pod) int64 // what a pod counts for

	// Spread constraints only.
	maxSkew    int64
	minDomains int
	self       int64 // what a pod of the class adds
	honours    func(*corev1.Node) bool

	domains map[string]*domain
	total   int64 // over all domains
	least   int64 // over eligible domains, valid if !leastStale
	stale   bool
}

type tallyKind int8

const (
	spreadHard  tallyKind = iota // topologySpreadConstraints that must hold
	spreadSoft                   // those that are preferred
	spreadOwner                  // pods of one owner or service, by zone: Kubernetes' default constraints
	together                     // required affinity: pods that match all terms
	apart                        // required anti-affinity of the class
	keptAway                     // required anti-affinity of others that select the class
	attraction                   // preferred affinity, of the class and of others
)

// domain is one value of a topology key.
type domain struct {
	count int64
	nodes int // eligible ones: where pods count
}

// What follows a number of nodes in the message of a pod that fits nowhere.
const (
	messageSpread      = "node(s) didn't match pod topology spread constraints"
	messageSpreadLabel = messageSpread + " (missing required label)"
	messageAffinity    = "node(s) didn't match pod affinity rules"
	messageAnti        = "node(s) didn't match pod anti-affinity rules"
	messageKeptAway    = "node(s) didn't satisfy existing pods anti-affinity rules"
)

var (
	reasonSpread      = []placement.Reason{{Message: messageSpread}}
	reasonSpreadLabel = []placement.Reason{{Message: messageSpreadLabel, Unresolvable: true}}
	reasonAffinity    = []placement.Reason{{Message: messageAffinity, Unresolvable: true}}
	reasonAnti        = []placement.Reason{{Message: messageAnti}}
	reasonKeptAway    = []placement.Reason{{Message: messageKeptAway}}
)

// hard tallies decide where a pod may be, the others where it had better be.
func (t *tally) hard() bool {
	return t.kind != spreadSoft && t.kind != spreadOwner && t.kind != attraction
}

func (t *tally) spread() bool { return t.kind <= spreadOwner }

func (t *tally) domain(value string) *domain {
	d := t.domains[value]
	if d == nil {
		d = &domain{}
		t.domains[value] = d
		t.stale = true
	}
	return d
}

func (t *tally) add(d *domain, weight int64) {
	d.count += weight
	t.total += weight
	t.stale = true
}

// minimum is the smallest count of an eligible domain, or 0 while there are fewer of them than minDomains.
func (t *tally) minimum() int64 {
	if !t.stale {
		return t.least
	}
	domains := 0
	t.least, t.stale = math.MaxInt32, false
	for _, d := range t.domains {
		if d.nodes > 0 {
			domains++
			t.least = min(t.least, d.count)
		}
	}
	if domains < t.minDomains {
		t.least = 0
	}
	return t.least
}

// tallies returns those that concern a pod in this cluster.
func (c *cluster) tallies(p *pod, similar func(*pod) bool) ([]*tally, error) {
	var all []*tally
	add := func(t *tally) *tally {
		t.domains, t.stale = map[string]*domain{}, true
		all = append(all, t)
		return t
	}
	for i := range p.Spec.TopologySpreadConstraints {
		t, err := newSpread(p, &p.Spec.TopologySpreadConstraints[i])
		if err != nil {
			return nil, err
		}
		if t.kind == spreadHard || t.key != corev1.LabelHostname { // soft ones by host are counted with the node's own score
			add(t)
		}
	}
	if len(p.Spec.TopologySpreadConstraints) == 0 && similar != nil {
		add(&tally{kind: spreadOwner, key: corev1.LabelTopologyZone, weigh: count(similar), honours: p.MatchesNode})
	}
	for i := range p.affinity {
		add(&tally{kind: together, key: p.affinity[i].key, weigh: count(func(o *pod) bool { return c.matchesAll(p.affinity, o) })})
	}
	for i := range p.anti {
		t := &p.anti[i]
		add(&tally{kind: apart, key: t.key, weigh: count(func(o *pod) bool { return t.matches(o, c.namespaces) })})
	}
	for _, key := range c.keysConcerning(p, func(o *pod) []term { return o.anti }) {
		add(&tally{kind: keptAway, key: key, weigh: func(o *pod) (n int64) {
			for i := range o.anti {
				if o.anti[i].key == key && o.anti[i].matches(p, c.namespaces) {
					n++
				}
			}
			return n
		}})
	}
	for _, key := range c.attractionKeys(p) {
		add(&tally{kind: attraction, key: key, weigh: func(o *pod) int64 { return c.attraction(p, o, key) }})
	}
	return all, nil
}

func count(matches func(*pod) bool) func(*pod) int64 {
	return func(o *pod) int64 {
		if matches(o) {
			return 1
		}
		return 0
	}
}

func (c *cluster) matchesAll(terms []term, o *pod) bool {
	for i := range terms {
		if !terms[i].matches(o, c.namespaces) {
			return false
		}
	}
	return len(terms) > 0
}

// keysConcerning returns the topology keys of terms of pods on nodes that select p.
func (c *cluster) keysConcerning(p *pod, terms func(*pod) []term) []string {
	var keys []string
	for o := range c.concerning {
		for _, t := range terms(o) {
			if t.matches(p, c.namespaces) {
				keys = append(keys, t.key)
			}
		}
	}
	return sortedSet(keys)
}

// Kubernetes lets a pod that requires to be with p attract p a little, too.
const weightOfRequired = 1

func (c *cluster) attractionKeys(p *pod) []string {
	keys := c.keysConcerning(p, func(o *pod) []term { return o.affinity })
	for i := range p.preferred {
		keys = append(keys, p.preferred[i].key)
	}
	for o := range c.concerning {
		for i := range o.preferred {
			if o.preferred[i].matches(p, c.namespaces) {
				keys = append(keys, o.preferred[i].key)
			}
		}
	}
	return sortedSet(keys)
}

// attraction is how much o, being in a domain of key, speaks for that domain for p.
func (c *cluster) attraction(p, o *pod, key string) (weight int64) {
	for i := range p.preferred {
		if t := &p.preferred[i]; t.key == key && t.matches(o, c.namespaces) {
			weight += t.weight
		}
	}
	for i := range o.preferred {
		if t := &o.preferred[i]; t.key == key && t.matches(p, c.namespaces) {
			weight += t.weight
		}
	}
	for i := range o.affinity {
		if t := &o.affinity[i]; t.key == key && t.matches(p, c.namespaces) {
			weight += weightOfRequired
		}
	}
	return weight
}

// newSpread makes the tally of a topology spread constraint (KEP-895, KEP-3022, KEP-3094, KEP-3243).
func newSpread(p *pod, from *corev1.TopologySpreadConstraint) (*tally, error) {
	selector, err := spreadSelector(p, from)
	if err != nil {
		return nil, err
	}
	t := &tally{kind: spreadHard, key: from.TopologyKey, maxSkew: int64(from.MaxSkew), minDomains: 1}
	if from.WhenUnsatisfiable == corev1.ScheduleAnyway {
		t.kind = spreadSoft
	}
	if from.MinDomains != nil {
		t.minDomains = int(*from.MinDomains)
	}
	if selector.Matches(labels.Set(p.Labels)) {
		t.self = 1
	}
	t.weigh = count(func(o *pod) bool {
		return o.Namespace == p.Namespace && o.DeletionTimestamp == nil && !selector.Empty() && selector.Matches(labels.Set(o.Labels))
	})
	affinity := from.NodeAffinityPolicy == nil || *from.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor
	taints := from.NodeTaintsPolicy != nil && *from.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor
	t.honours = func(n *corev1.Node) bool {
		if affinity && !p.MatchesNode(n) {
			return false
		}
		if taints {
			if _, found := p.Untolerated(n.Spec.Taints, corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute); found {
				return false
			}
		}
		return true
	}
	return t, nil
}

func spreadSelector(p *pod, from *corev1.TopologySpreadConstraint) (labels.Selector, error) {
	selector, err := metav1.LabelSelectorAsSelector(from.LabelSelector)
	if err != nil || len(from.MatchLabelKeys) == 0 {
		return selector, err
	}
	if requirements, selectable := selector.Requirements(); selectable {
		same := labels.Set{}
		for _, key := range from.MatchLabelKeys {
			if value, has := p.Labels[key]; has {
				same[key] = value
			}
		}
		selector = labels.SelectorFromSet(same).Add(requirements...)
	}
	return selector, nil
}
