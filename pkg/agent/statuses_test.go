package agent

import (
	"context"
	"encoding/json"
	"log/slog"
	"strconv"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

func called(ready v1.ConditionStatus, revision int) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n", UID: "u", ResourceVersion: strconv.Itoa(revision)},
		Status: v1.PodStatus{Phase: v1.PodRunning, Conditions: []v1.PodCondition{{Type: v1.PodReady, Status: ready}}}}
}

// A lifecycle controller that hears nothing of the node calls its pods not ready. The node says
// that they are: as soon as it sees that, and without going round in circles with its own echo.
func TestPodsThatOthersCallNotReady(t *testing.T) {
	client := fake.NewClientset()
	patches := make(chan v1.ConditionStatus, 10)
	revision := 10
	client.PrependReactor("patch", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		var p v1.Pod
		if err := json.Unmarshal(action.(clienttesting.PatchAction).GetPatch(), &p); err != nil {
			t.Error(err)
		}
		revision += 10
		patches <- calledReady(&p.Status)
		return true, called(v1.ConditionTrue, revision), nil
	})
	s := newStatuses(client, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.run(ctx) }()
	defer func() { cancel(); <-done }()
	want := called(v1.ConditionTrue, 0).Status
	settle := func() {
		t.Helper()
		for {
			s.mu.Lock()
			busy, idle := s.pods["u"].busy, s.pods["u"].idle
			s.mu.Unlock()
			if !busy {
				return
			}
			select {
			case <-idle:
			case <-time.After(10 * time.Second):
				t.Fatal("it goes on and on")
			}
		}
	}
	expect := func(n int) {
		t.Helper()
		settle()
		if len(patches) != n {
			t.Fatalf("%d patches, want %d", len(patches), n)
		}
		for range n {
			if ready := <-patches; ready != v1.ConditionTrue {
				t.Errorf("told Ready is %s", ready)
			}
		}
	}
	s.set(called(v1.ConditionFalse, 10), &want)
	expect(1)
	s.seen(called(v1.ConditionFalse, 15), want) // from before our word
	s.seen(called(v1.ConditionTrue, 20), want)  // our word's echo
	expect(0)
	s.seen(called(v1.ConditionFalse, 25), want)
	expect(1)
	s.forget("u") // as after a restart of the agent
	s.seen(called(v1.ConditionFalse, 45), want)
	expect(1)
}
