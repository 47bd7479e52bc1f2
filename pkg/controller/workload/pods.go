package workload

import (
	"maps"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Active says whether a pod counts as a replica: it hasn't ended and isn't being deleted.
func Active(pod *v1.Pod) bool {
	return !Ended(pod) && pod.DeletionTimestamp == nil
}

// Ended says whether all containers of a pod have stopped for good.
func Ended(pod *v1.Pod) bool {
	return pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed
}

// Terminating says whether a pod is being deleted and may still be running.
func Terminating(pod *v1.Pod) bool {
	return !Ended(pod) && pod.DeletionTimestamp != nil
}

// Condition returns a pod's condition of one type, nil when it has none.
func Condition(pod *v1.Pod, kind v1.PodConditionType) *v1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == kind {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

// Ready says whether the pod's Ready condition is true.
func Ready(pod *v1.Pod) bool {
	ready := Condition(pod, v1.PodReady)
	return ready != nil && ready.Status == v1.ConditionTrue
}

// Available says whether a pod has been ready for at least minReadySeconds.
func Available(pod *v1.Pod, minReadySeconds int32, now time.Time) bool {
	if !Ready(pod) {
		return false
	}
	if minReadySeconds == 0 {
		return true
	}
	since := Condition(pod, v1.PodReady).LastTransitionTime
	return !since.IsZero() && !since.Add(time.Duration(minReadySeconds)*time.Second).After(now)
}

// NextAvailable returns how long it takes until the next of the ready pods
// becomes available; 0 when there is none to wait for.
func NextAvailable(pods []*v1.Pod, minReadySeconds int32, now time.Time) time.Duration {
	var next time.Duration
	if minReadySeconds <= 0 {
		return 0
	}
	for _, pod := range pods {
		if !Ready(pod) {
			continue
		}
		since := Condition(pod, v1.PodReady).LastTransitionTime
		if since.IsZero() {
			continue
		}
		wait := since.Add(time.Duration(minReadySeconds) * time.Second).Sub(now)
		if wait > 0 && (next == 0 || wait < next) {
			next = wait
		}
	}
	return next
}

// PodFromTemplate makes the pod that owner's template describes: a generated
// name, and owner as its controller.
func PodFromTemplate(template *v1.PodTemplateSpec, owner metav1.Object, ref metav1.OwnerReference) *v1.Pod {
	pod := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       owner.GetNamespace(),
			GenerateName:    NamePrefix(owner.GetName()),
			Labels:          cloneMap(template.Labels),
			Annotations:     cloneMap(template.Annotations),
			Finalizers:      slices.Clone(template.Finalizers),
			OwnerReferences: []metav1.OwnerReference{ref},
		},
	}
	template.Spec.DeepCopyInto(&pod.Spec)
	return pod
}

func cloneMap(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return maps.Clone(m)
}

// NamePrefix is what the generated names of what an owner makes start with. The
// dash is left out where it would make the name too long.
func NamePrefix(owner string) string {
	prefix := owner + "-"
	if len(apivalidation.NameIsDNSSubdomain(prefix, true)) != 0 {
		return owner
	}
	return prefix
}
