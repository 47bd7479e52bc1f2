package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/tidwall/btree"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"skiff/pkg/api"
)

// errStopped ends the watches of a store that stops.
var errStopped = errors.New("the store has stopped")

// ErrForgotten ends the watches of a resource that was taken away with [Store.Forget].
var ErrForgotten = errors.New("the resource is not served any more")

// resource caches what is below one storage path: a tree of the newest entries, and a log of
// recent changes. It is fed by [Store.deliver] alone, in the order of revisions.
type resource struct {
	store  *Store
	codec  codec
	loaded chan struct{} // closed when reads can begin

	mu       sync.RWMutex
	tree     btree.Map[string, *Entry] // by Key.suffix
	revision int64                     // of the newest change in tree
	torn     int64                     // what lies before this revision can't be joined to the log: see resync
	log      eventLog
	closed   error
	parked   map[trigger]*wake
	fields   map[string]int // how many of parked wait for some value of this field

	loading bool
	pending []*mvccpb.Event // what came while loading

	backfilling sync.Mutex
}

// loadTime is how long a read waits for the cache to be filled.
const loadTime = 10 * time.Second

// resource returns the cache of a kind's resource, which is loaded when it is asked for first.
func (s *Store) resource(ctx context.Context, kind *api.Kind) (*resource, error) {
	s.mu.Lock()
	r := s.resources[kind.StoragePath]
	if r == nil {
		c, err := s.codec(kind)
		if err != nil {
			s.mu.Unlock()
			return nil, err
		}
		if s.resources == nil {
			s.mu.Unlock()
			return nil, errStopped
		}
		r = &resource{store: s, codec: c, loaded: make(chan struct{}), loading: true,
			parked: map[trigger]*wake{}, fields: map[string]int{}}
		s.resources[kind.StoragePath] = r
		s.tasks.Go(r.load)
	}
	s.mu.Unlock()
	select {
	case <-r.loaded:
		return r, nil
	default:
	}
	patience := time.NewTimer(loadTime)
	defer patience.Stop()
	select {
	case <-r.loaded:
		return r, nil
	case <-patience.C:
		return nil, apierrors.NewTimeoutError(kind.StoragePath+" could not be read from etcd yet", 1)
	case <-s.ctx.Done():
		return nil, errStopped
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the cache of %s: %w", kind.StoragePath, ctx.Err())
	}
}

// cached returns the resource if it is loaded, without waiting.
func (s *Store) cached(kind *api.Kind) *resource {
	s.mu.Lock()
	r := s.resources[kind.StoragePath]
	s.mu.Unlock()
	if r == nil {
		return nil
	}
	select {
	case <-r.loaded:
		return r
	default:
		return nil
	}
}

// Forget implements [Interface].
func (s *Store) Forget(path string) {
	s.mu.Lock()
	r := s.resources[path]
	delete(s.resources, path)
	s.mu.Unlock()
	if r != nil {
		r.close(ErrForgotten)
	}
}

// load fills the tree, trying until it succeeds or the store stops.
func (r *resource) load() {
	s := r.store
	select {
	case <-s.started: // from here on every event reaches apply
	case <-s.ctx.Done():
		return
	}
	for s.ctx.Err() == nil {
		revision, entries, err := r.codec.readAll(s.ctx, s.client, 0)
		if err == nil {
			r.install(revision, entries)
			return
		}
		s.log.Warn("loading the watch cache; trying again", "resource", r.codec.kind.StoragePath, "error", err)
		sleep(s.ctx, 200*time.Millisecond)
	}
}

// install makes entries, read at one revision, the state, and applies what came since.
func (r *resource) install(revision int64, entries []*Entry) {
	r.mu.Lock()
	for _, e := range entries {
		r.tree.Set(e.Key.suffix(), e)
	}
	r.revision, r.log.oldest = revision, revision
	r.loading = false
	pending := slices.DeleteFunc(r.pending, func(e *mvccpb.Event) bool { return e.Kv.ModRevision <= revision })
	r.pending = nil
	r.applyLocked(pending, r.decode(pending))
	r.mu.Unlock()
	close(r.loaded)
}

// apply takes events in the order of their revisions; those of one revision come in one call.
func (r *resource) apply(events []*mvccpb.Event) {
	r.mu.Lock()
	if r.loading {
		r.pending = append(r.pending, events...)
		r.mu.Unlock()
		return
	}
	r.mu.Unlock()
	entries := r.decode(events) // outside of the lock: readers go on
	r.mu.Lock()
	defer r.mu.Unlock()
	r.applyLocked(events, entries)
}

func (r *resource) decode(events []*mvccpb.Event) []*Entry {
	entries := make([]*Entry, len(events))
	for i, e := range events {
		if e.Type == mvccpb.Event_PUT {
			entries[i] = r.codec.entry(e.Kv)
		}
	}
	return entries
}

func (r *resource) applyLocked(events []*mvccpb.Event, entries []*Entry) {
	now := time.Now()
	seen := r.revision
	for i, e := range events {
		if e.Kv.ModRevision <= seen {
			continue // a watch that was made again repeats nothing, but who knows
		}
		r.set(r.codec.suffix(e.Kv.Key), entries[i], e.Kv.ModRevision, now)
	}
	r.log.trim(r.store.config.History, now)
}

