// Package logs reads the log files of containers, which their loggers write in
// the CRI format:
//
//	2026-01-02T15:04:05.999999999Z stdout F a whole line
//	2026-01-02T15:04:05.999999999Z stderr P a part of a line
//
// A reader may follow a file as it grows, through its rotation, until the
// container has ended. It is woken by inotify(7) and polls nothing. As with the
// kubelet, only the current file is read, not those rotated away.
package logs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Options say what to read.
type Options struct {
	Follow     bool
	Tail       int64 // lines from the end; negative: all
	LimitBytes int64 // 0: no limit
	Since      time.Time
	Timestamps bool
	// Ended is closed when nothing more will be written. It is needed to Follow.
	Ended <-chan struct{}
}

// Read copies what is asked for to stdout and stderr (either may be nil: left
// out), until the end of the log, or of ctx.
func Read(ctx context.Context, path string, o Options, stdout, stderr io.Writer) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("failed to try resolving symlinks in path %q: %w", path, err)
	}
	r := &reader{path: path, file: f, options: o, out: map[string]io.Writer{"stdout": stdout, "stderr": stderr}, left: o.LimitBytes}
	defer func() { r.file.Close() }()
	if o.Tail >= 0 {
		start, err := tailOffset(f, o.Tail)
		if err != nil {
			return fmt.Errorf("failed to tail %d lines of log file %q: %w", o.Tail, path, err)
		}
		if _, err := f.Seek(start, io.SeekStart); err != nil {
			return err
		}
	}
	err = r.run(ctx)
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

var errEnough = errors.New("limit reached")

type reader struct {
	path    string
	file    *os.File
	buffer  *bufio.Reader
	partial []byte // of an entry that isn't all written yet
	options Options
	out     map[string]io.Writer
	left    int64
}

func (r *reader) run(ctx context.Context) error {
	r.buffer = bufio.NewReaderSize(r.file, 32<<10)
	if !r.options.Follow {
		return r.drain(ctx)
	}
	changes, err := watchDirectory(filepath.Dir(r.path))
	if err != nil {
		return err
	}
	defer changes.Close()
	for {
		if err := r.drain(ctx); err != nil {
			return err
		}
		replaced, err := r.reopen(ctx)
		if err != nil {
			return err
		}
		if replaced {
			continue
		}
		select {
		case <-changes.news:
		case <-ctx.Done():
			return nil
		case <-r.options.Ended:
			// The logger is done: what is there now is all.
			if err := r.drain(ctx); err != nil {
				return err
			}
			if replaced, err := r.reopen(ctx); err != nil || !replaced {
				return err
			}
		}
	}
}

// drain passes on all entries that are complete.
func (r *reader) drain(ctx context.Context) error {
	for ctx.Err() == nil {
		piece, err := r.buffer.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			r.partial = append(r.partial, piece...)
			continue
		}
		if errors.Is(err, io.EOF) {
			r.partial = append(r.partial, piece...)
			return nil
		}
		if err != nil {
			return fmt.Errorf("read log %s: %w", r.path, err)
		}
		if len(r.partial) > 0 {
			r.partial = append(r.partial, piece...)
			piece = r.partial
		}
		err = r.pass(piece)
		r.partial = r.partial[:0]
		if err != nil {
			return err
		}
	}
	return nil
}

// pass writes one entry.
func (r *reader) pass(line []byte) error {
	entry, ok := Parse(line)
	if !ok {
		return nil // cut off by a full disk
	}
	if !r.options.Since.IsZero() {
		if at, err := time.Parse(time.RFC3339Nano, string(entry.Time)); err == nil && at.Before(r.options.Since) {
			return nil
		}
	}
	w := r.out[string(entry.Stream)]
	if w == nil {
		return nil
	}
	text := entry.Text
	if entry.Partial {
		text = bytes.TrimSuffix(text, []byte("\n"))
	}
	if r.options.Timestamps {
		text = bytes.Join([][]byte{entry.Time, text}, []byte(" "))
	}
	if r.options.LimitBytes > 0 {
		if int64(len(text)) >= r.left {
			if _, err := w.Write(text[:r.left]); err != nil {
				return err
			}
			return errEnough
		}
		r.left -= int64(len(text))
	}
	_, err := w.Write(text)
	return err
}

