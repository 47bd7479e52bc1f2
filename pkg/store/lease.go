package store

import (
	"context"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// leases hands out etcd leases for objects that expire. Objects written close together share one: each
// lease costs etcd a timer and a log entry. An object lives a twentieth of its
// time to live longer for that, and never more than a minute.
type leases struct {
	granter granter

	mu    sync.Mutex
	byTTL map[time.Duration]*lease
}

type granter interface {
	Grant(ctx context.Context, seconds int64) (*clientv3.LeaseGrantResponse, error)
}

type lease struct {
	id    clientv3.LeaseID
	until time.Time // when it is too old for a further object
	keys  int
}

// keysPerLease bounds what expires in one moment.
const keysPerLease = 1000

// get returns a lease that has at least ttl to go.
func (l *leases) get(ctx context.Context, ttl time.Duration) (clientv3.LeaseID, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if old := l.byTTL[ttl]; old != nil && now.Before(old.until) && old.keys < keysPerLease {
		old.keys++
		return old.id, nil
	}
	reuse := min(ttl/20, time.Minute)
	seconds := int64((ttl + reuse + time.Second - 1) / time.Second)
	granted, err := l.granter.Grant(ctx, seconds)
	if err != nil {
		return 0, err
	}
	for other, old := range l.byTTL {
		if now.After(old.until) {
			delete(l.byTTL, other)
		}
	}
	if l.byTTL == nil {
		l.byTTL = map[time.Duration]*lease{}
	}
	l.byTTL[ttl] = &lease{id: granted.ID, until: now.Add(reuse), keys: 1}
	return granted.ID, nil
}

// drop forgets a lease that etcd doesn't know.
func (l *leases) drop(id clientv3.LeaseID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for ttl, old := range l.byTTL {
		if old.id == id {
			delete(l.byTTL, ttl)
		}
	}
}
