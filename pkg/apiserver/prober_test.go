package apiserver_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/api"
	"skiff/pkg/apiserver"
)

// prober sends requests that no client library would, and judges the answers.
type prober struct {
	*instance
	conn  net.Conn
	read  *bufio.Reader
	alarm *alarm
}

// startProber starts a server with real admission, which lets everybody in as an administrator.
func startProber(t testing.TB, change ...func(*apiserver.Config)) *prober {
	t.Helper()
	p := &prober{alarm: &alarm{}}
	p.instance = start(t, append(change, func(c *apiserver.Config) {
		c.Logger = slog.New(p.alarm)
		open := *c
		if err := apiserver.Secure(&open, apiserver.Security{SigningKeyFile: signingKey(t), Issuers: []string{"https://kubernetes.default.svc"}}); err != nil {
			t.Fatal(err)
		}
		c.Admission, c.Parts = open.Admission, open.Parts
	})...)
	p.direct(t)(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: "default"}})
	t.Cleanup(p.hangUp)
	eventually(t, func(context.Context) (bool, error) {
		code, _, _ := raw(t, p.instance, "GET", "/readyz", "", "")
		return code == http.StatusOK, nil
	})
	p.alarm.take()
	return p
}

func signingKey(t testing.TB) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "sa.key")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// alarm keeps what a server logs as an error: panics, and failures that are no client's fault.
type alarm struct {
	mu   sync.Mutex
	heap []string
}

func (a *alarm) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelError }
func (a *alarm) WithAttrs([]slog.Attr) slog.Handler               { return a }
func (a *alarm) WithGroup(string) slog.Handler                    { return a }
func (a *alarm) Handle(_ context.Context, r slog.Record) error {
	line := r.Message
	r.Attrs(func(attr slog.Attr) bool {
		line += fmt.Sprintf(" %s=%v", attr.Key, attr.Value)
		return true
	})
	a.mu.Lock()
	defer a.mu.Unlock()
	a.heap = append(a.heap, line)
	return nil
}

func (a *alarm) take() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := a.heap
	a.heap = nil
	return all
}

func clientTLS(t testing.TB, i *instance) *tls.Config {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(i.config.CAData)
	return &tls.Config{RootCAs: roots}
}

// dialTLS makes a connection that speaks HTTP/1.1, or what is named.
func dialTLS(t testing.TB, i *instance, protocols ...string) *tls.Conn {
	t.Helper()
	config := clientTLS(t, i)
	config.NextProtos = protocols
	conn, err := tls.Dial("tcp", i.config.Host, config)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func (p *prober) hangUp() {
	if p.conn != nil {
		_ = p.conn.Close()
		p.conn = nil
	}
}

// probe is one request, as it goes over the wire.
type probe struct {
	method, target, contentType, accept string
	headers                             []string // name, value, …
	body                                []byte
	tail                                []byte // what follows on an upgraded connection
}

// field makes text fit for one line of a request.
func field(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, text)
}

// target makes text fit for a request line: what net/http itself would refuse is no concern here.
func target(text string) string {
	return "/" + strings.ReplaceAll(strings.TrimLeft(field(text), "/"), " ", "%20")
}

func (r *probe) wire() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n", r.method, r.target, len(r.body))
	headers := append([]string{"Content-Type", r.contentType, "Accept", r.accept}, r.headers...)
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i+1] != "" {
			fmt.Fprintf(&b, "%s: %s\r\n", headers[i], field(headers[i+1]))
		}
	}
	b.WriteString("\r\n")
	b.Write(r.body)
	return b.Bytes()
}

