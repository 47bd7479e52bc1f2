package deployment

import (
	"cmp"
	"math"
	"slices"
	"strconv"

	apps "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// fenceposts resolves maxSurge (rounded up) and maxUnavailable (rounded down) of a rolling
// update. Both can't be zero: nothing could move then, so one pod may be missing.
func fenceposts(d *apps.Deployment) (surge, unavailable int32) {
	if d.Spec.Strategy.Type != apps.RollingUpdateDeploymentStrategyType {
		return 0, 0
	}
	desired := *d.Spec.Replicas
	var rolling apps.RollingUpdateDeployment
	if d.Spec.Strategy.RollingUpdate != nil {
		rolling = *d.Spec.Strategy.RollingUpdate
	}
	scaled := func(v *intstr.IntOrString, up bool) int32 {
		n, err := intstr.GetScaledValueFromIntOrPercent(intstr.ValueOrDefault(v, intstr.FromInt32(0)), int(desired), up)
		if err != nil { // the API's validation has refused it
			return 0
		}
		return int32(n)
	}
	surge, unavailable = scaled(rolling.MaxSurge, true), scaled(rolling.MaxUnavailable, false)
	if surge == 0 && unavailable == 0 {
		unavailable = 1
	}
	return surge, unavailable
}

func maxSurge(d *apps.Deployment) int32 {
	surge, _ := fenceposts(d)
	return surge
}

func maxUnavailable(d *apps.Deployment) int32 {
	if *d.Spec.Replicas == 0 {
		return 0
	}
	_, unavailable := fenceposts(d)
	return min(unavailable, *d.Spec.Replicas)
}

// newSize is how large the new replica set may be: all that is wanted, but in
// a rolling update not so many that all sets together exceed the surge.
func newSize(d *apps.Deployment, all []*apps.ReplicaSet, current int32) int32 {
	if d.Spec.Strategy.Type == apps.RecreateDeploymentStrategyType {
		return *d.Spec.Replicas
	}
	room := *d.Spec.Replicas + maxSurge(d) - total(all, specReplicas)
	if room <= 0 {
		return current
	}
	return current + min(room, *d.Spec.Replicas-current)
}

// proportion is how many of toAdd replicas (negative: to remove) a set
// gets, of which added are given away already.
func proportion(d *apps.Deployment, rs *apps.ReplicaSet, toAdd, added int32) int32 {
	if *rs.Spec.Replicas == 0 || toAdd == 0 || toAdd == added {
		return 0
	}
	// A set that isn't as large as it was meant to be can have a share of the other sign.
	share := fraction(d, rs)
	if toAdd > 0 {
		return min(max(share, 0), toAdd-added)
	}
	return max(min(share, 0), toAdd-added)
}

// fraction is by how much a set would change if it kept its part of the whole,
// which the max-replicas annotation remembers from before the scaling.
func fraction(d *apps.Deployment, rs *apps.ReplicaSet) int32 {
	if *d.Spec.Replicas == 0 {
		return -*rs.Spec.Replicas
	}
	before, ok := annotatedCount(rs, MaxReplicasAnnotation)
	if !ok || before == 0 {
		// Someone took the annotation away; the bounds still hold, only the proportions are off.
		if before = d.Status.Replicas; before == 0 {
			return 0
		}
	}
	after := float64(*rs.Spec.Replicas) * float64(*d.Spec.Replicas+maxSurge(d)) / float64(before)
	return int32(math.Round(after)) - *rs.Spec.Replicas
}

func annotatedCount(rs *apps.ReplicaSet, annotation string) (int32, bool) {
	n, err := strconv.ParseUint(rs.Annotations[annotation], 10, 31)
	return int32(n), err == nil
}

func specReplicas(rs *apps.ReplicaSet) int32      { return *rs.Spec.Replicas }
func actualReplicas(rs *apps.ReplicaSet) int32    { return rs.Status.Replicas }
func readyReplicas(rs *apps.ReplicaSet) int32     { return rs.Status.ReadyReplicas }
func availableReplicas(rs *apps.ReplicaSet) int32 { return rs.Status.AvailableReplicas }

// lastingReplicas are those of the available replicas that will be left when the set has the size it is
// asked to have: its status may not have followed yet, and what is to go must not be counted on.
func lastingReplicas(rs *apps.ReplicaSet) int32 {
	return min(rs.Status.AvailableReplicas, *rs.Spec.Replicas)
}

func total(sets []*apps.ReplicaSet, count func(*apps.ReplicaSet) int32) (sum int32) {
	for _, rs := range sets {
		sum += count(rs)
	}
	return sum
}

func active(sets []*apps.ReplicaSet) []*apps.ReplicaSet {
	var found []*apps.ReplicaSet
	for _, rs := range sets {
		if *rs.Spec.Replicas > 0 {
			found = append(found, rs)
		}
	}
	return found
}

// older puts the set created first first.
func older(a, b *apps.ReplicaSet) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}

// byRevision orders from old to new.
func byRevision(a, b *apps.ReplicaSet) int {
	revA, errA := revision(a)
	revB, errB := revision(b)
	if errA != nil || errB != nil || revA == revB {
		return older(a, b)
	}
	return cmp.Compare(revA, revB)
}

// revision of a set without one is 0.
func revision(rs *apps.ReplicaSet) (int64, error) {
	value, ok := rs.Annotations[RevisionAnnotation]
	if !ok {
		return 0, nil
	}
	return strconv.ParseInt(value, 10, 64)
}

func sorted(sets []*apps.ReplicaSet, order func(a, b *apps.ReplicaSet) int) []*apps.ReplicaSet {
	result := slices.Clone(sets)
	slices.SortStableFunc(result, order)
	return result
}
