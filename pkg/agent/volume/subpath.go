package volume

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// SubPath binds a path within a volume to a place of the container's own and
// returns that place. The path is resolved by the kernel beneath the volume
// (openat2(2), RESOLVE_BENEATH), so that no link that a container makes in the
// meantime leads out of it; what is missing is made as directories.
func (v *Volumes) SubPath(uid, volume, container string, index int, volumePath, sub string) (string, error) {
	fd, err := openBeneath(volumePath, sub)
	if err != nil {
		return "", fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: %w", volume, container, err)
	}
	defer unix.Close(fd)
	target := filepath.Join(v.PodDir(uid), "volume-subpaths", volume, container, strconv.Itoa(index))
	if err := v.bind(fd, target); err != nil {
		return "", fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: bind: %w", volume, container, err)
	}
	return target, nil
}

func (v *Volumes) bind(fd int, target string) error {
	// A container that is started again gets its path bound anew: the old mount may
	// hold something that was removed or replaced.
	for unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) == nil {
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return err
	}
	if err := os.RemoveAll(target); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if err := os.Mkdir(target, 0o750); err != nil {
			return err
		}
	} else if err := os.WriteFile(target, nil, 0o640); err != nil {
		return err
	}
	return unix.Mount("/proc/self/fd/"+strconv.Itoa(fd), target, "", unix.MS_BIND, "")
}

// openBeneath opens root/sub as a path (O_PATH), making missing directories
// with the permissions of the volume's root.
func openBeneath(root, sub string) (int, error) {
	if filepath.IsAbs(sub) {
		return -1, fmt.Errorf("subpath %q must be relative", sub)
	}
	rootFd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open volume %s: %w", root, err)
	}
	defer unix.Close(rootFd)
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(rootFd, filepath.Clean(sub), &how)
	if errors.Is(err, unix.ENOENT) {
		if err = makeBeneath(rootFd, sub); err == nil {
			fd, err = unix.Openat2(rootFd, filepath.Clean(sub), &how)
		}
	}
	if errors.Is(err, unix.EXDEV) || errors.Is(err, unix.ELOOP) {
		return -1, fmt.Errorf("subpath %q not within volume path %q", sub, root)
	}
	if err != nil {
		return -1, fmt.Errorf("open subpath %q: %w", sub, err)
	}
	return fd, nil
}

func makeBeneath(rootFd int, sub string) error {
	var st unix.Stat_t
	if err := unix.Fstat(rootFd, &st); err != nil {
		return err
	}
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	done := "."
	for _, element := range strings.Split(filepath.Clean(sub), "/") {
		if element == ".." {
			return unix.EXDEV
		}
		parent, err := unix.Openat2(rootFd, done, &how)
		if err != nil {
			return err
		}
		err = unix.Mkdirat(parent, element, 0o700)
		if err == nil {
			// The permissions and group of the volume's root, without the umask.
			if err = unix.Fchmodat(parent, element, st.Mode&0o7777, 0); err == nil {
				err = unix.Fchownat(parent, element, -1, int(st.Gid), unix.AT_SYMLINK_NOFOLLOW)
			}
		}
		unix.Close(parent)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
		done = filepath.Join(done, element)
	}
	return nil
}
