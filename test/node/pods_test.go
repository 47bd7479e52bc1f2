package node

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"sigs.k8s.io/yaml"
)

// What the parallel tests do is mostly waiting for pods.
func init() {
	testing.Init()
	flag.Set("test.parallel", "6")
}

// pod makes a pod of a spec in YAML, in which HELLO stands for the test image
// and NODE for the cluster's name.
func pod(t *testing.T, ns, name, spec string) *v1.Pod {
	t.Helper()
	return labelled(t, ns, name, nil, spec)
}

func labelled(t *testing.T, ns, name string, labels map[string]string, spec string) *v1.Pod {
	t.Helper()
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
	spec = strings.NewReplacer("HELLO", helloImage, "NODE", clusterName).Replace(spec)
	if err := yaml.UnmarshalStrict([]byte(spec), &p.Spec); err != nil {
		t.Fatalf("spec of %s: %v", name, err)
	}
	if p.Spec.TerminationGracePeriodSeconds == nil {
		p.Spec.TerminationGracePeriodSeconds = new(int64)
	}
	p, err := client.CoreV1().Pods(ns).Create(t.Context(), p, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// script makes a pod that runs a shell script once, in a container with more
// fields; fields of the pod can be given too. Both are JSON-like lines of YAML.
func script(t *testing.T, ns, name, script, containerFields, podFields string) {
	t.Helper()
	quoted, err := json.Marshal(script)
	if err != nil {
		t.Fatal(err)
	}
	pod(t, ns, name, fmt.Sprintf("restartPolicy: Never\n%s\ncontainers:\n- {name: c, image: HELLO, command: [sh, -c, %s]%s}\n",
		podFields, quoted, containerFields))
}

// finished waits until a pod has come to its end.
func finished(t *testing.T, ns, name string) *v1.Pod {
	t.Helper()
	return waitPod(t, ns, name, "finished", func(p *v1.Pod) bool {
		return p.Status.Phase == v1.PodSucceeded || p.Status.Phase == v1.PodFailed
	})
}

func logOf(t *testing.T, ns, name string, options v1.PodLogOptions) string {
	t.Helper()
	stream, err := client.CoreV1().Pods(ns).GetLogs(name, &options).Stream(t.Context())
	if err != nil {
		t.Errorf("log of %s: %v", name, err)
		return ""
	}
	defer stream.Close()
	data, err := io.ReadAll(stream)
	if err != nil {
		t.Errorf("log of %s: %v", name, err)
	}
	return string(data)
}

// expect compares line by line, and so shows what differs.
func expect(t *testing.T, what, got, want string) {
	t.Helper()
	if got = strings.TrimSpace(got); got != strings.TrimSpace(want) {
		t.Errorf("%s:\n%s\nwant\n%s", what, got, strings.TrimSpace(want))
	}
}

// event waits for an event about a pod, or another object.
func event(t *testing.T, ns, name, reason, message string) {
	t.Helper()
	eventually(t, 30*time.Second, fmt.Sprintf("event %s of %s: %s", reason, name, message), func() error {
		list, err := client.CoreV1().Events(ns).List(t.Context(), metav1.ListOptions{
			FieldSelector: fields.Set{"involvedObject.name": name, "reason": reason}.String()})
		if err != nil {
			return err
		}
		var seen []string
		for _, e := range list.Items {
			if strings.Contains(e.Message, message) {
				return nil
			}
			seen = append(seen, e.Message)
		}
		return fmt.Errorf("messages: %q", seen)
	})
}

func column(t *testing.T, ns, name string) string {
	t.Helper()
	return strings.Fields(must(t, "get", "pod", "-n", ns, name, "--no-headers"))[2]
}

func TestContainersOfAPod(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)

	// Init containers in order, a sidecar between them that lives as long as the
	// pod, and two containers that share a volume with all of them.
	pod(t, ns, "order", `
restartPolicy: Never
terminationGracePeriodSeconds: 10
volumes: [{name: v, emptyDir: {}}]
initContainers:
- {name: a, image: HELLO, volumeMounts: [{name: v, mountPath: /v}], command: [sh, -c, "usleep 300000; echo a >> /v/log"]}
- name: side
  image: HELLO
  restartPolicy: Always
  volumeMounts: [{name: v, mountPath: /v}]
  command: [sh, -c, "trap 'echo asked to end; exit 0' TERM; echo side >> /v/log; usleep 300000; touch /v/started; while :; do usleep 50000; done"]
  startupProbe: {exec: {command: [test, -f, /v/started]}, periodSeconds: 1}
- {name: b, image: HELLO, volumeMounts: [{name: v, mountPath: /v}], command: [sh, -c, "test -f /v/started && echo b >> /v/log"]}
containers:
- {name: one, image: HELLO, volumeMounts: [{name: v, mountPath: /v}], command: [sh, -c, "echo main >> /v/log; until test -f /v/two; do usleep 50000; done; cat /v/log"]}
- {name: two, image: HELLO, volumeMounts: [{name: v, mountPath: /v}], command: [sh, -c, "until grep -q main /v/log; do usleep 50000; done; touch /v/two"]}
`)
	pod(t, ns, "init-fails", `
restartPolicy: Never
initContainers: [{name: a, image: HELLO, command: [sh, -c, "exit 3"]}, {name: b, image: HELLO, command: ["true"]}]
containers: [{name: c, image: HELLO}]
`)
	pod(t, ns, "init-again", `
restartPolicy: OnFailure
volumes: [{name: v, emptyDir: {}}]
initContainers: [{name: a, image: HELLO, volumeMounts: [{name: v, mountPath: /v}], command: [sh, -c, "test -f /v/once || { touch /v/once; exit 1; }"]}]
containers: [{name: c, image: HELLO, command: ["true"]}]
`)
	pod(t, ns, "side-again", `
initContainers: [{name: s, image: HELLO, restartPolicy: Always, command: [sh, -c, "usleep 500000; exit 4"]}]
containers: [{name: c, image: HELLO}]
`)

	p := finished(t, ns, "order")
	expect(t, "order", logOf(t, ns, "order", v1.PodLogOptions{Container: "one"}), "a\nside\nb\nmain")
	if p.Status.Phase != v1.PodSucceeded {
		t.Errorf("order: phase %s", p.Status.Phase)
	}
	expect(t, "the sidecar's log", logOf(t, ns, "order", v1.PodLogOptions{Container: "side"}), "asked to end")
	expect(t, "column", column(t, ns, "order"), "Completed")

	p = finished(t, ns, "init-fails")
	if s := p.Status.InitContainerStatuses[0].State.Terminated; p.Status.Phase != v1.PodFailed || s == nil || s.ExitCode != 3 {
		t.Errorf("init-fails: phase %s, state %+v", p.Status.Phase, s)
	}
	if s := p.Status.InitContainerStatuses[1].State.Waiting; s == nil || s.Reason != "PodInitializing" {
		t.Errorf("init-fails: b's state %+v", p.Status.InitContainerStatuses[1].State)
	}
	expect(t, "column", column(t, ns, "init-fails"), "Init:Error")

	p = finished(t, ns, "init-again")
	if s := p.Status.InitContainerStatuses[0]; p.Status.Phase != v1.PodSucceeded || s.RestartCount != 1 || !s.Ready {
		t.Errorf("init-again: phase %s, %+v", p.Status.Phase, s)
	}
	waitPod(t, ns, "side-again", "with a sidecar that waits", func(p *v1.Pod) bool {
		s := p.Status.InitContainerStatuses
		return p.Status.Phase == v1.PodRunning && len(s) == 1 && s[0].RestartCount > 0 && s[0].State.Waiting != nil && s[0].State.Waiting.Reason == "CrashLoopBackOff"
	})
}

func TestRestartPolicies(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	for name, spec := range map[string]string{
		"never-0":     `{restartPolicy: Never, containers: [{name: c, image: HELLO, command: ["true"]}]}`,
		"never-2":     `{restartPolicy: Never, containers: [{name: c, image: HELLO, command: [sh, -c, "exit 2"]}, {name: d, image: HELLO, command: ["true"]}]}`,
		"onfailure-0": `{restartPolicy: OnFailure, containers: [{name: c, image: HELLO, command: ["true"]}]}`,
		"onfailure-1": `{restartPolicy: OnFailure, containers: [{name: c, image: HELLO, command: ["false"]}]}`,
		"always-0":    `{containers: [{name: c, image: HELLO, command: ["true"]}]}`,
		"no-command":  `{containers: [{name: c, image: HELLO, command: [/nowhere]}]}`,
		"deadline":    `{activeDeadlineSeconds: 2, containers: [{name: c, image: HELLO}]}`,
		"message":     `{restartPolicy: Never, containers: [{name: c, image: HELLO, command: [sh, -c, "echo -n the last word > /dev/termination-log; exit 1"]}]}`,
		"message-log": `{restartPolicy: Never, containers: [{name: c, image: HELLO, terminationMessagePath: /m, terminationMessagePolicy: FallbackToLogsOnError, command: [sh, -c, "echo oops; exit 1"]}]}`,
		"oom":         `{restartPolicy: Never, containers: [{name: c, image: HELLO, resources: {limits: {memory: 16Mi}}, command: [sh, -c, "tail /dev/zero"]}]}`,
		"non-root":    `{restartPolicy: Never, securityContext: {runAsNonRoot: true}, containers: [{name: c, image: HELLO}]}`,
	} {
		pod(t, ns, name, spec)
	}
	for name, want := range map[string]struct {
		phase           v1.PodPhase
		reason, message string
		code            int32
	}{
		"never-0":     {v1.PodSucceeded, "Completed", "", 0},
		"never-2":     {v1.PodFailed, "Error", "", 2},
		"onfailure-0": {v1.PodSucceeded, "Completed", "", 0},
		"message":     {v1.PodFailed, "Error", "the last word", 1},
		"message-log": {v1.PodFailed, "Error", "oops\n", 1},
		"oom":         {v1.PodFailed, "OOMKilled", "", 137},
	} {
		p := finished(t, ns, name)
		s := p.Status.ContainerStatuses[0].State.Terminated
		if p.Status.Phase != want.phase || s == nil || s.Reason != want.reason || s.Message != want.message || s.ExitCode != want.code {
			t.Errorf("%s: phase %s, %+v; want %+v", name, p.Status.Phase, s, want)
		}
	}
	for name, want := range map[string]struct{ reason, message string }{
		"onfailure-1": {"CrashLoopBackOff", "back-off 10s restarting failed container=c pod=onfailure-1_" + ns},
		"always-0":    {"CrashLoopBackOff", "back-off 10s restarting failed container=c pod=always-0_" + ns},
		"non-root":    {"CreateContainerConfigError", "container has runAsNonRoot and image will run as root"},
	} {
		waitPod(t, ns, name, want.reason, func(p *v1.Pod) bool {
			if len(p.Status.ContainerStatuses) != 1 {
				return false
			}
			s := p.Status.ContainerStatuses[0]
			return s.State.Waiting != nil && s.State.Waiting.Reason == want.reason && strings.Contains(s.State.Waiting.Message, want.message)
		})
	}
	waitPod(t, ns, "no-command", "unable to start", func(p *v1.Pod) bool {
		if len(p.Status.ContainerStatuses) != 1 {
			return false
		}
		s := p.Status.ContainerStatuses[0].LastTerminationState.Terminated
		return s != nil && s.Reason == "StartError" && s.ExitCode == 128 && strings.Contains(s.Message, `exec: "/nowhere": stat /nowhere: no such file or directory`)
	})
	event(t, ns, "always-0", "BackOff", "Back-off restarting failed container c in pod always-0_"+ns)
	p := waitPod(t, ns, "deadline", "Failed", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodFailed })
	if p.Status.Reason != "DeadlineExceeded" || p.Status.Message != "Pod was active on the node longer than the specified deadline" {
		t.Errorf("deadline: %s: %s", p.Status.Reason, p.Status.Message)
	}
	p = waitPod(t, ns, "always-0", "put off longer", func(p *v1.Pod) bool {
		w := p.Status.ContainerStatuses[0].State.Waiting
		return w != nil && strings.HasPrefix(w.Message, "back-off 20s")
	})
	if s := p.Status.ContainerStatuses[0]; s.RestartCount != 2 || s.LastTerminationState.Terminated == nil || p.Status.Phase != v1.PodRunning {
		t.Errorf("always-0: phase %s, %+v", p.Status.Phase, s)
	}
	expect(t, "column", column(t, ns, "always-0"), "CrashLoopBackOff")
}

