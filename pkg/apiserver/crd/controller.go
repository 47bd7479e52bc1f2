package crd

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	crdv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	clientv3 "go.etcd.io/etcd/client/v3"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/hookclient"
	"skiff/pkg/apiserver/lookup"
	"skiff/pkg/component"
	"skiff/pkg/store"
)

// Resource is where the definitions are.
var Resource = schema.GroupResource{Group: crdv1.GroupName, Resource: "customresourcedefinitions"}

// Config is what a Controller works with.
type Config struct {
	Catalogue *api.Catalogue
	Store     store.Interface
	// Services finds the conversion webhooks that are services.
	Services hookclient.Resolver
	// Track records in next's managedFields what was changed from live.
	Track func(live, next api.Object) api.Object
	// Delete deletes an object as a request would, past admission; what is gone already is no error.
	Delete func(ctx context.Context, kind *api.Kind, key store.Key) error
	// Dropped is told of rows that left the catalogue.
	Dropped func([]*api.Kind)
	Logger  *slog.Logger
}

// Controller keeps the catalogue's rows of custom resources, and their definitions' status.
type Controller struct {
	cfg  Config
	kind *api.Kind // of definitions

	mu        sync.Mutex // held while the catalogue changes
	installed map[string]*installed

	changed chan struct{} // something to settle; holds one
	settled map[string]int64
	ending  map[types.UID]bool // being finalized; mu is held
	endings sync.WaitGroup
}

// installed is a definition as the catalogue has it.
type installed struct {
	uid         types.UID
	revision    int64
	terminating bool
	definition  *definition // nil: it is not served
	rows        []*api.Kind
}

// New makes a controller. Nothing happens before [Controller.Run].
func New(cfg Config) *Controller {
	return &Controller{
		cfg: cfg, kind: cfg.Catalogue.View().ByResource(Resource.WithVersion("v1")),
		installed: map[string]*installed{}, changed: make(chan struct{}, 1), settled: map[string]int64{}, ending: map[types.UID]bool{},
	}
}

// Run follows the definitions until ctx ends. synced is called when all that there were are served.
func (c *Controller) Run(ctx context.Context, synced func()) error {
	if c.kind == nil { // a catalogue without definitions
		synced()
		<-ctx.Done()
		return ctx.Err()
	}
	rows := lookup.NewStore(c.cfg.Store, func(schema.GroupResource) *api.Kind { return c.kind })
	var group component.Group
	group.Add("follow custom resource definitions", func(ctx context.Context) error {
		return rows.Follow(ctx, Resource, synced, c.follow)
	})
	group.Add("settle custom resource definitions", c.settleAll)
	return group.Run(ctx)
}

func (c *Controller) follow(changes []lookup.Change) {
	for _, change := range changes {
		crd := change.Object.(*crdv1.CustomResourceDefinition)
		if change.Deleted {
			c.uninstall(crd.Name, crd.UID)
		} else {
			c.install(crd)
		}
	}
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// Refresh looks whether a resource that isn't in the catalogue has been defined, perhaps at another
// apiserver a moment ago, and serves it then.
func (c *Controller) Refresh(ctx context.Context, resource schema.GroupResource) {
	if c.kind == nil || resource.Group == "" {
		return
	}
	entry, err := c.cfg.Store.Get(ctx, c.kind, store.Key{Path: c.kind.StoragePath, Name: resource.String()}, 0)
	if err != nil {
		return
	}
	if obj, err := entry.Shared(); err == nil {
		c.install(obj.(*crdv1.CustomResourceDefinition))
	}
}

// install brings the catalogue to a definition, unless it has that or a newer one.
func (c *Controller) install(crd *crdv1.CustomResourceDefinition) {
	c.mu.Lock()
	defer c.mu.Unlock()
	revision, _ := strconv.ParseInt(crd.ResourceVersion, 10, 64)
	old := c.installed[crd.Name]
	if old == nil {
		old = &installed{}
	}
	if old.uid == crd.UID && revision <= old.revision {
		return
	}
	next := &installed{uid: crd.UID, revision: revision, terminating: apihelpers.IsCRDConditionTrue(crd, crdv1.Terminating)}
	switch {
	case !served(crd):
	case old.uid == crd.UID && old.definition != nil && old.definition.same(crd):
		next.definition, next.rows = old.definition, old.rows
		if next.terminating != old.terminating {
			next.rows = next.definition.rows(next.terminating)
		}
	default:
		var err error
		if next.definition, err = newDefinition(crd, c.cfg.Services); err != nil {
			c.cfg.Logger.Error("a custom resource definition can't be served", "name", crd.Name, "error", err)
			return
		}
		next.rows = next.definition.rows(next.terminating)
	}
	c.replace(crd.Name, old, next)
}

// uninstall takes a definition out, if it is the one meant.
func (c *Controller) uninstall(name string, uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.installed[name]; old != nil && old.uid == uid && c.replace(name, old, &installed{}) {
		delete(c.installed, name)
	}
}

// replace changes the rows of one definition. The watches of objects that are to be read in another way end.
func (c *Controller) replace(name string, old, next *installed) bool {
	if slices.Equal(old.rows, next.rows) {
		c.installed[name] = next
		return true
	}
	var gone []schema.GroupVersionResource
	for _, row := range old.rows {
		gone = append(gone, row.GroupVersionResource())
	}
	if err := c.cfg.Catalogue.Change(gone, next.rows...); err != nil {
		c.cfg.Logger.Error("a custom resource definition can't be served", "name", name, "error", err)
		return false
	}
	c.installed[name] = next
	if old.definition != next.definition {
		for _, d := range []*definition{old.definition, next.definition} {
			if d != nil {
				c.cfg.Store.Forget(d.stored.StoragePath)
			}
		}
	}
	c.cfg.Dropped(old.rows)
	return true
}

// settleAll keeps the definitions' conditions as they should be.
func (c *Controller) settleAll(ctx context.Context) error {
	defer c.endings.Wait()
	again := time.NewTimer(time.Hour)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.changed:
		case <-again.C:
		}
		if err := c.settleOnce(ctx); err != nil && ctx.Err() == nil {
			c.cfg.Logger.Warn("settling custom resource definitions; trying again", "error", err)
			again.Reset(time.Second)
		}
	}
}

