// Package deployment rolls deployments out: one replica set per pod template,
// sized turn by turn so that an update never leaves fewer pods available nor makes more pods
// than the strategy allows. Old sets stay, scaled to nothing, to roll back to.
//
// plan.go decides (with rollout.go for the moves, sizes.go for the arithmetic,
// annotations.go and status.go for what is written down), reconcile.go carries it out.
// Names, hashes, annotations, conditions and events are those of Kubernetes.
package deployment

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	apps "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"skiff/pkg/controller/reconciler"
	"skiff/pkg/controller/workload"
	"skiff/pkg/reconcile"
)

type key = reconciler.Key

var kind = apps.SchemeGroupVersion.WithKind("Deployment")

// Reconciler runs the deployments of a cluster.
type Reconciler struct {
	client             kubernetes.Interface
	deployments        appslisters.DeploymentLister
	sets               appslisters.ReplicaSetLister
	deploymentInformer cache.SharedIndexInformer
	setInformer        cache.SharedIndexInformer
	pods               cache.SharedIndexInformer
	events             record.EventRecorder
	loop               *reconcile.Loop[key]
	log                *slog.Logger
}

// New makes the reconciler.
func New(c reconciler.Config) *Reconciler {
	deployments, sets := c.Informers.Apps().V1().Deployments(), c.Informers.Apps().V1().ReplicaSets()
	r := &Reconciler{
		client:             c.Client,
		deployments:        deployments.Lister(),
		sets:               sets.Lister(),
		deploymentInformer: deployments.Informer(),
		setInformer:        sets.Informer(),
		pods:               c.Informers.Core().V1().Pods().Informer(),
		events:             c.Events,
		log:                c.Logger,
	}
	r.loop = reconciler.Loop(c, "deployment", 5, reconcile.Config[key]{Reconcile: r.reconcile})
	workload.IndexPods(r.pods)
	reconciler.OnEach(r.deploymentInformer, func(d *apps.Deployment) { r.loop.Add(reconciler.KeyOf(d)) })
	reconciler.OnChange(r.setInformer, r.setChanged)
	reconciler.OnChange(r.pods, r.podChanged)
	return r
}

// Run works until ctx ends.
func (r *Reconciler) Run(ctx context.Context) error {
	return reconciler.Run(ctx, []cache.InformerSynced{r.deploymentInformer.HasSynced, r.setInformer.HasSynced, r.pods.HasSynced}, r.loop.Run)
}

// setChanged wakes the set's deployment, the one it had before, and for an orphan all that might adopt it.
func (r *Reconciler) setChanged(old, current *apps.ReplicaSet) {
	var oldRef, ref *metav1.OwnerReference
	if old != nil {
		oldRef = metav1.GetControllerOfNoCopy(old)
	}
	if current != nil {
		ref = metav1.GetControllerOfNoCopy(current)
	}
	if oldRef != nil && (ref == nil || ref.UID != oldRef.UID) {
		r.wake(old.Namespace, oldRef)
	}
	if ref != nil {
		r.wake(current.Namespace, ref)
		return
	}
	if current == nil || current.DeletionTimestamp != nil {
		return
	}
	all, err := r.deployments.Deployments(current.Namespace).List(labels.Everything())
	if err != nil {
		return
	}
	for _, d := range all {
		if selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector); err == nil && !selector.Empty() && selector.Matches(labels.Set(current.Labels)) {
			r.loop.Add(reconciler.KeyOf(d))
		}
	}
}

// podChanged wakes a Recreate deployment when one of its pods ends or goes:
// the last old pod lets the first new one in.
func (r *Reconciler) podChanged(old, current *v1.Pod) {
	if old == nil || (current != nil && !workload.Ended(current)) {
		return
	}
	ref := metav1.GetControllerOfNoCopy(old)
	if ref == nil || ref.Kind != "ReplicaSet" {
		return
	}
	rs, err := r.sets.ReplicaSets(old.Namespace).Get(ref.Name)
	if err != nil || rs.UID != ref.UID {
		return
	}
	owner := metav1.GetControllerOfNoCopy(rs)
	if owner == nil || owner.Kind != kind.Kind {
		return
	}
	d, err := r.deployments.Deployments(old.Namespace).Get(owner.Name)
	if err == nil && d.Spec.Strategy.Type == apps.RecreateDeploymentStrategyType {
		r.loop.Add(reconciler.KeyOf(d))
	}
}

func (r *Reconciler) wake(namespace string, ref *metav1.OwnerReference) {
	if ref.Kind == kind.Kind {
		r.loop.Add(key{Namespace: namespace, Name: ref.Name})
	}
}

