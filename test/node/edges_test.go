package node

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/cluster"
)

// TestPodsInBetween deletes and changes pods at moments when something of them
// is under way.
func TestPodsInBetween(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	const long = "{name: c, image: HELLO, command: [sh, -c, \"trap '' TERM; while :; do usleep 20000; done\"]}"
	for name, spec := range map[string]string{
		"in-init":     "initContainers: [{name: i, image: HELLO, command: [sleep, '1000']}]\ncontainers: [{name: c, image: HELLO}]",
		"no-image":    "containers: [{name: c, image: skiff.local/none:1}]",
		"no-volume":   "volumes: [{name: v, secret: {secretName: none}}]\ncontainers: [{name: c, image: HELLO, volumeMounts: [{name: v, mountPath: /v}]}]",
		"no-config":   "containers: [{name: c, image: HELLO, envFrom: [{secretRef: {name: none}}]}]",
		"crashing":    "containers: [{name: c, image: HELLO, command: ['false']}]",
		"unscheduled": "nodeSelector: {no: where}\ncontainers: [{name: c, image: HELLO}]",
		"shortened":   "terminationGracePeriodSeconds: 600\ncontainers: [" + long + "]",
		"post-start":  "containers: [{name: c, image: HELLO, lifecycle: {postStart: {exec: {command: [sleep, '1000']}}}}]",
		"new-image":   "containers: [{name: c, image: HELLO}]",
		"deadline":    "activeDeadlineSeconds: 1000\ncontainers: [{name: c, image: HELLO}]",
	} {
		pod(t, ns, name, spec)
	}
	waiting := func(name, reason string) {
		t.Helper()
		waitPod(t, ns, name, reason, func(p *v1.Pod) bool {
			s := p.Status.ContainerStatuses
			return len(s) == 1 && s[0].State.Waiting != nil && strings.HasPrefix(s[0].State.Waiting.Reason, reason)
		})
	}
	waitPod(t, ns, "new-image", "ready", ready)
	waiting("no-config", "CreateContainerConfigError")
	waiting("no-image", "ErrImage")
	waiting("crashing", "CrashLoopBackOff")
	waitPod(t, ns, "in-init", "initializing", func(p *v1.Pod) bool {
		s := p.Status.InitContainerStatuses
		return len(s) == 1 && s[0].State.Running != nil
	})
	expect(t, "column", column(t, ns, "in-init"), "Init:0/1")
	event(t, ns, "no-volume", "FailedMount", `secret "none" not found`)
	event(t, ns, "post-start", "Started", "")
	// Until its hook has ended, a container isn't said to run.
	must(t, "exec", "-n", ns, "new-image", "--", "true")
	if p := waitPod(t, ns, "post-start", "there", func(*v1.Pod) bool { return true }); p.Status.Phase != v1.PodPending || p.Status.ContainerStatuses[0].State.Waiting == nil {
		t.Errorf("post-start: phase %s, %+v", p.Status.Phase, p.Status.ContainerStatuses[0].State)
	}
	for _, name := range []string{"in-init", "no-image", "no-volume", "no-config", "crashing", "unscheduled", "post-start"} {
		t.Run("delete "+name, func(t *testing.T) {
			t.Parallel()
			deletion(t, ns, name)
		})
	}
	t.Run("a second deletion shortens the first", func(t *testing.T) {
		t.Parallel()
		waitPod(t, ns, "shortened", "ready", ready)
		must(t, "delete", "pod", "-n", ns, "shortened", "--wait=false")
		waitPod(t, ns, "shortened", "terminating", func(p *v1.Pod) bool { return p.DeletionTimestamp != nil })
		expect(t, "column", column(t, ns, "shortened"), "Terminating")
		must(t, "delete", "pod", "-n", ns, "shortened", "--grace-period=1", "--timeout=15s")
	})
	t.Run("a new image in a running pod", func(t *testing.T) {
		t.Parallel()
		waitPod(t, ns, "new-image", "ready", ready)
		must(t, "set", "image", "-n", ns, "pod/new-image", "c=skiff.local/hello:2")
		waitPod(t, ns, "new-image", "restarted with the other image", func(p *v1.Pod) bool {
			s := p.Status.ContainerStatuses[0]
			return s.RestartCount == 1 && s.Image == "skiff.local/hello:2" && ready(p)
		})
		event(t, ns, "new-image", "Killing", "Container c definition changed, will be restarted")
	})
	t.Run("a deadline that is set later", func(t *testing.T) {
		t.Parallel()
		waitPod(t, ns, "deadline", "ready", ready)
		must(t, "patch", "pod", "deadline", "-n", ns, "-p", `{"spec":{"activeDeadlineSeconds":1}}`)
		if p := finished(t, ns, "deadline"); p.Status.Reason != "DeadlineExceeded" {
			t.Errorf("%s: %s", p.Status.Reason, p.Status.Message)
		}
	})
}

