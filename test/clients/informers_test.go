package clients

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/pager"
)

// requests counts what an informer asks: how often for everything, by which way,
// and how often for what comes after.
type requests struct {
	mu                           sync.Mutex
	lists, watchLists, resumings int
}

func (r *requests) config() *rest.Config {
	config := rest.CopyConfig(restConfig)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(request *http.Request) (*http.Response, error) {
			q := request.URL.Query()
			r.mu.Lock()
			switch {
			case q.Get("watch") == "":
				r.lists++
			case q.Get("sendInitialEvents") == "true":
				r.watchLists++
			default:
				r.resumings++
			}
			r.mu.Unlock()
			return next.RoundTrip(request)
		})
	})
	return config
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// follower is an informer, and what its handlers were told.
type follower struct {
	name      string
	requests  *requests
	informer  cache.SharedIndexInformer
	watchList bool // how it is expected to begin
	mu        sync.Mutex
	told      map[string]string // resourceVersion by name
	complaint string
}

func (f *follower) start(t *testing.T) {
	f.told = map[string]string{}
	note := func(event string, obj any) {
		f.mu.Lock()
		defer f.mu.Unlock()
		o, err := meta.Accessor(obj)
		if err != nil {
			f.complaint = fmt.Sprintf("%s of a %T", event, obj)
			return
		}
		_, known := f.told[o.GetName()]
		if known != (event != "add") {
			f.complaint = fmt.Sprintf("%s of %s, which was there before: %v", event, o.GetName(), known)
		}
		if event == "delete" {
			delete(f.told, o.GetName())
		} else {
			f.told[o.GetName()] = o.GetResourceVersion()
		}
	}
	f.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { note("add", obj) },
		UpdateFunc: func(_, obj any) { note("update", obj) },
		DeleteFunc: func(obj any) { note("delete", obj) },
	})
	go f.informer.RunWithContext(t.Context())
	if !cache.WaitForCacheSync(t.Context().Done(), f.informer.HasSynced) {
		t.Fatalf("%s never synced", f.name)
	}
}

// has compares what the handlers were told, and the informer's store, with what is so.
func (f *follower) has(want map[string]string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.complaint != "" {
		return fmt.Errorf("%s was told of %s", f.name, f.complaint)
	}
	if !maps.Equal(f.told, want) {
		return fmt.Errorf("%s was told %v, want %v", f.name, f.told, want)
	}
	if n := len(f.informer.GetStore().List()); n != len(want) {
		return fmt.Errorf("%s stores %d objects, want %d", f.name, n, len(want))
	}
	return nil
}

// askedOnce is the point of watches: everything is asked for once, whatever happens.
func (f *follower) askedOnce(t *testing.T) {
	t.Helper()
	f.requests.mu.Lock()
	defer f.requests.mu.Unlock()
	lists, watchLists := 1, 0
	if f.watchList {
		lists, watchLists = 0, 1
	}
	if f.requests.lists != lists || f.requests.watchLists != watchLists {
		t.Errorf("%s listed %d times and watch-listed %d times, want %d and %d", f.name, f.requests.lists, f.requests.watchLists, lists, watchLists)
	}
	if f.requests.resumings == 0 {
		t.Errorf("%s never went on with its watch", f.name)
	}
}

// classic is a client that knows no WatchList, as older ones don't.
type classic struct{ *cache.ListWatch }

func (classic) IsWatchListSemanticsUnSupported() bool { return true }

