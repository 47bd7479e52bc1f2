package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"skiff/pkg/api"
	"skiff/pkg/store"
	"skiff/pkg/store/storetest"
)

func createPod(t testing.TB, s store.Interface, name string, w store.Write) (*store.Entry, error) {
	return s.Create(t.Context(), storetest.Pods, storetest.PodKey("a", name), storetest.Pod("a", name), w)
}

// An effect's comparison and operations are one with the write.
func TestEffects(t *testing.T) {
	t.Parallel()
	client := newMember(t).etcd.Client()
	s, _ := run(t, client)
	taken := errors.New("the address is taken")
	claim := func(key string) func(obj, old api.Object) (store.Effect, error) {
		return func(obj, old api.Object) (store.Effect, error) {
			if old != nil {
				return store.Effect{}, fmt.Errorf("old is %v on create", old)
			}
			return store.Effect{
				Compare: []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", 0)},
				Ops:     []clientv3.Op{clientv3.OpPut(key, obj.GetName())},
				Else:    []clientv3.Op{clientv3.OpGet(key)},
				Failed: func(answer *clientv3.TxnResponse) error {
					if len(answer.Responses[0].GetResponseRange().Kvs) > 0 {
						return taken
					}
					return nil
				},
			}, nil
		}
	}
	e, err := createPod(t, s, "x", store.Write{Effects: []func(_, _ api.Object) (store.Effect, error){claim("/registry/ip/1"), claim("/registry/ip/2")}})
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"/registry/ip/1", "/registry/ip/2"} {
		if got, err := client.Get(t.Context(), key); err != nil || len(got.Kvs) != 1 || got.Kvs[0].ModRevision != e.Revision {
			t.Errorf("%s: %v, %v; want it written at revision %d", key, got, err, e.Revision)
		}
	}
	_, err = createPod(t, s, "y", store.Write{Effects: []func(_, _ api.Object) (store.Effect, error){claim("/registry/ip/3"), claim("/registry/ip/2")}})
	if !errors.Is(err, taken) {
		t.Errorf("got %v, want the effect's error", err)
	}
	if got, _ := client.Get(t.Context(), "/registry/ip/3"); got.Count != 0 {
		t.Error("half of a refused write was done")
	}
	if _, err := s.Get(t.Context(), storetest.Pods, storetest.PodKey("a", "y"), 0); !apierrors.IsNotFound(err) {
		t.Errorf("the object of a refused write: %v", err)
	}

	asked := 0
	again := func(obj, old api.Object) (store.Effect, error) { // wants another try, with another key
		asked++
		return store.Effect{Compare: []clientv3.Cmp{clientv3.Compare(clientv3.Version(fmt.Sprint("/registry/ip/", asked)), "=", 0)}}, nil
	}
	if _, err := createPod(t, s, "z", store.Write{Effects: []func(_, _ api.Object) (store.Effect, error){again}}); err != nil || asked != 3 {
		t.Errorf("%v after asking %d times, want success at the third", err, asked)
	}

	own := func(obj, old api.Object) (store.Effect, error) {
		return store.Effect{Ops: []clientv3.Op{clientv3.OpDelete("/registry/pods/a/x")}}, nil
	}
	if _, err := createPod(t, s, "w", store.Write{Effects: []func(_, _ api.Object) (store.Effect, error){own}}); err == nil {
		t.Error("one transaction wrote two pods")
	}

	var gotOld, gotNew api.Object
	watch := func(obj, old api.Object) (store.Effect, error) { gotNew, gotOld = obj, old; return store.Effect{}, nil }
	w := store.Write{Effects: []func(_, _ api.Object) (store.Effect, error){watch}}
	_, err = s.Update(t.Context(), storetest.Pods, storetest.PodKey("a", "x"), w, func(current api.Object) (api.Object, error) {
		current.(*corev1.Pod).Spec.NodeName = "n"
		return current, nil
	})
	if err != nil || gotOld.(*corev1.Pod).Spec.NodeName != "" || gotNew.(*corev1.Pod).Spec.NodeName != "n" {
		t.Errorf("an update's effect saw %v replace %v (%v)", gotNew, gotOld, err)
	}
	if _, err = s.Delete(t.Context(), storetest.Pods, storetest.PodKey("a", "x"), w, nil); err != nil || gotNew != nil || gotOld.(*corev1.Pod).Spec.NodeName != "n" {
		t.Errorf("a deletion's effect saw %v replace %v (%v)", gotNew, gotOld, err)
	}
}

// xor is a cipher fit for tests, whose first byte is the key's number.
type xor struct{ key atomic.Uint32 }

func (x *xor) ToStorage(data, key []byte) ([]byte, string, error) {
	own := byte(x.key.Load())
	return append([]byte{own, byte(len(key))}, mask(data, own)...), string(rune(own)), nil
}

