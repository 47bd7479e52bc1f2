// Package endpointslice keeps the EndpointSlices of services with a selector: which
// pods serve them, at which addresses and ports, and whether they are ready, still
// serving, terminating.
//
// Proxies and DNS read nothing else. spec.trafficDistribution is turned into hints;
// the older annotation service.kubernetes.io/topology-mode is not looked at (its
// allocation by CPU counts is not implemented), so such services have no hints.
package endpointslice

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"skiff/pkg/controller/reconciler"
	"skiff/pkg/controller/serving"
	"skiff/pkg/reconcile"
)

type key = reconciler.Key

// ServiceIndex names the index of slices by "namespace/service".
const ServiceIndex = "service"

// IndexSlices adds [ServiceIndex] to an informer of slices.
func IndexSlices(slices cache.SharedIndexInformer) {
	reconciler.Index(slices, ServiceIndex, func(slice *discovery.EndpointSlice) []string {
		if name := slice.Labels[discovery.LabelServiceName]; name != "" {
			return []string{slice.Namespace + "/" + name}
		}
		return nil
	})
}

// Reconciler keeps the slices of a cluster.
type Reconciler struct {
	client      kubernetes.Interface
	services    corelisters.ServiceLister
	pods        corelisters.PodLister
	nodes       corelisters.NodeLister
	slices      cache.SharedIndexInformer
	synced      []cache.InformerSynced
	events      record.EventRecorder
	maxPerSlice int
	triggers    serving.Triggers
	pace        reconciler.Pace[key]
	loop        *reconcile.Loop[key]
	log         *slog.Logger
}

// New makes the reconciler; a slice holds at most maxPerSlice endpoints.
func New(c reconciler.Config, maxPerSlice int) *Reconciler {
	core := c.Informers.Core().V1()
	r := &Reconciler{
		client:      c.Client,
		services:    core.Services().Lister(),
		pods:        core.Pods().Lister(),
		nodes:       core.Nodes().Lister(),
		slices:      c.Informers.Discovery().V1().EndpointSlices().Informer(),
		events:      c.Events,
		maxPerSlice: maxPerSlice,
		pace:        reconciler.Pace[key]{Every: serving.Batch},
		log:         c.Logger,
	}
	r.synced = []cache.InformerSynced{core.Services().Informer().HasSynced, core.Pods().Informer().HasSynced, core.Nodes().Informer().HasSynced, r.slices.HasSynced}
	r.loop = reconciler.Loop(c, "endpoint_slice", 5, reconcile.Config[key]{Reconcile: r.reconcile, MaxDelay: time.Minute})
	IndexSlices(r.slices)
	reconciler.OnEach(core.Services().Informer(), func(s *v1.Service) { r.loop.Add(reconciler.KeyOf(s)) })
	serving.OnPods(c, r.loop.Add)
	reconciler.OnChange(r.slices, func(old, current *discovery.EndpointSlice) {
		r.wake(old)
		r.wake(current)
	})
	reconciler.OnChange(core.Nodes().Informer(), r.nodeChanged)
	return r
}

// Run works until ctx ends.
func (r *Reconciler) Run(ctx context.Context) error {
	return reconciler.Run(ctx, r.synced, r.loop.Run)
}

func (r *Reconciler) wake(slice *discovery.EndpointSlice) {
	if slice != nil && slice.Labels[discovery.LabelManagedBy] == ManagedBy {
		r.loop.Add(key{Namespace: slice.Namespace, Name: slice.Labels[discovery.LabelServiceName]})
	}
}

// nodeChanged wakes the services that have, or would have, endpoints on a node that came, or changed its zone.
func (r *Reconciler) nodeChanged(old, current *v1.Node) {
	if current == nil || (old != nil && old.Labels[v1.LabelTopologyZone] == current.Labels[v1.LabelTopologyZone]) {
		return
	}
	services, err := r.services.List(labels.Everything())
	if err != nil {
		return
	}
	for _, service := range services {
		if !serving.HasEndpoints(service) {
			continue
		}
		for _, pod := range serving.Pods(r.pods, service) {
			if pod.Spec.NodeName == current.Name {
				r.loop.Add(reconciler.KeyOf(service))
				break
			}
		}
	}
}

