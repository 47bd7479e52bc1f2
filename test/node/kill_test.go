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

// kill ends one process of a node with SIGKILL, and returns when another has
// taken its place.
func kill(t *testing.T, node, component string) {
	t.Helper()
	pid := cluster.ProcessPid(clusterName, node, component)
	if pid == 0 {
		t.Fatalf("%s doesn't run on %s", component, node)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, component+" runs again", func() error {
		if now := cluster.ProcessPid(clusterName, node, component); now == 0 || now == pid {
			return fmt.Errorf("pid %d, was %d", now, pid)
		}
		return nil
	})
}

func TestKilledContainerIsRestarted(t *testing.T) {
	ns := newNamespace(t)
	must(t, "apply", "-n", ns, "-f", "manifests/pod.yaml")
	waitPod(t, ns, "hello", "ready", ready)
	ctl("exec", "-n", ns, "hello", "--", "/hello", "post", "http://localhost:8080/exit?3")
	pod := waitPod(t, ns, "hello", "restarted", func(p *v1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].RestartCount == 1 && ready(p)
	})
	last := pod.Status.ContainerStatuses[0].LastTerminationState.Terminated
	if last == nil || last.ExitCode != 3 || last.Reason != "Error" {
		t.Errorf("last state is %+v, want exit code 3 and reason Error", last)
	}
	if out := must(t, "logs", "-n", ns, "hello", "--previous"); !strings.Contains(out, "hello listens") {
		t.Errorf("the previous container's log: %q", out)
	}

	// And with SIGKILL from outside.
	out, err := ctl("cluster", "exec", clusterName, pod.Spec.NodeName, "--", "sh", "-c",
		"for p in /proc/[0-9]*; do if tr '\\0' ' ' < $p/cmdline | grep -q '^/hello'; then kill -9 ${p#/proc/}; fi; done")
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	pod = waitPod(t, ns, "hello", "restarted again", func(p *v1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].RestartCount == 2 && ready(p)
	})
	if last := pod.Status.ContainerStatuses[0].LastTerminationState.Terminated; last == nil || last.ExitCode != 137 {
		t.Errorf("last state is %+v, want exit code 137", last)
	}
}

