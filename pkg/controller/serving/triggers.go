package serving

import (
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"

	"skiff/pkg/controller/reconciler"
	"skiff/pkg/controller/workload"
)

// Triggers finds out which change of the world an update of endpoints goes back to,
// for the annotation endpoints.kubernetes.io/last-change-trigger-time, from which
// the proxies' programming latency is measured.
type Triggers struct {
	mu    sync.Mutex
	known map[reconciler.Key]serviceTimes
}

type serviceTimes struct {
	created time.Time
	pods    map[string]time.Time
}

// Observe returns the earliest change since the last call for the service: a pod that
// became ready or unready, or the service's creation. It is zero when there is none that
// can be told.
func (t *Triggers) Observe(service *v1.Service, pods []*v1.Pod) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := reconciler.KeyOf(service)
	before := t.known[key]
	now := serviceTimes{created: service.CreationTimestamp.Time, pods: map[string]time.Time{}}
	var earliest time.Time
	consider := func(change time.Time) {
		if earliest.IsZero() || change.Before(earliest) {
			earliest = change
		}
	}
	for _, pod := range pods {
		ready := workload.Condition(pod, v1.PodReady)
		if ready == nil || ready.LastTransitionTime.IsZero() {
			continue
		}
		now.pods[pod.Name] = ready.LastTransitionTime.Time
		if ready.LastTransitionTime.After(before.pods[pod.Name]) {
			consider(ready.LastTransitionTime.Time)
		}
	}
	if now.created.After(before.created) {
		consider(now.created)
	}
	if t.known == nil {
		t.known = map[reconciler.Key]serviceTimes{}
	}
	t.known[key] = now
	return earliest
}

// Forget drops what is known about a service that is gone.
func (t *Triggers) Forget(key reconciler.Key) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.known, key)
}
