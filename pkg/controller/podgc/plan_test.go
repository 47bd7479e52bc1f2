package podgc

import (
	"fmt"
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func pod(name, node string, phase v1.PodPhase, dying bool, age time.Duration) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(now.Add(-age))}, Spec: v1.PodSpec{NodeName: node}, Status: v1.PodStatus{Phase: phase}}
	if dying {
		p.DeletionTimestamp = &metav1.Time{Time: now}
	}
	return p
}

func TestDecide(t *testing.T) {
	down := &v1.Node{Spec: v1.NodeSpec{Taints: []v1.Taint{{Key: v1.TaintNodeOutOfService}}}}
	evicted := pod("evicted", "up", v1.PodFailed, false, time.Minute)
	evicted.Status.Reason = "Evicted"
	s := Snapshot{
		Pods: []*v1.Pod{
			pod("runs", "up", v1.PodRunning, false, 0),
			pod("terminating", "up", v1.PodRunning, true, 0),
			pod("orphan", "gone", v1.PodRunning, false, 0),
			pod("quarantined", "lately gone", v1.PodRunning, false, 0),
			pod("waiting", "", v1.PodPending, false, 0),
			pod("never-bound", "", v1.PodPending, true, 0),
			pod("stuck", "down", v1.PodRunning, true, 0),
			pod("on-down-node", "down", v1.PodRunning, false, 0),
			pod("done-1", "up", v1.PodSucceeded, false, 3*time.Hour),
			pod("done-2", "up", v1.PodFailed, false, 2*time.Hour),
			pod("done-3", "up", v1.PodSucceeded, false, time.Hour),
			evicted,
		},
		Nodes:     map[string]*v1.Node{"up": {}, "down": down},
		Missing:   map[string]time.Time{"gone": now.Add(-Quarantine), "lately gone": now.Add(-Quarantine / 2)},
		Threshold: 2, Now: now,
	}
	names := func() []string {
		var all []string
		for _, step := range Decide(s) {
			if step.Reason == "" || step.Orphaned != (step.Pod.Name == "orphan") {
				t.Errorf("%s: %+v", step.Pod.Name, step)
			}
			all = append(all, step.Pod.Name)
		}
		slices.Sort(all)
		return all
	}
	if got := fmt.Sprint(names()); got != "[done-1 evicted never-bound orphan stuck]" {
		t.Error(got)
	}
	s.Threshold = 0
	down.Status.Conditions = []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionTrue}}
	if got := fmt.Sprint(names()); got != "[never-bound orphan]" {
		t.Error(got)
	}
}
