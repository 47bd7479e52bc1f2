package fair

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// Why a request is refused, in the words of the metrics.
var (
	ErrQueueFull   = errors.New("queue-full")
	ErrConcurrency = errors.New("concurrency-limit")
	ErrTimeOut     = errors.New("time-out")
	ErrCancelled   = errors.New("cancelled")
)

// Scheduler gives out seats. It may be used concurrently.
type Scheduler struct {
	mu     sync.Mutex
	levels []*level
	byName map[string]*level
	// total seats; taken are those in use, and those that levels keep for themselves.
	total, taken int
	waiting      int
}

// NewScheduler returns a Scheduler of so many seats. A request for a level that isn't there is one for the last.
func NewScheduler(seats int, levels []Level) *Scheduler {
	s := &Scheduler{byName: map[string]*level{}}
	s.Configure(seats, levels)
	return s
}

// Configure changes the levels. What runs or waits goes on, also in a level that is gone.
func (s *Scheduler) Configure(seats int, levels []Level) {
	s.mu.Lock()
	defer s.mu.Unlock()
	nominal := 0
	kept := make([]*level, 0, len(levels))
	for _, config := range levels {
		l := s.byName[config.Name]
		if l == nil {
			l = newLevel(config)
		} else {
			l.configure(config)
		}
		l.removed = false
		nominal += config.Nominal
		kept = append(kept, l)
	}
	byName := make(map[string]*level, len(kept))
	for _, l := range kept {
		byName[l.Name] = l
	}
	old := s.levels
	s.levels, s.byName = kept, byName
	for _, l := range old {
		if byName[l.Name] == nil && l.running+l.waiting > 0 {
			l.removed, l.Reserved = true, 0
			s.levels = slices.Insert(s.levels, 0, l)
		}
	}
	s.total = max(seats, nominal) // shares are rounded up
	s.taken = 0
	for _, l := range s.levels {
		s.taken += l.taken(0)
	}
	s.dispatch(time.Now())
}

// taken is what a level leaves less for the others with so many more seats in use.
func (l *level) taken(more int) int {
	if l.Exempt { // which takes what it wants, and the others shouldn't stand still for that
		return min(max(l.used+more, l.Reserved), l.Nominal)
	}
	return max(l.used+more, l.Reserved)
}

// room says whether a request may start: within what the level keeps for itself always, beyond that as long as
// nobody else needs it.
func (s *Scheduler) room(l *level, width int) (own, lent bool) {
	if l.Exempt {
		return true, true
	}
	if l.used > 0 && l.used+width > l.Limit {
		return false, false
	}
	need := l.taken(width) - l.taken(0)
	return need == 0, need <= s.total-s.taken
}

func (s *Scheduler) start(t *Ticket, now time.Time) {
	l := t.level
	l.start(t, now)
	s.use(l, t.width)
}

func (s *Scheduler) use(l *level, width int) {
	before := l.taken(0)
	l.used += width
	s.taken += l.taken(0) - before
}

// Ticket is a request that was let in, and has yet to be released.
type Ticket struct {
	scheduler *Scheduler
	level     *level
	queue     *queue
	flow      uint64
	width     int
	arrived   time.Time
	began     time.Time
	admitted  chan struct{} // nil for who never waited
	ended     bool
}

// Request is what a seat is wanted for.
type Request struct {
	Level string
	Flow  uint64 // a hash; equal for all requests of a flow
	Width int    // seats
	// Wait is how long the request may.
	Wait time.Duration
}

