package supervise

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain plays an init that kills a child at a moment when PID 1 has no handler for
// the signal that it gets, and leaves the rest to the real one.
func TestMain(m *testing.M) {
	if len(os.Args) != 3 || os.Args[1] != "resume" && os.Args[1] != "check" {
		code := m.Run()
		if os.Geteuid() == 0 {
			if dir, _ := built(); dir != "" {
				os.RemoveAll(dir)
			}
		}
		os.Exit(code)
	}
	runtime.LockOSThread()
	if victim, err := os.ReadFile(NodeDir + "/victim"); err == nil && os.Args[1] == "resume" {
		pid, _ := strconv.Atoi(string(victim))
		unix.Kill(pid, unix.SIGKILL)
		unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
	}
	fmt.Fprintln(os.Stderr, unix.Exec(BinDir+"/real", os.Args, os.Environ()))
	os.Exit(1)
}

// node is a real PID 1 in namespaces of its own, without a network.
type node struct {
	t   *testing.T
	dir string
	cmd *exec.Cmd
	log string
}

// buildInit builds cmd/init into a directory of binaries, once for all tests.
func buildInit(t *testing.T) (bin string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	bin, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "skiff-unit-supervise-")
	if err != nil {
		return "", err
	}
	if out, err := exec.Command("go", "build", "-o", filepath.Join(dir, "init"), "skiff/cmd/init").CombinedOutput(); err != nil {
		return dir, fmt.Errorf("build init: %w\n%s", err, out)
	}
	return dir, nil
})

// copyOf is another directory with the same binaries.
func copyOf(t *testing.T, bin string) string {
	t.Helper()
	other := t.TempDir()
	data, err := os.ReadFile(filepath.Join(bin, "init"))
	if err != nil {
		t.Fatal(err)
	}
	script(t, filepath.Join(other, "init"), string(data))
	return other
}

func script(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

// sleeper runs until it is stopped.
func sleeper(name string, args ...string) Process {
	return Process{Name: name, Args: append([]string{"/bin/sh", "-c", "echo started $LISTEN_FDS; exec sleep 1000"}, args...)}
}

// newNode makes the directory of a node, and a configuration to start from.
func newNode(t *testing.T, bin string) (*node, *Config) {
	t.Helper()
	n := &node{t: t, dir: t.TempDir()}
	for _, dir := range []string{"var/lib", "var/log", LogDir, PidDir} {
		if err := os.MkdirAll(filepath.Join(n.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	n.log = filepath.Join(n.dir, LogDir, "init.log")
	return n, &Config{Generation: "1", Hostname: "unit-supervise", Dir: n.dir, Bin: bin}
}

func (n *node) write(c *Config) {
	n.t.Helper()
	data, err := json.Marshal(c)
	if err != nil {
		n.t.Fatal(err)
	}
	n.writeText(string(data))
}

func (n *node) writeText(text string) {
	n.t.Helper()
	file := filepath.Join(n.dir, ConfigFile)
	if err := os.WriteFile(file+".new", []byte(text), 0o644); err != nil {
		n.t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		n.t.Fatal(err)
	}
}

// start starts the node; it fails when the node gives up before its file system is there.
func (n *node) start(c *Config, sockets ...*os.File) error {
	n.t.Helper()
	n.write(c)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		n.t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "init"), os.NewFile(uintptr(pair[1]), "maker")
	defer ours.Close()
	machine, err := os.Open("/proc/self/ns/mnt")
	if err != nil {
		n.t.Fatal(err)
	}
	defer machine.Close()
	log, err := os.OpenFile(n.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		n.t.Fatal(err)
	}
	defer log.Close()
	n.cmd = exec.Command(filepath.Join(c.Bin, "init"), "supervise", filepath.Join(n.dir, ConfigFile))
	n.cmd.Dir = "/"
	n.cmd.Stdout, n.cmd.Stderr = log, log
	n.cmd.ExtraFiles = append([]*os.File{theirs, machine}, sockets...)
	n.cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true, Pdeathsig: unix.SIGKILL,
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
	}
	if err := n.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	theirs.Close()
	n.t.Cleanup(func() {
		n.cmd.Process.Kill()
		n.cmd.Wait()
		if n.t.Failed() {
			n.t.Logf("init's log:\n%s", n.read(LogDir, "init.log"))
		}
	})
	if _, err := ours.Write([]byte{1}); err != nil {
		n.t.Fatal(err)
	}
	_, err = ours.Read(make([]byte, 1))
	return err
}

func (n *node) mustStart(c *Config, sockets ...*os.File) {
	n.t.Helper()
	if err := n.start(c, sockets...); err != nil {
		n.t.Fatalf("the node did not come up: %v", err)
	}
	n.applied(c.Generation)
}

func (n *node) read(parts ...string) string {
	data, _ := os.ReadFile(filepath.Join(append([]string{n.dir}, parts...)...))
	return string(data)
}

func (n *node) pid(process string) int {
	pid, _ := strconv.Atoi(strings.TrimSpace(n.read(PidDir, process+".pid")))
	return pid
}

func (n *node) pids(processes ...string) []int {
	var out []int
	for _, p := range processes {
		out = append(out, n.pid(p))
	}
	return out
}

// until waits for a condition of the machine's for which there is no event.
func (n *node) until(what string, condition func() bool) {
	n.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			n.t.Fatalf("waited in vain until %s", what)
		}
	}
}

