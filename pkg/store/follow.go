package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"
)

// errCompacted says that etcd no longer has the events after what was applied last.
var errCompacted = errors.New("events were compacted away")

// follow keeps one watch on everything below the prefix until ctx ends. One watch, not one per
// resource: then a revision that it reached is reached for all of them.
func (s *Store) follow(ctx context.Context) {
	backoff := 50 * time.Millisecond
	for ctx.Err() == nil {
		began := time.Now()
		err := s.followOnce(ctx)
		if errors.Is(err, errCompacted) {
			err = s.resync(ctx)
			if err == nil {
				continue
			}
		}
		if ctx.Err() != nil {
			return
		}
		s.lost(err)
		if time.Since(began) > time.Minute {
			backoff = 50 * time.Millisecond
		}
		s.log.Warn("the watch on etcd ended; trying again", "after", backoff, "error", err)
		sleep(ctx, backoff)
		backoff = min(2*backoff, 500*time.Millisecond)
	}
}

// streamContext gives a watch an etcd stream of its own: progress is told per stream, and only while no watch on it lags.
func streamContext(ctx context.Context, name string) context.Context {
	return clientv3.WithRequireLeader(metadata.AppendToOutgoingContext(ctx, "skiff-watch", name))
}

// followOnce watches from what was applied last until the watch breaks.
func (s *Store) followOnce(ctx context.Context) error {
	if s.applied.Load() == 0 {
		revision, err := s.Revision(ctx)
		if err != nil {
			return err
		}
		s.advance(revision)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.mu.Lock()
	s.renew = cancel
	s.mu.Unlock()
	events := s.client.Watch(streamContext(ctx, "cache"), s.config.Prefix+"/",
		clientv3.WithPrefix(), clientv3.WithRev(s.applied.Load()+1),
		clientv3.WithCreatedNotify(), clientv3.WithProgressNotify(), clientv3.WithFragment())
	for answer := range events {
		if err := answer.Err(); err != nil {
			if errors.Is(err, rpctypes.ErrCompacted) {
				return errCompacted
			}
			return fmt.Errorf("watching etcd: %w", err)
		}
		switch {
		case answer.Created:
			s.found()
		case answer.IsProgressNotify():
			s.advance(answer.Header.Revision)
		default:
			s.deliver(answer.Events)
		}
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return errors.New("the watch on etcd was closed")
}

// renewWatch has the watch made anew, if the cache still stands where it did.
func (s *Store) renewWatch(applied int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.renew != nil && s.applied.Load() == applied {
		s.renew(errors.New("it tells neither events nor progress"))
		s.renew = nil
	}
}

// deliver hands events, which are in the order of their revisions and complete for the last one, to their resources.
func (s *Store) deliver(events []*clientv3.Event) {
	if len(events) == 0 {
		return
	}
	perResource := map[*resource][]*mvccpb.Event{}
	var order []*resource
	s.mu.Lock()
	for _, e := range events {
		if r := s.route(string(e.Kv.Key)); r != nil {
			if perResource[r] == nil {
				order = append(order, r)
			}
			perResource[r] = append(perResource[r], (*mvccpb.Event)(e))
		}
	}
	s.mu.Unlock()
	for _, r := range order {
		r.apply(perResource[r])
	}
	s.advance(events[len(events)-1].Kv.ModRevision)
}

// route finds the cached resource that a key belongs to. Paths have one segment or two
// ("pods", "services/specs", "example.com/widgets").
func (s *Store) route(key string) *resource {
	rest := key[min(len(s.config.Prefix)+1, len(key)):]
	first := strings.IndexByte(rest, '/')
	if first < 0 {
		return nil
	}
	if second := strings.IndexByte(rest[first+1:], '/'); second >= 0 {
		if r := s.resources[rest[:first+1+second]]; r != nil {
			return r
		}
	}
	return s.resources[rest[:first]]
}

func (s *Store) found() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = nil
	if s.outage != nil && !s.outage.Stop() {
		s.live = make(chan struct{})
	}
	s.outage = nil
	select {
	case <-s.started:
	default:
		close(s.started)
	}
}

func (s *Store) lost(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = err
	if s.outage == nil {
		live := s.live
		s.outage = time.AfterFunc(outage, func() { close(live) })
	}
}

// outage is how long the cache may be cut off from etcd before its watches end: an election is shorter, and
// whoever watches should know that there is nothing to see here.
const outage = 2 * time.Second

// ErrOutOfReach ends the watches, and refuses new ones, while etcd has been out of reach for a while: their clients are
// better off at another server.
var ErrOutOfReach = errors.New("etcd is out of reach")

// reachable returns a channel that is closed when etcd has been out of reach for a while, and an error if it is already.
func (s *Store) reachable() (<-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.live:
		return s.live, fmt.Errorf("%w: %w", ErrOutOfReach, s.down)
	default:
		return s.live, nil
	}
}

// askProgress has etcd say up to which revision the watch has seen everything. However many
// ask, etcd is asked once in a while; false says that it was too soon.
func (s *Store) askProgress() bool {
	s.mu.Lock()
	if time.Since(s.asked) < patience {
		s.mu.Unlock()
		return false
	}
	s.asked = time.Now()
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(streamContext(s.ctx, "cache"), time.Second)
	defer cancel()
	s.client.RequestProgress(ctx) // an error means that the watch is broken, which follow sees itself
	return true
}

// resync closes the gap that a compaction tore while the connection was gone: all resources are read
// at one revision, and what differs becomes events. Watches go on, but none
// may start inside the gap.
func (s *Store) resync(ctx context.Context) error {
	revision, err := s.Revision(ctx)
	if err != nil {
		return err
	}
	s.log.Warn("etcd was compacted past what the cache had seen: reading everything again", "seen", s.applied.Load(), "current", revision)
	for _, r := range s.all() {
		if err := r.resync(ctx, revision); err != nil {
			return err
		}
	}
	s.advance(revision)
	return nil
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
