package logs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func line(second int, stream, tag, text string) string {
	return fmt.Sprintf("2026-01-02T03:04:%02d.5Z %s %s %s\n", second, stream, tag, text)
}

func TestRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	content := line(1, "stdout", "F", "one") + line(2, "stderr", "F", "two") + line(3, "stdout", "P", "th") + line(3, "stdout", "F", "ree") + "torn entry\n" + line(4, "stdout", "P", "end")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	since, _ := time.Parse(time.RFC3339Nano, "2026-01-02T03:04:02.5Z")
	for _, c := range []struct {
		options  Options
		out, err string
	}{
		{Options{Tail: -1}, "one\nthree\nend", "two\n"},
		{Options{Tail: 0}, "", ""},
		{Options{Tail: 1}, "end", ""},
		{Options{Tail: 5}, "three\nend", "two\n"},
		{Options{Tail: 100}, "one\nthree\nend", "two\n"},
		{Options{Tail: -1, Since: since}, "three\nend", "two\n"},
		{Options{Tail: -1, LimitBytes: 9}, "one\nt", "two\n"},
		{Options{Tail: 1, Timestamps: true}, "2026-01-02T03:04:04.5Z end", ""},
	} {
		var out, errs bytes.Buffer
		if err := Read(context.Background(), path, c.options, &out, &errs); err != nil {
			t.Fatal(err)
		}
		if out.String() != c.out || errs.String() != c.err {
			t.Errorf("%+v: %q %q, want %q %q", c.options, out.String(), errs.String(), c.out, c.err)
		}
	}
	if text, err := Tail(path, 2, 2); err != nil || text != "nd" {
		t.Errorf("tail %q %v", text, err)
	}
}

func TestTailAcrossBlocks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	var b strings.Builder
	for i := range 3000 {
		b.WriteString(line(i%60, "stdout", "F", fmt.Sprintf("%d %s", i, strings.Repeat("x", i%50))))
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int64{1, 10, 299, 2999, 3000} {
		var out bytes.Buffer
		if err := Read(context.Background(), path, Options{Tail: n}, &out, nil); err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(out.String(), "\n"); int64(got) != n || !strings.HasPrefix(out.String(), fmt.Sprintf("%d ", 3000-n)) {
			t.Errorf("the last %d: %d lines from %.20q", n, got, out.String())
		}
	}
}

// chunks is a writer that hands on what it gets.
type chunks chan string

func (c chunks) Write(p []byte) (int, error) { c <- string(p); return len(p), nil }

func TestFollowThroughRotation(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "0.log")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	write := func(s string) {
		if _, err := f.WriteString(s); err != nil {
			t.Fatal(err)
		}
	}
	out, ended, done := make(chunks), make(chan struct{}), make(chan error, 1)
	go func() {
		done <- Read(context.Background(), path, Options{Follow: true, Tail: -1, Ended: ended}, out, out)
	}()
	expect := func(want string) {
		t.Helper()
		if got := <-out; got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
	write(line(1, "stdout", "F", "one"))
	expect("one\n")
	whole := line(2, "stdout", "F", "two")
	write(whole[:20]) // an entry that is written in two pieces
	write(whole[20:])
	expect("two\n")
	write(line(3, "stdout", "F", "last of the old"))
	if err := os.Rename(path, path+".20260102-030405"); err != nil {
		t.Fatal(err)
	}
	if f, err = os.Create(path); err != nil {
		t.Fatal(err)
	}
	write(line(4, "stdout", "F", "first of the new"))
	expect("last of the old\n")
	expect("first of the new\n")
	write(line(5, "stdout", "P", "end"))
	close(ended)
	expect("end")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
