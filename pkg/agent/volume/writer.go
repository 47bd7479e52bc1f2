package volume

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// write makes files the content of dir, atomically: a reader sees all of the
// old or all of the new. The layout is the kubelet's:
//
//	dir/..2006_01_02_15_04_05.0123456789/a/b   the files
//	dir/..data -> ..2006_01_02_…                replaced by a rename
//	dir/a -> ..data/a                           one link per first path element
//
// Nothing is written when nothing has changed.
func write(dir string, files map[string]file, group *int64) error {
	for p := range files {
		if err := checkPath(p); err != nil {
			return err
		}
	}
	current, err := os.Readlink(filepath.Join(dir, "..data"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil {
		same, err := unchanged(filepath.Join(dir, current), files)
		if err != nil {
			return err
		}
		if same {
			return link(dir, files)
		}
	}
	fresh, err := os.MkdirTemp(dir, time.Now().UTC().Format("..2006_01_02_15_04_05."))
	if err != nil {
		return err
	}
	if err := fill(fresh, files, group); err != nil {
		return errors.Join(err, os.RemoveAll(fresh))
	}
	temporary := filepath.Join(dir, "..data_tmp")
	_ = os.Remove(temporary)
	if err := os.Symlink(filepath.Base(fresh), temporary); err != nil {
		return errors.Join(err, os.RemoveAll(fresh))
	}
	if err := os.Rename(temporary, filepath.Join(dir, "..data")); err != nil {
		return errors.Join(err, os.RemoveAll(fresh))
	}
	if err := link(dir, files); err != nil {
		return err
	}
	return sweep(dir, filepath.Base(fresh), files)
}

// unchanged compares a directory with the files wanted.
func unchanged(dir string, files map[string]file) (bool, error) {
	count := 0
	same := true
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		count++
		name, _ := filepath.Rel(dir, p)
		want, ok := files[name]
		if !ok {
			same = false
			return fs.SkipAll
		}
		have, err := os.ReadFile(p)
		if err == nil && !bytes.Equal(have, want.data) {
			same = false
			return fs.SkipAll
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) { // "..data" dangles: a write was cut short
		return false, nil
	}
	return same && count == len(files), err
}

// fill writes the files. With a group they, and their directories, are readable
// for it, and directories pass it on.
func fill(dir string, files map[string]file, group *int64) error {
	if err := own(dir, 0o755, nil, group); err != nil {
		return err
	}
	for name, f := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		for parent := filepath.Dir(path); parent != dir; parent = filepath.Dir(parent) {
			if err := own(parent, 0o755, nil, group); err != nil {
				return err
			}
		}
		if err := os.WriteFile(path, f.data, 0o600); err != nil {
			return err
		}
		// An explicit mode, for the umask would take from it.
		mode := fs.FileMode(f.mode).Perm()
		if group != nil {
			mode |= 0o440
		}
		if err := own(path, mode, f.uid, group); err != nil {
			return err
		}
	}
	return nil
}

func own(path string, mode fs.FileMode, user, group *int64) error {
	uid, gid := -1, -1
	if user != nil {
		uid = int(*user)
	}
	if group != nil {
		gid = int(*group)
	}
	if uid >= 0 || gid >= 0 {
		if err := os.Chown(path, uid, gid); err != nil {
			return err
		}
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() && group != nil {
		mode |= 0o550 | fs.ModeSetgid
	}
	return os.Chmod(path, mode)
}

// link makes the links through which the files are seen.
func link(dir string, files map[string]file) error {
	for name := range files {
		first, _, _ := strings.Cut(name, "/")
		path := filepath.Join(dir, first)
		target := filepath.Join("..data", first)
		if have, err := os.Readlink(path); err == nil && have == target {
			continue
		}
		_ = os.Remove(path)
		if err := os.Symlink(target, path); err != nil {
			return fmt.Errorf("link %s: %w", first, err)
		}
	}
	return nil
}

// sweep removes links to what is gone, and directories of earlier writes.
func sweep(dir, current string, files map[string]file) error {
	wanted := map[string]bool{"..data": true, current: true}
	for name := range files {
		first, _, _ := strings.Cut(name, "/")
		wanted[first] = true
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !wanted[e.Name()] {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return err
}