func (n *node) applied(generation string) {
	n.t.Helper()
	n.until("generation "+generation+" is applied", func() bool { return n.read(AppliedFile) == generation })
}

func (n *node) signal(s unix.Signal) {
	n.t.Helper()
	if err := unix.Kill(n.cmd.Process.Pid, s); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) reload(c *Config) {
	n.t.Helper()
	n.write(c)
	n.signal(unix.SIGHUP)
	n.applied(c.Generation)
}

// inside runs a command in the node.
func (n *node) inside(command ...string) (string, error) {
	args := append([]string{"-t", strconv.Itoa(n.cmd.Process.Pid), "-m", "-u", "-i", "-n", "-p"}, command...)
	out, err := exec.Command("nsenter", args...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// pidInside is the pid that a process has in its own namespace.
func pidInside(t *testing.T, pid int) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), "NSpid:")
	line, _, _ := strings.Cut(rest, "\n")
	fields := strings.Fields(line)
	if len(fields) < 2 {
		t.Fatalf("process %d is in no namespace of its own: %q", pid, line)
	}
	return fields[len(fields)-1]
}

func (n *node) descriptors(process string) string {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", n.pid(process)))
	if err != nil {
		n.t.Error(err)
	}
	return fmt.Sprint(entries)
}

func exists(pid int) bool { return pid != 0 && unix.Kill(pid, 0) == nil }