// TestAgentRestartsInBetween kills the agent while pods are at every point of
// their lives; the next one must take each of them on from there.
func TestAgentRestartsInBetween(t *testing.T) {
	ns := newNamespace(t)
	const common = "nodeName: NODE-worker-1\n"
	const wait = "volumeMounts: [{name: v, mountPath: /v}], command: [sh, -c, 'until test -f /v/go; do usleep 50000; done"
	dir := "/tmp/" + ns
	volume := common + "volumes: [{name: v, hostPath: {path: " + dir + ", type: DirectoryOrCreate}}]\n"
	pod(t, ns, "init", volume+"restartPolicy: Never\ninitContainers: [{name: i, image: HELLO, "+wait+"; echo went >> /v/init']}]\ncontainers: [{name: c, image: HELLO, command: ['true']}]")
	pod(t, ns, "side", volume+"restartPolicy: Never\ninitContainers: [{name: s, image: HELLO, restartPolicy: Always}]\ncontainers: [{name: c, image: HELLO, "+wait+"; exit 5']}]")
	pod(t, ns, "stopping", volume+"terminationGracePeriodSeconds: 120\ncontainers: [{name: c, image: HELLO, volumeMounts: [{name: v, mountPath: /v}], command: [sh, -c, \"trap 'until test -f /v/go; do usleep 50000; done; exit 0' TERM; while :; do usleep 50000; done\"]}]")
	pod(t, ns, "ended", volume+"restartPolicy: OnFailure\ncontainers: [{name: a, image: HELLO, command: ['true']}, {name: b, image: HELLO, "+wait+"']}]")
	pod(t, ns, "crashing", common+"containers: [{name: c, image: HELLO, command: ['false']}]")
	pod(t, ns, "probed", common+"containers: [{name: c, image: HELLO, readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}, livenessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1, failureThreshold: 2}}]")
	pod(t, ns, "shared", common+"shareProcessNamespace: true\ncontainers: [{name: c, image: HELLO}]")
	running := func(p *v1.Pod) bool { return p.Status.Phase == v1.PodRunning }
	waitPod(t, ns, "init", "initializing", func(p *v1.Pod) bool {
		return len(p.Status.InitContainerStatuses) == 1 && p.Status.InitContainerStatuses[0].State.Running != nil
	})
	for _, name := range []string{"side", "stopping", "ended", "probed", "shared"} {
		waitPod(t, ns, name, "running", running)
	}
	waitPod(t, ns, "ended", "half over", func(p *v1.Pod) bool { return p.Status.ContainerStatuses[0].State.Terminated != nil })
	waitPod(t, ns, "crashing", "put off", func(p *v1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].RestartCount == 1 && p.Status.ContainerStatuses[0].State.Waiting != nil
	})
	waitPod(t, ns, "probed", "ready", ready)
	must(t, "delete", "pod", "-n", ns, "stopping", "--wait=false")
	before := map[string]string{}
	ids := func(p *v1.Pod) (out string) {
		for _, s := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
			out += s.Name + "=" + s.ContainerID + " "
		}
		return out
	}
	list, err := client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list.Items {
		before[p.Name] = ids(&p)
	}

	kill(t, clusterName+"-worker-1", "agent")
	// The new agent is at work when it runs a new pod; the old ones are untouched then.
	pod(t, ns, "new", common+"containers: [{name: c, image: HELLO}]")
	waitPod(t, ns, "new", "ready", ready)
	for name, want := range before {
		p, err := client.CoreV1().Pods(ns).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if got := ids(p); got != want && name != "crashing" {
			t.Errorf("%s was touched: %s, was %s", name, got, want)
		}
	}
	if out, err := ctl("exec", "-n", ns, "shared", "--", "cat", "/proc/1/comm"); err != nil || strings.TrimSpace(out) != "pause" {
		t.Errorf("shared: %q %v", out, err)
	}
	p := waitPod(t, ns, "crashing", "put off", func(p *v1.Pod) bool {
		w := p.Status.ContainerStatuses[0].State.Waiting
		return w != nil && w.Reason == "CrashLoopBackOff"
	})
	if s := p.Status.ContainerStatuses[0]; s.RestartCount > 2 {
		t.Errorf("crashing: %d restarts, the back-off was forgotten", s.RestartCount)
	}

	must(t, "cluster", "exec", clusterName, clusterName+"-worker-1", "--", "touch", dir+"/go")
	if p := finished(t, ns, "init"); p.Status.Phase != v1.PodSucceeded || p.Status.InitContainerStatuses[0].RestartCount != 0 {
		t.Errorf("init: phase %s", p.Status.Phase)
	}
	expect(t, "the init container ran", readFile(t, dir+"/init"), "went")
	if p := finished(t, ns, "side"); p.Status.Phase != v1.PodFailed || p.Status.ContainerStatuses[0].State.Terminated.ExitCode != 5 {
		t.Errorf("side: phase %s", p.Status.Phase)
	}
	if p := finished(t, ns, "ended"); p.Status.Phase != v1.PodSucceeded {
		t.Errorf("ended: phase %s", p.Status.Phase)
	}
	eventually(t, 20*time.Second, "the pod that was stopping is gone", func() error {
		if p, err := client.CoreV1().Pods(ns).Get(t.Context(), "stopping", metav1.GetOptions{}); err == nil {
			return fmt.Errorf("phase %s", p.Status.Phase)
		}
		return nil
	})
	must(t, "exec", "-n", ns, "probed", "--", "/hello", "post", "http://localhost:8080/fail")
	waitPod(t, ns, "probed", "restarted", func(p *v1.Pod) bool { return p.Status.ContainerStatuses[0].RestartCount == 1 && ready(p) })
}

