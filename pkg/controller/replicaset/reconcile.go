// Package replicaset keeps as many pods running as a replica set, or a replication
// controller, asks for. Both kinds are reconciled by the same plan: a
// replication controller is seen as a replica set through an adapter.
//
// One turn adopts and releases pods by the selector, creates what is missing or deletes
// what is too many, and reports the counts. It doesn't count expectations as
// Kubernetes does: the next turn of a set waits until the cache has the pods
// that this one created and deleted.
package replicaset

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	apps "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/cache"

	"skiff/pkg/controller/reconciler"
	"skiff/pkg/controller/workload"
	"skiff/pkg/reconcile"
)

type key = reconciler.Key

// Reconciler runs the replica sets, or the replication controllers, of a cluster.
type Reconciler struct {
	kind   kind
	pods   cache.SharedIndexInformer
	writer workload.Pods
	loop   *reconcile.Loop[key]
	log    *slog.Logger
}

// New makes the reconciler of replica sets.
func New(c reconciler.Config) *Reconciler { return newReconciler(c, replicaSets(c), "replicaset") }

// NewReplication makes the reconciler of replication controllers.
func NewReplication(c reconciler.Config) *Reconciler {
	return newReconciler(c, replicationControllers(c), "replicationmanager")
}

func newReconciler(c reconciler.Config, kind kind, name string) *Reconciler {
	r := &Reconciler{
		kind:   kind,
		pods:   c.Informers.Core().V1().Pods().Informer(),
		writer: workload.Pods{Client: c.Client, Events: c.Events},
		log:    c.Logger,
	}
	r.loop = reconciler.Loop(c, name, 5, reconcile.Config[key]{Reconcile: r.reconcile})
	workload.IndexPods(r.pods)
	kind.onEach(func(set metav1.Object) { r.loop.Add(reconciler.KeyOf(set)) })
	reconciler.OnChange(r.pods, r.podChanged)
	return r
}

// Run works until ctx ends.
func (r *Reconciler) Run(ctx context.Context) error {
	return reconciler.Run(ctx, []cache.InformerSynced{r.pods.HasSynced, r.kind.informer.HasSynced}, r.loop.Run)
}

// podChanged wakes the pod's set, the one it had before, and for an orphan all that might adopt it.
func (r *Reconciler) podChanged(old, current *v1.Pod) {
	var oldRef, ref *metav1.OwnerReference
	namespace := ""
	if old != nil {
		oldRef, namespace = metav1.GetControllerOfNoCopy(old), old.Namespace
	}
	if current != nil {
		ref, namespace = metav1.GetControllerOfNoCopy(current), current.Namespace
	}
	if oldRef != nil && (ref == nil || ref.UID != oldRef.UID) {
		r.wake(namespace, oldRef)
	}
	if ref != nil {
		r.wake(namespace, ref)
		return
	}
	if current == nil || current.DeletionTimestamp != nil {
		return
	}
	for _, set := range r.kind.list(namespace) {
		if selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector); err == nil && !selector.Empty() && selector.Matches(labels.Set(current.Labels)) {
			r.loop.Add(reconciler.KeyOf(set))
		}
	}
}

func (r *Reconciler) wake(namespace string, ref *metav1.OwnerReference) {
	if ref.Kind == r.kind.gvk.Kind {
		r.loop.Add(key{Namespace: namespace, Name: ref.Name})
	}
}

func (r *Reconciler) reconcile(ctx context.Context, key key) (time.Duration, error) {
	set := r.kind.get(key)
	if set == nil {
		return 0, nil
	}
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil {
		r.log.Error("selector can't be used", "kind", r.kind.gvk.Kind, "key", key, "err", err)
		return 0, nil
	}
	snapshot, err := r.snapshot(ctx, key, set, selector)
	if err != nil {
		return 0, err
	}
	plan := Decide(snapshot)
	failure := r.execute(ctx, key, set, plan)
	status := Status(snapshot, failure)
	if !r.kind.reportsTerminating {
		status.TerminatingReplicas = nil
	}
	if !apiequality.Semantic.DeepEqual(status, set.Status) {
		version, err := r.kind.updateStatus(ctx, set, status)
		if err != nil && !apierrors.IsNotFound(err) {
			return 0, errors.Join(failure, fmt.Errorf("update status: %w", err))
		}
		if err == nil {
			r.loop.Wrote(key, r.kind.informer.GetStore(), version)
		}
	}
	if failure != nil {
		return 0, failure
	}
	return workload.NextAvailable(snapshot.Active, set.Spec.MinReadySeconds, snapshot.Now), nil
}

