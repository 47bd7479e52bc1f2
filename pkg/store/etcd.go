package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"skiff/pkg/api"
)

// Config makes a [Store].
type Config struct {
	// Client reaches etcd: in the process or over the network, 3.5.13 or newer (before, progress
	// notifications could overtake events).
	Client *clientv3.Client
	// Prefix of all keys; empty: "/registry".
	Prefix string
	// Stored returns the row of the version that etcd holds for a kind: the catalogue's
	// View().Stored. nil: every kind is stored as itself.
	Stored func(*api.Kind) *api.Kind
	// Transformer returns what encrypts the objects of a kind, in the version that is stored; nil (or a nil answer): nothing does.
	Transformer func(*api.Kind) Transformer
	Log         *slog.Logger // nil: slog.Default()

	// CompactEvery is the interval of etcd's compaction, by whichever apiserver comes
	// first: 0 is 5 minutes, negative is never.
	CompactEvery time.Duration
	// History is how many events of a resource are kept for watches; 0 is 10,000. Events older than 5 minutes go earlier.
	History int
	// BookmarkEvery is how often a watch that asked for bookmarks gets one; 0 is a minute. One
	// more comes 2 s before the deadline of the watch's context.
	BookmarkEvery time.Duration
}

// Transformer encrypts what etcd holds. context is the key in etcd, so that a value can't be
// moved to another one. It may begin to use other keys at any time.
type Transformer interface {
	// FromStorage also names what the value was encrypted with.
	FromStorage(data, context []byte) (plain []byte, with string, err error)
	ToStorage(plain, context []byte) (data []byte, with string, err error)
	// Stale says that what was encrypted so should be written anew: what it was encrypted with is on its way out.
	Stale(with string) bool
}

// Store is [Interface] on etcd. Its reads work once [Store.Run] runs. It is also a
// [prometheus.Collector].
type Store struct {
	config Config
	client *clientv3.Client
	log    *slog.Logger

	leases   leases
	revision coalescer

	// applied is the revision up to which every cached resource has seen all events.
	applied atomic.Int64
	// compacted is the revision before which etcd has discarded everything, as far as this store knows.
	compacted atomic.Int64
	noSpace   atomic.Bool

	ctx       context.Context // ends with Run
	end       context.CancelFunc
	encodings budget
	metrics   metrics

	mu        sync.Mutex
	running   bool
	resources map[string]*resource
	waiters   []waiter
	started   chan struct{}           // closed when the first watch on etcd stands
	down      error                   // why applied doesn't move; nil when it does
	live      chan struct{}           // closed while it has been down for long
	outage    *time.Timer             // closes live
	renew     context.CancelCauseFunc // ends the watch on etcd that stands
	asked     time.Time               // when progress was last asked for
	tasks     sync.WaitGroup
}

type waiter struct {
	revision int64
	done     chan struct{}
}

var _ Interface = (*Store)(nil)

// New makes a store; nothing happens before Run.
func New(config Config) *Store {
	config.Prefix = cmp.Or(config.Prefix, "/registry")
	config.CompactEvery = cmp.Or(config.CompactEvery, 5*time.Minute)
	config.History = cmp.Or(config.History, 10_000)
	config.BookmarkEvery = cmp.Or(config.BookmarkEvery, time.Minute)
	if config.Stored == nil {
		config.Stored = func(k *api.Kind) *api.Kind { return k }
	}
	if config.Log == nil {
		config.Log = slog.Default()
	}
	s := &Store{
		config: config, client: config.Client, log: config.Log,
		resources: map[string]*resource{},
		started:   make(chan struct{}),
		live:      make(chan struct{}),
		metrics:   newMetrics(),
		down:      errors.New("the watch cache has not started"),
	}
	s.ctx, s.end = context.WithCancel(context.Background())
	s.leases.granter = config.Client
	s.revision.read = s.readRevision
	return s
}

// Run keeps the cache in step with etcd, and compacts etcd, until ctx ends.
func (s *Store) Run(ctx context.Context) error {
	s.mu.Lock()
	if s.running {
		s.mu.Unlock()
		return errors.New("a store runs only once")
	}
	s.running = true
	s.mu.Unlock()
	defer s.end()
	defer context.AfterFunc(ctx, s.end)()
	if s.config.CompactEvery > 0 {
		s.tasks.Go(func() { s.compactLoop(s.ctx) })
	}
	s.tasks.Go(func() { s.sweepLoop(s.ctx) })
	s.follow(s.ctx)

	s.mu.Lock()
	s.down = errStopped
	resources := s.resources
	s.resources = nil
	s.mu.Unlock()
	for _, r := range resources {
		r.close(errStopped)
	}
	s.tasks.Wait()
	return nil
}

// Ready implements [Interface].
func (s *Store) Ready(ctx context.Context) error {
	s.mu.Lock()
	down := s.down
	s.mu.Unlock()
	if down != nil {
		return down
	}
	revision, err := s.Revision(ctx)
	if err != nil {
		return fmt.Errorf("etcd serves no consistent read (it has no leader, or no quorum is reached): %w", err)
	}
	if err := s.waitFor(ctx, revision); err != nil {
		return fmt.Errorf("the watch cache has seen revision %d, etcd is at %d: %w", s.applied.Load(), revision, err)
	}
	return nil
}

// NoSpace implements [Interface].
func (s *Store) NoSpace() bool { return s.noSpace.Load() }