// reopen moves on to the current file after a rotation.
func (r *reader) reopen(ctx context.Context) (bool, error) {
	current, err := os.Stat(r.path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil // in the middle of a rotation, or removed with its pod
	}
	if err != nil {
		return false, err
	}
	own, err := r.file.Stat()
	if err != nil {
		return false, err
	}
	if os.SameFile(current, own) {
		if own.Size() < r.offset() { // truncated
			_, err := r.file.Seek(0, io.SeekStart)
			r.buffer.Reset(r.file)
			return true, err
		}
		return false, nil
	}
	if err := r.drain(ctx); err != nil { // what came between reading and renaming
		return false, err
	}
	f, err := os.Open(r.path)
	if err != nil {
		return false, err
	}
	r.file.Close()
	r.file = f
	r.buffer.Reset(f)
	r.partial = r.partial[:0]
	return true, nil
}

func (r *reader) offset() int64 {
	at, err := r.file.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0
	}
	return at
}

// Entry is one line of a log file. Its fields are parts of the line.
type Entry struct {
	Time, Stream []byte
	Partial      bool
	Text         []byte // with the newline
}

// Parse takes a line of a log file apart.
func Parse(line []byte) (Entry, bool) {
	var e Entry
	var tags []byte
	var ok bool
	if e.Time, line, ok = bytes.Cut(line, []byte(" ")); !ok {
		return e, false
	}
	if e.Stream, line, ok = bytes.Cut(line, []byte(" ")); !ok {
		return e, false
	}
	if tags, e.Text, ok = bytes.Cut(line, []byte(" ")); !ok {
		return e, false
	}
	first, _, _ := bytes.Cut(tags, []byte(":"))
	e.Partial = string(first) == "P"
	return e, string(e.Stream) == "stdout" || string(e.Stream) == "stderr"
}

// tailOffset is where the last n lines begin.
func tailOffset(f *os.File, n int64) (int64, error) {
	const block = 16 << 10
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil || n == 0 {
		return end, err
	}
	buf := make([]byte, block)
	var lines int64
	for at := end; at > 0; {
		size := min(at, block)
		at -= size
		if _, err := f.ReadAt(buf[:size], at); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		for i := size - 1; i >= 0; i-- {
			if buf[i] != '\n' || at+i == end-1 {
				continue // the last line's own newline begins nothing
			}
			if lines++; lines == n {
				return at + i + 1, nil
			}
		}
	}
	return 0, nil
}

// Tail returns the text of the last lines of a log, at most limit bytes.
func Tail(path string, lines, limit int64) (string, error) {
	var b bytes.Buffer
	if err := Read(context.Background(), path, Options{Tail: lines}, &b, &b); err != nil {
		return "", err
	}
	text := b.Bytes()
	if over := int64(len(text)) - limit; over > 0 {
		text = text[over:]
	}
	return string(text), nil
}

// changes tells when something in a directory has changed.
type changes struct {
	news chan struct{}
	file *os.File
}

func watchDirectory(dir string) (*changes, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	c := &changes{news: make(chan struct{}, 1), file: os.NewFile(uintptr(fd), "inotify")}
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MODIFY|unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_DELETE); err != nil {
		return nil, errors.Join(fmt.Errorf("watch %s: %w", dir, err), c.file.Close())
	}
	go func() {
		buf := make([]byte, 4096)
		for {
			if _, err := c.file.Read(buf); err != nil {
				return
			}
			select {
			case c.news <- struct{}{}:
			default:
			}
		}
	}()
	return c, nil
}

func (c *changes) Close() { c.file.Close() }
