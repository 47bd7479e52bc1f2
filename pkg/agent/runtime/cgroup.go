package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

const cgroupRoot = "/sys/fs/cgroup"

// v1Controllers are the hierarchies that pods get a group in. The others
// (freezer, devices …) are the OCI runtime's business.
var v1Controllers = []string{"cpu", "cpuacct", "cpuset", "memory", "pids", "blkio", "devices", "freezer", "hugetlb", "net_cls", "net_prio", "perf_event", "systemd"}

// limitedV1 are those whose pod group carries a limit.
var limitedV1 = []string{"cpu", "memory", "pids"}

// Limits are the limits of a pod's cgroup. Zero leaves a value at its default.
type Limits struct {
	CPUShares uint64 // as of version 1: 2…262144
	CPUQuota  int64  // µs per period; negative or 0 is none
	CPUPeriod uint64 // µs
	Memory    int64  // bytes
	Pids      int64
}

// PodCgroup is the cgroup path of a pod, absolute within each hierarchy: one
// tier per quality of service below "kubepods", as the kubelet's cgroupfs driver has it.
func (r *Runtime) PodCgroup(uid string, qos v1.PodQOSClass) string {
	return PodCgroup(r.config.CgroupParent, uid, qos)
}

// PodCgroup is the same for a given parent.
func PodCgroup(parent, uid string, qos v1.PodQOSClass) string {
	tier := ""
	switch qos {
	case v1.PodQOSBurstable:
		tier = "burstable"
	case v1.PodQOSBestEffort:
		tier = "besteffort"
	}
	return filepath.Join("/", parent, "kubepods", tier, "pod"+uid)
}

// SetCgroup makes the cgroup (and its parents) and writes its limits. It may be
// repeated with others.
func (r *Runtime) SetCgroup(path string, limits Limits) error {
	var err error
	if r.host.CgroupV2 {
		err = setV2(path, limits)
	} else {
		err = r.setV1(path, limits)
	}
	if err != nil {
		return fmt.Errorf("cgroup %s: %w", path, err)
	}
	return nil
}

func (r *Runtime) setV1(path string, limits Limits) error {
	for _, controller := range limitedV1 {
		if !r.host.Controllers[controller] {
			continue
		}
		dir := filepath.Join(cgroupRoot, controller, path)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		for _, w := range v1Files(controller, limits) {
			if err := writeFile(filepath.Join(dir, w.name), w.value); err != nil {
				return err
			}
		}
	}
	return nil
}

type setting struct{ name, value string }

func v1Files(controller string, l Limits) []setting {
	var out []setting
	switch controller {
	case "cpu":
		if l.CPUShares > 0 {
			out = append(out, setting{"cpu.shares", strconv.FormatUint(l.CPUShares, 10)})
		}
		if l.CPUQuota > 0 {
			out = append(out, setting{"cpu.cfs_period_us", strconv.FormatUint(l.CPUPeriod, 10)},
				setting{"cpu.cfs_quota_us", strconv.FormatInt(l.CPUQuota, 10)})
		}
	case "memory":
		if l.Memory > 0 {
			out = append(out, setting{"memory.limit_in_bytes", strconv.FormatInt(l.Memory, 10)})
		}
	case "pids":
		if l.Pids > 0 {
			out = append(out, setting{"pids.max", strconv.FormatInt(l.Pids, 10)})
		}
	}
	return out
}

