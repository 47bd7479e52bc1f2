package machines

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// operatorAddress is that of the machine where the operator works, and everybody's router to nowhere.
const operatorAddress = "10.0.0.1"

// room is where the machines stand, and the operator works.
type room struct {
	t *testing.T
	// name of the room: the network namespace of its switch, and the cgroup of its machines. It
	// can be chosen, so that several people can run tests on one machine.
	name     string
	desk     string // the operator's directory; machines/ADDRESS has the pid of each machine's PID 1
	bin      string // Skiff's binaries
	machines map[string]*machine
}

type machine struct {
	room          *room
	name, address string
	init          *exec.Cmd
	cord          *os.File // closed: the machine ends
	said          bytes.Buffer
}

func newRoom(t *testing.T) *room {
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	r := &room{t: t, name: cmp.Or(os.Getenv("SKIFF_TEST_MACHINES"), "test-machines"),
		bin: filepath.Join(dir, "../../bin"), machines: map[string]*machine{}}
	r.desk = filepath.Join(os.TempDir(), "skiff-"+r.name)
	// One at a time; the lock ends with the process.
	lock, err := os.OpenFile(r.desk+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err == nil {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		t.Fatalf("another run is on: %v", err)
	}
	t.Cleanup(func() {
		for _, m := range r.machines {
			m.end()
		}
		r.clear()
		lock.Close()
	})
	r.clear() // what a killed run has left
	r.host("ip netns add " + r.name)
	for _, args := range []string{"link set lo up", "link add nodes type bridge", "address add " + operatorAddress + "/24 dev nodes", "link set nodes up"} {
		r.host("ip -n " + r.name + " " + args)
	}
	if err := os.MkdirAll(filepath.Join(r.desk, "machines"), 0o755); err != nil {
		t.Fatal(err)
	}
	r.standIn("ssh", `address=${1#root@}; shift
exec nsenter --target $(cat DESK/machines/$address) --mount --uts --ipc --net --pid --root --wd \
  env -i HOME=/root `+usualPath+` bash -c "cd && $*"`)
	r.standIn("scp", `[ "$1" = -r ] && shift
for last; do :; done
case $last in root@*:/*) ;; *) echo "scp to $last isn't known here" >&2; exit 1;; esac
address=${last%%:*}; root=/proc/$(cat DESK/machines/${address#root@})/root
while [ $# -gt 1 ]; do cp -r "$1" "$root${last#*:}"; shift; done`)
	return r
}

// standIn puts a script into the operator's path; DESK in it is the operator's desk.
func (r *room) standIn(name, script string) {
	file := filepath.Join(r.desk, "bin", name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755),
		os.WriteFile(file, []byte("#!/bin/bash\nset -eu\n"+strings.ReplaceAll(script, "DESK", r.desk)+"\n"), 0o755)); err != nil {
		r.t.Fatal(err)
	}
}

// host runs a command on the host.
func (r *room) host(command string) {
	r.t.Helper()
	args := strings.Fields(command)
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		r.t.Fatalf("%s: %v: %s", command, err, out)
	}
}

// clear takes away what isn't a process: those end by themselves.
func (r *room) clear() {
	exec.Command("ip", "netns", "delete", r.name).Run()
	r.sweep(r.name)
	if err := os.RemoveAll(r.desk); err != nil {
		r.t.Error(err)
	}
}

// sweep removes the cgroups of ended machines.
func (r *room) sweep(cgroup string) {
	deadline := time.Now().Add(10 * time.Second)
	for _, tree := range hierarchies() {
		for {
			var dirs []string
			filepath.WalkDir(filepath.Join(tree, cgroup), func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					dirs = append(dirs, path)
				}
				return nil
			})
			for _, dir := range slices.Backward(dirs) {
				unix.Rmdir(dir)
			}
			if len(dirs) == 0 {
				break
			}
			if time.Now().After(deadline) {
				r.t.Errorf("cgroups of ended machines are still in use: %q", dirs)
				return
			}
			time.Sleep(time.Millisecond) // the kernel has no event for a v1 cgroup that became empty
		}
	}
}

// hierarchies are the host's cgroup trees.
func hierarchies() []string {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return []string{"/sys/fs/cgroup"}
	}
	trees, _ := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	for i, file := range trees {
		trees[i] = filepath.Dir(file)
	}
	return slices.DeleteFunc(trees, func(dir string) bool { // cpu and cpuacct may be links to one
		info, err := os.Lstat(dir)
		return err != nil || !info.IsDir()
	})
}