// ask sends the request and reads the answer; of one that is no error, at most as much as is given.
func (p *prober) ask(t testing.TB, r probe, most int64) (*http.Response, []byte) {
	t.Helper()
	for fresh := false; ; fresh = true {
		if p.conn == nil {
			p.conn, fresh = dialTLS(t, p.instance), true
			p.read = bufio.NewReader(p.conn)
		}
		_ = p.conn.SetDeadline(time.Now().Add(time.Minute))
		go func(conn net.Conn) { _, _ = conn.Write(r.wire()) }(p.conn) // the server may answer before it has read all
		answer, err := http.ReadResponse(p.read, &http.Request{Method: r.method})
		if err != nil {
			p.hangUp()
			if fresh {
				t.Fatalf("no answer to %s %.200s: %v; %q", r.method, r.target, err, p.alarm.take())
			}
			continue // the server may end an idle connection
		}
		limit := most
		switch {
		case answer.StatusCode == http.StatusSwitchingProtocols:
			_, _ = p.conn.Write(r.tail)
		case answer.StatusCode >= 400:
			limit = 1 << 20
		}
		body, err := io.ReadAll(io.LimitReader(answer.Body, limit))
		if err != nil {
			t.Fatalf("%s %.200s: %d %v", r.method, r.target, answer.StatusCode, err)
		}
		if int64(len(body)) == limit || answer.Close || r.tail != nil {
			p.hangUp()
		}
		return answer, body
	}
}

// expect asks and fails unless the answer is one that a client can make sense of: no failure of
// the server, and a Status with code and reason for every refusal.
func (p *prober) expect(t testing.TB, r probe) int {
	t.Helper()
	answer, body := p.ask(t, r, 64<<20)
	p.judge(t, r, answer, body)
	return answer.StatusCode
}

func (p *prober) judge(t testing.TB, r probe, answer *http.Response, body []byte) {
	t.Helper()
	complain := func(format string, args ...any) {
		t.Helper()
		t.Fatalf("%s\n%s %.300s (%s, %s)\n%.2000s\n→ %d %s %.1000s", fmt.Sprintf(format, args...), r.method, r.target, r.contentType, r.accept, r.body,
			answer.StatusCode, answer.Header.Get("Content-Type"), body)
	}
	if lines := p.alarm.take(); len(lines) > 0 {
		complain("the server logged %q", lines)
	}
	code := answer.StatusCode
	if code < 400 || r.method == http.MethodHead || answer.Close && bytes.HasPrefix(body, []byte("4")) { // net/http's own refusal of what is no HTTP
		return
	}
	if code == http.StatusNotAcceptable && strings.HasPrefix(r.target, "/openapi/") && len(body) == 0 {
		return // as kube-openapi has it
	}
	text := answer.Header.Get("Content-Type")
	if strings.HasPrefix(text, "text/plain") && slices.ContainsFunc([]string{"/healthz", "/livez", "/readyz"}, func(p string) bool { return strings.HasPrefix(r.target, p) }) {
		return
	}
	if code == http.StatusNotFound && strings.HasPrefix(text, "text/plain") && string(body) == "404 page not found\n" {
		return // no API begins there
	}
	obj, _, err := api.Codecs.UniversalDeserializer().Decode(body, nil, nil)
	if err != nil {
		complain("no Status: %v", err)
	}
	st, ok := obj.(*metav1.Status)
	if !ok || st.Status != metav1.StatusFailure || int(st.Code) != code {
		complain("a bad Status: %+v", obj)
	}
	// Where a strategic merge fails, the library's error is all that Kubernetes says.
	merge := r.contentType == "application/strategic-merge-patch+json" && st.Reason == ""
	if code >= 500 && !merge && !intended(st) {
		complain("a failure of the server")
	}
	if st.Reason == "" && code < 500 {
		complain("no reason")
	}
}

// intended failures are Kubernetes' own.
func intended(st *metav1.Status) bool {
	return slices.ContainsFunc([]string{
		"resourceVersion should not be set on objects to be created", // these have no reason
		"Too large resource version",                                 // a timeout, as it may be reached yet
		"no endpoints available for service", "no service port",
		"failed to create typed patch object", "failed to convert new object", "target.kind: ", "target.name: ",
	}, func(text string) bool { return strings.Contains(st.Message, text) })
}
