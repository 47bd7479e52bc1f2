package inject

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"skiff/pkg/cluster"
)

func pidDir(name, node string) string {
	file, err := cluster.NodeFile(name, node, "/run/skiff/pid/init.pid")
	if err != nil {
		panic(err) // of a constant
	}
	return filepath.Dir(file)
}

// OwnDisk moves what an etcd member has on disk to a file system of its own, of a size in
// MiB. The member is restarted for it, and again when it gets its old place back.
func OwnDisk(ctx context.Context, etcd Process, size int) (disk *Disk, err error) {
	d := &Disk{etcd: etcd}
	return d, d.swap(ctx, fmt.Sprintf(`set -e
truncate -s %dM /var/lib/disk.img && mkfs.ext4 -q -F -m 0 /var/lib/disk.img
mkdir -p /tmp/disk && mount -o loop /var/lib/disk.img /tmp/disk
cp -a /var/lib/etcd/. /tmp/disk/
mount --bind /tmp/disk /var/lib/etcd && umount /tmp/disk`, size))
}

// Disk is an etcd member's own disk.
type Disk struct {
	etcd Process
}

// swap changes what is at the member's place while it can't write, and lets another
// process begin there. What it has synced is in the copy.
func (d *Disk) swap(ctx context.Context, script string) error {
	pid := d.etcd.Pid()
	if err := d.etcd.Signal(unix.SIGSTOP); err != nil {
		return err
	}
	_, err := inside(d.etcd.Cluster, d.etcd.Node, "", "--mount --pid", "sh", "-c", script)
	unix.Kill(pid, unix.SIGKILL)
	if err != nil {
		return err
	}
	return d.etcd.Replaced(ctx, pid)
}

// Fill leaves no room on the disk.
func (d *Disk) Fill() error {
	_, err := inside(d.etcd.Cluster, d.etcd.Node, "", "--mount --pid", "sh", "-c", "dd if=/dev/zero of=/var/lib/etcd/full bs=64k 2>/dev/null; test -s /var/lib/etcd/full")
	return err
}

// Free makes room again.
func (d *Disk) Free() error {
	_, err := inside(d.etcd.Cluster, d.etcd.Node, "", "--mount --pid", "rm", "-f", "/var/lib/etcd/full")
	return err
}

// Restore brings the member back to the disk that it had.
func (d *Disk) Restore(ctx context.Context) error {
	return d.swap(ctx, `set -e
mount --bind /var/lib/etcd /tmp/disk && umount -l /var/lib/etcd
rm -rf /var/lib/etcd/* && cp -a /tmp/disk/. /var/lib/etcd/
umount /tmp/disk && rm /var/lib/disk.img`)
}

// Wipe loses what an etcd member has on disk, and kills it.
func Wipe(etcd Process) error {
	dir, err := cluster.NodeFile(etcd.Cluster, etcd.Node, "/var/lib/etcd")
	if err != nil {
		return err
	}
	if err := etcd.Kill(); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}