// settleOnce looks at all definitions, over again after each write: what one gets another may be missing.
func (c *Controller) settleOnce(ctx context.Context) error {
	for {
		page, err := c.cfg.Store.List(ctx, c.kind, store.Query{})
		if err != nil {
			return err
		}
		groups, all, err := byGroup(page.Entries)
		if err != nil {
			return err
		}
		maps.DeleteFunc(c.settled, func(name string, _ int64) bool { return all[name] == nil })
		wrote := false
		for _, entry := range page.Entries {
			crd := all[entry.Key.Name]
			if crd.DeletionTimestamp != nil {
				c.finalizeSoon(ctx, crd)
			}
			if c.settled[crd.Name] == entry.Revision {
				continue
			}
			next := settle(crd, groups[crd.Spec.Group], c.serves(crd))
			if next == nil {
				if apihelpers.IsCRDConditionTrue(crd, crdv1.NamesAccepted) && apihelpers.IsCRDConditionTrue(crd, crdv1.Established) {
					c.settled[crd.Name] = entry.Revision // others can't change that
				}
				continue
			}
			if err := c.write(ctx, crd, next, page.Revision); err != nil {
				return err
			}
			wrote = true
			break
		}
		if !wrote {
			return nil
		}
	}
}

// serves says that this server has the rows of a definition.
func (c *Controller) serves(crd *crdv1.CustomResourceDefinition) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.installed[crd.Name]
	return now != nil && now.uid == crd.UID && now.definition != nil
}

func byGroup(entries []*store.Entry) (map[string][]*crdv1.CustomResourceDefinition, map[string]*crdv1.CustomResourceDefinition, error) {
	groups, all := map[string][]*crdv1.CustomResourceDefinition{}, map[string]*crdv1.CustomResourceDefinition{}
	for _, entry := range entries {
		obj, err := entry.Shared()
		if err != nil {
			return nil, nil, err
		}
		crd := obj.(*crdv1.CustomResourceDefinition)
		all[crd.Name] = crd
		groups[crd.Spec.Group] = append(groups[crd.Spec.Group], crd)
	}
	return groups, all, nil
}

// write stores next in the place of crd. Nothing may have been written to any definition since the
// revision at which all were looked at: names are given to one only, whichever apiserver gives them. Somebody
// else's write is no error, but a reason to look again.
func (c *Controller) write(ctx context.Context, crd, next *crdv1.CustomResourceDefinition, seen int64) error {
	unchanged := func(api.Object, api.Object) (store.Effect, error) {
		return store.Effect{
			Compare: []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision("/registry/"+c.kind.StoragePath+"/").WithPrefix(), "<", seen+1)},
			Failed: func(*clientv3.TxnResponse) error {
				return apierrors.NewConflict(Resource, crd.Name, fmt.Errorf("another definition was changed after revision %d", seen))
			},
		}, nil
	}
	err := c.update(ctx, crd, next, store.Write{Effects: []func(obj, old api.Object) (store.Effect, error){unchanged}})
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// update writes next, which was made of crd, unless that has changed.
func (c *Controller) update(ctx context.Context, crd, next *crdv1.CustomResourceDefinition, w store.Write) error {
	w.UID, w.ResourceVersion = &crd.UID, crd.ResourceVersion
	_, err := c.cfg.Store.Update(ctx, c.kind, c.key(crd), w, func(current api.Object) (api.Object, error) {
		return c.cfg.Track(current, next.DeepCopy()), nil
	})
	return err
}

func (c *Controller) key(crd metav1.Object) store.Key {
	return store.Key{Path: c.kind.StoragePath, Name: crd.GetName()}
}
