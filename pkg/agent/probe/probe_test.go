package probe

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// run lets a probe answer as the letters say, one a call (s success, f failure,
// w warning, u unknown; the last is repeated), for a while, and tells when it
// was asked and what came of it.
func run(t *testing.T, kind Kind, spec v1.Probe, answers string, for_ time.Duration) string {
	var log strings.Builder
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), for_)
		defer cancel()
		asked := 0
		say := func(format string, args ...any) {
			fmt.Fprintf(&log, "%g:%s ", time.Since(start).Seconds(), fmt.Sprintf(format, args...))
		}
		Run(ctx, Config{
			Kind: kind, Spec: &spec, StartedAt: start,
			Do: func(context.Context) (Result, string) {
				a := answers[min(asked, len(answers)-1)]
				asked++
				return map[byte]Result{'s': Success, 'f': Failure, 'w': Warning, 'u': Unknown}[a], string(a)
			},
			Told:    func(r Result, m string) { say("told-%s", m) },
			Verdict: func(healthy bool, _ string) { say("%v", healthy) },
		})
		say("%d", asked)
	})
	return strings.TrimSpace(log.String())
}

func TestSchedule(t *testing.T) {
	for _, c := range []struct {
		kind    Kind
		spec    v1.Probe
		answers string
		want    string
	}{
		{Readiness, v1.Probe{PeriodSeconds: 10}, "s", "0:true 59:6"},
		{Readiness, v1.Probe{PeriodSeconds: 10, InitialDelaySeconds: 5}, "s", "5:true 59:6"},
		// Early failures count for nothing, and success is seen soon.
		{Readiness, v1.Probe{PeriodSeconds: 10, FailureThreshold: 1}, "ffs", "0.075:true 59:8"},
		{Readiness, v1.Probe{PeriodSeconds: 30, FailureThreshold: 2}, "sffs", "0:true 30:told-f 59:2"},
		{Readiness, v1.Probe{PeriodSeconds: 10, FailureThreshold: 2}, "sffs", "0:true 10:told-f 20:told-f 20:false 30:true 59:6"},
		{Readiness, v1.Probe{PeriodSeconds: 10, SuccessThreshold: 2}, "sss", "10:true 59:6"},
		{Readiness, v1.Probe{PeriodSeconds: 10}, "w", "0:told-w 0:true 10:told-w 20:told-w 30:told-w 40:told-w 50:told-w 59:6"},
		{Liveness, v1.Probe{PeriodSeconds: 10, FailureThreshold: 3}, "f", "10:told-f 20:told-f 30:told-f 30:false 30:3"},
		{Liveness, v1.Probe{PeriodSeconds: 10, FailureThreshold: 2, InitialDelaySeconds: 3}, "fsff", "3:told-f 13:true 23:told-f 33:told-f 33:false 33:4"},
		{Liveness, v1.Probe{PeriodSeconds: 10, FailureThreshold: 1}, "uuuuf", "50:told-f 50:false 50:5"},
		{Startup, v1.Probe{PeriodSeconds: 10, FailureThreshold: 30}, "fffs", "0.175:true 0.175:4"},
	} {
		if got := run(t, c.kind, c.spec, c.answers, 59*time.Second); got != c.want {
			t.Errorf("%s %q: %s, want %s", c.kind, c.answers, got, c.want)
		}
	}
}

func TestHTTP(t *testing.T) {
	var headers http.Header
	var host string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		headers, host = r.Header, r.Host
		code, _ := strconv.Atoi(strings.Trim(r.URL.Path, "/"))
		if code == 302 {
			http.Redirect(w, r, r.URL.Query().Get("to"), code)
			return
		}
		w.WriteHeader(code)
		fmt.Fprint(w, "body")
	}))
	defer server.Close()
	u, _ := url.Parse(server.URL)
	port, _ := strconv.Atoi(u.Port())
	container := &v1.Container{Ports: []v1.ContainerPort{{Name: "web", ContainerPort: int32(port)}}}
	for _, c := range []struct {
		path   string
		result Result
		text   string
	}{
		{"/200", Success, "body"}, {"/204", Success, ""}, {"/404", Failure, "HTTP probe failed with statuscode: 404"}, {"/500", Failure, "HTTP probe failed with statuscode: 500"},
		{"/302?to=/200", Success, "body"}, {"/302?to=http://other.example/", Warning, "Probe terminated redirects, Response body: "},
	} {
		result, text := HTTP(context.Background(), &v1.HTTPGetAction{Path: c.path, Port: intstr.FromString("web")}, container, "127.0.0.1")
		if result != c.result || !strings.HasPrefix(text, c.text) {
			t.Errorf("%s: %v %q", c.path, result, text)
		}
	}
	HTTP(context.Background(), &v1.HTTPGetAction{Path: "/200", Port: intstr.FromInt(port), HTTPHeaders: []v1.HTTPHeader{{Name: "Host", Value: "me"}, {Name: "X", Value: "1"}}}, container, "127.0.0.1")
	if headers.Get("User-Agent") != "kube-probe/1.36" || headers.Get("Accept") != "*/*" || headers.Get("X") != "1" || host != "me" {
		t.Errorf("host %q, headers %v", host, headers)
	}
	if result, text := HTTP(context.Background(), &v1.HTTPGetAction{Port: intstr.FromString("none")}, container, "127.0.0.1"); result != Failure || text != "invalid port number: none" {
		t.Errorf("unknown port: %v %q", result, text)
	}
}

func TestTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	action := &v1.TCPSocketAction{Port: intstr.FromInt(l.Addr().(*net.TCPAddr).Port)}
	if result, text := TCP(context.Background(), action, &v1.Container{}, "127.0.0.1"); result != Success {
		t.Errorf("%v %q", result, text)
	}
	l.Close()
	if result, text := TCP(context.Background(), action, &v1.Container{}, "127.0.0.1"); result != Failure || !strings.Contains(text, "connection refused") {
		t.Errorf("%v %q", result, text)
	}
}
