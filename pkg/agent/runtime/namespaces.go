package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// SandboxConfig describes what the containers of a pod share.
type SandboxConfig struct {
	UID         string
	Hostname    string
	HostNetwork bool // and with it the host's UTS namespace
	HostIPC     bool
	Sysctls     map[string]string
}

// Sandbox holds the paths of a pod's namespaces; empty means the host's.
type Sandbox struct {
	Net, IPC, UTS string
	Shm           string // the tmpfs of /dev/shm
}

const (
	poolPrefix = "pool-"
	shmSize    = "size=65536k" // what containers are used to
)

// Sandbox is where the namespaces of a pod are; they exist if CreateSandbox has succeeded.
func (r *Runtime) Sandbox(c SandboxConfig) Sandbox {
	dir := filepath.Join(r.nsDir(), c.UID)
	s := Sandbox{IPC: filepath.Join(dir, "ipc"), Shm: filepath.Join(dir, "shm")}
	if c.HostIPC {
		s.IPC, s.Shm = "", "/dev/shm"
	}
	if !c.HostNetwork {
		s.Net, s.UTS = filepath.Join(dir, "net"), filepath.Join(dir, "uts")
	}
	return s
}

// SandboxExists says whether the pod's namespaces are there and complete.
func (r *Runtime) SandboxExists(uid string) bool {
	return exists(filepath.Join(r.nsDir(), uid, "ready"))
}

// Sandboxes lists the uids of pods whose namespaces exist, complete or not.
func (r *Runtime) Sandboxes() ([]string, error) {
	entries, err := os.ReadDir(r.nsDir())
	if err != nil {
		return nil, err
	}
	var uids []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), poolPrefix) {
			uids = append(uids, e.Name())
		}
	}
	return uids, nil
}

// CreateSandbox makes the namespaces of a pod, from the pool if it has some.
// It is idempotent: what exists is left as it is.
func (r *Runtime) CreateSandbox(ctx context.Context, c SandboxConfig) (Sandbox, error) {
	s := r.Sandbox(c)
	dir := filepath.Join(r.nsDir(), c.UID)
	if r.SandboxExists(c.UID) {
		return s, nil
	}
	if err := r.takeNamespaces(dir); err != nil {
		return s, fmt.Errorf("namespaces: %w", err)
	}
	if err := configure(s, c); err != nil {
		return s, err
	}
	return s, os.WriteFile(filepath.Join(dir, "ready"), nil, 0o600)
}

// takeNamespaces moves a ready-made set to dir, or makes one there.
func (r *Runtime) takeNamespaces(dir string) error {
	if exists(dir) { // a half-made one, of an agent that died
		if err := removeNamespaces(dir); err != nil {
			return err
		}
	}
	select {
	case name := <-r.pool:
		select {
		case r.refill <- struct{}{}:
		default:
		}
		// Mounts hang on directory entries, so they move with their parent.
		return os.Rename(filepath.Join(r.nsDir(), name), dir)
	default:
		return makeNamespaces(dir)
	}
}

// configure gives the namespaces what is this pod's own.
func configure(s Sandbox, c SandboxConfig) error {
	if s.UTS != "" && c.Hostname != "" {
		err := Within(s.UTS, unix.CLONE_NEWUTS, func() error { return unix.Sethostname([]byte(c.Hostname)) })
		if err != nil {
			return fmt.Errorf("hostname: %w", err)
		}
	}
	for name, value := range c.Sysctls {
		path, kind := s.Net, unix.CLONE_NEWNET
		if IPCSysctl(name) {
			path, kind = s.IPC, unix.CLONE_NEWIPC
		}
		if path == "" {
			return fmt.Errorf("sysctl %q is not allowed with the host's namespace", name)
		}
		file := "/proc/sys/" + strings.ReplaceAll(name, ".", "/")
		if strings.Contains(name, "/") { // sysctl(8): with slashes, dots are part of a name
			file = "/proc/sys/" + name
		}
		if err := Within(path, kind, func() error { return writeFile(file, value) }); err != nil {
			return fmt.Errorf("sysctl %q: %w", name, err)
		}
	}
	return nil
}

