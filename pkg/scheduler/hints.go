package scheduler

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"skiff/pkg/placement"
)

// After something happened, only those waiting pods are tried again that it
// may help: each function here is one kind of event. The lock is held.

// retryClass brings back the waiting pods of the classes that helps picks.
func (s *Scheduler) retryClass(helps func(k *class, any *item) bool) {
	now, any := time.Now(), false
	for key, items := range s.queue.stuck {
		var first *item
		for it := range items {
			first = it
			break
		}
		k := s.cluster.classes[key]
		if k != nil && k.built && !helps(k, first) {
			continue
		}
		for it := range items {
			s.queue.retry(it, now)
			any = true
		}
	}
	if any {
		s.wake()
	}
}

// roomOn: a node came, changed, or lost a pod.
func (s *Scheduler) roomOn(slot int) {
	if slot == none || s.cluster.nodes[slot] == nil {
		return
	}
	n := s.cluster.nodes[slot]
	for _, p := range s.cluster.reserved[slot] {
		if it := s.queue.items[p.key]; it != nil && it.place == waiting {
			s.queue.retry(it, time.Now())
			s.wake()
		}
	}
	s.retryClass(func(k *class, it *item) bool {
		if k.broken != "" {
			return false
		}
		reasons := k.check(slot, n)
		if reasons == nil {
			return true
		}
		// Too full, but pods on it may be less important.
		mayPreempt := it.Spec.PreemptionPolicy == nil || *it.Spec.PreemptionPolicy != corev1.PreemptNever
		if mayPreempt && !placement.Unresolvable(reasons) {
			for _, o := range n.pods {
				if o.priority < it.priority {
					return true
				}
			}
		}
		return false
	})
}

// nodeMoved: a node came, went, or has other labels or taints, which may shift what spread constraints compare.
func (s *Scheduler) nodeMoved() {
	s.retryClass(func(k *class, _ *item) bool {
		for _, t := range k.tallies {
			if t.kind == spreadHard {
				return true
			}
		}
		return false
	})
}

// freed: a pod that was on a node has gone, or gave something up.
func (s *Scheduler) freed(p *pod, slot int) {
	s.counted(p)
	s.roomOn(slot)
}

// counted: a pod came to a node or went, and classes with constraints on such pods may fit now.
func (s *Scheduler) counted(p *pod) {
	s.retryClass(func(k *class, _ *item) bool {
		for _, t := range k.tallies {
			if t.hard() && t.weigh(p) != 0 {
				return true
			}
		}
		return len(p.claims) > 0 && len(k.pod.claims) > 0 // of which some admit one pod only
	})
}

// volumesChanged: a claim, a volume or a storage class changed.
func (s *Scheduler) volumesChanged() {
	s.cluster.volumeEpoch++
	s.retryClass(func(k *class, _ *item) bool { return len(k.pod.claims) > 0 })
}

// everythingChanged: what terms select may have changed altogether.
func (s *Scheduler) everythingChanged() {
	s.cluster.epoch++
	s.retryClass(func(*class, *item) bool { return true })
}