// snapshot reads the cache, and settles which pods are the set's.
func (r *Reconciler) snapshot(ctx context.Context, key key, set *apps.ReplicaSet, selector labels.Selector) (Snapshot, error) {
	s := Snapshot{Set: set, Now: time.Now()}
	var candidates []*v1.Pod
	for _, pod := range workload.OwnedPods(r.pods.GetIndexer(), r.kind.gvk.Kind, set, true) {
		switch {
		case workload.Active(pod):
			candidates = append(candidates, pod)
		case workload.Terminating(pod) && metav1.IsControlledBy(pod, set) && selector.Matches(labels.Set(pod.Labels)):
			s.Terminating = append(s.Terminating, pod)
		}
	}
	owned, err := workload.Adopter[*v1.Pod]{
		Owner: set,
		Ref:   *metav1.NewControllerRef(set, r.kind.gvk),
		Fresh: func(ctx context.Context) (metav1.Object, error) { return r.kind.fresh(ctx, key) },
		Patch: func(ctx context.Context, pod *v1.Pod, patch []byte) error {
			version, err := r.writer.Patch(ctx, pod, patch)
			if err == nil {
				r.loop.Wrote(key, r.pods.GetStore(), version)
			}
			return err
		},
	}.Settle(ctx, workload.Classify(set, selector, candidates))
	if err != nil {
		return s, err
	}
	s.Active = owned
	if len(owned) > int(*set.Spec.Replicas) {
		s.Related = r.related(set)
	}
	return s, nil
}

// related are the pods of all sets that the set's own controller has.
func (r *Reconciler) related(set *apps.ReplicaSet) []*v1.Pod {
	controller := metav1.GetControllerOfNoCopy(set)
	if controller == nil {
		return workload.OwnedPods(r.pods.GetIndexer(), r.kind.gvk.Kind, set, false)
	}
	var pods []*v1.Pod
	for _, sibling := range r.kind.list(set.Namespace) {
		if ref := metav1.GetControllerOfNoCopy(sibling); ref != nil && ref.UID == controller.UID {
			pods = append(pods, workload.OwnedPods(r.pods.GetIndexer(), r.kind.gvk.Kind, sibling, false)...)
		}
	}
	return pods
}

func (r *Reconciler) execute(ctx context.Context, key key, set *apps.ReplicaSet, plan Plan) error {
	if plan.Create == 0 && len(plan.Delete) == 0 {
		return nil
	}
	r.log.Debug("changing pods", "kind", r.kind.gvk.Kind, "key", key, "reason", plan.Reason, "create", plan.Create, "delete", len(plan.Delete))
	subject := r.kind.subject(set)
	if plan.Create > 0 {
		template := workload.PodFromTemplate(&set.Spec.Template, set, *metav1.NewControllerRef(set, r.kind.gvk))
		_, err := workload.SlowStart(plan.Create, func(int) error {
			pod, err := r.writer.Create(ctx, subject, template)
			if pod != nil {
				r.loop.Wrote(key, r.pods.GetStore(), pod.ResourceVersion)
			}
			return err
		})
		return err
	}
	return workload.AtOnce(len(plan.Delete), func(i int) error {
		pod := plan.Delete[i]
		err := r.writer.Delete(ctx, subject, pod)
		if err == nil {
			r.loop.Deleted(key, r.pods.GetStore(), cache.MetaObjectToName(pod).String(), pod.UID)
		}
		return err
	})
}
