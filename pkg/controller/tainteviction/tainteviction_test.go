package tainteviction

import (
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/controller/controllertest"
)

var (
	unreachable = v1.Taint{Key: v1.TaintNodeUnreachable, Effect: v1.TaintEffectNoExecute}
	mine        = v1.Taint{Key: "mine", Value: "x", Effect: v1.TaintEffectNoExecute}
)

func tolerates(key string, seconds ...int64) v1.Toleration {
	t := v1.Toleration{Key: key, Operator: v1.TolerationOpExists, Effect: v1.TaintEffectNoExecute}
	if len(seconds) > 0 {
		t.TolerationSeconds = &seconds[0]
	}
	return t
}

func TestDecide(t *testing.T) {
	for name, c := range map[string]struct {
		taints      []v1.Taint
		tolerations []v1.Toleration
		evict       bool
		after       time.Duration
	}{
		"no taint":              {nil, nil, false, 0},
		"another effect":        {[]v1.Taint{{Key: "a", Effect: v1.TaintEffectNoSchedule}}, nil, false, 0},
		"not tolerated":         {[]v1.Taint{mine}, nil, true, 0},
		"tolerated for ever":    {[]v1.Taint{mine}, []v1.Toleration{tolerates("mine")}, false, 0},
		"tolerated for a time":  {[]v1.Taint{unreachable}, []v1.Toleration{tolerates(v1.TaintNodeUnreachable, 300)}, true, 300 * time.Second},
		"the shortest counts":   {[]v1.Taint{unreachable, mine}, []v1.Toleration{tolerates(v1.TaintNodeUnreachable, 300), tolerates("mine", 7)}, true, 7 * time.Second},
		"one isn't tolerated":   {[]v1.Taint{unreachable, mine}, []v1.Toleration{tolerates(v1.TaintNodeUnreachable, 300)}, true, 0},
		"for no time":           {[]v1.Taint{mine}, []v1.Toleration{tolerates("mine", -1)}, true, 0},
		"one for ever, one not": {[]v1.Taint{unreachable, mine}, []v1.Toleration{tolerates(v1.TaintNodeUnreachable), tolerates("mine", 9)}, true, 9 * time.Second},
	} {
		p := Decide(&v1.Pod{Spec: v1.PodSpec{Tolerations: c.tolerations}}, c.taints)
		if p.Evict != c.evict || p.After != c.after {
			t.Errorf("%s: %+v", name, p)
		}
	}
}

// TestTolerationSeconds taints a node, takes the taint back in time once, and then leaves it.
func TestTolerationSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "shop"},
			Spec: v1.PodSpec{NodeName: "n", Tolerations: []v1.Toleration{tolerates(v1.TaintNodeUnreachable, 300)}}}
		client := controllertest.NewClient(&v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}, pod)
		c := controllertest.Config(t, client)
		controllertest.Run(t, c, New(c).Run)
		taint := func(taints ...v1.Taint) {
			node, err := client.CoreV1().Nodes().Get(ctx, "n", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			node.Spec.Taints = taints
			if _, err := client.CoreV1().Nodes().Update(ctx, node, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		terminating := func() bool {
			p, err := client.CoreV1().Pods("shop").Get(ctx, "p", metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return true
			}
			if err != nil {
				t.Fatal(err)
			}
			if p.DeletionTimestamp != nil && (len(p.Status.Conditions) != 1 || p.Status.Conditions[0].Reason != "DeletionByTaintManager") {
				t.Errorf("conditions %+v", p.Status.Conditions)
			}
			return p.DeletionTimestamp != nil
		}
		time.Sleep(time.Second)
		taint(unreachable)
		time.Sleep(299 * time.Second)
		taint()
		time.Sleep(time.Hour)
		if terminating() {
			t.Fatal("evicted although the taint went in time")
		}
		taint(unreachable)
		time.Sleep(299 * time.Second)
		if terminating() {
			t.Fatal("evicted too early")
		}
		time.Sleep(2 * time.Second)
		if !terminating() {
			t.Fatal("not evicted")
		}
	})
}
