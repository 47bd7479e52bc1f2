// Package endpointslicemirroring copies Endpoints that somebody made by hand, for a
// service without a selector, into EndpointSlices, which are all that proxies read. Endpoints
// with the label endpointslice.kubernetes.io/skip-mirror=true, and the locks of elections, are left out.
package endpointslicemirroring

import (
	"context"
	"errors"
	"time"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"skiff/pkg/controller/endpoints"
	"skiff/pkg/controller/endpointslice"
	"skiff/pkg/controller/reconciler"
	"skiff/pkg/reconcile"
)

type key = reconciler.Key

// Reconciler mirrors the Endpoints of a cluster.
type Reconciler struct {
	client       kubernetes.Interface
	endpoints    corelisters.EndpointsLister
	services     corelisters.ServiceLister
	slices       cache.SharedIndexInformer
	synced       []cache.InformerSynced
	events       record.EventRecorder
	maxPerSubset int
	loop         *reconcile.Loop[key]
}

// New makes the reconciler; at most maxPerSubset addresses of a subset are mirrored.
func New(c reconciler.Config, maxPerSubset int) *Reconciler {
	core := c.Informers.Core().V1()
	r := &Reconciler{
		client: c.Client, endpoints: core.Endpoints().Lister(), services: core.Services().Lister(),
		slices: c.Informers.Discovery().V1().EndpointSlices().Informer(), events: c.Events, maxPerSubset: maxPerSubset,
	}
	r.synced = []cache.InformerSynced{core.Endpoints().Informer().HasSynced, core.Services().Informer().HasSynced, r.slices.HasSynced}
	r.loop = reconciler.Loop(c, "endpoint_slice_mirroring", 5, reconcile.Config[key]{Reconcile: r.reconcile, MaxDelay: time.Minute})
	endpointslice.IndexSlices(r.slices)
	reconciler.OnEach(core.Endpoints().Informer(), func(e *v1.Endpoints) { r.loop.Add(reconciler.KeyOf(e)) })
	reconciler.OnEach(core.Services().Informer(), func(s *v1.Service) { r.loop.Add(reconciler.KeyOf(s)) })
	reconciler.OnChange(r.slices, func(old, current *discovery.EndpointSlice) {
		for _, slice := range []*discovery.EndpointSlice{old, current} {
			if slice != nil && slice.Labels[discovery.LabelManagedBy] == ManagedBy {
				r.loop.Add(key{Namespace: slice.Namespace, Name: slice.Labels[discovery.LabelServiceName]})
			}
		}
	})
	return r
}

// Run works until ctx ends.
func (r *Reconciler) Run(ctx context.Context) error { return reconciler.Run(ctx, r.synced, r.loop.Run) }

func (r *Reconciler) reconcile(ctx context.Context, key key) (time.Duration, error) {
	s := Snapshot{Endpoints: r.mirrored(key), MaxPerSubset: r.maxPerSubset}
	for _, slice := range reconciler.Indexed[*discovery.EndpointSlice](r.slices.GetIndexer(), endpointslice.ServiceIndex, key.String()) {
		if slice.Labels[discovery.LabelManagedBy] == ManagedBy && slice.DeletionTimestamp == nil {
			s.Slices = append(s.Slices, slice)
		}
	}
	plan := Decide(s)
	if len(plan.Steps) == 0 {
		return 0, nil
	}
	if plan.Invalid > 0 {
		r.events.Eventf(s.Endpoints, v1.EventTypeWarning, "InvalidIPAddress", "Skipped %d invalid IP addresses when mirroring to EndpointSlices", plan.Invalid)
	}
	if plan.Skipped > 0 {
		r.events.Eventf(s.Endpoints, v1.EventTypeWarning, "TooManyAddressesToMirror",
			"A max of %d addresses can be mirrored to EndpointSlices per Endpoints subset. %d addresses were skipped", r.maxPerSubset, plan.Skipped)
	}
	var errs []error
	for _, step := range plan.Steps {
		errs = append(errs, endpointslice.Execute(ctx, r.client, r.loop, r.slices.GetStore(), key, step))
	}
	return 0, errors.Join(errs...)
}

// mirrored returns the Endpoints of key if they are to be mirrored, else nil.
func (r *Reconciler) mirrored(key key) *v1.Endpoints {
	service, err := r.services.Services(key.Namespace).Get(key.Name)
	if err != nil || service.Spec.Selector != nil {
		return nil
	}
	e, err := r.endpoints.Endpoints(key.Namespace).Get(key.Name)
	if err != nil || e.DeletionTimestamp != nil || e.Labels[discovery.LabelSkipMirror] == "true" {
		return nil
	}
	if _, lock := e.Annotations[endpoints.LeaderAnnotation]; lock {
		return nil
	}
	return e
}
