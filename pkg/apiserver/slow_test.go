package apiserver_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	goruntime "runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/apiserver"
	"skiff/pkg/apiserver/request"
)

// impatient is a server with room for one request, and not for long, whose users are nobody special.
func impatient(c *apiserver.Config) {
	c.RequestTimeout, c.Seats, c.Authenticator = 300*time.Millisecond, 1, ordinary{}
}

type ordinary struct{ everyone }

func (ordinary) Authenticate(*http.Request) (*request.User, error) {
	return &request.User{Name: "somebody", Groups: []string{request.Authenticated}}, nil
}

// served waits until a request gets through: whatever held the only place has let go of it.
func served(t *testing.T, i *instance, method, path, body string) {
	t.Helper()
	eventually(t, func(context.Context) (bool, error) {
		code, _, answer := raw(t, i, method, path, asJSON, body)
		if code < 300 || code == http.StatusTooManyRequests {
			return code < 300, nil
		}
		return false, fmt.Errorf("%d %s", code, answer)
	})
}

// A body that never ends is given up, and its place with it.
func TestSlowBody(t *testing.T) {
	i := start(t, impatient)
	for name, one := range map[string]bool{"HTTP/1": true, "HTTP/2": false} {
		t.Run(name, func(t *testing.T) {
			roots := clientTLS(t, i)
			client := &http.Client{Transport: &http.Transport{TLSClientConfig: roots, ForceAttemptHTTP2: !one}}
			defer client.CloseIdleConnections()
			slow, send := io.Pipe()
			defer send.Close()
			go func() { // a byte now and then, for as long as the server takes them
				for _, err := send.Write([]byte("{")); err == nil; _, err = send.Write([]byte(" ")) {
					time.Sleep(20 * time.Millisecond)
				}
			}()
			answer, err := client.Post(i.address+maps, asJSON, slow)
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Body.Close()
			var st metav1.Status
			if err := json.NewDecoder(answer.Body).Decode(&st); err != nil || answer.StatusCode != http.StatusGatewayTimeout || st.Reason != metav1.StatusReasonTimeout {
				t.Errorf("%s: %+v, %v", answer.Proto, st, err)
			}
			served(t, i, "POST", maps, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"generateName":"x"}}`)
		})
	}
}

// A client that doesn't read what it has asked for is given up, and its place with it.
func TestSlowReader(t *testing.T) {
	i := start(t, impatient)
	direct := i.direct(t)
	for n := range 24 { // more than any socket takes
		direct(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("x", n), Namespace: "default"}, Data: map[string]string{"a": strings.Repeat("x", 1<<20)}})
	}
	for name, path := range map[string]string{"list": maps, "watch": maps + "?watch=1&timeoutSeconds=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"} {
		t.Run(name, func(t *testing.T) {
			conn := dialTLS(t, i)
			defer conn.Close()
			if tcp, ok := conn.NetConn().(*net.TCPConn); ok {
				_ = tcp.SetReadBuffer(4096)
			}
			fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: test\r\n\r\n", path)
			if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil { // it has begun
				t.Fatal(err)
			}
			served(t, i, "GET", maps+"/x0", "")
			eventually(t, func(context.Context) (bool, error) { // nor does a watch stay
				_, _, body := raw(t, i, "GET", "/metrics", "", "")
				return !watches.Match(body), nil
			})
		})
	}
}

var watches = regexp.MustCompile(`(?m)^apiserver_longrunning_requests\{.*verb="WATCH".* [1-9]`)

// A thousand connections that do nothing cost little, and keep nobody out.
func TestIdleConnections(t *testing.T) {
	i := start(t)
	raw(t, i, "GET", "/version", "", "")
	const n = 1000
	before, _ := heap()
	for range n {
		conn := dialTLS(t, i)
		defer conn.Close()
	}
	after, _ := heap()
	t.Logf("%d bytes a connection, both ends of it", (after-before)/n)
	if (after-before)/n > 200<<10 {
		t.Errorf("%d bytes a connection", (after-before)/n)
	}
	if code, _, body := raw(t, i, "GET", maps, "", ""); code != http.StatusOK {
		t.Errorf("%d %s", code, body)
	}
}

// Streams that are reset as soon as they are asked for don't pile up (CVE-2023-44487).
func TestRapidReset(t *testing.T) {
	i := start(t)
	served(t, i, "GET", maps, "")
	before := goruntime.NumGoroutine()
	conn := dialTLS(t, i, "h2")
	defer conn.Close()
	go func() { _, _ = io.Copy(io.Discard, conn) }()
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, h := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "test"}, {":path", maps}} {
		_ = encoder.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
	}
	_, _ = io.WriteString(conn, http2.ClientPreface)
	framer := http2.NewFramer(conn, nil)
	_ = framer.WriteSettings()
	most := 0
	for id := uint32(1); id < 20000; id += 2 {
		err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
		if err == nil {
			err = framer.WriteRSTStream(id, http2.ErrCodeCancel)
		}
		most = max(most, goruntime.NumGoroutine()-before)
		if err != nil {
			break // the server has had enough
		}
	}
	t.Logf("%d goroutines at most", most)
	if most > 1000 {
		t.Errorf("%d goroutines for one connection", most)
	}
	served(t, i, "GET", maps, "")
	_ = conn.Close()
	eventually(t, func(context.Context) (bool, error) { return goruntime.NumGoroutine() <= before+2, nil })
}

// A request whose headers never end is none, and whoever sends it holds nothing but a connection.
func TestSlowHeaders(t *testing.T) {
	i := start(t, impatient)
	for range 50 {
		conn := dialTLS(t, i)
		defer conn.Close()
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: test\r\nX-Slow: ", maps)
	}
	if code, _, body := raw(t, i, "GET", maps, "", ""); code != http.StatusOK {
		t.Errorf("%d %s", code, body)
	}
}
