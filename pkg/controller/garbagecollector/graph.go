package garbagecollector

import (
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// object is what the graph knows of one object of the cluster.
type object struct {
	resource  schema.GroupVersionResource
	kind      schema.GroupVersionKind
	namespace string
	name      string
	uid       types.UID
	owners    []metav1.OwnerReference
	deleting  bool
	// waits: being deleted in the foreground, until the dependents that block it are gone.
	waits bool
	// orphans: being deleted, but its dependents shall be let go of first.
	orphans bool
}

func objectOf(resource schema.GroupVersionResource, kind schema.GroupVersionKind, m *metav1.PartialObjectMetadata) *object {
	deleting := m.DeletionTimestamp != nil
	return &object{
		resource: resource, kind: kind, namespace: m.Namespace, name: m.Name, uid: m.UID,
		owners:   slices.Clone(m.OwnerReferences),
		deleting: deleting,
		waits:    deleting && slices.Contains(m.Finalizers, metav1.FinalizerDeleteDependents),
		orphans:  deleting && slices.Contains(m.Finalizers, metav1.FinalizerOrphanDependents),
	}
}

// refers says whether a reference in an object of the given namespace can mean o.
// Versions don't count: the same object is seen in any of them.
func (o *object) refers(ref metav1.OwnerReference, namespace string) bool {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	return err == nil && gv.Group == o.kind.Group && ref.Kind == o.kind.Kind && ref.Name == o.name && ref.UID == o.uid &&
		(o.namespace == "" || o.namespace == namespace)
}

// claims says whether o has a reference to an owner of a kind, in whatever version.
func (o *object) claims(kind schema.GroupKind, owner types.UID) bool {
	return slices.ContainsFunc(o.owners, func(ref metav1.OwnerReference) bool {
		return ref.UID == owner && schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind).GroupKind() == kind
	})
}

func (o *object) blocks(owner types.UID) bool {
	return slices.ContainsFunc(o.owners, func(ref metav1.OwnerReference) bool {
		return ref.UID == owner && ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion
	})
}

// work is what a change of the graph makes necessary to look at.
type work struct {
	check  []types.UID // whether it should be deleted, or let go
	orphan []types.UID // whose dependents must be let go of
}

func (w *work) add(other work) {
	w.check = append(w.check, other.check...)
	w.orphan = append(w.orphan, other.orphan...)
}

// graph is the owner references of all objects. Its methods may be called concurrently.
// The objects in it are never changed, only replaced.
type graph struct {
	mu         sync.RWMutex
	objects    map[types.UID]*object
	dependents map[types.UID]map[types.UID]bool // of owners whether known or not
	byResource map[schema.GroupVersionResource]map[types.UID]bool
}

func newGraph() *graph {
	return &graph{
		objects:    map[types.UID]*object{},
		dependents: map[types.UID]map[types.UID]bool{},
		byResource: map[schema.GroupVersionResource]map[types.UID]bool{},
	}
}

// put takes in an object's newest state.
func (g *graph) put(o *object) work {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.putLocked(o)
}

func (g *graph) putLocked(o *object) work {
	var w work
	old := g.objects[o.uid]
	if old != nil {
		g.unlink(old)
	}
	g.objects[o.uid] = o
	g.link(o)
	if old == nil || !slices.EqualFunc(old.owners, o.owners, sameReference) {
		if !g.solid(o) {
			w.check = append(w.check, o.uid)
		}
	}
	if old != nil {
		w.check = append(w.check, g.unblocked(old, o)...)
	}
	if o.waits && (old == nil || !old.waits) {
		w.check = append(w.check, o.uid)
		w.check = append(w.check, g.dependentsLocked(o.uid)...)
	}
	if o.orphans && (old == nil || !old.orphans) {
		w.orphan = append(w.orphan, o.uid)
	}
	return w
}

// remove takes out an object that is gone.
func (g *graph) remove(uid types.UID) work {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.removeLocked(uid)
}

func (g *graph) removeLocked(uid types.UID) work {
	old := g.objects[uid]
	if old == nil {
		return work{}
	}
	g.unlink(old)
	delete(g.objects, uid)
	return work{check: append(g.dependentsLocked(uid), g.unblocked(old, nil)...)}
}

