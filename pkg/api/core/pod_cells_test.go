package core

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// fromYAML reads a test's object strictly: a misspelt field would test nothing.
func fromYAML[T any](t *testing.T, text string) *T {
	t.Helper()
	obj := new(T)
	if err := yaml.UnmarshalStrict([]byte(text), obj); err != nil {
		t.Fatal(err)
	}
	return obj
}

// The clock of a synctest bubble starts at 2000-01-01T00:00:00Z.
func TestPodCells(t *testing.T) {
	const (
		two      = "spec: {containers: [{name: a}, {name: b}]}\n"
		withInit = "spec: {initContainers: [{name: i}, {name: j}], containers: [{name: a}]}\n"
		sidecar  = "spec: {initContainers: [{name: s, restartPolicy: Always}, {name: i}], containers: [{name: a}]}\n"
		running  = "state: {running: {}}"
		done     = "state: {terminated: {exitCode: 0, reason: Completed}}"
	)
	for _, c := range []struct{ name, pod, want string }{
		{"pending", two + "status: {phase: Pending}", "0/2 Pending 0"},
		{"evicted", two + "status: {phase: Failed, reason: Evicted}", "0/2 Evicted 0"},
		{"gated", two + "status: {phase: Pending, conditions: [{type: PodScheduled, status: 'False', reason: SchedulingGated}]}", "0/2 SchedulingGated 0"},
		{"running", two + "status: {phase: Running, containerStatuses: [{name: a, ready: true, " + running + "}, {name: b, ready: true, restartCount: 2, " + running + "}]}",
			"2/2 Running 2"},
		{"restarted just now", two + "status: {phase: Running, containerStatuses: [{name: a, ready: true, restartCount: 1, " + running +
			", lastState: {terminated: {exitCode: 1, finishedAt: '1999-12-31T23:59:30Z'}}}, {name: b, " + running + "}]}", "1/2 Running 1 (30s ago)"},
		{"crash loop", two + "status: {phase: Running, containerStatuses: [{name: a, state: {waiting: {reason: CrashLoopBackOff}}}, {name: b, ready: true, " + running + "}]}",
			"1/2 CrashLoopBackOff 0"},
		{"image", two + "status: {phase: Pending, containerStatuses: [{name: a, state: {waiting: {reason: ContainerCreating}}}, {name: b, state: {waiting: {reason: ErrImagePull}}}]}",
			"0/2 ContainerCreating 0"},
		{"completed", two + "status: {phase: Succeeded, containerStatuses: [{name: a, " + done + "}, {name: b, " + done + "}]}", "0/2 Completed 0"},
		{"one is done, one serves", two + "status: {phase: Running, conditions: [{type: Ready, status: 'True'}], containerStatuses: [{name: a, " + done + "}, {name: b, ready: true, " + running + "}]}",
			"1/2 Running 0"},
		{"one is done, the pod isn't ready", two + "status: {phase: Running, containerStatuses: [{name: a, " + done + "}, {name: b, ready: true, " + running + "}]}",
			"1/2 NotReady 0"},
		{"one done, one failed", two + "status: {phase: Failed, containerStatuses: [{name: a, " + done + "}, {name: b, state: {terminated: {exitCode: 3, reason: Error}}}]}",
			"0/2 Error 0"},
		{"killed", two + "status: {phase: Failed, containerStatuses: [{name: a, state: {terminated: {exitCode: 137, signal: 9}}}]}", "0/2 Signal:9 0"},
		{"exit code", two + "status: {phase: Failed, containerStatuses: [{name: a, state: {terminated: {exitCode: 4}}}]}", "0/2 ExitCode:4 0"},
		{"first init container", withInit + "status: {phase: Pending, initContainerStatuses: [{name: i, " + running + "}, {name: j, state: {waiting: {reason: PodInitializing}}}], containerStatuses: [{name: a, state: {waiting: {reason: PodInitializing}}}]}",
			"0/1 Init:0/2 0"},
		{"second init container", withInit + "status: {phase: Pending, initContainerStatuses: [{name: i, " + done + "}, {name: j, " + running + ", restartCount: 3}]}", "0/1 Init:1/2 3"},
		{"init error", withInit + "status: {phase: Pending, initContainerStatuses: [{name: i, state: {terminated: {exitCode: 1, reason: Error}}}]}", "0/1 Init:Error 0"},
		{"init exit code", withInit + "status: {phase: Pending, initContainerStatuses: [{name: i, state: {terminated: {exitCode: 2}}}]}", "0/1 Init:ExitCode:2 0"},
		{"init crash loop", withInit + "status: {phase: Pending, initContainerStatuses: [{name: i, restartCount: 2, state: {waiting: {reason: CrashLoopBackOff}}}]}",
			"0/1 Init:CrashLoopBackOff 2"},
		{"init restarts are forgotten", withInit + "status: {phase: Running, initContainerStatuses: [{name: i, restartCount: 5, " + done + "}, {name: j, " + done + "}], containerStatuses: [{name: a, ready: true, " + running + "}]}",
			"1/1 Running 0"},
		{"sidecar", sidecar + "status: {phase: Running, initContainerStatuses: [{name: s, started: true, ready: true, restartCount: 1, " + running + "}, {name: i, " + done + ", restartCount: 4}], containerStatuses: [{name: a, ready: true, " + running + "}]}",
			"2/2 Running 1"},
		{"sidecar starts", sidecar + "status: {phase: Pending, initContainerStatuses: [{name: s, started: false, " + running + "}]}", "0/2 Init:0/2 0"},
		{"sidecar crashes after the start", sidecar + "status: {phase: Running, conditions: [{type: Initialized, status: 'True'}], initContainerStatuses: [{name: s, restartCount: 2, state: {waiting: {reason: CrashLoopBackOff}}}], containerStatuses: [{name: a, ready: true, " + running + "}]}",
			"1/2 Init:CrashLoopBackOff 2"},
		{"terminating", two + "metadata: {deletionTimestamp: '1999-01-01T00:00:00Z'}\nstatus: {phase: Running}", "0/2 Terminating 0"},
		{"ended before it was deleted", two + "metadata: {deletionTimestamp: '1999-01-01T00:00:00Z'}\nstatus: {phase: Succeeded}", "0/2 Succeeded 0"},
		{"node lost", two + "metadata: {deletionTimestamp: '1999-01-01T00:00:00Z'}\nstatus: {phase: Running, reason: NodeLost}", "0/2 Unknown 0"},
	} {
		synctest.Test(t, func(t *testing.T) {
			cells := podCells(fromYAML[corev1.Pod](t, c.pod))
			if got := fmt.Sprint(cells[1], " ", cells[2], " ", cells[3]); got != c.want {
				t.Errorf("%s: got %q, want %q", c.name, got, c.want)
			}
		})
	}
}

func TestPodWideCells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pod := fromYAML[corev1.Pod](t, `
metadata: {name: p}
spec: {nodeName: n1, readinessGates: [{conditionType: a}, {conditionType: b}], containers: [{name: a}]}
status: {phase: Succeeded, podIPs: [{ip: 10.0.0.1}], conditions: [{type: a, status: "True"}, {type: b, status: "False"}]}`)
		pod.CreationTimestamp = metav1.NewTime(time.Now().Add(-3 * time.Hour))
		if got, want := fmt.Sprint(podCells(pod)), "[p 0/1 Succeeded 0 3h 10.0.0.1 n1 <none> 1/2]"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if c := podRowConditions(pod); len(c) != 1 || c[0].Type != metav1.RowCompleted || c[0].Reason != "Succeeded" {
			t.Errorf("conditions %+v", c)
		}
		if got := podCells(&corev1.Pod{})[5:]; fmt.Sprint(got) != "[<none> <none> <none> <none>]" {
			t.Errorf("empty: %v", got)
		}
	})
}