// TestInformers follows config maps with every kind of informer that there is,
// through writes and the death of the apiserver.
func TestInformers(t *testing.T) {
	ns := newNamespace(t)
	configMaps := client.CoreV1().ConfigMaps(ns)
	gvr := v1.SchemeGroupVersion.WithResource("configmaps")
	only := func(o *metav1.ListOptions) { o.LabelSelector = "followed=yes" }

	var followers []*follower
	for name, informer := range map[string]func(*rest.Config) cache.SharedIndexInformer{
		"typed": func(c *rest.Config) cache.SharedIndexInformer {
			return informers.NewSharedInformerFactoryWithOptions(kubernetes.NewForConfigOrDie(c), 0,
				informers.WithNamespace(ns), informers.WithTweakListOptions(only)).Core().V1().ConfigMaps().Informer()
		},
		"classic": func(c *rest.Config) cache.SharedIndexInformer {
			configMaps := kubernetes.NewForConfigOrDie(c).CoreV1().ConfigMaps(ns)
			return cache.NewSharedIndexInformer(classic{&cache.ListWatch{
				ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
					only(&o)
					return configMaps.List(ctx, o)
				},
				WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
					only(&o)
					return configMaps.Watch(ctx, o)
				},
			}}, &v1.ConfigMap{}, 0, nil)
		},
		"dynamic": func(c *rest.Config) cache.SharedIndexInformer {
			return dynamicinformer.NewFilteredDynamicInformer(dynamic.NewForConfigOrDie(c), gvr, ns, 0, nil, only).Informer()
		},
		"metadata": func(c *rest.Config) cache.SharedIndexInformer {
			return metadatainformer.NewFilteredMetadataInformer(metadata.NewForConfigOrDie(c), gvr, ns, 0, nil, only).Informer()
		},
	} {
		r := &requests{}
		followers = append(followers, &follower{name: name, requests: r, informer: informer(r.config()), watchList: name != "classic"})
	}

	want := map[string]string{}
	write := func(name string, labels map[string]string) {
		t.Helper()
		c, err := configMaps.Create(t.Context(), &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if labels["followed"] == "yes" {
			want[name] = c.ResourceVersion
		}
	}
	change := func(name, patch string) {
		t.Helper()
		c, err := configMaps.Patch(t.Context(), name, "application/merge-patch+json", []byte(patch), metav1.PatchOptions{})
		if err != nil {
			t.Fatal(err)
		}
		delete(want, name)
		if c.Labels["followed"] == "yes" {
			want[name] = c.ResourceVersion
		}
	}
	remove := func(name string) {
		t.Helper()
		if err := configMaps.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		delete(want, name)
	}
	same := func(when string) {
		t.Helper()
		for _, f := range followers {
			eventually(t, 30*time.Second, when, func() error { return f.has(want) })
		}
	}

	followed := map[string]string{"followed": "yes"}
	for i := range 20 {
		write(fmt.Sprintf("c%d", i), followed)
	}
	write("stranger", nil)
	for _, f := range followers {
		f.start(t)
	}
	same("after the start")

	write("new", followed)
	change("c0", `{"data":{"a":"b"}}`)
	remove("c1")
	change("stranger", `{"metadata":{"labels":{"followed":"yes"}}}`) // comes into sight
	change("c2", `{"metadata":{"labels":null}}`)                     // leaves it
	same("after writes")

	killApiserver(t)
	write("newer", followed)
	change("c3", `{"data":{"a":"b"}}`)
	remove("c4")
	same("after the apiserver's death")
	for _, f := range followers {
		f.askedOnce(t)
	}

	// Metadata informers get no data.
	for _, f := range followers {
		if obj, exists, _ := f.informer.GetStore().GetByKey(ns + "/c3"); exists {
			if _, partial := obj.(*metav1.PartialObjectMetadata); partial != (f.name == "metadata") {
				t.Errorf("%s holds a %T", f.name, obj)
			}
		}
	}
}

