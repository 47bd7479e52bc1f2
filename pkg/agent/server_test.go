package agent_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	utilexec "k8s.io/client-go/util/exec"
)

func (c *cluster) url(path string, q url.Values) *url.URL {
	return &url.URL{Scheme: "https", Host: fmt.Sprintf("127.0.0.1:%d", c.port), Path: path, RawQuery: q.Encode()}
}

func (c *cluster) get(path string, q url.Values) (int, string) {
	c.tb.Helper()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer client.CloseIdleConnections()
	r, err := client.Get(c.url(path, q).String())
	if err != nil {
		c.tb.Fatal(err)
	}
	defer r.Body.Close()
	b, _ := io.ReadAll(r.Body)
	return r.StatusCode, string(b)
}

func (c *cluster) executors(path string, q url.Values) map[string]remotecommand.Executor {
	c.tb.Helper()
	config := &rest.Config{Host: c.url("", nil).String(), TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
	spdy, err := remotecommand.NewSPDYExecutor(config, "POST", c.url(path, q))
	if err != nil {
		c.tb.Fatal(err)
	}
	socket, err := remotecommand.NewWebSocketExecutor(config, "GET", c.url(path, q).String())
	if err != nil {
		c.tb.Fatal(err)
	}
	return map[string]remotecommand.Executor{"spdy": spdy, "websocket": socket}
}

func TestExecAttachLogs(t *testing.T) {
	c := start(t)
	web := shell("main", "echo started; while read line; do echo got $line; echo err $line >&2; done; echo input ended; sleep 1000")
	web.Stdin = true
	tty := shell("tty", "stty size; cat")
	tty.Stdin, tty.TTY = true, true
	pod := c.create(&v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{web, tty}}})
	pod = c.wait(pod.Name, "Running", phase(v1.PodRunning))
	path := "/default/" + pod.Name + "/"
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	exec := url.Values{"command": {"sh", "-c", "cat; echo out; echo err >&2; exit 7"}, "input": {"1"}, "output": {"1"}, "error": {"1"}}
	for kind, e := range c.executors("/exec"+path+"main", exec) {
		var out, errs bytes.Buffer
		err := e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader("in\n"), Stdout: &out, Stderr: &errs})
		if exit, ok := err.(utilexec.ExitError); !ok || exit.ExitStatus() != 7 {
			t.Errorf("%s: exec ended with %v", kind, err)
		}
		if out.String() != "in\nout\n" || errs.String() != "err\n" {
			t.Errorf("%s: exec gave %q, %q", kind, out.String(), errs.String())
		}
	}
	for kind, e := range c.executors("/attach"+path+"main", url.Values{"input": {"1"}, "output": {"1"}, "error": {"1"}}) {
		out, w := io.Pipe()
		in, feed := io.Pipe()
		attached, detach := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() {
			done <- e.StreamWithContext(attached, remotecommand.StreamOptions{Stdin: in, Stdout: w, Stderr: io.Discard})
		}()
		fmt.Fprintf(feed, "%s\n", kind)
		buf := make([]byte, 100)
		n, _ := out.Read(buf)
		if got := string(buf[:n]); got != "got "+kind+"\n" {
			t.Errorf("%s: attach gave %q", kind, got)
		}
		detach()
		feed.Close()
		<-done
	}
	for kind, e := range c.executors("/attach"+path+"tty", url.Values{"input": {"1"}, "output": {"1"}, "tty": {"1"}}) {
		out, w := io.Pipe()
		in, feed := io.Pipe()
		attached, detach := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() {
			done <- e.StreamWithContext(attached, remotecommand.StreamOptions{Stdin: in, Stdout: w, Tty: true})
		}()
		fmt.Fprintf(feed, "hi %s\n", kind)
		want := "hi " + kind + "\r\n"
		buf := make([]byte, 2*len(want)) // the echo, and cat's
		if _, err := io.ReadFull(out, buf); err != nil || string(buf) != want+want {
			t.Errorf("%s: attach gave %q", kind, buf)
		}
		detach()
		feed.Close()
		<-done
	}

	code, log := c.get("/containerLogs"+path+"main", url.Values{"tailLines": {"1"}})
	if code != 200 || !strings.HasPrefix(log, "got ") && !strings.HasPrefix(log, "err ") {
		t.Errorf("tail: %d %q", code, log)
	}
	code, log = c.get("/containerLogs"+path+"main", url.Values{"timestamps": {"true"}, "limitBytes": {"30"}})
	if code != 200 || len(log) != 30 || !strings.HasPrefix(log, time.Now().UTC().Format("2006-")) {
		t.Errorf("with timestamps: %d %q", code, log)
	}
	if code, log = c.get("/containerLogs"+path+"none", nil); code != 404 || log != fmt.Sprintf("container \"none\" not found in pod %q\n", pod.Name) {
		t.Errorf("unknown container: %d %q", code, log)
	}
	if code, log = c.get("/containerLogs"+path+"main", url.Values{"previous": {"true"}}); code != 400 || !strings.HasPrefix(log, "previous terminated container") {
		t.Errorf("previous: %d %q", code, log)
	}
	for _, p := range []string{"/pods", "/stats/summary", "/metrics/resource", "/healthz", "/metrics"} {
		if code, body := c.get(p, nil); code != 200 || len(body) < 2 {
			t.Errorf("%s: %d %q", p, code, body)
		}
	}
}

func TestFollowedLogIsWhole(t *testing.T) {
	c := start(t)
	pod := c.create(&v1.Pod{Spec: v1.PodSpec{RestartPolicy: v1.RestartPolicyNever, Containers: []v1.Container{shell("main", "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; printf end")}}})
	c.wait(pod.Name, "started", func(p *v1.Pod) bool {
		return len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].State.Waiting == nil
	})
	code, log := c.get("/containerLogs/default/"+pod.Name+"/main", url.Values{"follow": {"true"}})
	lines := strings.Split(log, "\n")
	if code != 200 || len(lines) != 2001 || lines[1999] != "line 1999" || lines[2000] != "end" {
		t.Errorf("%d: %d lines, the last %q", code, len(lines), lines[len(lines)-1])
	}
}

func TestPortForward(t *testing.T) {
	c := start(t)
	pod := c.create(&v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{shell("main", "echo hello > /tmp/index.html; exec httpd -f -p 8080 -h /tmp")}}})
	pod = c.wait(pod.Name, "Running", phase(v1.PodRunning))
	config := &rest.Config{Host: c.url("", nil).String(), TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
	target := c.url("/portForward/default/"+pod.Name, nil)
	transport, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		t.Fatal(err)
	}
	tunnel, err := portforward.NewSPDYOverWebsocketDialer(target, config)
	if err != nil {
		t.Fatal(err)
	}
	for kind, dialer := range map[string]httpstream.Dialer{"spdy": spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", target), "websocket": tunnel} {
		stop, ready, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
		f, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{"0:8080"}, stop, ready, io.Discard, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		go func() { done <- f.ForwardPorts() }()
		select {
		case <-ready:
		case err := <-done:
			t.Errorf("%s: %v", kind, err)
			continue
		}
		ports, _ := f.GetPorts()
		body := ""
		for range 50 { // until the server in the pod listens
			r, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/index.html", ports[0].Local))
			if err != nil {
				time.Sleep(20 * time.Millisecond)
				continue
			}
			b, _ := io.ReadAll(r.Body)
			r.Body.Close()
			body = string(b)
			break
		}
		if body != "hello\n" {
			t.Errorf("%s: got %q", kind, body)
		}
		close(stop)
		<-done
	}
}
