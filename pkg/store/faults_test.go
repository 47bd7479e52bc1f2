package store_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"skiff/pkg/api"
	"skiff/pkg/etcd"
	"skiff/pkg/store"
	"skiff/pkg/store/storetest"
)

// TestMain is an etcd member when asked to, so that tests can kill one.
func TestMain(m *testing.M) {
	if dir := os.Getenv("SKIFF_TEST_ETCD"); dir != "" {
		member, err := etcd.Start(context.Background(), etcd.Config{DataDir: filepath.Join(dir, "data"), NoSync: true,
			Clients: etcd.Endpoint{Listen: []string{"unix://" + dir + "/s"}}})
		if err != nil {
			panic(err)
		}
		panic(member.Run(context.Background()))
	}
	os.Exit(m.Run())
}

// process is an etcd member of its own.
type process struct {
	t       testing.TB
	dir     string
	command *exec.Cmd
}

func newProcess(t testing.TB) *process {
	dir, err := os.MkdirTemp("", "skiff") // a socket's path has to be short
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, dir: dir}
	t.Cleanup(func() { p.kill(); os.RemoveAll(dir) })
	p.start()
	return p
}

func (p *process) start() {
	p.command = exec.Command(os.Args[0])
	p.command.Env = append(os.Environ(), "SKIFF_TEST_ETCD="+p.dir)
	p.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // should the test be killed itself
	if err := p.command.Start(); err != nil {
		p.t.Fatal(err)
	}
}

func (p *process) kill() {
	p.command.Process.Kill()
	p.command.Wait()
}

func (p *process) client() *clientv3.Client {
	c, err := etcd.Dial(etcd.DialConfig{Endpoints: []string{"unix://" + p.dir + "/s"}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { c.Close() })
	return c
}

// The suite over gRPC, with kill -9 for a restart.
func TestOverNetwork(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storetest.Instance {
		p := newProcess(t)
		client := p.client()
		another := func() store.Interface {
			s, _ := run(t, p.client())
			return s
		}
		return storetest.Instance{
			Interface: another(),
			History:   history,
			Another:   another,
			Compact: func(revision int64) error {
				_, err := client.Compact(t.Context(), revision, clientv3.WithCompactPhysical())
				return err
			},
			Restart: func() store.Interface { p.kill(); p.start(); return another() },
		}
	})
}

// register is a single value that is written and read.
var register = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		if write := input.(string); write != "" {
			return true, write
		}
		return output == state, state
	},
}

