package supervise

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// layOut turns the mount namespace, a copy of the machine's, into the node's:
// /run, /var/lib and /var/log are the node's own, /proc and /sys are fresh, and
// the machine's cgroup hierarchies stay where they are.
//
// It ends on a file system whose /proc is that of the node; hostProc still
// shows the machine's.
func layOut(c *Config) (hostProc *os.File, err error) {
	// What is mounted from here on stays here; but mounts that appear below a
	// container's volume must reach it, so the tree is shared within the node.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("make / private: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return nil, fmt.Errorf("make / shared: %w", err)
	}
	if hostProc, err = os.Open("/proc"); err != nil {
		return nil, err
	}

	// Sources may lie below what is about to be covered, so they are held open.
	sources := []Mount{{Source: c.Dir, Target: NodeDir}, {Source: c.Bin, Target: BinDir}}
	for _, name := range []string{"lib", "log"} {
		sources = append(sources, Mount{Source: filepath.Join(c.Dir, "var", name), Target: "/var/" + name})
	}
	sources = append(sources, c.Mounts...)
	held := make([]int, len(sources))
	for i, m := range sources {
		if held[i], err = unix.OpenTree(unix.AT_FDCWD, m.Source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE); err != nil {
			return nil, fmt.Errorf("bind %s: %w", m.Source, err)
		}
		defer unix.Close(held[i])
	}
	cgroups, err := unix.OpenTree(unix.AT_FDCWD, "/sys/fs/cgroup", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return nil, fmt.Errorf("bind /sys/fs/cgroup: %w", err)
	}
	defer unix.Close(cgroups)

	const quiet = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	for _, m := range []struct {
		kind, target, data string
		flags              uintptr
	}{
		{"tmpfs", "/run", "mode=755", unix.MS_NOSUID | unix.MS_NODEV},
		{"tmpfs", "/tmp", "mode=1777", unix.MS_NOSUID | unix.MS_NODEV},
		{"proc", "/proc", "", quiet},
		{"sysfs", "/sys", "", quiet},
	} {
		if err := unix.Mount(m.kind, m.target, m.kind, m.flags, m.data); err != nil {
			return nil, fmt.Errorf("mount %s on %s: %w", m.kind, m.target, err)
		}
	}
	if err := moveTree(cgroups, "/sys/fs/cgroup"); err != nil {
		return nil, err
	}
	for i, m := range sources {
		if err := mountPoint(m, held[i]); err != nil {
			return nil, err
		}
		if err := moveTree(held[i], m.Target); err != nil {
			return nil, err
		}
		if m.ReadOnly {
			attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
			if err := unix.MountSetattr(unix.AT_FDCWD, m.Target, unix.AT_RECURSIVE, &attr); err != nil {
				return nil, fmt.Errorf("make %s read-only: %w", m.Target, err)
			}
		}
	}
	// Moved-in trees keep the propagation they had; make all of it one shared tree.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return nil, fmt.Errorf("make / shared: %w", err)
	}
	for _, dir := range []string{LogDir, PidDir} {
		if err := os.MkdirAll(filepath.Join(NodeDir, dir), 0o755); err != nil {
			return nil, err
		}
	}
	return hostProc, nil
}

// mountPoint makes what a bind mount is mounted on: a directory, or an empty
// file, as the source is that fd holds.
func mountPoint(m Mount, fd int) error {
	if _, err := os.Stat(m.Target); err == nil {
		return nil
	}
	var source unix.Stat_t
	if err := unix.Fstat(fd, &source); err != nil {
		return fmt.Errorf("bind %s: %w", m.Source, err)
	}
	if source.Mode&unix.S_IFMT == unix.S_IFDIR {
		return os.MkdirAll(m.Target, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(m.Target), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(m.Target, os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

func moveTree(fd int, target string) error {
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount on %s: %w", target, err)
	}
	return nil
}
