package nodelifecycle

import (
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Snapshot is what the plan for one node is made from.
type Snapshot struct {
	Node *v1.Node
	// Silent: no sign of life has come for longer than the node's lease allows.
	Silent bool
	// Evict says whether the node's zone lets one more node be emptied now.
	Evict bool
	// Disrupted: no node of the cluster is ready. It is then more likely that the
	// control plane is cut off than that all nodes died, and nothing is evicted.
	Disrupted bool
	Now       time.Time
}

// Plan is at most one write to the node.
type Plan struct {
	Conditions []v1.NodeCondition // not nil: the status to write
	Taints     []v1.Taint         // when Retaint
	Retaint    bool
	Reason     string
	// Evicted: the taints begin to evict pods, which counts against the zone's rate.
	Evicted bool
	// Waiting: pods should be evicted, but the zone's rate doesn't allow it yet.
	Waiting bool
}

// Decide works out what the node's conditions should say, and then its taints.
func Decide(s Snapshot) Plan {
	if s.Silent {
		if conditions, changed := unknown(s.Node, s.Now); changed {
			return Plan{Conditions: conditions, Reason: "no sign of life"}
		}
	}
	return retaint(s)
}

// reported are the conditions that a node itself reports; they are unknown when it doesn't.
var reported = []v1.NodeConditionType{v1.NodeReady, v1.NodeMemoryPressure, v1.NodeDiskPressure, v1.NodePIDPressure}

func unknown(node *v1.Node, now time.Time) ([]v1.NodeCondition, bool) {
	conditions, changed := slices.Clone(node.Status.Conditions), false
	for _, kind := range reported {
		i := slices.IndexFunc(conditions, func(c v1.NodeCondition) bool { return c.Type == kind })
		switch {
		case i < 0:
			conditions = append(conditions, v1.NodeCondition{
				Type: kind, Status: v1.ConditionUnknown, Reason: "NodeStatusNeverUpdated", Message: "Kubelet never posted node status.",
				LastHeartbeatTime: node.CreationTimestamp, LastTransitionTime: metav1.NewTime(now),
			})
			changed = true
		case conditions[i].Status != v1.ConditionUnknown:
			conditions[i].Status = v1.ConditionUnknown
			conditions[i].Reason, conditions[i].Message = "NodeStatusUnknown", "Kubelet stopped posting node status."
			conditions[i].LastTransitionTime = metav1.NewTime(now)
			changed = true
		}
	}
	return conditions, changed
}

// taintFor maps a condition's status to the key of the taint that says it.
var taintFor = map[v1.NodeConditionType]map[v1.ConditionStatus]string{
	v1.NodeReady:              {v1.ConditionFalse: v1.TaintNodeNotReady, v1.ConditionUnknown: v1.TaintNodeUnreachable},
	v1.NodeMemoryPressure:     {v1.ConditionTrue: v1.TaintNodeMemoryPressure},
	v1.NodeDiskPressure:       {v1.ConditionTrue: v1.TaintNodeDiskPressure},
	v1.NodeNetworkUnavailable: {v1.ConditionTrue: v1.TaintNodeNetworkUnavailable},
	v1.NodePIDPressure:        {v1.ConditionTrue: v1.TaintNodePIDPressure},
}

// owned says whether a taint is decided here.
func owned(t v1.Taint) bool {
	switch t.Effect {
	case v1.TaintEffectNoSchedule:
		if t.Key == v1.TaintNodeUnschedulable {
			return true
		}
		for _, keys := range taintFor {
			for _, key := range keys {
				if t.Key == key {
					return true
				}
			}
		}
	case v1.TaintEffectNoExecute:
		return t.Key == v1.TaintNodeNotReady || t.Key == v1.TaintNodeUnreachable
	}
	return false
}

func retaint(s Snapshot) Plan {
	p := Plan{Reason: "taints follow conditions"}
	current := s.Node.Spec.Taints
	var wanted []v1.Taint
	for _, c := range s.Node.Status.Conditions {
		if key, ok := taintFor[c.Type][c.Status]; ok {
			wanted = append(wanted, v1.Taint{Key: key, Effect: v1.TaintEffectNoSchedule})
		}
	}
	if s.Node.Spec.Unschedulable {
		wanted = append(wanted, v1.Taint{Key: v1.TaintNodeUnschedulable, Effect: v1.TaintEffectNoSchedule})
	}
	if key := taintFor[v1.NodeReady][readiness(s.Node)]; key != "" && !s.Disrupted {
		evicting := slices.ContainsFunc(current, func(t v1.Taint) bool { return owned(t) && t.Effect == v1.TaintEffectNoExecute })
		switch {
		case evicting:
			wanted = append(wanted, v1.Taint{Key: key, Effect: v1.TaintEffectNoExecute})
		case s.Evict:
			wanted = append(wanted, v1.Taint{Key: key, Effect: v1.TaintEffectNoExecute})
			p.Evicted = true
		default:
			p.Waiting = true
		}
	}
	for _, t := range current {
		if !owned(t) {
			p.Taints = append(p.Taints, t)
			continue
		}
		if i := slices.IndexFunc(wanted, func(w v1.Taint) bool { return w.MatchTaint(&t) }); i >= 0 {
			p.Taints = append(p.Taints, t) // as it is, with the time it was added
			wanted = slices.Delete(wanted, i, i+1)
		} else {
			p.Retaint = true
		}
	}
	for _, t := range wanted {
		added := metav1.NewTime(s.Now)
		t.TimeAdded = &added
		p.Taints = append(p.Taints, t)
		p.Retaint = true
	}
	return p
}

// readiness is the status of the Ready condition; a node without one is as good as unknown,
// but nothing is decided before it is written down.
func readiness(node *v1.Node) v1.ConditionStatus {
	for _, c := range node.Status.Conditions {
		if c.Type == v1.NodeReady {
			return c.Status
		}
	}
	return ""
}
