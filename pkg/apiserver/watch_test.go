package apiserver_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// frame is a watch event as it is on the wire.
type frame struct {
	Type   string
	Object json.RawMessage
}

// watchFrames opens a watch over plain HTTP.
func watchFrames(t *testing.T, i *instance, query string, headers ...string) func() frame {
	t.Helper()
	rt, err := rest.TransportFor(i.config)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(limited(t), "GET", i.address+maps+"?watch=1&"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; n+1 < len(headers); n += 2 {
		req.Header.Set(headers[n], headers[n+1])
	}
	answer, err := rt.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { answer.Body.Close() })
	if answer.StatusCode != http.StatusOK || answer.Header.Get("Content-Type") != "application/json" {
		t.Fatalf("%d %v", answer.StatusCode, answer.Header)
	}
	lines := bufio.NewScanner(answer.Body)
	lines.Buffer(nil, 1<<20)
	return func() frame {
		t.Helper()
		if !lines.Scan() {
			t.Fatalf("the watch ended: %v", lines.Err())
		}
		var f frame
		if err := json.Unmarshal(lines.Bytes(), &f); err != nil {
			t.Fatalf("%s: %v", lines.Bytes(), err)
		}
		return f
	}
}

func put(t *testing.T, i *instance, name string) {
	t.Helper()
	if code, _, body := raw(t, i, "POST", maps, asJSON, fmt.Sprintf(`{"metadata":{"name":%q}}`, name)); code != http.StatusCreated {
		t.Fatalf("%d %s", code, body)
	}
}