// Acquire waits for seats. The error is one of this package's, and then there is nothing to release.
func (s *Scheduler) Acquire(ctx context.Context, r Request) (*Ticket, error) {
	now := time.Now()
	s.mu.Lock()
	l := s.byName[r.Level]
	if l == nil {
		l = s.levels[len(s.levels)-1]
	}
	t := &Ticket{scheduler: s, level: l, flow: r.Flow, width: min(max(r.Width, 1), l.width()), arrived: now}
	t.queue = l.choose(r.Flow)
	if l.Exempt || s.waiting == 0 {
		if _, lent := s.room(l, t.width); lent {
			s.start(t, now)
			s.mu.Unlock()
			return t, nil
		}
	}
	if l.Queues > 0 && len(t.queue.line) >= l.QueueLength {
		s.mu.Unlock()
		return nil, ErrQueueFull
	}
	t.admitted = make(chan struct{})
	l.enqueue(t)
	s.waiting++
	s.dispatch(now)
	if t.began.IsZero() && l.Queues == 0 {
		s.withdraw(t, now)
		s.mu.Unlock()
		return nil, ErrConcurrency
	}
	s.mu.Unlock()
	return t, t.wait(ctx, r.Wait)
}

func (t *Ticket) wait(ctx context.Context, patience time.Duration) error {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	var reason error
	select {
	case <-t.admitted:
		return nil
	case <-timer.C:
		reason = ErrTimeOut
	case <-ctx.Done():
		reason = ErrCancelled
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			reason = ErrTimeOut
		}
	}
	s := t.scheduler
	s.mu.Lock()
	defer s.mu.Unlock()
	if !t.began.IsZero() { // at the same moment: it has its seat
		return nil
	}
	s.withdraw(t, time.Now())
	return reason
}

// withdraw takes a request out of its queue; those behind it may now start.
func (s *Scheduler) withdraw(t *Ticket, now time.Time) {
	t.ended = true
	t.level.withdraw(t)
	s.waiting--
	s.dispatch(now)
	s.forget(t.level)
}

// Release gives the seats back; a second call does nothing.
func (t *Ticket) Release() {
	now := time.Now()
	s := t.scheduler
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.ended {
		return
	}
	t.ended = true
	t.level.finish(t, now)
	s.use(t.level, -t.width)
	s.dispatch(now)
	s.forget(t.level)
}

// Waited is how long the request was in its queue.
func (t *Ticket) Waited() time.Duration { return t.began.Sub(t.arrived) }

// forget drops a level that was removed, when its last request is over.
func (s *Scheduler) forget(l *level) {
	if l.removed && l.running+l.waiting == 0 {
		s.levels = slices.DeleteFunc(s.levels, func(other *level) bool { return other == l })
	}
}

// dispatch starts what can be. Levels take turns by how much of their share they use. When the first of them needs more lent
// seats than are free, the others leave those alone, so that it gets them at last.
func (s *Scheduler) dispatch(now time.Time) {
	for s.waiting > 0 {
		t := s.pick()
		if t == nil {
			return
		}
		t.level.withdraw(t)
		s.waiting--
		s.start(t, now)
		close(t.admitted)
	}
}

func (s *Scheduler) pick() *Ticket {
	var buffer [16]*level
	hungry := buffer[:0]
	for _, l := range s.levels {
		if l.waiting > 0 {
			hungry = append(hungry, l)
		}
	}
	slices.SortStableFunc(hungry, func(a, b *level) int { return cmp.Compare(a.share(), b.share()) })
	promised := false
	for _, l := range hungry {
		t := l.next()
		own, lent := s.room(l, t.width)
		if own || lent && !promised {
			return t
		}
		promised = promised || l.used == 0 || l.used+t.width <= l.Limit
	}
	return nil
}

// share is how much of its nominal seats a level uses; without any it comes last.
func (l *level) share() float64 {
	return float64(l.used+1) / float64(l.Nominal)
}

// Usage is what a level has and does.
type Usage struct {
	Level            string
	Nominal, Used    int // seats
	Running, Waiting int // requests
}

// Usage returns that of all levels.
func (s *Scheduler) Usage() []Usage {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Usage, 0, len(s.byName))
	for _, l := range s.levels {
		if !l.removed {
			all = append(all, Usage{l.Name, l.Nominal, l.used, l.running, l.waiting})
		}
	}
	return all
}