// IPCSysctl says whether a sysctl belongs to the IPC namespace (else it is the network's).
func IPCSysctl(name string) bool {
	name = strings.ReplaceAll(name, "/", ".")
	for _, prefix := range []string{"kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// Within runs f on a thread that has entered the namespace at path. The thread
// is given up afterwards.
func Within(path string, kind int, f func() error) error {
	return onThread(func() error {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		defer unix.Close(fd)
		if err := unix.Setns(fd, kind); err != nil {
			return fmt.Errorf("enter %s: %w", path, err)
		}
		return f()
	})
}

// onThread runs f on a thread of its own, which ends with it. It is never the
// process's first thread: that one can't end, and /proc/self would from then on
// show the namespaces that f has entered.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		goruntime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			done <- onThread(f) // this thread being held, it gets another one
			goruntime.UnlockOSThread()
			return
		}
		done <- f() // never unlocked: the thread ends with the goroutine
	}()
	return <-done
}

// makeNamespaces makes a fresh set, pinned by bind mounts in dir.
func makeNamespaces(dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, "shm"), 0o755); err != nil {
		return err
	}
	for _, name := range []string{"net", "ipc", "uts"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			return err
		}
	}
	if err := unix.Mount("shm", filepath.Join(dir, "shm"), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=1777,"+shmSize); err != nil {
		return fmt.Errorf("shm: %w", err)
	}
	return onThread(func() error { return unshareAndPin(dir) })
}

func unshareAndPin(dir string) error {
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := loopbackUp(); err != nil {
		return fmt.Errorf("lo: %w", err)
	}
	// As containerd's CRI plugin has it since 2.0: ports below 1024 and ping need no
	// capability inside a pod's own network.
	for file, value := range map[string]string{"ip_unprivileged_port_start": "0", "ping_group_range": "0 2147483647"} {
		if err := writeFile("/proc/sys/net/ipv4/"+file, value); err != nil {
			return err
		}
	}
	thread := "/proc/self/task/" + strconv.Itoa(unix.Gettid()) + "/ns/"
	for _, name := range []string{"net", "ipc", "uts"} {
		if err := unix.Mount(thread+name, filepath.Join(dir, name), "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("pin %s: %w", name, err)
		}
	}
	return nil
}

// loopbackUp sets the flag IFF_UP of lo in the thread's network namespace.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request)
}

// RemoveSandbox takes a pod's namespaces away. No container may be in them.
func (r *Runtime) RemoveSandbox(uid string) error {
	if uid == "" || strings.HasPrefix(uid, ".") || strings.ContainsRune(uid, '/') {
		return fmt.Errorf("remove namespaces: bad uid %q", uid)
	}
	return removeNamespaces(filepath.Join(r.nsDir(), uid))
}

func removeNamespaces(dir string) error {
	for _, name := range []string{"net", "ipc", "uts", "shm"} {
		err := unix.Unmount(filepath.Join(dir, name), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("unpin %s: %w", name, err)
		}
	}
	return os.RemoveAll(dir)
}

var poolCounter atomic.Int64

// adoptPool takes over, or clears away, what an earlier agent has left in the pool.
func (r *Runtime) adoptPool() error {
	entries, err := os.ReadDir(r.nsDir())
	if err != nil {
		return err
	}
	for _, e := range entries {
		number, ok := strings.CutPrefix(e.Name(), poolPrefix)
		if !ok {
			continue
		}
		n, _ := strconv.ParseInt(number, 10, 64)
		poolCounter.Store(max(poolCounter.Load(), n))
		if err := removeNamespaces(filepath.Join(r.nsDir(), e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// fillPool keeps the pool full until ctx ends; what is left is then removed.
func (r *Runtime) fillPool(ctx context.Context) error {
	for {
		for len(r.pool) < r.config.PoolSize && ctx.Err() == nil {
			name := poolPrefix + strconv.FormatInt(poolCounter.Add(1), 10)
			if err := makeNamespaces(filepath.Join(r.nsDir(), name)); err != nil {
				r.log.Error("namespace pool", "err", err)
				break
			}
			r.pool <- name
		}
		select {
		case <-r.refill:
		case <-ctx.Done():
			for {
				select {
				case name := <-r.pool:
					if err := removeNamespaces(filepath.Join(r.nsDir(), name)); err != nil {
						r.log.Warn("namespace pool", "err", err)
					}
				default:
					return nil
				}
			}
		}
	}
}

// makePrivate mounts dir onto itself without propagation, so that pins don't
// multiply into every other mount namespace of the host. Once is enough.
func makePrivate(dir string) error {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for _, line := range strings.Split(string(b), "\n") {
		if f := strings.Fields(line); len(f) > 4 && f[4] == dir {
			return nil
		}
	}
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	return unix.Mount("", dir, "", unix.MS_PRIVATE, "")
}