func (r *Reconciler) reconcile(ctx context.Context, key key) (time.Duration, error) {
	d, err := r.deployments.Deployments(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	snapshot, err := r.snapshot(ctx, key, d)
	if err != nil {
		return 0, err
	}
	plan := Decide(snapshot)
	for _, step := range plan.Steps {
		if err := r.execute(ctx, key, d, step); err != nil {
			return 0, r.failed(ctx, key, d, step, err)
		}
	}
	if plan.StatusChanged {
		if err := r.writeStatus(ctx, key, plan.Deployment); err != nil {
			return 0, err
		}
	}
	return plan.Again, nil
}

// snapshot reads the cache, and settles which replica sets are the deployment's.
func (r *Reconciler) snapshot(ctx context.Context, key key, d *apps.Deployment) (Snapshot, error) {
	s := Snapshot{Deployment: d, Pods: map[types.UID][]*v1.Pod{}, Now: time.Now()}
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil {
		return s, fmt.Errorf("deployment %s: selector: %w", key, err)
	}
	all, err := r.sets.ReplicaSets(d.Namespace).List(labels.Everything())
	if err != nil {
		return s, err
	}
	s.ReplicaSets, err = workload.Adopter[*apps.ReplicaSet]{
		Owner: d,
		Ref:   *metav1.NewControllerRef(d, kind),
		Fresh: func(ctx context.Context) (metav1.Object, error) {
			return r.client.AppsV1().Deployments(d.Namespace).Get(ctx, d.Name, metav1.GetOptions{})
		},
		Patch: func(ctx context.Context, rs *apps.ReplicaSet, patch []byte) error {
			patched, err := r.client.AppsV1().ReplicaSets(rs.Namespace).Patch(ctx, rs.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
			if err == nil {
				r.loop.Wrote(key, r.setInformer.GetStore(), patched.ResourceVersion)
			}
			return err
		},
	}.Settle(ctx, workload.Classify(d, selector, all))
	for _, rs := range s.ReplicaSets {
		s.Pods[rs.UID] = workload.OwnedPods(r.pods.GetIndexer(), "ReplicaSet", rs, false)
	}
	return s, err
}

func (r *Reconciler) execute(ctx context.Context, key key, d *apps.Deployment, step Step) error {
	rs := step.ReplicaSet
	r.log.Debug("replica set", "deployment", key, "action", step.Action, "name", rs.Name, "replicas", *rs.Spec.Replicas, "reason", step.Reason)
	sets := r.client.AppsV1().ReplicaSets(rs.Namespace)
	var written *apps.ReplicaSet
	var err error
	switch step.Action {
	case Create:
		written, err = sets.Create(ctx, rs, metav1.CreateOptions{})
	case Update:
		written, err = sets.Update(ctx, rs, metav1.UpdateOptions{})
	case Delete:
		err = sets.Delete(ctx, rs.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(rs.UID))})
		if apierrors.IsNotFound(err) {
			err = nil
		}
		if err == nil {
			r.loop.Deleted(key, r.setInformer.GetStore(), cache.MetaObjectToName(rs).String(), rs.UID)
		}
	}
	if err != nil {
		return err
	}
	if written != nil {
		r.loop.Wrote(key, r.setInformer.GetStore(), written.ResourceVersion)
	}
	if step.Event != "" {
		r.events.Event(d, v1.EventTypeNormal, "ScalingReplicaSet", step.Event)
	}
	return nil
}

// failed handles a step that couldn't be carried out: a name that is taken, or a
// set that can't be made, is written into the deployment's status.
func (r *Reconciler) failed(ctx context.Context, key key, d *apps.Deployment, step Step, cause error) error {
	wrapped := fmt.Errorf("%s replica set %s/%s: %w", step.Action, d.Namespace, step.ReplicaSet.Name, cause)
	if step.Action != Create || apierrors.HasStatusCause(cause, v1.NamespaceTerminatingCause) {
		return wrapped
	}
	d = d.DeepCopy()
	if apierrors.IsAlreadyExists(cause) {
		existing, err := r.client.AppsV1().ReplicaSets(d.Namespace).Get(ctx, step.ReplicaSet.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if metav1.IsControlledBy(existing, d) && SameTemplate(&existing.Spec.Template, &d.Spec.Template) {
			// Made by a predecessor, and not in the cache yet: its event brings the next turn.
			r.loop.Wrote(key, r.setInformer.GetStore(), existing.ResourceVersion)
			return wrapped
		}
		// Another template with the same hash: count the collision into the next one.
		count := int32(1)
		if d.Status.CollisionCount != nil {
			count += *d.Status.CollisionCount
		}
		d.Status.CollisionCount = &count
		r.log.Info("hash collision, counting it into the next name", "deployment", key, "name", step.ReplicaSet.Name, "collisions", count)
	} else {
		message := fmt.Sprintf("Failed to create new replica set %q: %v", step.ReplicaSet.Name, cause)
		r.events.Event(d, v1.EventTypeWarning, FailedRSCreateReason, message)
		if !hasDeadline(d) {
			return wrapped
		}
		now := metav1.Now()
		setCondition(&d.Status, apps.DeploymentCondition{
			Type: apps.DeploymentProgressing, Status: v1.ConditionFalse, Reason: FailedRSCreateReason, Message: message,
			LastUpdateTime: now, LastTransitionTime: now,
		})
	}
	if err := r.writeStatus(ctx, key, d); err != nil {
		r.log.Warn("status not written", "deployment", key, "err", err)
	}
	return wrapped
}

func (r *Reconciler) writeStatus(ctx context.Context, key key, d *apps.Deployment) error {
	updated, err := r.client.AppsV1().Deployments(d.Namespace).UpdateStatus(ctx, d, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("update status: %w", err)
	}
	r.loop.Wrote(key, r.deploymentInformer.GetStore(), updated.ResourceVersion)
	return nil
}
