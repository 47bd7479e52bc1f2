package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// testBinaries are the real init, and shell scripts in place of the rest: this
// package is about nodes, not about what runs on them.
func testBinaries(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("go", "build", "-o", filepath.Join(dir, "init"), "skiff/cmd/init").CombinedOutput(); err != nil {
		t.Fatalf("build init: %v\n%s", err, out)
	}
	for _, name := range []string{"apiserver", "scheduler", "controller", "agent"} {
		script := "#!/bin/sh\necho " + name + " starts with $LISTEN_FDS sockets $LISTEN_FDNAMES as $LISTEN_PID\nexec sleep 1000\n"
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// eventually waits for a condition of the machine's for which there is no event.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func TestNodes(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	t.Setenv("SKIFF_HOME", t.TempDir())
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "config"))
	const name = "unit-cluster"
	if err := Delete(name, nil); err != nil { // what a killed run left
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Delete(name, nil); err != nil {
			t.Error(err)
		}
	})
	s, err := Create(context.Background(), CreateOptions{Options: Options{
		Name: name, Masters: 1, Workers: 1, Isolated: true, Bin: testBinaries(t)}})
	if err != nil {
		t.Fatal(err)
	}
	l := newLayout(name)
	master, worker := s.Nodes[0], s.Nodes[1]

	enter := func(n Node, command ...string) (string, error) {
		args := append([]string{"-t", fmt.Sprint(InitPid(name, n.Name)), "-m", "-u", "-i", "-n", "-p"}, command...)
		out, err := exec.Command("nsenter", args...).CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	logOf := func(n Node, component string) string {
		data, _ := os.ReadFile(LogFile(name, n.Name, component))
		return string(data)
	}

	t.Run("a node has a name, a disk and processes of its own", func(t *testing.T) {
		if out, err := enter(worker, "hostname"); err != nil || out != worker.Name {
			t.Errorf("hostname: %q %v", out, err)
		}
		if out, err := enter(worker, "sh", "-c", "echo mine > /var/lib/proof && ls /proc | grep -c '^1$'"); err != nil || out != "1" {
			t.Errorf("write to /var/lib: %q %v", out, err)
		}
		file, err := NodeFile(name, worker.Name, "/var/lib/proof")
		if err != nil {
			t.Fatal(err)
		}
		if data, err := os.ReadFile(file); err != nil || string(data) != "mine\n" {
			t.Errorf("the node's disk has %q, %v", data, err)
		}
		if _, err := os.Stat("/var/lib/proof"); !errors.Is(err, os.ErrNotExist) {
			t.Error("the file is on the machine's own disk")
		}
		// Only its own processes: PID 1 and what that started.
		if out, err := enter(worker, "sh", "-c", "cat /proc/1/cmdline | tr '\\0' ' '"); err != nil || !strings.Contains(out, "supervise") {
			t.Errorf("PID 1 is %q, %v", out, err)
		}
	})

	t.Run("nodes reach each other and the machine them, and nothing else", func(t *testing.T) {
		if out, err := enter(worker, "ip", "route"); err != nil || strings.Contains(out, "default") {
			t.Errorf("routes of an isolated node: %q %v", out, err)
		}
		listen := exec.Command("nsenter", "-t", fmt.Sprint(InitPid(name, worker.Name)), "-n", "busybox", "nc", "-l", "-p", "7777")
		if err := listen.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { listen.Process.Kill(); listen.Wait() }()
		eventually(t, "the machine reaches the worker", func() bool {
			c, err := net.DialTimeout("tcp", netip.AddrPortFrom(worker.IP, 7777).String(), time.Second)
			if err == nil {
				c.Close()
			}
			return err == nil
		})
		if out, err := enter(master, "busybox", "ping", "-c", "1", "-W", "2", worker.IP.String()); err != nil {
			t.Errorf("master to worker: %v\n%s", err, out)
		}
	})

	t.Run("what dies is started again", func(t *testing.T) {
		eventually(t, "the scheduler runs", func() bool { return ProcessPid(name, master.Name, "scheduler") != 0 })
		pid := ProcessPid(name, master.Name, "scheduler")
		if data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid)); err != nil || !strings.Contains(string(data), l.cgroup(master.Name)) {
			t.Fatalf("pid %d of the pid file is not in the node's cgroup: %s %v", pid, data, err)
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "another scheduler runs", func() bool {
			now := ProcessPid(name, master.Name, "scheduler")
			return now != 0 && now != pid
		})
		eventually(t, "the restart is in init's log", func() bool {
			return strings.Contains(logOf(master, "init"), "scheduler ended (signal 9), starting it again in 50ms")
		})
	})

	t.Run("sockets are handed over", func(t *testing.T) {
		eventually(t, "the agent has written its log", func() bool { return strings.Contains(logOf(worker, "agent"), "starts") })
		text := logOf(worker, "agent")
		if !strings.HasPrefix(text, "agent starts with 2 sockets dns-udp:dns-tcp as ") {
			t.Errorf("the agent was given: %s", text)
		}
		if out, err := enter(worker, "cat", "/proc/net/udp"); err != nil || !strings.Contains(out, ":0035 ") {
			t.Errorf("nobody listens on port 53: %q %v", out, err)
		}
	})

	t.Run("containerd runs on the node's disk", func(t *testing.T) {
		eventually(t, "containerd answers", func() bool {
			_, err := enter(worker, "ctr", "version")
			return err == nil
		})
	})

	t.Run("a power cut, and back", func(t *testing.T) {
		for range 5 {
			old := InitPid(name, worker.Name)
			if err := unix.Kill(old, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			// At once: the old one may not have noticed, or the kernel not have finished with it.
			if err := Start(context.Background(), name, worker.Name, 0, nil); err != nil {
				t.Fatal(err)
			}
			if now := InitPid(name, worker.Name); now == old || now == 0 {
				t.Fatalf("PID 1 is %d after the cut of %d", now, old)
			}
		}
		eventually(t, "the node has its disk again", func() bool {
			out, err := enter(worker, "cat", "/var/lib/proof")
			return err == nil && out == "mine"
		})
		if out, err := enter(worker, "busybox", "ping", "-c", "1", "-W", "2", master.IP.String()); err != nil {
			t.Errorf("worker to master: %v\n%s", err, out)
		}
		// What the machine remembers of the node's link-layer address must still be right.
		want := hardware(worker.IP).String()
		if out, err := enter(worker, "cat", "/sys/class/net/eth0/address"); err != nil || out != want {
			t.Errorf("link-layer address %q, want %q (%v)", out, want, err)
		}
	})

	t.Run("creating it again is no error", func(t *testing.T) {
		pid := InitPid(name, master.Name)
		if _, err := Create(context.Background(), CreateOptions{Options: Options{
			Name: name, Masters: 1, Workers: 1, Isolated: true, Bin: s.Bin}}); err != nil {
			t.Fatal(err)
		}
		if now := InitPid(name, master.Name); now != pid {
			t.Errorf("the master was started anew: %d, was %d", now, pid)
		}
		if _, err := Create(context.Background(), CreateOptions{Options: Options{
			Name: name, Masters: 1, Workers: 2, Isolated: true, Bin: s.Bin}}); err == nil {
			t.Error("another shape under the same name is taken")
		}
	})

	t.Run("deleting leaves nothing", func(t *testing.T) {
		pid := InitPid(name, master.Name)
		if err := Delete(name, nil); err != nil {
			t.Fatal(err)
		}
		if unix.Kill(pid, 0) == nil && runningInit(l, master.Name) != 0 {
			t.Error("the master's PID 1 is still there")
		}
		if _, err := netlink.LinkByName(l.link()); err == nil {
			t.Error("the machine's link is still there")
		}
		trees, err := hierarchies()
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range append(trees, l.switchNamespace(), l.root) {
			if file != l.switchNamespace() && file != l.root {
				file = filepath.Join(file, l.cgroup(""))
			}
			if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is still there (%v)", file, err)
			}
		}
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(mounts), name) {
			t.Error("a mount is still there")
		}
		if data, err := os.ReadFile(os.Getenv("KUBECONFIG")); err != nil || strings.Contains(string(data), name) {
			t.Errorf("the kubeconfig still knows the cluster: %s %v", data, err)
		}
	})
}

