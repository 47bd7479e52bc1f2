package api

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
)

// Catalogue is the set of rows a server serves. Readers never wait: each change builds
// a new index and swaps it in, so a [View] stays what it was.
type Catalogue struct {
	mu   sync.Mutex // one writer at a time
	view atomic.Pointer[View]
}

// View is the catalogue at one moment: immutable, and so are the slices it returns.
type View struct {
	kinds      []*Kind
	groups     []Group
	versions   map[schema.GroupVersion][]*Kind
	byResource map[schema.GroupVersionResource]*Kind
	byKind     map[schema.GroupVersionKind]*Kind
}

// Group is an API group with its versions, the preferred one first.
type Group struct {
	Name     string // "" is the core group
	Versions []string
}

// NewCatalogue makes a catalogue of rows; it fails like [Catalogue.Change].
func NewCatalogue(kinds ...*Kind) (*Catalogue, error) {
	c := &Catalogue{}
	c.view.Store(newView(nil))
	if err := c.Change(nil, kinds...); err != nil {
		return nil, err
	}
	return c, nil
}

// View returns the rows as they are now. May be called concurrently with anything.
func (c *Catalogue) View() *View { return c.view.Load() }

// Add adds rows at run time, all or none.
func (c *Catalogue) Add(kinds ...*Kind) error { return c.Change(nil, kinds...) }

// Change removes and adds rows in one step, so that no reader sees the time between.
// Removing what isn't there is no error; adding a resource or a kind twice is, and changes nothing.
func (c *Catalogue) Change(remove []schema.GroupVersionResource, add ...*Kind) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var kinds []*Kind
	for _, k := range c.view.Load().kinds {
		if !slices.Contains(remove, k.GroupVersionResource()) {
			kinds = append(kinds, k)
		}
	}
	kinds = append(kinds, add...)
	if err := checkUnique(kinds); err != nil {
		return fmt.Errorf("changing the catalogue of kinds: %w", err)
	}
	c.view.Store(newView(kinds))
	return nil
}

func checkUnique(kinds []*Kind) error {
	resources := map[schema.GroupVersionResource]bool{}
	names := map[schema.GroupVersionKind]bool{}
	for _, k := range kinds {
		if resources[k.GroupVersionResource()] {
			return fmt.Errorf("resource %s is served already", k.GroupVersionResource())
		}
		if names[k.GroupVersionKind] {
			return fmt.Errorf("kind %s is served already", k.GroupVersionKind)
		}
		resources[k.GroupVersionResource()], names[k.GroupVersionKind] = true, true
	}
	return nil
}

func newView(kinds []*Kind) *View {
	v := &View{
		kinds:      kinds,
		versions:   map[schema.GroupVersion][]*Kind{},
		byResource: map[schema.GroupVersionResource]*Kind{},
		byKind:     map[schema.GroupVersionKind]*Kind{},
	}
	slices.SortStableFunc(v.kinds, compareKinds)
	for _, k := range v.kinds {
		gv := k.GroupVersion()
		if n := len(v.groups); n == 0 || v.groups[n-1].Name != k.Group {
			v.groups = append(v.groups, Group{Name: k.Group})
		}
		if len(v.versions[gv]) == 0 {
			last := &v.groups[len(v.groups)-1]
			last.Versions = append(last.Versions, k.Version)
		}
		v.versions[gv] = append(v.versions[gv], k)
		v.byResource[k.GroupVersionResource()] = k
		v.byKind[k.GroupVersionKind] = k
	}
	return v
}

// compareKinds orders by group, then version (stable and newer first), then resource.
func compareKinds(a, b *Kind) int {
	return cmp.Or(
		cmp.Compare(min(len(a.Group), 1), min(len(b.Group), 1)), // the core group is the first
		-cmp.Compare(groupPriority(a.Group), groupPriority(b.Group)),
		cmp.Compare(a.Group, b.Group),
		-version.CompareKubeAwareVersionStrings(a.Version, b.Version),
		cmp.Compare(a.Resource, b.Resource),
	)
}

// Kinds returns all rows, ordered by group, version and resource.
func (v *View) Kinds() []*Kind { return v.kinds }

// Groups returns the groups in Kubernetes' order.
func (v *View) Groups() []Group { return v.groups }

// In returns the rows of one version of a group, by resource.
func (v *View) In(gv schema.GroupVersion) []*Kind { return v.versions[gv] }

// ByResource returns the row that serves a resource, or nil.
func (v *View) ByResource(gvr schema.GroupVersionResource) *Kind { return v.byResource[gvr] }

// ByKind returns the row of a kind, or nil.
func (v *View) ByKind(gvk schema.GroupVersionKind) *Kind { return v.byKind[gvk] }

// Stored returns the row whose Go type etcd holds for k: k itself but for the resources
// that are served in two versions. It is nil when that row isn't there.
func (v *View) Stored(k *Kind) *Kind {
	if k.Custom != nil {
		// A request may still hold a row that was replaced meanwhile.
		if now := v.byResource[k.GroupVersionResource()]; now != nil && now.Custom != nil {
			k = now
		}
		if k.Custom.Stored == nil {
			return k // a stored row
		}
		return k.Custom.Stored
	}
	if k.Stored.Empty() {
		return k
	}
	return v.byKind[k.Stored]
}
