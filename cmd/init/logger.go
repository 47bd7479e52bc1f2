package main

import (
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The logger of one container. It reads what the container writes (descriptors
// 3 and 4), appends it to a log file in the CRI format, rotates that file, and
// copies it to whoever is attached. One thread, one poll loop and buffers of a
// fixed size: there is one such process per container, so it has to be tiny.
//
// It is started in one of two ways, with the same descriptors:
//
//   - by containerd's shim through its binary:// driver (descriptor 5 is the pipe
//     on which the shim waits for "ready"). The shim passes the URI's query as
//     arguments in random order, hence the single argument;
//   - by the agent, detached, for a container with stdin and no terminal, which
//     the binary:// driver of containerd 1.x can't serve.
//
// os.Args[2] holds lines "key=value":
//
//	log       path of the log file
//	attach    path of the unix socket on which attachers connect; none if absent
//	maxsize   bytes after which the file is rotated; 0 never
//	maxfiles  how many files are kept, the current one included
//
// An attached client receives frames: one byte for the stream (1 stdout, 2
// stderr), four bytes of length (big endian), the data. It sends nothing. End of
// file says that the container's output has ended.

const (
	// maxLine is the longest piece of a line in one entry, as containerd's CRI
	// plugin has it; longer lines are split into partial entries.
	maxLine = 16 * 1024
	// attachPatience bounds how long one slow attached client may hold up a
	// container's output before it is cut off.
	attachPatience = 2 * time.Second
	rotatedLayout  = "20060102-150405"
)

type stream struct {
	fd   int
	name string
	tag  byte // in attach frames
	line []byte
}

type logger struct {
	path     string
	maxSize  int64
	maxFiles int

	file    int
	size    int64
	out     []byte
	clients []int
}

// runLogger is the whole life of the process; it never returns.
func runLogger() {
	l := logger{file: -1, maxFiles: 5}
	attachPath := ""
	if len(os.Args) > 2 {
		for _, line := range strings.Split(os.Args[2], "\n") {
			key, value, _ := strings.Cut(line, "=")
			switch key {
			case "log":
				l.path = value
			case "attach":
				attachPath = value
			case "maxsize":
				l.maxSize, _ = strconv.ParseInt(value, 10, 64)
			case "maxfiles":
				l.maxFiles, _ = strconv.Atoi(value)
			}
		}
	}
	if l.path == "" {
		die("logger: no log file named")
	}
	if err := l.open(); err != nil {
		die("logger: open " + l.path + ": " + err.Error())
	}
	listener := -1
	if attachPath != "" {
		listener = listenUnix(attachPath)
	}
	wake := notifySignals()
	ready()
	l.loop(listener, wake)
	if attachPath != "" {
		_ = unix.Unlink(attachPath)
	}
	os.Exit(0)
}

func die(message string) {
	_, _ = os.Stderr.WriteString(message + "\n")
	os.Exit(1)
}

// ready tells the shim that output may flow.
func ready() {
	_, _ = unix.Write(5, []byte{0})
	_ = unix.Close(5)
}

// notifySignals returns a descriptor that becomes readable when the shim asks
// the logger to end: it then empties the pipes and leaves.
func notifySignals() int {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		die("logger: pipe: " + err.Error())
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT)
	signal.Ignore(unix.SIGPIPE, unix.SIGHUP)
	go func() {
		for range signals {
			_, _ = unix.Write(pipe[1], []byte{0})
		}
	}()
	return pipe[0]
}

func listenUnix(path string) int {
	_ = unix.Unlink(path)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1
	}
	if unix.Bind(fd, &unix.SockaddrUnix{Name: path}) != nil || unix.Listen(fd, 8) != nil {
		// Logging matters more than attaching: go on without.
		_ = unix.Close(fd)
		return -1
	}
	_ = unix.Chmod(path, 0o600)
	return fd
}

// loop serves until both streams have ended, or the shim has asked to end and
// nothing is left to read.
func (l *logger) loop(listener, wake int) {
	streams := []*stream{{fd: 3, name: " stdout ", tag: 1}, {fd: 4, name: " stderr ", tag: 2}}
	for _, s := range streams {
		_ = unix.SetNonblock(s.fd, true)
	}
	buf := make([]byte, maxLine)
	fds := make([]unix.PollFd, 0, 8)
	stopping := false
	for open(streams) {
		fds = fds[:0]
		for _, s := range streams {
			fds = append(fds, unix.PollFd{Fd: int32(s.fd), Events: unix.POLLIN})
		}
		fds = append(fds, unix.PollFd{Fd: int32(listener), Events: unix.POLLIN}, unix.PollFd{Fd: int32(wake), Events: unix.POLLIN})
		for _, c := range l.clients {
			fds = append(fds, unix.PollFd{Fd: int32(c), Events: unix.POLLRDHUP})
		}
		timeout := -1
		if stopping {
			timeout = 0
		}
		n, err := unix.Poll(fds, timeout)
		if err != nil && err != unix.EINTR {
			die("logger: poll: " + err.Error())
		}
		if n == 0 && stopping {
			break
		}
		if err != nil {
			continue
		}
		if fds[2].Revents != 0 { // first: who has connected gets all that follows
			l.accept(listener)
		}
		for i, s := range streams {
			if fds[i].Revents != 0 {
				l.read(s, buf)
			}
		}
		if fds[3].Revents != 0 {
			stopping = true
			_, _ = unix.Read(wake, buf[:1])
		}
		for _, p := range fds[4:] {
			if p.Revents != 0 {
				l.drop(int(p.Fd))
			}
		}
	}
	for _, s := range streams {
		l.finish(s)
	}
}

func open(streams []*stream) bool {
	for _, s := range streams {
		if s.fd >= 0 {
			return true
		}
	}
	return false
}