// Through kill -9 of etcd: reads and writes of one key through two stores are linearizable, and a watch
// that was there all the time has seen every acknowledged write, in order.
func TestKilledEtcd(t *testing.T) {
	t.Parallel()
	p := newProcess(t)
	var stores []*store.Store
	for range 2 {
		s, _ := run(t, p.client(), func(c *store.Config) { c.History = 10_000 })
		stores = append(stores, s)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	key := storetest.PodKey("a", "x")
	first, err := stores[0].Create(ctx, storetest.Pods, key, storetest.Pod("a", "x"), store.Write{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := stores[1].Watch(ctx, storetest.Pods, store.WatchQuery{ResourceVersion: fmt.Sprint(first.Revision)})
	if err != nil {
		t.Fatal(err)
	}

	var mu sync.Mutex
	var history []porcupine.Operation
	acknowledged := map[int64]string{} // by revision
	var count atomic.Int64
	start := time.Now()
	now := func() int64 { return int64(time.Since(start)) }
	write := func(client, i int) {
		value, call := fmt.Sprintf("%d-%d", client, i), now()
		e, err := stores[client%2].Update(ctx, storetest.Pods, key, store.Write{}, func(current api.Object) (api.Object, error) {
			current.(*corev1.Pod).Spec.NodeName = value
			return current, nil
		})
		o := porcupine.Operation{ClientId: client, Input: value, Call: call, Return: now()}
		if err != nil {
			o.Return = math.MaxInt64 // it may happen yet
		}
		mu.Lock()
		defer mu.Unlock()
		history = append(history, o)
		if err == nil {
			acknowledged[e.Revision] = value
		} else if !apierrors.IsTimeout(err) {
			t.Errorf("a write failed with %v", err)
		}
	}
	read := func(client int) {
		call := now()
		e, err := stores[client%2].Get(ctx, storetest.Pods, key, 0)
		if err != nil {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		history = append(history, porcupine.Operation{ClientId: client, Input: "", Output: e.Fields["spec.nodeName"], Call: call, Return: now()})
	}
	const clients, each, kills = 4, 60, 2
	var group sync.WaitGroup
	for client := range clients {
		group.Go(func() {
			for i := range each {
				if (client+i)%3 == 0 {
					write(client, i)
				} else {
					read(client)
				}
				if count.Add(1)%(clients*each/(kills+1)) == 0 {
					p.kill()
					p.start()
				}
			}
		})
	}
	group.Wait()
	if result := porcupine.CheckOperationsTimeout(register, history, 20*time.Second); result != porcupine.Ok {
		t.Errorf("%d operations: linearizable? %s", len(history), result)
	}
	if len(acknowledged) < clients*each/6 {
		t.Errorf("only %d writes of %d were acknowledged", len(acknowledged), clients*each/3)
	}

	last, err := stores[0].Get(ctx, storetest.Pods, key, 0)
	if err != nil {
		t.Fatal(err)
	}
	for seen := first.Revision; seen < last.Revision; {
		events, err := w.Next(nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			if e.Revision <= seen {
				t.Errorf("event %d after %d", e.Revision, seen)
			}
			seen = e.Revision
			if want, ok := acknowledged[seen]; ok && want != e.Entry.Fields["spec.nodeName"] {
				t.Errorf("revision %d shows %q, written was %q", seen, e.Entry.Fields["spec.nodeName"], want)
			}
			delete(acknowledged, seen)
		}
	}
	if len(acknowledged) > 0 {
		t.Errorf("the watch missed %v", acknowledged)
	}
}

// cuttable is a watcher whose watches can be cut off, and made to fail until they are let through again.
type cuttable struct {
	clientv3.Watcher
	mu     sync.Mutex
	cut    chan struct{}
	closed bool
}

func (c *cuttable) Watch(ctx context.Context, key string, options ...clientv3.OpOption) clientv3.WatchChan {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(chan clientv3.WatchResponse)
	if c.closed {
		close(out)
		return out
	}
	in, cut := c.Watcher.Watch(ctx, key, options...), c.cut
	go func() {
		defer close(out)
		for {
			select {
			case answer, ok := <-in:
				if !ok {
					return
				}
				select {
				case out <- answer:
				case <-cut:
					return
				}
			case <-cut:
				return
			}
		}
	}()
	return out
}

func (c *cuttable) set(closed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed = closed; closed {
		close(c.cut)
	} else {
		c.cut = make(chan struct{})
	}
}

// A store whose watch was away while etcd compacted reads everything again. Watches go on and miss no difference;
// none may begin in the gap.
func TestCompactedWhileAway(t *testing.T) {
	t.Parallel()
	client := newMember(t).etcd.Client()
	other, _ := run(t, client)
	cut := &cuttable{Watcher: client.Watcher, cut: make(chan struct{})}
	flaky := clientv3.NewCtxClient(t.Context())
	flaky.KV, flaky.Lease, flaky.Watcher = client.KV, client.Lease, cut
	s, _ := run(t, flaky)

	for _, name := range []string{"same", "changed", "deleted", "replaced"} {
		if _, err := createPod(t, s, name, store.Write{}); err != nil {
			t.Fatal(err)
		}
	}
	w, err := s.Watch(t.Context(), storetest.Pods, store.WatchQuery{ResourceVersion: "0", Bookmarks: true})
	if err != nil {
		t.Fatal(err)
	}
	events, err := w.Next(nil)
	if err != nil || len(events) != 4 {
		t.Fatal(events, err)
	}
	cut.set(true)
	key := func(name string) store.Key { return storetest.PodKey("a", name) }
	bind := func(current api.Object) (api.Object, error) {
		current.(*corev1.Pod).Spec.NodeName += "n"
		return current, nil
	}
	do := func(_ *store.Entry, err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	do(other.Update(t.Context(), storetest.Pods, key("changed"), store.Write{}, bind))
	inGap, err := createPod(t, other, "brief", store.Write{})
	do(inGap, err)
	do(other.Delete(t.Context(), storetest.Pods, key("brief"), store.Write{}, nil))
	do(other.Delete(t.Context(), storetest.Pods, key("deleted"), store.Write{}, nil))
	do(other.Delete(t.Context(), storetest.Pods, key("replaced"), store.Write{}, nil))
	do(createPod(t, other, "replaced", store.Write{}))
	do(createPod(t, other, "new", store.Write{}))
	now, err := other.Revision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// It notices as soon as its channel is closed. Who asked just before waits for events that don't come.
	for noticed := false; !noticed; {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		err := s.Ready(ctx)
		cancel()
		noticed = err != nil && !errors.Is(err, context.DeadlineExceeded)
	}
	if _, err := client.Compact(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	cut.set(false)

	seen := map[string]store.EventType{}
	var lastRevision int64
	for len(seen) < 4 {
		events, err := w.Next(nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			if e.Revision < lastRevision {
				t.Errorf("revision %d after %d", e.Revision, lastRevision)
			}
			if lastRevision = e.Revision; e.Entry != nil {
				seen[e.Entry.Key.Name] = e.Type
			}
		}
	}
	if want := "map[changed:MODIFIED deleted:DELETED new:ADDED replaced:MODIFIED]"; fmt.Sprint(seen) != want {
		t.Errorf("the watch saw %v, want %s", seen, want)
	}
	page, err := s.List(t.Context(), storetest.Pods, store.Query{})
	if err != nil || len(page.Entries) != 4 || s.Ready(t.Context()) != nil {
		t.Errorf("afterwards: %v, %v, %v", page, err, s.Ready(t.Context()))
	}
	_, err = s.Watch(t.Context(), storetest.Pods, store.WatchQuery{ResourceVersion: fmt.Sprint(inGap.Revision)})
	if !apierrors.IsResourceExpired(err) {
		t.Errorf("a watch from inside the gap: %v, want Expired", err)
	}
	_, err = s.List(t.Context(), storetest.Pods, store.Query{ResourceVersion: fmt.Sprint(inGap.Revision), Match: "Exact"})
	if !apierrors.IsResourceExpired(err) {
		t.Errorf("a list inside the gap: %v, want Expired", err)
	}
}

// Nothing answers from a store that has stopped, and nobody waits for it forever.
func TestStopped(t *testing.T) {
	t.Parallel()
	s, stop := run(t, newMember(t).etcd.Client())
	e, err := createPod(t, s, "x", store.Write{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := s.Watch(t.Context(), storetest.Pods, store.WatchQuery{ResourceVersion: fmt.Sprint(e.Revision)})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() { _, err := w.Next(nil); ended <- err }()
	stop()
	if err := <-ended; err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("the watch ended with %v", err)
	}
	if _, err := s.List(t.Context(), storetest.Pods, store.Query{}); err == nil {
		t.Error("a list was answered")
	}
	if s.Ready(t.Context()) == nil {
		t.Error("it says that it is ready")
	}
	if err := s.Run(t.Context()); err == nil {
		t.Error("it ran twice")
	}
}