// boot switches a new machine on, with an empty disk.
func (r *room) boot(name, address string) *machine {
	t := r.t
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{room: r, name: name, address: address, cord: os.NewFile(uintptr(pair[0]), name)}
	theirs := os.NewFile(uintptr(pair[1]), name)
	m.init = exec.Command("/proc/self/exe", name, address, r.bin)
	m.init.Env = append(os.Environ(), stageVariable+"="+stageBoot)
	m.init.Stdout, m.init.Stderr = &m.said, &m.said
	m.init.ExtraFiles = []*os.File{theirs}
	m.init.SysProcAttr = &syscall.SysProcAttr{Setsid: true,
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC}
	if err := m.init.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	r.machines[name] = m
	pid := m.init.Process.Pid
	for _, tree := range hierarchies() {
		if err := enterCgroup(tree, r.name, name, pid); err != nil {
			t.Fatal(err)
		}
	}
	r.host(fmt.Sprintf("ip link add eth0 netns %d type veth peer name %s netns %s", pid, name, r.name))
	r.host(fmt.Sprintf("ip -n %s link set %s master nodes up", r.name, name))
	if _, err = m.cord.Write([]byte{1}); err == nil {
		_, err = m.cord.Read(make([]byte, 1))
	}
	if err != nil {
		m.end()
		t.Fatalf("machine %s did not come up: %v\n%s", name, err, &m.said)
	}
	if err := os.WriteFile(filepath.Join(r.desk, "machines", address), fmt.Append(nil, pid), 0o644); err != nil {
		t.Fatal(err)
	}
	return m
}

func enterCgroup(tree, room, name string, pid int) error {
	for _, dir := range []string{filepath.Join(tree, room), filepath.Join(tree, room, name)} {
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} { // a child of cpuset has none in v1
			if value, err := os.ReadFile(filepath.Join(filepath.Dir(dir), file)); err == nil && filepath.Base(tree) == "cpuset" {
				if err := os.WriteFile(filepath.Join(dir, file), value, 0o644); err != nil {
					return err
				}
			}
		}
		controllers, _ := os.ReadFile(filepath.Join(filepath.Dir(dir), "cgroup.controllers")) // v2
		for _, c := range strings.Fields(string(controllers)) {
			os.WriteFile(filepath.Join(filepath.Dir(dir), "cgroup.subtree_control"), []byte("+"+c), 0o644)
		}
	}
	return os.WriteFile(filepath.Join(tree, room, name, "cgroup.procs"), fmt.Append(nil, pid), 0o644)
}

// file is the path by which the host knows a file of the machine's.
func (m *machine) file(path string) string {
	return filepath.Join(fmt.Sprintf("/proc/%d/root", m.init.Process.Pid), path)
}

// end is a power cut for good: the disk is gone with the machine.
func (m *machine) end() {
	exec.Command("ip", "-n", m.room.name, "link", "delete", m.name).Run() // it would go a while after its namespace
	m.cord.Close()
	m.init.Wait() // PID 1 is the last of its namespace
	m.room.sweep(filepath.Join(m.room.name, m.name))
	delete(m.room.machines, m.name)
}

// try runs a script as the operator does, at their desk or, when an address is named, logged in on
// that machine. Variables that it sets are there for the next one.
func (r *room) try(address, script string, patience time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	keep := "s=~/.session; [ ! -e $s ] || . $s\nset -aeu\n" + script + "\nset +eu; export -p >~/.session\n"
	var c *exec.Cmd
	if address == "" {
		c = exec.CommandContext(ctx, "nsenter", "--net=/run/netns/"+r.name, "bash", "-c", keep)
		path := []string{filepath.Join(r.desk, "bin"), r.bin, strings.TrimPrefix(usualPath, "PATH=")}
		c.Env = []string{"HOME=" + r.desk, "PATH=" + strings.Join(path, ":")}
	} else {
		c = exec.CommandContext(ctx, filepath.Join(r.desk, "bin/ssh"), "root@"+address, keep)
	}
	c.Dir = r.desk
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	c.WaitDelay = time.Second
	err := c.Run()
	return out.String(), err
}

// atDesk runs what the operator types at their own machine.
func (r *room) atDesk(script string) string {
	r.t.Helper()
	return r.run("", "the operator", script)
}

// run runs what they type on this one.
func (m *machine) run(script string) string {
	m.room.t.Helper()
	return m.room.run(m.address, m.name, script)
}

func (r *room) run(address, where, script string) string {
	r.t.Helper()
	begun := time.Now()
	out, err := r.try(address, script, time.Minute)
	r.t.Logf("%s, %.1f s\n%s", where, time.Since(begun).Seconds(), strings.TrimSpace(script))
	if err != nil {
		r.t.Fatalf("%s: %v\n%s\n%s", where, err, script, out)
	}
	return out
}

// until waits for a command of the operator's to succeed and to print what is wanted.
func (r *room) until(what, script string, good func(string) bool) string {
	r.t.Helper()
	begun := time.Now()
	for {
		out, err := r.try("", script, 5*time.Second) // an answer may be lost when the virtual address moves
		if err == nil && good(out) {
			r.t.Logf("%s after %.1f s", what, time.Since(begun).Seconds())
			return out
		}
		if time.Since(begun) > time.Minute {
			r.t.Fatalf("not in a minute: %s\n%s\n%v\n%s", what, script, err, out)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// tell shows what the units of all machines have said last.
func (r *room) tell() {
	for _, m := range r.machines {
		out, err := r.try(m.address, "tail -n 12 "+unitLogs+"/*.log; ip -brief address", time.Minute)
		if err != nil { // it may be dead
			m.end()
			out += m.said.String()
		}
		r.t.Logf("%s:\n%s", m.name, out)
	}
}
