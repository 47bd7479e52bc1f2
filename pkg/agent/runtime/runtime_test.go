package runtime_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/agent/image"
	"skiff/pkg/agent/runtime"
	"skiff/pkg/agent/runtime/runtimetest"
)

type fixture struct {
	*runtimetest.Node
	*runtime.Runtime
	images *image.Store
	exits  chan runtime.Event
}

func open(t testing.TB) *fixture {
	t.Helper()
	n := runtimetest.Start(t)
	r := runtime.New(runtime.Config{Address: n.Address, RunDir: filepath.Join(n.Dir, "run"), InitPath: n.InitPath, CgroupParent: n.CgroupParent, PoolSize: 2})
	ctx, cancel := context.WithCancel(context.Background())
	if err := r.Open(ctx); err != nil {
		t.Fatal(err)
	}
	f := &fixture{Node: n, Runtime: r, images: image.NewStore(r.Client(), image.Config{}), exits: make(chan runtime.Event, 1000)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = r.Run(ctx, func(e runtime.Event) { f.exits <- e })
	}()
	t.Cleanup(func() { cancel(); <-done; r.Close() })
	return f
}

func (f *fixture) run(t testing.TB, uid string, c v1.Container) *runtime.NewContainer {
	t.Helper()
	ctx := context.Background()
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default", UID: "uid-" + "1"}}
	pod.UID = "pod-" + "x"
	start := time.Now()
	sb, err := f.CreateSandbox(ctx, runtime.SandboxConfig{UID: uid, Hostname: "web"})
	if err != nil {
		t.Fatal(err)
	}
	t.Log("sandbox", time.Since(start))
	start = time.Now()
	img, err := f.images.Get(ctx, runtimetest.Busybox)
	if err != nil {
		t.Fatal(err)
	}
	t.Log("image", time.Since(start))
	start = time.Now()
	n, err := f.Create(ctx, runtime.ContainerConfig{Pod: pod, Container: &c, Image: img, Command: c.Command, Sandbox: sb, Hostname: "web",
		Cgroup: f.PodCgroup(uid, v1.PodQOSBurstable), LogPath: filepath.Join(f.Dir, "logs", uid, "0.log")})
	if err != nil {
		t.Fatal(err)
	}
	t.Log("create", time.Since(start))
	start = time.Now()
	if err := f.Start(ctx, n); err != nil {
		t.Fatal(err)
	}
	t.Log("start", time.Since(start))
	return n
}

func TestRun(t *testing.T) {
	f := open(t)
	if e := <-f.exits; !e.Resync {
		t.Fatalf("first event %+v", e)
	}
	for i := range 5 {
		uid := "u" + string(rune('0'+i))
		n := f.run(t, uid, v1.Container{Name: "c", Command: []string{"sh", "-c", "hostname; echo err >&2; ls /sys/fs/cgroup; printf tail; exit 3"}})
		e := <-f.exits
		if e.Exited != n.ID || e.Code != 3 {
			t.Fatalf("event %+v", e)
		}
		start := time.Now()
		exit, err := f.Reap(context.Background(), n.Container)
		if err != nil || exit.Code != 3 {
			t.Fatalf("reap: %+v %v", exit, err)
		}
		t.Log("reap", time.Since(start))
		b, err := os.ReadFile(n.LogPath)
		if err != nil || !strings.Contains(string(b), " stdout F web\n") || !strings.Contains(string(b), " stderr F err\n") || !strings.HasSuffix(string(b), " stdout P tail\n") {
			t.Fatalf("log %q %v", b, err)
		}
		start = time.Now()
		if err := f.Remove(context.Background(), n.ID); err != nil {
			t.Fatal(err)
		}
		t.Log("remove", time.Since(start))
	}
}
