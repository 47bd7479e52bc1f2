package scheduler

import (
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"skiff/pkg/placement"
)

// class is what pods of one template have in common: the answer to "where?".
// It keeps, for each node, whether the pods fit and how well, in tournament
// trees, so that after one pod was placed only that node is looked at again.
//
// What can be told of a node alone is in its verdict. What depends on pods
// elsewhere (spread, affinity between pods) is the same for all nodes that have the same values of
// the topology keys concerned: those form a group, and each group has a tree.
type class struct {
	key     string
	cluster *cluster
	pod     *pod // any one of the class
	used    int

	built     bool
	position  int // in the cluster's log
	epoch     int
	volumesAt int    // the cluster's volumeEpoch
	broken    string // why no pod of the class can be placed anywhere; "" if it can

	similar  func(*pod) bool     // pods of the same owner or service; nil if there is neither
	byHost   []func(*pod) bool   // soft spread constraints by host name
	volumes  []volumeRequirement // what the pod's volumes demand of a node
	pins     []string            // the only nodes considered; nil: all
	tallies  []*tally
	verdicts []verdict // by slot
	groups   []*group
	byValues map[string]*group

	// The last failure, and the position at which it was found.
	failure  *Decision
	failedAt int
}

type verdict struct {
	group *group // nil: the slot is free, or not one of the pins
	leaf  int32
	// counts tells, by the tally's number, on which spread constraints the node's pods count.
	counts  uint64
	reasons []placement.Reason // nil: fits
	score   int64
	name    string // of the node that was judged; the slot may have another by now
}

// group is the nodes that have equal values of all keys of the class' tallies.
type group struct {
	domains []*domain // by tally; nil: the nodes don't have the label
	tree    tree
}

const worst = math.MinInt64

// classOf returns the class of a pod, up to date.
func (c *cluster) classOf(p *pod, key string) *class {
	k := c.classes[key]
	if k == nil {
		k = &class{key: key, cluster: c, pod: p}
		c.classes[key] = k
		c.shed()
	}
	c.use++
	k.used = c.use
	k.follow()
	return k
}

// keepBuilt is how many classes keep their verdicts. More of them are more
// memory: some 80 bytes a node each.
const keepBuilt = 64

// shed forgets classes that were not used for long.
func (c *cluster) shed() {
	if len(c.classes) <= 2*keepBuilt {
		return
	}
	var used []int
	for _, k := range c.classes {
		used = append(used, k.used)
	}
	slices.Sort(used)
	limit := used[len(used)-keepBuilt]
	for key, k := range c.classes {
		if k.used < limit && k.used > 0 {
			k.built, k.verdicts, k.groups, k.byValues, k.tallies = false, nil, nil, nil, nil
			delete(c.classes, key)
		}
	}
}

// follow brings the class up to the cluster's present.
func (k *class) follow() {
	c := k.cluster
	behind := c.now() - k.position
	if !k.built || k.epoch != c.epoch || k.position < c.position || behind > len(c.nodes)+64 ||
		len(k.pod.claims) > 0 && k.volumesAt != c.volumeEpoch {
		k.build()
		return
	}
	if behind == 0 {
		return
	}
	if k.broken != "" {
		k.position = c.now()
		return
	}
	for _, ch := range c.log[k.position-c.position:] {
		if !k.apply(ch) {
			k.build()
			return
		}
	}
	k.position = c.now()
}

// apply takes in one change, and reports false when the class has to start anew.
func (k *class) apply(ch change) bool {
	slot := int(ch.slot)
	switch ch.kind {
	case nodeChanged:
		if k.pins != nil || len(k.tallies) > 0 && !k.unmoved(slot) {
			return false
		}
		k.enter(slot)
		return true
	case podAdded, podRemoved:
		if ch.kind == podAdded && ch.pod.concernsOthers() && !k.hasKeys(ch.pod) {
			return false
		}
		if slot < len(k.verdicts) && k.verdicts[slot].group != nil {
			sign := int64(1)
			if ch.kind == podRemoved {
				sign = -1
			}
			k.tell(slot, ch.pod, sign)
		}
	}
	k.judge(slot)
	return true
}

// hasKeys reports whether the tallies cover all that a pod may do to the class.
func (k *class) hasKeys(o *pod) bool {
	has := func(kind tallyKind, key string) bool {
		return slices.ContainsFunc(k.tallies, func(t *tally) bool { return t.kind == kind && t.key == key })
	}
	namespaces := k.cluster.namespaces
	for i := range o.anti {
		if o.anti[i].matches(k.pod, namespaces) && !has(keptAway, o.anti[i].key) {
			return false
		}
	}
	for i := range o.affinity {
		if o.affinity[i].matches(k.pod, namespaces) && !has(attraction, o.affinity[i].key) {
			return false
		}
	}
	for i := range o.preferred {
		if o.preferred[i].matches(k.pod, namespaces) && !has(attraction, o.preferred[i].key) {
			return false
		}
	}
	return true
}

