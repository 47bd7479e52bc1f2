package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// backfillFactor bounds how much more than its usual history a log takes from etcd.
const backfillFactor = 10

var backfills atomic.Int64

// backfill puts in front of the log what happened after revision, from etcd. The log
// keeps it, so that of a thousand watches that move here from another
// apiserver only the oldest costs anything.
func (r *resource) backfill(ctx context.Context, revision int64) error {
	r.backfilling.Lock()
	defer r.backfilling.Unlock()
	r.mu.RLock()
	oldest, torn := r.log.oldest, r.torn
	r.mu.RUnlock()
	if revision >= oldest {
		return nil // another one did it meanwhile
	}
	if revision < torn {
		return tooOld(revision, oldest)
	}
	older, err := r.history(ctx, revision, oldest)
	if errors.Is(err, rpctypes.ErrCompacted) {
		return tooOld(revision, oldest)
	}
	if err != nil {
		return unavailable(fmt.Sprintf("reading what happened to %s after %d", r.codec.kind.Resource, revision), err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.log.oldest != oldest { // a busy log dropped changes meanwhile: there would be a hole
		if r.closed != nil {
			return r.closed
		}
		return nil // the caller looks again
	}
	r.log.prepend(older, revision)
	return nil
}

// history reads the changes after one revision up to another one, both of the past.
func (r *resource) history(ctx context.Context, after, upTo int64) ([]*change, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ctx = streamContext(ctx, "backfill-"+strconv.FormatInt(backfills.Add(1), 10))
	events := r.store.client.Watch(ctx, r.codec.prefix, clientv3.WithPrefix(), clientv3.WithRev(after+1),
		clientv3.WithPrevKV(), clientv3.WithFragment(), clientv3.WithCreatedNotify())
	var changes []*change
	newest := map[string]*Entry{} // each entry is made once, though it is the state before the next change too
	ask := time.NewTicker(10 * time.Millisecond)
	defer ask.Stop()
	for {
		select {
		case answer, ok := <-events:
			if !ok {
				return nil, errors.Join(errors.New("the watch was closed"), ctx.Err())
			}
			if err := answer.Err(); err != nil {
				return nil, err
			}
			if answer.IsProgressNotify() && answer.Header.Revision >= upTo {
				return changes, nil
			}
			for _, e := range answer.Events {
				if e.Kv.ModRevision > upTo {
					return changes, nil
				}
				c, err := r.past(ctx, e, newest)
				if err != nil {
					return nil, err
				}
				changes = append(changes, c)
			}
			if len(changes) > backfillFactor*r.store.config.History {
				return nil, apierrors.NewResourceExpired(tooOldWatch)
			}
		case <-ask.C: // nothing may have happened to this resource before upTo: etcd says so
			if err := r.store.client.RequestProgress(ctx); err != nil {
				return nil, err
			}
		}
	}
}

// past is the change that an event of the past stands for.
func (r *resource) past(ctx context.Context, e *clientv3.Event, newest map[string]*Entry) (*change, error) {
	suffix := r.codec.suffix(e.Kv.Key)
	c := &change{revision: e.Kv.ModRevision, at: time.Now(), prev: newest[suffix]}
	if c.prev == nil && e.PrevKv != nil {
		c.prev = r.codec.entry(e.PrevKv)
	}
	if e.Type == mvccpb.Event_PUT {
		c.entry = r.codec.entry(e.Kv)
	}
	if c.prev == nil && !e.IsCreate() { // compacted while it was being read
		return nil, rpctypes.ErrCompacted
	}
	newest[suffix] = c.entry
	return c, nil
}
