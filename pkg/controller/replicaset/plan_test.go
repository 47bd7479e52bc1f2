package replicaset

import (
	"errors"
	"fmt"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func set(replicas int32) *apps.ReplicaSet {
	return &apps.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Generation: 4},
		Spec: apps.ReplicaSetSpec{Replicas: &replicas, MinReadySeconds: 10,
			Template: v1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}}}},
	}
}

func pods(count int, ready bool, since time.Duration) []*v1.Pod {
	var all []*v1.Pod
	for i := range count {
		p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("p", i), Labels: map[string]string{"app": "web"}}}
		if ready {
			p.Status.Conditions = []v1.PodCondition{{Type: v1.PodReady, Status: v1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-since))}}
		}
		all = append(all, p)
	}
	return all
}

func TestDecide(t *testing.T) {
	dying := set(3)
	dying.DeletionTimestamp = &metav1.Time{Time: now}
	for name, c := range map[string]struct {
		set            *apps.ReplicaSet
		have           int
		create, delete int
	}{
		"enough":         {set(3), 3, 0, 0},
		"too few":        {set(3), 1, 2, 0},
		"too many":       {set(3), 5, 0, 2},
		"to zero":        {set(0), 2, 0, 2},
		"burst":          {set(2000), 0, 500, 0},
		"burst down":     {set(0), 700, 0, 500},
		"being deleted":  {dying, 0, 0, 0},
		"deleted, pods":  {dying, 9, 0, 0},
		"nothing at all": {set(0), 0, 0, 0},
	} {
		p := Decide(Snapshot{Set: c.set, Active: pods(c.have, true, 0), Now: now})
		if p.Create != c.create || len(p.Delete) != c.delete || p.Reason == "" {
			t.Errorf("%s: create %d, delete %d (%s)", name, p.Create, len(p.Delete), p.Reason)
		}
	}
}

func TestDeletesUnreadyFirst(t *testing.T) {
	have := append(pods(2, true, time.Hour), pods(1, false, 0)...)
	have[2].Name = "unready"
	p := Decide(Snapshot{Set: set(2), Active: have, Now: now})
	if len(p.Delete) != 1 || p.Delete[0].Name != "unready" {
		t.Errorf("deletes %v", p.Delete[0].Name)
	}
}

func TestStatus(t *testing.T) {
	active := append(pods(2, true, time.Minute), pods(1, true, time.Second)...)
	active = append(active, pods(1, false, 0)...)
	active[3].Labels = nil
	s := Snapshot{Set: set(4), Active: active, Terminating: pods(5, false, 0), Now: now}
	status := Status(s, nil)
	if status.Replicas != 4 || status.FullyLabeledReplicas != 3 || status.ReadyReplicas != 3 || status.AvailableReplicas != 2 || *status.TerminatingReplicas != 5 || status.ObservedGeneration != 4 {
		t.Errorf("%+v", status)
	}
}

func TestFailureCondition(t *testing.T) {
	s := Snapshot{Set: set(4), Now: now}
	failed := Status(s, errors.New("quota of pod-1"))
	if len(failed.Conditions) != 1 || failed.Conditions[0].Reason != "FailedCreate" || failed.Conditions[0].Message != "quota of pod-1" || failed.Conditions[0].Type != apps.ReplicaSetReplicaFailure {
		t.Fatalf("%+v", failed.Conditions)
	}
	s.Set.Status = failed
	if again := Status(s, errors.New("quota of pod-2")); again.Conditions[0].Message != "quota of pod-1" {
		t.Error("a condition that stands is rewritten by each failure")
	}
	if well := Status(s, nil); len(well.Conditions) != 0 {
		t.Errorf("it stays when all is well: %+v", well.Conditions)
	}
	s.Active = pods(9, false, 0)
	s.Set.Status.Conditions = nil
	if c := Status(s, errors.New("x")).Conditions[0]; c.Reason != "FailedDelete" {
		t.Error(c.Reason)
	}
}