func TestReload(t *testing.T) {
	n, c := newNode(t, buildInit(t))
	gate := filepath.Join(n.dir, "gate") // "slow" doesn't stop while it exists
	slow := Process{Name: "slow", StopAfter: time.Minute, Args: []string{"/bin/sh", "-c",
		"trap 'echo told; while [ -e /run/skiff/gate ]; do sleep 0.01; done; exit 0' TERM; echo started; while :; do sleep 0.01; done"}}
	if err := os.WriteFile(gate, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	c.Processes = []Process{sleeper("same"), slow, sleeper("goes"), sleeper("later")}
	n.mustStart(c)
	n.until("slow can be told to stop", func() bool { return strings.Contains(n.read(LogDir, "slow.log"), "started") })
	before := n.pids("same", "slow", "goes", "later")
	for _, pid := range before {
		if !exists(pid) {
			t.Fatalf("pids after the start: %v", before)
		}
	}

	slow.Generation = "2"
	c.Processes = []Process{sleeper("same"), slow, sleeper("new"), sleeper("later", "changed")}
	c.Generation = "2"
	n.write(c)
	n.signal(unix.SIGHUP)
	n.until("slow is told to stop", func() bool { return strings.Contains(n.read(LogDir, "slow.log"), "told") })
	if exists(before[2]) || n.pid("goes") != 0 {
		t.Error("what is not part of the node any more is stopped before the first restart")
	}
	if n.pid("later") != before[3] || n.pid("new") != 0 || n.read(AppliedFile) != "1" {
		t.Error("the next step did not wait for the end of the one before")
	}
	// While one is awaited, the others are looked after.
	if err := unix.Kill(before[0], unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	n.until("same is started again", func() bool { pid := n.pid("same"); return pid != 0 && pid != before[0] })
	same := n.pid("same")
	// A configuration that comes meanwhile has its turn afterwards.
	c.Generation = "3"
	c.Processes = append(c.Processes, sleeper("last"))
	n.write(c)
	n.signal(unix.SIGHUP)
	if err := os.Remove(gate); err != nil {
		t.Fatal(err)
	}
	n.applied("3")

	after := n.pids("same", "slow", "new", "later", "last")
	for i, pid := range after {
		if !exists(pid) || i > 0 && pid == before[min(i, 3)] {
			t.Errorf("pids were %v, are %v", before, after)
		}
	}
	if after[0] != same {
		t.Error("an unchanged process was restarted")
	}
	if log := n.read(LogDir, "init.log"); !strings.Contains(log, "restart slow: its generation is 2, was ") {
		t.Error("the reason of a restart is missing in the log")
	}

	t.Run("what is no good changes nothing", func(t *testing.T) {
		for _, bad := range []struct{ text, why string }{
			{"{", "unexpected end of JSON"},
			{`{"Hostname":"other"}`, "a running node keeps its name unit-supervise"},
			{`{"Processes":[{"Name":"x"}]}`, "process x has no command line"},
			{fmt.Sprintf(`{"Hostname":%q,"Dir":%q,"Bin":"/nowhere"}`, c.Hostname, c.Dir), "mount the machine's /nowhere on /run/skiff-bin: no such file"},
			{fmt.Sprintf(`{"Hostname":%q,"Dir":%q,"Bin":%q,"Sockets":[{"Name":"web","Inherited":true}]}`, c.Hostname, c.Dir, c.Bin), "stop the node and start it again"},
		} {
			n.writeText(bad.text)
			n.signal(unix.SIGHUP)
			n.until("the refusal says "+bad.why, func() bool { return strings.Contains(n.read(RefusedFile), bad.why) })
			if !strings.Contains(n.read(LogDir, "init.log"), bad.why) {
				t.Errorf("the log does not say %q", bad.why)
			}
		}
		if now := n.pids("same", "slow", "new", "later", "last"); fmt.Sprint(now) != fmt.Sprint(after) || n.read(AppliedFile) != "3" {
			t.Errorf("pids were %v, are %v; applied is %s", after, now, n.read(AppliedFile))
		}
		c.Generation = "4"
		n.reload(c)
		if n.read(RefusedFile) != "" {
			t.Error("the refusal outlives the next good configuration")
		}
	})

	t.Run("stopping", func(t *testing.T) {
		n.signal(unix.SIGTERM)
		if err := n.cmd.Wait(); err != nil {
			t.Errorf("PID 1 ended with %v", err)
		}
	})
}

// A node is told to stop while it waits for a process that a reload stops.
func TestStopDuringReload(t *testing.T) {
	n, c := newNode(t, buildInit(t))
	c.Processes = []Process{{Name: "stubborn", StopAfter: 100 * time.Millisecond,
		Args: []string{"/bin/sh", "-c", "trap 'echo told' TERM; echo started; while :; do sleep 0.01; done"}}}
	n.mustStart(c)
	n.until("it runs", func() bool { return strings.Contains(n.read(LogDir, "stubborn.log"), "started") })
	n.write(&Config{Generation: "2", Hostname: c.Hostname, Dir: c.Dir, Bin: c.Bin})
	n.signal(unix.SIGHUP)
	n.until("it is told", func() bool { return strings.Contains(n.read(LogDir, "stubborn.log"), "told") })
	n.signal(unix.SIGTERM)
	if err := n.cmd.Wait(); err != nil {
		t.Errorf("PID 1 ended with %v", err)
	}
	if !strings.Contains(n.read(LogDir, "init.log"), "stubborn ended (signal 9)") {
		t.Error("who does not stop in time is not killed")
	}
}

func TestReplaceInit(t *testing.T) {
	bin := buildInit(t)
	n, c := newNode(t, bin)
	with := sleeper("with-socket")
	with.Sockets = []string{"tcp"}
	c.Sockets = []Socket{{Name: "tcp", Network: "tcp4", Address: "127.0.0.1:7777"}}
	c.Processes = []Process{with, sleeper("victim"), sleeper("other")}
	n.mustStart(c)
	before := n.pids("with-socket", "victim", "other")
	descriptors := map[string]string{}
	for _, name := range []string{"with-socket", "victim"} { // both will be started again
		n.until(name+" runs", func() bool { return strings.Contains(n.read(LogDir, name+".log"), "started") })
		descriptors[name] = n.descriptors(name)
	}
	exe := func() string {
		link, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", n.cmd.Process.Pid))
		return link
	}

	t.Run("one that fails does not take over", func(t *testing.T) {
		broken := t.TempDir()
		script(t, filepath.Join(broken, "init"), "#!/bin/sh\necho I am broken\nexit 1\n")
		c.Bin, c.Generation = broken, "2"
		n.reload(c)
		if !strings.Contains(n.read(LogDir, "init.log"), "init can't take over: exit status 1: I am broken") {
			t.Error("the log does not say why")
		}
		if now := n.pids("with-socket", "victim", "other"); fmt.Sprint(now) != fmt.Sprint(before) {
			t.Errorf("pids were %v, are %v", before, now)
		}
	})

	t.Run("who dies meanwhile is started again", func(t *testing.T) {
		// The test itself, as the next init: see TestMain.
		next := copyOf(t, bin)
		if err := os.Rename(filepath.Join(next, "init"), filepath.Join(next, "real")); err != nil {
			t.Fatal(err)
		}
		self, err := os.ReadFile("/proc/self/exe")
		if err != nil {
			t.Fatal(err)
		}
		script(t, filepath.Join(next, "init"), string(self))
		script(t, filepath.Join(n.dir, "victim"), pidInside(t, before[1]))
		was := exe()
		c.Bin, c.Generation = next, "3"
		n.reload(c)
		if exe() == was {
			t.Errorf("PID 1 still runs %s", was)
		}
		n.until("the dead one is started again", func() bool { pid := n.pid("victim"); return pid != 0 && pid != before[1] })
		if n.pid("with-socket") != before[0] || n.pid("other") != before[2] {
			t.Error("others were started again, too")
		}
	})

	t.Run("children and sockets stay", func(t *testing.T) {
		c.Bin, c.Generation = copyOf(t, bin), "4"
		before := n.pids("with-socket", "victim", "other")
		n.reload(c)
		if now := n.pids("with-socket", "victim", "other"); fmt.Sprint(now) != fmt.Sprint(before) {
			t.Errorf("pids were %v, are %v", before, now)
		}
		if out, err := n.inside("readlink", "/proc/1/exe"); err != nil || out != BinDir+"/init" {
			t.Errorf("PID 1 runs %q, %v", out, err)
		}
		if err := unix.Kill(before[0], unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		n.until("it is started again, with its socket", func() bool {
			return n.pid("with-socket") != before[0] && strings.Count(n.read(LogDir, "with-socket.log"), "started 1") >= 2
		})
		if out, err := n.inside("grep", "-c", ":1E61 .* 0A ", "/proc/net/tcp"); err != nil || out != "1" {
			t.Errorf("listening sockets: %q %v", out, err)
		}
		// No other descriptor has come to a child by all this.
		for process, want := range descriptors {
			if got := n.descriptors(process); got != want {
				t.Errorf("%s has descriptors %s, had %s", process, got, want)
			}
		}
		n.signal(unix.SIGTERM)
		if err := n.cmd.Wait(); err != nil {
			t.Errorf("PID 1 ended with %v", err)
		}
	})
}

func TestMounts(t *testing.T) {
	bin := buildInit(t)
	// Sources below all that the node covers with its own.
	var mounts []Mount
	for _, dir := range []string{"/run", "/tmp", "/var/lib", "/var/tmp"} {
		source, err := os.MkdirTemp(dir, "skiff-unit-supervise-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(source) })
		if err := os.WriteFile(filepath.Join(source, "file"), []byte("from "+dir), 0o644); err != nil {
			t.Fatal(err)
		}
		mounts = append(mounts, Mount{Source: source, Target: "/run/mnt" + dir, ReadOnly: dir == "/tmp"},
			Mount{Source: source + "/file", Target: "/var/lib/files" + dir})
	}
	// A target that is a link to nowhere, as /etc/resolv.conf is where systemd-resolved has it.
	link := filepath.Join(mounts[6].Source, "link")
	if err := os.Symlink("/run/nowhere/file", link); err != nil {
		t.Fatal(err)
	}
	mounts = append(mounts, Mount{Source: mounts[0].Source + "/file", Target: link})

	n, c := newNode(t, bin)
	c.Mounts = mounts
	n.mustStart(c)
	read := func(t *testing.T, file, want string) {
		t.Helper()
		if out, err := n.inside("cat", file); err != nil || out != want {
			t.Errorf("%s: %q %v, want %q", file, out, err, want)
		}
	}
	for _, dir := range []string{"/run", "/tmp", "/var/lib", "/var/tmp"} {
		read(t, "/run/mnt"+dir+"/file", "from "+dir)
		read(t, "/var/lib/files"+dir, "from "+dir)
	}
	read(t, link, "from /run")
	if out, err := n.inside("touch", "/run/mnt/tmp/new"); err == nil || !strings.Contains(out, "Read-only") {
		t.Errorf("writing to a read-only mount: %q %v", out, err)
	}
	if out, err := n.inside("touch", "/run/mnt/run/new"); err != nil {
		t.Errorf("writing to a mount: %q %v", out, err)
	}

	t.Run("while the node runs", func(t *testing.T) {
		c.Generation = "2"
		c.Mounts = []Mount{{Source: mounts[4].Source, Target: "/run/mnt/run"}, mounts[2]}
		n.reload(c)
		read(t, "/run/mnt/run/file", "from /var/lib")
		read(t, "/run/mnt/tmp/file", "from /tmp")
		if out, err := n.inside("cat", "/run/mnt/var/lib/file"); err == nil {
			t.Errorf("a mount that is configured no longer has %q", out)
		}
		if out, err := n.inside("mount", "-t", "tmpfs", "tmpfs", "/run/mnt/run"); err != nil {
			t.Fatalf("%s %v", out, err)
		}
		if data, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(data), mounts[4].Source) {
			t.Errorf("what is mounted in the node appears on the machine: %v", err)
		}
	})

	for _, bad := range []struct {
		Mount
		why string
	}{
		{Mount{Source: "/nowhere", Target: "/run/x"}, "node unit-supervise: mount the machine's /nowhere on /run/x: no such file or directory"},
		{Mount{Source: "/tmp", Target: "/not-there"}, "node unit-supervise: mount on /not-there: it does not exist, and a node has no disk of its own there"},
		{Mount{Source: "/tmp", Target: "/etc/passwd"}, "node unit-supervise: mount on /etc/passwd: only one of it and its source is a directory"},
	} {
		n, c := newNode(t, bin)
		c.Mounts = []Mount{bad.Mount}
		if err := n.start(c); err == nil {
			t.Errorf("%+v is taken", bad.Mount)
		}
		n.until("PID 1 has said why", func() bool { return strings.Contains(n.read(LogDir, "init.log"), bad.why) })
	}
	if _, err := os.Stat("/not-there"); !errors.Is(err, os.ErrNotExist) {
		t.Error("the machine has got a mount point")
	}
}

func TestSocketThatWasNotHandedOver(t *testing.T) {
	n, c := newNode(t, buildInit(t))
	c.Sockets = []Socket{{Name: "web", Inherited: true}}
	if err := n.start(c); err == nil {
		t.Error("the node comes up")
	}
	n.until("PID 1 has said why", func() bool {
		return strings.Contains(n.read(LogDir, "init.log"), "node unit-supervise: socket web has not been handed over")
	})
}

func TestLogRotation(t *testing.T) {
	n, c := newNode(t, buildInit(t))
	for name, size := range map[string]int64{"large": maxLog + 1, "small": maxLog} {
		file := filepath.Join(n.dir, LogDir, name+".log")
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(file, size); err != nil {
			t.Fatal(err)
		}
	}
	c.Processes = []Process{sleeper("large"), sleeper("small")}
	n.mustStart(c)
	n.until("it writes to a new log", func() bool { return strings.HasPrefix(n.read(LogDir, "large.log"), "started") })
	if info, err := os.Stat(filepath.Join(n.dir, LogDir, "large.log.1")); err != nil || info.Size() != maxLog+1 {
		t.Errorf("the old log: %v", err)
	}
	if _, err := os.Stat(filepath.Join(n.dir, LogDir, "small.log.1")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a log that is not too large has been replaced: %v", err)
	}
}

// A socket of the machine's leads into the node.
func TestForward(t *testing.T) {
	n, c := newNode(t, buildInit(t))
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	file, err := listener.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	c.Sockets = []Socket{{Name: "web", Inherited: true}}
	c.Processes = []Process{
		{Name: "echo", Args: []string{"/bin/sh", "-c", "ip link set lo up; exec busybox nc -ll -p 7777 -e busybox sh -c 'busybox cat; hostname'"}},
		{Name: "forward", Args: []string{filepath.Join(BinDir, "init"), "forward", "web=127.0.0.1:7777/TCP"}, Sockets: []string{"web"}},
	}
	n.mustStart(c, file)
	ask := func() (string, error) {
		conn, err := net.DialTimeout("tcp", listener.Addr().String(), 5*time.Second)
		if err != nil {
			return "", err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := conn.Write([]byte("hello ")); err != nil {
			return "", err
		}
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			return "", err
		}
		answer, err := io.ReadAll(conn)
		return string(answer), err
	}
	n.until("the node answers", func() bool { s, err := ask(); return err == nil && s == "hello unit-supervise\n" })
	// The socket outlives who serves it, and who supervises that.
	c.Bin, c.Generation = copyOf(t, c.Bin), "2"
	n.reload(c)
	if err := unix.Kill(n.pid("forward"), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if s, err := ask(); err != nil || s != "hello unit-supervise\n" {
		t.Errorf("after the forwarder was killed: %q %v", s, err)
	}
}
