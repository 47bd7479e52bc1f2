package agent_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"

	"skiff/pkg/agent"
	"skiff/pkg/agent/runtime"
	"skiff/pkg/agent/runtime/runtimetest"
)

// cluster is one agent on a private containerd, with a fake apiserver.
type cluster struct {
	*runtimetest.Node
	client *fake.Clientset
	stop   func()
	tb     testing.TB
	n      int
	port   int
}

// The fake apiserver panics when a watcher falls behind; bursts are big here.
func init() { watch.DefaultChanSize = 1 << 16 }

// open lets everybody in.
type open struct{}

func (open) Check(*http.Request) (int, string) { return http.StatusOK, "" }

func freePort(tb testing.TB) int {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func start(tb testing.TB) *cluster {
	tb.Helper()
	c := &cluster{Node: runtimetest.Start(tb), client: fake.NewClientset(), tb: tb, port: freePort(tb)}
	c.startAgent()
	tb.Cleanup(func() { c.stop() })
	return c
}

func (c *cluster) startAgent() {
	level := slog.LevelInfo
	if os.Getenv("AGENT_DEBUG") != "" {
		level = slog.LevelDebug
	}
	a, err := agent.New(agent.Config{
		Client: c.client, NodeName: "node-1", NodeIPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
		Runtime: runtime.Config{Address: c.Address, RunDir: filepath.Join(c.Dir, "run"), InitPath: c.InitPath, CgroupParent: c.CgroupParent, PoolSize: 4},
		RootDir: filepath.Join(c.Dir, "kubelet"), LogDir: filepath.Join(c.Dir, "pods"), HostsDir: filepath.Join(c.Dir, "certs.d"),
		ClusterDNS: []string{"10.96.0.10"},
		Server:     agent.ServerConfig{Address: "127.0.0.1", Port: c.port, Access: open{}},
		Log:        slog.New(slog.NewTextHandler(c.tb.Output(), &slog.HandlerOptions{Level: level})),
	})
	if err != nil {
		c.tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	c.stop = func() {
		cancel()
		if err := <-done; err != nil {
			c.tb.Error(err)
		}
		c.stop = func() {}
	}
}

func shell(name, script string) v1.Container {
	return v1.Container{Name: name, Image: "busybox:test", Command: []string{"sh", "-c", script}}
}

func (c *cluster) create(pod *v1.Pod) *v1.Pod {
	c.tb.Helper()
	c.n++
	pod.Namespace = "default"
	if pod.Name == "" {
		pod.Name = fmt.Sprintf("pod-%d", c.n)
	}
	pod.UID = types.UID(fmt.Sprintf("%08d-1111-2222-3333-444444444444", c.n))
	pod.Spec.NodeName = "node-1"
	if pod.Spec.RestartPolicy == "" {
		pod.Spec.RestartPolicy = v1.RestartPolicyAlways
	}
	if pod.Spec.DNSPolicy == "" {
		pod.Spec.DNSPolicy = v1.DNSClusterFirst
	}
	created, err := c.client.CoreV1().Pods("default").Create(context.Background(), pod, metav1.CreateOptions{})
	if err != nil {
		c.tb.Fatal(err)
	}
	return created
}

// wait returns the pod as soon as it is as wanted.
func (c *cluster) wait(name, what string, ok func(*v1.Pod) bool) *v1.Pod {
	c.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	pods := c.client.CoreV1().Pods("default")
	w, err := pods.Watch(ctx, metav1.ListOptions{})
	if err != nil {
		c.tb.Fatal(err)
	}
	defer w.Stop()
	pod, err := pods.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		pod = nil
	}
	if ok(pod) {
		return pod
	}
	for {
		select {
		case e := <-w.ResultChan():
			got, is := e.Object.(*v1.Pod)
			if !is || got.Name != name {
				continue
			}
			pod = got
			if e.Type == watch.Deleted {
				pod = nil
			}
			if ok(pod) {
				return pod
			}
		case <-ctx.Done():
			c.tb.Fatalf("pod %s: not %s\n%+v\n%s", name, what, pod, c.Log())
		}
	}
}

func phase(p v1.PodPhase) func(*v1.Pod) bool {
	return func(pod *v1.Pod) bool { return pod != nil && pod.Status.Phase == p }
}

func (c *cluster) log(pod *v1.Pod, container string, attempt int) string {
	b, _ := os.ReadFile(filepath.Join(c.Dir, "pods", "default_"+pod.Name+"_"+string(pod.UID), container, fmt.Sprintf("%d.log", attempt)))
	return string(b)
}

func (c *cluster) delete(pod *v1.Pod, grace int64) {
	c.tb.Helper()
	pods := c.client.CoreV1().Pods("default")
	p, err := pods.Get(context.Background(), pod.Name, metav1.GetOptions{})
	if err != nil {
		c.tb.Fatal(err)
	}
	now := metav1.NewTime(time.Now().Add(time.Duration(grace) * time.Second))
	p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &now, &grace
	if _, err := pods.Update(context.Background(), p, metav1.UpdateOptions{}); err != nil {
		c.tb.Fatal(err)
	}
	c.wait(pod.Name, "gone", func(p *v1.Pod) bool { return p == nil })
}

func TestPodRunsAndIsDeleted(t *testing.T) {
	c := start(t)
	for range 3 {
		began := time.Now()
		pod := c.create(&v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{shell("main", "echo hello from $HOSTNAME; trap 'echo bye; exit 0' TERM; sleep 1000 & wait")}}})
		pod = c.wait(pod.Name, "Running", phase(v1.PodRunning))
		t.Log("running after", time.Since(began))
		began = time.Now()
		c.delete(pod, 10)
		t.Log("gone after", time.Since(began))
	}
	pod := c.create(&v1.Pod{Spec: v1.PodSpec{RestartPolicy: v1.RestartPolicyNever, Containers: []v1.Container{shell("main", "echo hello from $HOSTNAME; exit 3")}}})
	pod = c.wait(pod.Name, "Failed", phase(v1.PodFailed))
	if got := pod.Status.ContainerStatuses[0].State.Terminated; got == nil || got.ExitCode != 3 || got.Reason != "Error" {
		t.Errorf("state %+v", pod.Status.ContainerStatuses[0])
	}
	if log := c.log(pod, "main", 0); !strings.Contains(log, "stdout F hello from "+pod.Name) {
		t.Errorf("log %q", log)
	}
	c.delete(pod, 10)
}