// TestRebootedWorker ends a node with all that runs on it and starts it again:
// its pods come back there, with what they keep on its disk.
func TestRebootedWorker(t *testing.T) {
	ns := newNamespace(t)
	worker := clusterName + "-worker-2"
	pod(t, ns, "comes-back", `
nodeName: NODE-worker-2
volumes: [{name: d, emptyDir: {}}, {name: m, emptyDir: {medium: Memory}}, {name: s, configMap: {name: kube-root-ca.crt}}]
initContainers: [{name: i, image: HELLO, command: [sh, -c, "echo init >> /d/f"], volumeMounts: [{name: d, mountPath: /d}]}]
containers: [{name: c, image: HELLO, volumeMounts: [{name: d, mountPath: /d}, {name: m, mountPath: /m}, {name: s, mountPath: /s}]}]
`)
	pod(t, ns, "once", "nodeName: NODE-worker-2\nrestartPolicy: Never\ncontainers: [{name: c, image: HELLO}]")
	waitPod(t, ns, "comes-back", "ready", ready)
	waitPod(t, ns, "once", "ready", ready)
	must(t, "exec", "-n", ns, "comes-back", "-c", "c", "--", "sh", "-c", "echo main >> /d/f; echo gone > /m/f")

	if err := unix.Kill(cluster.InitPid(clusterName, worker), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the node is down", func() error {
		if pid := cluster.InitPid(clusterName, worker); pid != 0 {
			return fmt.Errorf("pid %d", pid)
		}
		return nil
	})
	if err := cluster.Start(context.Background(), clusterName, worker, time.Minute, nil); err != nil {
		t.Fatal(err)
	}
	waitPod(t, ns, "comes-back", "restarted", func(p *v1.Pod) bool {
		return p.Status.ContainerStatuses[0].RestartCount == 1 && ready(p)
	})
	expect(t, "its volumes", must(t, "exec", "-n", ns, "comes-back", "-c", "c", "--", "sh", "-c", "cat /d/f; ls /m /s"), "init\nmain\ninit\n/m:\n\n/s:\nca.crt")
	p := finished(t, ns, "once")
	if s := p.Status.ContainerStatuses[0].State.Terminated; p.Status.Phase != v1.PodFailed || s == nil || s.Reason != "ContainerStatusUnknown" || s.ExitCode != 137 {
		t.Errorf("once: phase %s, %+v", p.Status.Phase, s)
	}
}
