package inject

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The block controller's hierarchy of cgroup v1.
const blkio = "/sys/fs/cgroup/blkio"

// ErrNoThrottle says that this machine's kernel can't slow a disk down for one process.
var ErrNoThrottle = errors.New("the block controller of cgroup v1 is not mounted at " + blkio)

// Slow lets the member write to its disk so many times a second at most. What it returns takes that back.
func (d *Disk) Slow(writes int) (restore func() error, err error) {
	etcd := d.etcd
	if _, err := os.Stat(filepath.Join(blkio, "blkio.throttle.write_iops_device")); err != nil {
		return nil, ErrNoThrottle
	}
	var place unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/root/var/lib/etcd", etcd.Pid()), &place); err != nil {
		return nil, err
	}
	group := filepath.Join(blkio, etcd.Cluster+"-slow-disk")
	if err := os.MkdirAll(group, 0o755); err != nil {
		return nil, err
	}
	home, err := groupOf(etcd.Pid())
	if err != nil {
		return nil, err
	}
	limit := fmt.Sprintf("%d:%d ", unix.Major(place.Dev), unix.Minor(place.Dev))
	write := func(group, file, text string) error {
		return os.WriteFile(filepath.Join(group, file), []byte(text), 0o644)
	}
	restore = func() error {
		// No limit first: a process that waits for the disk would wait on.
		err := write(group, "blkio.throttle.write_iops_device", limit+"0")
		if pid := etcd.Pid(); pid != 0 {
			err = errors.Join(err, write(home, "cgroup.procs", strconv.Itoa(pid)))
		}
		return errors.Join(err, unix.Rmdir(group))
	}
	err = errors.Join(write(group, "blkio.throttle.write_iops_device", limit+strconv.Itoa(writes)), write(group, "cgroup.procs", strconv.Itoa(etcd.Pid())))
	if err != nil {
		return nil, errors.Join(err, restore())
	}
	return restore, nil
}

// groupOf is the directory of a process' group.
func groupOf(pid int) (string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(data)) {
		if _, group, found := strings.Cut(strings.TrimSpace(line), ":blkio:"); found {
			return filepath.Join(blkio, group), nil
		}
	}
	return "", ErrNoThrottle
}
