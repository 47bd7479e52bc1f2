package component

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/blang/semver/v4"
	"k8s.io/klog/v2"
)

// The version must not be a pre-release: chart constraints leave those out.
func TestVersionIsARelease(t *testing.T) {
	v, err := semver.Parse(strings.TrimPrefix(Version().GitVersion, "v"))
	if err != nil {
		t.Fatal(err)
	}
	if len(v.Pre) != 0 || !semver.MustParseRange(">=1.36.0 <1.37.0")(v) {
		t.Errorf("%s is no release of 1.36", v)
	}
}

func TestHealth(t *testing.T) {
	var h Health
	h.Live("loop", func() error { return nil })
	h.Ready("etcd", func() error { return errors.New("no leader") })
	h.Ready("disk", func() error { return Notice("nearly full") })
	mux := http.NewServeMux()
	h.Handle(mux.Handle)
	for _, c := range []struct {
		path string
		code int
		body string
	}{
		{"/livez", 200, "ok"},
		{"/healthz?verbose", 200, "[+]ping ok\n[+]loop ok\nhealthz check passed\n"},
		{"/readyz", 500, "[+]ping ok\n[+]loop ok\n[-]etcd failed: no leader\n[+]disk ok: nearly full\nreadyz check failed\n"},
		{"/readyz/disk", 200, "ok"},
		{"/readyz?exclude=etcd", 200, "ok"},
		{"/readyz/loop", 200, "ok"},
		{"/readyz/etcd", 500, "internal server error: no leader\n"},
		{"/livez/etcd", 404, "404 page not found\n"},
	} {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest("GET", c.path, nil))
		if w.Code != c.code || w.Body.String() != c.body {
			t.Errorf("%s: %d %q, want %d %q", c.path, w.Code, w.Body.String(), c.code, c.body)
		}
	}
}

func TestGroupStopsTogether(t *testing.T) {
	broken := errors.New("broken")
	var g Group
	stopped := false
	g.Add("waits", func(ctx context.Context) error { <-ctx.Done(); stopped = true; return ctx.Err() })
	g.Add("fails", func(context.Context) error { return broken })
	if err := g.Run(context.Background()); !errors.Is(err, broken) || !strings.HasPrefix(err.Error(), "fails: ") {
		t.Errorf("Run = %v, want the failing part's error under its name", err)
	}
	if !stopped {
		t.Error("Run returned before the other part had stopped")
	}
}

func TestGroupStopIsNoFailure(t *testing.T) {
	var g Group
	g.Add("waits", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := g.Run(ctx); err != nil {
		t.Errorf("Run = %v after its context was cancelled", err)
	}
}

func TestLibrariesLogThroughSlog(t *testing.T) {
	defer slog.SetDefault(slog.Default())
	var out bytes.Buffer
	l := Logging{Format: "json"}
	if _, err := l.Logger(&out, "test"); err != nil {
		t.Fatal(err)
	}
	klog.V(2).Info("chatter")
	klog.Warning("a real problem")
	klog.Flush()
	if text := out.String(); strings.Contains(text, "chatter") || !strings.Contains(text, "a real problem") {
		t.Errorf("log is %q", text)
	}
	if _, err := (&Logging{Format: "xml"}).Logger(io.Discard, "test"); err == nil {
		t.Error("--logging-format xml is taken")
	}
}

type verdict int

func (v verdict) Check(*http.Request) (int, string) { return int(v), "because" }

func TestGuarded(t *testing.T) {
	ok := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "metrics") })
	for name, c := range map[string]struct {
		access Access
		code   int
	}{
		"nobody asked": {nil, 403}, "unknown": {verdict(401), 401}, "refused": {verdict(403), 403}, "allowed": {verdict(200), 200},
	} {
		w := httptest.NewRecorder()
		guarded(c.access, ok).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		if w.Code != c.code {
			t.Errorf("%s: %d, want %d", name, w.Code, c.code)
		}
	}
}
