package nodelifecycle

import (
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func nodeOf(ready v1.ConditionStatus, taints ...string) *v1.Node {
	n := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", CreationTimestamp: metav1.NewTime(now.Add(-time.Hour))}}
	if ready != "" {
		for _, kind := range reported {
			status := ready
			if kind != v1.NodeReady && ready == v1.ConditionTrue {
				status = v1.ConditionFalse
			}
			n.Status.Conditions = append(n.Status.Conditions, v1.NodeCondition{Type: kind, Status: status, Reason: "r"})
		}
	}
	for _, t := range taints {
		key, effect, _ := strings.Cut(t, ":")
		n.Spec.Taints = append(n.Spec.Taints, v1.Taint{Key: key, Effect: v1.TaintEffect(effect)})
	}
	return n
}

func taints(p Plan) string {
	var text []string
	for _, t := range p.Taints {
		text = append(text, strings.TrimPrefix(t.Key, "node.kubernetes.io/")+":"+string(t.Effect))
	}
	return fmt.Sprint(p.Retaint, text)
}

func TestTaints(t *testing.T) {
	const notReady, unreachable = "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"
	cordoned := nodeOf(v1.ConditionTrue)
	cordoned.Spec.Unschedulable = true
	pressed := nodeOf(v1.ConditionTrue)
	pressed.Status.Conditions[1].Status = v1.ConditionTrue
	for name, c := range map[string]struct {
		node             *v1.Node
		evict, disrupted bool
		want             string
		evicted, waiting bool
	}{
		"ready":            {nodeOf(v1.ConditionTrue), true, false, "false []", false, false},
		"never reported":   {nodeOf(""), true, false, "false []", false, false},
		"not ready":        {nodeOf(v1.ConditionFalse), true, false, "true [not-ready:NoSchedule not-ready:NoExecute]", true, false},
		"unreachable":      {nodeOf(v1.ConditionUnknown), true, false, "true [unreachable:NoSchedule unreachable:NoExecute]", true, false},
		"the zone is slow": {nodeOf(v1.ConditionUnknown), false, false, "true [unreachable:NoSchedule]", false, true},
		"full disruption":  {nodeOf(v1.ConditionUnknown), true, true, "true [unreachable:NoSchedule]", false, false},
		"disruption calls off": {nodeOf(v1.ConditionUnknown, unreachable+":NoSchedule", unreachable+":NoExecute"), true, true,
			"true [unreachable:NoSchedule]", false, false},
		"from not ready to unreachable": {nodeOf(v1.ConditionUnknown, notReady+":NoSchedule", notReady+":NoExecute"), false, false,
			"true [unreachable:NoSchedule unreachable:NoExecute]", false, false},
		"settled":         {nodeOf(v1.ConditionUnknown, unreachable+":NoSchedule", unreachable+":NoExecute"), false, false, "false [unreachable:NoSchedule unreachable:NoExecute]", false, false},
		"back":            {nodeOf(v1.ConditionTrue, "mine:NoExecute", unreachable+":NoSchedule", unreachable+":NoExecute"), true, false, "true [mine:NoExecute]", false, false},
		"others' stay":    {nodeOf(v1.ConditionTrue, "mine:NoSchedule", notReady+":PreferNoSchedule"), true, false, "false [mine:NoSchedule not-ready:PreferNoSchedule]", false, false},
		"cordoned":        {cordoned, true, false, "true [unschedulable:NoSchedule]", false, false},
		"memory pressure": {pressed, true, false, "true [memory-pressure:NoSchedule]", false, false},
	} {
		p := Decide(Snapshot{Node: c.node, Evict: c.evict, Disrupted: c.disrupted, Now: now})
		if taints(p) != c.want || p.Evicted != c.evicted || p.Waiting != c.waiting {
			t.Errorf("%s: %s, evicted %t, waiting %t; want %s", name, taints(p), p.Evicted, p.Waiting, c.want)
		}
		for _, taint := range p.Taints {
			if added := taint.TimeAdded; added != nil && !added.Time.Equal(now) {
				t.Errorf("%s: added at %v", name, added)
			}
		}
	}
}

func TestSilent(t *testing.T) {
	p := Decide(Snapshot{Node: nodeOf(v1.ConditionTrue), Silent: true, Now: now})
	if len(p.Conditions) != 4 {
		t.Fatalf("%+v", p)
	}
	for _, c := range p.Conditions {
		if c.Status != v1.ConditionUnknown || c.Reason != "NodeStatusUnknown" || c.Message != "Kubelet stopped posting node status." || !c.LastTransitionTime.Time.Equal(now) {
			t.Errorf("%+v", c)
		}
	}
	p = Decide(Snapshot{Node: nodeOf(""), Silent: true, Now: now})
	if len(p.Conditions) != 4 || p.Conditions[0].Reason != "NodeStatusNeverUpdated" || !p.Conditions[0].LastHeartbeatTime.Time.Equal(now.Add(-time.Hour)) {
		t.Errorf("%+v", p)
	}
	if p = Decide(Snapshot{Node: nodeOf(v1.ConditionUnknown), Silent: true, Now: now}); p.Conditions != nil || !p.Retaint {
		t.Errorf("taints follow once the status is written: %+v", p)
	}
}

func TestZones(t *testing.T) {
	z := newZones(DefaultRates)
	set := func(ready, not int) { z.ready, z.notReady = map[string]int{"z": ready}, map[string]int{"z": not} }
	for _, c := range []struct {
		ready, not int
		want       float64
	}{
		{10, 0, 0.1}, {1, 2, 0.1}, {2, 3, 0}, {40, 60, 0.01}, {60, 40, 0.1}, {0, 5, 0.1},
	} {
		set(c.ready, c.not)
		if got := z.rate("z"); got != c.want {
			t.Errorf("%d ready, %d not: %v, want %v", c.ready, c.not, got, c.want)
		}
	}
	set(9, 1)
	if may, _ := z.mayEvict("z", now); !may {
		t.Error("the first node waits")
	}
	z.evicted("z", now)
	if may, wait := z.mayEvict("z", now.Add(4*time.Second)); may || wait != 6*time.Second {
		t.Errorf("the second: %t, %v", may, wait)
	}
	if may, _ := z.mayEvict("z", now.Add(10*time.Second)); !may {
		t.Error("the second, ten seconds later")
	}
	z.count([]*v1.Node{nodeOf(v1.ConditionUnknown), nodeOf(v1.ConditionFalse)}, now)
	if !z.disrupted() {
		t.Error("no node is ready")
	}
	z.count([]*v1.Node{nodeOf(v1.ConditionUnknown), nodeOf(v1.ConditionTrue)}, now)
	if z.disrupted() {
		t.Error("one node is ready")
	}
}

// Of nodes that vanish together the first is not emptied before the last is missed.
func TestZonesSettle(t *testing.T) {
	z := newZones(DefaultRates)
	nodes := make([]*v1.Node, 5)
	for i := range nodes {
		nodes[i] = nodeOf(v1.ConditionTrue)
	}
	zone, at := zoneOf(nodes[0]), now
	z.count(nodes, at)
	for i := range 2 {
		nodes[i] = nodeOf(v1.ConditionUnknown)
		at = at.Add(settle - time.Millisecond)
		z.count(nodes, at)
		if may, wait := z.mayEvict(zone, at); may || wait != settle {
			t.Errorf("%d nodes missed: %t, again in %v", i+1, may, wait)
		}
	}
	z.count(nodes, at.Add(settle))
	if may, _ := z.mayEvict(zone, at.Add(settle)); !may {
		t.Error("two nodes of five are missed, and no more: the first is to be emptied")
	}
	nodes[2] = nodeOf(v1.ConditionUnknown)
	z.count(nodes, at)
	if may, _ := z.mayEvict(zone, at.Add(time.Hour)); may {
		t.Error("most are gone: none is to be emptied")
	}
}

func TestHealth(t *testing.T) {
	h := newHealth()
	at := now
	judge := func(want verdict, again time.Duration) {
		t.Helper()
		if got, wait := h.judge("n", at); got != want || wait != again {
			t.Errorf("%v: verdict %d, again in %v; want %d, %v", at.Sub(now), got, wait, want, again)
		}
	}
	h.leaseSeen("n", "1", 5*time.Second, 0, at)
	judge(alive, 5*time.Second)
	at = at.Add(4 * time.Second)
	h.leaseSeen("n", "2", 5*time.Second, 0, at)
	at = at.Add(4 * time.Second)
	h.leaseSeen("n", "2", 5*time.Second, 0, at) // seen again, but not renewed
	judge(alive, time.Second)
	at = at.Add(time.Second)
	judge(suspect, leastMargin)
	h.confirm("n", at)
	judge(alive, leastMargin)
	at = at.Add(leastMargin)
	judge(silent, 5*time.Second)
	h.statusSeen("n", "beat", at) // a status is a sign of life as well
	judge(alive, 5*time.Second)

	h.leaseSeen("n", "3", 40*time.Second, 0, at) // a kubelet's lease
	at = at.Add(40 * time.Second)
	judge(suspect, 10*time.Second)
	h.confirm("n", at)
	h.doubtAll(at) // the apiserver was away
	judge(alive, 40*time.Second)

	h.leaseSeen("n", "4", 40*time.Second, 5*time.Second, at) // --node-monitor-grace-period 5s
	at = at.Add(4 * time.Second)
	judge(suspect, leastMargin)

	h.statusSeen("new", "", at) // it has never reported anything
	if got, wait := h.judge("new", at); got != alive || wait != startupGrace {
		t.Errorf("a new node: %d, %v", got, wait)
	}
	h.forget("n")
	if _, known := h.nodes["n"]; known {
		t.Error("not forgotten")
	}
}
