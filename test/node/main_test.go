// Package node tests whole clusters with real containers: one master and two
// workers, made by `ctl cluster create --isolated`, shared by all tests of the
// package, each of which works in a namespace of its own.
//
// The tests use the binaries in bin/, which `make node` builds first.
package node

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

const helloImage = "skiff.local/hello:1"

var (
	// clusterName can be chosen, so that several people can run tests on one machine.
	clusterName = cmp.Or(os.Getenv("SKIFF_TEST_CLUSTER"), "test-node")
	root        string // of the source tree
	kubeconfig  string // the administrator's
	restConfig  *rest.Config
	client      kubernetes.Interface
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Geteuid() != 0 {
		fmt.Println("these tests need root")
		return 1
	}
	dir, err := os.Getwd()
	if err != nil {
		panic(err)
	}
	root = filepath.Dir(filepath.Dir(dir))
	home, err := os.MkdirTemp("", "skiff-test-node-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(home)
	kubeconfig = filepath.Join(home, "kubeconfig")
	os.Setenv("KUBECONFIG", kubeconfig)

	// What a killed run of these tests has left.
	ctl("cluster", "delete", clusterName)
	defer func() {
		if os.Getenv("SKIFF_KEEP") == "" {
			ctl("cluster", "delete", clusterName)
		}
	}()
	if out, err := ctl("cluster", "create", clusterName, "--workers=2", "--isolated"); err != nil {
		fmt.Println(out, err)
		return 1
	}
	if out, err := ctl("cluster", "load", clusterName, filepath.Join(root, "bin/images/hello.tar"), filepath.Join(root, "bin/images/hello2.tar")); err != nil {
		fmt.Println(out, err)
		return 1
	}
	restConfig, err = clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		panic(err)
	}
	restConfig.QPS = -1
	client = kubernetes.NewForConfigOrDie(restConfig)
	return m.Run()
}

// ctl runs Skiff's own ctl and returns everything it printed.
func ctl(args ...string) (string, error) { return command("", filepath.Join(root, "bin/ctl"), args...) }

func command(stdin, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, program, args...)
	c.Dir = root
	c.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	return out.String(), err
}

// must runs ctl and fails the test unless it succeeds.
func must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := ctl(args...)
	if err != nil {
		t.Fatalf("ctl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// apply applies a manifest in a namespace.
func apply(t *testing.T, namespace, manifest string) {
	t.Helper()
	out, err := command(manifest, filepath.Join(root, "bin/ctl"), "apply", "-n", namespace, "-f", "-")
	if err != nil {
		t.Fatalf("apply: %v\n%s", err, out)
	}
}

// newNamespace makes a namespace for a test, and deletes it afterwards.
func newNamespace(t *testing.T) string {
	t.Helper()
	n, err := client.CoreV1().Namespaces().Create(t.Context(),
		&v1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := ctl("get", "all,events", "-o", "wide", "-n", n.Name)
			t.Logf("what is in %s:\n%s", n.Name, out)
		}
		client.CoreV1().Namespaces().Delete(context.Background(), n.Name, metav1.DeleteOptions{})
	})
	return n.Name
}

// waitPod waits until a pod is as a condition wants it.
func waitPod(t *testing.T, namespace, name, what string, condition func(*v1.Pod) bool) *v1.Pod {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var last *v1.Pod
	for ctx.Err() == nil {
		w, err := client.CoreV1().Pods(namespace).Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
		if err != nil {
			eventuallyPause(ctx)
			continue
		}
		for event := range w.ResultChan() {
			pod, ok := event.Object.(*v1.Pod)
			if !ok || event.Type == watch.Deleted {
				continue
			}
			last = pod
			if condition(pod) {
				w.Stop()
				return pod
			}
		}
	}
	out, _ := ctl("describe", "pod", "-n", namespace, name)
	t.Fatalf("pod %s didn't become %s in a minute\n%s", name, what, out)
	return last
}

func ready(pod *v1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == v1.PodReady {
			return c.Status == v1.ConditionTrue
		}
	}
	return false
}

// eventually waits for something that has no event to wait for.
func eventually(t *testing.T, patience time.Duration, what string, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		err := check()
		if err == nil {
			return
		}
		if !eventuallyPause(ctx) {
			t.Fatalf("%s: still not so after %v: %v", what, patience, err)
		}
	}
}

func eventuallyPause(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(50 * time.Millisecond):
		return true
	}
}
