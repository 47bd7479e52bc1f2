// Package runtimetest gives a test a private containerd: its own root, state
// and socket below a temporary directory, its own cgroup parent, a busybox
// image made from the host's /bin/busybox, and cmd/init built for its loggers.
//
// It needs root and the containerd binary, and skips the test without them.
// Everything is taken down at the end of the test; what a killed run has left
// behind is taken down at the start of the next one.
package runtimetest

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"
)

// Busybox is the name of the image that every Node holds.
const Busybox = "docker.io/library/busybox:test"

const prefix = "skiff-node-"

// Node is one private containerd and the directories around it.
type Node struct {
	Dir          string // everything lies below it
	Address      string // containerd's socket
	InitPath     string // cmd/init, static
	CgroupParent string // "/skiff-node-<pid>-<n>"

	tb      testing.TB
	process *exec.Cmd
}

var counter struct {
	sync.Mutex
	n int
}

// Start brings a Node up and registers its end with the test.
func Start(tb testing.TB) *Node {
	tb.Helper()
	if os.Getuid() != 0 {
		tb.Skip("needs root")
	}
	if _, err := exec.LookPath("containerd"); err != nil {
		tb.Skip("needs containerd")
	}
	sweep()
	counter.Lock()
	counter.n++
	id := fmt.Sprintf("%s%d-%d", prefix, os.Getpid(), counter.n)
	counter.Unlock()
	n := &Node{Dir: filepath.Join(os.TempDir(), id), CgroupParent: "/" + id, tb: tb}
	n.Address = filepath.Join(n.Dir, "containerd.sock")
	n.InitPath = filepath.Join(n.Dir, "init")
	if err := os.MkdirAll(n.Dir, 0o711); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		n.StopContainerd()
		destroy(n.Dir, n.CgroupParent)
	})
	BuildInit(tb, n.InitPath)
	n.StartContainerd()
	n.Import(BusyboxImage(tb, nil), Busybox)
	return n
}

const config = `version = 2
root = %[1]q
state = %[2]q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[grpc]
  address = %[3]q
`

// StartContainerd starts the daemon (again) and waits until it serves.
func (n *Node) StartContainerd() {
	n.tb.Helper()
	file := filepath.Join(n.Dir, "config.toml")
	text := fmt.Sprintf(config, filepath.Join(n.Dir, "root"), filepath.Join(n.Dir, "state"), n.Address)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		n.tb.Fatal(err)
	}
	log, err := os.OpenFile(filepath.Join(n.Dir, "containerd.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		n.tb.Fatal(err)
	}
	defer log.Close()
	n.process = exec.Command("containerd", "--config", file)
	n.process.Stdout, n.process.Stderr = log, log
	n.process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := n.process.Start(); err != nil {
		n.tb.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		if err = n.serves(); err == nil {
			return
		}
		if time.Now().After(deadline) {
			n.tb.Fatalf("containerd does not serve: %v\n%s", err, n.Log())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (n *Node) serves() error {
	client, err := containerd.New(n.Address, containerd.WithTimeout(time.Second))
	if err != nil {
		return err
	}
	defer client.Close()
	_, err = client.Version(context.Background())
	return err
}

// StopContainerd kills the daemon with SIGKILL; containers go on.
func (n *Node) StopContainerd() {
	if n.process == nil {
		return
	}
	_ = n.process.Process.Kill()
	_ = n.process.Wait()
	n.process = nil
}

// Log returns what containerd has written.
func (n *Node) Log() string {
	b, _ := os.ReadFile(filepath.Join(n.Dir, "containerd.log"))
	return string(b)
}

// Import loads an image under a name into the namespace k8s.io and unpacks it.
func (n *Node) Import(image v1.Image, ref string) {
	n.tb.Helper()
	tag, err := name.NewTag(ref)
	if err != nil {
		n.tb.Fatal(err)
	}
	var archive bytes.Buffer
	if err := tarball.Write(tag, image, &archive); err != nil {
		n.tb.Fatal(err)
	}
	client, err := containerd.New(n.Address)
	if err != nil {
		n.tb.Fatal(err)
	}
	defer client.Close()
	ctx := namespaces.WithNamespace(context.Background(), "k8s.io")
	images, err := client.Import(ctx, &archive, containerd.WithIndexName(""))
	if err != nil {
		n.tb.Fatal(err)
	}
	for _, i := range images {
		if err := containerd.NewImage(client, i).Unpack(ctx, "overlayfs"); err != nil {
			n.tb.Fatal(err)
		}
	}
}

// BusyboxImage makes an image of the host's static busybox, with links for its
// applets, a few users and groups, and further files (path → content).
func BusyboxImage(tb testing.TB, files map[string]string) v1.Image {
	tb.Helper()
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		tb.Skip("needs a static /bin/busybox")
	}
	list, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		tb.Fatal(err)
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	add := func(h tar.Header, content []byte) {
		h.Size = int64(len(content))
		h.ModTime = time.Unix(0, 0)
		if err := w.WriteHeader(&h); err != nil {
			tb.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			tb.Fatal(err)
		}
	}
	for _, dir := range []string{"bin", "etc", "proc", "sys", "dev", "var", "var/run", "root", "home", "home/app"} {
		add(tar.Header{Name: dir + "/", Typeflag: tar.TypeDir, Mode: 0o755}, nil)
	}
	add(tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}, nil)
	add(tar.Header{Name: "bin/busybox", Typeflag: tar.TypeReg, Mode: 0o755}, busybox)
	for _, applet := range strings.Fields(string(list)) {
		if applet != "busybox" {
			add(tar.Header{Name: "bin/" + applet, Typeflag: tar.TypeSymlink, Linkname: "busybox", Mode: 0o777}, nil)
		}
	}
	add(tar.Header{Name: "etc/passwd", Typeflag: tar.TypeReg, Mode: 0o644},
		[]byte("root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:app:/home/app:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"))
	add(tar.Header{Name: "etc/group", Typeflag: tar.TypeReg, Mode: 0o644},
		[]byte("root:x:0:\nwheel:x:10:root\napp:x:1001:\nextra:x:50000:app\n"))
	for path, content := range files {
		add(tar.Header{Name: strings.TrimPrefix(path, "/"), Typeflag: tar.TypeReg, Mode: 0o755}, []byte(content))
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	content := layer.Bytes()
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil })
	if err != nil {
		tb.Fatal(err)
	}
	image, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		tb.Fatal(err)
	}
	image, err = mutate.ConfigFile(image, configFile(tb, image))
	if err != nil {
		tb.Fatal(err)
	}
	return image
}

