//lint:file-ignore SA1019 the lock stands in an Endpoints object, deprecated or not

package election

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/tools/record"
)

// lock is the resourcelock.Interface that client-go's elector drives. All its
// methods but RecordEvent are called by the elector's goroutine alone.
type lock struct {
	namespace, name, identity string
	endpoints                 coreclient.EndpointsInterface // nil: the Lease alone is the lock
	leases                    coordinationclient.LeaseInterface
	recorder                  record.EventRecorder
	fence                     *fence
	duration, callTimeout     time.Duration
	jitter                    time.Duration              // at most this long before an expired lock is tried
	watched                   chan *coordinationv1.Lease // the Lease after a change; the latest one only

	revision atomic.Int64 // of the last write with which the lock became or stayed ours

	// What was last read or written; nil when absent.
	endpointsNow *corev1.Endpoints
	leaseNow     *coordinationv1.Lease

	seen     string      // who has the Endpoints, and the whole record of the Lease
	seenAt   time.Time   // when that changed last
	reported string      // the holder that Get last told
	leading  bool        // once both were ours
	acquired metav1.Time // when we took it, or last tried to
}

var _ resourcelock.Interface = (*lock)(nil)

func (l *lock) Identity() string { return l.identity }
func (l *lock) Describe() string { return l.namespace + "/" + l.name }

// RecordEvent tells it of both halves, as client-go's lock of this kind did.
func (l *lock) RecordEvent(what string) {
	tell := func(apiVersion, kind string, uid types.UID) {
		half := &corev1.ObjectReference{APIVersion: apiVersion, Kind: kind, Namespace: l.namespace, Name: l.name, UID: uid}
		l.recorder.Eventf(half, corev1.EventTypeNormal, "LeaderElection", "%s %s", l.identity, what)
	}
	if l.endpointsNow != nil {
		tell("v1", "Endpoints", l.endpointsNow.UID)
	}
	if l.leaseNow != nil {
		tell("coordination.k8s.io/v1", "Lease", l.leaseNow.UID)
	}
}

// Get returns the record of the lock. For a candidate it doesn't return
// while there is nothing to try: it waits until the holder changes, or until
// nobody has renewed the lock for its duration, which it tells by an empty holder.
func (l *lock) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	for {
		if err := l.read(ctx); err != nil {
			return nil, nil, err
		}
		r := l.combined()
		if !l.leading && r.HolderIdentity != "" && r.HolderIdentity == l.reported {
			if left := l.expiry(); left > 0 {
				l.wait(ctx, left)
				if ctx.Err() == nil {
					continue
				}
				return r, []byte(l.seen), nil // stopping, still held by another
			}
			r.HolderIdentity = ""
		}
		if l.leading && r.HolderIdentity != "" && r.HolderIdentity != l.identity {
			l.fence.depose(false, "held by "+r.HolderIdentity)
		}
		l.reported = r.HolderIdentity
		return r, []byte(l.seen), nil
	}
}

// wait returns when the Lease has another holder, or when nobody has renewed
// it for as long as the lock has left, or when ctx ends.
func (l *lock) wait(ctx context.Context, left time.Duration) {
	timer := time.NewTimer(left + rand.N(l.jitter))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case lease := <-l.watched:
			if l.leaseNow == nil || lease == nil || holderOf(lease) != holderOf(l.leaseNow) {
				return
			}
			l.leaseNow = lease
			if l.notice() {
				timer.Reset(l.expiry() + rand.N(l.jitter))
			}
		}
	}
}

// expiry is how long the holder has left, as far as the last look at the two halves tells.
func (l *lock) expiry() time.Duration {
	duration := l.combined().LeaseDurationSeconds
	return time.Until(l.seenAt.Add(time.Duration(duration) * time.Second))
}

// notice updates what was seen, and reports whether it is news. A leader writes
// the same record to both halves, so its renewals show in the Lease alone.
func (l *lock) notice() bool {
	seen := raw(recordOfEndpoints(l.endpointsNow))
	if l.leaseNow != nil {
		holder := ""
		if l.endpointsNow != nil {
			holder = recordOfEndpoints(l.endpointsNow).HolderIdentity
		}
		seen = holder + "," + raw(recordOfLease(l.leaseNow))
		if renewed := l.leaseNow.Spec.RenewTime; renewed != nil {
			seen += renewed.Format(time.RFC3339Nano) // the record's times are whole seconds, and renewals come more often
		}
	}
	if seen == l.seen {
		return false
	}
	l.seen, l.seenAt = seen, time.Now()
	return true
}

// read gets both objects.
func (l *lock) read(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, l.callTimeout)
	defer cancel()
	if l.endpoints != nil {
		e, err := l.endpoints.Get(ctx, l.name, metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("get endpoints %s: %w", l.Describe(), err)
		}
		if l.endpointsNow = e; err != nil {
			l.endpointsNow = nil
		}
	}
	lease, err := l.leases.Get(ctx, l.name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("get lease %s: %w", l.Describe(), err)
	}
	if l.leaseNow = lease; err != nil {
		l.leaseNow = nil
	}
	if l.endpointsNow == nil && l.leaseNow == nil {
		return apierrors.NewNotFound(coordinationv1.Resource("leases"), l.name)
	}
	l.notice()
	return nil
}

func (l *lock) combined() *resourcelock.LeaderElectionRecord {
	onEndpoints, onLease := recordOfEndpoints(l.endpointsNow), recordOfLease(l.leaseNow)
	if l.endpoints == nil {
		onEndpoints = onLease
	}
	return combine(l.identity, onEndpoints, onLease)
}