func (s *Store) noteSpace(err error, op clientv3.Op) {
	switch {
	case errors.Is(err, rpctypes.ErrNoSpace):
		s.noSpace.Store(true)
	case err == nil && op.IsPut():
		s.noSpace.Store(false)
	}
}

// Revision implements [Interface]. Concurrent callers share one round trip.
func (s *Store) Revision(ctx context.Context) (int64, error) { return s.revision.get(ctx) }

const (
	// answerTime is how long etcd as a whole may take to answer a small request; electing a leader is included.
	answerTime = 5 * time.Second
	// attemptTime is how long one member may: it may stand still, or have forwarded the request to a leader that is gone.
	attemptTime = 1500 * time.Millisecond
)

// attempts asks etcd until it answers, but no longer than answerTime. ask must be safe to repeat.
func (s *Store) attempts(asker context.Context, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(asker, answerTime)
	defer cancel()
	for {
		attempt, cancel := context.WithTimeout(ctx, attemptTime)
		err := ask(attempt)
		cancel()
		if err == nil || !inDoubt(err) {
			return err
		}
		if sleep(ctx, 20*time.Millisecond); ctx.Err() != nil {
			if asker.Err() == nil {
				s.renewWatch(s.applied.Load()) // it may be waiting for a connection, and say nothing
			}
			return fmt.Errorf("etcd has no leader, or does not answer: %w", err)
		}
	}
}

// readRevision is a quorum read: no write that was acknowledged before is missing from it.
func (s *Store) readRevision() (int64, error) {
	var answer *clientv3.GetResponse
	err := s.attempts(context.Background(), func(ctx context.Context) (err error) {
		answer, err = s.client.Get(ctx, s.config.Prefix+"/", clientv3.WithKeysOnly())
		return err
	})
	if err != nil {
		return 0, unavailable("reading etcd's revision", err)
	}
	return answer.Header.Revision, nil
}

// current brings the cache to what etcd holds now, for a consistent read.
func (s *Store) current(ctx context.Context) error {
	revision, err := s.Revision(ctx)
	if err != nil {
		return err
	}
	waiting, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	err = s.waitFor(waiting, revision)
	if err != nil && ctx.Err() == nil {
		return apierrors.NewTimeoutError(fmt.Sprintf("the watch cache has seen revision %d, etcd is at %d", s.applied.Load(), revision), 1)
	}
	return err
}

const (
	// patience is how long a read waits for the event that is surely on its way, before
	// it asks etcd whether there is one.
	patience = 3 * time.Millisecond
	// askAgain is when progress is asked for anew; etcd says nothing while its watcher lags.
	askAgain = 50 * time.Millisecond
	// stuck is when a watch that tells neither events nor progress is made anew: its member may be gone without a word.
	stuck = time.Second
)

// waitFor waits until every resource has seen all events up to revision. A write to
// a key that no resource holds raises the revision without an event: then progress is asked for.
func (s *Store) waitFor(ctx context.Context, revision int64) error {
	if s.applied.Load() >= revision {
		return nil
	}
	s.mu.Lock()
	if s.applied.Load() >= revision {
		s.mu.Unlock()
		return nil
	}
	w := waiter{revision, make(chan struct{})}
	s.waiters = append(s.waiters, w)
	s.mu.Unlock()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	stands, since := s.applied.Load(), time.Now()
	for {
		select {
		case <-w.done:
			return nil
		case <-ctx.Done():
			s.forgetWaiter(w)
			return ctx.Err()
		case <-timer.C:
			if applied := s.applied.Load(); applied != stands {
				stands, since = applied, time.Now()
			} else if time.Since(since) > stuck {
				s.renewWatch(applied)
				since = time.Now()
			}
			if s.askProgress() {
				timer.Reset(askAgain)
			} else {
				timer.Reset(patience)
			}
		}
	}
}

func (s *Store) forgetWaiter(w waiter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.waiters {
		if s.waiters[i].done == w.done {
			s.waiters = append(s.waiters[:i], s.waiters[i+1:]...)
			return
		}
	}
}

// advance announces that all events up to revision are applied.
func (s *Store) advance(revision int64) {
	if revision <= s.applied.Load() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.applied.Store(revision)
	kept := s.waiters[:0]
	for _, w := range s.waiters {
		if w.revision <= revision {
			close(w.done)
		} else {
			kept = append(kept, w)
		}
	}
	clear(s.waiters[len(kept):])
	s.waiters = kept
}

// coalescer lets callers that come while a read is under way share the next one: joining
// the one under way could miss a write that was acknowledged after it was made.
type coalescer struct {
	read func() (int64, error)

	mu      sync.Mutex
	running bool
	next    *batch
}

type batch struct {
	done     chan struct{}
	revision int64
	err      error
}

func (c *coalescer) get(ctx context.Context) (int64, error) {
	c.mu.Lock()
	if c.next == nil {
		c.next = &batch{done: make(chan struct{})}
	}
	b := c.next
	if !c.running {
		c.running = true
		go c.run()
	}
	c.mu.Unlock()
	select {
	case <-b.done:
		return b.revision, b.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func (c *coalescer) run() {
	for {
		c.mu.Lock()
		b := c.next
		c.next = nil
		if b == nil {
			c.running = false
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		b.revision, b.err = c.read()
		close(b.done)
	}
}
