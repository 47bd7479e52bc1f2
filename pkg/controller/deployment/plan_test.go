package deployment

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func deploymentOf(replicas int32, surge, unavailable string) *apps.Deployment {
	s, u := intstr.Parse(surge), intstr.Parse(unavailable)
	return &apps.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "shop", UID: "d", Generation: 1},
		Spec: apps.DeploymentSpec{
			Replicas: &replicas, ProgressDeadlineSeconds: new(int32(600)), RevisionHistoryLimit: new(int32(10)),
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			Strategy: apps.DeploymentStrategy{Type: apps.RollingUpdateDeploymentStrategyType,
				RollingUpdate: &apps.RollingUpdateDeployment{MaxSurge: &s, MaxUnavailable: &u}},
			Template: templateOf("new"),
		},
	}
}

func templateOf(image string) v1.PodTemplateSpec {
	return v1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
		Spec:       v1.PodSpec{Containers: []v1.Container{{Name: "c", Image: image}}},
	}
}

// setOf is a replica set that has what it wants, all available.
func setOf(d *apps.Deployment, image string, revision int, replicas int32) *apps.ReplicaSet {
	rs := &apps.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Name: "web-" + image, Namespace: "shop", UID: types.UID("rs-" + image), Generation: 1,
			CreationTimestamp: metav1.NewTime(now.Add(time.Duration(revision) * time.Minute)),
			Annotations:       map[string]string{RevisionAnnotation: fmt.Sprint(revision)},
			OwnerReferences:   []metav1.OwnerReference{*metav1.NewControllerRef(d, kind)},
		},
		Spec:   apps.ReplicaSetSpec{Replicas: &replicas, Template: templateOf(image)},
		Status: apps.ReplicaSetStatus{Replicas: replicas, ReadyReplicas: replicas, AvailableReplicas: replicas, ObservedGeneration: 1, TerminatingReplicas: new(int32)},
	}
	annotateSize(rs, *d.Spec.Replicas, *d.Spec.Replicas+maxSurge(d))
	return rs
}

func show(p Plan) string {
	var steps []string
	for _, s := range p.Steps {
		steps = append(steps, fmt.Sprintf("%s %s %d", s.Action, s.ReplicaSet.Name, *s.ReplicaSet.Spec.Replicas))
	}
	return strings.Join(steps, ", ")
}

func TestFenceposts(t *testing.T) {
	for _, c := range []struct {
		replicas           int32
		surge, unavailable string
		wantS, wantU       int32
	}{
		{10, "25%", "25%", 3, 2},
		{4, "25%", "25%", 1, 1},
		{1, "25%", "25%", 1, 0},
		{2, "0%", "1%", 0, 1}, // both round to nothing: something has to give
		{2, "1%", "0%", 1, 0},
		{10, "3", "2", 3, 2},
		{0, "25%", "25%", 0, 1},
	} {
		if s, u := fenceposts(deploymentOf(c.replicas, c.surge, c.unavailable)); s != c.wantS || u != c.wantU {
			t.Errorf("%d with %s, %s: surge %d, unavailable %d", c.replicas, c.surge, c.unavailable, s, u)
		}
	}
}

