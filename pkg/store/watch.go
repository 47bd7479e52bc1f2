package store

import (
	"context"
	"errors"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"skiff/pkg/api"
)

// wake is what the watchers of one trigger sleep on. It is closed when the
// first change comes that they may care about: whatever lies between their position and
// sequence is none of their business.
type wake struct {
	done     chan struct{}
	sequence int64
	sleepers int
}

// park returns what to sleep on. r.mu is held.
func (r *resource) park(t trigger) *wake {
	w := r.parked[t]
	if w == nil {
		w = &wake{done: make(chan struct{}), sequence: -1}
		r.parked[t] = w
		r.fields[t.field]++
	}
	w.sleepers++
	return w
}

// unpark is for a sleeper that something else woke up. r.mu is held.
func (r *resource) unpark(t trigger, w *wake) {
	if w.sleepers--; w.sleepers == 0 && r.parked[t] == w {
		r.removeParked(t)
	}
}

func (r *resource) removeParked(t trigger) {
	delete(r.parked, t)
	if r.fields[t.field]--; r.fields[t.field] == 0 {
		delete(r.fields, t.field)
	}
}

// wake wakes those who may care about a change. r.mu is held. The cost is that of the fields that anyone waits on, not of the watchers.
func (r *resource) wake(c *change, sequence int64) {
	for field := range r.fields {
		if field == "" {
			r.wakeTrigger(trigger{}, sequence)
			continue
		}
		now, had := "", c.entry != nil
		if had {
			now = c.entry.Fields[field]
			r.wakeTrigger(trigger{field, now}, sequence)
		}
		if c.prev != nil {
			if before := c.prev.Fields[field]; !had || before != now {
				r.wakeTrigger(trigger{field, before}, sequence)
			}
		}
	}
}

func (r *resource) wakeTrigger(t trigger, sequence int64) {
	if w := r.parked[t]; w != nil {
		w.sequence = sequence
		close(w.done)
		r.removeParked(t)
	}
}

// watcher is a position in a resource's log. It costs nothing between two calls of Next.
type watcher struct {
	ctx     context.Context
	r       *resource
	filter  filter
	trigger trigger
	live    <-chan struct{} // closed when etcd has been out of reach for a while

	initial    []*Entry // still to be sent as ADDED
	initialEnd bool     // then the bookmark that ends them
	started    func()   // to be called after that; nil when it was
	after      int64    // events up to this revision are not sent: the initial state holds them, or the client has them
	sent       int64    // highest revision told
	position   int64    // sequence number of the next change to look at

	bookmarks *time.Timer // nil: not asked for
	failed    error       // what the first Next has to say
}

// Watch implements [Interface].
func (s *Store) Watch(ctx context.Context, kind *api.Kind, q WatchQuery) (Watch, error) {
	asked, err := parseRevision(q.ResourceVersion)
	if err != nil {
		return nil, err
	}
	live, err := s.reachable()
	if err != nil {
		return nil, err
	}
	r, err := s.resource(ctx, kind)
	if err != nil {
		return nil, err
	}
	w := &watcher{ctx: ctx, r: r, live: live, started: q.Started, filter: newFilter(kind, q.Namespace, q.Name, q.Labels, q.Fields)}
	w.trigger = w.filter.trigger()
	wantState := q.SendInitialEvents != nil && *q.SendInitialEvents
	switch {
	case wantState && q.ResourceVersion != "0":
		if err = s.reach(ctx, asked); err == nil {
			w.fromState(q.Bookmarks)
		}
	case wantState, q.SendInitialEvents == nil && asked == 0:
		// Without sendInitialEvents, no revision and revision 0 have always meant: begin with any state.
		w.fromState(wantState && q.Bookmarks)
	case asked == 0: // from now on
		if q.ResourceVersion == "" {
			err = s.current(ctx)
		}
		w.fromNow()
	default:
		w.after = asked
		err = w.fromLog()
	}
	if err != nil {
		return nil, err
	}
	if q.Bookmarks {
		w.bookmarks = time.NewTimer(w.untilBookmark())
	}
	return w, nil
}

func (w *watcher) fromNow() {
	reached := w.r.store.applied.Load()
	w.r.mu.RLock()
	defer w.r.mu.RUnlock()
	w.position = w.r.log.end()
	w.after = max(reached, w.r.revision)
}

// fromState begins with the state now.
func (w *watcher) fromState(end bool) {
	reached := w.r.store.applied.Load()
	w.r.mu.Lock()
	tree := w.r.tree.Copy()
	w.position = w.r.log.end()
	w.after = max(reached, w.r.revision)
	w.r.mu.Unlock()
	l := lister{filter: w.filter}
	l.plan.prefix = namespacePrefix(w.filter.namespace)
	l.plan.start = l.plan.prefix
	page, err := l.tree(tree, w.after)
	if err != nil {
		w.failed = err
		return
	}
	w.initial, w.initialEnd = page.Entries, end
}

// fromLog begins after w.after, fetching from etcd what lies before the log.
func (w *watcher) fromLog() error {
	r := w.r
	for {
		r.mu.RLock()
		oldest := r.log.oldest
		w.position = r.log.after(w.after)
		r.mu.RUnlock()
		if w.after >= oldest {
			return nil
		}
		if err := r.backfill(w.ctx, w.after); err != nil {
			return err
		}
	}
}

// room is how many events Next appends when the caller's buffer has no capacity of its own.
const room = 128

