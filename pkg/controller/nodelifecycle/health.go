package nodelifecycle

import (
	"sync"
	"time"
)

const (
	// defaultLease is assumed of a node without a lease: a kubelet that only posts its status.
	defaultLease = 40 * time.Second
	// startupGrace is how long a node that never reported anything may take to.
	startupGrace = 60 * time.Second
	// leastMargin is the shortest time between suspecting a node and giving it up.
	leastMargin = 1500 * time.Millisecond
)

// health remembers when each node gave a sign of life, on this process' own monotonic
// clock. A sign is a change of the node's lease or of its status' heartbeat; what time
// the node wrote into it doesn't matter, so clocks needn't agree.
type health struct {
	mu    sync.Mutex
	nodes map[string]*vital
}

type vital struct {
	lastSign  time.Time
	lease     string        // what was last seen of the lease: a change is a sign
	duration  time.Duration // the lease's own; 0: there is none
	heartbeat string        // what was last seen of the status
	reported  bool          // it has given a sign that is its own, ever
	// suspected is since when the node has been silent for its lease's duration,
	// confirmed by the apiserver; zero: it isn't.
	suspected time.Time
}

func newHealth() *health { return &health{nodes: map[string]*vital{}} }

func (h *health) at(node string, now time.Time) *vital {
	v := h.nodes[node]
	if v == nil {
		v = &vital{lastSign: now}
		h.nodes[node] = v
	}
	return v
}

// leaseSeen notes a lease. The first look at it is a sign as well: who knows how long it has been there.
func (h *health) leaseSeen(node, lease string, duration, grace time.Duration, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := h.at(node, now)
	v.duration, v.reported = duration, true
	if grace > 0 {
		v.duration = grace * 4 / 5
	}
	if v.lease != lease {
		v.lease, v.lastSign, v.suspected = lease, now, time.Time{}
	}
}

// statusSeen notes a node's status; heartbeat is empty for a node that never posted one.
func (h *health) statusSeen(node, heartbeat string, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := h.at(node, now)
	if heartbeat == "" || v.heartbeat == heartbeat {
		return
	}
	v.heartbeat, v.lastSign, v.suspected, v.reported = heartbeat, now, time.Time{}, true
}

// forget drops a node that is gone.
func (h *health) forget(node string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.nodes, node)
}

// doubtAll starts all clocks anew: the apiserver couldn't be reached, so that no
// sign of life could have come through.
func (h *health) doubtAll(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, v := range h.nodes {
		v.lastSign, v.suspected = now, time.Time{}
	}
}

// verdict on a node's silence.
type verdict int

const (
	alive   verdict = iota
	suspect         // silent for the duration of its lease: look whether the apiserver agrees
	silent          // silent for a quarter longer still, and confirmed twice: given up
)

// judge says what a node's silence means now, and when to judge again at the latest.
func (h *health) judge(node string, now time.Time) (verdict, time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := h.at(node, now)
	duration := v.duration
	if duration == 0 {
		duration = defaultLease
	}
	if !v.reported {
		duration = startupGrace
	}
	margin := max(duration/4, leastMargin)
	quiet := now.Sub(v.lastSign)
	switch {
	case quiet < duration:
		return alive, duration - quiet
	case v.suspected.IsZero():
		return suspect, margin
	case now.Sub(v.suspected) < margin:
		return alive, margin - now.Sub(v.suspected)
	}
	return silent, duration
}

// confirm notes that the apiserver agrees that a node is silent.
func (h *health) confirm(node string, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if v := h.at(node, now); v.suspected.IsZero() {
		v.suspected = now
	}
}
