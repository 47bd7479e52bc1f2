// Package resourcequota keeps the status of resource quotas: the limits in force, and what is used.
//
// Writes that use more are charged by the apiserver as they happen; here the
// usage is counted anew when limits change, when something is released, and every few minutes. A count is exact
// although writes go on: it is made from consistent lists that begin after the quota was read, and it is
// written only if the quota is still as it was read, that is, if nothing was charged meanwhile.
//
// Resources are watched only while a quota limits them, and counted without being fetched where their number is all that
// matters.
package resourcequota

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	v1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"

	"skiff/pkg/api"
	"skiff/pkg/api/quota"
	"skiff/pkg/controller/reconciler"
	"skiff/pkg/reconcile"
)

type key = reconciler.Key

const (
	// resync is how often everything is counted anew, whatever happens: Kubernetes' default.
	resync = 5 * time.Minute
	// batch is how long what is released is gathered after a count.
	batch = 100 * time.Millisecond
)

var (
	pods     = schema.GroupResource{Resource: "pods"}
	services = schema.GroupResource{Resource: "services"}
	quotas   = schema.GroupResource{Resource: "resourcequotas"}
)

// Reconciler keeps the quotas of a cluster.
type Reconciler struct {
	client   kubernetes.Interface
	metadata metadata.Interface
	quotas   corelisters.ResourceQuotaLister
	store    cache.Store
	synced   []cache.InformerSynced
	served   served
	pace     reconciler.Pace[key]
	loop     *reconcile.Loop[key]
	wake     chan struct{} // the set of tracked resources may have changed
	log      *slog.Logger
}

// New makes the reconciler.
func New(c reconciler.Config, metadata metadata.Interface) *Reconciler {
	core := c.Informers.Core().V1()
	informer := core.ResourceQuotas().Informer()
	r := &Reconciler{
		client: c.Client, metadata: metadata, quotas: core.ResourceQuotas().Lister(), store: informer.GetStore(), log: c.Logger,
		synced: []cache.InformerSynced{informer.HasSynced, core.Pods().Informer().HasSynced, core.Services().Informer().HasSynced},
		served: served{client: c.Client.Discovery()},
		pace:   reconciler.Pace[key]{Every: batch},
		wake:   make(chan struct{}, 1),
	}
	r.loop = reconciler.Loop(c, "resourcequota_primary", 5, reconcile.Config[key]{Reconcile: r.reconcile, MaxDelay: time.Minute})
	reconciler.OnChange(informer, r.quotaChanged)
	reconciler.OnChange(core.Pods().Informer(), func(old, current *v1.Pod) { changed(r, pods, old, current) })
	reconciler.OnChange(core.Services().Informer(), func(old, current *v1.Service) { changed(r, services, old, current) })
	return r
}

// Run works until ctx ends.
func (r *Reconciler) Run(ctx context.Context) error {
	return reconciler.Run(ctx, r.synced, r.loop.Run, r.watchContents)
}

