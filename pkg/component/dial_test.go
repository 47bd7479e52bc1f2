package component

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// apiserver answers with its name over TLS.
func apiserver(t *testing.T, name string) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, name) }))
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func address(s *httptest.Server) string { return s.Listener.Addr().String() }

// nobody is an address that refuses connections.
func nobody(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// frozen accepts connections, as the kernel does for a process that stands still, and never answers.
func frozen(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

func dialled(t *testing.T, c Client, host string) *rest.Config {
	t.Helper()
	config := &rest.Config{Host: host, TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
	if err := c.dial(config); err != nil {
		t.Fatal(err)
	}
	config.Wrap(resume)
	return config
}

func clientOf(t *testing.T, c Client, server string) *http.Client {
	t.Helper()
	config := dialled(t, c, "https://"+server)
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.CloseIdleConnections)
	return client
}

func ask(t *testing.T, client *http.Client, server string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+server+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestFallback(t *testing.T) {
	one, two := apiserver(t, "one"), apiserver(t, "two")
	learnt, err := LoadServers(filepath.Join(t.TempDir(), "dir", "servers"))
	if err != nil {
		t.Fatal(err)
	}
	if err := learnt.Learn([]string{address(two)}); err != nil {
		t.Fatal(err)
	}
	again, err := LoadServers(learnt.file)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Learn(nil); err != nil || len(again.known()) != 1 {
		t.Errorf("nothing was learnt, and believed: %v, %v", again.known(), err)
	}
	for name, c := range map[string]struct {
		client Client
		server string
		want   string
	}{
		"the kubeconfig's answers":   {Client{Fallback: []string{address(two)}}, address(one), "one"},
		"refused, one is given":      {Client{Fallback: []string{nobody(t), address(two)}}, nobody(t), "two"},
		"refused, one is remembered": {Client{Servers: again}, nobody(t), "two"},
		"its process stands still":   {Client{Fallback: []string{address(two)}}, frozen(t), "two"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := ask(t, clientOf(t, c.client, c.server), c.server); got != c.want {
				t.Errorf("%s answered, not %s", got, c.want)
			}
		})
	}
}

func TestCandidates(t *testing.T) {
	d := newDialer("a:1", []string{"b:1", "a:1"}, &Servers{addresses: []string{"b:1"}})
	if got := strings.Join(d.candidates(), " "); got != "a:1 b:1" {
		t.Errorf("tried in the order %s", got)
	}
	d.shun("a:1")
	if got := strings.Join(d.candidates(), " "); got != "b:1 a:1" {
		t.Errorf("after a failure: %s", got)
	}
}

// Clients made from copies use one connection, with credentials or wrappers of their own on top.
func TestShared(t *testing.T) {
	var connections atomic.Int32
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Header.Get("User-Agent"), r.Header.Get("Authorization"))
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	config := dialled(t, Client{}, "https://"+address(s))
	config.UserAgent = "me"
	shared, err := Shared(config)
	if err != nil {
		t.Fatal(err)
	}
	for _, token := range []string{"", "x"} {
		copied := rest.CopyConfig(shared)
		copied.BearerToken = token
		client, err := rest.HTTPClientFor(copied)
		if err != nil {
			t.Fatal(err)
		}
		want := "me"
		if token != "" {
			want += "Bearer x"
		}
		if got := ask(t, client, address(s)); got != want {
			t.Errorf("sent %q, not %q", got, want)
		}
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// While no server answers, an informer's watch waits, and then goes on where it was, without a list.
func TestWatchResumes(t *testing.T) {
	var lists, watches atomic.Int32
	var resumed atomic.Bool
	broken := make(chan struct{})
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		q := r.URL.Query()
		if q.Get("watch") == "" {
			lists.Add(1)
			fmt.Fprint(w, `{"kind":"ConfigMapList","apiVersion":"v1","metadata":{"resourceVersion":"7"},"items":[]}`)
			return
		}
		if q.Get("sendInitialEvents") == "true" {
			w.WriteHeader(http.StatusUnprocessableEntity)
			fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Invalid","code":422}`)
			return
		}
		watches.Add(1)
		if q.Get("resourceVersion") == "8" {
			resumed.Store(true)
		}
		fmt.Fprint(w, `{"type":"ADDED","object":{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a","resourceVersion":"8"}}}`+"\n")
		_ = http.NewResponseController(w).Flush()
		select {
		case <-r.Context().Done():
		case <-broken:
			panic(http.ErrAbortHandler)
		}
	})
	serve := func(where string) *httptest.Server {
		s := httptest.NewUnstartedServer(handler)
		if where != "" {
			s.Listener.Close()
			l, err := net.Listen("tcp", where)
			if err != nil {
				t.Fatal(err)
			}
			s.Listener = l
		}
		s.EnableHTTP2 = true
		s.StartTLS()
		return s
	}
	one := serve("")
	where := address(one)
	config := dialled(t, Client{}, "https://"+where)
	factory := informers.NewSharedInformerFactory(kubernetes.NewForConfigOrDie(config), 0)
	informer := factory.Core().V1().ConfigMaps().Informer()
	ctx, cancel := context.WithCancel(t.Context())
	defer factory.Shutdown()
	defer cancel()
	factory.StartWithContext(ctx)
	until := func(what string, condition func() bool) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); !condition(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("waited in vain: %s", what)
			}
		}
	}
	until("the first watch", func() bool { return informer.LastSyncResourceVersion() == "8" })
	broken <- struct{}{}
	until("the watch's return after its stream broke", func() bool { return resumed.Swap(false) })
	one.CloseClientConnections()
	one.Listener.Close() // requests of its that still run don't matter
	until("the server's end", func() bool {
		conn, err := tls.Dial("tcp", where, &tls.Config{InsecureSkipVerify: true})
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	two := serve(where)
	t.Cleanup(two.CloseClientConnections)
	until("the watch's return", func() bool { return resumed.Load() })
	cancel()
	if lists.Load() != 1 {
		t.Errorf("%d lists", lists.Load())
	}
}