func configFile(tb testing.TB, image v1.Image) *v1.ConfigFile {
	c, err := image.ConfigFile()
	if err != nil {
		tb.Fatal(err)
	}
	c = c.DeepCopy()
	c.OS, c.Architecture = "linux", goruntime.GOARCH
	c.Config.Env = []string{"PATH=/bin", "FROM_IMAGE=yes"}
	c.Config.Cmd = []string{"sh"}
	return c
}

// BuildInit compiles cmd/init statically. While that package has no main.go, a
// tiny one is laid over it.
func BuildInit(tb testing.TB, out string) {
	tb.Helper()
	root := moduleRoot(tb)
	args := []string{"build", "-o", out}
	mainFile := filepath.Join(root, "cmd/init/main.go")
	if _, err := os.Stat(mainFile); err != nil {
		dir := tb.TempDir()
		stand := filepath.Join(dir, "main.go")
		overlay := filepath.Join(dir, "overlay.json")
		must(tb, os.WriteFile(stand, []byte(standInMain), 0o600))
		must(tb, os.WriteFile(overlay, []byte(fmt.Sprintf(`{"Replace":{%q:%q}}`, mainFile, stand)), 0o600))
		args = append(args, "-overlay", overlay)
	}
	cmd := exec.Command("go", append(args, "./cmd/init")...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("build cmd/init: %v\n%s", err, b)
	}
}

const standInMain = `package main

import "os"

func main() {
	if len(os.Args) > 1 && os.Args[1] == "logger" {
		runLogger()
	}
	runPause()
}
`

func moduleRoot(tb testing.TB) string {
	_, file, _, _ := goruntime.Caller(0)
	dir := filepath.Dir(file)
	for dir != "/" {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		dir = filepath.Dir(dir)
	}
	tb.Fatal("no go.mod above runtimetest")
	return ""
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// sweep takes down what runs have left whose process is gone.
func sweep() {
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*"))
	for _, dir := range dirs {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), prefix), "-")
		if n, err := strconv.Atoi(pid); err == nil && syscall.Kill(n, 0) == syscall.ESRCH {
			destroy(dir, "/"+filepath.Base(dir))
		}
	}
}

// destroy kills every process that belongs to a node, unmounts and removes.
func destroy(dir, cgroup string) {
	for range 50 {
		if !killAll(dir, cgroup) {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	for range 5 {
		if !unmountBelow(dir) {
			break
		}
	}
	_ = os.RemoveAll(dir)
	controllers, _ := filepath.Glob("/sys/fs/cgroup/*" + cgroup)
	for _, c := range append(controllers, "/sys/fs/cgroup"+cgroup) {
		removeCgroup(c)
	}
}

// killAll kills the processes in the node's cgroup and those whose command line
// names the node's directory (containerd and its shims), and says if there were any.
func killAll(dir, cgroup string) bool {
	entries, _ := os.ReadDir("/proc")
	found := false
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		cmdline, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		groups, _ := os.ReadFile("/proc/" + e.Name() + "/cgroup")
		exe, _, _ := strings.Cut(string(cmdline), "\x00")
		shim := strings.Contains(string(cmdline), dir+"/") && strings.Contains(filepath.Base(exe), "containerd")
		if shim || strings.HasPrefix(exe, dir+"/") || strings.Contains(string(groups), ":"+cgroup+"/") {
			state, _ := os.ReadFile("/proc/" + e.Name() + "/stat")
			if i := bytes.LastIndexByte(state, ')'); i >= 0 && len(state) > i+2 && state[i+2] == 'Z' {
				continue
			}
			_ = syscall.Kill(pid, syscall.SIGKILL)
			found = true
		}
	}
	return found
}

func unmountBelow(dir string) bool {
	b, _ := os.ReadFile("/proc/self/mountinfo")
	lines := strings.Split(string(b), "\n")
	found := false
	for i := len(lines) - 1; i >= 0; i-- {
		f := strings.Fields(lines[i])
		if len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			_ = unix.Unmount(f[4], unix.MNT_DETACH)
			found = true
		}
	}
	return found
}

func removeCgroup(path string) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.IsDir() {
			removeCgroup(filepath.Join(path, e.Name()))
		}
	}
	_ = os.Remove(path)
}
