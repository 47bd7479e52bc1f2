package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"

	"skiff/pkg/api"
	"skiff/pkg/store"
)

// evict deletes a pod if its disruption budget allows it.
func (s *server) evict(w http.ResponseWriter, r *http.Request, c *call, eviction *policyv1.Eviction, options *metav1.CreateOptions) error {
	if eviction.Name != c.key.Name {
		return apierrors.NewBadRequest("name in URL does not match name in Eviction object")
	}
	deletion := eviction.DeleteOptions
	switch {
	case deletion == nil:
		deletion = &metav1.DeleteOptions{DryRun: options.DryRun}
	case len(deletion.DryRun) == 0:
		deletion.DryRun = options.DryRun
	case len(options.DryRun) > 0 && !slices.Equal(options.DryRun, deletion.DryRun):
		//lint:ignore ST1005 Kubernetes' own words
		return fmt.Errorf("Non-matching dry-run options in request and content: %v and %v", options.DryRun, deletion.DryRun)
	}
	if err := s.admitAction(r, c, eviction, options); err != nil {
		return err
	}
	if err := s.disrupt(r.Context(), c, deletion); err != nil {
		return err
	}
	s.writeSuccess(w, r, c)
	return nil
}

// evictionTries bounds how often an eviction races with others' writes.
const evictionTries = 20

// disrupt takes the disruption from the pod's budget, if it has one, and deletes the pod.
func (s *server) disrupt(ctx context.Context, c *call, deletion *metav1.DeleteOptions) error {
	insists := deletion.Preconditions != nil && deletion.Preconditions.ResourceVersion != nil
	for try := 0; ; try++ {
		entry, err := s.store.Get(ctx, c.kind, c.key, 0)
		if err != nil {
			return err
		}
		obj, err := entry.As(c.kind)
		if err != nil {
			return err
		}
		pod := obj.(*corev1.Pod)
		over := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed || pod.DeletionTimestamp != nil
		if !over && pod.Status.Phase != corev1.PodPending {
			break
		}
		// Such a pod serves nobody, so that no budget is touched. A pending one must stay as it is, though.
		once := deletion.DeepCopy()
		if !over && !insists {
			setRevision(once, pod.ResourceVersion)
		}
		err = s.evictNow(ctx, c, once)
		if !apierrors.IsConflict(err) || insists || try >= evictionTries {
			return err
		}
	}
	return s.disruptRunning(ctx, c, deletion, insists)
}

// disruptRunning is disrupt for a pod that a budget may protect.
func (s *server) disruptRunning(ctx context.Context, c *call, deletion *metav1.DeleteOptions, insists bool) error {
	entry, err := s.store.Get(ctx, c.kind, c.key, 0)
	if err != nil {
		return err
	}
	obj, err := entry.As(c.kind)
	if err != nil {
		return err
	}
	pod := obj.(*corev1.Pod)
	budgets, err := s.budgetsOf(ctx, pod)
	if err != nil {
		return err
	}
	if len(budgets) > 1 {
		return &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: http.StatusInternalServerError,
			Message: "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
		}}
	}
	if len(budgets) == 0 {
		return s.evictNow(ctx, c, deletion)
	}
	budget := budgets[0]
	if !ready(pod) && unhealthyMayGo(budget) {
		// It must still be unready when it is deleted.
		once := deletion.DeepCopy()
		if !insists {
			setRevision(once, pod.ResourceVersion)
		}
		err := s.evictNow(ctx, c, once)
		if apierrors.IsConflict(err) && !insists {
			return tooMany(budget.Name)
		}
		return err
	}
	if err := s.takeDisruption(ctx, budget, pod.Name, isDryRun(deletion.DryRun)); err != nil {
		return err
	}
	return s.evictNow(ctx, c, deletion)
}

func setRevision(o *metav1.DeleteOptions, resourceVersion string) {
	if o.Preconditions == nil {
		o.Preconditions = &metav1.Preconditions{}
	}
	o.Preconditions.ResourceVersion = &resourceVersion
}

