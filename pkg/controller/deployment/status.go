package deployment

import (
	"fmt"
	"math"
	"slices"
	"time"

	apps "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Reasons of the conditions Progressing and Available.
const (
	ReplicaSetUpdatedReason    = "ReplicaSetUpdated"
	FailedRSCreateReason       = "ReplicaSetCreateError"
	NewReplicaSetReason        = "NewReplicaSetCreated"
	FoundNewRSReason           = "FoundNewReplicaSet"
	NewRSAvailableReason       = "NewReplicaSetAvailable"
	TimedOutReason             = "ProgressDeadlineExceeded"
	PausedDeployReason         = "DeploymentPaused"
	ResumedDeployReason        = "DeploymentResumed"
	MinimumReplicasAvailable   = "MinimumReplicasAvailable"
	MinimumReplicasUnavailable = "MinimumReplicasUnavailable"
)

// counted is the status by the sets' own counts, and whether enough is available.
func (r *rollout) counted() apps.DeploymentStatus {
	all := r.reportedSets()
	available := total(all, availableReplicas)
	status := apps.DeploymentStatus{
		ObservedGeneration:  r.d.Generation,
		Replicas:            total(all, actualReplicas),
		ReadyReplicas:       total(all, readyReplicas),
		AvailableReplicas:   available,
		UnavailableReplicas: max(0, total(all, specReplicas)-available),
		TerminatingReplicas: terminating(all),
		CollisionCount:      r.d.Status.CollisionCount,
		Conditions:          slices.Clone(r.d.Status.Conditions),
	}
	if r.newSet != nil {
		status.UpdatedReplicas = r.newSet.Status.Replicas
	}
	if available >= *r.d.Spec.Replicas-maxUnavailable(r.d) {
		r.note(&status, apps.DeploymentAvailable, v1.ConditionTrue, MinimumReplicasAvailable, "Deployment has minimum availability.")
	} else {
		r.note(&status, apps.DeploymentAvailable, v1.ConditionFalse, MinimumReplicasUnavailable, "Deployment does not have minimum availability.")
	}
	return status
}

func (r *rollout) reportedSets() []*apps.ReplicaSet {
	return slices.DeleteFunc(r.all(), func(rs *apps.ReplicaSet) bool { return slices.Contains(r.deleted, rs) })
}

// terminating is nil while a set that has been looked at doesn't report the number
// (it was last looked at by a controller that doesn't know it).
func terminating(sets []*apps.ReplicaSet) *int32 {
	sum := int32(0)
	for _, rs := range sets {
		switch n := rs.Status.TerminatingReplicas; {
		case n != nil:
			sum += *n
		case rs.Status.ObservedGeneration != 0:
			return nil
		}
	}
	return &sum
}

// progressed is the status with the conditions Progressing and ReplicaFailure brought up to date.
func (r *rollout) progressed() apps.DeploymentStatus {
	status := r.counted()
	if !hasDeadline(r.d) {
		status.Conditions = without(status.Conditions, apps.DeploymentProgressing)
	}
	current := condition(r.d.Status, apps.DeploymentProgressing)
	finished := status.Replicas == status.UpdatedReplicas && current != nil && current.Reason == NewRSAvailableReason
	if hasDeadline(r.d) && !finished {
		subject := fmt.Sprintf("Deployment %q", r.d.Name)
		if r.newSet != nil {
			subject = fmt.Sprintf("ReplicaSet %q", r.newSet.Name)
		}
		switch {
		case complete(r.d, status):
			r.note(&status, apps.DeploymentProgressing, v1.ConditionTrue, NewRSAvailableReason, subject+" has successfully progressed.")
		case r.moved(status):
			r.noteProgress(&status, current, subject+" is progressing.")
		case r.timedOut(status):
			r.note(&status, apps.DeploymentProgressing, v1.ConditionFalse, TimedOutReason, subject+" has timed out progressing.")
		}
	}
	if failure := r.replicaFailure(); failure != nil {
		setCondition(&status, *failure)
	} else {
		status.Conditions = without(status.Conditions, apps.DeploymentReplicaFailure)
	}
	return status
}

// noteProgress renews lastUpdateTime at each sign of progress, although status
// and reason may stay: the deadline runs from there.
func (r *rollout) noteProgress(status *apps.DeploymentStatus, current *apps.DeploymentCondition, message string) {
	now := metav1.NewTime(r.s.Now)
	renewed := apps.DeploymentCondition{
		Type: apps.DeploymentProgressing, Status: v1.ConditionTrue, Reason: ReplicaSetUpdatedReason, Message: message,
		LastUpdateTime: now, LastTransitionTime: now,
	}
	if current != nil && current.Status == v1.ConditionTrue {
		renewed.LastTransitionTime = current.LastTransitionTime
	}
	status.Conditions = append(without(status.Conditions, apps.DeploymentProgressing), renewed)
}

// moved says whether status is further than what was reported last.
func (r *rollout) moved(status apps.DeploymentStatus) bool {
	before := r.d.Status
	return status.UpdatedReplicas > before.UpdatedReplicas ||
		status.Replicas-status.UpdatedReplicas < before.Replicas-before.UpdatedReplicas ||
		status.ReadyReplicas > before.ReadyReplicas ||
		status.AvailableReplicas > before.AvailableReplicas
}

func (r *rollout) timedOut(status apps.DeploymentStatus) bool {
	progressing := condition(status, apps.DeploymentProgressing)
	switch {
	case progressing == nil || progressing.Reason == NewRSAvailableReason:
		return false
	case progressing.Reason == TimedOutReason:
		return true
	}
	return progressing.LastUpdateTime.Add(r.deadline()).Before(r.s.Now)
}

func (r *rollout) deadline() time.Duration {
	return time.Duration(*r.d.Spec.ProgressDeadlineSeconds) * time.Second
}

// deadlineCheck is when to look whether the progress deadline has been missed.
func (r *rollout) deadlineCheck() time.Duration {
	if r.d.DeletionTimestamp != nil || r.d.Spec.Paused || !hasDeadline(r.d) {
		return 0
	}
	progressing := condition(r.status, apps.DeploymentProgressing)
	if progressing == nil || progressing.Reason == TimedOutReason || complete(r.d, r.status) {
		return 0
	}
	// A second more: the condition's time has lost its fraction.
	return max(time.Second, progressing.LastUpdateTime.Add(r.deadline()).Sub(r.s.Now)+time.Second)
}

// notePause makes Progressing unknown while paused, and again on resuming, so that
// the time of a pause doesn't count against the deadline.
func (r *rollout) notePause() {
	if !hasDeadline(r.d) {
		return
	}
	current := condition(r.d.Status, apps.DeploymentProgressing)
	if current != nil && current.Reason == TimedOutReason {
		return
	}
	noted := current != nil && current.Reason == PausedDeployReason
	switch {
	case r.d.Spec.Paused && !noted:
		r.note(&r.d.Status, apps.DeploymentProgressing, v1.ConditionUnknown, PausedDeployReason, "Deployment is paused")
	case !r.d.Spec.Paused && noted:
		r.note(&r.d.Status, apps.DeploymentProgressing, v1.ConditionUnknown, ResumedDeployReason, "Deployment is resumed")
	}
}

// replicaFailure is the failure that a set reports, the new one's first.
func (r *rollout) replicaFailure() *apps.DeploymentCondition {
	sets := r.reportedSets()
	slices.Reverse(sets) // the new set is last
	for _, rs := range sets {
		for _, c := range rs.Status.Conditions {
			if c.Type == apps.ReplicaSetReplicaFailure {
				return &apps.DeploymentCondition{
					Type: apps.DeploymentReplicaFailure, Status: c.Status, Reason: c.Reason, Message: c.Message,
					LastTransitionTime: c.LastTransitionTime, LastUpdateTime: c.LastTransitionTime,
				}
			}
		}
	}
	return nil
}

// note sets a condition with the current time.
func (r *rollout) note(status *apps.DeploymentStatus, kind apps.DeploymentConditionType, value v1.ConditionStatus, reason, message string) {
	now := metav1.NewTime(r.s.Now)
	setCondition(status, apps.DeploymentCondition{
		Type: kind, Status: value, Reason: reason, Message: message, LastUpdateTime: now, LastTransitionTime: now,
	})
}

// setCondition leaves a condition of the same status and reason as it is.
func setCondition(status *apps.DeploymentStatus, c apps.DeploymentCondition) {
	current := condition(*status, c.Type)
	if current != nil && current.Status == c.Status {
		if current.Reason == c.Reason {
			return
		}
		c.LastTransitionTime = current.LastTransitionTime
	}
	status.Conditions = append(without(status.Conditions, c.Type), c)
}

func condition(status apps.DeploymentStatus, kind apps.DeploymentConditionType) *apps.DeploymentCondition {
	for _, c := range status.Conditions {
		if c.Type == kind {
			return &c
		}
	}
	return nil
}

func without(conditions []apps.DeploymentCondition, kind apps.DeploymentConditionType) []apps.DeploymentCondition {
	return slices.DeleteFunc(slices.Clone(conditions), func(c apps.DeploymentCondition) bool { return c.Type == kind })
}

// complete says that all replicas are new and available, and no old one is left.
func complete(d *apps.Deployment, status apps.DeploymentStatus) bool {
	want := *d.Spec.Replicas
	return status.UpdatedReplicas == want && status.Replicas == want && status.AvailableReplicas == want &&
		status.ObservedGeneration >= d.Generation
}

func hasDeadline(d *apps.Deployment) bool {
	return d.Spec.ProgressDeadlineSeconds != nil && *d.Spec.ProgressDeadlineSeconds != math.MaxInt32
}
