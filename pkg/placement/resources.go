package placement

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
)

// Resources is an amount of what nodes have and pods take: CPU in thousandths
// of a core, the rest in bytes or whole units.
type Resources struct {
	MilliCPU         int64
	Memory           int64
	EphemeralStorage int64
	// Scalar holds huge pages, attachable volumes and extended resources.
	Scalar map[corev1.ResourceName]int64
}

// What a container that requests nothing is taken to use when nodes are
// scored, so that such pods spread too (as Kubernetes' scheduler does).
const (
	unrequestedMilliCPU = 100
	unrequestedMemory   = 200 << 20
)

func (r *Resources) add(o *Resources, sign int64) {
	r.MilliCPU += sign * o.MilliCPU
	r.Memory += sign * o.Memory
	r.EphemeralStorage += sign * o.EphemeralStorage
	for name, quantity := range o.Scalar {
		if r.Scalar == nil {
			r.Scalar = map[corev1.ResourceName]int64{}
		}
		r.Scalar[name] += sign * quantity
	}
}

// LessThan reports whether there is less of anything in r than in o.
func (r *Resources) LessThan(o *Resources) bool {
	for name, quantity := range o.Scalar {
		if r.Scalar[name] < quantity {
			return true
		}
	}
	return r.MilliCPU < o.MilliCPU || r.Memory < o.Memory || r.EphemeralStorage < o.EphemeralStorage
}

// fromList converts a resource list; names that are no node resource are left out.
func fromList(list corev1.ResourceList) Resources {
	var r Resources
	for name, quantity := range list {
		switch name {
		case corev1.ResourceCPU:
			r.MilliCPU = quantity.MilliValue()
		case corev1.ResourceMemory:
			r.Memory = quantity.Value()
		case corev1.ResourceEphemeralStorage:
			r.EphemeralStorage = quantity.Value()
		default:
			if isScalar(name) {
				if r.Scalar == nil {
					r.Scalar = map[corev1.ResourceName]int64{}
				}
				r.Scalar[name] = quantity.Value()
			}
		}
	}
	return r
}

// isScalar reports whether a resource is counted beside CPU, memory and
// ephemeral storage: huge pages, volume attachments, and whatever has a domain.
func isScalar(name corev1.ResourceName) bool {
	s := string(name)
	return strings.HasPrefix(s, corev1.ResourceHugePagesPrefix) ||
		strings.HasPrefix(s, corev1.ResourceAttachableVolumesPrefix) ||
		strings.Contains(s, "/") && !strings.HasPrefix(s, corev1.DefaultResourceRequestsPrefix)
}

// requests returns what a pod takes from its node (containers, init containers
// and sidecars as KEP-753 adds them up, pod-level requests, overhead, and what
// an in-place resize holds on to), and the CPU and memory it counts for in scores.
func requests(pod *corev1.Pod) (needs Resources, scoredCPU, scoredMemory int64) {
	options := resourcehelper.PodResourcesOptions{UseStatusResources: true}
	list := resourcehelper.PodRequests(pod, options)
	needs = fromList(list)

	options.NonMissingContainerRequests = corev1.ResourceList{}
	podLevel := resourcehelper.IsPodLevelRequestsSet(pod)
	if _, requested := list[corev1.ResourceCPU]; !podLevel || !requested {
		options.NonMissingContainerRequests[corev1.ResourceCPU] = unrequestedQuantities[corev1.ResourceCPU]
	}
	if _, requested := list[corev1.ResourceMemory]; !podLevel || !requested {
		options.NonMissingContainerRequests[corev1.ResourceMemory] = unrequestedQuantities[corev1.ResourceMemory]
	}
	scored := fromList(resourcehelper.PodRequests(pod, options))
	return needs, scored.MilliCPU, scored.Memory
}
