package replicaset

import (
	"fmt"
	"slices"
	"time"

	apps "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"skiff/pkg/controller/workload"
)

// burst bounds how many pods one turn creates or deletes.
const burst = 500

// Snapshot is what a plan is made from.
type Snapshot struct {
	Set         *apps.ReplicaSet
	Active      []*v1.Pod // owned, running or about to
	Terminating []*v1.Pod // owned, being deleted
	// Related are the pods of all sets of the same controller: deletion thins out
	// the nodes that hold many of them.
	Related []*v1.Pod
	Now     time.Time
}

// Plan is what one turn does: create some, or delete some, or neither.
type Plan struct {
	Create int
	Delete []*v1.Pod
	Reason string
}

// Decide compares the active pods with the wanted number.
func Decide(s Snapshot) Plan {
	want, have := int(*s.Set.Spec.Replicas), len(s.Active)
	switch {
	case s.Set.DeletionTimestamp != nil:
		return Plan{Reason: "the set is being deleted"}
	case have < want:
		return Plan{Create: min(want-have, burst), Reason: fmt.Sprintf("too few replicas: have %d, need %d", have, want)}
	case have > want:
		count := min(have-want, burst)
		return Plan{
			Delete: workload.RankForDeletion(s.Active, s.Related, s.Now)[:count],
			Reason: fmt.Sprintf("too many replicas: have %d, need %d", have, want),
		}
	}
	return Plan{Reason: "as many replicas as wanted"}
}

// Status is what the set should report, failure being the error of carrying out the
// plan (nil when it went well).
func Status(s Snapshot, failure error) apps.ReplicaSetStatus {
	status := *s.Set.Status.DeepCopy()
	template := labels.SelectorFromSet(s.Set.Spec.Template.Labels)
	status.Replicas = int32(len(s.Active))
	status.FullyLabeledReplicas, status.ReadyReplicas, status.AvailableReplicas = 0, 0, 0
	for _, pod := range s.Active {
		if template.Matches(labels.Set(pod.Labels)) {
			status.FullyLabeledReplicas++
		}
		if workload.Ready(pod) {
			status.ReadyReplicas++
		}
		if workload.Available(pod, s.Set.Spec.MinReadySeconds, s.Now) {
			status.AvailableReplicas++
		}
	}
	terminating := int32(len(s.Terminating))
	status.TerminatingReplicas = &terminating
	status.Conditions = conditions(s, failure)
	status.ObservedGeneration = s.Set.Generation
	return status
}

// conditions has ReplicaFailure while the plan can't be carried out. The first
// failure stays until all is well: messages that differ only by a pod's name would
// otherwise rewrite the status on each try.
func conditions(s Snapshot, failure error) []apps.ReplicaSetCondition {
	isFailure := func(c apps.ReplicaSetCondition) bool { return c.Type == apps.ReplicaSetReplicaFailure }
	old := s.Set.Status.Conditions
	switch failed := slices.ContainsFunc(old, isFailure); {
	case failure == nil && failed:
		return slices.DeleteFunc(slices.Clone(old), isFailure)
	case failure == nil || failed:
		return old
	}
	reason := ""
	if want := int(*s.Set.Spec.Replicas); len(s.Active) < want {
		reason = "FailedCreate"
	} else if len(s.Active) > want {
		reason = "FailedDelete"
	}
	return append(slices.Clone(old), apps.ReplicaSetCondition{
		Type:               apps.ReplicaSetReplicaFailure,
		Status:             v1.ConditionTrue,
		LastTransitionTime: metav1.NewTime(s.Now),
		Reason:             reason,
		Message:            failure.Error(),
	})
}
