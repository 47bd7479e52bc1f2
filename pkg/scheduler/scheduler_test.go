package scheduler

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/klog/v2"
)

func TestMain(m *testing.M) {
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	os.Exit(m.Run())
}

// harness is a scheduler over a fake apiserver, in a synctest bubble.
type harness struct {
	*testing.T
	client    *fake.Clientset
	scheduler *Scheduler
	registry  *prometheus.Registry

	mu       sync.Mutex
	bindings int
	failing  int // bindings that are to fail
}

func inBubble(t *testing.T, test func(h *harness), objects ...runtime.Object) {
	synctest.Test(t, func(t *testing.T) {
		h := &harness{T: t, client: fake.NewClientset(objects...), registry: prometheus.NewRegistry()}
		h.client.PrependReactor("create", "pods", h.bind)
		h.scheduler = newScheduler(Config{Name: corev1.DefaultSchedulerName, Workers: 4, Metrics: h.registry,
			Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}, h.client)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- h.scheduler.Run(ctx) }()
		synctest.Wait()
		test(h)
		stop()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
		time.Sleep(time.Minute) // the recorder finishes on its own
	})
}

// bind does what the apiserver does with a binding.
func (h *harness) bind(action clienttesting.Action) (bool, runtime.Object, error) {
	if action.GetSubresource() != "binding" {
		return false, nil, nil
	}
	h.mu.Lock()
	fail := h.failing > 0
	h.failing--
	h.bindings++
	h.mu.Unlock()
	if fail {
		return true, nil, apierrors.NewInternalError(errors.New("etcd is away"))
	}
	b := action.(clienttesting.CreateAction).GetObject().(*corev1.Binding)
	object, err := h.client.Tracker().Get(schema.GroupVersionResource{Version: "v1", Resource: "pods"}, b.Namespace, b.Name)
	if err != nil {
		return true, nil, err
	}
	p := object.(*corev1.Pod).DeepCopy()
	if p.Spec.NodeName != "" {
		h.Errorf("pod %s is bound twice", p.Name)
	}
	p.Spec.NodeName = b.Target.Name
	return true, b, h.client.Tracker().Update(schema.GroupVersionResource{Version: "v1", Resource: "pods"}, p, p.Namespace)
}

func (h *harness) get(name string) *corev1.Pod {
	p, err := h.client.CoreV1().Pods("ns").Get(h.Context(), name, metav1.GetOptions{})
	if err != nil {
		h.Fatal(err)
	}
	return p
}

func (h *harness) create(objects ...runtime.Object) {
	for _, object := range objects {
		var err error
		switch o := object.(type) {
		case *corev1.Node:
			_, err = h.client.CoreV1().Nodes().Create(h.Context(), o, metav1.CreateOptions{})
		case *corev1.Pod:
			_, err = h.client.CoreV1().Pods("ns").Create(h.Context(), o, metav1.CreateOptions{})
		}
		if err != nil {
			h.Fatal(err)
		}
	}
	synctest.Wait()
}

func (h *harness) expectNode(name, node string) {
	h.Helper()
	if got := h.get(name).Spec.NodeName; got != node {
		h.Errorf("pod %s: on node %q, want %q", name, got, node)
	}
}

func (h *harness) condition(name string) string {
	for _, c := range h.get(name).Status.Conditions {
		if c.Type == corev1.PodScheduled {
			return fmt.Sprintf("%s %s: %s", c.Status, c.Reason, c.Message)
		}
	}
	return ""
}

// events returns "reason: note" of the events about a pod.
func (h *harness) events(name string) (all []string) {
	list, err := h.client.EventsV1().Events("ns").List(h.Context(), metav1.ListOptions{})
	if err != nil {
		h.Fatal(err)
	}
	for _, e := range list.Items {
		if e.Regarding.Name == name {
			all = append(all, e.Reason+": "+e.Note)
		}
	}
	return all
}

// attempts reads scheduler_schedule_attempts_total.
func (h *harness) attempts(result string) int {
	families, err := h.registry.Gather()
	if err != nil {
		h.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.Metric {
			if family.GetName() == "scheduler_schedule_attempts_total" && m.Label[1].GetValue() == result {
				return int(m.Counter.GetValue())
			}
		}
	}
	return 0
}

func TestBinds(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.create(testPod("p", cpu("1")))
		h.expectNode("p", "b")
		if got := h.events("p"); !slices.Equal(got, []string{"Scheduled: Successfully assigned ns/p to b"}) {
			t.Errorf("events: %q", got)
		}
	}, testNode("a", cordoned), testNode("b"))
}

func TestUnschedulableUntilSomethingHelps(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.create(testPod("p", cpu("3")))
		const why = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
		if got := h.condition("p"); got != "False Unschedulable: "+why {
			t.Errorf("condition: %q", got)
		}
		if got := h.events("p"); !slices.Equal(got, []string{"FailedScheduling: " + why}) {
			t.Errorf("events: %q", got)
		}
		// What can't help leads to no attempt.
		h.create(testNode("small", func(n *corev1.Node) { n.Status.Allocatable[corev1.ResourceCPU] = *oneCPU() }))
		h.create(testPod("other", on("a")))
		if n := h.attempts("unschedulable"); n != 1 {
			t.Errorf("%d attempts", n)
		}
		if err := h.client.CoreV1().Pods("ns").Delete(t.Context(), "big", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		h.expectNode("p", "a")
	}, testNode("a"), testPod("big", cpu("2"), on("a")))
}

