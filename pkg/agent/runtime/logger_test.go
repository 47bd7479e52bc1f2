package runtime_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"skiff/pkg/agent/logs"
	"skiff/pkg/agent/runtime/runtimetest"
)

// logger runs `init logger` by itself, with pipes as the shim gives it.
type logger struct {
	out, err *os.File
	dir      string
	cmd      *exec.Cmd
}

func startLogger(t *testing.T, more string) *logger {
	t.Helper()
	l := &logger{dir: t.TempDir()}
	program := filepath.Join(l.dir, "init")
	runtimetest.BuildInit(t, program)
	outR, outW, _ := os.Pipe()
	errR, errW, _ := os.Pipe()
	readyR, readyW, _ := os.Pipe()
	l.out, l.err = outW, errW
	l.cmd = exec.Command(program, "logger", fmt.Sprintf("log=%s/0.log\nattach=%s/attach\n%s", l.dir, l.dir, more))
	l.cmd.ExtraFiles = []*os.File{outR, errR, readyW}
	l.cmd.Stderr = os.Stderr
	if err := l.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.cmd.Process.Kill() })
	outR.Close()
	errR.Close()
	readyW.Close()
	b := make([]byte, 1)
	if _, err := readyR.Read(b); err != nil {
		t.Fatalf("the logger isn't ready: %v", err)
	}
	return l
}

func (l *logger) end(t *testing.T) {
	t.Helper()
	l.out.Close()
	l.err.Close()
	if err := l.cmd.Wait(); err != nil {
		t.Fatal(err)
	}
}

func (l *logger) read(t *testing.T, name string) (text string, entries []string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(l.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.SplitAfter(string(b), "\n") {
		if line == "" {
			continue
		}
		e, ok := logs.Parse([]byte(line))
		if !ok {
			t.Fatalf("not an entry: %q", line)
		}
		if _, err := time.Parse(time.RFC3339Nano, string(e.Time)); err != nil {
			t.Fatal(err)
		}
		piece := string(e.Text)
		if e.Partial {
			piece = strings.TrimSuffix(piece, "\n")
		}
		text += piece
		entries = append(entries, fmt.Sprintf("%s %v %d", e.Stream, e.Partial, len(e.Text)))
	}
	return text, entries
}

func TestLoggerWritesEntries(t *testing.T) {
	l := startLogger(t, "")
	long := strings.Repeat("x", 40_000)
	fmt.Fprint(l.out, "one\n\n"+long+"\nend")
	l.end(t)
	text, entries := l.read(t, "0.log")
	if want := "one\n\n" + long + "\nend"; text != want {
		t.Errorf("%d bytes came back as %d", len(want), len(text))
	}
	if got := strings.Join(entries, ", "); got != "stdout false 4, stdout false 1, stdout true 16385, stdout true 16385, stdout false 7233, stdout true 4" {
		t.Errorf("entries %s", got)
	}
}

func TestLoggerRotates(t *testing.T) {
	l := startLogger(t, "maxsize=2000\nmaxfiles=3")
	for i := range 200 {
		fmt.Fprintf(l.out, "line %d\n", i)
		if i%20 == 0 {
			time.Sleep(time.Millisecond) // separate reads: a chunk is never torn
		}
	}
	l.end(t)
	files, _ := filepath.Glob(l.dir + "/0.log*")
	if len(files) != 3 {
		t.Errorf("files %v", files)
	}
	for _, f := range files {
		if info, err := os.Stat(f); err != nil || info.Size() > 3000 {
			t.Errorf("%s: %v", f, info.Size())
		}
		l.read(t, filepath.Base(f))
	}
	if text, _ := l.read(t, "0.log"); !strings.HasSuffix(text, "line 199\n") {
		t.Errorf("the current file ends with %q", text)
	}
}

func TestLoggerEmptiesThePipesWhenToldToEnd(t *testing.T) {
	l := startLogger(t, "")
	fmt.Fprint(l.err, strings.Repeat("word\n", 10_000))
	if err := l.cmd.Process.Signal(syscall.SIGTERM); err != nil { // the pipes stay open
		t.Fatal(err)
	}
	if err := l.cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if text, _ := l.read(t, "0.log"); len(text) != 50_000 {
		t.Errorf("%d bytes of 50000", len(text))
	}
}

func TestLoggerServesAttachers(t *testing.T) {
	l := startLogger(t, "")
	conn, err := net.Dial("unix", l.dir+"/attach")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	lost, err := net.Dial("unix", l.dir+"/attach")
	if err != nil {
		t.Fatal(err)
	}
	lost.Close() // one that goes away must not disturb
	fmt.Fprint(l.out, "hello")
	buf := make([]byte, 10)
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadFull(conn, buf); err != nil || string(buf) != "\x01\x00\x00\x00\x05hello" {
		t.Errorf("frame %q %v", buf, err)
	}
	l.end(t)
	if n, err := conn.Read(buf); err != io.EOF {
		t.Errorf("after the end: %d %v", n, err)
	}
}
