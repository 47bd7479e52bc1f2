package runtime

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"

	"skiff/pkg/agent/image"
)

// Mount is a bind mount from the host into a container.
type Mount struct {
	Source      string
	Destination string
	ReadOnly    bool
	Recursively bool // ReadOnly holds for submounts too
	Propagation v1.MountPropagationMode
}

// ContainerConfig is a container with everything resolved that its pod only names.
type ContainerConfig struct {
	ID        string // chosen by Create
	Cgroup    string // of the pod
	Pod       *v1.Pod
	Container *v1.Container
	Attempt   int
	Hash      string // of the part of the spec that a restart depends on
	Image     image.Image
	Command   []string // expanded; replaces the image's entrypoint
	Args      []string // expanded
	Env       []string // "NAME=value", after the image's
	Mounts    []Mount
	Hostname  string
	Sandbox   Sandbox
	PIDPath   string // the process namespace to join; empty is an own one
	LogPath   string // absolute path of the log file
	Resources Limits // of the container
	OOMScore  int
	Labels    map[string]string // further ones
	// SeccompRoot is where Localhost profiles are.
	SeccompRoot string
}

// defaultCapabilities is what a container may do that asks for nothing: the
// same set as Docker's and containerd's.
var defaultCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

// allCapabilities by number (capability(7)).
var allCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
	"CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
	"CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
	"CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
	"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
	"CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

var maskedPaths = []string{
	"/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
	"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
}

var readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}

// Spec makes the OCI spec of a container for a host. It reads no state but a
// Localhost seccomp profile and, for privileged containers, the list of devices.
func Spec(c ContainerConfig, user User, host Host) (*specs.Spec, error) {
	sc := c.Container.SecurityContext
	if sc == nil {
		sc = &v1.SecurityContext{}
	}
	privileged := sc.Privileged != nil && *sc.Privileged
	args := processArgs(c)
	if len(args) == 0 {
		return nil, fmt.Errorf("no command specified")
	}
	s := &specs.Spec{
		Version: "1.0.2",
		Root:    &specs.Root{Path: "rootfs", Readonly: sc.ReadOnlyRootFilesystem != nil && *sc.ReadOnlyRootFilesystem},
		Process: &specs.Process{
			Terminal:        c.Container.TTY,
			Args:            args,
			Env:             processEnv(c),
			Cwd:             firstOf(c.Container.WorkingDir, c.Image.Config.WorkingDir, "/"),
			User:            specs.User{UID: user.UID, GID: user.GID, AdditionalGids: user.Groups},
			NoNewPrivileges: sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation,
			Capabilities:    capabilities(sc, privileged, host),
		},
		Linux: &specs.Linux{
			CgroupsPath: filepath.Join(c.Cgroup, c.ID),
			Namespaces:  linuxNamespaces(c, privileged, host),
			Resources:   resources(c, privileged, host),
		},
		// Shims group by this annotation: one process serves all containers of a pod.
		Annotations: map[string]string{"io.containerd.runc.v2.group": string(c.Pod.UID)},
	}
	if score, ok := oomScore(c.OOMScore, host); ok {
		s.Process.OOMScoreAdj = &score
	}
	if !privileged && (sc.ProcMount == nil || *sc.ProcMount != v1.UnmaskedProcMount) {
		s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = maskedPaths, readonlyPaths
	}
	mounts, propagation := allMounts(c, privileged)
	s.Mounts, s.Linux.RootfsPropagation = mounts, propagation
	if privileged {
		devices, err := oci.HostDevices()
		if err != nil {
			return nil, fmt.Errorf("devices of the host: %w", err)
		}
		s.Linux.Devices = devices
	} else {
		profile, err := seccompProfile(c, sc, s)
		if err != nil {
			return nil, err
		}
		s.Linux.Seccomp = profile
	}
	return s, nil
}