func TestEnding(t *testing.T) {
	for stat, want := range map[string]bool{
		"17 (init) S 1 17 17 0 -1 4194560 3 0":    false,
		"17 (in) it ) S 1 17 17 0 -1 4194560 3 0": false,
		"17 (init) Z 1 17 17 0 -1 4194560 3 0":    true,
		"17 (init) S 1 17 17 0 -1 4194564 3 0":    true, // PF_EXITING
		"17 (init) R 1 17 17 0 -1 4195328 3 0":    true, // PF_SIGNALED
		"17 (init) S 1 17":                        true,
		"":                                        true,
	} {
		if got := ending(stat); got != want {
			t.Errorf("ending(%q) = %v", stat, got)
		}
	}
}

// A signal is pending until the process gets to run: on a busy machine that takes a while.
func TestKilled(t *testing.T) {
	sleeper := exec.Command("sleep", "1000")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	defer sleeper.Wait()
	status := func() string {
		data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", sleeper.Process.Pid))
		return string(data)
	}
	if s := status(); killed(s) {
		t.Errorf("a process that nobody killed counts as killed:\n%s", s)
	}
	if killed("SigPnd:\t0000000000004000\nShdPnd:\t0000000000004000\n") {
		t.Error("SIGTERM is no SIGKILL")
	}
	for _, s := range []string{"SigPnd:\t0000000000000100\n", "SigPnd:\t0000000000000000\nShdPnd:\t0000000000000100\n"} {
		if !killed(s) {
			t.Errorf("killed(%q) = false", s)
		}
	}
	sleeper.Process.Kill()
}

