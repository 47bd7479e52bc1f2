package node

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// httpGet asks once, over a connection of its own.
func httpGet(url string) (string, error) {
	c := http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := c.Get(url)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", r.Status, body)
	}
	return strings.TrimSpace(string(body)), err
}

func TestPodFromManifest(t *testing.T) {
	ns := newNamespace(t)
	must(t, "apply", "-n", ns, "-f", "manifests/pod.yaml")
	pod := waitPod(t, ns, "hello", "ready", ready)
	if !strings.Contains(pod.Spec.NodeName, "worker") {
		t.Errorf("the pod is on %s, not on a worker", pod.Spec.NodeName)
	}
	if pod.Status.Phase != v1.PodRunning || pod.Status.PodIP == "" || pod.Status.QOSClass != v1.PodQOSBestEffort {
		t.Errorf("status: phase %s, address %q, class %s", pod.Status.Phase, pod.Status.PodIP, pod.Status.QOSClass)
	}
	if out := must(t, "logs", "-n", ns, "hello"); !strings.Contains(out, "hello listens on :8080") {
		t.Errorf("log: %q", out)
	}
	if out := must(t, "exec", "-n", ns, "hello", "--", "hostname"); strings.TrimSpace(out) != "hello" {
		t.Errorf("hostname in the pod: %q", out)
	}
	out, err := command("over here\n", filepath.Join(root, "bin/ctl"), "exec", "-i", "-n", ns, "hello", "--", "cat")
	if err != nil || out != "over here\n" {
		t.Errorf("cat of what was sent to it: %q %v", out, err)
	}
	if out, err := ctl("exec", "-n", ns, "hello", "--", "sh", "-c", "exit 7"); err == nil || !strings.Contains(out, "exit code 7") {
		t.Errorf("exit 7 in the pod: %q %v", out, err)
	}
	must(t, "delete", "-n", ns, "pod", "hello")
	if _, err := client.CoreV1().Pods(ns).Get(t.Context(), "hello", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after delete: %v", err)
	}
}

// deployHello deploys a number of replicas and waits for the rollout.
func deployHello(t *testing.T, ns string, replicas int) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, "manifests/hello.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	manifest := strings.Replace(string(data), "replicas: 2", fmt.Sprintf("replicas: %d", replicas), 1)
	apply(t, ns, strings.Replace(manifest, "      nodePort: 30080\n", "", 1))
	must(t, "rollout", "status", "-n", ns, "deployment/hello", "--timeout=90s")
}

// shell starts a pod to run commands in.
func shell(t *testing.T, ns, node string) func(script string) (string, error) {
	t.Helper()
	pod := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "shell"},
		Spec: v1.PodSpec{NodeName: node, TerminationGracePeriodSeconds: new(int64),
			Containers: []v1.Container{{Name: "shell", Image: helloImage, Command: []string{"sleep", "100000"}}}},
	}
	if _, err := client.CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	waitPod(t, ns, "shell", "ready", ready)
	return func(script string) (string, error) {
		out, err := ctl("exec", "-n", ns, "shell", "--", "sh", "-c", script)
		return strings.TrimSpace(out), err
	}
}

