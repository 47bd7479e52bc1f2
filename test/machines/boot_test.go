package machines

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A machine is this program again, as PID 1 in namespaces of its own. The variable says which
// part of a life the process is for.
const (
	stageVariable = "SKIFF_TEST_MACHINE"
	stageBoot     = "boot" // the namespaces are there, but for the one of cgroups
	stageInit     = "init" // all are
	stageExec     = "exec" // of a service: the last step before its program

	standIns   = "/run/stand-in"         // where the machine has this program
	binaries   = "/root/skiff"           // where the operator has unpacked Skiff
	control    = "/run/systemd/stand-in" // what systemctl connects to
	unitLogs   = "/run/log"              // NAME.log of each unit, for the one who reads a failed test
	parentFile = 3                       // a socket to the test; when it ends so does the machine
	usualPath  = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// boot waits until the machine has a cgroup and a link, and makes that cgroup the root of what it sees.
func boot() error {
	runtime.LockOSThread()
	if n, err := unix.Read(parentFile, make([]byte, 1)); n != 1 {
		return fmt.Errorf("the test is gone: %w", err)
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return err
	}
	os.Setenv(stageVariable, stageInit)
	return unix.Exec("/proc/self/exe", os.Args, os.Environ())
}

// live is the life of PID 1, until the test ends or ends it.
func live() error {
	unix.CloseOnExec(parentFile)
	name, address := os.Args[1], os.Args[2]
	if err := unix.Sethostname([]byte(name)); err != nil {
		return err
	}
	if err := layOut(os.Args[3]); err != nil {
		return err
	}
	os.Clearenv()
	os.Setenv("HOME", "/root")
	os.Setenv("PATH", strings.TrimPrefix(usualPath, "PATH="))
	for _, args := range []string{
		"link set lo up", "address add " + address + "/24 dev eth0", "link set eth0 up", "route add default via " + operatorAddress,
	} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", args, err, out)
		}
	}
	listener, err := net.Listen("unix", control)
	if err != nil {
		return err
	}
	m := newManager()
	go m.serve(listener)
	if _, err := unix.Write(parentFile, []byte{1}); err != nil {
		return err
	}
	unix.Read(parentFile, make([]byte, 1)) // returns when the test has ended
	return nil
}

// layOut gives the machine a root of its own: that of the host, as a freshly installed Debian would
// have it, with a disk of memory above.
func layOut(bin string) error {
	const disk = "/mnt" // the mount point is any; the mount namespace is ours
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	root := disk + "/root"
	in := func(path string) string { return filepath.Join(root, path) }
	cgroups, err := cgroupMounts()
	if err != nil {
		return err
	}
	mount := func(kind, target, data string) func() error {
		return func() error { return os.NewSyscallError("mount "+target, unix.Mount(kind, target, kind, 0, data)) }
	}
	bind := func(source, target string) func() error {
		return func() error {
			return os.NewSyscallError("bind "+source, unix.Mount(source, target, "", unix.MS_BIND, ""))
		}
	}
	dirs := func(paths ...string) func() error {
		return func() error {
			for _, path := range paths {
				if err := os.MkdirAll(path, 0o755); err != nil {
					return err
				}
			}
			return nil
		}
	}
	steps := []func() error{
		func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") },
		mount("tmpfs", disk, "mode=755"),
		dirs(disk+"/upper", disk+"/work", disk+"/lib", disk+"/log", root),
		mount("overlay", root, "lowerdir=/,upperdir="+disk+"/upper,workdir="+disk+"/work"),
		func() error { // what the host may have beyond Debian
			return errors.Join(os.RemoveAll(in("/usr/local")), os.RemoveAll(in("/etc/skiff")), os.RemoveAll(in("/etc/systemd/system")),
				os.Remove(in("/usr/bin/systemctl")), os.Remove(in("/usr/bin/apt-get")))
		},
		dirs(in("/usr/local/bin"), in("/usr/local/sbin"), in("/etc/systemd/system"), in(binaries)),
		bind(disk+"/lib", in("/var/lib")), // containerd's snapshots can't be on an overlay
		bind(disk+"/log", in("/var/log")),
		bind(bin, in(binaries)),
		bind("/dev", in("/dev")),
		mount("devpts", in("/dev/pts"), "newinstance,ptmxmode=0666,mode=620"),
		mount("tmpfs", in("/dev/shm"), "mode=1777"),
		mount("tmpfs", in("/run"), "mode=755"),
		mount("tmpfs", in("/tmp"), "mode=1777"),
		mount("proc", in("/proc"), ""),
		mount("sysfs", in("/sys"), ""),
		func() error { return cgroups(in("/sys/fs/cgroup")) },
		dirs(in(standIns), in("/run/systemd/system"), in(unitLogs)), // the second says: systemd runs here (sd_booted(3))
		func() error { return os.WriteFile(in(standIns+"/program"), nil, 0o755) },
		bind(self, in(standIns+"/program")),
		func() error { return os.Symlink(standIns+"/program", in("/usr/bin/systemctl")) },
		func() error { return os.Symlink(standIns+"/program", in("/usr/bin/apt-get")) },
		func() error { return unix.Chdir(root) },
		func() error { return unix.PivotRoot(".", ".") }, // pivot_root(2): the old root is above the new one
		func() error { return unix.Unmount(".", unix.MNT_DETACH) },
		func() error { return unix.Chdir("/") },
		func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "") }, // as systemd does
	}
	for i, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("file system, step %d: %w", i, err)
		}
	}
	return nil
}