// tell counts a pod on a node in, or out.
func (k *class) tell(slot int, o *pod, sign int64) {
	v := &k.verdicts[slot]
	for i, t := range k.tallies {
		d := v.group.domains[i]
		if d == nil || t.spread() && !v.has(i) {
			continue
		}
		if weight := t.weigh(o); weight != 0 {
			t.add(d, sign*weight)
		}
	}
}

// has reports whether the node counts for spread constraint i. There is room
// for 64 of them; nodes always count for those beyond.
func (v *verdict) has(i int) bool { return i >= 64 || v.counts&(1<<i) != 0 }

// build looks at everything.
func (k *class) build() {
	c := k.cluster
	k.failure = nil
	k.built, k.position, k.epoch, k.volumesAt, k.broken = true, c.now(), c.epoch, c.volumeEpoch, ""
	k.groups, k.byValues, k.byHost, k.tallies = nil, map[string]*group{}, nil, nil
	k.verdicts = make([]verdict, len(c.nodes))
	k.similar = c.similarTo(k.pod)
	if pins, ok := k.pod.pinned(); ok {
		k.pins = pins
	}
	if k.pod.bad != nil {
		k.broken = k.pod.bad.Error()
		return
	}
	if k.volumes, k.broken = c.volumeRequirements(k.pod); k.broken != "" {
		return
	}
	var err error
	if k.tallies, err = c.tallies(k.pod, k.similar); err == nil {
		k.byHost, err = softByHost(k.pod, k.similar)
	}
	if err != nil {
		k.broken = err.Error()
		return
	}
	for slot := range c.nodes {
		k.enter(slot)
	}
	if len(k.tallies) > 0 {
		for slot, n := range c.nodes {
			if n != nil && k.verdicts[slot].group != nil {
				for _, o := range n.pods {
					k.tell(slot, o, 1)
				}
			}
		}
	}
}

// similarTo returns what tells pods of the same controller, or else of the
// same services, from others; nil when the pod has neither.
func (c *cluster) similarTo(p *pod) func(*pod) bool {
	if p.owner != "" {
		return func(o *pod) bool { return o.owner == p.owner && o.DeletionTimestamp == nil }
	}
	selectors := c.serviceSelectors(p)
	if len(selectors) == 0 {
		return nil
	}
	return func(o *pod) bool {
		return o.Namespace == p.Namespace && o.DeletionTimestamp == nil &&
			!slices.ContainsFunc(selectors, func(s labels.Selector) bool { return !s.Matches(labels.Set(o.Labels)) })
	}
}

func softByHost(p *pod, similar func(*pod) bool) ([]func(*pod) bool, error) {
	constraints := p.Spec.TopologySpreadConstraints
	if len(constraints) == 0 && similar != nil {
		return []func(*pod) bool{similar}, nil
	}
	var all []func(*pod) bool
	for i := range constraints {
		if constraints[i].WhenUnsatisfiable == corev1.ScheduleAnyway && constraints[i].TopologyKey == corev1.LabelHostname {
			t, err := newSpread(p, &constraints[i])
			if err != nil {
				return nil, err
			}
			all = append(all, func(o *pod) bool { return t.weigh(o) != 0 })
		}
	}
	return all, nil
}

// enter gives a slot its group, or takes it away when the slot is free, and judges it.
func (k *class) enter(slot int) {
	for slot >= len(k.verdicts) {
		k.verdicts = append(k.verdicts, verdict{})
	}
	n := k.cluster.nodes[slot]
	v := &k.verdicts[slot]
	if n != nil && v.group == nil && (k.pins == nil || slices.Contains(k.pins, n.name)) {
		v.score, v.reasons = worst, nil
		v.group = k.groupOf(n, v)
		v.leaf = v.group.tree.add(int32(slot))
	}
	k.judge(slot)
}

// unmoved reports whether the node in the slot still is in its group, and its pods count where they did.
func (k *class) unmoved(slot int) bool {
	n := k.cluster.nodes[slot]
	if n == nil || slot >= len(k.verdicts) || k.verdicts[slot].group == nil {
		return false
	}
	v := &k.verdicts[slot]
	return k.byValues[k.values(n)] == v.group && k.countsOn(n, v.group) == v.counts
}