// replace takes in all objects of a resource at once, and takes out those that are no longer among them.
// Owners of the kind that aren't among them and never were may have come and gone between two
// watches, or before the first. Nobody will tell of them: their dependents are looked at now.
func (g *graph) replace(resource schema.GroupVersionResource, kind schema.GroupKind, all []*object) work {
	g.mu.Lock()
	defer g.mu.Unlock()
	var w work
	gone := map[types.UID]bool{}
	for uid := range g.byResource[resource] {
		gone[uid] = true
	}
	for _, o := range all {
		delete(gone, o.uid)
		w.add(g.putLocked(o))
	}
	for uid := range gone {
		w.add(g.removeLocked(uid))
	}
	for owner, dependents := range g.dependents {
		if g.objects[owner] != nil {
			continue
		}
		for uid := range dependents {
			if g.objects[uid].claims(kind, owner) {
				w.check = append(w.check, uid)
			}
		}
	}
	return w
}

// forget takes out a resource that is no longer watched. Nothing is concluded about
// what depends on its objects: they may exist still.
func (g *graph) forget(resource schema.GroupVersionResource) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for uid := range g.byResource[resource] {
		g.unlink(g.objects[uid])
		delete(g.objects, uid)
	}
	delete(g.byResource, resource)
}

func (g *graph) link(o *object) {
	for _, ref := range o.owners {
		if g.dependents[ref.UID] == nil {
			g.dependents[ref.UID] = map[types.UID]bool{}
		}
		g.dependents[ref.UID][o.uid] = true
	}
	if g.byResource[o.resource] == nil {
		g.byResource[o.resource] = map[types.UID]bool{}
	}
	g.byResource[o.resource][o.uid] = true
}

func (g *graph) unlink(o *object) {
	for _, ref := range o.owners {
		delete(g.dependents[ref.UID], o.uid)
		if len(g.dependents[ref.UID]) == 0 {
			delete(g.dependents, ref.UID)
		}
	}
	delete(g.byResource[o.resource], o.uid)
}

// unblocked are waiting owners that old blocked and current (nil: it is gone) doesn't.
func (g *graph) unblocked(old, current *object) []types.UID {
	var owners []types.UID
	for _, ref := range old.owners {
		if owner := g.objects[ref.UID]; owner != nil && owner.waits && old.blocks(ref.UID) && (current == nil || !current.blocks(ref.UID)) {
			owners = append(owners, ref.UID)
		}
	}
	return owners
}

// solid says that all owners of an object are known, are what it means, and don't wait for it to go.
func (g *graph) solid(o *object) bool {
	for _, ref := range o.owners {
		if g.solidOwner(o, ref) == nil {
			return false
		}
	}
	return true
}

func (g *graph) solidOwner(o *object, ref metav1.OwnerReference) *object {
	owner := g.objects[ref.UID]
	if owner == nil || owner.waits || !owner.refers(ref, o.namespace) {
		return nil
	}
	return owner
}

func (g *graph) dependentsLocked(uid types.UID) []types.UID {
	var all []types.UID
	for dependent := range g.dependents[uid] {
		all = append(all, dependent)
	}
	return all
}

// view is what the graph says about one object at one time.
type view struct {
	*object
	settled    bool // nothing to do by the graph alone
	solid      map[types.UID]bool
	elsewhere  map[types.UID]bool // owners that exist, but not where the object's references can reach
	dependents []*object
}

// look returns nil for an object that isn't in the graph.
func (g *graph) look(uid types.UID) *view {
	g.mu.RLock()
	defer g.mu.RUnlock()
	o := g.objects[uid]
	if o == nil {
		return nil
	}
	v := &view{object: o, solid: map[types.UID]bool{}, elsewhere: map[types.UID]bool{}}
	v.settled = g.solid(o) && !o.waits
	for _, ref := range o.owners {
		if g.solidOwner(o, ref) != nil {
			v.solid[ref.UID] = true
		} else if owner := g.objects[ref.UID]; owner != nil && !owner.refers(ref, o.namespace) {
			v.elsewhere[ref.UID] = true
		}
	}
	for dependent := range g.dependents[uid] {
		v.dependents = append(v.dependents, g.objects[dependent])
	}
	return v
}

// blocking are the dependents that keep a waiting object from going.
func (v *view) blocking() []*object {
	var all []*object
	for _, dependent := range v.dependents {
		if dependent.blocks(v.uid) {
			all = append(all, dependent)
		}
	}
	return all
}

func sameReference(a, b metav1.OwnerReference) bool {
	return a.UID == b.UID && a.APIVersion == b.APIVersion && a.Kind == b.Kind && a.Name == b.Name
}
