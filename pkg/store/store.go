package store

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	clientv3 "go.etcd.io/etcd/client/v3"

	"skiff/pkg/api"
)

// Key names one object, or (with Name empty) all objects of a namespace, or
// (with both empty) all objects of a resource.
type Key struct {
	Path      string // api.Kind.StoragePath
	Namespace string
	Name      string
}

// Interface is the store. All methods may be called concurrently.
//
// Errors are apimachinery's *errors.StatusError of the reasons a client shall
// see, with the resource's GroupResource filled in from the kind: NotFound, AlreadyExists, Conflict (also
// for a precondition), Expired, BadRequest, RequestEntityTooLarge, InternalError for an object that can't be read, and
// Timeout (504) for a revision that etcd has not reached within 3 s, and whenever
// etcd doesn't answer: then a write may have happened or not. Errors of
// callbacks and of ctx come back as they are. Anything else is a failure of etcd.
type Interface interface {
	// Get returns the current object: never older than any write that was
	// acknowledged before the call began. minRevision > 0 relaxes that to "not older
	// than minRevision" (resourceVersion=N); minRevision < 0 to "whatever the cache has"
	// (resourceVersion=0).
	Get(ctx context.Context, kind *api.Kind, key Key, minRevision int64) (*Entry, error)
	// List returns one page of a snapshot, ordered by key. Pages after the first are of the
	// same revision, however much was written since; when etcd has compacted it the answer is Expired, with a
	// token that goes on with the newest state instead.
	List(ctx context.Context, kind *api.Kind, q Query) (*Page, error)
	// Watch streams what happens after a revision. It blocks only to bring the
	// cache to the revision of the initial events, or to fetch from etcd what lies before the cache; a revision
	// that etcd has not reached is no error, its events are just waited for. The watch ends with ctx.
	Watch(ctx context.Context, kind *api.Kind, q WatchQuery) (Watch, error)

	// Count is how many objects a list of a namespace (empty: of all) would look at, but no more than limit, as far as that
	// can be said without waiting: 0 while the resource is not cached.
	Count(kind *api.Kind, namespace string, limit int) int

	// Create stores a new object. obj's resourceVersion must be empty; the entry
	// returned holds the stored object.
	Create(ctx context.Context, kind *api.Kind, key Key, obj api.Object, w Write) (*Entry, error)
	// Update calls change with the current object (a private, mutable copy whose
	// resourceVersion is set) and stores what it returns, if nothing wrote in
	// between; otherwise it calls change again with the newer one. When change
	// returns an object that encodes to the same bytes, nothing is written (no Effect is asked) and the current
	// entry is returned. An error of change ends the update, unless it rests on a state that
	// is out of date: the first try may use the cache. When the object doesn't
	// exist, change is called with nil if w.CreateMissing, else the answer is NotFound.
	Update(ctx context.Context, kind *api.Kind, key Key, w Write, change func(current api.Object) (api.Object, error)) (*Entry, error)
	// Delete removes the object after check has agreed to the current one (check may be nil).
	// The entry returned is the last state, with the revision of the deletion as its
	// Revision.
	Delete(ctx context.Context, kind *api.Kind, key Key, w Write, check func(current api.Object) error) (*Entry, error)

	// Encode is the key and the value in etcd of an object that an Effect writes.
	Encode(kind *api.Kind, key Key, obj api.Object) (name string, value []byte, err error)

	// Forget drops what is cached below a storage path and ends its watches with
	// [ErrForgotten]: its kind is gone, or is to be read in another way. Whoever asks for it next loads it anew.
	Forget(path string)

	// Revision is the store's current revision, by a quorum read.
	Revision(ctx context.Context) (int64, error)
	// Ready reports why consistent reads can't be served now; nil when they can. It tries, until ctx ends.
	Ready(ctx context.Context) error
	// NoSpace says that etcd refused the last write for want of space. Reads and deletions go on.
	NoSpace() bool
}

// Write says what a write is conditional on, and what else its transaction holds.
type Write struct {
	// UID and ResourceVersion are the client's preconditions; a mismatch is a Conflict.
	UID             *types.UID
	ResourceVersion string
	// TTL attaches an etcd lease of about that length; 0 is none.
	TTL time.Duration
	// CreateMissing lets Update create.
	CreateMissing bool
	// Effects add comparisons and operations to the transaction (an address, a port, a quota, a fence).
	// They are asked anew on each try, with the object about to be written (nil when
	// it is being deleted) and the one it replaces (nil on create).
	Effects []func(obj, old api.Object) (Effect, error)
}

// Effect is one part of a transaction beside the object itself. It must not
// touch a key of the object's own resource.
type Effect struct {
	Compare []clientv3.Cmp
	Ops     []clientv3.Op
	// Failed names the error when Compare doesn't hold, given the answer of Else's
	// operations. It returns nil to have the whole write tried again. With several effects
	// each is asked, in order, whichever of them it was that failed: it has to
	// find out from the answer.
	Else   []clientv3.Op
	Failed func(*clientv3.TxnResponse) error
	// Done, when set, is called once for this Effect when its transaction is over, or came to nothing: with the
	// revision of the commit, else 0. What it was asked under (a lock, say) it can give back then.
	Done func(revision int64)
}

// Query selects a list.
type Query struct {
	Namespace string // empty: all namespaces
	Name      string // not empty: only that object (metadata.name selectors)
	Labels    labels.Selector
	Fields    fields.Selector
	Limit     int64
	Continue  string
	// ResourceVersion and Match are the request's own parameters; the empty string is
	// a consistent read. See
	// https://kubernetes.io/docs/reference/using-api/api-concepts/#semantics-for-get-and-list
	ResourceVersion string
	Match           string // "", "Exact", "NotOlderThan"
}

// Page is a snapshot's part that a list answers with.
type Page struct {
	Revision int64
	Entries  []*Entry
	Continue string
	// Remaining is the number of further objects; nil when it isn't known (a selector was given).
	Remaining *int64
}

// WatchQuery selects a watch.
type WatchQuery struct {
	Namespace       string
	Name            string
	Labels          labels.Selector
	Fields          fields.Selector
	ResourceVersion string // "", "0": start with synthetic ADDED events; else events after it
	Match           string
	// SendInitialEvents asks for WatchList: the current objects as ADDED, then a
	// bookmark with the annotation k8s.io/initial-events-end. nil: not asked.
	SendInitialEvents *bool
	Bookmarks         bool
	// Started, if not nil, is called once by Next when the initial events (none, maybe) were taken.
	Started func()
}

// EventType is what happened, seen through the watch's selectors.
type EventType string

const (
	Added    EventType = "ADDED"
	Modified EventType = "MODIFIED"
	Deleted  EventType = "DELETED"
	Bookmark EventType = "BOOKMARK"
)

// Event is one step of a watch. Entry is nil for bookmarks. For Deleted, Entry
// holds the last state that matched, with the revision of the event that took it away.
type Event struct {
	Type     EventType
	Revision int64
	Entry    *Entry
	// InitialEventsEnd marks the bookmark that ends a WatchList's initial events.
	InitialEventsEnd bool
}

// Watch is a position in the event log.
type Watch interface {
	// Next blocks until there are events, and appends all that are ready to buf: at most as
	// many as it has capacity left, or 128 if it has none. It returns an Expired status error when the watcher fell
	// behind what the log retains, ErrForgotten when the resource was taken away, and ctx's error when the
	// watch's context ends. It is for one caller at a time.
	Next(buf []Event) ([]Event, error)
}
