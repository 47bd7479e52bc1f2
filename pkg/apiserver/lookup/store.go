package lookup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/uuid"

	"skiff/pkg/api"
	"skiff/pkg/store"
)

// Store is a [Reader], [Feed] and [Writer] over the store.
type Store struct {
	store store.Interface
	kind  func(schema.GroupResource) *api.Kind
}

// NewStore returns a view of s. kind finds a resource's row, in any served version;
// it returns nil for resources that aren't served, which hold no objects then.
func NewStore(s store.Interface, kind func(schema.GroupResource) *api.Kind) *Store {
	return &Store{store: s, kind: kind}
}

// As package store has it: "whatever the cache has", and "never older than any
// acknowledged write".
const (
	cached = -1
	latest = 0
)

// Get implements [Reader].
func (s *Store) Get(ctx context.Context, resource schema.GroupResource, namespace, name string) (api.Object, error) {
	obj, err := s.get(ctx, resource, namespace, name, cached)
	if apierrors.IsNotFound(err) {
		return s.get(ctx, resource, namespace, name, latest)
	}
	return obj, err
}

// Live implements [Reader].
func (s *Store) Live(ctx context.Context, resource schema.GroupResource, namespace, name string) (api.Object, error) {
	return s.get(ctx, resource, namespace, name, latest)
}

func (s *Store) get(ctx context.Context, resource schema.GroupResource, namespace, name string, minRevision int64) (api.Object, error) {
	kind := s.kind(resource)
	if kind == nil || name == "" {
		return nil, apierrors.NewNotFound(resource, name)
	}
	entry, err := s.store.Get(ctx, kind, store.Key{Path: kind.StoragePath, Namespace: namespace, Name: name}, minRevision)
	if err != nil {
		return nil, err
	}
	return entry.Shared()
}

// List implements [Reader].
func (s *Store) List(ctx context.Context, resource schema.GroupResource, namespace string) ([]api.Object, error) {
	kind := s.kind(resource)
	if kind == nil {
		return nil, nil
	}
	page, err := s.store.List(ctx, kind, store.Query{Namespace: namespace, ResourceVersion: "0"})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", resource, err)
	}
	objects := make([]api.Object, 0, len(page.Entries))
	for _, entry := range page.Entries {
		obj, err := entry.Shared()
		if err != nil {
			return nil, err
		}
		objects = append(objects, obj)
	}
	slices.SortFunc(objects, func(a, b api.Object) int {
		return cmp.Or(cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetName(), b.GetName()))
	})
	return objects, nil
}

// errNothing ends an update that turned out to be unnecessary.
var errNothing = errors.New("nothing to write")

// Update implements [Writer].
func (s *Store) Update(ctx context.Context, resource schema.GroupResource, namespace, name string, change func(api.Object) (api.Object, error)) error {
	kind := s.kind(resource)
	if kind == nil {
		return fmt.Errorf("update %s %s/%s: the resource is not served", resource, namespace, name)
	}
	key := store.Key{Path: kind.StoragePath, Namespace: namespace, Name: name}
	_, err := s.store.Update(ctx, kind, key, store.Write{CreateMissing: true}, func(current api.Object) (api.Object, error) {
		next, err := change(current)
		if err != nil {
			return nil, err
		}
		if next == nil {
			return nil, errNothing
		}
		if current == nil {
			next = next.DeepCopyObject().(api.Object) // it may be tried again
			next.SetUID(uuid.NewUUID())
			next.SetCreationTimestamp(metav1.Time{Time: time.Now().Truncate(time.Second)})
		}
		return next, nil
	})
	if errors.Is(err, errNothing) {
		return nil
	}
	return err
}

// Follow implements [Feed].
func (s *Store) Follow(ctx context.Context, resource schema.GroupResource, synced func(), handle func([]Change)) error {
	f := &follower{handle: handle, synced: synced, known: map[store.Key]*store.Entry{}}
	if f.kind = s.kind(resource); f.kind == nil {
		f.sync()
		<-ctx.Done()
		return ctx.Err()
	}
	for {
		err := f.run(ctx, s.store)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
			continue // fell behind: begin anew
		}
		slog.Warn("watching the store", "resource", resource.String(), "error", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// follower turns watches, one after the other, into one sequence of changes.
type follower struct {
	kind   *api.Kind
	handle func([]Change)
	synced func()
	known  map[store.Key]*store.Entry
}

// run follows one watch until it breaks.
func (f *follower) run(ctx context.Context, s store.Interface) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	initial := true
	watch, err := s.Watch(ctx, f.kind, store.WatchQuery{SendInitialEvents: &initial, Match: "NotOlderThan", Bookmarks: true})
	if err != nil {
		return err
	}
	seen := map[store.Key]bool{} // nil once the initial events are over
	var events []store.Event
	for {
		if events, err = watch.Next(events[:0]); err != nil {
			return err
		}
		var changes []Change
		for _, event := range events {
			if event.Entry == nil {
				if event.InitialEventsEnd && seen != nil {
					changes = append(changes, f.vanished(seen)...)
					seen = nil
				}
				continue
			}
			if seen != nil {
				seen[event.Entry.Key] = true
			}
			if change, ok := f.change(event); ok {
				changes = append(changes, change)
			}
		}
		if len(changes) > 0 {
			f.handle(changes)
		}
		if seen == nil {
			f.sync()
		}
	}
}

func (f *follower) sync() {
	if f.synced != nil {
		f.synced()
		f.synced = nil
	}
}

func (f *follower) change(event store.Event) (Change, bool) {
	key := event.Entry.Key
	if event.Type == store.Deleted {
		delete(f.known, key)
	} else {
		if old := f.known[key]; old != nil && old.Revision == event.Entry.Revision {
			return Change{}, false
		}
		f.known[key] = event.Entry
	}
	obj, err := event.Entry.Shared()
	if err != nil {
		slog.Error("an object in the store can't be read", "key", key, "error", err)
		return Change{}, false
	}
	return Change{Object: obj, Deleted: event.Type == store.Deleted}, true
}

// vanished are deletions that no watch has told of.
func (f *follower) vanished(seen map[store.Key]bool) []Change {
	var out []Change
	for key, entry := range f.known {
		if seen[key] {
			continue
		}
		delete(f.known, key)
		if obj, err := entry.Shared(); err == nil {
			out = append(out, Change{Object: obj, Deleted: true})
		}
	}
	return out
}