func (x *xor) FromStorage(data, key []byte) ([]byte, string, error) {
	if data[1] != byte(len(key)) {
		return nil, "", errors.New("this is another key's value")
	}
	return mask(data[2:], data[0]), string(rune(data[0])), nil
}

func (x *xor) Stale(with string) bool { return with != string(rune(x.key.Load())) }

func mask(data []byte, key byte) []byte {
	out := bytes.Clone(data)
	for i := range out {
		out[i] ^= key
	}
	return out
}

func TestEncryption(t *testing.T) {
	t.Parallel()
	client := newMember(t).etcd.Client()
	cipher := &xor{}
	cipher.key.Store(1)
	s, _ := run(t, client, func(c *store.Config) {
		c.Transformer = func(kind *api.Kind) store.Transformer {
			if kind.Resource == "pods" {
				return cipher
			}
			return nil
		}
	})
	first, err := createPod(t, s, "secret-name", store.Write{})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := client.Get(t.Context(), "/registry/pods/a/secret-name")
	if err != nil || bytes.Contains(raw.Kvs[0].Value, []byte("secret-name")) {
		t.Fatalf("etcd holds %q, %v", raw.Kvs, err)
	}
	same := func(current api.Object) (api.Object, error) { return current, nil }
	e, err := s.Update(t.Context(), storetest.Pods, storetest.PodKey("a", "secret-name"), store.Write{}, same)
	if err != nil || e.Revision != first.Revision {
		t.Errorf("an update without a change: %v, %v", e, err)
	}
	cipher.key.Store(2)
	e, err = s.Update(t.Context(), storetest.Pods, storetest.PodKey("a", "secret-name"), store.Write{}, same)
	if err != nil || e.Revision == first.Revision {
		t.Errorf("what an old key encrypted wasn't written anew: %v, %v", e, err)
	}
	if raw, _ = client.Get(t.Context(), "/registry/pods/a/secret-name"); raw.Kvs[0].Value[0] != 2 {
		t.Error("still under the old key")
	}
	if _, err := client.Put(t.Context(), "/registry/pods/a/b", string(raw.Kvs[0].Value)); err != nil {
		t.Fatal(err)
	}
	if _, err = s.Get(t.Context(), storetest.Pods, storetest.PodKey("a", "b"), 0); !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), "decrypting") {
		t.Errorf("a value moved to another key: %v", err)
	}
}

// An object that can't be read spoils what would have to show it, and nothing else.
func TestBrokenObject(t *testing.T) {
	t.Parallel()
	client := newMember(t).etcd.Client()
	s, _ := run(t, client)
	e, err := createPod(t, s, "x", store.Write{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Put(t.Context(), "/registry/pods/b/broken", "k8s\x00garbage"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), storetest.Pods, storetest.PodKey("b", "broken"), 0); !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), "pods/b/broken") {
		t.Errorf("get: %v", err)
	}
	if _, err := s.List(t.Context(), storetest.Pods, store.Query{}); !apierrors.IsInternalError(err) {
		t.Errorf("list: %v", err)
	}
	if page, err := s.List(t.Context(), storetest.Pods, store.Query{Namespace: "a"}); err != nil || len(page.Entries) != 1 {
		t.Errorf("list of another namespace: %v, %v", page, err)
	}
	w, err := s.Watch(t.Context(), storetest.Pods, store.WatchQuery{ResourceVersion: fmt.Sprint(e.Revision)})
	if err == nil {
		_, err = w.Next(nil)
	}
	if !apierrors.IsInternalError(err) {
		t.Errorf("watch: %v", err)
	}
}