func TestDecide(t *testing.T) {
	first := func(d *apps.Deployment) []*apps.ReplicaSet { return nil }
	for name, c := range map[string]struct {
		d    *apps.Deployment
		sets func(*apps.Deployment) []*apps.ReplicaSet
		want string
	}{
		"first rollout": {deploymentOf(10, "3", "2"), first, "create web-* 10"},
		"an update begins with the surge, and with what may be missing": {deploymentOf(10, "3", "2"),
			func(d *apps.Deployment) []*apps.ReplicaSet { return []*apps.ReplicaSet{setOf(d, "old", 1, 10)} },
			"create web-* 3, update web-old 8"},
		"new pods that aren't available yet hold the old ones": {deploymentOf(10, "3", "2"),
			func(d *apps.Deployment) []*apps.ReplicaSet {
				fresh := setOf(d, "new", 2, 5)
				fresh.Status.AvailableReplicas = 0
				return []*apps.ReplicaSet{setOf(d, "old", 1, 8), fresh}
			}, ""},
		"as they become available, old ones go": {deploymentOf(10, "3", "2"),
			func(d *apps.Deployment) []*apps.ReplicaSet {
				fresh := setOf(d, "new", 2, 5)
				fresh.Status.AvailableReplicas = 2
				return []*apps.ReplicaSet{setOf(d, "old", 1, 8), fresh}
			}, "update web-old 6"},
		"unhealthy old pods go first": {deploymentOf(10, "0", "2"),
			func(d *apps.Deployment) []*apps.ReplicaSet {
				older, old := setOf(d, "older", 1, 5), setOf(d, "old", 2, 5)
				old.Status.AvailableReplicas = 4
				return []*apps.ReplicaSet{older, old, setOf(d, "new", 3, 0)}
			}, "update web-old 4, update web-older 4"},
		"no surge: down before up": {deploymentOf(2, "0", "1"),
			func(d *apps.Deployment) []*apps.ReplicaSet { return []*apps.ReplicaSet{setOf(d, "old", 1, 2)} },
			"create web-* 0, update web-old 1"},
		"scaling with one set": {deploymentOf(10, "3", "2"),
			func(d *apps.Deployment) []*apps.ReplicaSet {
				return []*apps.ReplicaSet{setOf(deploymentOf(4, "3", "2"), "new", 1, 4)}
			}, "update web-new 10"},
		"scaling during a rollout is in proportion": {deploymentOf(15, "3", "2"),
			func(d *apps.Deployment) []*apps.ReplicaSet {
				ten := deploymentOf(10, "3", "2")
				return []*apps.ReplicaSet{setOf(ten, "old", 1, 8), setOf(ten, "new", 2, 5)}
			}, "update web-old 11, update web-new 7"},
		"scaling to nothing during a rollout": {deploymentOf(0, "3", "2"),
			func(d *apps.Deployment) []*apps.ReplicaSet {
				ten := deploymentOf(10, "3", "2")
				return []*apps.ReplicaSet{setOf(ten, "old", 1, 8), setOf(ten, "new", 2, 5)}
			}, "update web-old 0, update web-new 0"},
		"rollback to an earlier template": {deploymentOf(4, "1", "1"),
			func(d *apps.Deployment) []*apps.ReplicaSet {
				return []*apps.ReplicaSet{setOf(d, "new", 1, 0), setOf(d, "old", 2, 4)}
			}, "update web-new 1"},
	} {
		sets := c.sets(c.d)
		got := show(Decide(Snapshot{Deployment: c.d, ReplicaSets: sets, Now: now}))
		if hash, _, ok := strings.Cut(strings.TrimPrefix(got, "create web-"), " "); ok && strings.HasPrefix(got, "create") {
			got = strings.Replace(got, "web-"+hash, "web-*", 1)
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestEventsAndRevision(t *testing.T) {
	d := deploymentOf(4, "1", "1")
	old := setOf(d, "old", 7, 4)
	p := Decide(Snapshot{Deployment: d, ReplicaSets: []*apps.ReplicaSet{old}, Now: now})
	created := p.Steps[0].ReplicaSet
	if want := fmt.Sprintf("Scaled up replica set %s from 0 to 1", created.Name); p.Steps[0].Event != want {
		t.Errorf("event %q, want %q", p.Steps[0].Event, want)
	}
	if created.Annotations[RevisionAnnotation] != "8" || p.Deployment.Annotations[RevisionAnnotation] != "8" {
		t.Errorf("revisions %v, %v", created.Annotations, p.Deployment.Annotations)
	}
	hash := created.Labels[apps.DefaultDeploymentUniqueLabelKey]
	if created.Name != "web-"+hash || created.Spec.Selector.MatchLabels[apps.DefaultDeploymentUniqueLabelKey] != hash || created.Spec.Template.Labels[apps.DefaultDeploymentUniqueLabelKey] != hash {
		t.Errorf("hash label isn't everywhere: %+v", created)
	}
	if _, has := d.Spec.Selector.MatchLabels[apps.DefaultDeploymentUniqueLabelKey]; has || d.Annotations != nil {
		t.Error("the snapshot was changed")
	}

	// Rolled back to, a set gets a new revision and remembers the old one.
	back := setOf(d, "new", 3, 0)
	p = Decide(Snapshot{Deployment: d, ReplicaSets: []*apps.ReplicaSet{old, back}, Now: now})
	if a := p.Steps[0].ReplicaSet.Annotations; a[RevisionAnnotation] != "8" || a[RevisionHistoryAnnotation] != "3" {
		t.Errorf("annotations %v", a)
	}
}

func TestAppendHistory(t *testing.T) {
	history := ""
	for i := range 3000 {
		history = appendHistory(history, fmt.Sprint(i))
	}
	if len(history) > maxHistoryChars || !strings.HasSuffix(history, ",2999") || strings.HasPrefix(history, ",") {
		t.Errorf("%d characters: %.20s … %s", len(history), history, history[len(history)-20:])
	}
}

func TestCopiesAnnotations(t *testing.T) {
	d := deploymentOf(1, "1", "0")
	d.Annotations = map[string]string{"team": "a", v1.LastAppliedConfigAnnotation: "{}", RevisionAnnotation: "1"}
	rs := setOf(d, "new", 1, 1)
	p := Decide(Snapshot{Deployment: d, ReplicaSets: []*apps.ReplicaSet{rs}, Now: now})
	if show(p) != "update web-new 1" || p.Steps[0].ReplicaSet.Annotations["team"] != "a" || p.Steps[0].ReplicaSet.Annotations[v1.LastAppliedConfigAnnotation] != "" {
		t.Errorf("%s: %v", show(p), p.Steps[0].ReplicaSet.Annotations)
	}
	if p.Steps[0].Event != "" {
		t.Errorf("event %q although nothing was scaled", p.Steps[0].Event)
	}
}

func TestRecreate(t *testing.T) {
	d := deploymentOf(3, "0", "0")
	d.Spec.Strategy = apps.DeploymentStrategy{Type: apps.RecreateDeploymentStrategyType}
	old := setOf(d, "old", 1, 3)
	s := Snapshot{Deployment: d, ReplicaSets: []*apps.ReplicaSet{old}, Now: now}
	if got := show(Decide(s)); got != "update web-old 0" {
		t.Fatalf("first: %q", got)
	}
	old.Spec.Replicas = new(int32)
	if got := show(Decide(s)); got != "" {
		t.Fatalf("while the old set reports pods: %q", got)
	}
	old.Status.Replicas = 0
	running := &v1.Pod{Status: v1.PodStatus{Phase: v1.PodRunning}}
	s.Pods = map[types.UID][]*v1.Pod{old.UID: {running}}
	if got := show(Decide(s)); got != "" {
		t.Fatalf("while an old pod is still terminating: %q", got)
	}
	running.Status.Phase = v1.PodSucceeded
	if got := show(Decide(s)); !strings.HasPrefix(got, "create web-") || !strings.HasSuffix(got, " 3") {
		t.Fatalf("when all are gone: %q", got)
	}
}

func TestPaused(t *testing.T) {
	d := deploymentOf(6, "1", "1")
	d.Spec.Paused = true
	four := deploymentOf(4, "1", "1")
	p := Decide(Snapshot{Deployment: d, ReplicaSets: []*apps.ReplicaSet{setOf(four, "old", 1, 4)}, Now: now})
	if show(p) != "update web-old 6" {
		t.Errorf("a paused deployment is scaled, and not rolled: %q", show(p))
	}
	if c := condition(p.Deployment.Status, apps.DeploymentProgressing); c == nil || c.Reason != PausedDeployReason || c.Status != v1.ConditionUnknown {
		t.Errorf("%+v", c)
	}
	all := []*apps.ReplicaSet{setOf(d, "old", 1, 6)}
	d = Decide(Snapshot{Deployment: p.Deployment, ReplicaSets: all, Now: now}).Deployment
	d.Spec.Paused = false
	p = Decide(Snapshot{Deployment: d, ReplicaSets: []*apps.ReplicaSet{setOf(d, "old", 1, 6)}, Now: now.Add(time.Hour)})
	if c := condition(p.Deployment.Status, apps.DeploymentProgressing); c.Reason != NewReplicaSetReason {
		t.Errorf("%+v", c)
	}
}

func TestHistoryLimit(t *testing.T) {
	d := deploymentOf(1, "1", "0")
	d.Spec.RevisionHistoryLimit = new(int32(2))
	sets := []*apps.ReplicaSet{setOf(d, "new", 9, 1)}
	for i := range 5 {
		sets = append(sets, setOf(d, fmt.Sprint("v", i), i+1, 0))
	}
	sets[2].Status.Replicas = 1 // v1 still has a pod
	if got := show(Decide(Snapshot{Deployment: d, ReplicaSets: sets, Now: now})); got != "" {
		t.Errorf("cleans up before the rollout is complete: %q", got)
	}
	d.Status = Decide(Snapshot{Deployment: d, ReplicaSets: sets[:1], Now: now}).Deployment.Status
	if got := show(Decide(Snapshot{Deployment: d, ReplicaSets: sets, Now: now})); got != "delete web-v0 0, delete web-v2 0" {
		t.Errorf("%q", got)
	}
	sets[2].Status.Replicas = 0
	sets[2].Status.ObservedGeneration = 0 // it hasn't looked at its last change
	if got := show(Decide(Snapshot{Deployment: d, ReplicaSets: sets, Now: now})); got != "delete web-v0 0, delete web-v2 0" {
		t.Errorf("%q", got)
	}
}

func TestProgressConditions(t *testing.T) {
	d := deploymentOf(2, "1", "0")
	at := now
	turn := func(sets ...*apps.ReplicaSet) (string, Plan) {
		p := Decide(Snapshot{Deployment: d, ReplicaSets: sets, Now: at})
		d = p.Deployment
		c := condition(d.Status, apps.DeploymentProgressing)
		return fmt.Sprintf("%s %s %s", c.Status, c.Reason, c.LastUpdateTime.Sub(now)), p
	}
	got, p := turn()
	if got != "True NewReplicaSetCreated 0s" || p.Again != 601*time.Second {
		t.Fatalf("%s, again in %v", got, p.Again)
	}
	rs := setOf(d, "new", 1, 2)
	rs.Status.AvailableReplicas, rs.Status.ReadyReplicas = 0, 0
	at = at.Add(time.Minute)
	if got, _ = turn(rs); got != "True ReplicaSetUpdated 1m0s" {
		t.Fatal(got)
	}
	at = at.Add(time.Minute)
	got, p = turn(rs)
	if got != "True ReplicaSetUpdated 1m0s" || p.StatusChanged || p.Again != 541*time.Second {
		t.Fatalf("nothing moved: %s, changed %t, again in %v", got, p.StatusChanged, p.Again)
	}
	at = now.Add(12 * time.Minute)
	got, p = turn(rs)
	if got != "False ProgressDeadlineExceeded 12m0s" || p.Again != 0 {
		t.Fatal(got, p.Again)
	}
	if c := condition(d.Status, apps.DeploymentAvailable); c.Status != v1.ConditionFalse || c.Reason != MinimumReplicasUnavailable {
		t.Fatalf("%+v", c)
	}
	rs.Status.AvailableReplicas, rs.Status.ReadyReplicas = 2, 2
	at = at.Add(time.Minute)
	if got, _ = turn(rs); got != "True NewReplicaSetAvailable 13m0s" {
		t.Fatal(got)
	}
	if c := condition(d.Status, apps.DeploymentAvailable); c.Status != v1.ConditionTrue {
		t.Fatalf("%+v", c)
	}
	rs.Status.Conditions = []apps.ReplicaSetCondition{{Type: apps.ReplicaSetReplicaFailure, Status: v1.ConditionTrue, Reason: "FailedCreate", Message: "quota"}}
	turn(rs)
	if c := condition(d.Status, apps.DeploymentReplicaFailure); c == nil || c.Message != "quota" {
		t.Fatalf("%+v", c)
	}
}

func TestTerminatingReplicas(t *testing.T) {
	d := deploymentOf(1, "1", "0")
	a, b, c := setOf(d, "a", 1, 0), setOf(d, "b", 2, 0), setOf(d, "c", 3, 0)
	a.Status.TerminatingReplicas, b.Status.TerminatingReplicas = new(int32(2)), new(int32(1))
	c.Status = apps.ReplicaSetStatus{} // never looked at
	if got := terminating([]*apps.ReplicaSet{a, b, c}); got == nil || *got != 3 {
		t.Error(got)
	}
	c.Status.ObservedGeneration = 1
	if got := terminating([]*apps.ReplicaSet{a, b, c}); got != nil {
		t.Error("a sum although one set doesn't report")
	}
}

func TestStepsHaveReasons(t *testing.T) {
	d := deploymentOf(10, "3", "2")
	for _, step := range Decide(Snapshot{Deployment: d, ReplicaSets: []*apps.ReplicaSet{setOf(d, "old", 1, 10)}, Now: now}).Steps {
		if step.Reason == "" {
			t.Errorf("%s %s has none", step.Action, step.ReplicaSet.Name)
		}
	}
	if keys := slices.Sorted(maps.Keys(ownAnnotations)); len(keys) != 6 {
		t.Error(keys)
	}
}
