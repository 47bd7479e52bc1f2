// Package disruption keeps the status of pod disruption budgets, which is what evictions ask: how many of
// the pods that a budget selects may be disrupted now.
//
// An eviction takes one from the budget before it deletes the pod, and notes the pod in the
// budget's status; here the note is taken away when the pod is going, or, with an event, when it is
// not after two minutes. Pods on which a disruption was announced that didn't come are told so as well.
package disruption

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	policylisters "k8s.io/client-go/listers/policy/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"skiff/pkg/controller/reconciler"
	"skiff/pkg/controller/workload"
	"skiff/pkg/reconcile"
)

type key = reconciler.Key

// Reconciler keeps the budgets of a cluster.
type Reconciler struct {
	client  kubernetes.Interface
	budgets policylisters.PodDisruptionBudgetLister
	pods    corelisters.PodLister
	store   cache.Store // of budgets
	scales  scales
	synced  []cache.InformerSynced
	events  record.EventRecorder
	loop    *reconcile.Loop[key]
	stale   *reconcile.Loop[key] // of pods
	log     *slog.Logger
}

// New makes the reconciler.
func New(c reconciler.Config) *Reconciler {
	core, apps, budgets := c.Informers.Core().V1(), c.Informers.Apps().V1(), c.Informers.Policy().V1().PodDisruptionBudgets()
	r := &Reconciler{
		client: c.Client, budgets: budgets.Lister(), pods: core.Pods().Lister(), store: budgets.Informer().GetStore(), events: c.Events, log: c.Logger,
		scales: scales{
			client: c.Client, get: getScale(c.Client), controllers: core.ReplicationControllers().Lister(),
			sets: apps.ReplicaSets().Lister(), deployments: apps.Deployments().Lister(), statefulSets: apps.StatefulSets().Lister(),
		},
	}
	for _, informer := range []cache.SharedIndexInformer{
		budgets.Informer(), core.Pods().Informer(), core.ReplicationControllers().Informer(),
		apps.ReplicaSets().Informer(), apps.Deployments().Informer(), apps.StatefulSets().Informer(),
	} {
		r.synced = append(r.synced, informer.HasSynced)
	}
	r.loop = reconciler.Loop(c, "disruption", 5, reconcile.Config[key]{Reconcile: r.reconcile, MaxDelay: time.Minute})
	r.stale = reconciler.Loop(c, "stale_pod_disruption", 1, reconcile.Config[key]{Reconcile: r.clear, MaxDelay: time.Minute})
	reconciler.OnChange(budgets.Informer(), func(_, current *policyv1.PodDisruptionBudget) {
		if current != nil {
			r.loop.Add(reconciler.KeyOf(current))
		}
	})
	reconciler.OnChange(core.Pods().Informer(), r.podChanged)
	return r
}

// Run works until ctx ends.
func (r *Reconciler) Run(ctx context.Context) error {
	return reconciler.Run(ctx, r.synced, r.loop.Run, r.stale.Run)
}

func (r *Reconciler) podChanged(old, current *v1.Pod) {
	for _, pod := range []*v1.Pod{old, current} {
		if pod == nil {
			continue
		}
		all, err := r.budgets.GetPodPodDisruptionBudgets(pod)
		if err != nil {
			continue // there is none
		}
		for _, budget := range all {
			r.loop.Add(reconciler.KeyOf(budget))
		}
		if len(all) > 1 && old == nil {
			r.events.Eventf(pod, v1.EventTypeWarning, "MultiplePodDisruptionBudgets", "Pod %q/%q matches multiple PodDisruptionBudgets.", pod.Namespace, pod.Name)
		}
	}
	if current == nil {
		return
	}
	if wait, is := stale(current, time.Now()); is {
		r.stale.AddAfter(reconciler.KeyOf(current), wait)
	}
}

func (r *Reconciler) reconcile(ctx context.Context, key key) (time.Duration, error) {
	budget, err := r.budgets.PodDisruptionBudgets(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	plan, err := r.plan(ctx, budget)
	if err != nil {
		// Nothing may be disrupted by a status that isn't known to be right.
		if closed := failed(budget, err); !apiequality.Semantic.DeepEqual(closed.Status, budget.Status) {
			if writeErr := r.write(ctx, closed); writeErr != nil {
				return 0, writeErr
			}
		}
		return 0, err
	}
	for _, pod := range plan.Overdue {
		r.events.Eventf(pod, v1.EventTypeWarning, "NotDeleted", "Pod was expected by PDB %s/%s to be deleted but it wasn't", budget.Namespace, budget.Name)
	}
	if plan.Write != nil {
		if err := r.write(ctx, plan.Write); err != nil {
			return 0, err
		}
	}
	return plan.Again, nil
}

func (r *Reconciler) plan(ctx context.Context, budget *policyv1.PodDisruptionBudget) (Plan, error) {
	s := Snapshot{Budget: budget, Now: time.Now()}
	selector, err := metav1.LabelSelectorAsSelector(budget.Spec.Selector)
	if err == nil {
		s.Pods, err = r.pods.Pods(budget.Namespace).List(selector)
	}
	if err != nil {
		r.events.Eventf(budget, v1.EventTypeWarning, "NoPods", "Failed to get pods: %v", err)
		return Plan{}, err
	}
	if len(s.Pods) == 0 {
		r.events.Eventf(budget, v1.EventTypeNormal, "NoPods", "No matching pods found")
	}
	var unmanaged []string
	if needsScale(budget.Spec) {
		s.Scale, unmanaged, err = r.scales.sum(ctx, s.Pods)
	}
	var plan Plan
	if err == nil {
		plan, err = Decide(s)
	}
	if err != nil {
		r.events.Eventf(budget, v1.EventTypeWarning, "CalculateExpectedPodCountFailed", "Failed to calculate the number of expected pods: %v", err)
		return Plan{}, err
	}
	if len(unmanaged) > 0 {
		r.events.Eventf(budget, v1.EventTypeWarning, "UnmanagedPods", "Pods selected by this PodDisruptionBudget (selector: %v) were found "+
			"to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. "+
			"To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.", budget.Spec.Selector)
	}
	return plan, nil
}

func (r *Reconciler) write(ctx context.Context, budget *policyv1.PodDisruptionBudget) error {
	written, err := r.client.PolicyV1().PodDisruptionBudgets(budget.Namespace).UpdateStatus(ctx, budget, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("update status of pod disruption budget: %w", err)
	}
	r.loop.Wrote(reconciler.KeyOf(budget), r.store, written.ResourceVersion)
	return nil
}

// clear takes back the announcement of a disruption that hasn't come.
func (r *Reconciler) clear(ctx context.Context, key key) (time.Duration, error) {
	pod, err := r.pods.Pods(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	wait, is := stale(pod, time.Now())
	if !is || wait > 0 {
		return wait, nil
	}
	r.log.Info("a disruption that was announced hasn't come", "pod", key)
	pod = pod.DeepCopy()
	*workload.Condition(pod, v1.DisruptionTarget) = v1.PodCondition{
		Type: v1.DisruptionTarget, Status: v1.ConditionFalse, ObservedGeneration: pod.Generation, LastTransitionTime: metav1.Now(),
	}
	_, err = r.client.CoreV1().Pods(key.Namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{})
	return 0, err
}
