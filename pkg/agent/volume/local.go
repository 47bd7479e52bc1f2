package volume

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

// hostPath checks the node's path, and makes it if its type says so.
func hostPath(source *v1.HostPathVolumeSource) (string, error) {
	path := source.Path
	kind := v1.HostPathUnset
	if source.Type != nil {
		kind = *source.Type
	}
	switch kind {
	case v1.HostPathUnset:
		// Like Docker: what doesn't exist becomes a directory.
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return path, os.MkdirAll(path, 0o755)
		}
		return path, nil
	case v1.HostPathDirectoryOrCreate:
		if err := os.MkdirAll(path, 0o755); err != nil {
			return "", fmt.Errorf("hostPath type check failed: %s is not a directory", path)
		}
		return path, nil
	case v1.HostPathFileOrCreate:
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o644)
		if err != nil {
			return "", fmt.Errorf("hostPath type check failed: %w", err)
		}
		defer f.Close()
		if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
			return "", fmt.Errorf("hostPath type check failed: %s is not a file", path)
		}
		return path, nil
	}
	info, err := os.Stat(path)
	mode := fs.FileMode(0)
	if err == nil {
		mode = info.Mode()
	}
	for _, check := range []struct {
		kind v1.HostPathType
		name string
		ok   bool
	}{
		{v1.HostPathDirectory, "directory", mode.IsDir()},
		{v1.HostPathFile, "file", err == nil && mode.IsRegular()},
		{v1.HostPathSocket, "socket file", mode&fs.ModeSocket != 0},
		{v1.HostPathCharDev, "character device", mode&fs.ModeCharDevice != 0},
		{v1.HostPathBlockDev, "block device", mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0},
	} {
		if check.kind == kind {
			if check.ok {
				return path, nil
			}
			return "", fmt.Errorf("hostPath type check failed: %s is not a %s", path, check.name)
		}
	}
	return "", fmt.Errorf("hostPath type check failed: %s is an invalid volume type", kind)
}

// emptyDir makes the pod's own directory, on disk or in memory.
func (v *Volumes) emptyDir(pod *v1.Pod, volume *v1.Volume) (string, error) {
	dir := v.path(pod, "empty-dir", volume.Name)
	source := volume.EmptyDir
	fresh := false
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		fresh = true
	}
	switch source.Medium {
	case v1.StorageMediumDefault:
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", err
		}
	case v1.StorageMediumMemory:
		if err := tmpfs(dir, memorySize(pod, source)); err != nil {
			return "", err
		}
	default:
		return "", fmt.Errorf("%w: medium %q of emptyDir is not supported by this node", ErrUnsupported, source.Medium)
	}
	if !fresh {
		return dir, nil
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		return "", err
	}
	if group := fsGroup(pod); group != nil {
		if err := os.Chown(dir, -1, int(*group)); err != nil {
			return "", err
		}
		return dir, os.Chmod(dir, 0o777|fs.ModeSetgid)
	}
	return dir, nil
}

// memorySize bounds a memory-backed directory by its own limit and by the
// pod's memory limit (KEP-1967); 0 is the kernel's default, half of the memory.
func memorySize(pod *v1.Pod, source *v1.EmptyDirVolumeSource) int64 {
	size, bounded := int64(0), true
	for i := range pod.Spec.Containers {
		limit, ok := pod.Spec.Containers[i].Resources.Limits[v1.ResourceMemory]
		size += limit.Value()
		bounded = bounded && ok
	}
	if pod.Spec.Resources != nil {
		if limit, ok := pod.Spec.Resources.Limits[v1.ResourceMemory]; ok {
			size, bounded = limit.Value(), true
		}
	}
	if !bounded {
		size = 0
	}
	if source.SizeLimit != nil && source.SizeLimit.Value() > 0 && (size == 0 || source.SizeLimit.Value() < size) {
		size = source.SizeLimit.Value()
	}
	return size
}

// tmpfs mounts a file system in memory at dir, unless one is there.
func tmpfs(dir string, size int64) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return err
	}
	parent := unix.Stat_t{}
	own := unix.Stat_t{}
	if unix.Stat(dir, &own) == nil && unix.Stat(filepath.Dir(dir), &parent) == nil && own.Dev != parent.Dev && st.Type == unix.TMPFS_MAGIC {
		return nil
	}
	options := "mode=0777"
	if size > 0 {
		options += ",size=" + strconv.FormatInt(size, 10)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		return fmt.Errorf("mount tmpfs on %s: %w", dir, err)
	}
	return nil
}

// Unmount takes away all that is mounted below a pod's directory, then the
// directory itself. It is idempotent.
func (v *Volumes) Unmount(uid string) error {
	if uid == "" || strings.HasPrefix(uid, ".") || strings.ContainsRune(uid, '/') {
		return fmt.Errorf("unmount volumes: bad pod uid %q", uid)
	}
	dir := v.PodDir(uid)
	for _, sub := range []string{"volume-subpaths", "volumes"} {
		mounts, err := mountsBelow(filepath.Join(dir, sub))
		if err != nil {
			return err
		}
		for i := len(mounts) - 1; i >= 0; i-- {
			if err := unix.Unmount(mounts[i], unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
				return fmt.Errorf("unmount %s: %w", mounts[i], err)
			}
		}
	}
	// os.RemoveAll follows no links and, by openat, races with none.
	return os.RemoveAll(dir)
}

// mountsBelow lists mount points in the order of mounting.
func mountsBelow(dir string) ([]string, error) {
	if _, err := os.Lstat(dir); err != nil {
		return nil, nil
	}
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var found []string
	for _, line := range strings.Split(string(b), "\n") {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		point := unescape(f[4])
		if strings.HasPrefix(point, dir+"/") {
			found = append(found, point)
		}
	}
	return found, nil
}

// unescape decodes \040 and the like (proc_pid_mountinfo(5)).
func unescape(s string) string {
	if !strings.ContainsRune(s, '\\') {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