func TestNewNodeHelps(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.create(testPod("p"))
		if got := h.condition("p"); got != "False Unschedulable: no nodes available to schedule pods" {
			t.Errorf("condition: %q", got)
		}
		h.create(testNode("a"))
		h.expectNode("p", "a")
	})
}

func TestLeavesOthersAlone(t *testing.T) {
	inBubble(t, func(h *harness) {
		gate := func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/wait"}} }
		h.create(testPod("theirs", func(p *corev1.Pod) { p.Spec.SchedulerName = "other" }), testPod("gated", gate))
		h.expectNode("theirs", "")
		h.expectNode("gated", "")
		p := h.get("gated")
		p.Spec.SchedulingGates = nil
		if _, err := h.client.CoreV1().Pods("ns").Update(t.Context(), p, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		h.expectNode("gated", "a")
	}, testNode("a"))
}

func TestFailedBindingIsTriedAgain(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.failing = 2
		h.create(testPod("p", cpu("3")))
		h.expectNode("p", "")
		if got := h.condition("p"); !strings.HasPrefix(got, "False SchedulerError: binding rejected") {
			t.Errorf("condition: %q", got)
		}
		time.Sleep(5 * time.Second)
		h.expectNode("p", "a")
		if h.bindings != 3 || h.attempts("error") != 2 {
			t.Errorf("%d bindings, %d errors", h.bindings, h.attempts("error"))
		}
		h.create(testPod("q", cpu("1"))) // what was given up can be had
		h.expectNode("q", "a")
	}, testNode("a"))
}

func TestRoomIsTakenWhileBinding(t *testing.T) {
	s := newScheduler(Config{Name: corev1.DefaultSchedulerName, Logger: slog.New(slog.DiscardHandler)}, fake.NewClientset())
	s.nodeChanged(nil, testNode("a"))
	for _, name := range []string{"p", "q"} {
		s.podChanged(nil, testPod(name, cpu("3")))
		s.try(s.queue.pop(time.Now())) // and nobody acts on it
	}
	if s.cluster.pods["ns/p"] == nil || !s.cluster.pods["ns/p"].assumed {
		t.Error("p is not assumed to be on the node")
	}
	if it := s.queue.items["ns/q"]; it == nil || it.place != waiting {
		t.Errorf("q: %+v", it)
	}
}

func TestImportantPodsFirst(t *testing.T) {
	inBubble(t, func(h *harness) {
		for i := range 5 {
			h.create(testPod(fmt.Sprintf("p%d", i), cpu("4"), priority(int32(i%3)), func(p *corev1.Pod) {
				p.Spec.PreemptionPolicy = new(corev1.PreemptionPolicy)
				*p.Spec.PreemptionPolicy = corev1.PreemptNever
			}))
		}
		h.create(testNode("a"))
		h.expectNode("p2", "a")
	})
}

func TestPreempts(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.create(testPod("important", cpu("3"), priority(10)))
		h.expectNode("important", "a")
		if _, err := h.client.CoreV1().Pods("ns").Get(t.Context(), "minor", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("the victim is still there: %v", err)
		}
		h.expectNode("small", "a")
		if got := h.events("minor"); len(got) != 1 || !strings.HasPrefix(got[0], "Preempted: Preempted by pod important on node a") {
			t.Errorf("events: %q", got)
		}
	}, testNode("a"), testPod("minor", cpu("3"), on("a"), priority(1)), testPod("small", cpu("1"), on("a"), priority(1)))
}

// A victim that takes its time: its place is kept for the pod that preempted it.
func TestPreemptedRoomIsKept(t *testing.T) {
	gvr := schema.GroupVersionResource{Version: "v1", Resource: "pods"}
	inBubble(t, func(h *harness) {
		h.client.PrependReactor("delete", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
			object, err := h.client.Tracker().Get(gvr, "ns", "minor")
			if err != nil {
				return true, nil, err
			}
			p := object.(*corev1.Pod).DeepCopy()
			p.DeletionTimestamp = &metav1.Time{Time: time.Now()}
			return true, nil, h.client.Tracker().Update(gvr, p, "ns")
		})
		h.create(testPod("important", cpu("4"), priority(10)))
		if got := h.get("important").Status.NominatedNodeName; got != "a" {
			t.Errorf("nominated for %q", got)
		}
		if n := h.attempts("unschedulable"); n != 1 {
			t.Errorf("%d attempts while the victim leaves", n)
		}
		h.create(testPod("sneaky", cpu("2"), priority(1)))
		if err := h.client.Tracker().Delete(gvr, "ns", "minor"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		h.expectNode("important", "a")
		h.expectNode("sneaky", "")
	}, testNode("a"), testPod("minor", cpu("3"), on("a"), priority(1)))
}
