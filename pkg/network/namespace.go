package network

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// NewNamespace makes a network namespace and pins it at path, an empty file
// made for it: it lives until [DeleteNamespace], whatever process dies. A
// namespace that is there already is kept, so the call may be repeated.
// The caller chooses a directory whose mount is private or shared as it
// needs: who starts the pod's processes must see the path.
func NewNamespace(path string) error {
	if IsNamespace(path) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("network: namespace: %w", err)
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return fmt.Errorf("network: namespace: %w", err)
	}
	file.Close()

	done := make(chan error, 1)
	go onNewThread(func() { done <- pin(path) })
	if err := <-done; err != nil {
		os.Remove(path)
		return err
	}
	return nil
}

// onNewThread runs f on a thread that nobody uses afterwards. The process's
// first thread is spared: it can't end, and /proc/self shows its namespaces
// as the process's own.
func onNewThread(f func()) {
	runtime.LockOSThread()
	if unix.Gettid() != os.Getpid() {
		f() // never unlocked: the thread ends with the goroutine
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		f()
	}()
	<-done
	runtime.UnlockOSThread()
}

// pin moves the calling thread to a new network namespace and binds that to path.
func pin(path string) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("network: unshare: %w", err)
	}
	source := fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
	if err := unix.Mount(source, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("network: pinning the namespace at %s: %w", path, err)
	}
	return nil
}

// DeleteNamespace takes the pin away; the namespace ends with its last process.
// It may be repeated.
func DeleteNamespace(path string) error {
	// A path may have been pinned twice by a run that died in between.
	for IsNamespace(path) {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("network: unpinning %s: %w", path, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("network: namespace: %w", err)
	}
	return nil
}

// IsNamespace says whether a namespace is pinned at path.
func IsNamespace(path string) bool {
	var stat unix.Statfs_t
	return unix.Statfs(path, &stat) == nil && stat.Type == unix.NSFS_MAGIC
}
