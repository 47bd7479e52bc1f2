package agent

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// brief tells of a status what matters: the phase, the conditions' initials in
// capitals when true (Started sandbox, Initialized, Ready, Containers ready),
// and each container's state.
func brief(s v1.PodStatus) string {
	var b strings.Builder
	fmt.Fprint(&b, s.Phase, " ")
	for _, c := range []struct {
		kind v1.PodConditionType
		name string
	}{{v1.PodReadyToStartContainers, "s"}, {v1.PodInitialized, "i"}, {v1.PodReady, "r"}, {v1.ContainersReady, "c"}} {
		for _, have := range s.Conditions {
			if have.Type == c.kind {
				if have.Status == v1.ConditionTrue {
					c.name = strings.ToUpper(c.name)
				}
				fmt.Fprint(&b, c.name)
			}
		}
	}
	for _, list := range [][]v1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses} {
		for _, cs := range list {
			state := ""
			switch {
			case cs.State.Running != nil:
				state = "running"
			case cs.State.Waiting != nil:
				state = cs.State.Waiting.Reason
			case cs.State.Terminated != nil:
				state = fmt.Sprintf("%s=%d", cs.State.Terminated.Reason, cs.State.Terminated.ExitCode)
			}
			fmt.Fprintf(&b, " %s:%s", cs.Name, state)
			if cs.Ready {
				fmt.Fprint(&b, "+")
			}
		}
	}
	return b.String()
}

func TestStatus(t *testing.T) {
	never := func(p *v1.Pod, s *State) { p.Spec.RestartPolicy = v1.RestartPolicyNever }
	for _, c := range []struct {
		words string
		with  func(*v1.Pod, *State)
		want  string
	}{
		{"a:none", func(_ *v1.Pod, s *State) { s.Sandbox.Phase = Absent }, "Pending sIrc a:ContainerCreating"},
		{"a:pulling", nil, "Pending SIrc a:ContainerCreating"},
		{"a:failed", func(_ *v1.Pod, s *State) { s.Containers[0].Waiting = &Waiting{"ErrImagePull", ""} }, "Pending SIrc a:ErrImagePull"},
		{"a:run", nil, "Running SIRC a:running+"},
		{"a:run b:none", nil, "Pending SIrc a:running+ b:ContainerCreating"},
		{"a:run b:unstarted", nil, "Running SIrc a:running+ b:running"},
		{"a:run", func(_ *v1.Pod, s *State) { s.Containers[0].Current.Ready = false }, "Running SIrc a:running"},
		{"i-1:none a:none", nil, "Pending Sirc i-1:PodInitializing a:PodInitializing"},
		{"i-1:run a:none", nil, "Pending Sirc i-1:running a:PodInitializing"},
		{"i-1:exit=0 a:none", nil, "Pending SIrc i-1:Completed=0+ a:PodInitializing"},
		{"i-1:exit=1 a:none", nil, "Pending Sirc i-1:Error=1 a:PodInitializing"},
		{"i-1:exit=1 a:none", never, "Failed Sirc i-1:Error=1 a:PodInitializing"},
		{"i-1:exit=0 a:run", nil, "Running SIRC i-1:Completed=0+ a:running+"},
		{"s-1:unstarted a:none", nil, "Pending Sirc s-1:running a:PodInitializing"},
		{"s-1:run a:none", nil, "Pending SIrc s-1:running+ a:PodInitializing"},
		{"s-1:run a:run", nil, "Running SIRC s-1:running+ a:running+"},
		{"s-1:exit=1 a:run", nil, "Running SIrc s-1:Error=1 a:running+"},
		{"s-1:run a:exit=0", never, "Running SIrc s-1:running+ a:Completed=0"},
		{"s-1:exit=137 a:exit=0", never, "Succeeded SIrc s-1:Error=137 a:Completed=0"},
		{"a:exit=1", nil, "Running SIrc a:Error=1"},
		{"a:exit=1@10", func(_ *v1.Pod, s *State) { s.Containers[0].Waiting = &Waiting{"CrashLoopBackOff", ""} }, "Running SIrc a:CrashLoopBackOff"},
		{"a:exit=0 b:run", never, "Running SIrc a:Completed=0 b:running+"},
		{"a:exit=0 b:exit=0", never, "Succeeded SIrc a:Completed=0 b:Completed=0"},
		{"a:exit=0 b:exit=2", never, "Failed SIrc a:Completed=0 b:Error=2"},
		{"a:exit=143", func(p *v1.Pod, _ *State) { p.DeletionTimestamp = &metav1.Time{Time: epoch} }, "Failed SIrc a:Error=143"},
		{"a:exit=0", func(p *v1.Pod, _ *State) { p.DeletionTimestamp = &metav1.Time{Time: epoch} }, "Succeeded SIrc a:Completed=0"},
		{"a:run", func(_ *v1.Pod, s *State) { s.Outcome = &Outcome{"Evicted", ""} }, "Failed SIrc a:running+"},
		{"a:run", func(p *v1.Pod, _ *State) {
			p.Spec.ReadinessGates = []v1.PodReadinessGate{{ConditionType: "gate"}}
		}, "Running SIrC a:running+"},
		{"a:run", func(p *v1.Pod, _ *State) {
			p.Spec.ReadinessGates = []v1.PodReadinessGate{{ConditionType: "gate"}}
			p.Status.Conditions = []v1.PodCondition{{Type: "gate", Status: v1.ConditionTrue}}
		}, "Running SIRC a:running+"},
	} {
		pod, s := parse(c.words)
		if c.with != nil {
			c.with(pod, s)
		}
		if got := brief(Status(pod, s, &v1.PodStatus{}, []string{"192.0.2.1"}, epoch)); got != c.want {
			t.Errorf("%s: %s, want %s", c.words, got, c.want)
		}
	}
}