// TestKilledComponents kills each component in turn. Meanwhile a pod writes a
// line every 20 ms, which must all be in its log, in time; services must answer;
// names must resolve. Afterwards work must go on.
func TestKilledComponents(t *testing.T) {
	ns := newNamespace(t)
	deployHello(t, ns, 2)
	const ticker = `i=0; while true; do i=$((i+1)); echo "line $i $(date +%s)"; usleep 20000; done`
	_, err := client.CoreV1().Pods(ns).Create(t.Context(), &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "ticker"},
		Spec: v1.PodSpec{NodeName: clusterName + "-worker-1", TerminationGracePeriodSeconds: new(int64),
			Containers: []v1.Container{{Name: "c", Image: helloImage, Command: []string{"sh", "-c", ticker}}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	waitPod(t, ns, "ticker", "ready", ready)
	// The prober runs in a pod by itself: nothing that is killed carries its questions.
	_, err = client.CoreV1().Pods(ns).Create(t.Context(), &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "prober"},
		Spec: v1.PodSpec{NodeName: clusterName + "-worker-1", TerminationGracePeriodSeconds: new(int64),
			Containers: []v1.Container{{Name: "c", Image: helloImage, Command: []string{"/hello", "get", "-n", "0", "-every", "50ms", "http://hello/"}}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	waitPod(t, ns, "prober", "ready", ready)
	before, err := client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}

	master, worker := clusterName+"-master-1", clusterName+"-worker-1"
	for i, c := range []struct{ node, component string }{
		{worker, "agent"}, {master, "scheduler"}, {master, "controller"}, {master, "apiserver"}, {worker, "containerd"},
	} {
		t.Run(c.component, func(t *testing.T) {
			kill(t, c.node, c.component)
			// Work goes on: a deployment's pods are created, scheduled, started, seen.
			name := fmt.Sprintf("after-%d", i)
			eventually(t, 30*time.Second, "a deployment is taken", func() error {
				out, err := ctl("create", "deployment", name, "-n", ns, "--image="+helloImage, "--replicas=2", "--", "sleep", "100000")
				if err != nil && !strings.Contains(out, "already exists") {
					return fmt.Errorf("%v: %s", err, out)
				}
				return nil
			})
			must(t, "rollout", "status", "-n", ns, "deployment/"+name, "--timeout=60s")
			must(t, "delete", "deployment", name, "-n", ns, "--wait=false")
		})
	}

	for _, old := range before.Items {
		now, err := client.CoreV1().Pods(ns).Get(t.Context(), old.Name, metav1.GetOptions{})
		if err != nil {
			t.Errorf("pod %s: %v", old.Name, err)
			continue
		}
		if now.Status.ContainerStatuses[0].RestartCount != 0 || now.Status.ContainerStatuses[0].ContainerID != old.Status.ContainerStatuses[0].ContainerID {
			t.Errorf("pod %s was touched: %d restarts", old.Name, now.Status.ContainerStatuses[0].RestartCount)
		}
	}
	checkTicker(t, must(t, "logs", "-n", ns, "ticker"))
	if out := must(t, "logs", "-n", ns, "prober"); strings.Contains(out, "FAILED") || !strings.Contains(out, "hello from") {
		t.Errorf("the service was away for somebody who asked by name: %d of %d requests failed",
			strings.Count(out, "FAILED"), strings.Count(out, "\n"))
	}
}

// checkTicker wants every line, in order, each written within two seconds of the one before.
func checkTicker(t *testing.T, log string) {
	t.Helper()
	n, at := 0, int64(0)
	for line := range strings.Lines(log) {
		var i int
		var second int64
		if _, err := fmt.Sscanf(line, "line %d %d", &i, &second); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		if i != n+1 {
			t.Fatalf("line %d follows line %d: output was lost", i, n)
		}
		if at != 0 && second-at > 2 {
			t.Errorf("line %d was written %d s after the one before: output was held up", i, second-at)
		}
		n, at = i, second
	}
	if n < 100 {
		t.Errorf("only %d lines", n)
	}
}

func TestStoppedWorkerIsReplaced(t *testing.T) {
	ns := newNamespace(t)
	worker := clusterName + "-worker-2"
	five := int64(5)
	var tolerations []string
	for _, key := range []string{"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"} {
		tolerations = append(tolerations, fmt.Sprintf("{key: %s, operator: Exists, effect: NoExecute, tolerationSeconds: %d}", key, five))
	}
	apply(t, ns, fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: d}
spec:
  replicas: 4
  selector: {matchLabels: {app: d}}
  template:
    metadata: {labels: {app: d}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations: [%s]
      containers: [{name: c, image: %s}]
`, strings.Join(tolerations, ", "), helloImage))
	must(t, "rollout", "status", "-n", ns, "deployment/d", "--timeout=60s")

	if err := unix.Kill(cluster.InitPid(clusterName, worker), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := cluster.Start(context.Background(), clusterName, worker, time.Minute, nil); err != nil {
			t.Error(err)
		}
		eventually(t, 30*time.Second, "the worker is Ready again", func() error { return nodeIs(t, worker, v1.ConditionTrue) })
	}()
	eventually(t, 20*time.Second, "the worker is NotReady", func() error { return nodeIs(t, worker, v1.ConditionUnknown) })
	eventually(t, time.Minute, "all replicas run on the other worker", func() error {
		list, err := client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "app=d"})
		if err != nil {
			return err
		}
		there := 0
		for _, p := range list.Items {
			if p.DeletionTimestamp == nil && ready(&p) && p.Spec.NodeName == clusterName+"-worker-1" {
				there++
			}
		}
		if there != 4 {
			return fmt.Errorf("%d of 4", there)
		}
		return nil
	})
}

func nodeIs(t *testing.T, name string, want v1.ConditionStatus) error {
	n, err := client.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, c := range n.Status.Conditions {
		if c.Type == v1.NodeReady {
			if c.Status == want {
				return nil
			}
			return fmt.Errorf("Ready is %s: %s", c.Status, c.Message)
		}
	}
	return fmt.Errorf("no Ready condition")
}
