// Package garbagecollector deletes what has lost its owners, for all resources of a
// cluster, custom ones included.
//
// Metadata of every object flows from one watch per resource (monitors.go) into a graph of
// owner references (graph.go). A change of the graph names the objects that have to be
// looked at: dependents of an owner that is gone, an owner that waits for its dependents (foreground deletion), an
// owner that wants to let go of them (orphaning). Each is then decided (plan.go) on live data: the graph
// may lag, so an owner counts as absent only when the apiserver says so, and a
// deletion is bound to the object's UID and resource version.
//
// The graph keeps owner references only, not objects: a few hundred bytes each.
package garbagecollector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/lru"

	"skiff/pkg/component"
	"skiff/pkg/controller/reconciler"
	"skiff/pkg/reconcile"
)

// soon is when a decision that lost a race is made again.
const soon = 20 * time.Millisecond

// Collector is the garbage collector.
type Collector struct {
	client   kubernetes.Interface
	metadata metadata.Interface
	events   record.EventRecorder
	log      *slog.Logger
	graph    *graph
	check    *reconcile.Loop[types.UID]
	orphan   *reconcile.Loop[types.UID]
	synced   chan struct{} // closed when the graph is complete
	wake     chan struct{} // resources may have changed
	absent   *lru.Cache    // owners that are known not to exist
	reported *lru.Cache    // references whose namespace was complained about

	mu         sync.RWMutex
	kinds      map[schema.GroupVersionKind]mapping
	incomplete bool // some kinds couldn't be discovered
}

// New makes the collector.
func New(c reconciler.Config, metadata metadata.Interface) *Collector {
	collector := &Collector{
		client: c.Client, metadata: metadata, events: c.Events, log: c.Logger,
		graph: newGraph(), synced: make(chan struct{}), wake: make(chan struct{}, 1),
		absent: lru.New(1000), reported: lru.New(1000),
	}
	collector.check = reconciler.Loop(c, "garbage_collector_attempt_to_delete", 20, reconcile.Config[types.UID]{Reconcile: collector.checkOne, MaxDelay: time.Minute})
	collector.orphan = reconciler.Loop(c, "garbage_collector_attempt_to_orphan", 5, reconcile.Config[types.UID]{Reconcile: collector.orphanOne, MaxDelay: time.Minute})
	return collector
}

// Run works until ctx ends.
func (c *Collector) Run(ctx context.Context) error {
	var group component.Group
	group.Add("monitors", c.watchResources)
	for name, run := range map[string]func(context.Context) error{"check": c.check.Run, "orphan": c.orphan.Run} {
		group.Add(name, func(ctx context.Context) error {
			select {
			case <-c.synced:
				return run(ctx)
			case <-ctx.Done():
				return nil
			}
		})
	}
	return group.Run(ctx)
}

func (c *Collector) enqueue(w work) {
	for _, uid := range w.check {
		c.check.Add(uid)
	}
	for _, uid := range w.orphan {
		c.orphan.Add(uid)
	}
}

func (c *Collector) rediscoverSoon() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *Collector) setKinds(kinds map[schema.GroupVersionKind]mapping, incomplete bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if incomplete {
		for kind, m := range c.kinds {
			if _, known := kinds[kind]; !known {
				kinds[kind] = m
			}
		}
	}
	c.kinds, c.incomplete = kinds, incomplete
}

// at addresses an object.
func (c *Collector) at(resource schema.GroupVersionResource, namespace string) metadata.ResourceInterface {
	if namespace == "" {
		return c.metadata.Resource(resource)
	}
	return c.metadata.Resource(resource).Namespace(namespace)
}

