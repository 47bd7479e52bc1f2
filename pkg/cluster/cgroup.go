package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/resource"
)

const cgroupRoot = "/sys/fs/cgroup"

// hierarchies are the cgroup trees of the machine: the one of cgroup v2, or each controller's of v1.
func hierarchies() ([]string, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(cgroupRoot, &st); err != nil {
		return nil, fmt.Errorf("cgroups: %w", err)
	}
	if st.Type == unix.CGROUP2_SUPER_MAGIC {
		return []string{cgroupRoot}, nil
	}
	entries, err := os.ReadDir(cgroupRoot)
	if err != nil {
		return nil, fmt.Errorf("cgroups: %w", err)
	}
	var out []string
	for _, e := range entries {
		dir := filepath.Join(cgroupRoot, e.Name())
		if unix.Statfs(dir, &st) == nil && (st.Type == unix.CGROUP_SUPER_MAGIC || st.Type == unix.CGROUP2_SUPER_MAGIC) && e.Type()&fs.ModeSymlink == 0 {
			out = append(out, dir)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("cgroups: nothing is mounted below %s", cgroupRoot)
	}
	return out, nil
}

// enterCgroup puts a process into a leaf below the node's cgroup, so that the
// node's own processes are accounted beside its pods.
func enterCgroup(path string, pid int) error {
	trees, err := hierarchies()
	if err != nil {
		return err
	}
	for _, tree := range trees {
		leaf := filepath.Join(tree, path, "node")
		if err := makeCgroup(tree, leaf); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644); err != nil {
			return fmt.Errorf("cgroup %s: %w", leaf, err)
		}
	}
	return nil
}

// limitCgroup gives a node no more than a part of the machine; its agent sees
// the limits and tells the cluster. The cgroup is there already.
func limitCgroup(path string, resources map[string]resource.Quantity) error {
	const period = 100_000 // µs
	for name, quantity := range resources {
		var settings map[string]string // file: value; the machine has one of them
		switch name {
		case "cpu":
			quota := strconv.FormatInt(quantity.MilliValue()*period/1000, 10)
			settings = map[string]string{"cpu.cfs_quota_us": quota, "cpu.max": quota + " " + strconv.Itoa(period)}
		case "memory":
			bytes := strconv.FormatInt(quantity.Value(), 10)
			settings = map[string]string{"memory.limit_in_bytes": bytes, "memory.max": bytes}
		default: // the agent's business
			continue
		}
		if err := writeCgroup(path, settings); err != nil {
			return fmt.Errorf("limit %s to %s: %w", name, quantity.String(), err)
		}
	}
	return nil
}

// writeCgroup writes those files of a cgroup that some hierarchy has, at least one.
func writeCgroup(path string, settings map[string]string) error {
	trees, err := hierarchies()
	if err != nil {
		return err
	}
	written := false
	for _, tree := range trees {
		for name, value := range settings {
			file := filepath.Join(tree, path, name)
			if _, err := os.Stat(file); err != nil {
				continue
			}
			if err := os.WriteFile(file, []byte(value), 0o644); err != nil {
				return err
			}
			written = true
		}
	}
	if !written {
		return errors.New("this machine has no cgroup controller for it")
	}
	return nil
}

// makeCgroup makes a directory and its parents usable: cpuset's children of v1
// start without any CPU, and v2's without controllers.
func makeCgroup(tree, leaf string) error {
	if err := os.MkdirAll(leaf, 0o755); err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	dir := tree
	rest, _ := filepath.Rel(tree, leaf)
	for part := range strings.SplitSeq(rest, "/") {
		parent := dir
		dir = filepath.Join(dir, part)
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			if filepath.Base(tree) != "cpuset" {
				break
			}
			value, err := os.ReadFile(filepath.Join(parent, file))
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, file), value, 0o644); err != nil {
				return fmt.Errorf("cgroup: %w", err)
			}
		}
		if controllers, err := os.ReadFile(filepath.Join(parent, "cgroup.controllers")); err == nil {
			for _, c := range strings.Fields(string(controllers)) {
				// A controller that can't be delegated is missing for the pods, which their
				// agent reports; it is no reason not to start.
				os.WriteFile(filepath.Join(parent, "cgroup.subtree_control"), []byte("+"+c), 0o644)
			}
		}
	}
	return nil
}

// killCgroup kills everything below a cgroup and removes it.
func killCgroup(path string) error {
	trees, err := hierarchies()
	if err != nil {
		return err
	}
	deadline := time.Now().Add(20 * time.Second)
	for _, tree := range trees {
		for delay := time.Millisecond; ; delay = min(2*delay, 100*time.Millisecond) {
			left, err := sweepCgroup(filepath.Join(tree, path))
			if err != nil {
				return err
			}
			if left == 0 {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("cgroup %s: %d processes are still there after being killed", filepath.Join(tree, path), left)
			}
			time.Sleep(delay) // the kernel has no event for a v1 cgroup that became empty
		}
	}
	return nil
}

// sweepCgroup kills what it finds and removes what is empty, the deepest first.
// It returns how many processes or directories remain.
func sweepCgroup(root string) (left int, err error) {
	var dirs []string
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("cgroup: %w", err)
	}
	for _, dir := range slices.Backward(dirs) {
		procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			return 0, fmt.Errorf("cgroup: %w", err)
		}
		for _, field := range strings.Fields(string(procs)) {
			if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
				unix.Kill(pid, unix.SIGKILL)
				left++
			}
		}
		if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
			left++
		}
	}
	return left, nil
}
