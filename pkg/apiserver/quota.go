package apiserver

import (
	"cmp"
	"context"
	"fmt"
	"hash/maphash"
	"maps"
	"strconv"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"skiff/pkg/api"
	"skiff/pkg/api/quota"
	"skiff/pkg/store"
)

// quotas is the admission plugin ResourceQuota. Like Kubernetes' it comes last; unlike that one it charges
// a quota in the transaction that writes the object, which also compares that the
// namespace's quotas are still those that were judged by. So no quota is ever overdrawn, however many write,
// through however many servers, and none is charged for what wasn't written. What is released by deletions and the
// ends of pods is found by the controller.
type quotas struct {
	server *server
	seed   maphash.Seed
	turns  [64]turn
}

// turn lets those who charge the quotas of a namespace do so one after the other, instead of racing for a
// transaction that only one of them can win. Namespaces share turns.
type turn struct {
	taken    chan struct{} // holds one
	revision int64         // of the last charge; for the one whose turn it is
}

func newQuotas(s *server) *quotas {
	q := &quotas{server: s, seed: maphash.MakeSeed()}
	for i := range q.turns {
		q.turns[i].taken = make(chan struct{}, 1)
	}
	return q
}

const quotaPrefix = "/registry/resourcequotas/"

// bear says whether quotas can bear on a call's writes.
func (q *quotas) bear(c *call) bool {
	switch {
	case c.Info == nil, !c.kind.Namespaced, c.kind.Virtual: // the first are the server's own writes
		return false
	case c.Verb == "create":
		return c.Subresource == ""
	}
	return (c.Verb == "update" || c.Verb == "patch") &&
		(c.Subresource == "" || c.Subresource == "resize" || c.Subresource == "status" && c.kind.Kind == "PersistentVolumeClaim")
}

// judgement is what a write comes to by the quotas at a revision.
type judgement struct {
	revision int64
	charges  []quota.Charge
	refusal  error
}

// judge reads the quotas as they are at atLeast or later; -1 is whatever the cache has, 0 the newest.
func (q *quotas) judge(ctx context.Context, namespace string, w quota.Write, atLeast int64) (judgement, error) {
	kind := q.server.kind(corev1.SchemeGroupVersion.WithKind("ResourceQuota"))
	query := store.Query{Namespace: namespace}
	switch {
	case atLeast < 0:
		query.ResourceVersion = "0"
	case atLeast > 0:
		query.ResourceVersion, query.Match = strconv.FormatInt(atLeast, 10), "NotOlderThan"
	}
	page, err := q.server.store.List(ctx, kind, query)
	if err != nil {
		return judgement{}, fmt.Errorf("resource quotas of %s: %w", namespace, err)
	}
	var all []*corev1.ResourceQuota
	for _, entry := range page.Entries {
		obj, err := entry.Shared()
		if err != nil {
			return judgement{}, err
		}
		one := obj.(*corev1.ResourceQuota)
		if w.Resource == kind.GroupResource() {
			one = recount(one, len(page.Entries))
		}
		all = append(all, one)
	}
	j := judgement{revision: page.Revision}
	j.charges, j.refusal = quota.Plan(all, w)
	return j, nil
}

// recount is for quotas of quotas. A transaction can't write two of them, and needn't: they are
// all there to be counted, and the comparison holds their number.
func recount(q *corev1.ResourceQuota, number int) *corev1.ResourceQuota {
	q = q.DeepCopy()
	if q.Status.Used != nil {
		maps.Copy(q.Status.Used, quota.Sum(q, quota.Content{Resource: corev1.Resource("resourcequotas"), Number: int64(number)}, time.Time{}))
	}
	return q
}

// effect charges what a call writes.
func (q *quotas) effect(ctx context.Context, c *call) func(obj, old api.Object) (store.Effect, error) {
	known := int64(-1) // what the cache must have reached
	return func(obj, old api.Object) (store.Effect, error) {
		if obj == nil {
			return store.Effect{}, nil
		}
		w := quota.Write{Resource: c.kind.GroupResource(), Subresource: c.Subresource, Object: obj, Old: old, Now: time.Now()}
		if !w.Matters() {
			return store.Effect{}, nil
		}
		namespace := obj.GetNamespace()
		j, err := q.judge(ctx, namespace, w, known)
		if err != nil {
			return store.Effect{}, err
		}
		e := store.Effect{}
		if len(j.charges) > 0 || j.refusal != nil {
			if j, e.Done, err = q.inTurn(ctx, namespace, w, known); err != nil {
				return store.Effect{}, err
			}
		}
		if j.refusal != nil {
			e.Done(0)
			name := cmp.Or(obj.GetName(), obj.GetGenerateName(), "Unknown")
			return store.Effect{}, apierrors.NewForbidden(w.Resource, name, j.refusal)
		}
		if err := q.charge(&e, namespace, w, j); err != nil {
			if e.Done != nil {
				e.Done(0)
			}
			return store.Effect{}, err
		}
		e.Failed = func(answer *clientv3.TxnResponse) error {
			for _, kv := range answer.Responses[0].GetResponseRange().GetKvs() {
				known = max(known, kv.ModRevision)
			}
			return nil
		}
		return e, nil
	}
}

// inTurn judges again when it is this write's turn, which ends with done. A refusal rests on the newest state.
func (q *quotas) inTurn(ctx context.Context, namespace string, w quota.Write, known int64) (j judgement, done func(int64), err error) {
	t := &q.turns[maphash.String(q.seed, namespace)%uint64(len(q.turns))]
	select {
	case t.taken <- struct{}{}:
	case <-ctx.Done():
		return j, nil, ctx.Err()
	}
	done = func(revision int64) {
		t.revision = max(t.revision, revision)
		<-t.taken
	}
	if known = max(known, t.revision); known == 0 {
		known = -1
	}
	if j, err = q.judge(ctx, namespace, w, known); err == nil && j.refusal != nil {
		j, err = q.judge(ctx, namespace, w, 0)
	}
	if err != nil {
		done(0)
	}
	return j, done, err
}

// charge fills in the comparisons and the quotas as they will be.
func (q *quotas) charge(e *store.Effect, namespace string, w quota.Write, j judgement) error {
	prefix := quotaPrefix + namespace + "/"
	e.Compare = []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(prefix), "<", j.revision+1).WithPrefix()}
	e.Else = []clientv3.Op{clientv3.OpGet(prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())}
	kind := q.server.kind(corev1.SchemeGroupVersion.WithKind("ResourceQuota"))
	if w.Resource == kind.GroupResource() {
		return nil
	}
	for _, charge := range j.charges {
		next := charge.Quota.DeepCopy()
		next.Status.Used = charge.Used
		key, value, err := q.server.store.Encode(kind, store.Key{Path: kind.StoragePath, Namespace: namespace, Name: next.Name}, next)
		if err != nil {
			return err
		}
		revision, err := strconv.ParseInt(charge.Quota.ResourceVersion, 10, 64)
		if err != nil {
			return fmt.Errorf("resource quota %s: %w", charge.Quota.Name, err)
		}
		e.Compare = append(e.Compare, clientv3.Compare(clientv3.ModRevision(key), "=", revision)) // it may be gone
		e.Ops = append(e.Ops, clientv3.OpPut(key, string(value)))
	}
	return nil
}