// checkOne decides about one object.
func (c *Collector) checkOne(ctx context.Context, uid types.UID) (time.Duration, error) {
	v := c.graph.look(uid)
	switch {
	case v == nil || v.settled || (v.deleting && !v.waits):
		return 0, nil
	case v.waits:
		return c.release(ctx, v)
	}
	live, err := c.at(v.resource, v.namespace).Get(ctx, v.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || (err == nil && live.UID != uid) {
		return 0, nil // its own event is on the way
	}
	if err != nil {
		return 0, fmt.Errorf("get %s %s/%s: %w", v.resource.Resource, v.namespace, v.name, err)
	}
	f := facts{finalizers: live.Finalizers, owners: live.OwnerReferences, states: map[types.UID]state{}, dependents: len(v.dependents) > 0}
	f.cycle = slices.ContainsFunc(v.dependents, func(d *object) bool { return d.waits })
	for _, ref := range live.OwnerReferences {
		if f.states[ref.UID], err = c.stateOf(ctx, v, ref); err != nil {
			return 0, err
		}
	}
	err = c.carryOut(ctx, v, live, decide(f))
	if apierrors.IsConflict(err) {
		return soon, nil // it changed meanwhile
	}
	return 0, err
}

// release lets an object go whose foreground deletion waits for dependents, when none blocks it any more.
func (c *Collector) release(ctx context.Context, v *view) (time.Duration, error) {
	blocking := v.blocking()
	for _, dependent := range blocking {
		if !dependent.deleting {
			c.check.Add(dependent.uid)
		}
	}
	if len(blocking) > 0 {
		return 0, nil
	}
	return c.removeFinalizer(ctx, v.object, metav1.FinalizerDeleteDependents)
}

// stateOf finds out about one owner of an object. The graph is believed when it knows the
// owner; when it doesn't, the apiserver is asked.
func (c *Collector) stateOf(ctx context.Context, v *view, ref metav1.OwnerReference) (state, error) {
	if v.solid[ref.UID] {
		return solid, nil
	}
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return solid, fmt.Errorf("%s %s/%s: owner reference: %w", v.resource.Resource, v.namespace, v.name, err)
	}
	c.mu.RLock()
	where, known := c.kinds[gv.WithKind(ref.Kind)]
	c.mu.RUnlock()
	if !known {
		// Nobody can tell whether such an owner exists, so it is taken for alive.
		return solid, fmt.Errorf("%s %s/%s: no resource is known for its owner %s, Kind=%s", v.resource.Resource, v.namespace, v.name, ref.APIVersion, ref.Kind)
	}
	if v.elsewhere[ref.UID] {
		c.complain(v, ref)
	}
	namespace := ""
	if where.namespaced {
		if v.namespace == "" {
			return solid, nil // a reference that can't be resolved deletes nothing
		}
		namespace = v.namespace
	}
	key := ref.APIVersion + "/" + ref.Kind + "/" + namespace + "/" + ref.Name + "/" + string(ref.UID)
	if _, gone := c.absent.Get(key); gone {
		return dangling, nil
	}
	owner, err := c.at(where.resource, namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err) || (err == nil && owner.UID != ref.UID):
		c.absent.Add(key, true) // UIDs are never used again
		return dangling, nil
	case err != nil:
		return solid, fmt.Errorf("get owner %s %s/%s: %w", where.resource.Resource, namespace, ref.Name, err)
	case owner.DeletionTimestamp != nil && slices.Contains(owner.Finalizers, metav1.FinalizerDeleteDependents):
		return waiting, nil
	}
	return solid, nil
}

// complain tells whoever made a reference that crosses namespaces.
func (c *Collector) complain(v *view, ref metav1.OwnerReference) {
	key := string(v.uid) + "/" + string(ref.UID)
	if _, done := c.reported.Get(key); done {
		return
	}
	c.reported.Add(key, true)
	subject := &v1.ObjectReference{APIVersion: v.kind.GroupVersion().String(), Kind: v.kind.Kind, Namespace: v.namespace, Name: v.name, UID: v.uid}
	c.events.Eventf(subject, v1.EventTypeWarning, "OwnerRefInvalidNamespace",
		"ownerRef [%s/%s, namespace: %s, name: %s, uid: %s] does not exist in namespace %q",
		ref.APIVersion, ref.Kind, v.namespace, ref.Name, ref.UID, v.namespace)
}

