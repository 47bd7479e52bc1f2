package scheduler

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/labels"

	"skiff/pkg/placement"
)

// cluster is what decisions are made from: nodes, the pods on them, and what
// else a pod's place depends on. A node keeps its slot, a small number, as long as it exists.
//
// Classes follow the cluster by reading a log of what changed since they looked last.
type cluster struct {
	nodes  []*node // by slot; nil is free
	slots  map[string]int
	pods   map[string]*pod            // on a node, also on one that isn't known (yet), by key
	absent map[string]map[string]*pod // of those, the ones on unknown nodes, by the node's name
	// concerning holds the pods on nodes whose affinity may matter to others.
	concerning map[*pod]bool
	// reserved are pods that preempted others and wait for their node, by slot.
	reserved map[int][]*pod

	namespaces map[string]labels.Set
	services   map[string]map[string]labels.Selector // by namespace, name
	claims     map[string]*corev1.PersistentVolumeClaim
	claimUsers map[string]map[*pod]bool // pods on nodes, by namespace/name of the claim
	volumes    map[string]*corev1.PersistentVolume
	storage    map[string]*storagev1.StorageClass
	budgets    map[string]*policyv1.PodDisruptionBudget

	log         []change
	position    int // number of changes before log[0]
	epoch       int // grows when each class is to start anew
	volumeEpoch int // grows when classes with volumes are

	classes map[string]*class
	use     int // counts uses of classes
}

// node is a node of the cluster. It adds to placement.Node the digested form of the pods.
type node struct {
	*placement.Node
	name string
	pods []*pod
}

type changeKind int8

const (
	podAdded changeKind = iota
	podRemoved
	nodeChanged
	reservedChanged
)

type change struct {
	kind changeKind
	slot int32
	pod  *pod
}

func newCluster() *cluster {
	return &cluster{slots: map[string]int{}, pods: map[string]*pod{}, absent: map[string]map[string]*pod{}, concerning: map[*pod]bool{}, reserved: map[int][]*pod{},
		namespaces: map[string]labels.Set{}, services: map[string]map[string]labels.Selector{},
		claims: map[string]*corev1.PersistentVolumeClaim{}, claimUsers: map[string]map[*pod]bool{},
		volumes: map[string]*corev1.PersistentVolume{}, storage: map[string]*storagev1.StorageClass{},
		budgets: map[string]*policyv1.PodDisruptionBudget{}, classes: map[string]*class{}}
}

// note appends to the log, and forgets what is so old that starting anew is cheaper than following.
func (c *cluster) note(kind changeKind, slot int, p *pod) {
	if limit := 2*len(c.nodes) + 1024; len(c.log) >= 2*limit {
		c.position += len(c.log) - limit
		c.log = slices.Clone(c.log[len(c.log)-limit:])
	}
	c.log = append(c.log, change{kind, int32(slot), p})
}

// now is the position after the latest change.
func (c *cluster) now() int { return c.position + len(c.log) }

// setNode adds or replaces a node and returns its slot.
func (c *cluster) setNode(object *corev1.Node) int {
	slot, known := c.slots[object.Name]
	if known {
		c.nodes[slot].Set(object)
		c.note(nodeChanged, slot, nil)
		return slot
	}
	slot = slices.Index(c.nodes, nil)
	if slot < 0 {
		slot = len(c.nodes)
		c.nodes = append(c.nodes, nil)
	}
	c.nodes[slot] = &node{Node: placement.NewNode(object), name: object.Name}
	c.slots[object.Name] = slot
	c.note(nodeChanged, slot, nil)
	for _, p := range c.absent[object.Name] {
		c.place(p, slot)
	}
	delete(c.absent, object.Name)
	return slot
}

// removeNode takes a node away. Its pods stay known until they are deleted.
func (c *cluster) removeNode(name string) {
	slot, known := c.slots[name]
	if !known {
		return
	}
	for _, p := range slices.Clone(c.nodes[slot].pods) {
		c.displace(p)
		c.hold(name, p)
	}
	delete(c.reserved, slot)
	delete(c.slots, name)
	c.nodes[slot] = nil
	c.note(nodeChanged, slot, nil)
}

