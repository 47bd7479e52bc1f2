package store_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"skiff/pkg/api"
	"skiff/pkg/etcd"
	"skiff/pkg/store"
	"skiff/pkg/store/storetest"
)

// doubtful is an etcd that changes its leader: while armed, the next transaction is done or lost, something else may
// happen then, and the answer is that nobody knows.
type doubtful struct {
	clientv3.KV
	armed atomic.Bool
	lost  bool
	then  func()
}

func (d *doubtful) Txn(ctx context.Context) clientv3.Txn { return &doubtfulTxn{d.KV.Txn(ctx), d} }

type doubtfulTxn struct {
	clientv3.Txn
	d *doubtful
}

func (t *doubtfulTxn) If(c ...clientv3.Cmp) clientv3.Txn  { t.Txn = t.Txn.If(c...); return t }
func (t *doubtfulTxn) Then(o ...clientv3.Op) clientv3.Txn { t.Txn = t.Txn.Then(o...); return t }
func (t *doubtfulTxn) Else(o ...clientv3.Op) clientv3.Txn { t.Txn = t.Txn.Else(o...); return t }
func (t *doubtfulTxn) Commit() (*clientv3.TxnResponse, error) {
	if !t.d.armed.Swap(false) {
		return t.Txn.Commit()
	}
	if !t.d.lost {
		if _, err := t.Txn.Commit(); err != nil {
			return nil, err
		}
	}
	if t.d.then != nil {
		t.d.then()
	}
	return nil, rpctypes.ErrTimeoutDueToLeaderFail
}

// A write of which etcd doesn't say whether it was done is done once, and the client is told the truth.
func TestWritesInDoubt(t *testing.T) {
	t.Parallel()
	client := newMember(t).etcd.Client()
	other, _ := run(t, client)
	for _, lost := range []bool{false, true} {
		d := &doubtful{KV: client.KV, lost: lost}
		flaky := clientv3.NewCtxClient(t.Context())
		flaky.KV, flaky.Lease, flaky.Watcher = d, client.Lease, client.Watcher
		s, _ := run(t, flaky)
		for s.Ready(t.Context()) != nil { // so that writes begin with what its cache holds
			time.Sleep(time.Millisecond)
		}
		name := fmt.Sprintf("lost-%t", lost)
		key := storetest.PodKey("a", name)
		more := func(current api.Object) (api.Object, error) { // not to be repeated
			current.(*corev1.Pod).Spec.NodeName += "n"
			return current, nil
		}
		nodeName := func() string {
			t.Helper()
			e, err := other.Get(t.Context(), storetest.Pods, key, 0)
			if err != nil {
				t.Fatal(err)
			}
			return e.Fields["spec.nodeName"]
		}
		d.armed.Store(true)
		if _, err := createPod(t, s, name, store.Write{}); err != nil {
			t.Errorf("%s: create: %v", name, err)
		}
		d.armed.Store(true)
		e, err := s.Update(t.Context(), storetest.Pods, key, store.Write{}, more)
		if err != nil || nodeName() != "n" {
			t.Errorf("%s: update: %v, the node is %q", name, err, nodeName())
		}
		if now, err := other.Get(t.Context(), storetest.Pods, key, 0); err != nil || e == nil || now.Revision != e.Revision {
			t.Errorf("%s: update answers %v, it is %v", name, e, now)
		}
		d.then = func() {
			_, err := other.Update(t.Context(), storetest.Pods, key, store.Write{}, func(current api.Object) (api.Object, error) {
				current.(*corev1.Pod).Spec.NodeName += "o"
				return current, nil
			})
			if err != nil {
				t.Error(err)
			}
		}
		if _, err := s.Get(t.Context(), storetest.Pods, key, 0); err != nil { // the cache is up to date
			t.Fatal(err)
		}
		d.armed.Store(true)
		_, err = s.Update(t.Context(), storetest.Pods, key, store.Write{}, more)
		if want := map[bool]string{false: "nno", true: "no"}[lost]; !apierrors.IsTimeout(err) || nodeName() != want {
			t.Errorf("%s: update with another one after it: %v, the node is %q, want %q", name, err, nodeName(), want)
		}
		d.then = nil
		d.armed.Store(true)
		if _, err := s.Delete(t.Context(), storetest.Pods, key, store.Write{}, nil); err != nil {
			t.Errorf("%s: delete: %v", name, err)
		}
		if _, err := other.Get(t.Context(), storetest.Pods, key, 0); !apierrors.IsNotFound(err) {
			t.Errorf("%s: after the deletion: %v", name, err)
		}
	}
}