func (c *Collector) carryOut(ctx context.Context, v *view, live *metav1.PartialObjectMetadata, d decision) error {
	client := c.at(v.resource, v.namespace)
	c.log.Debug("garbage collection", "resource", v.resource.Resource, "namespace", v.namespace, "name", v.name, "delete", d.delete, "reason", d.reason)
	if d.unblock {
		owners := slices.Clone(live.OwnerReferences)
		for i := range owners {
			owners[i].BlockOwnerDeletion = new(bool)
		}
		patched, err := c.patchMetadata(ctx, client, live, map[string]any{"ownerReferences": owners})
		if err != nil || patched == nil {
			return err
		}
		live = patched
	}
	if d.owners != nil {
		_, err := c.patchMetadata(ctx, client, live, map[string]any{"ownerReferences": d.owners})
		return err
	}
	if d.delete == nil {
		return nil
	}
	err := client.Delete(ctx, v.name, metav1.DeleteOptions{
		Preconditions:     &metav1.Preconditions{UID: &live.UID, ResourceVersion: &live.ResourceVersion},
		PropagationPolicy: d.delete,
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete %s %s/%s: %w", v.resource.Resource, v.namespace, v.name, err)
	}
	return nil
}

// patchMetadata changes fields of an object that is as it was read; it returns nil, nil for one that is gone.
func (c *Collector) patchMetadata(ctx context.Context, client metadata.ResourceInterface, live *metav1.PartialObjectMetadata, fields map[string]any) (*metav1.PartialObjectMetadata, error) {
	fields["uid"], fields["resourceVersion"] = live.UID, live.ResourceVersion
	patch, err := json.Marshal(map[string]any{"metadata": fields})
	if err != nil {
		return nil, err
	}
	patched, err := client.Patch(ctx, live.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("patch metadata of %s/%s: %w", live.Namespace, live.Name, err)
	}
	return patched, nil
}

// removeFinalizer lets go of an object that is being deleted.
func (c *Collector) removeFinalizer(ctx context.Context, o *object, finalizer string) (time.Duration, error) {
	client := c.at(o.resource, o.namespace)
	live, err := client.Get(ctx, o.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || (err == nil && live.UID != o.uid) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("get %s %s/%s: %w", o.resource.Resource, o.namespace, o.name, err)
	}
	left := slices.DeleteFunc(slices.Clone(live.Finalizers), func(f string) bool { return f == finalizer })
	if len(left) == len(live.Finalizers) {
		return 0, nil
	}
	_, err = c.patchMetadata(ctx, client, live, map[string]any{"finalizers": left})
	if apierrors.IsConflict(err) {
		return soon, nil
	}
	return 0, err
}

// orphanOne takes an owner's references out of its dependents, and then lets the owner go.
func (c *Collector) orphanOne(ctx context.Context, uid types.UID) (time.Duration, error) {
	v := c.graph.look(uid)
	if v == nil || !v.orphans {
		return 0, nil
	}
	var errs []error
	for _, dependent := range v.dependents {
		errs = append(errs, c.letGo(ctx, dependent, uid))
	}
	if err := errors.Join(errs...); err != nil {
		return 0, err
	}
	return c.removeFinalizer(ctx, v.object, metav1.FinalizerOrphanDependents)
}

func (c *Collector) letGo(ctx context.Context, dependent *object, owner types.UID) error {
	client := c.at(dependent.resource, dependent.namespace)
	live, err := client.Get(ctx, dependent.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || (err == nil && live.UID != dependent.uid) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("get %s %s/%s: %w", dependent.resource.Resource, dependent.namespace, dependent.name, err)
	}
	left := slices.DeleteFunc(slices.Clone(live.OwnerReferences), func(ref metav1.OwnerReference) bool { return ref.UID == owner })
	if len(left) == len(live.OwnerReferences) {
		return nil
	}
	_, err = c.patchMetadata(ctx, client, live, map[string]any{"ownerReferences": left})
	return err
}