func TestSpecStaysClearOfUsedRanges(t *testing.T) {
	taken := prefixes("10.89.0.0/23", "10.96.0.0/12")
	s, err := NewSpec(Options{Name: "a", Masters: 1, Workers: 2}, taken)
	if err != nil {
		t.Fatal(err)
	}
	all := append(taken, s.NodeRange, s.PodRange, s.ServiceRange)
	for i, a := range all {
		for j, b := range all {
			if i < j && a.Overlaps(b) {
				t.Errorf("%s and %s overlap", a, b)
			}
		}
	}
	if s.Nodes[2].Name != "a-worker-2" || !s.NodeRange.Contains(s.Nodes[2].IP) {
		t.Errorf("third node is %+v in %s", s.Nodes[2], s.NodeRange)
	}
	if n, err := s.Node("worker-2"); err != nil || !reflect.DeepEqual(n, s.Nodes[2]) {
		t.Errorf("Node(worker-2) = %+v, %v", n, err)
	}
	if _, err := s.Node("worker-3"); err == nil || !strings.Contains(err.Error(), "a-master-1, a-worker-1, a-worker-2") {
		t.Errorf("Node(worker-3): %v, want an error that names the nodes there are", err)
	}
}

func TestSpecRefuses(t *testing.T) {
	for _, o := range []Options{
		{Name: "", Masters: 1}, {Name: "A", Masters: 1}, {Name: "../x", Masters: 1}, {Name: strings.Repeat("a", 33), Masters: 1},
		{Name: "a", Masters: 0}, {Name: "a", Masters: 1, Workers: -1}, {Name: "a", Masters: 1, Workers: 1000},
	} {
		if _, err := NewSpec(o, nil); err == nil {
			t.Errorf("NewSpec(%+v) took it", o)
		}
	}
	if _, err := NewSpec(Options{Name: "a", Masters: 1}, prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")); err == nil {
		t.Error("NewSpec found a free range where there is none")
	}
}