func TestProbes(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	restarted := func(p *v1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].RestartCount > 0
	}
	const probe = "periodSeconds: 1, failureThreshold: 2"
	for name, spec := range map[string]string{
		"http": `{containers: [{name: c, image: HELLO, ports: [{name: web, containerPort: 8080}], livenessProbe: {httpGet: {path: /healthz, port: web}, ` + probe + `}}]}`,
		"exec": `{containers: [{name: c, image: HELLO, command: [sh, -c, "usleep 1500000; touch /sick; sleep 1000"], livenessProbe: {exec: {command: [sh, -c, "echo sick; test ! -f /sick"]}, ` + probe + `}}]}`,
		"tcp":  `{containers: [{name: c, image: HELLO, command: [sleep, "1000"], livenessProbe: {tcpSocket: {port: 8080}, ` + probe + `}}]}`,
		"slow": `{containers: [{name: c, image: HELLO, livenessProbe: {exec: {command: [sleep, "10"]}, timeoutSeconds: 1, ` + probe + `}}]}`,
		// The liveness probe would kill it at once, were it not for the startup probe.
		"starts": `{containers: [{name: c, image: HELLO, command: [sh, -c, "sleep 3; exec /hello"], livenessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, failureThreshold: 1}, startupProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, failureThreshold: 20}}]}`,
		"never":  `{containers: [{name: c, image: HELLO, command: [sleep, "1000"], startupProbe: {tcpSocket: {port: 8080}, ` + probe + `}}]}`,
	} {
		pod(t, ns, name, spec)
	}
	labelled(t, ns, "readiness", map[string]string{"app": "r"},
		`{containers: [{name: c, image: HELLO, readinessProbe: {httpGet: {path: /healthz, port: 8080}, `+probe+`}}]}`)
	must(t, "create", "service", "clusterip", "r", "-n", ns, "--tcp=80:8080")

	waitPod(t, ns, "http", "ready", ready)
	must(t, "exec", "-n", ns, "http", "--", "/hello", "post", "http://localhost:8080/fail")
	p := waitPod(t, ns, "http", "restarted", restarted)
	if s := p.Status.ContainerStatuses[0].LastTerminationState.Terminated; s == nil {
		t.Errorf("http: %+v", p.Status.ContainerStatuses[0])
	}
	event(t, ns, "http", "Unhealthy", "Liveness probe failed: HTTP probe failed with statuscode: 503")
	event(t, ns, "http", "Killing", "Container c failed liveness probe, will be restarted")
	waitPod(t, ns, "exec", "restarted", restarted)
	event(t, ns, "exec", "Unhealthy", "Liveness probe failed: sick")
	waitPod(t, ns, "tcp", "restarted", restarted)
	event(t, ns, "tcp", "Unhealthy", "connection refused")
	waitPod(t, ns, "slow", "restarted", restarted)
	event(t, ns, "slow", "Unhealthy", "timed out")
	waitPod(t, ns, "never", "restarted", restarted)
	event(t, ns, "never", "Killing", "Container c failed startup probe, will be restarted")
	p = waitPod(t, ns, "starts", "ready", ready)
	if restarted(p) {
		t.Errorf("starts: was restarted")
	}

	waitPod(t, ns, "readiness", "ready", ready)
	serving := func(want bool) {
		t.Helper()
		eventually(t, 20*time.Second, fmt.Sprintf("readiness in the EndpointSlice: %v", want), func() error {
			slices, err := client.DiscoveryV1().EndpointSlices(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=r"})
			if err != nil {
				return err
			}
			for _, s := range slices.Items {
				for _, e := range s.Endpoints {
					if *e.Conditions.Ready == want {
						return nil
					}
				}
			}
			return fmt.Errorf("no such endpoint in %d slices", len(slices.Items))
		})
	}
	serving(true)
	must(t, "exec", "-n", ns, "readiness", "--", "/hello", "post", "http://localhost:8080/fail")
	serving(false)
	if p := waitPod(t, ns, "readiness", "unready", func(p *v1.Pod) bool { return !ready(p) }); restarted(p) {
		t.Errorf("readiness: was restarted")
	}
	event(t, ns, "readiness", "Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 503")
}