// cgroupMounts looks at the host's hierarchies, and returns what mounts the same with the machine's
// cgroup as their root.
func cgroupMounts() (func(dir string) error, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	type hierarchy struct{ below, kind, data string }
	var all []hierarchy
	for line := range strings.Lines(string(data)) { // proc_pid_mountinfo(5)
		left, right, _ := strings.Cut(line, " - ")
		fields, kind := strings.Fields(left), strings.Fields(right)
		below, found := strings.CutPrefix(fields[4], "/sys/fs/cgroup")
		if !found || len(kind) < 3 || !strings.HasPrefix(kind[0], "cgroup") {
			continue
		}
		h := hierarchy{below: below, kind: kind[0]}
		if h.kind == "cgroup" {
			h.data = strings.TrimPrefix(strings.TrimPrefix(kind[2], "rw"), ",")
		}
		all = append(all, h)
	}
	return func(dir string) error {
		if len(all) == 0 {
			return errors.New("no cgroup hierarchy is mounted below /sys/fs/cgroup")
		}
		if all[0].below != "" {
			if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
				return err
			}
		}
		for _, h := range all {
			if err := os.MkdirAll(dir+h.below, 0o755); err != nil {
				return err
			}
			if err := unix.Mount(h.kind, dir+h.below, h.kind, 0, h.data); err != nil {
				return fmt.Errorf("mount %s on %s: %w", h.data, h.below, err)
			}
			if h.kind == "cgroup2" { // its processes are in leaves
				leaf := dir + h.below + "/init.scope"
				if err := errors.Join(os.Mkdir(leaf, 0o755), os.WriteFile(leaf+"/cgroup.procs", []byte("0"), 0)); err != nil {
					return err
				}
			}
		}
		return nil
	}, nil
}

// settings are what a service's program is started with, beyond its arguments.
type settings struct {
	Args     []string
	Umask    int
	Listen   []string // names of the sockets from descriptor 3 on
	Bounding []string // capabilities that it may have; none: all
	NoNew    bool     // privileges
	ReadOnly []string // directories
	Writable []string // those below that are not
}

var capabilities = map[string]uintptr{
	"CAP_NET_BIND_SERVICE": unix.CAP_NET_BIND_SERVICE, "CAP_DAC_OVERRIDE": unix.CAP_DAC_OVERRIDE,
}

// become turns this process into a service's program.
func (s *settings) become() error {
	runtime.LockOSThread()
	syscall.Umask(s.Umask)
	if len(s.ReadOnly) > 0 {
		if err := s.protect(); err != nil {
			return err
		}
	}
	if len(s.Bounding) > 0 {
		keep := map[uintptr]bool{}
		for _, name := range s.Bounding {
			number, known := capabilities[name]
			if !known {
				return fmt.Errorf("capability %s isn't known here", name)
			}
			keep[number] = true
		}
		for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
			if !keep[c] {
				if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && err != unix.EINVAL { // an older kernel has fewer
					return err
				}
			}
		}
	}
	if s.NoNew {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return err
		}
	}
	os.Unsetenv(stageVariable)
	if len(s.Listen) > 0 { // sd_listen_fds(3)
		os.Setenv("LISTEN_PID", fmt.Sprint(os.Getpid()))
		os.Setenv("LISTEN_FDS", fmt.Sprint(len(s.Listen)))
		os.Setenv("LISTEN_FDNAMES", strings.Join(s.Listen, ":"))
	}
	return fmt.Errorf("exec %s: %w", s.Args[0], unix.Exec(s.Args[0], s.Args, os.Environ()))
}

func (s *settings) protect() error {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return err
	}
	for _, dir := range append(append([]string{}, s.ReadOnly...), s.Writable...) {
		if err := unix.Mount(dir, dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("bind %s: %w", dir, err)
		}
	}
	for _, dir := range s.ReadOnly {
		if err := unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			return fmt.Errorf("protect %s: %w", dir, err)
		}
	}
	return nil
}
