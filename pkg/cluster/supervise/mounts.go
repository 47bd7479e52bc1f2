package supervise

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// mounts are those of a configuration that may change while the node runs.
func (c *Config) mounts() []Mount {
	return append([]Mount{{Source: c.Bin, Target: BinDir}}, c.Mounts...)
}

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
	mounts := []Mount{{Source: "/sys/fs/cgroup", Target: "/sys/fs/cgroup"}, {Source: c.Dir, Target: NodeDir}}
	for _, name := range []string{"lib", "log"} {
		mounts = append(mounts, Mount{Source: filepath.Join(c.Dir, "var", name), Target: "/var/" + name})
	}
	mounts = append(mounts, c.mounts()...)
	trees, err := openTrees(mounts)
	if err != nil {
		return nil, err
	}
	defer closeTrees(trees)

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
	for i, m := range mounts {
		if err := attach(trees[i], m.Target); err != nil {
			return nil, err
		}
	}
	for _, dir := range []string{LogDir, PidDir} {
		if err := os.MkdirAll(filepath.Join(NodeDir, dir), 0o755); err != nil {
			return nil, err
		}
	}
	return hostProc, nil
}

// remount goes from the mounts that there are to those of a configuration. When a
// source can't be had, nothing changes.
func (s *supervisor) remount(c *Config) error {
	var added []Mount
	for _, m := range c.mounts() {
		if !slices.Contains(s.mounted, m) {
			added = append(added, m)
		}
	}
	trees, err := openMachineTrees(s.machine, added)
	if err != nil {
		return err
	}
	defer closeTrees(trees)
	for i := len(s.mounted) - 1; i >= 0; i-- {
		m := s.mounted[i]
		if slices.Contains(c.mounts(), m) {
			continue
		}
		// Processes may still use what they have opened of it.
		if err := unix.Unmount(m.Target, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", m.Target, err)
		}
		s.mounted = slices.Delete(s.mounted, i, i+1)
	}
	for i, m := range added {
		if err := attach(trees[i], m.Target); err != nil {
			return err
		}
		s.mounted = append(s.mounted, m)
	}
	return nil
}

// openTrees makes copies of the mounts' sources that are attached nowhere yet.
func openTrees(mounts []Mount) (trees []int, err error) {
	for _, m := range mounts {
		fd, err := unix.OpenTree(unix.AT_FDCWD, m.Source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
		if err == nil {
			trees = append(trees, fd)
			// Private: what is mounted below it in the node doesn't appear on the machine.
			attr := unix.MountAttr{Propagation: unix.MS_PRIVATE}
			if m.ReadOnly {
				attr.Attr_set = unix.MOUNT_ATTR_RDONLY
			}
			err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr)
		}
		if err != nil {
			closeTrees(trees)
			return nil, fmt.Errorf("mount the machine's %s on %s: %w", m.Source, m.Target, err)
		}
	}
	return trees, nil
}

// openMachineTrees does so when the node's own file system hides the machine's: in
// the machine's mount namespace. The thread that has been there ends with its
// goroutine, which never unlocks it. (It is not the process's first one, which is
// the caller's: see [Run].)
func openMachineTrees(machine *os.File, mounts []Mount) (trees []int, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err = unix.Unshare(unix.CLONE_FS); err == nil {
			err = unix.Setns(int(machine.Fd()), unix.CLONE_NEWNS)
		}
		if err != nil {
			err = fmt.Errorf("enter the machine's mount namespace: %w", err)
			return
		}
		trees, err = openTrees(mounts)
	}()
	<-done
	return trees, err
}

func closeTrees(trees []int) {
	for _, fd := range trees {
		unix.Close(fd)
	}
}

// attach mounts a tree on target, which is made if need be.
func attach(tree int, target string) error {
	var st unix.Stat_t
	if err := unix.Fstat(tree, &st); err != nil {
		return err
	}
	dir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	flags := unix.MOVE_MOUNT_F_EMPTY_PATH
	if info, err := os.Stat(target); err == nil {
		if info.IsDir() != dir {
			return fmt.Errorf("mount on %s: only one of it and its source is a directory", target)
		}
		flags |= unix.MOVE_MOUNT_T_SYMLINKS
	} else if _, err := os.Lstat(target); err != nil { // a link to nowhere is mounted on itself
		if err := makeMountPoint(target, dir); err != nil {
			return err
		}
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, target, flags); err != nil {
		return fmt.Errorf("mount on %s: %w", target, err)
	}
	return nil
}

// makeMountPoint makes a directory or an empty file. Only on what is the node's own:
// the rest is the machine's.
func makeMountPoint(target string, dir bool) error {
	own := []string{"/run/", "/tmp/", "/var/lib/", "/var/log/"}
	if !slices.ContainsFunc(own, func(dir string) bool { return strings.HasPrefix(filepath.Clean(target), dir) }) {
		return fmt.Errorf("mount on %s: it does not exist, and a node has no disk of its own there, only below /run, /tmp, /var/lib and /var/log", target)
	}
	if dir {
		return os.MkdirAll(target, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(target, os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}
