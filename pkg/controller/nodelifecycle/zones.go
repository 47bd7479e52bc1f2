package nodelifecycle

import (
	"time"

	v1 "k8s.io/api/core/v1"
)

// Rates say how fast nodes may be emptied, per zone.
type Rates struct {
	Normal    float64 // nodes a second
	Secondary float64 // in a large zone most of whose nodes are unhealthy; in a small one none
	// LargeZone is from how many nodes on a zone is large.
	LargeZone int
	// Unhealthy is the share of nodes that makes a zone unhealthy, when there are at least three.
	Unhealthy float64
}

// DefaultRates are Kubernetes'.
var DefaultRates = Rates{Normal: 0.1, Secondary: 0.01, LargeZone: 50, Unhealthy: 0.55}

// zones counts nodes by zone and keeps the rates. It belongs to the one worker.
type zones struct {
	rates     Rates
	ready     map[string]int
	notReady  map[string]int
	evictedAt map[string]time.Time // when a node of the zone was last begun to be emptied
	worseAt   map[string]time.Time // when the zone had more nodes not ready than before
}

func newZones(rates Rates) *zones {
	return &zones{rates: rates, evictedAt: map[string]time.Time{}, worseAt: map[string]time.Time{}}
}

// settle is how long a zone must not have got worse before a node is emptied. Nodes that vanish
// at once are missed one after the other, as far apart as their leases were renewed: the first of
// them is not to be emptied before it shows that most are gone.
const settle = 2 * time.Second

// zoneOf is the zone within its region; nodes without labels share one.
func zoneOf(node *v1.Node) string {
	return node.Labels[v1.LabelTopologyRegion] + "\x00" + node.Labels[v1.LabelTopologyZone]
}

func (z *zones) count(nodes []*v1.Node, now time.Time) {
	before := z.notReady
	z.ready, z.notReady = map[string]int{}, map[string]int{}
	for _, node := range nodes {
		if readiness(node) == v1.ConditionTrue {
			z.ready[zoneOf(node)]++
		} else {
			z.notReady[zoneOf(node)]++
		}
	}
	for zone, not := range z.notReady {
		if not > before[zone] {
			z.worseAt[zone] = now
		}
	}
}

// disrupted says that no node of the cluster is ready.
func (z *zones) disrupted() bool { return len(z.ready) == 0 && len(z.notReady) > 0 }

// rate of a zone in nodes a second. A zone of which no node is ready is treated as a normal
// one: others are well, so it is the zone that failed.
func (z *zones) rate(zone string) float64 {
	ready, not := z.ready[zone], z.notReady[zone]
	if ready == 0 || not <= 2 || float64(not)/float64(ready+not) < z.rates.Unhealthy {
		return z.rates.Normal
	}
	if ready+not > z.rates.LargeZone {
		return z.rates.Secondary
	}
	return 0
}

// mayEvict says whether one more node of a zone may be emptied, and if not, when to ask again.
func (z *zones) mayEvict(zone string, now time.Time) (bool, time.Duration) {
	rate := z.rate(zone)
	if rate <= 0 {
		return false, 10 * time.Second
	}
	if calm := z.worseAt[zone].Add(settle); now.Before(calm) {
		return false, calm.Sub(now)
	}
	last, ever := z.evictedAt[zone]
	if next := last.Add(time.Duration(float64(time.Second) / rate)); ever && now.Before(next) {
		return false, next.Sub(now)
	}
	return true, 0
}

func (z *zones) evicted(zone string, now time.Time) { z.evictedAt[zone] = now }