// Next implements [Watch].
func (w *watcher) Next(buf []Event) ([]Event, error) {
	if w.failed != nil {
		return buf, w.failed
	}
	start, limit := len(buf), cap(buf)-len(buf)
	if limit == 0 {
		limit = room
	}
	for {
		if err := w.ctx.Err(); err != nil {
			return buf, err
		}
		if buf = w.sendInitial(buf, limit); len(buf) > start {
			return buf, nil
		}
		if w.started != nil {
			w.started()
			w.started = nil
		}
		var err error
		if buf, err = w.sendChanges(buf, limit); err != nil || len(buf) > start {
			return buf, err
		}
		event, err := w.sleep()
		if err != nil {
			return buf, err
		}
		if event.Type != "" {
			return append(buf, event), nil
		}
	}
}

func (w *watcher) sendInitial(buf []Event, limit int) []Event {
	n := min(limit, len(w.initial))
	for _, e := range w.initial[:n] {
		buf = append(buf, Event{Type: Added, Revision: e.Revision, Entry: e})
	}
	w.initial = w.initial[n:]
	if len(w.initial) == 0 {
		w.initial = nil
		if w.initialEnd && n < limit {
			w.initialEnd = false
			buf = append(buf, Event{Type: Bookmark, Revision: w.after, InitialEventsEnd: true})
		}
	}
	return buf
}

// sendChanges walks the log to its end, or until the buffer is full.
func (w *watcher) sendChanges(buf []Event, limit int) ([]Event, error) {
	w.r.mu.RLock()
	changes, ok := w.r.log.from(w.position)
	oldest, closed := w.r.log.oldest, w.r.closed
	w.r.mu.RUnlock()
	if closed != nil {
		return buf, closed
	}
	if !ok { // too slow: the log went on without it
		kind := w.r.codec.kind
		w.r.store.metrics.terminated.WithLabelValues(kind.Group, kind.Resource).Inc()
		return buf, tooOld(max(w.after, w.sent), oldest)
	}
	full := len(buf) + limit
	for _, c := range changes {
		if len(buf) == full {
			break
		}
		w.position++
		if c.revision <= w.after {
			continue
		}
		if err := errors.Join(w.filter.check(c.entry), w.filter.check(c.prev)); err != nil {
			return buf, err
		}
		if event, ok := w.filter.event(c); ok {
			if event.Entry.err != nil {
				return buf, apierrors.NewInternalError(event.Entry.err)
			}
			w.sent = c.revision
			buf = append(buf, event)
		}
	}
	return buf, nil
}

// event is what a change is, seen through the filter: an object that begins to match is added, one that ceases to is deleted.
func (f *filter) event(c *change) (Event, bool) {
	now, before := f.match(c.entry), f.match(c.prev)
	switch {
	case now && before:
		return Event{Type: Modified, Revision: c.revision, Entry: c.entry}, true
	case now:
		return Event{Type: Added, Revision: c.revision, Entry: c.entry}, true
	case before:
		return Event{Type: Deleted, Revision: c.revision, Entry: c.last()}, true
	}
	return Event{}, false
}

// sleep waits for a change that may matter, the end of the watch, or the time for a bookmark, which it returns.
func (w *watcher) sleep() (Event, error) {
	r := w.r
	r.mu.Lock()
	if r.log.end() != w.position || r.closed != nil {
		r.mu.Unlock()
		return Event{}, nil
	}
	sleeping := r.park(w.trigger)
	r.mu.Unlock()
	var bookmark <-chan time.Time
	if w.bookmarks != nil {
		bookmark = w.bookmarks.C
	}
	select {
	case <-sleeping.done:
		if sleeping.sequence >= 0 { // else the resource was closed
			w.position = sleeping.sequence
		}
		return Event{}, nil
	case <-w.ctx.Done():
		r.mu.Lock()
		r.unpark(w.trigger, sleeping)
		r.mu.Unlock()
		return Event{}, w.ctx.Err()
	case <-w.live:
		r.mu.Lock()
		r.unpark(w.trigger, sleeping)
		r.mu.Unlock()
		return Event{}, ErrOutOfReach
	case <-bookmark:
		return w.bookmark(sleeping), nil
	}
}

// untilBookmark is the time to the next bookmark.
func (w *watcher) untilBookmark() time.Duration {
	if deadline, ok := w.ctx.Deadline(); ok {
		return bookmarkIn(w.r.store.config.BookmarkEvery, time.Until(deadline))
	}
	return w.r.store.config.BookmarkEvery
}

// bookmarkIn has one more bookmark come 2 s before the watch ends, so that the next watch begins near there.
func bookmarkIn(every, left time.Duration) time.Duration {
	if last := left - 2*time.Second; last > 0 && last < every {
		return last
	}
	return every
}

// bookmark says up to which revision the watch has missed nothing; none if a change came in the last moment.
func (w *watcher) bookmark(sleeping *wake) Event {
	r := w.r
	w.bookmarks.Reset(w.untilBookmark())
	reached := r.store.applied.Load()
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-sleeping.done:
		if sleeping.sequence >= 0 {
			w.position = sleeping.sequence
		}
		return Event{}
	default:
	}
	r.unpark(w.trigger, sleeping)
	w.position = r.log.end()
	revision := max(reached, r.revision)
	if revision < max(w.after, w.sent) { // the client is ahead of this cache
		return Event{}
	}
	w.sent = revision
	return Event{Type: Bookmark, Revision: revision}
}

func namespacePrefix(namespace string) string {
	if namespace == "" {
		return ""
	}
	return namespace + "/"
}
