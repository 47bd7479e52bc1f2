package store

import (
	"context"
	"fmt"
	"strconv"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// compactKey is Kubernetes' own, so that its apiservers and ours take turns. Its version counts
// the compactions: who succeeds in raising it is the one to compact, the
// others learn of it and wait another interval.
const compactKey = "compact_rev_key"

// compactLoop discards, at each interval, what is older than the interval before it began.
func (s *Store) compactLoop(ctx context.Context) {
	var c compactor
	for {
		if sleep(ctx, s.config.CompactEvery); ctx.Err() != nil {
			return
		}
		if err := c.turn(ctx, s.client); err != nil && ctx.Err() == nil {
			s.log.Warn("compacting etcd", "error", err)
		}
		s.compacted.Store(c.compacted)
	}
}

type compactor struct {
	turns    int64 // version of compactKey as last seen
	revision int64 // etcd's then

	compacted int64 // what is older has been discarded, by whomever
}

// turn compacts to the revision of the previous turn, if no other apiserver had this turn.
func (c *compactor) turn(ctx context.Context, client *clientv3.Client) error {
	answer, err := client.Txn(ctx).
		If(clientv3.Compare(clientv3.Version(compactKey), "=", c.turns)).
		Then(clientv3.OpPut(compactKey, strconv.FormatInt(c.revision, 10))).
		Else(clientv3.OpGet(compactKey)).Commit()
	if err != nil {
		return fmt.Errorf("taking the turn: %w", err)
	}
	target := c.revision
	c.revision = answer.Header.Revision
	if !answer.Succeeded {
		if kvs := answer.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 {
			c.turns = kvs[0].Version
			c.compacted, _ = strconv.ParseInt(string(kvs[0].Value), 10, 64)
		} else {
			c.turns = 0
		}
		return nil
	}
	c.turns++
	if target == 0 { // just begun: nothing known of the past
		return nil
	}
	if _, err := client.Compact(ctx, target); err != nil {
		return fmt.Errorf("to revision %d: %w", target, err)
	}
	c.compacted = target
	return nil
}