// read takes one chunk from a stream and passes it on.
func (l *logger) read(s *stream, buf []byte) {
	n, err := unix.Read(s.fd, buf)
	if err == unix.EAGAIN || err == unix.EINTR {
		return
	}
	if n <= 0 || err != nil {
		_ = unix.Close(s.fd)
		s.fd = -1
		l.finish(s)
		return
	}
	now := time.Now()
	data := buf[:n]
	l.send(s.tag, data)
	for len(data) > 0 {
		end := indexNewline(data)
		piece, rest := data, []byte(nil)
		if end >= 0 {
			piece, rest = data[:end], data[end+1:]
		}
		for len(s.line)+len(piece) > maxLine {
			take := maxLine - len(s.line)
			s.line = append(s.line, piece[:take]...)
			piece = piece[take:]
			l.entry(now, s, 'P')
		}
		s.line = append(s.line, piece...)
		if end >= 0 {
			l.entry(now, s, 'F')
		}
		data = rest
	}
	l.flush()
}

func indexNewline(data []byte) int {
	for i, b := range data {
		if b == '\n' {
			return i
		}
	}
	return -1
}

// finish writes a last line that has no newline: as a partial entry, so that
// reading the log gives back exactly what was written.
func (l *logger) finish(s *stream) {
	if len(s.line) > 0 {
		l.entry(time.Now(), s, 'P')
	}
	l.flush()
}

// entry appends "<time> <stream> <tag> <line>\n" to the pending output.
func (l *logger) entry(now time.Time, s *stream, tag byte) {
	l.out = now.UTC().AppendFormat(l.out, time.RFC3339Nano)
	l.out = append(l.out, s.name...)
	l.out = append(l.out, tag, ' ')
	l.out = append(l.out, s.line...)
	l.out = append(l.out, '\n')
	s.line = s.line[:0]
	if len(l.out) >= 2*maxLine {
		l.flush()
	}
}

// flush writes whole entries, so that a rotated file ends with a whole one.
// When the disk is full the output is lost rather than the container stopped.
func (l *logger) flush() {
	if len(l.out) == 0 {
		return
	}
	if l.maxSize > 0 && l.size > 0 && l.size+int64(len(l.out)) > l.maxSize {
		l.rotate()
	}
	for data := l.out; len(data) > 0; {
		n, err := unix.Write(l.file, data)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			break
		}
		l.size += int64(n)
		data = data[n:]
	}
	l.out = l.out[:0]
}

func (l *logger) open() error {
	fd, err := unix.Open(l.path, unix.O_WRONLY|unix.O_CREAT|unix.O_APPEND|unix.O_CLOEXEC, 0o640)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if unix.Fstat(fd, &st) == nil {
		l.size = st.Size
	}
	if l.file >= 0 {
		_ = unix.Close(l.file)
	}
	l.file = fd
	return nil
}

// rotate renames the file to "<name>.<time>", as the kubelet does, starts a new
// one and removes the oldest.
func (l *logger) rotate() {
	target := l.path + "." + time.Now().UTC().Format(rotatedLayout)
	for i := 1; exists(target); i++ {
		target = l.path + "." + time.Now().UTC().Add(time.Duration(i)*time.Second).Format(rotatedLayout)
	}
	if l.maxFiles <= 1 {
		_ = unix.Ftruncate(l.file, 0)
		l.size = 0
		return
	}
	if unix.Rename(l.path, target) != nil || l.open() != nil {
		return
	}
	l.prune()
}

func exists(path string) bool {
	return unix.Access(path, unix.F_OK) == nil
}

// prune removes rotated files beyond maxFiles-1; their names sort by age.
func (l *logger) prune() {
	slash := strings.LastIndexByte(l.path, '/')
	dir, prefix := l.path[:slash+1], l.path[slash+1:]+"."
	d, err := os.Open(dir)
	if err != nil {
		return
	}
	names, _ := d.Readdirnames(-1)
	_ = d.Close()
	rotated := names[:0]
	for _, name := range names {
		if strings.HasPrefix(name, prefix) {
			rotated = append(rotated, name)
		}
	}
	for len(rotated) > l.maxFiles-1 {
		oldest := 0
		for i := range rotated {
			if rotated[i] < rotated[oldest] {
				oldest = i
			}
		}
		_ = unix.Unlink(dir + rotated[oldest])
		rotated[oldest] = rotated[len(rotated)-1]
		rotated = rotated[:len(rotated)-1]
	}
}

func (l *logger) accept(listener int) {
	fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
	if err != nil {
		return
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 256*1024)
	l.clients = append(l.clients, fd)
}

func (l *logger) drop(fd int) {
	for i, c := range l.clients {
		if c == fd {
			_ = unix.Close(fd)
			l.clients = append(l.clients[:i], l.clients[i+1:]...)
			return
		}
	}
}

// send gives one chunk to every attached client.
func (l *logger) send(tag byte, data []byte) {
	if len(l.clients) == 0 {
		return
	}
	n := len(data)
	header := []byte{tag, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}
	for i := len(l.clients) - 1; i >= 0; i-- {
		c := l.clients[i]
		if !writeAll(c, header) || !writeAll(c, data) {
			l.drop(c)
		}
	}
}

// writeAll writes to a client's socket, waiting for a slow one within reason.
func writeAll(fd int, data []byte) bool {
	deadline := time.Now().Add(attachPatience)
	for len(data) > 0 {
		n, err := unix.SendmsgN(fd, data, nil, nil, unix.MSG_NOSIGNAL)
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			left := time.Until(deadline)
			if left <= 0 {
				return false
			}
			fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
			_, _ = unix.Poll(fds, int(left/time.Millisecond)+1)
		case err != nil:
			return false
		default:
			data = data[n:]
		}
	}
	return true
}
