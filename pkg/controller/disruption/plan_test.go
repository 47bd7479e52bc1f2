package disruption

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	apps "k8s.io/api/apps/v1"
	fakediscovery "k8s.io/client-go/discovery/fake"

	"skiff/pkg/controller/controllertest"
)

var now = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func number(s string) *intstr.IntOrString {
	if s == "" {
		return nil
	}
	return new(intstr.Parse(s))
}

func budget(minAvailable, maxUnavailable string) *policyv1.PodDisruptionBudget {
	return &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "b", Generation: 4},
		Spec: policyv1.PodDisruptionBudgetSpec{
			MinAvailable: number(minAvailable), MaxUnavailable: number(maxUnavailable),
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
		},
	}
}

func pod(name string, change ...func(*v1.Pod)) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: map[string]string{"app": "web"}}}
	p.Status.Conditions = []v1.PodCondition{{Type: v1.PodReady, Status: v1.ConditionTrue}}
	for _, c := range change {
		c(p)
	}
	return p
}

func unready(p *v1.Pod) { p.Status.Conditions[0].Status = v1.ConditionFalse }
func going(p *v1.Pod)   { p.DeletionTimestamp = new(metav1.NewTime(now)) }

func TestDecide(t *testing.T) {
	three := []*v1.Pod{pod("x"), pod("y"), pod("z")}
	for name, c := range map[string]struct {
		budget *policyv1.PodDisruptionBudget
		pods   []*v1.Pod
		scale  int32
		want   string // healthy/desired/expected allowed, reason
	}{
		"number":              {budget("2", ""), three, 0, "3/2/3 1 SufficientPods"},
		"all needed":          {budget("3", ""), three, 0, "3/3/3 0 InsufficientPods"},
		"fewer than needed":   {budget("5", ""), three, 0, "3/5/3 0 InsufficientPods"},
		"percent rounds up":   {budget("50%", ""), three, 3, "3/2/3 1 SufficientPods"},
		"of the scale":        {budget("50%", ""), three, 6, "3/3/6 0 InsufficientPods"},
		"max":                 {budget("", "2"), three, 3, "3/1/3 2 SufficientPods"},
		"max more than all":   {budget("", "9"), three, 3, "3/0/3 3 SufficientPods"},
		"max percent":         {budget("", "34%"), three, 3, "3/1/3 2 SufficientPods"},
		"unready and going":   {budget("1", ""), []*v1.Pod{pod("x"), pod("y", unready), pod("z", going)}, 0, "1/1/3 0 InsufficientPods"},
		"nothing expected":    {budget("0", ""), nil, 0, "0/0/0 0 InsufficientPods"},
		"neither min nor max": {budget("", ""), three, 0, "3/0/0 0 InsufficientPods"},
	} {
		p, err := Decide(Snapshot{Budget: c.budget, Pods: c.pods, Scale: c.scale, Now: now})
		if err != nil || p.Write == nil {
			t.Errorf("%s: %v %v", name, p, err)
			continue
		}
		s := p.Write.Status
		got := fmt.Sprintf("%d/%d/%d %d %s", s.CurrentHealthy, s.DesiredHealthy, s.ExpectedPods, s.DisruptionsAllowed, s.Conditions[0].Reason)
		if got != c.want || s.ObservedGeneration != 4 || s.Conditions[0].ObservedGeneration != 4 {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
		if p, _ := Decide(Snapshot{Budget: p.Write, Pods: c.pods, Scale: c.scale, Now: now}); p.Write != nil {
			t.Errorf("%s: written twice", name)
		}
	}
	if _, err := Decide(Snapshot{Budget: budget("x%", "")}); err == nil {
		t.Error("no percentage")
	}
}

func TestEvictionsAreBelievedForAWhile(t *testing.T) {
	b := budget("1", "")
	at := func(ago time.Duration) metav1.Time { return metav1.NewTime(now.Add(-ago)) }
	b.Status.DisruptedPods = map[string]metav1.Time{"young": at(time.Minute), "old": at(3 * time.Minute), "going": at(time.Second), "gone": at(time.Second)}
	p, err := Decide(Snapshot{Budget: b, Pods: []*v1.Pod{pod("young"), pod("old"), pod("going", going), pod("other")}, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	_, kept := p.Write.Status.DisruptedPods["young"]
	if s := p.Write.Status; !kept || len(s.DisruptedPods) != 1 || s.CurrentHealthy != 2 || p.Again != time.Minute || len(p.Overdue) != 1 || p.Overdue[0].Name != "old" {
		t.Errorf("%+v %+v", p, p.Write.Status)
	}
}

func TestStale(t *testing.T) {
	announced := func(reason string, ago time.Duration) func(*v1.Pod) {
		return func(p *v1.Pod) {
			p.Status.Conditions = append(p.Status.Conditions, v1.PodCondition{Type: v1.DisruptionTarget, Status: v1.ConditionTrue, Reason: reason, LastTransitionTime: metav1.NewTime(now.Add(-ago))})
		}
	}
	for name, c := range map[string]struct {
		pod  *v1.Pod
		wait time.Duration
		is   bool
	}{
		"none":        {pod("p"), 0, false},
		"fresh":       {pod("p", announced("x", 30*time.Second)), 90 * time.Second, true},
		"old":         {pod("p", announced("x", time.Hour)), 0, true},
		"a kubelet's": {pod("p", announced(v1.PodReasonTerminationByKubelet, time.Hour)), 0, false},
		"it came":     {pod("p", announced("x", time.Hour), going), 0, false},
		"it ended":    {pod("p", announced("x", time.Hour), func(p *v1.Pod) { p.Status.Phase = v1.PodFailed }), 0, false},
	} {
		if wait, is := stale(c.pod, now); wait != c.wait || is != c.is {
			t.Errorf("%s: %v %v", name, wait, is)
		}
	}
}

func owned(name, apiVersion, kind, owner string) *v1.Pod {
	return pod(name, func(p *v1.Pod) {
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: apiVersion, Kind: kind, Name: owner, UID: types.UID(owner), Controller: new(true)}}
	})
}

// The whole reconciler: owners of all sorts, failures that close the budget, and pods that come and go.
func TestReconciler(t *testing.T) {
	meta := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name)}
	}
	set := &apps.ReplicaSet{ObjectMeta: meta("set"), Spec: apps.ReplicaSetSpec{Replicas: new(int32(1))}}
	set.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: "deployment", UID: "deployment", Controller: new(true)}}
	client := controllertest.NewClient(
		budget("", "1"), set,
		&apps.Deployment{ObjectMeta: meta("deployment"), Spec: apps.DeploymentSpec{Replicas: new(int32(4))}},
		&apps.StatefulSet{ObjectMeta: meta("stateful"), Spec: apps.StatefulSetSpec{Replicas: new(int32(2))}},
		owned("a", "apps/v1", "ReplicaSet", "set"), owned("b", "apps/v1", "ReplicaSet", "set"), owned("c", "apps/v1", "StatefulSet", "stateful"),
		owned("d", "example.com/v1", "Widget", "widget"), pod("unmanaged"),
	)
	client.Discovery().(*fakediscovery.FakeDiscovery).Resources = []*metav1.APIResourceList{
		{GroupVersion: "example.com/v1", APIResources: []metav1.APIResource{{Name: "widgets", Kind: "Widget", Namespaced: true}, {Name: "widgets/scale", Kind: "Scale", Namespaced: true}}},
		{GroupVersion: "batch/v1", APIResources: []metav1.APIResource{{Name: "jobs", Kind: "Job", Namespaced: true}}},
	}
	c := controllertest.Config(t, client)
	r := New(c)
	r.scales.get = func(_ context.Context, resource schema.GroupVersionResource, namespace, name string) (*autoscalingv1.Scale, error) {
		if resource.Resource != "widgets" || namespace != "shop" || name != "widget" {
			return nil, errors.New("what?")
		}
		return &autoscalingv1.Scale{ObjectMeta: meta("widget"), Spec: autoscalingv1.ScaleSpec{Replicas: 3}}, nil
	}
	controllertest.Run(t, c, r.Run)
	status := func(want string) {
		t.Helper()
		controllertest.Eventually(t, func() error {
			b, err := client.PolicyV1().PodDisruptionBudgets("shop").Get(t.Context(), "b", metav1.GetOptions{})
			if err != nil {
				return err
			}
			condition := apimeta.FindStatusCondition(b.Status.Conditions, policyv1.DisruptionAllowedCondition)
			if condition == nil {
				return errors.New("no condition")
			}
			got := fmt.Sprintf("%d/%d/%d %d %s %s", b.Status.CurrentHealthy, b.Status.DesiredHealthy, b.Status.ExpectedPods, b.Status.DisruptionsAllowed, condition.Reason, condition.Message)
			if got != want {
				return fmt.Errorf("%s, want %s", got, want)
			}
			return nil
		})
	}
	status("5/8/9 0 InsufficientPods ")
	pods := client.CoreV1().Pods("shop")
	for i := range 5 {
		if _, err := pods.Create(t.Context(), owned(fmt.Sprint("more", i), "apps/v1", "ReplicaSet", "set"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	status("10/8/9 2 SufficientPods ")
	if _, err := pods.Create(t.Context(), owned("j", "batch/v1", "Job", "job"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	status("10/8/9 0 SyncFailed jobs.batch does not implement the scale subresource")
	if err := pods.Delete(t.Context(), "j", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	status("10/8/9 2 SufficientPods ")
}
