package deployment

import (
	"cmp"
	"slices"

	apps "k8s.io/api/apps/v1"

	"skiff/pkg/controller/workload"
)

// roll is one move of a rolling update: first up, within the surge; when there is
// nothing to add, down, within what may be unavailable.
func (r *rollout) roll() {
	if r.newSet == nil {
		r.syncRevision(true)
	}
	if r.scaleUp() || r.scaleDownOld() {
		return
	}
	if complete(r.d, r.d.Status) {
		r.cleanUp()
	}
}

func (r *rollout) scaleUp() bool {
	have, want := *r.newSet.Spec.Replicas, *r.d.Spec.Replicas
	if have > want {
		return r.resize(r.newSet, want, false, "the new replica set has more than all replicas")
	}
	if have < want {
		return r.resize(r.newSet, newSize(r.d, r.all(), have), false, "rolling update: room within the surge")
	}
	return false
}

// scaleDownOld takes replicas from old sets: at most as many as exist beyond the
// minimum that has to be available, where new replicas that aren't available yet don't count.
// Those that aren't available go first, for they would block the rollout.
func (r *rollout) scaleDownOld() bool {
	olds := sorted(active(r.old), older)
	if len(olds) == 0 {
		return false
	}
	minAvailable := *r.d.Spec.Replicas - maxUnavailable(r.d)
	newUnavailable := *r.newSet.Spec.Replicas - lastingReplicas(r.newSet)
	most := total(r.all(), specReplicas) - minAvailable - newUnavailable
	if most <= 0 {
		return false
	}
	moved := false
	for _, rs := range olds {
		unhealthy := *rs.Spec.Replicas - lastingReplicas(rs)
		count := min(unhealthy, most)
		if count > 0 && r.resize(rs, *rs.Spec.Replicas-count, false, "rolling update: replicas of an old set that aren't available") {
			most -= count
			moved = true
		}
	}
	spare := total(r.all(), lastingReplicas) - minAvailable
	for _, rs := range olds {
		count := min(*rs.Spec.Replicas, spare)
		if count > 0 && r.resize(rs, *rs.Spec.Replicas-count, false, "rolling update: enough replicas are available without these") {
			spare -= count
			moved = true
		}
	}
	return moved
}

// recreate is one move of a Recreate update: all old pods have to be gone
// before the first new one is made.
func (r *rollout) recreate() {
	moved := false
	for _, rs := range active(r.old) {
		moved = r.resize(rs, 0, false, "recreate: old pods go first") || moved
	}
	if moved || r.oldPodsLeft() {
		return
	}
	if r.newSet == nil {
		r.syncRevision(true)
	}
	r.resize(r.newSet, *r.d.Spec.Replicas, false, "recreate: no old pod is left")
	if complete(r.d, r.d.Status) {
		r.cleanUp()
	}
}

func (r *rollout) oldPodsLeft() bool {
	if total(r.old, actualReplicas) > 0 {
		return true
	}
	for uid, pods := range r.s.Pods {
		if r.newSet != nil && uid == r.newSet.UID {
			continue
		}
		for _, pod := range pods {
			if !workload.Ended(pod) {
				return true
			}
		}
	}
	return false
}

// scalingEvent says that the deployment's size changed since its sets were sized.
func (r *rollout) scalingEvent() bool {
	return slices.ContainsFunc(active(r.all()), func(rs *apps.ReplicaSet) bool {
		desired, ok := annotatedCount(rs, DesiredReplicasAnnotation)
		return ok && desired != *r.d.Spec.Replicas
	})
}

// scale follows a change of the deployment's size, in the middle of a rollout in
// proportion, so that scaling doesn't hasten a rollout that may be bad.
func (r *rollout) scale() {
	const reason = "the deployment was scaled"
	if only := r.activeOrLatest(); only != nil {
		r.resize(only, *r.d.Spec.Replicas, false, reason)
		return
	}
	if saturated(r.d, r.newSet) {
		for _, rs := range active(r.old) {
			r.resize(rs, 0, false, "the new replica set has all replicas")
		}
		return
	}
	if r.d.Spec.Strategy.Type != apps.RollingUpdateDeploymentStrategyType {
		return
	}
	allowed := int32(0)
	if *r.d.Spec.Replicas > 0 {
		allowed = *r.d.Spec.Replicas + maxSurge(r.d)
	}
	sets := active(r.all())
	toAdd := allowed - total(sets, specReplicas)
	// From large to small; of equals the newer grow first and the older shrink first.
	slices.SortStableFunc(sets, func(a, b *apps.ReplicaSet) int {
		if c := cmp.Compare(*b.Spec.Replicas, *a.Spec.Replicas); c != 0 {
			return c
		}
		if toAdd > 0 {
			return older(b, a)
		}
		return older(a, b)
	})
	sizes := make([]int32, len(sets))
	added := int32(0)
	for i, rs := range sets {
		share := proportion(r.d, rs, toAdd, added)
		sizes[i] = *rs.Spec.Replicas + share
		added += share
	}
	for i, rs := range sets {
		if i == 0 && toAdd != 0 {
			sizes[i] = max(0, sizes[i]+toAdd-added) // what rounding left over
		}
		r.resize(rs, sizes[i], true, reason)
	}
}

// activeOrLatest is the set to scale when there is no choice: the only one with
// replicas, or the newest when none has any. It is nil when several have.
func (r *rollout) activeOrLatest() *apps.ReplicaSet {
	switch running := active(r.all()); {
	case len(running) == 1:
		return running[0]
	case len(running) > 1:
		return nil
	case r.newSet != nil:
		return r.newSet
	case len(r.old) > 0:
		return slices.MaxFunc(r.old, older)
	}
	return nil
}

// saturated says that the new set has all replicas, available, and was sized for that.
func saturated(d *apps.Deployment, rs *apps.ReplicaSet) bool {
	if rs == nil {
		return false
	}
	desired, ok := annotatedCount(rs, DesiredReplicasAnnotation)
	want := *d.Spec.Replicas
	return ok && desired == want && *rs.Spec.Replicas == want && rs.Status.AvailableReplicas == want
}
