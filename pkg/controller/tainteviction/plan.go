package tainteviction

import (
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
)

// Plan says what the taints of its node mean for a pod.
type Plan struct {
	Evict bool          // ever
	After time.Duration // counted from when the taints were first seen
}

// Decide looks at a node's taints with the effect NoExecute. A pod goes at once unless it
// tolerates all of them, and if it does, after the shortest time that it tolerates one for.
func Decide(pod *v1.Pod, taints []v1.Taint) Plan {
	var shortest *int64
	for _, taint := range taints {
		if taint.Effect != v1.TaintEffectNoExecute {
			continue
		}
		tolerated := false
		for _, toleration := range pod.Spec.Tolerations {
			if !toleration.ToleratesTaint(klog.Background(), &taint, false) {
				continue
			}
			tolerated = true
			if seconds := toleration.TolerationSeconds; seconds != nil && (shortest == nil || *seconds < *shortest) {
				shortest = seconds
			}
		}
		if !tolerated {
			return Plan{Evict: true}
		}
	}
	if shortest == nil {
		return Plan{}
	}
	return Plan{Evict: true, After: time.Duration(max(0, *shortest)) * time.Second}
}