func (c *cluster) hold(nodeName string, p *pod) {
	if c.absent[nodeName] == nil {
		c.absent[nodeName] = map[string]*pod{}
	}
	c.absent[nodeName][p.key] = p
}

// addPod puts a pod on the node that it names, in place of what was known of the pod before.
func (c *cluster) addPod(p *pod, nodeName string) {
	c.removePod(p.key)
	c.pods[p.key] = p
	for _, claim := range p.claims {
		key := p.Namespace + "/" + claim
		if c.claimUsers[key] == nil {
			c.claimUsers[key] = map[*pod]bool{}
		}
		c.claimUsers[key][p] = true
		c.volumeEpoch++
	}
	if slot, known := c.slots[nodeName]; known {
		c.place(p, slot)
	} else {
		c.hold(nodeName, p)
	}
}

// removePod forgets a pod that is on a node, and returns it; nil if there is none.
func (c *cluster) removePod(key string) *pod {
	p := c.pods[key]
	if p == nil {
		return nil
	}
	delete(c.pods, key)
	for _, claim := range p.claims {
		delete(c.claimUsers[p.Namespace+"/"+claim], p)
		c.volumeEpoch++
	}
	if p.slot != none {
		c.displace(p)
		return p
	}
	for _, held := range c.absent {
		if held[key] == p {
			delete(held, key)
		}
	}
	return p
}

func (c *cluster) place(p *pod, slot int) {
	n := c.nodes[slot]
	n.Add(p.Pod)
	n.pods = append(n.pods, p)
	p.slot = slot
	if p.concernsOthers() {
		c.concerning[p] = true
	}
	c.note(podAdded, slot, p)
}

func (c *cluster) displace(p *pod) {
	n := c.nodes[p.slot]
	n.Remove(p.Pod)
	i := slices.Index(n.pods, p)
	last := len(n.pods) - 1
	n.pods[i], n.pods[last] = n.pods[last], nil
	n.pods = n.pods[:last]
	delete(c.concerning, p)
	c.note(podRemoved, p.slot, p)
	p.slot = none
}

// reserve keeps room for a pod on a node, against pods of no higher priority.
func (c *cluster) reserve(p *pod, nodeName string) {
	c.unreserve(p.key)
	if slot, known := c.slots[nodeName]; known {
		c.reserved[slot] = append(c.reserved[slot], p)
		c.note(reservedChanged, slot, nil)
	}
}

// reservedFor returns the slot on which there is room kept for a pod; none if nowhere.
func (c *cluster) reservedFor(key string) int {
	for slot, pods := range c.reserved {
		if slices.ContainsFunc(pods, func(p *pod) bool { return p.key == key }) {
			return slot
		}
	}
	return none
}

// unreserve gives that up, and returns the slot on which it was; none if nowhere.
func (c *cluster) unreserve(key string) int {
	slot := c.reservedFor(key)
	if slot == none {
		return none
	}
	c.reserved[slot] = slices.DeleteFunc(c.reserved[slot], func(p *pod) bool { return p.key == key })
	if len(c.reserved[slot]) == 0 {
		delete(c.reserved, slot)
	}
	c.note(reservedChanged, slot, nil)
	return slot
}

// serviceSelectors returns the selectors of the services that select the pod.
func (c *cluster) serviceSelectors(p *pod) []labels.Selector {
	var selectors []labels.Selector
	for _, name := range slices.Sorted(maps.Keys(c.services[p.Namespace])) {
		if selector := c.services[p.Namespace][name]; selector.Matches(labels.Set(p.Labels)) {
			selectors = append(selectors, selector)
		}
	}
	return selectors
}

// setService, with a nil selector, removes.
func (c *cluster) setService(namespace, name string, selector labels.Set) {
	if len(selector) == 0 {
		if _, known := c.services[namespace][name]; known {
			delete(c.services[namespace], name)
			c.epoch++
		}
		return
	}
	if c.services[namespace] == nil {
		c.services[namespace] = map[string]labels.Selector{}
	}
	s := labels.SelectorFromSet(selector)
	if old := c.services[namespace][name]; old == nil || old.String() != s.String() {
		c.services[namespace][name] = s
		c.epoch++
	}
}