func (r *Reconciler) reconcile(ctx context.Context, key key) (time.Duration, error) {
	service, err := r.services.Services(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		r.triggers.Forget(key) // the slices go with their owner
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if !serving.HasEndpoints(service) {
		return 0, nil
	}
	if wait := r.pace.Wait(key); wait > 0 {
		return wait, nil
	}
	plan := Decide(r.snapshot(service))
	if len(plan.Steps) > 0 {
		r.pace.Wrote(key)
	}
	var errs []error
	for _, step := range plan.Steps {
		if err := r.execute(ctx, key, service, step); err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		r.events.Eventf(service, v1.EventTypeWarning, "FailedToUpdateEndpointSlices",
			"Error updating Endpoint Slices for Service %s: %v", key, err)
		return 0, err
	}
	if len(plan.Missing) > 0 { // the node's event wakes the service; this is for a node that never comes
		r.log.Debug("pods left out because their node doesn't exist", "service", key, "pods", plan.Missing)
	}
	return 0, nil
}

func (r *Reconciler) snapshot(service *v1.Service) Snapshot {
	s := Snapshot{Service: service, Pods: serving.Pods(r.pods, service), Zones: map[string]string{}, MaxPerSlice: r.maxPerSlice}
	for _, slice := range reconciler.Indexed[*discovery.EndpointSlice](r.slices.GetIndexer(), ServiceIndex, reconciler.KeyOf(service).String()) {
		if slice.Labels[discovery.LabelManagedBy] == ManagedBy && slice.DeletionTimestamp == nil {
			s.Slices = append(s.Slices, slice)
		}
	}
	for _, pod := range s.Pods {
		if node, err := r.nodes.Get(pod.Spec.NodeName); err == nil {
			s.Zones[node.Name] = node.Labels[v1.LabelTopologyZone]
		}
	}
	s.TriggerTime = r.triggers.Observe(service, s.Pods)
	return s
}

func (r *Reconciler) execute(ctx context.Context, key key, service *v1.Service, step Step) error {
	if err := Execute(ctx, r.client, r.loop, r.slices.GetStore(), key, step); err != nil {
		return fmt.Errorf("%w for Service %s", err, service.Name)
	}
	r.log.Debug("endpoint slice", "service", key, "action", step.Action, "reason", step.Reason)
	return nil
}

// Execute carries out a step, and has the loop's next turn of key wait for it. In a
// namespace that is being deleted nothing is created.
func Execute(ctx context.Context, client kubernetes.Interface, loop *reconcile.Loop[reconciler.Key], store cache.Store, key reconciler.Key, step Step) error {
	slices := client.DiscoveryV1().EndpointSlices(key.Namespace)
	var written *discovery.EndpointSlice
	var err error
	switch step.Action {
	case Create:
		written, err = slices.Create(ctx, step.Slice, metav1.CreateOptions{})
		if apierrors.HasStatusCause(err, v1.NamespaceTerminatingCause) {
			return nil
		}
	case Update:
		written, err = slices.Update(ctx, step.Slice, metav1.UpdateOptions{})
	case Delete:
		err = slices.Delete(ctx, step.Slice.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(step.Slice.UID))})
		if apierrors.IsNotFound(err) {
			err = nil
		}
		if err == nil {
			loop.Deleted(key, store, cache.MetaObjectToName(step.Slice).String(), step.Slice.UID)
		}
	}
	if err != nil {
		return fmt.Errorf("%s EndpointSlice %s/%s: %w", step.Action, key.Namespace, step.Slice.Name, err)
	}
	if written != nil {
		loop.Wrote(key, store, written.ResourceVersion)
	}
	return nil
}
