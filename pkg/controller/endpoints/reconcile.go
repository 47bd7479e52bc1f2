// Package endpoints keeps the Endpoints objects of services with a selector, the
// predecessor of EndpointSlices that older clients still read. An object has one
// address family and at most a thousand addresses.
package endpoints

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"skiff/pkg/controller/reconciler"
	"skiff/pkg/controller/serving"
	"skiff/pkg/reconcile"
)

type key = reconciler.Key

// LeaderAnnotation marks Endpoints that are a lock of an election, which
// have no service and must be left alone.
const LeaderAnnotation = "control-plane.alpha.kubernetes.io/leader"

// Reconciler keeps the Endpoints of a cluster.
type Reconciler struct {
	client    kubernetes.Interface
	services  corelisters.ServiceLister
	pods      corelisters.PodLister
	endpoints corelisters.EndpointsLister
	store     cache.SharedIndexInformer
	synced    []cache.InformerSynced
	events    record.EventRecorder
	triggers  serving.Triggers
	pace      reconciler.Pace[key]
	deleted   sync.Map // keys of services seen being deleted, until their Endpoints have been looked at
	loop      *reconcile.Loop[key]
	log       *slog.Logger
}

// New makes the reconciler.
func New(c reconciler.Config) *Reconciler {
	core := c.Informers.Core().V1()
	r := &Reconciler{
		client:    c.Client,
		services:  core.Services().Lister(),
		pods:      core.Pods().Lister(),
		endpoints: core.Endpoints().Lister(),
		store:     core.Endpoints().Informer(),
		events:    c.Events,
		pace:      reconciler.Pace[key]{Every: serving.Batch},
		log:       c.Logger,
	}
	r.synced = []cache.InformerSynced{core.Services().Informer().HasSynced, core.Pods().Informer().HasSynced, r.store.HasSynced}
	r.loop = reconciler.Loop(c, "endpoint", 5, reconcile.Config[key]{Reconcile: r.reconcile, MaxDelay: time.Minute})
	reconciler.OnChange(core.Services().Informer(), func(old, current *v1.Service) {
		if current == nil {
			r.deleted.Store(reconciler.KeyOf(old), true)
			current = old
		}
		r.loop.Add(reconciler.KeyOf(current))
	})
	serving.OnPods(c, r.loop.Add)
	reconciler.OnEach(r.store, func(e *v1.Endpoints) { r.loop.Add(reconciler.KeyOf(e)) })
	return r
}

// Run works until ctx ends.
func (r *Reconciler) Run(ctx context.Context) error {
	return reconciler.Run(ctx, r.synced, r.loop.Run)
}

func (r *Reconciler) reconcile(ctx context.Context, key key) (time.Duration, error) {
	current, err := r.endpoints.Endpoints(key.Namespace).Get(key.Name)
	if err != nil && !apierrors.IsNotFound(err) {
		return 0, err
	}
	service, err := r.services.Services(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		r.triggers.Forget(key)
		return 0, r.removeLeftover(ctx, key, current)
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
	pods := serving.Pods(r.pods, service)
	plan := Decide(Snapshot{Service: service, Pods: pods, Current: current, TriggerTime: r.triggers.Observe(service, pods)})
	if plan.Write == nil {
		return 0, nil
	}
	r.pace.Wrote(key)
	return 0, r.write(ctx, key, plan)
}

// removeLeftover deletes the Endpoints of a service that is gone: whoever made them if
// the service was seen to go, else only those that this reconciler made. Locks of elections stay.
func (r *Reconciler) removeLeftover(ctx context.Context, key key, current *v1.Endpoints) error {
	_, seen := r.deleted.Load(key)
	ours := current != nil && (seen || current.Labels[labelManagedBy] == managedBy)
	if !ours || current.DeletionTimestamp != nil || current.Annotations[LeaderAnnotation] != "" {
		r.deleted.Delete(key)
		return nil
	}
	err := r.client.CoreV1().Endpoints(key.Namespace).Delete(ctx, key.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(current.UID))})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete Endpoints of a service that is gone: %w", err)
	}
	r.deleted.Delete(key)
	r.loop.Deleted(key, r.store.GetStore(), key.String(), current.UID)
	return nil
}

func (r *Reconciler) write(ctx context.Context, key key, plan Plan) error {
	client := r.client.CoreV1().Endpoints(key.Namespace)
	var written *v1.Endpoints
	var err error
	if plan.Create {
		written, err = client.Create(ctx, plan.Write, metav1.CreateOptions{})
	} else {
		written, err = client.Update(ctx, plan.Write, metav1.UpdateOptions{})
	}
	switch {
	case apierrors.HasStatusCause(err, v1.NamespaceTerminatingCause):
		return nil
	case err != nil && plan.Create:
		r.events.Eventf(plan.Write, v1.EventTypeWarning, "FailedToCreateEndpoint", "Failed to create endpoint for service %v: %v", key, err)
		return fmt.Errorf("create Endpoints: %w", err)
	case err != nil:
		r.events.Eventf(plan.Write, v1.EventTypeWarning, "FailedToUpdateEndpoint", "Failed to update endpoint %v: %v", key, err)
		return fmt.Errorf("update Endpoints: %w", err)
	}
	r.log.Debug("endpoints written", "service", key, "reason", plan.Reason)
	r.loop.Wrote(key, r.store.GetStore(), written.ResourceVersion)
	return nil
}
