package scheduler

import (
	"cmp"
	"container/heap"
	"time"
)

// A waiting pod is in one place of the queue.
type place int8

const (
	active  place = iota // to be tried as soon as possible, by priority and age
	backoff              // to be tried after a while
	waiting              // fits nowhere: until something happens that may help
	gated                // has scheduling gates
	flight               // being bound
)

var placeNames = [...]string{active: "active", backoff: "backoff", waiting: "unschedulable", gated: "gated"}

// item is a pod without a node.
type item struct {
	*pod
	class    string // signature
	place    place
	index    int       // in its heap
	since    time.Time // in the queue for the first time
	queued   time.Time // for this try
	tries    int       // all attempts
	failures int       // attempts that found no node
	errors   int       // consecutive attempts that ended in an error
	until    time.Time // when the backoff ends
	said     string    // the message of the last event, and when
	saidAt   time.Time
}

// Backoff grows by factors of two, as in Kubernetes.
const (
	firstBackoff = time.Second
	maxBackoff   = 10 * time.Second
)

// queue holds the pods without a node.
type queue struct {
	items   map[string]*item // by namespace/name
	ready   order            // active
	delayed order            // backoff after finding no node
	errored order            // backoff after an error
	// stuck are the waiting ones, by class.
	stuck  map[string]map[*item]bool
	counts [flight + 1]int
}

func newQueue() *queue {
	return &queue{items: map[string]*item{}, stuck: map[string]map[*item]bool{},
		ready: order{less: func(a, b *item) bool {
			return cmp.Or(cmp.Compare(b.priority, a.priority), a.queued.Compare(b.queued), cmp.Compare(a.key, b.key)) < 0
		}},
		delayed: order{less: byEnd}, errored: order{less: byEnd}}
}

func byEnd(a, b *item) bool {
	return cmp.Or(a.until.Compare(b.until), cmp.Compare(b.priority, a.priority), cmp.Compare(a.key, b.key)) < 0
}

func (q *queue) heapOf(it *item) *order {
	switch {
	case it.place == active:
		return &q.ready
	case it.place == backoff && it.errors > 0:
		return &q.errored
	case it.place == backoff:
		return &q.delayed
	}
	return nil
}

// put brings an item to a place, from wherever it was.
func (q *queue) put(it *item, to place) {
	q.take(it)
	q.items[it.key] = it
	it.place = to
	q.counts[to]++
	if h := q.heapOf(it); h != nil {
		heap.Push(h, it)
	}
	if to == waiting {
		if q.stuck[it.class] == nil {
			q.stuck[it.class] = map[*item]bool{}
		}
		q.stuck[it.class][it] = true
	}
}

// take removes an item, if it is there.
func (q *queue) take(it *item) {
	if q.items[it.key] != it {
		return
	}
	delete(q.items, it.key)
	q.counts[it.place]--
	if h := q.heapOf(it); h != nil {
		heap.Remove(h, it.index)
	}
	if it.place == waiting {
		delete(q.stuck[it.class], it)
		if len(q.stuck[it.class]) == 0 {
			delete(q.stuck, it.class)
		}
	}
}

// retry brings an item back after something happened that may help: at once when its backoff is over.
func (q *queue) retry(it *item, now time.Time) {
	it.queued = now
	if now.Before(it.until) {
		q.put(it, backoff)
	} else {
		q.put(it, active)
	}
}

// pop takes the next pod to try, and leaves it in flight. With nothing active
// it takes one whose backoff isn't over, unless that is for an error: backoff
// keeps pods from getting in each other's way, not from an idle scheduler.
func (q *queue) pop(now time.Time) *item {
	for _, h := range []*order{&q.delayed, &q.errored} {
		for len(h.items) > 0 && !now.Before(h.items[0].until) {
			q.put(h.items[0], active)
		}
	}
	for _, h := range []*order{&q.ready, &q.delayed} {
		if len(h.items) > 0 {
			it := h.items[0]
			q.put(it, flight)
			return it
		}
	}
	return nil
}

// next returns when an empty-handed pop may have something without anybody
// putting it there; ok is false if never.
func (q *queue) next() (at time.Time, ok bool) {
	if len(q.errored.items) == 0 {
		return time.Time{}, false
	}
	return q.errored.items[0].until, true
}

// delay is the backoff after so many failures in a row.
func delay(failures int) time.Duration {
	d := firstBackoff
	for range failures - 1 {
		if d *= 2; d >= maxBackoff {
			return maxBackoff
		}
	}
	return d
}

// order is a heap of items that know their place in it.
type order struct {
	items []*item
	less  func(a, b *item) bool
}

func (o *order) Len() int           { return len(o.items) }
func (o *order) Less(i, j int) bool { return o.less(o.items[i], o.items[j]) }
func (o *order) Swap(i, j int) {
	o.items[i], o.items[j] = o.items[j], o.items[i]
	o.items[i].index, o.items[j].index = i, j
}
func (o *order) Push(x any) {
	it := x.(*item)
	it.index = len(o.items)
	o.items = append(o.items, it)
}
func (o *order) Pop() any {
	last := len(o.items) - 1
	it := o.items[last]
	o.items[last] = nil
	o.items = o.items[:last]
	return it
}