// setV2 enables the controllers on the way down; a cgroup of version 2 has
// only those that its parent hands on.
func setV2(path string, l Limits) error {
	dir := cgroupRoot
	for _, part := range strings.Split(strings.Trim(path, "/"), "/") {
		for _, controller := range []string{"+cpu", "+memory", "+pids", "+cpuset", "+io"} {
			// A controller that this kernel or parent lacks is no reason to fail here:
			// writing its limit below is.
			_ = writeFile(filepath.Join(dir, "cgroup.subtree_control"), controller)
		}
		dir = filepath.Join(dir, part)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	for _, w := range v2Files(l) {
		if err := writeFile(filepath.Join(dir, w.name), w.value); err != nil {
			return err
		}
	}
	return nil
}

func v2Files(l Limits) []setting {
	var out []setting
	if l.CPUShares > 0 {
		out = append(out, setting{"cpu.weight", strconv.FormatUint(SharesToWeight(l.CPUShares), 10)})
	}
	if l.CPUQuota > 0 {
		out = append(out, setting{"cpu.max", fmt.Sprintf("%d %d", l.CPUQuota, l.CPUPeriod)})
	}
	if l.Memory > 0 {
		out = append(out, setting{"memory.max", strconv.FormatInt(l.Memory, 10)})
	}
	if l.Pids > 0 {
		out = append(out, setting{"pids.max", strconv.FormatInt(l.Pids, 10)})
	}
	return out
}

// NodeLimits are the CPU and memory limits of the cgroup below which pods get
// theirs: a node that was given a part of its machine has no more than that.
func (r *Runtime) NodeLimits() Limits {
	parent := filepath.Join("/", r.config.CgroupParent)
	read := func(controller, file string) string {
		dir := filepath.Join(cgroupRoot, controller, parent)
		if r.host.CgroupV2 {
			dir = filepath.Join(cgroupRoot, parent)
		}
		b, _ := os.ReadFile(filepath.Join(dir, file)) // the root has none
		return strings.TrimSpace(string(b))
	}
	if r.host.CgroupV2 {
		return parseLimits(read("", "cpu.max"), read("", "memory.max"))
	}
	return parseLimits(read("cpu", "cpu.cfs_quota_us")+" "+read("cpu", "cpu.cfs_period_us"), read("memory", "memory.limit_in_bytes"))
}

// parseLimits reads "quota period" and bytes. What is no number ("max") or not positive is no
// limit, and neither is version 1's largest number of pages.
func parseLimits(cpu, memory string) Limits {
	var l Limits
	quota, period, _ := strings.Cut(cpu, " ")
	if q, err := strconv.ParseInt(quota, 10, 64); err == nil && q > 0 {
		if p, err := strconv.ParseUint(period, 10, 64); err == nil && p > 0 {
			l.CPUQuota, l.CPUPeriod = q, p
		}
	}
	if m, err := strconv.ParseInt(memory, 10, 64); err == nil && m > 0 && m < 1<<62 {
		l.Memory = m
	}
	return l
}

// SharesToWeight maps [2, 262144] to [1, 10000], as the kubelet does (KEP-2254).
func SharesToWeight(shares uint64) uint64 {
	if shares < 2 {
		return 1
	}
	return min(1+((shares-2)*9999)/262142, 10000)
}

// RemoveCgroup removes a pod's cgroups; processes that are still in them are killed.
func (r *Runtime) RemoveCgroup(path string) error {
	var dirs []string
	if r.host.CgroupV2 {
		dirs = []string{filepath.Join(cgroupRoot, path)}
	} else {
		for c, mounted := range r.host.Controllers {
			if mounted {
				dirs = append(dirs, filepath.Join(cgroupRoot, c, path))
			}
		}
	}
	var errs []error
	for _, dir := range dirs {
		if err := removeCgroupTree(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func removeCgroupTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeCgroupTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	killed := false
	if b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs")); err == nil {
		for _, field := range strings.Fields(string(b)) {
			if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
				_ = unix.Kill(pid, unix.SIGKILL)
				killed = true
			}
		}
	}
	err = unix.Rmdir(dir)
	if err == unix.EBUSY && !killed {
		return fmt.Errorf("%s: %w", dir, err)
	}
	if err != nil && err != unix.EBUSY {
		return fmt.Errorf("%s: %w", dir, err)
	}
	if err == unix.EBUSY {
		return fmt.Errorf("%s: its processes are ending: %w", dir, err)
	}
	return nil
}

// PodCgroups lists the uids of pods that have a cgroup below the parent.
func (r *Runtime) PodCgroups() map[string]string {
	base := cgroupRoot
	if !r.host.CgroupV2 {
		base = filepath.Join(cgroupRoot, "memory")
	}
	found := map[string]string{}
	for _, qos := range []v1.PodQOSClass{v1.PodQOSGuaranteed, v1.PodQOSBurstable, v1.PodQOSBestEffort} {
		tier := filepath.Dir(r.PodCgroup("", qos))
		entries, _ := os.ReadDir(filepath.Join(base, tier))
		for _, e := range entries {
			if uid, ok := strings.CutPrefix(e.Name(), "pod"); ok && e.IsDir() {
				found[uid] = filepath.Join(tier, e.Name())
			}
		}
	}
	return found
}

// oomKills reads how often the kernel has killed for memory in a cgroup.
func (r *Runtime) oomKills(path string) int {
	file, key := filepath.Join(cgroupRoot, "memory", path, "memory.oom_control"), "oom_kill "
	if r.host.CgroupV2 {
		file = filepath.Join(cgroupRoot, path, "memory.events")
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	for _, line := range strings.Split(string(b), "\n") {
		if value, ok := strings.CutPrefix(line, key); ok {
			n, _ := strconv.Atoi(strings.TrimSpace(value))
			return n
		}
	}
	return 0
}

func writeFile(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}
