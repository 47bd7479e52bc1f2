package workload

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// RankForDeletion returns pods in the order in which they should go when there are
// too many: those that do the least harm first. related are the pods whose
// crowding on a node counts (all pods of a deployment, say, not only of one of
// its replica sets). The rules, each applied when those before it tie:
// without a node; pending, then unknown, then running; not ready; smaller
// deletion cost (annotation controller.kubernetes.io/pod-deletion-cost);
// on a node with more related pods; ready for less long; more restarts; younger.
// Ages are compared by their logarithm and then by UID, so that
// scaling down doesn't always hit the pods of the latest node to join.
func RankForDeletion(pods, related []*v1.Pod, now time.Time) []*v1.Pod {
	crowd := map[string]int{}
	for _, pod := range related {
		if Active(pod) {
			crowd[pod.Spec.NodeName]++
		}
	}
	ranked := slices.Clone(pods)
	slices.SortStableFunc(ranked, func(a, b *v1.Pod) int {
		return compareForDeletion(a, b, crowd, now)
	})
	return ranked
}

func compareForDeletion(a, b *v1.Pod, crowd map[string]int, now time.Time) int {
	if c := compareBool(a.Spec.NodeName != "", b.Spec.NodeName != ""); c != 0 {
		return c
	}
	if c := cmp.Compare(phaseOrder(a), phaseOrder(b)); c != 0 {
		return c
	}
	readyA, readyB := Ready(a), Ready(b)
	if c := compareBool(readyA, readyB); c != 0 {
		return c
	}
	if c := cmp.Compare(deletionCost(a), deletionCost(b)); c != 0 {
		return c
	}
	if c := cmp.Compare(crowd[b.Spec.NodeName], crowd[a.Spec.NodeName]); c != 0 {
		return c
	}
	if readyA && readyB {
		sinceA := Condition(a, v1.PodReady).LastTransitionTime
		sinceB := Condition(b, v1.PodReady).LastTransitionTime
		if !sinceA.Equal(&sinceB) {
			return compareAge(a, b, sinceA, sinceB, now)
		}
	}
	regularA, sidecarA := restarts(a)
	regularB, sidecarB := restarts(b)
	if c := cmp.Or(cmp.Compare(regularB, regularA), cmp.Compare(sidecarB, sidecarA)); c != 0 {
		return c
	}
	if !a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return compareAge(a, b, a.CreationTimestamp, b.CreationTimestamp, now)
	}
	return 0
}

// compareAge puts the younger first; an unknown time counts as youngest.
func compareAge(a, b *v1.Pod, timeA, timeB metav1.Time, now time.Time) int {
	if timeA.IsZero() || timeB.IsZero() {
		return compareBool(!timeA.IsZero(), !timeB.IsZero())
	}
	if c := cmp.Compare(logAge(now.Sub(timeA.Time)), logAge(now.Sub(timeB.Time))); c != 0 {
		return c
	}
	return cmp.Compare(a.UID, b.UID)
}

func logAge(age time.Duration) int64 {
	if age <= 0 {
		return -1
	}
	return int64(math.Log2(float64(age)))
}

// compareBool puts false before true.
func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func phaseOrder(pod *v1.Pod) int {
	switch pod.Status.Phase {
	case v1.PodUnknown:
		return 1
	case v1.PodRunning:
		return 2
	}
	return 0
}

// deletionCost reads the annotation; one that isn't a canonical 32-bit number counts as 0.
func deletionCost(pod *v1.Pod) int64 {
	value := pod.Annotations[v1.PodDeletionCost]
	cost, err := strconv.ParseInt(value, 10, 32)
	if err != nil || (value != "0" && value != "" && (value[0] == '+' || value[0] == '0')) {
		return 0
	}
	return cost
}

// restarts returns the highest restart counts among a pod's containers and among its sidecars.
func restarts(pod *v1.Pod) (regular, sidecar int32) {
	for _, c := range pod.Status.ContainerStatuses {
		regular = max(regular, c.RestartCount)
	}
	for _, c := range pod.Status.InitContainerStatuses {
		isSidecar := slices.ContainsFunc(pod.Spec.InitContainers, func(spec v1.Container) bool {
			return spec.Name == c.Name && spec.RestartPolicy != nil && *spec.RestartPolicy == v1.ContainerRestartPolicyAlways
		})
		if isSidecar {
			sidecar = max(sidecar, c.RestartCount)
		}
	}
	return regular, sidecar
}
