package deployment

import (
	"fmt"
	"slices"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

// cluster is a model of what carries plans out: replica sets whose pods come, become
// available, and go, in any order.
type cluster struct {
	t    *rapid.T
	d    *apps.Deployment
	sets []*apps.ReplicaSet
	now  time.Time
	made int
}

func (c *cluster) turn() bool {
	p := Decide(Snapshot{Deployment: c.d, ReplicaSets: c.sets, Now: c.now})
	for _, step := range p.Steps {
		i := slices.IndexFunc(c.sets, func(rs *apps.ReplicaSet) bool { return rs.Name == step.ReplicaSet.Name })
		switch step.Action {
		case Create:
			if i >= 0 {
				c.t.Fatalf("creates %s, which exists", step.ReplicaSet.Name)
			}
			c.made++
			rs := step.ReplicaSet.DeepCopy()
			rs.UID = types.UID(fmt.Sprint("uid", c.made))
			rs.Generation = 1
			rs.CreationTimestamp = metav1.NewTime(c.now)
			c.sets = append(c.sets, rs)
		case Update:
			rs := step.ReplicaSet.DeepCopy()
			rs.Generation++
			c.sets[i] = rs
		case Delete:
			if c.sets[i].Status.Replicas > 0 {
				c.t.Fatalf("deletes %s, which has pods", step.ReplicaSet.Name)
			}
			c.sets = slices.Delete(c.sets, i, i+1)
		}
	}
	c.d = p.Deployment
	return len(p.Steps) > 0 || p.StatusChanged
}

// settle lets each set's pods move some way towards what it wants. Pods that are taken away
// are those that aren't available, as long as there are any.
func (c *cluster) settle(some bool) {
	part := func(count int32, name string) int32 {
		if !some || count == 0 {
			return count
		}
		return rapid.Int32Range(0, count).Draw(c.t, name)
	}
	for i, old := range c.sets {
		rs := old.DeepCopy()
		want, s := *rs.Spec.Replicas, &rs.Status
		if s.Replicas < want {
			s.Replicas += part(want-s.Replicas, "created")
		} else if s.Replicas > want {
			s.Replicas -= part(s.Replicas-want, "deleted")
			s.AvailableReplicas = min(s.AvailableReplicas, s.Replicas)
		}
		s.AvailableReplicas += part(s.Replicas-s.AvailableReplicas, "available")
		s.ReadyReplicas = s.AvailableReplicas
		s.ObservedGeneration = rs.Generation
		c.sets[i] = rs
	}
}

// promised is how many pods will be available once all deletions that have been asked for are
// carried out: what the update may count on.
func (c *cluster) promised() (sum int32) {
	for _, rs := range c.sets {
		sum += min(rs.Status.AvailableReplicas, *rs.Spec.Replicas)
	}
	return sum
}

// TestRollingUpdateKeepsItsPromise drives updates over updates through random interleavings. The
// strategy's two bounds hold after every turn, and every update ends.
func TestRollingUpdateKeepsItsPromise(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		replicas := rapid.Int32Range(1, 12).Draw(t, "replicas")
		surge := rapid.SampledFrom([]string{"0", "1", "3", "25%", "50%", "100%"}).Draw(t, "surge")
		unavailable := rapid.SampledFrom([]string{"0", "1", "2", "25%", "50%", "100%"}).Draw(t, "unavailable")
		c := &cluster{t: t, d: deploymentOf(replicas, surge, unavailable), now: now}
		most, least := replicas+maxSurge(c.d), replicas-maxUnavailable(c.d)

		reached := false // the minimum has been available once, and must be from then on
		check := func() {
			if sum := total(c.sets, specReplicas); sum > most {
				t.Fatalf("%d replicas wanted in all, at most %d allowed", sum, most)
			}
			if have := c.promised(); reached && have < least {
				t.Fatalf("%d will be available, at least %d must be", have, least)
			} else if have >= least {
				reached = true
			}
		}
		for update := range rapid.IntRange(1, 3).Draw(t, "updates") {
			c.d = c.d.DeepCopy()
			c.d.Spec.Template = templateOf(fmt.Sprint("v", update))
			c.d.Generation++
			for range rapid.IntRange(0, 15).Draw(t, "turns") {
				c.now = c.now.Add(time.Second)
				c.turn()
				check()
				c.settle(true)
			}
		}
		for range 200 { // now all goes well
			c.now = c.now.Add(time.Second)
			c.settle(false)
			moved := c.turn()
			check()
			if !moved && complete(c.d, c.d.Status) {
				last := c.d.Status.Conditions
				if p := condition(c.d.Status, apps.DeploymentProgressing); p == nil || p.Reason != NewRSAvailableReason {
					t.Fatalf("complete, but %+v", last)
				}
				return
			}
		}
		t.Fatalf("the update doesn't end: %+v", c.d.Status)
	})
}

// TestScalingKeepsProportions scales in the middle of a rollout: the sum is right at once, and
// no set grows when scaling down or shrinks when scaling up.
func TestScalingKeepsProportions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before := rapid.Int32Range(1, 40).Draw(t, "before")
		after := rapid.Int32Range(0, 40).Draw(t, "after")
		d := deploymentOf(before, "25%", "25%")
		var sets []*apps.ReplicaSet
		left := before + maxSurge(d)
		for i := range rapid.IntRange(2, 4).Draw(t, "sets") {
			size := rapid.Int32Range(0, left).Draw(t, "size")
			left -= size
			image := fmt.Sprint("v", i)
			if i == 0 {
				image = "new"
			}
			sets = append(sets, setOf(d, image, i+1, size))
		}
		d.Spec.Replicas = &after
		if before == after || len(active(sets)) < 2 || saturated(d, sets[0]) {
			return
		}
		p := Decide(Snapshot{Deployment: d, ReplicaSets: sets, Now: now})
		sizes := map[string]int32{}
		for _, rs := range sets {
			sizes[rs.Name] = *rs.Spec.Replicas
		}
		sumBefore := total(sets, specReplicas)
		for _, step := range p.Steps {
			sizes[step.ReplicaSet.Name] = *step.ReplicaSet.Spec.Replicas
		}
		sum := int32(0)
		for _, size := range sizes {
			sum += size
		}
		want := after + maxSurge(d)
		if after == 0 {
			want = 0
		}
		if sum != want {
			t.Fatalf("%d replicas in all, want %d: %v", sum, want, sizes)
		}
		for _, rs := range sets {
			switch size := sizes[rs.Name]; {
			case size < 0, want > sumBefore && size < *rs.Spec.Replicas, want < sumBefore && size > *rs.Spec.Replicas:
				t.Fatalf("%s went from %d to %d while the sum goes from %d to %d", rs.Name, *rs.Spec.Replicas, size, sumBefore, want)
			}
		}
	})
}