func TestStatusKeepsWhatWas(t *testing.T) {
	pod, s := parse("a:run")
	before := Status(pod, s, &v1.PodStatus{}, nil, epoch)
	after := Status(pod, s, &before, nil, epoch.Add(time.Hour))
	if !sameStatus(&before, &after) {
		t.Error("an hour changes a status in which nothing has happened")
	}
	s.Containers[0].Current.Ready = false
	after = Status(pod, s, &before, nil, epoch.Add(time.Hour))
	for _, c := range after.Conditions {
		moved := c.LastTransitionTime.Time.Equal(epoch.Add(time.Hour))
		if changed := c.Type == v1.PodReady || c.Type == v1.ContainersReady; moved != changed {
			t.Errorf("%s: transition at %v", c.Type, c.LastTransitionTime)
		}
	}
	over := v1.PodStatus{Phase: v1.PodFailed, Reason: "Evicted"}
	if got := Status(pod, s, &over, nil, epoch); got.Phase != v1.PodFailed || got.Reason != "Evicted" {
		t.Errorf("left its terminal phase: %s %s", got.Phase, got.Reason)
	}
}

func TestStatusPatchIsSmall(t *testing.T) {
	pod, s := parse("a:run")
	before := Status(pod, s, &v1.PodStatus{}, nil, epoch)
	if patch, err := statusPatch("u", &before, &before); err != nil || patch != nil {
		t.Fatalf("patch %s, %v", patch, err)
	}
	s.Containers[0].Current.Ready = false
	after := Status(pod, s, &before, nil, epoch.Add(time.Hour))
	patch, err := statusPatch("u", &before, &after)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]map[string]any
	if err := json.Unmarshal(patch, &got); err != nil {
		t.Fatal(err)
	}
	if got["metadata"]["uid"] != "u" || got["status"]["conditions"] == nil || got["status"]["phase"] != nil {
		t.Errorf("patch %s", patch)
	}
}

func TestLogAttempt(t *testing.T) {
	ended := &v1.ContainerStateTerminated{ContainerID: "containerd://x"}
	state := func(s v1.ContainerState, last *v1.ContainerStateTerminated, restarts int32) *v1.PodStatus {
		return &v1.PodStatus{ContainerStatuses: []v1.ContainerStatus{{Name: "c", State: s, LastTerminationState: v1.ContainerState{Terminated: last}, RestartCount: restarts}}}
	}
	running := v1.ContainerState{Running: &v1.ContainerStateRunning{}}
	waiting := v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
	for _, c := range []struct {
		status   *v1.PodStatus
		previous bool
		want     string
	}{
		{state(running, nil, 0), false, "0"},
		{state(running, ended, 2), false, "2"},
		{state(running, ended, 2), true, "1"},
		{state(running, nil, 0), true, `previous terminated container "c" in pod "p" not found`},
		{state(waiting, ended, 2), false, "2"},
		{state(waiting, ended, 2), true, "2"},
		{state(v1.ContainerState{Terminated: ended}, nil, 0), false, "0"},
		{state(v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: "ErrImagePull"}}, nil, 0), false, `container "c" in pod "p" is waiting to start: image can't be pulled`},
		{&v1.PodStatus{}, false, `container "c" in pod "p" is not available`},
	} {
		attempt, err := logAttempt("p", "c", c.status, c.previous)
		got := fmt.Sprint(attempt)
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%+v previous=%v: %s, want %s", c.status.ContainerStatuses, c.previous, got, c.want)
		}
	}
}

func TestQoS(t *testing.T) {
	for _, c := range []struct {
		requests, limits string
		want             v1.PodQOSClass
	}{
		{"", "", v1.PodQOSBestEffort}, {"cpu", "", v1.PodQOSBurstable}, {"", "cpu", v1.PodQOSBurstable}, {"cpu memory", "cpu memory", v1.PodQOSGuaranteed}, {"", "cpu memory", v1.PodQOSGuaranteed},
	} {
		pod := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Resources: v1.ResourceRequirements{Requests: amounts(c.requests), Limits: amounts(c.limits)}}}}}
		if got := qosClass(pod); got != c.want {
			t.Errorf("%q of %q: %s", c.requests, c.limits, got)
		}
	}
}