func TestDeploymentBehindService(t *testing.T) {
	ns := newNamespace(t)
	const replicas = 4
	deployHello(t, ns, replicas)
	in := shell(t, ns, "")

	service, err := client.CoreV1().Services(ns).Get(t.Context(), "hello", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pods, err := client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "app=hello"})
	if err != nil {
		t.Fatal(err)
	}
	nodes := map[string]int{}
	for _, p := range pods.Items {
		nodes[p.Spec.NodeName]++
	}
	if len(nodes) != 2 {
		t.Errorf("%d replicas are on %v, not spread over both workers", replicas, nodes)
	}

	t.Run("VIP from a pod, over all replicas", func(t *testing.T) {
		eventually(t, 20*time.Second, "all replicas answer", func() error {
			out, err := in(fmt.Sprintf("/hello get -n 60 http://%s/", service.Spec.ClusterIP))
			if err != nil {
				return fmt.Errorf("%v: %s", err, out)
			}
			seen := map[string]bool{}
			for line := range strings.Lines(out) {
				seen[strings.TrimSpace(line)] = true
			}
			if len(seen) != replicas {
				return fmt.Errorf("%d of %d replicas answered 60 requests: %v", len(seen), replicas, seen)
			}
			return nil
		})
	})
	t.Run("every pod from a pod", func(t *testing.T) {
		for _, p := range pods.Items {
			if out, err := in(fmt.Sprintf("/hello get http://%s:8080/", p.Status.PodIP)); err != nil || out != "hello from "+p.Name {
				t.Errorf("%s at %s on %s: %q %v", p.Name, p.Status.PodIP, p.Spec.NodeName, out, err)
			}
		}
	})
	t.Run("NodePort from the machine, on every node", func(t *testing.T) {
		list, err := client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range list.Items {
			url := fmt.Sprintf("http://%s:%d/", n.Status.Addresses[0].Address, service.Spec.Ports[0].NodePort)
			eventually(t, 10*time.Second, n.Name+" answers", func() error {
				out, err := httpGet(url)
				if err == nil && !strings.HasPrefix(out, "hello from hello-") {
					err = fmt.Errorf("answer %q", out)
				}
				return err
			})
		}
	})
	t.Run("names", func(t *testing.T) {
		for _, name := range []string{"hello", "hello." + ns, "hello." + ns + ".svc", "hello." + ns + ".svc.cluster.local"} {
			if out, err := in("/hello get http://" + name + "/"); err != nil || !strings.HasPrefix(out, "hello from ") {
				t.Errorf("%s: %q %v", name, out, err)
			}
		}
		if out, err := in("/hello lookup kubernetes.default.svc.cluster.local"); err != nil || out != "10.96.0.1" {
			t.Errorf("lookup of kubernetes: %q %v", out, err)
		}
		if out, err := in("/hello lookup nobody.default.svc.cluster.local"); err == nil || !strings.Contains(out, "no such host") {
			t.Errorf("lookup of a service that isn't there: %q %v", out, err)
		}
	})
	t.Run("a service without endpoints refuses", func(t *testing.T) {
		must(t, "scale", "-n", ns, "deployment/hello", "--replicas=0")
		eventually(t, 20*time.Second, "connections are refused", func() error {
			out, err := in(fmt.Sprintf("/hello get http://%s/", service.Spec.ClusterIP))
			if err == nil || !strings.Contains(out, "refused") {
				return fmt.Errorf("%q %v", out, err)
			}
			return nil
		})
	})
}

func TestRollout(t *testing.T) {
	ns := newNamespace(t)
	deployHello(t, ns, 3)
	image := func() string {
		return must(t, "get", "-n", ns, "pods", "-l", "app=hello", "--field-selector=status.phase=Running",
			"-o", `jsonpath={range .items[?(@.metadata.deletionTimestamp=="")]}{end}{.items[*].spec.containers[0].image}`)
	}
	must(t, "set", "image", "-n", ns, "deployment/hello", "hello=skiff.local/hello:2")
	out := must(t, "rollout", "status", "-n", ns, "deployment/hello", "--timeout=90s")
	if !strings.Contains(out, "successfully rolled out") {
		t.Errorf("rollout status: %q", out)
	}
	eventually(t, 40*time.Second, "only the new image runs", func() error {
		if got := image(); got != "skiff.local/hello:2 skiff.local/hello:2 skiff.local/hello:2" {
			return fmt.Errorf("images: %s", got)
		}
		return nil
	})
	if out := must(t, "rollout", "history", "-n", ns, "deployment/hello"); !strings.Contains(out, "2 ") || !strings.Contains(out, "1 ") {
		t.Errorf("history: %q", out)
	}
	must(t, "rollout", "undo", "-n", ns, "deployment/hello")
	must(t, "rollout", "status", "-n", ns, "deployment/hello", "--timeout=90s")
	eventually(t, 40*time.Second, "only the old image runs", func() error {
		if got := image(); got != "skiff.local/hello:1 skiff.local/hello:1 skiff.local/hello:1" {
			return fmt.Errorf("images: %s", got)
		}
		return nil
	})
	sets, err := client.AppsV1().ReplicaSets(ns).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(sets.Items) != 2 {
		t.Errorf("%d replica sets after a rollout and its undoing, want 2", len(sets.Items))
	}
}