// quotaChanged: a status that changes is no reason to count. The apiserver charges it, or this reconciler has written it.
func (r *Reconciler) quotaChanged(old, current *v1.ResourceQuota) {
	if old != nil && current != nil && apiequality.Semantic.DeepEqual(old.Spec, current.Spec) {
		return
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
	if old == nil || current == nil {
		namespace := cmp.Or(old, current).Namespace
		r.released(quotas, namespace) // which nobody charges
	}
	if current != nil {
		r.loop.Add(reconciler.KeyOf(current))
	}
}

// changed looks at a pod or a service that may use less than before.
func changed[T interface {
	comparable
	api.Object
}](r *Reconciler, gr schema.GroupResource, old, current T) {
	var none T
	if old == none || !r.anyQuota(old.GetNamespace()) {
		return
	}
	now := time.Now()
	if current == none || !same(quota.Usage(gr, old, now), quota.Usage(gr, current, now)) {
		r.released(gr, old.GetNamespace())
	}
}

func (r *Reconciler) anyQuota(namespace string) bool {
	all, err := r.quotas.ResourceQuotas(namespace).List(labels.Everything())
	return err == nil && len(all) > 0
}

// released asks for a count of the quotas that track a resource, in one namespace or (when it is empty) in all.
func (r *Reconciler) released(gr schema.GroupResource, namespace string) {
	all, err := r.quotas.ResourceQuotas(namespace).List(labels.Everything())
	if err != nil {
		return // a lister of a cache doesn't fail
	}
	for _, q := range all {
		if tracked(q)[gr] {
			r.loop.Add(reconciler.KeyOf(q))
		}
	}
}

func (r *Reconciler) reconcile(ctx context.Context, key key) (time.Duration, error) {
	q, err := r.quotas.ResourceQuotas(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) || err == nil && q.DeletionTimestamp != nil {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if wait := r.pace.Wait(key); wait > 0 {
		return wait, nil
	}
	r.pace.Wrote(key)
	again := resync
	s := Snapshot{Quota: q, Now: time.Now()}
	var failures []error
	for gr := range tracked(q) {
		content, err := r.content(ctx, key.Namespace, gr)
		switch {
		case errors.Is(err, errNotServed):
			again = rediscover
		case err != nil:
			failures = append(failures, err)
		default:
			s.Contents = append(s.Contents, content)
		}
	}
	if plan := Decide(s); plan.Write != nil {
		written, err := r.client.CoreV1().ResourceQuotas(key.Namespace).UpdateStatus(ctx, plan.Write, metav1.UpdateOptions{})
		if apierrors.IsNotFound(err) {
			return 0, nil
		}
		if err != nil {
			return 0, fmt.Errorf("update status of resource quota: %w", err)
		}
		r.log.Debug("resource quota counted", "quota", key, "reason", plan.Reason)
		r.loop.Wrote(key, r.store, written.ResourceVersion)
		if plan.Limits {
			again = batch // once more, for what was written between the count and the limits' being in force
		}
	}
	return again, errors.Join(failures...)
}

// content reads what there is of a resource in a namespace, never older than the moment of the call.
func (r *Reconciler) content(ctx context.Context, namespace string, gr schema.GroupResource) (quota.Content, error) {
	c := quota.Content{Resource: gr}
	gvr, err := r.served.find(gr)
	if err != nil {
		return c, err
	}
	if quota.Counted(gr) {
		list, err := r.metadata.Resource(gvr).Namespace(namespace).List(ctx, metav1.ListOptions{Limit: 1})
		if apierrors.IsNotFound(err) {
			r.served.forget()
			return c, errNotServed
		}
		if err != nil {
			return c, fmt.Errorf("count %s: %w", gr, err)
		}
		c.Number = int64(len(list.Items))
		if list.RemainingItemCount != nil {
			c.Number += *list.RemainingItemCount
		}
		return c, nil
	}
	if c.Objects, err = r.objects(ctx, namespace, gr); err != nil {
		return c, fmt.Errorf("list %s: %w", gr, err)
	}
	return c, nil
}

// objects lists a resource whose objects use more than their number.
func (r *Reconciler) objects(ctx context.Context, namespace string, gr schema.GroupResource) ([]api.Object, error) {
	all := metav1.ListOptions{}
	switch gr {
	case pods:
		list, err := r.client.CoreV1().Pods(namespace).List(ctx, all)
		if err != nil {
			return nil, err
		}
		return pointers(list.Items), nil
	case services:
		list, err := r.client.CoreV1().Services(namespace).List(ctx, all)
		if err != nil {
			return nil, err
		}
		return pointers(list.Items), nil
	case schema.GroupResource{Resource: "persistentvolumeclaims"}:
		list, err := r.client.CoreV1().PersistentVolumeClaims(namespace).List(ctx, all)
		if err != nil {
			return nil, err
		}
		return pointers(list.Items), nil
	case schema.GroupResource{Group: "resource.k8s.io", Resource: "resourceclaims"}:
		list, err := r.client.ResourceV1().ResourceClaims(namespace).List(ctx, all)
		if err != nil {
			return nil, err
		}
		return pointers(list.Items), nil
	}
	return nil, fmt.Errorf("usage of %s isn't known", gr)
}

func pointers[T any, P interface {
	*T
	api.Object
}](items []T) []api.Object {
	out := make([]api.Object, len(items))
	for i := range items {
		out[i] = P(&items[i])
	}
	return out
}
