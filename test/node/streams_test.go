package node

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
)

// background starts ctl, and ends it with the test.
func background(t *testing.T, args ...string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	c := exec.Command(filepath.Join(root, "bin/ctl"), args...)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Process.Kill()
		c.Wait()
	})
	return c, bufio.NewReader(out)
}

func TestLogs(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	pod(t, ns, "p", `
restartPolicy: Never
volumes: [{name: v, emptyDir: {}}]
containers:
- {name: a, image: HELLO, volumeMounts: [{name: v, mountPath: /v}], command: [sh, -c, "for i in 1 2 3 4 5; do echo a$i; done; echo bad >&2; until test -f /v/go; do usleep 50000; done; echo last; echo -n partial"]}
- {name: b, image: HELLO, volumeMounts: [{name: v, mountPath: /v}], command: [sh, -c, "echo b1; sleep 2; echo b2; sleep 1000"]}
`)
	pod(t, ns, "again", `{containers: [{name: c, image: HELLO, command: [sh, -c, "echo this is $(hostname); usleep 200000; exit 1"]}]}`)
	pod(t, ns, "long", `{restartPolicy: Never, containers: [{name: c, image: HELLO, command: [sh, -c, "head -c 40000 /dev/zero | tr '\\0' x; echo; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo $i; done"]}]}`)
	waitPod(t, ns, "p", "ready", ready)
	logs := func(args ...string) string { return must(t, append([]string{"logs", "-n", ns}, args...)...) }

	expect(t, "one container", logs("p", "-c", "a"), "a1\na2\na3\na4\na5\nbad")
	expect(t, "--tail", logs("p", "-c", "a", "--tail=2"), "a5\nbad")
	expect(t, "--tail=0", logs("p", "-c", "a", "--tail=0"), "")
	expect(t, "--limit-bytes", logs("p", "-c", "a", "--limit-bytes=4"), "a1\na")
	if out := logs("p", "-c", "a", "--timestamps", "--tail=1"); !strings.HasSuffix(out, " bad\n") {
		t.Errorf("--timestamps: %q", out)
	} else if at, err := time.Parse(time.RFC3339Nano, strings.Fields(out)[0]); err != nil || time.Since(at) > time.Minute {
		t.Errorf("--timestamps: %q: %v", out, err)
	}
	if out := logs("p", "--all-containers", "--prefix"); !strings.Contains(out, "[pod/p/a] a1") || !strings.Contains(out, "[pod/p/b] b1") {
		t.Errorf("all containers: %q", out)
	}
	if out := logs("p"); !strings.Contains(out, "Defaulted container \"a\" out of: a, b") {
		t.Errorf("default container: %q", out)
	}
	if out, err := ctl("logs", "-n", ns, "p", "-c", "nobody"); err == nil || !strings.Contains(out, "container nobody is not valid for pod p") {
		t.Errorf("a container that isn't there: %q %v", out, err)
	}
	if out, err := ctl("logs", "-n", ns, "p", "-c", "a", "--previous"); err == nil || !strings.Contains(out, `previous terminated container "a" in pod "p" not found`) {
		t.Errorf("no previous container: %q %v", out, err)
	}
	stream := "Stderr"
	expect(t, "standard error alone", logOf(t, ns, "p", v1.PodLogOptions{Container: "a", Stream: &stream}), "bad")

	_, follow := background(t, "logs", "-n", ns, "p", "-c", "a", "--follow", "--tail=1")
	if line, err := follow.ReadString('\n'); line != "bad\n" {
		t.Errorf("--follow begins with %q %v", line, err)
	}
	must(t, "exec", "-n", ns, "p", "-c", "b", "--", "touch", "/v/go") // not in a, which ends by it
	if rest, err := io.ReadAll(follow); string(rest) != "last\npartial" {
		t.Errorf("--follow goes on with %q %v", rest, err)
	}
	eventually(t, 10*time.Second, "--since leaves out what is old", func() error {
		if out := logs("p", "-c", "b", "--since=1s"); strings.Contains(out, "b1") {
			return fmt.Errorf("%q", out)
		}
		return nil
	})

	waitPod(t, ns, "again", "restarted", func(p *v1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].RestartCount > 0
	})
	expect(t, "--previous", logs("again", "--previous"), "this is again")
	finished(t, ns, "long")
	lines := strings.Split(logs("long"), "\n")
	if len(lines) != 20002 || len(lines[0]) != 40000 || lines[1] != "1" || lines[20000] != "20000" {
		t.Errorf("a long log: %d lines, the first of %d bytes", len(lines), len(lines[0]))
	}
	expect(t, "the tail of a long log", logs("long", "--tail=2"), "19999\n20000")
}