func ready(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// unhealthyMayGo: pods that aren't ready are not what the budget protects.
func unhealthyMayGo(b *policyv1.PodDisruptionBudget) bool {
	if ptr.Deref(b.Spec.UnhealthyPodEvictionPolicy, "") == policyv1.AlwaysAllow {
		return true
	}
	return b.Status.CurrentHealthy >= b.Status.DesiredHealthy && b.Status.DesiredHealthy > 0
}

// budgetsOf are the budgets whose selector matches a pod.
func (s *server) budgetsOf(ctx context.Context, pod *corev1.Pod) ([]*policyv1.PodDisruptionBudget, error) {
	kind := s.kind(policyv1.SchemeGroupVersion.WithKind("PodDisruptionBudget"))
	page, err := s.store.List(ctx, kind, store.Query{Namespace: pod.Namespace})
	if err != nil {
		return nil, err
	}
	var found []*policyv1.PodDisruptionBudget
	for _, entry := range page.Entries {
		obj, err := entry.As(kind)
		if err != nil {
			return nil, err
		}
		budget := obj.(*policyv1.PodDisruptionBudget)
		selector, err := metav1.LabelSelectorAsSelector(budget.Spec.Selector)
		if err == nil && selector.Matches(labels.Set(pod.Labels)) {
			found = append(found, budget)
		}
	}
	return found, nil
}

// takeDisruption counts one disruption against a budget, for the disruption controller to see.
func (s *server) takeDisruption(ctx context.Context, budget *policyv1.PodDisruptionBudget, pod string, dryRun bool) error {
	kind := s.kind(policyv1.SchemeGroupVersion.WithKind("PodDisruptionBudget"))
	if dryRun {
		return spend(budget, pod)
	}
	key := store.Key{Path: kind.StoragePath, Namespace: budget.Namespace, Name: budget.Name}
	_, err := s.store.Update(ctx, kind, key, store.Write{}, func(current api.Object) (api.Object, error) {
		b := current.(*policyv1.PodDisruptionBudget)
		return b, spend(b, pod)
	})
	return err
}

// maxDisrupted bounds the evictions that the disruption controller hasn't confirmed.
const maxDisrupted = 2000

func spend(b *policyv1.PodDisruptionBudget, pod string) error {
	budgets := policyv1.Resource("poddisruptionbudget")
	switch {
	case b.Status.ObservedGeneration < b.Generation:
		return tooMany(b.Name)
	case b.Status.DisruptionsAllowed < 0:
		return apierrors.NewForbidden(budgets, b.Name, fmt.Errorf("pdb disruptions allowed is negative"))
	case len(b.Status.DisruptedPods) > maxDisrupted:
		return apierrors.NewForbidden(budgets, b.Name, fmt.Errorf("DisruptedPods map too big - too many evictions not confirmed by PDB controller"))
	case b.Status.DisruptionsAllowed == 0:
		return exhausted(b)
	}
	b.Status.DisruptionsAllowed--
	if b.Status.DisruptionsAllowed == 0 {
		meta.SetStatusCondition(&b.Status.Conditions, metav1.Condition{
			Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse,
			Reason: policyv1.InsufficientPodsReason, ObservedGeneration: b.Status.ObservedGeneration,
		})
	}
	if b.Status.DisruptedPods == nil {
		b.Status.DisruptedPods = map[string]metav1.Time{}
	}
	b.Status.DisruptedPods[pod] = metav1.NewTime(time.Now().Truncate(time.Second))
	return nil
}

const evictionRefused = "Cannot evict pod as it would violate the pod's disruption budget."

func tooMany(budget string) error {
	err := apierrors.NewTooManyRequests(evictionRefused, 10)
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{
		Type: policyv1.DisruptionBudgetCause, Message: fmt.Sprintf("The disruption budget %s is still being processed by the server.", budget),
	})
	return err
}

func exhausted(b *policyv1.PodDisruptionBudget) error {
	err := apierrors.NewTooManyRequests(evictionRefused, 0)
	condition := meta.FindStatusCondition(b.Status.Conditions, policyv1.DisruptionAllowedCondition)
	says := condition != nil && condition.Status == metav1.ConditionFalse && condition.Message != ""
	var text string
	switch {
	case says && condition.Reason == policyv1.SyncFailedReason:
		text = fmt.Sprintf("The disruption budget %s does not allow evicting pods currently because it failed sync: %s", b.Name, condition.Message)
	case b.Status.CurrentHealthy <= b.Status.DesiredHealthy:
		text = fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently", b.Name, b.Status.DesiredHealthy, b.Status.CurrentHealthy)
	case says:
		text = fmt.Sprintf("The disruption budget %s does not allow evicting pods currently (%s): %s", b.Name, condition.Reason, condition.Message)
	default:
		text = fmt.Sprintf("The disruption budget %s does not allow evicting pods currently", b.Name)
	}
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: policyv1.DisruptionBudgetCause, Message: text})
	return err
}

// evictNow notes the reason in the pod's conditions and deletes it.
func (s *server) evictNow(ctx context.Context, c *call, deletion *metav1.DeleteOptions) error {
	if !isDryRun(deletion.DryRun) {
		write, err := s.newWrite(ctx, c, nil)
		if err != nil {
			return err
		}
		entry, err := s.store.Update(ctx, c.kind, c.key, write, func(current api.Object) (api.Object, error) {
			if err := deletionPrecondition(c, current, deletion); err != nil {
				return nil, err
			}
			pod := current.(*corev1.Pod)
			setPodCondition(&pod.Status, corev1.PodCondition{
				Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue,
				Reason: "EvictionByEvictionAPI", Message: "Eviction API: evicting",
			})
			return pod, nil
		})
		if err != nil {
			return err
		}
		if deletion.Preconditions != nil && deletion.Preconditions.ResourceVersion != nil {
			deletion = deletion.DeepCopy()
			setRevision(deletion, fmt.Sprint(entry.Revision))
		}
	}
	_, err := s.deletionOf(ctx, c, deletion, true)
	return err
}
