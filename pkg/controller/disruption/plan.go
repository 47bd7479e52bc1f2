package disruption

import (
	"time"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	budgethelper "k8s.io/component-helpers/apps/poddisruptionbudget"

	"skiff/pkg/controller/workload"
)

const (
	// DeletionTimeout is how long an evicted pod counts as good as deleted, while it isn't.
	DeletionTimeout = 2 * time.Minute
	// StaleTimeout is how long a pod that is no more than announced to be disrupted is believed to be.
	StaleTimeout = 2 * time.Minute
)

// Snapshot is what a budget's status is decided from.
type Snapshot struct {
	Budget *policyv1.PodDisruptionBudget
	Pods   []*v1.Pod // that the budget selects
	Scale  int32     // sum of what the pods' controllers want, where [needsScale]
	Now    time.Time
}

// Plan is the status that a budget should have.
type Plan struct {
	Write   *policyv1.PodDisruptionBudget // nil: it has it
	Again   time.Duration                 // when an eviction that hasn't happened expires; 0: none
	Overdue []*v1.Pod                     // evicted, but never deleted
}

// needsScale says whether a budget is relative to how many pods there should be.
func needsScale(spec policyv1.PodDisruptionBudgetSpec) bool {
	return spec.MaxUnavailable != nil || spec.MinAvailable != nil && spec.MinAvailable.Type == intstr.String
}

// Decide computes the status of a budget.
func Decide(s Snapshot) (Plan, error) {
	expected, desired, err := wanted(s)
	if err != nil {
		return Plan{}, err
	}
	p := Plan{}
	disrupted := s.disrupted(&p)
	var healthy int32
	for _, pod := range s.Pods {
		if _, going := disrupted[pod.Name]; pod.DeletionTimestamp == nil && !going && workload.Ready(pod) {
			healthy++
		}
	}
	// Of no expected pods none may be disrupted: the first ones may have come before this status.
	var allowed int32
	if expected > 0 {
		allowed = max(healthy-desired, 0)
	}
	next := s.Budget.DeepCopy()
	next.Status = policyv1.PodDisruptionBudgetStatus{
		CurrentHealthy: healthy, DesiredHealthy: desired, ExpectedPods: expected, DisruptionsAllowed: allowed,
		DisruptedPods: disrupted, ObservedGeneration: s.Budget.Generation, Conditions: next.Status.Conditions,
	}
	budgethelper.UpdateDisruptionAllowedCondition(next)
	if !sameStatus(s.Budget, next) {
		p.Write = next
	}
	return p, nil
}

func sameStatus(old, next *policyv1.PodDisruptionBudget) bool {
	a, b := old.Status, next.Status
	a.Conditions, b.Conditions = nil, nil
	return budgethelper.ConditionsAreUpToDate(old) && apiequality.Semantic.DeepEqual(a, b)
}

// wanted is how many pods there should be, and how many of them healthy.
func wanted(s Snapshot) (expected, healthy int32, err error) {
	spec := s.Budget.Spec
	if !needsScale(spec) {
		if spec.MinAvailable != nil {
			return int32(len(s.Pods)), spec.MinAvailable.IntVal, nil
		}
		return 0, 0, nil
	}
	limit := spec.MinAvailable
	if spec.MaxUnavailable != nil {
		limit = spec.MaxUnavailable
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(limit, int(s.Scale), true)
	if err != nil {
		return 0, 0, err
	}
	if spec.MaxUnavailable != nil {
		return s.Scale, max(s.Scale-int32(n), 0), nil
	}
	return s.Scale, int32(n), nil
}

// disrupted are the evictions that are still to be believed: the pod exists, isn't being deleted yet, and should soon be.
func (s Snapshot) disrupted(p *Plan) map[string]metav1.Time {
	going := map[string]metav1.Time{}
	for _, pod := range s.Pods {
		since, evicted := s.Budget.Status.DisruptedPods[pod.Name]
		if !evicted || pod.DeletionTimestamp != nil {
			continue
		}
		left := since.Add(DeletionTimeout).Sub(s.Now)
		if left <= 0 {
			p.Overdue = append(p.Overdue, pod)
			continue
		}
		going[pod.Name] = since
		if p.Again == 0 || left < p.Again {
			p.Again = left
		}
	}
	return going
}

// failed is the budget that lets nothing be disrupted, because its status can't be computed.
func failed(b *policyv1.PodDisruptionBudget, why error) *policyv1.PodDisruptionBudget {
	b = b.DeepCopy()
	b.Status.DisruptionsAllowed = 0
	apimeta.SetStatusCondition(&b.Status.Conditions, metav1.Condition{
		Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.SyncFailedReason,
		Message: why.Error(), ObservedGeneration: b.Status.ObservedGeneration,
	})
	return b
}

// stale says whether a pod still carries the announcement of a disruption that seems not to come, and how
// long that has to be waited for. What a kubelet announces may take any time.
func stale(pod *v1.Pod, now time.Time) (wait time.Duration, is bool) {
	c := workload.Condition(pod, v1.DisruptionTarget)
	if c == nil || c.Status != v1.ConditionTrue || c.Reason == v1.PodReasonTerminationByKubelet || pod.DeletionTimestamp != nil || workload.Ended(pod) {
		return 0, false
	}
	return max(c.LastTransitionTime.Add(StaleTimeout).Sub(now), 0), true
}