// deletion deletes a pod and says how long it took to go; a minute is too long.
func deletion(t *testing.T, ns, name string) time.Duration {
	t.Helper()
	begun := time.Now()
	if err := client.CoreV1().Pods(ns).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, name+" is gone", func() error {
		if p, err := client.CoreV1().Pods(ns).Get(t.Context(), name, metav1.GetOptions{}); err == nil {
			return fmt.Errorf("it is there: %s", p.Status.Phase)
		}
		return nil
	})
	return time.Since(begun)
}

func TestTermination(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	// What the pods do on their way out is told through a directory of the node.
	dir := "/tmp/" + ns
	volume := fmt.Sprintf("nodeName: NODE-worker-1\nvolumes: [{name: v, hostPath: {path: %s}}]\n", dir)
	pod(t, ns, "polite", volume+`
terminationGracePeriodSeconds: 600
containers:
- name: c
  image: HELLO
  volumeMounts: [{name: v, mountPath: /v}]
  command: [sh, -c, "trap 'echo term >> /v/polite; exit 0' TERM; while :; do usleep 20000; done"]
  lifecycle:
    postStart: {exec: {command: [sh, -c, "echo start >> /v/polite"]}}
    preStop: {exec: {command: [sh, -c, "usleep 500000; echo stop >> /v/polite"]}}
`)
	pod(t, ns, "stubborn", volume+`
terminationGracePeriodSeconds: 3
containers: [{name: c, image: HELLO, volumeMounts: [{name: v, mountPath: /v}], command: [sh, -c, "trap 'echo term >> /v/stubborn' TERM; while :; do usleep 20000; done"]}]
`)
	pod(t, ns, "hook-fails", `
containers: [{name: c, image: HELLO, lifecycle: {postStart: {exec: {command: [sh, -c, "exit 1"]}}}}]
`)
	for _, name := range []string{"polite", "stubborn"} {
		waitPod(t, ns, name, "ready", ready)
	}
	deletion(t, ns, "polite") // long before its grace period is over
	expect(t, "polite", readFile(t, dir+"/polite"), "start\nstop\nterm")
	if took := deletion(t, ns, "stubborn"); took < 3*time.Second {
		t.Errorf("stubborn took %v, has a grace period of 3 s", took)
	}
	expect(t, "stubborn", readFile(t, dir+"/stubborn"), "term")
	event(t, ns, "hook-fails", "FailedPostStartHook", "PostStartHook failed")
	waitPod(t, ns, "hook-fails", "restarted", func(p *v1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].RestartCount > 0
	})

	// Without waiting for anybody.
	pod(t, ns, "forced", "terminationGracePeriodSeconds: 600\ncontainers: [{name: c, image: HELLO, command: [sh, -c, \"trap '' TERM; while :; do usleep 20000; done\"]}]")
	waitPod(t, ns, "forced", "ready", ready)
	must(t, "delete", "pod", "-n", ns, "forced", "--force", "--grace-period=0")
	if _, err := client.CoreV1().Pods(ns).Get(context.Background(), "forced", metav1.GetOptions{}); err == nil {
		t.Error("forced is still there")
	}
}