// recordOfEndpoints returns the record in the annotation; one that is absent or can't be read is nobody's.
func recordOfEndpoints(e *corev1.Endpoints) *resourcelock.LeaderElectionRecord {
	r := &resourcelock.LeaderElectionRecord{}
	if e == nil {
		return r
	}
	if text := e.Annotations[resourcelock.LeaderElectionRecordAnnotationKey]; text != "" {
		if err := json.Unmarshal([]byte(text), r); err != nil {
			return &resourcelock.LeaderElectionRecord{}
		}
	}
	return r
}

func recordOfLease(lease *coordinationv1.Lease) *resourcelock.LeaderElectionRecord {
	if lease == nil {
		return &resourcelock.LeaderElectionRecord{}
	}
	return resourcelock.LeaseSpecToLeaderElectionRecord(&lease.Spec)
}

func holderOf(lease *coordinationv1.Lease) string { return recordOfLease(lease).HolderIdentity }

func raw(r *resourcelock.LeaderElectionRecord) string {
	text, _ := json.Marshal(r) // can't fail: strings, numbers, times
	return string(text)
}

// combine says who holds a lock of two halves. A half that is free counts as
// held by whoever has the other, except for ourselves: then it is free to be
// taken, as after a write that only half succeeded.
func combine(self string, a, b *resourcelock.LeaderElectionRecord) *resourcelock.LeaderElectionRecord {
	r := *a
	if a.RenewTime.Before(&b.RenewTime) {
		r = *b
	}
	r.LeaseDurationSeconds = max(a.LeaseDurationSeconds, b.LeaseDurationSeconds)
	r.LeaderTransitions = max(a.LeaderTransitions, b.LeaderTransitions)
	switch {
	case a.HolderIdentity == b.HolderIdentity:
		r.HolderIdentity = a.HolderIdentity
	case a.HolderIdentity == "" || b.HolderIdentity == "":
		r.HolderIdentity = a.HolderIdentity + b.HolderIdentity
		if r.HolderIdentity == self {
			r.HolderIdentity = ""
		}
	default:
		r.HolderIdentity = resourcelock.UnknownLeader
	}
	return &r
}

// Create is Update: each half is made where it is missing.
func (l *lock) Create(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	return l.Update(ctx, r)
}

// Update writes the record to both halves, each by compare-and-swap on what was
// read or written last. Endpoints come first: among those who take both, the
// winner of the first half is the one who goes on to the second.
func (l *lock) Update(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	if r.HolderIdentity == "" && !l.leading {
		return errors.New("not ours to release")
	}
	start := time.Now()
	if !l.leading { // the elector looked at its clock before it waited for its turn
		l.acquired = metav1.NewTime(start)
		r.RenewTime = l.acquired
	}
	r.AcquireTime = l.acquired
	ctx, cancel := context.WithTimeout(ctx, l.callTimeout)
	defer cancel()
	if l.endpoints != nil {
		if err := l.writeEndpoints(ctx, &r); err != nil {
			return err
		}
		if !l.leading {
			at := l.seenAt
			l.notice() // our own write doesn't count as somebody's sign of life
			l.seenAt = at
		}
	}
	if err := l.writeLease(ctx, &r); err != nil {
		return err
	}
	if r.HolderIdentity == l.identity {
		l.leading = true
		l.fence.renewed(start.Add(l.duration))
		l.revision.Store(revisionOf(l.leaseNow.ResourceVersion)) // written after the Endpoints
	}
	return nil
}

func (l *lock) writeEndpoints(ctx context.Context, r *resourcelock.LeaderElectionRecord) error {
	if l.endpointsNow == nil {
		e := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: l.namespace, Name: l.name,
			Annotations: map[string]string{resourcelock.LeaderElectionRecordAnnotationKey: raw(r)}}}
		created, err := l.endpoints.Create(ctx, e, metav1.CreateOptions{})
		if err != nil {
			return fmt.Errorf("create endpoints %s: %w", l.Describe(), err)
		}
		l.endpointsNow = created
		return nil
	}
	if r.HolderIdentity == "" && recordOfEndpoints(l.endpointsNow).HolderIdentity != l.identity {
		return errors.New("not ours to release")
	}
	e := l.endpointsNow.DeepCopy()
	if e.Annotations == nil {
		e.Annotations = map[string]string{}
	}
	e.Annotations[resourcelock.LeaderElectionRecordAnnotationKey] = raw(r)
	updated, err := l.endpoints.Update(ctx, e, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("update endpoints %s: %w", l.Describe(), err)
	}
	l.endpointsNow = updated
	return nil
}

func (l *lock) writeLease(ctx context.Context, r *resourcelock.LeaderElectionRecord) error {
	if l.leaseNow == nil {
		lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: l.namespace, Name: l.name},
			Spec: resourcelock.LeaderElectionRecordToLeaseSpec(r)}
		created, err := l.leases.Create(ctx, lease, metav1.CreateOptions{})
		if err != nil {
			return fmt.Errorf("create lease %s: %w", l.Describe(), err)
		}
		l.leaseNow = created
		return nil
	}
	if r.HolderIdentity == "" && holderOf(l.leaseNow) != l.identity {
		return errors.New("not ours to release")
	}
	lease := l.leaseNow.DeepCopy()
	lease.Spec = resourcelock.LeaderElectionRecordToLeaseSpec(r)
	updated, err := l.leases.Update(ctx, lease, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("update lease %s: %w", l.Describe(), err)
	}
	l.leaseNow = updated
	return nil
}

// revisionOf returns the etcd revision that a resourceVersion is, 0 if it is none.
func revisionOf(version string) int64 {
	revision, _ := strconv.ParseInt(version, 10, 64)
	return revision
}