// set records one change: entry nil deletes.
func (r *resource) set(suffix string, entry *Entry, revision int64, now time.Time) {
	var prev *Entry
	if entry != nil {
		prev, _ = r.tree.Set(suffix, entry)
	} else {
		prev, _ = r.tree.Delete(suffix)
	}
	r.revision = revision
	if entry == nil && prev == nil {
		return
	}
	c := &change{revision: revision, entry: entry, prev: prev, at: now}
	sequence := r.log.end()
	r.log.changes = append(r.log.changes, c)
	r.wake(c, sequence)
}

// resync replaces the state by what etcd holds at revision; see [Store.resync].
func (r *resource) resync(ctx context.Context, revision int64) error {
	r.mu.RLock()
	loading := r.loading
	r.mu.RUnlock()
	if loading {
		return r.settle(ctx)
	}
	_, entries, err := r.codec.readAll(ctx, r.store.client, revision)
	if err != nil {
		return err
	}
	present := make(map[string]bool, len(entries))
	changed := entries[:0:0]
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range entries {
		present[e.Key.suffix()] = true
		if old, ok := r.tree.Get(e.Key.suffix()); !ok || old.Revision != e.Revision {
			changed = append(changed, e)
		}
	}
	var deleted []string
	r.tree.Scan(func(suffix string, _ *Entry) bool {
		if !present[suffix] {
			deleted = append(deleted, suffix)
		}
		return true
	})
	now := time.Now()
	slices.SortFunc(changed, func(a, b *Entry) int { return int(a.Revision - b.Revision) })
	for _, e := range changed {
		r.set(e.Key.suffix(), e, e.Revision, now)
	}
	for _, suffix := range deleted { // when exactly, nobody knows any more
		r.set(suffix, nil, revision, now)
	}
	r.revision, r.torn, r.log.oldest = revision, revision, revision
	return nil
}

// settle waits for a load that is under way: it may have read before the gap, so that
// the resync has to be tried again.
func (r *resource) settle(ctx context.Context) error {
	select {
	case <-r.loaded:
		return fmt.Errorf("%s was being loaded: %w", r.codec.kind.StoragePath, errCompacted)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// close ends all watches with err.
func (r *resource) close(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = err
	for _, w := range r.parked {
		close(w.done)
	}
	r.parked, r.fields = map[trigger]*wake{}, map[string]int{}
}

// snapshot returns the state now, and the revision it is the state at.
func (r *resource) snapshot() (*btree.Map[string, *Entry], int64) {
	reached := r.store.applied.Load()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tree.Copy(), max(reached, r.revision)
}

// snapshotAt returns the state at a revision that was reached, by undoing what came after it; false when that is not known any more.
func (r *resource) snapshotAt(revision int64) (*btree.Map[string, *Entry], bool) {
	r.mu.Lock()
	if revision < max(r.torn, r.log.oldest) {
		r.mu.Unlock()
		return nil, false
	}
	tree := r.tree.Copy()
	later, _ := r.log.from(r.log.after(revision))
	r.mu.Unlock()
	for _, c := range slices.Backward(later) {
		if c.prev != nil {
			tree.Set(c.suffix(), c.prev)
		} else {
			tree.Delete(c.suffix())
		}
	}
	return tree, true
}

// get returns the newest entry, or nil.
func (r *resource) get(suffix string) *Entry {
	r.mu.RLock()
	defer r.mu.RUnlock()
	e, _ := r.tree.Get(suffix)
	return e
}

// pageSize is how many objects one read of etcd asks for.
const pageSize = 1000

// readAll reads the resource at one revision (0: now, by quorum), page by page.
func (c codec) readAll(ctx context.Context, client *clientv3.Client, revision int64) (int64, []*Entry, error) {
	var entries []*Entry
	err := c.scan(ctx, client, c.prefix, c.prefix, &revision, func(kv *mvccpb.KeyValue) bool {
		entries = append(entries, c.entry(kv))
		return true
	})
	return revision, entries, err
}

// scan calls visit for all keys from start on that have the prefix, at *revision, which is set
// when it was 0. visit ends it with false.
func (c codec) scan(ctx context.Context, client *clientv3.Client, prefix, start string, revision *int64, visit func(*mvccpb.KeyValue) bool) error {
	end := clientv3.GetPrefixRangeEnd(prefix)
	for {
		began := time.Now()
		answer, err := client.Get(ctx, start, clientv3.WithRange(end), clientv3.WithLimit(pageSize), clientv3.WithRev(*revision))
		c.metrics.request("list", c.kind, began, err)
		if err != nil {
			return fmt.Errorf("reading %s from etcd: %w", prefix, err)
		}
		if *revision == 0 {
			*revision = answer.Header.Revision
		}
		for _, kv := range answer.Kvs {
			if !visit(kv) {
				return nil
			}
		}
		if !answer.More || len(answer.Kvs) == 0 {
			return nil
		}
		start = string(answer.Kvs[len(answer.Kvs)-1].Key) + "\x00"
	}
}