// Without etcd, reads fail in bounded time, and watches end rather than to be silent; then all goes on.
func TestOutage(t *testing.T) {
	t.Parallel()
	p := newProcess(t)
	s, _ := run(t, p.client())
	first, err := createPod(t, s, "x", store.Write{})
	if err != nil {
		t.Fatal(err)
	}
	for s.Ready(t.Context()) != nil {
		time.Sleep(time.Millisecond)
	}
	from := store.WatchQuery{ResourceVersion: fmt.Sprint(first.Revision)}
	w, err := s.Watch(t.Context(), storetest.Pods, from)
	if err != nil {
		t.Fatal(err)
	}
	p.kill()
	if _, err := createPod(t, s, "y", store.Write{}); !apierrors.IsTimeout(err) {
		t.Errorf("a write: %v", err)
	}
	if _, err := w.Next(nil); !errors.Is(err, store.ErrOutOfReach) {
		t.Errorf("the watch ended with %v", err)
	}
	if _, err := s.Watch(t.Context(), storetest.Pods, from); !errors.Is(err, store.ErrOutOfReach) {
		t.Errorf("a new watch: %v", err)
	}
	if _, err := s.Get(t.Context(), storetest.Pods, storetest.PodKey("a", "x"), 0); !apierrors.IsTimeout(err) {
		t.Errorf("a consistent read: %v", err)
	}
	if _, err := s.Get(t.Context(), storetest.Pods, storetest.PodKey("a", "x"), -1); err != nil {
		t.Errorf("a read of whatever there is: %v", err)
	}
	if s.Ready(t.Context()) == nil {
		t.Error("it says that it is ready")
	}
	p.start()
	for s.Ready(t.Context()) != nil {
		time.Sleep(10 * time.Millisecond)
	}
	if w, err = s.Watch(t.Context(), storetest.Pods, from); err != nil {
		t.Fatal(err)
	}
	if _, err := createPod(t, s, "z", store.Write{}); err != nil {
		t.Fatal(err)
	}
	for seen := ""; seen != "z"; { // y may be there, or not
		events, err := w.Next(nil)
		if err != nil {
			t.Fatal(err)
		}
		seen = events[len(events)-1].Entry.Key.Name
	}
}

// mute is a watcher whose watches fall silent, as those of a member without power, but are there when they are made anew.
type mute struct {
	clientv3.Watcher
	generation atomic.Int32 // watches of an earlier one are silent
}

func (m *mute) Watch(ctx context.Context, key string, options ...clientv3.OpOption) clientv3.WatchChan {
	in, out := m.Watcher.Watch(ctx, key, options...), make(chan clientv3.WatchResponse)
	begun := m.generation.Load()
	go func() {
		defer close(out)
		for answer := range in {
			if m.generation.Load() == begun {
				out <- answer
			}
		}
	}()
	return out
}

func TestSilentWatchIsMadeAnew(t *testing.T) {
	t.Parallel()
	client := newMember(t).etcd.Client()
	m := &mute{Watcher: client.Watcher}
	flaky := clientv3.NewCtxClient(t.Context())
	flaky.KV, flaky.Lease, flaky.Watcher = client.KV, client.Lease, m
	s, _ := run(t, flaky)
	if _, err := createPod(t, s, "x", store.Write{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.List(t.Context(), storetest.Pods, store.Query{}); err != nil {
		t.Fatal(err)
	}
	m.generation.Add(1)
	if _, err := createPod(t, s, "y", store.Write{}); err != nil {
		t.Fatal(err)
	}
	page, err := s.List(t.Context(), storetest.Pods, store.Query{})
	if err != nil || len(page.Entries) != 2 {
		t.Errorf("a consistent list: %v, %v", page, err)
	}
}

// An etcd that is full refuses writes with a cause, and lets objects be deleted.
func TestNoSpace(t *testing.T) {
	t.Parallel()
	member, err := etcd.Start(t.Context(), etcd.Config{DataDir: t.TempDir(), NoSync: true, Quota: 1 << 20, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(member.Close)
	s, _ := run(t, member.Client())
	for i := 0; err == nil; i++ {
		pod := storetest.Pod("a", fmt.Sprint(i))
		pod.Annotations = map[string]string{"large": strings.Repeat("x", 100<<10)}
		_, err = s.Create(t.Context(), storetest.Pods, storetest.PodKey("a", pod.Name), pod, store.Write{})
	}
	st := apierrors.APIStatus(nil)
	if !errors.As(err, &st) || st.Status().Code != http.StatusInternalServerError || st.Status().Message != "etcdserver: mvcc: database space exceeded" {
		t.Fatalf("%v", err)
	}
	if _, err := s.Delete(t.Context(), storetest.Pods, storetest.PodKey("a", "0"), store.Write{}, nil); err != nil {
		t.Errorf("a deletion: %v", err)
	}
	if err := s.Ready(t.Context()); err != nil || !s.NoSpace() {
		t.Errorf("ready: %v; no space: %t", err, s.NoSpace())
	}
}
