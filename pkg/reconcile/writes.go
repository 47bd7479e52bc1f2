package reconcile

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
)

// Cache is the part of an informer's store that tells how far it has come:
// client-go's cache.Store and cache.Indexer have it.
type Cache interface {
	LastStoreSyncResourceVersion() string
	GetByKey(key string) (item any, exists bool, err error)
}

// A write that a reconcile made, and how to see that a cache has it.
type write struct {
	seen func() bool
	made time.Time
}

// After this time a write counts as seen even if the cache says otherwise:
// it may have been undone by somebody before the cache came to it, in a way
// that the checks can't tell.
const writeSeenAtTheLatest = 5 * time.Minute

// Wrote records that the reconcile of key created, updated or patched an object
// in the resource that cache holds, and that the answer carried
// resourceVersion. The key's next turn waits until the cache has come that far.
// It is to be called within the turn that made the write.
func (l *Loop[K]) Wrote(key K, cache Cache, resourceVersion string) {
	l.record(key, func() bool {
		order, err := resourceversion.CompareResourceVersion(cache.LastStoreSyncResourceVersion(), resourceVersion)
		// A server whose versions can't be compared can't be waited for.
		return err != nil || order >= 0
	})
}

// Deleted records that the reconcile of key deleted the object with that cache
// key and UID. The key's next turn waits until the cache shows it gone,
// replaced, or terminating.
func (l *Loop[K]) Deleted(key K, cache Cache, object string, uid types.UID) {
	l.record(key, func() bool {
		item, exists, err := cache.GetByKey(object)
		if err != nil || !exists {
			return true
		}
		meta, ok := item.(interface {
			GetUID() types.UID
			GetDeletionTimestamp() *metav1.Time
		})
		return !ok || meta.GetUID() != uid || meta.GetDeletionTimestamp() != nil
	})
}

func (l *Loop[K]) record(key K, seen func() bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.writes[key] = append(l.writes[key], write{seen, time.Now()})
}

// unseen forgets the writes that the caches have caught up with, and says
// whether others remain, and when to look again. The event of the write usually
// brings the key back sooner than that.
func (l *Loop[K]) unseen(key K) (time.Duration, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	pending := l.writes[key]
	for len(pending) > 0 && (pending[0].seen() || time.Since(pending[0].made) > writeSeenAtTheLatest) {
		pending = pending[1:]
	}
	if len(pending) == 0 {
		delete(l.writes, key)
		delete(l.waits, key)
		return 0, false
	}
	l.writes[key] = pending
	delay := min(2*time.Millisecond<<l.waits[key], time.Second)
	if delay < time.Second {
		l.waits[key]++
	}
	return delay, true
}