func processArgs(c ContainerConfig) []string {
	switch {
	case len(c.Command) > 0:
		return slices.Concat(c.Command, c.Args)
	case len(c.Args) > 0:
		return slices.Concat(c.Image.Config.Entrypoint, c.Args)
	}
	return slices.Concat(c.Image.Config.Entrypoint, c.Image.Config.Cmd)
}

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// processEnv merges the image's variables with the container's; the last of a name wins.
func processEnv(c ContainerConfig) []string {
	base := []string{}
	if !slices.ContainsFunc(c.Image.Config.Env, func(e string) bool { return strings.HasPrefix(e, "PATH=") }) {
		base = append(base, defaultPath)
	}
	if c.Container.TTY {
		base = append(base, "TERM=xterm")
	}
	base = append(base, "HOSTNAME="+c.Hostname)
	var out []string
	index := map[string]int{}
	for _, e := range slices.Concat(base, c.Image.Config.Env, c.Env) {
		name, _, _ := strings.Cut(e, "=")
		if i, ok := index[name]; ok {
			out[i] = e
			continue
		}
		index[name] = len(out)
		out = append(out, e)
	}
	return out
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// capabilities never names one that the agent itself lacks: the OCI runtime
// couldn't hand it on, and would fail.
func capabilities(sc *v1.SecurityContext, privileged bool, host Host) *specs.LinuxCapabilities {
	set := map[string]bool{}
	all := func(on bool) {
		for _, name := range allCapabilities {
			set[name] = on
		}
	}
	if privileged {
		all(true)
	} else {
		for _, name := range defaultCapabilities {
			set[name] = true
		}
	}
	if sc.Capabilities != nil {
		add, drop := sc.Capabilities.Add, sc.Capabilities.Drop
		if containsAll(add) {
			all(true)
		}
		if containsAll(drop) {
			all(false)
		}
		for _, name := range add {
			set[capabilityName(name)] = true
		}
		for _, name := range drop {
			set[capabilityName(name)] = false
		}
	}
	var list []string
	for i, name := range allCapabilities {
		if set[name] && host.Capabilities&(1<<i) != 0 {
			list = append(list, name)
		}
	}
	return &specs.LinuxCapabilities{Bounding: list, Effective: list, Permitted: list}
}

func containsAll(names []v1.Capability) bool {
	return slices.ContainsFunc(names, func(n v1.Capability) bool { return strings.EqualFold(string(n), "ALL") })
}

func capabilityName(name v1.Capability) string {
	return "CAP_" + strings.TrimPrefix(strings.ToUpper(string(name)), "CAP_")
}

func linuxNamespaces(c ContainerConfig, privileged bool, host Host) []specs.LinuxNamespace {
	ns := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	if !c.Pod.Spec.HostPID {
		ns = append(ns, specs.LinuxNamespace{Type: specs.PIDNamespace, Path: c.PIDPath})
	} else if c.PIDPath != "" {
		ns = append(ns, specs.LinuxNamespace{Type: specs.PIDNamespace, Path: c.PIDPath})
	}
	for _, n := range []specs.LinuxNamespace{
		{Type: specs.NetworkNamespace, Path: c.Sandbox.Net},
		{Type: specs.IPCNamespace, Path: c.Sandbox.IPC},
		{Type: specs.UTSNamespace, Path: c.Sandbox.UTS},
	} {
		if n.Path != "" {
			ns = append(ns, n)
		}
	}
	if host.CgroupV2 && !privileged {
		ns = append(ns, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return ns
}

func resources(c ContainerConfig, privileged bool, host Host) *specs.LinuxResources {
	l := c.Resources
	r := &specs.LinuxResources{CPU: &specs.LinuxCPU{}, Memory: &specs.LinuxMemory{}}
	r.Devices = []specs.LinuxDeviceCgroup{{Allow: privileged, Access: "rwm"}}
	if l.CPUShares > 0 {
		r.CPU.Shares = &l.CPUShares
	}
	if l.CPUQuota > 0 {
		r.CPU.Quota, r.CPU.Period = &l.CPUQuota, &l.CPUPeriod
	}
	if l.Memory > 0 {
		r.Memory.Limit = &l.Memory
		if host.SwapLimit { // no swap for containers, as the kubelet's NoSwap
			r.Memory.Swap = &l.Memory
		}
	}
	if l.Pids > 0 {
		r.Pids = &specs.LinuxPids{Limit: &l.Pids}
	}
	if host.CgroupV2 {
		// One process killed for memory takes its container along (kubelet's default).
		r.Unified = map[string]string{"memory.oom.group": "1"}
	}
	return r
}

// oomScore keeps within what this process may set: without CAP_SYS_RESOURCE a
// score can only be raised, and shims run one above containerd.
func oomScore(score int, host Host) (int, bool) {
	if host.CanLowerOOMScore() || score > host.OOMScore+1 {
		return score, true
	}
	return 0, false
}

// seccompProfile follows the container's profile, else the pod's; none is Unconfined.
func seccompProfile(c ContainerConfig, sc *v1.SecurityContext, s *specs.Spec) (*specs.LinuxSeccomp, error) {
	profile := sc.SeccompProfile
	if profile == nil && c.Pod.Spec.SecurityContext != nil {
		profile = c.Pod.Spec.SecurityContext.SeccompProfile
	}
	if profile == nil {
		return nil, nil
	}
	switch profile.Type {
	case v1.SeccompProfileTypeUnconfined:
		return nil, nil
	case v1.SeccompProfileTypeRuntimeDefault:
		return seccomp.DefaultProfile(s), nil
	case v1.SeccompProfileTypeLocalhost:
		if profile.LocalhostProfile == nil || *profile.LocalhostProfile == "" {
			return nil, fmt.Errorf("localhostProfile must be set if seccompProfile type is Localhost")
		}
		path := filepath.Join(c.SeccompRoot, filepath.Join("/", *profile.LocalhostProfile))
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("cannot load seccomp profile %q: %w", path, err)
		}
		loaded := &specs.LinuxSeccomp{}
		if err := json.Unmarshal(b, loaded); err != nil {
			return nil, fmt.Errorf("decoding seccomp profile %q: %w", path, err)
		}
		return loaded, nil
	}
	return nil, fmt.Errorf("unknown seccomp profile type %q", profile.Type)
}

// allMounts are the container's file systems in the order of mounting, and the
// propagation that its root needs for them.
func allMounts(c ContainerConfig, privileged bool) ([]specs.Mount, string) {
	access := "ro"
	if privileged {
		access = "rw"
	}
	mounts := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", access}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", access}},
	}
	own := slices.Clone(c.Mounts)
	if !slices.ContainsFunc(own, func(m Mount) bool { return filepath.Clean(m.Destination) == "/dev/shm" }) {
		own = append(own, Mount{Source: c.Sandbox.Shm, Destination: "/dev/shm"})
	}
	slices.SortStableFunc(own, func(a, b Mount) int { return depth(a.Destination) - depth(b.Destination) })
	mounts = slices.DeleteFunc(mounts, func(m specs.Mount) bool {
		return slices.ContainsFunc(own, func(o Mount) bool { return filepath.Clean(o.Destination) == m.Destination })
	})
	propagation := ""
	for _, m := range own {
		options := []string{"rbind"}
		switch m.Propagation {
		case v1.MountPropagationBidirectional:
			options, propagation = append(options, "rshared"), "rshared"
		case v1.MountPropagationHostToContainer:
			options = append(options, "rslave")
			if propagation == "" {
				propagation = "rslave"
			}
		default:
			options = append(options, "rprivate")
		}
		switch {
		case m.ReadOnly && m.Recursively:
			options = append(options, "ro", "rro")
		case m.ReadOnly:
			options = append(options, "ro")
		default:
			options = append(options, "rw")
		}
		mounts = append(mounts, specs.Mount{Destination: filepath.Clean("/" + m.Destination), Type: "bind", Source: m.Source, Options: options})
	}
	return mounts, propagation
}

func depth(path string) int { return strings.Count(filepath.Clean(path), "/") }
