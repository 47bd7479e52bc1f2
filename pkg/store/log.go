package store

import (
	"sort"
	"sync/atomic"
	"time"
)

// change is one step of a resource: an object was written (entry), or deleted (entry is nil).
type change struct {
	revision int64
	entry    *Entry
	prev     *Entry // nil: it did not exist before
	gone     atomic.Pointer[Entry]
	at       time.Time
}

// last is what a deletion reports, and a watch that the object leaves: the state before, with the revision of this change.
func (c *change) last() *Entry {
	if e := c.gone.Load(); e != nil {
		return e
	}
	c.gone.CompareAndSwap(nil, c.prev.at(c.revision))
	return c.gone.Load()
}

func (c *change) suffix() string {
	if c.entry != nil {
		return c.entry.Key.suffix()
	}
	return c.prev.Key.suffix()
}

// eventLog is the recent past of a resource. A change has a sequence number, which is a
// watcher's position; numbers start somewhere in the middle, so that older changes can be put in front.
type eventLog struct {
	changes []*change
	first   int64 // sequence number of changes[0]
	oldest  int64 // all changes after this revision are here
	extra   int   // how many of them were put in front, beyond the usual count
}

// end is the sequence number of the next change.
func (l *eventLog) end() int64 { return l.first + int64(len(l.changes)) }

// after is the sequence number of the first change with a higher revision.
func (l *eventLog) after(revision int64) int64 {
	return l.first + int64(sort.Search(len(l.changes), func(i int) bool { return l.changes[i].revision > revision }))
}

// from returns the changes from a sequence number on; false when some of them are gone. The
// slice is never written to again.
func (l *eventLog) from(sequence int64) ([]*change, bool) {
	if sequence < l.first {
		return nil, false
	}
	return l.changes[sequence-l.first:], true
}

// trim forgets changes that are too many, or older than maxAge.
func (l *eventLog) trim(count int, now time.Time) {
	const maxAge = 5 * time.Minute
	n := max(0, len(l.changes)-count-l.extra)
	for n < len(l.changes) && now.Sub(l.changes[n].at) > maxAge {
		n++
	}
	if n > 0 {
		l.oldest = max(l.oldest, l.changes[n-1].revision)
		l.changes = l.changes[n:]
		l.first += int64(n)
		l.extra = max(0, l.extra-n)
	}
}

// prepend puts older changes in front, which are complete from revision oldest on.
func (l *eventLog) prepend(older []*change, oldest int64) {
	l.changes = append(older[:len(older):len(older)], l.changes...)
	l.first -= int64(len(older))
	l.oldest = oldest
	l.extra += len(older)
}