// values are those of the node's labels for the tallies' keys.
func (k *class) values(n *node) string {
	if len(k.tallies) == 0 {
		return ""
	}
	labels := n.Object().Labels
	var values strings.Builder
	for _, t := range k.tallies {
		if value, has := labels[t.key]; has {
			values.WriteString("=" + value)
		}
		values.WriteByte(0)
	}
	return values.String()
}

func (k *class) groupOf(n *node, v *verdict) *group {
	values := k.values(n)
	g := k.byValues[values]
	if g == nil {
		g = &group{tree: tree{better: k.better}}
		for _, t := range k.tallies {
			var d *domain
			if value, has := n.Object().Labels[t.key]; has {
				d = t.domain(value)
			}
			g.domains = append(g.domains, d)
		}
		k.byValues[values] = g
		k.groups = append(k.groups, g)
	}
	v.counts = k.countsOn(n, g)
	for i, t := range k.tallies {
		if t.spread() && g.domains[i] != nil && v.has(i) {
			g.domains[i].nodes++
			t.stale = true
		}
	}
	return g
}

// countsOn tells on which spread constraints pods on the node count.
func (k *class) countsOn(n *node, g *group) (counts uint64) {
	for i, t := range k.tallies {
		if i < 64 && t.spread() && k.eligible(t, g) && t.honours(n.Object()) {
			counts |= 1 << i
		}
	}
	return counts
}

// eligible: pods count for a constraint only on nodes that have the labels of
// all constraints of its kind.
func (k *class) eligible(t *tally, g *group) bool {
	for i, o := range k.tallies {
		if o.kind == t.kind && g.domains[i] == nil {
			return false
		}
	}
	return true
}

// judge decides anew what can be told of a node alone.
func (k *class) judge(slot int) {
	if slot >= len(k.verdicts) || k.verdicts[slot].group == nil {
		return
	}
	v, n := &k.verdicts[slot], k.cluster.nodes[slot]
	v.reasons, v.score = nil, worst
	if n != nil {
		v.name = n.name
		v.reasons = k.check(slot, n)
		if v.reasons == nil {
			v.score = k.score(n).total()
		}
	}
	v.group.tree.update(v.leaf)
}

// check says why a pod of the class can't be on the node, as far as that can be told of the node alone.
func (k *class) check(slot int, n *node) []placement.Reason {
	if reserved := k.cluster.reserved[slot]; len(reserved) > 0 {
		for _, o := range reserved {
			if o.priority >= k.pod.priority {
				n.Add(o.Pod)
				defer n.Remove(o.Pod)
			}
		}
	}
	if reasons := n.Check(k.pod.Pod, placement.Scheduling); reasons != nil {
		return reasons
	}
	return k.checkVolumes(n.Object())
}

func (k *class) better(a, b int32) bool {
	x, y := &k.verdicts[a], &k.verdicts[b]
	if x.score != y.score {
		return x.score > y.score
	}
	return x.name < y.name
}

// pick returns the best slot, none if the pods fit nowhere.
func (k *class) pick() int {
	best, bestScore := int32(none), int64(worst)
	for _, g := range k.groups {
		s := g.tree.best()
		if s == none || k.verdicts[s].score == worst || k.groupReasons(g) != nil {
			continue
		}
		shared := k.groupParts(g)
		total := shared.total() + k.verdicts[s].score
		if total > bestScore || total == bestScore && k.cluster.nodes[s].name < k.cluster.nodes[best].name {
			best, bestScore = s, total
		}
	}
	return int(best)
}

// groupReasons says why no node of the group will do, whatever the nodes are
// like; nil when one will.
func (k *class) groupReasons(g *group) []placement.Reason {
	for i, t := range k.tallies {
		if t.kind != spreadHard {
			continue
		}
		d := g.domains[i]
		if d == nil {
			return reasonSpreadLabel
		}
		if d.count+t.self-t.minimum() > t.maxSkew {
			return reasonSpread
		}
	}
	if reasons := k.affinityReasons(g); reasons != nil {
		return reasons
	}
	for i, t := range k.tallies {
		if d := g.domains[i]; d != nil && d.count > 0 {
			switch t.kind {
			case apart:
				return reasonAnti
			case keptAway:
				return reasonKeptAway
			}
		}
	}
	return nil
}

// affinityReasons checks required affinity. The first pod of those that want to be together
// with each other may be anywhere.
func (k *class) affinityReasons(g *group) []placement.Reason {
	missing, anywhere := false, false
	for i, t := range k.tallies {
		if t.kind != together {
			continue
		}
		if g.domains[i] == nil {
			return reasonAffinity
		}
		missing = missing || g.domains[i].count <= 0
		anywhere = anywhere || t.total > 0
	}
	if missing && (anywhere || !k.cluster.matchesAll(k.pod.affinity, k.pod)) {
		return reasonAffinity
	}
	return nil
}