func TestWatch(t *testing.T) {
	i := start(t)
	put(t, i, "a")
	t.Run("WatchList", func(t *testing.T) {
		next := watchFrames(t, i, "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true")
		if f := next(); f.Type != "ADDED" || !strings.HasPrefix(string(f.Object), `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a",`) {
			t.Errorf("%s %s", f.Type, f.Object)
		}
		f := next()
		if f.Type != "BOOKMARK" || !strings.Contains(string(f.Object), `"k8s.io/initial-events-end":"true"`) || !strings.HasPrefix(string(f.Object), `{"kind":"ConfigMap","apiVersion":"v1",`) {
			t.Errorf("%s %s", f.Type, f.Object)
		}
	})
	t.Run("table", func(t *testing.T) {
		next := watchFrames(t, i, "fieldSelector=metadata.name%3Da", "Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
		var table metav1.Table
		if err := json.Unmarshal(next().Object, &table); err != nil {
			t.Fatal(err)
		}
		if table.Kind != "Table" || len(table.ColumnDefinitions) == 0 || len(table.Rows) != 1 || table.Rows[0].Cells[0] != "a" || !strings.Contains(string(table.Rows[0].Object.Raw), "PartialObjectMetadata") {
			t.Errorf("%+v", table)
		}
		if code, _, body := raw(t, i, "PATCH", maps+"/a", "application/merge-patch+json", `{"data":{"x":"y"}}`); code != 200 {
			t.Fatalf("%d %s", code, body)
		}
		var second metav1.Table
		if err := json.Unmarshal(next().Object, &second); err != nil || len(second.ColumnDefinitions) != 0 || len(second.Rows) != 1 {
			t.Errorf("%v %+v", err, second)
		}
	})
	t.Run("gone", func(t *testing.T) {
		if _, err := i.etcd.Client().Compact(t.Context(), revision(t, i)); err != nil {
			t.Fatal(err)
		}
		next := watchFrames(t, i, "resourceVersion=1")
		f := next()
		var st metav1.Status
		if err := json.Unmarshal(f.Object, &st); err != nil || f.Type != "ERROR" || st.Code != http.StatusGone || st.Reason != metav1.StatusReasonExpired {
			t.Errorf("%s %s", f.Type, f.Object)
		}
	})
	t.Run("ends at its time", func(t *testing.T) {
		code, _, body := raw(t, i, "GET", maps+"?watch=1&timeoutSeconds=1&resourceVersion="+fmt.Sprint(revision(t, i)), "", "")
		if code != 200 || len(body) != 0 {
			t.Errorf("%d %s", code, body)
		}
	})
	t.Run("WebSocket", func(t *testing.T) {
		tlsConfig, err := rest.TLSConfigFor(i.config)
		if err != nil {
			t.Fatal(err)
		}
		dialer := websocket.Dialer{TLSClientConfig: tlsConfig}
		conn, answer, err := dialer.DialContext(limited(t), "wss"+strings.TrimPrefix(i.address, "https")+maps+"?watch=1", nil)
		if err != nil {
			t.Fatalf("%v %+v", err, answer)
		}
		defer conn.Close()
		var f frame
		if err := conn.ReadJSON(&f); err != nil || f.Type != "ADDED" {
			t.Errorf("%v %+v", err, f)
		}
	})
}

func revision(t *testing.T, i *instance) int64 {
	t.Helper()
	rev, err := i.store.Revision(limited(t))
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

// TestInformers lets client-go follow a resource, in all its ways to do so.
func TestInformers(t *testing.T) {
	i := start(t)
	put(t, i, "first")
	ctx, cancel := context.WithCancel(limited(t))
	defer cancel()

	seen := make(chan string, 100)
	note := func(who string) cache.ResourceEventHandler {
		name := func(obj any) string {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			return obj.(metav1.Object).GetName()
		}
		return cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { seen <- who + " +" + name(obj) },
			UpdateFunc: func(_, obj any) { seen <- who + " ~" + name(obj) },
			DeleteFunc: func(obj any) { seen <- who + " -" + name(obj) },
		}
	}
	var all []cache.SharedIndexInformer
	for _, contentType := range []string{"application/json", "application/vnd.kubernetes.protobuf"} {
		factory := informers.NewSharedInformerFactoryWithOptions(typed(t, i, contentType), 0, informers.WithNamespace("default"))
		informer := factory.Core().V1().ConfigMaps().Informer()
		all = append(all, informer)
	}
	meta, err := metadata.NewForConfig(i.config)
	if err != nil {
		t.Fatal(err)
	}
	dyn, err := dynamic.NewForConfig(i.config)
	if err != nil {
		t.Fatal(err)
	}
	gvr := corev1.SchemeGroupVersion.WithResource("configmaps")
	all = append(all,
		cache.NewSharedIndexInformer(cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				return dyn.Resource(gvr).Namespace("default").List(ctx, o)
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				return dyn.Resource(gvr).Namespace("default").Watch(ctx, o)
			},
		}, dyn), &unstructured.Unstructured{}, 0, nil),
		cache.NewSharedIndexInformer(&cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				return meta.Resource(gvr).Namespace("default").List(ctx, o)
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				return meta.Resource(gvr).Namespace("default").Watch(ctx, o)
			},
		}, &metav1.PartialObjectMetadata{}, 0, nil),
	)
	done := make(chan struct{}, len(all))
	for n, informer := range all {
		if _, err := informer.AddEventHandler(note(fmt.Sprint(n))); err != nil {
			t.Fatal(err)
		}
		go func() { informer.RunWithContext(ctx); done <- struct{}{} }()
	}
	want := func(what string) {
		t.Helper()
		missing := map[string]bool{}
		for n := range all {
			missing[fmt.Sprintf("%d %s", n, what)] = true
		}
		for len(missing) > 0 {
			select {
			case got := <-seen:
				if !missing[got] {
					t.Fatalf("got %q, missing %v", got, missing)
				}
				delete(missing, got)
			case <-time.After(15 * time.Second):
				t.Fatalf("missing %v", missing)
			}
		}
	}
	want("+first")
	put(t, i, "second")
	want("+second")
	if code, _, body := raw(t, i, "PATCH", maps+"/second", "application/merge-patch+json", `{"data":{"x":"y"}}`); code != 200 {
		t.Fatalf("%d %s", code, body)
	}
	want("~second")
	if code, _, body := raw(t, i, "DELETE", maps+"/first", "", ""); code != 200 {
		t.Fatalf("%d %s", code, body)
	}
	want("-first")
	cancel()
	for range all {
		<-done
	}
}