// TestCustomResourceInformer follows a kind that was not there when the client was made.
func TestCustomResourceInformer(t *testing.T) {
	ns := newNamespace(t)
	const group = "informers.clients.test"
	newCRD(t, group, "boats", "Boat")
	gvr := schema.GroupVersionResource{Group: group, Version: "v1", Resource: "boats"}
	boats := dynamicClient.Resource(gvr).Namespace(ns)
	boat := func(name string) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{"apiVersion": group + "/v1", "kind": "Boat",
			"metadata": map[string]any{"name": name}, "spec": map[string]any{"size": int64(1)}}}
	}
	want := map[string]string{}
	create := func(name string) {
		t.Helper()
		b, err := boats.Create(t.Context(), boat(name), metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		want[name] = b.GetResourceVersion()
	}
	create("first")
	whole, part := &requests{}, &requests{}
	followers := []*follower{
		{name: "dynamic", requests: whole, watchList: true,
			informer: dynamicinformer.NewFilteredDynamicInformer(dynamic.NewForConfigOrDie(whole.config()), gvr, ns, 0, nil, nil).Informer()},
		{name: "metadata", requests: part, watchList: true,
			informer: metadatainformer.NewFilteredMetadataInformer(metadata.NewForConfigOrDie(part.config()), gvr, ns, 0, nil, nil).Informer()},
	}
	for _, f := range followers {
		f.start(t)
	}
	create("second")
	for _, f := range followers { // a watch that ends young and without an event is begun anew
		eventually(t, 30*time.Second, "after a creation", func() error { return f.has(want) })
	}
	killApiserver(t)
	create("third")
	b, err := boats.Patch(t.Context(), "first", "application/merge-patch+json", []byte(`{"status":{"copies":3}}`), metav1.PatchOptions{}, "status")
	if err != nil {
		t.Fatal(err)
	}
	want["first"] = b.GetResourceVersion()
	if err := boats.Delete(t.Context(), "second", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	delete(want, "second")
	for _, f := range followers {
		eventually(t, 30*time.Second, "after the apiserver's death", func() error { return f.has(want) })
		f.askedOnce(t)
	}
}

// TestBookmarks wants a watch of something that never changes to learn how far the
// world went meanwhile: that is what lets it go on after a long silence.
func TestBookmarks(t *testing.T) {
	ns := newNamespace(t)
	list, err := client.CoreV1().Secrets(ns).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := client.CoreV1().Secrets(ns).Watch(t.Context(), metav1.ListOptions{
		AllowWatchBookmarks: true, ResourceVersion: list.ResourceVersion, TimeoutSeconds: new(int64(5)),
	})
	if err != nil {
		t.Fatal(err)
	}
	other, err := client.CoreV1().ConfigMaps(ns).Create(t.Context(), &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "other"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	last := ""
	for event := range w.ResultChan() {
		secret, ok := event.Object.(*v1.Secret)
		if event.Type != watch.Bookmark || !ok || secret.Name != "" || len(secret.Data) != 0 {
			t.Fatalf("a silent watch got %s of %v", event.Type, event.Object)
		}
		last = secret.ResourceVersion
	}
	if order, err := resourceversion.CompareResourceVersion(last, other.ResourceVersion); err != nil || order < 0 {
		t.Errorf("the last bookmark is at %q, the other write was at %s: %v", last, other.ResourceVersion, err)
	}
}

// TestPages reads a list page by page, and wants it as it was at its first page.
func TestPages(t *testing.T) {
	ns := newNamespace(t)
	configMaps := client.CoreV1().ConfigMaps(ns)
	eventually(t, 30*time.Second, "the namespace has its certificates", func() error {
		_, err := configMaps.Get(t.Context(), "kube-root-ca.crt", metav1.GetOptions{})
		return err
	})
	for i := range 25 {
		c := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("c%02d", i), Labels: map[string]string{"paged": "yes"}}}
		if _, err := configMaps.Create(t.Context(), c, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	pages := 0
	p := pager.New(func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		list, err := configMaps.List(ctx, o)
		if err != nil {
			return nil, err
		}
		pages++
		if pages == 1 {
			if list.RemainingItemCount != nil { // not told with a selector
				t.Errorf("%d items remain, by a selector", *list.RemainingItemCount)
			}
			if err := configMaps.Delete(ctx, "c24", metav1.DeleteOptions{}); err != nil {
				return nil, err
			}
		}
		return list, nil
	})
	p.PageSize = 10
	var names []string
	version := ""
	obj, paginated, err := p.List(t.Context(), metav1.ListOptions{LabelSelector: "paged=yes"})
	if err != nil || !paginated {
		t.Fatalf("paginated %v: %v", paginated, err)
	}
	if err := meta.EachListItem(obj, func(o runtime.Object) error {
		m, err := meta.Accessor(o)
		names = append(names, m.GetName())
		version = m.GetResourceVersion()
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if pages != 3 || len(names) != 25 || names[24] != "c24" || version == "" {
		t.Errorf("%d pages of %s, want 3 with c00 to c24", pages, strings.Join(names, " "))
	}
	list, err := configMaps.List(t.Context(), metav1.ListOptions{Limit: 20})
	if err != nil {
		t.Fatal(err)
	}
	// 24 are left, and kube-root-ca.crt.
	if list.Continue == "" || list.RemainingItemCount == nil || *list.RemainingItemCount != 5 {
		t.Errorf("a list of 20 of 25 goes on at %q, and %v remain", list.Continue, list.RemainingItemCount)
	}
	if _, err := configMaps.List(t.Context(), metav1.ListOptions{Limit: 20, Continue: "!" + list.Continue}); !apierrors.IsBadRequest(err) {
		t.Errorf("a broken continue token: %v", err)
	}
}