func TestExecAndFriends(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	pod(t, ns, "p", `
containers:
- {name: c, image: HELLO}
- {name: reader, image: HELLO, stdin: true, command: [sh, -c, "while read line; do echo got $line; done; sleep 1000"]}
`)
	waitPod(t, ns, "p", "ready", ready)
	program := filepath.Join(root, "bin/ctl")

	t.Run("both outputs and the exit code", func(t *testing.T) {
		t.Parallel()
		c := exec.Command(program, "exec", "-n", ns, "p", "-c", "c", "--", "sh", "-c", "echo out; echo err >&2; exit 42")
		var out, err strings.Builder
		c.Stdout, c.Stderr = &out, &err
		failure := c.Run()
		if out.String() != "out\n" || !strings.HasPrefix(err.String(), "err\n") || c.ProcessState.ExitCode() != 42 {
			t.Errorf("%q, %q, %v", out.String(), err.String(), failure)
		}
	})
	t.Run("a program that isn't there", func(t *testing.T) {
		t.Parallel()
		out, err := ctl("exec", "-n", ns, "p", "-c", "c", "--", "/nowhere")
		if err == nil || !strings.Contains(out, "no such file or directory") {
			t.Errorf("%q %v", out, err)
		}
	})
	t.Run("much input", func(t *testing.T) {
		t.Parallel()
		out, err := command(strings.Repeat("0123456789abcde\n", 1<<16), program, "exec", "-i", "-n", ns, "p", "-c", "c", "--", "wc", "-c")
		if err != nil || strings.TrimSpace(out) != "1048576" {
			t.Errorf("%q %v", out, err)
		}
	})
	t.Run("a terminal", func(t *testing.T) {
		t.Parallel()
		// script gives ctl a terminal; its size must reach the container's.
		out, err := command("", "script", "-qec", "stty rows 33 cols 99; "+program+" exec -it -n "+ns+" p -c c -- sh -c 'tty; usleep 300000; stty size; echo err >&2; exit 3'", "/dev/null")
		if err == nil || !strings.Contains(out, "/dev/pts/0\r\n") || !strings.Contains(out, "33 99") || !strings.Contains(out, "err\r\n") {
			t.Errorf("%q %v", out, err)
		}
	})
	t.Run("attach", func(t *testing.T) {
		t.Parallel()
		c := exec.Command(program, "attach", "-i", "-n", ns, "p", "-c", "reader")
		in, err := c.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		defer c.Wait()
		defer c.Process.Kill()
		fmt.Fprintln(in, "one")
		r := bufio.NewReader(out)
		if line, err := r.ReadString('\n'); line != "got one\n" {
			t.Errorf("%q %v", line, err)
		}
		fmt.Fprintln(in, "two")
		if line, err := r.ReadString('\n'); line != "got two\n" {
			t.Errorf("%q %v", line, err)
		}
	})
	t.Run("run -i --rm", func(t *testing.T) {
		t.Parallel()
		out, err := command("through the pod\n", program, "run", "-n", ns, "once", "-i", "--rm", "--quiet", "--restart=Never", "--image="+helloImage, "--command", "--", "sh", "-c", "read x; echo it says: $x; exit 0")
		if err != nil || !strings.Contains(out, "it says: through the pod") {
			t.Errorf("%q %v", out, err)
		}
		if out, err := ctl("get", "pod", "-n", ns, "once"); err == nil && !strings.Contains(out, "Terminating") {
			t.Errorf("the pod is still there: %q", out)
		}
	})
	t.Run("port-forward", func(t *testing.T) {
		t.Parallel()
		_, out := background(t, "port-forward", "-n", ns, "pod/p", ":8080")
		line, err := out.ReadString('\n') // Forwarding from 127.0.0.1:40123 -> 8080
		var port int
		if _, e := fmt.Sscanf(line, "Forwarding from 127.0.0.1:%d", &port); e != nil {
			t.Fatalf("%q %v", line, err)
		}
		for range 3 {
			if answer, err := httpGet(fmt.Sprintf("http://127.0.0.1:%d/", port)); answer != "hello from p" {
				t.Errorf("%q %v", answer, err)
			}
		}
	})
	t.Run("cp there and back", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		want := strings.Repeat("some content\n", 10000)
		if err := os.WriteFile(dir+"/there", []byte(want), 0o640); err != nil {
			t.Fatal(err)
		}
		must(t, "cp", "-c", "c", dir+"/there", ns+"/p:/tmp/f")
		must(t, "cp", "-c", "c", ns+"/p:/tmp/f", dir+"/back")
		if got, err := os.ReadFile(dir + "/back"); err != nil || string(got) != want {
			t.Errorf("%d bytes came back, %v", len(got), err)
		}
	})
	t.Run("debug", func(t *testing.T) {
		t.Parallel()
		must(t, "debug", "-n", ns, "p", "--image="+helloImage, "--container=dbg", "--target=c", "--profile=general", "--", "sh", "-c", "cat /proc/1/cmdline; echo; sleep 1000")
		eventually(t, 20*time.Second, "the ephemeral container sees its target", func() error {
			out, err := ctl("logs", "-n", ns, "p", "-c", "dbg")
			if err == nil && !strings.Contains(out, "/hello") {
				err = fmt.Errorf("%q", out)
			}
			return err
		})
	})
}