func TestExpiry(t *testing.T) {
	t.Parallel()
	s, _ := run(t, newMember(t).etcd.Client())
	e, err := createPod(t, s, "x", store.Write{TTL: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	w, err := s.Watch(t.Context(), storetest.Pods, store.WatchQuery{ResourceVersion: fmt.Sprint(e.Revision)})
	if err != nil {
		t.Fatal(err)
	}
	events, err := w.Next(nil)
	if err != nil || events[0].Type != store.Deleted || events[0].Entry.Key.Name != "x" {
		t.Errorf("got %v, %v", events, err)
	}
}

// Of several apiservers one compacts at a time, to where things stood a turn ago.
func TestCompactorsTakeTurns(t *testing.T) {
	t.Parallel()
	client := newMember(t).etcd.Client()
	put := func() int64 {
		answer, err := client.Put(t.Context(), "k", "v")
		if err != nil {
			t.Fatal(err)
		}
		return answer.Header.Revision
	}
	readable := func(revision int64) bool {
		_, err := client.Get(t.Context(), "k", clientv3.WithRev(revision))
		return err == nil
	}
	turn := func(c *store.Compactor) {
		if err := c.Turn(t.Context(), client); err != nil {
			t.Fatal(err)
		}
	}
	var a, b store.Compactor
	before := put()
	turn(&a) // learns where things stand
	turn(&b) // too late: a had this turn
	between := put()
	if !readable(before) {
		t.Error("the first turn compacted")
	}
	turn(&a)
	if readable(before) || !readable(between) {
		t.Error("the second turn should discard what was before the first, and nothing else")
	}
	turn(&b) // lost again, learns
	after := put()
	turn(&b) // a is gone: b takes over
	if readable(between) || !readable(after) {
		t.Error("the second compactor doesn't take over")
	}
	if raw, err := client.Get(t.Context(), "compact_rev_key"); err != nil || raw.Kvs[0].Version != 3 {
		t.Errorf("%v, %v; want version 3", raw, err)
	}
}

// A continued list ends when its revision is compacted, although the cache may still know what was there; it is
// told how to go on.
func TestCompactionEndsContinuedLists(t *testing.T) {
	t.Parallel()
	s, _ := run(t, newMember(t).etcd.Client(), func(c *store.Config) { c.CompactEvery = 20 * time.Millisecond })
	for _, name := range []string{"a", "b", "c"} {
		if _, err := createPod(t, s, name, store.Write{}); err != nil {
			t.Fatal(err)
		}
	}
	page, err := s.List(t.Context(), storetest.Pods, store.Query{Limit: 1})
	if err != nil || page.Continue == "" {
		t.Fatalf("%+v, %v", page, err)
	}
	var status *apierrors.StatusError
	for err = nil; err == nil && t.Context().Err() == nil; {
		_, err = s.List(t.Context(), storetest.Pods, store.Query{Limit: 1, Continue: page.Continue})
	}
	if !errors.As(err, &status) || !apierrors.IsResourceExpired(err) || status.ErrStatus.Continue == "" {
		t.Fatalf("got %v", err)
	}
	rest, err := s.List(t.Context(), storetest.Pods, store.Query{Continue: status.ErrStatus.Continue})
	if err != nil || len(rest.Entries) != 2 {
		t.Errorf("the rest: %+v, %v", rest, err)
	}
}

func TestForget(t *testing.T) {
	t.Parallel()
	s, _ := run(t, newMember(t).etcd.Client())
	e, err := createPod(t, s, "x", store.Write{})
	if err != nil {
		t.Fatal(err)
	}
	watch := func() store.Watch {
		w, err := s.Watch(t.Context(), storetest.Pods, store.WatchQuery{ResourceVersion: fmt.Sprint(e.Revision)})
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	w := watch()
	s.Forget("pods")
	if _, err := w.Next(nil); !errors.Is(err, store.ErrForgotten) {
		t.Errorf("the watch ended with %v", err)
	}
	w = watch() // loaded anew
	if _, err := createPod(t, s, "y", store.Write{}); err != nil {
		t.Fatal(err)
	}
	if events, err := w.Next(nil); err != nil || events[0].Entry.Key.Name != "y" {
		t.Errorf("%v, %v", events, err)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	s, _ := run(t, newMember(t).etcd.Client())
	for _, name := range []string{"x", "y"} {
		if _, err := createPod(t, s, name, store.Write{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.List(t.Context(), storetest.Pods, store.Query{}); err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(s)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			got[f.GetName()] += m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	if got["apiserver_resource_objects"] != 2 || got["etcd_request_duration_seconds"] < 3 {
		t.Errorf("metrics: %v", got)
	}
}

// Whatever becomes of a write, each asking of an effect is told its end once.
func TestEffectsAreToldTheEnd(t *testing.T) {
	t.Parallel()
	s, _ := run(t, newMember(t).etcd.Client())
	var told []int64
	tries := 0
	effect := func(_, _ api.Object) (store.Effect, error) {
		tries++
		e := store.Effect{Done: func(revision int64) { told = append(told, revision) }}
		if tries == 1 {
			e.Compare = []clientv3.Cmp{clientv3.Compare(clientv3.Version("/registry/nothing"), ">", 0)}
		}
		return e, nil
	}
	entry, err := createPod(t, s, "x", store.Write{Effects: []func(_, _ api.Object) (store.Effect, error){effect}})
	if err != nil || len(told) != 2 || told[0] != 0 || told[1] != entry.Revision {
		t.Errorf("%v, told %v", err, told)
	}
	told = nil
	refuse := func(_, _ api.Object) (store.Effect, error) { return store.Effect{}, errors.New("no") }
	if _, err := createPod(t, s, "y", store.Write{Effects: []func(_, _ api.Object) (store.Effect, error){effect, refuse}}); err == nil || len(told) != 1 || told[0] != 0 {
		t.Errorf("%v, told %v", err, told)
	}
}
