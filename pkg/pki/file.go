package pki

import (
	"os"
	"path/filepath"
	"syscall"
)

// Replace writes a file so that a reader sees the old content or the new one, and a crash leaves
// one of them. A file that exists keeps its mode and its owner.
func Replace(file string, data []byte, mode os.FileMode) error {
	owner := -1
	group := -1
	if info, err := os.Stat(file); err == nil {
		mode = info.Mode().Perm()
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			owner, group = int(stat.Uid), int(stat.Gid)
		}
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // of no effect once it is renamed
	_, err = f.Write(data)
	for _, step := range []func() error{
		func() error { return f.Chown(owner, group) },
		func() error { return f.Chmod(mode) },
		f.Sync,
	} {
		if err == nil {
			err = step()
		}
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}
