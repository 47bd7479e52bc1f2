package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"skiff/pkg/api"
)

// write is one call of Create, Update or Delete on its way to a transaction.
type write struct {
	s     *Store
	kind  *api.Kind // as requested
	codec codec
	key   Key
	name  string // in etcd
	sent  bool   // to etcd: what fails from then on says nothing of the object that it started from
	Write
}

func (s *Store) write(kind *api.Kind, key Key, w Write) (*write, error) {
	c, err := s.codec(kind)
	if err != nil {
		return nil, err
	}
	key = c.own(key)
	if !key.sound(kind) {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("%q is no name of a %s", key.suffix(), kind.Resource))
	}
	return &write{s: s, kind: kind, codec: c, key: key, name: c.key(key), Write: w}, nil
}

// Create implements [Interface].
func (s *Store) Create(ctx context.Context, kind *api.Kind, key Key, obj api.Object, w Write) (*Entry, error) {
	if v := obj.GetResourceVersion(); v != "" && v != "0" {
		return nil, apierrors.NewBadRequest("resourceVersion should not be set on objects to be created")
	}
	write, err := s.write(kind, key, w)
	if err != nil {
		return nil, err
	}
	for try := 0; ; try++ {
		entry, current, err := write.put(ctx, obj, nil, nil)
		if entry != nil || err != nil {
			return entry, err
		}
		if current != nil {
			return nil, apierrors.NewAlreadyExists(kind.GroupResource(), key.Name)
		}
		if err := pause(ctx, try); err != nil {
			return nil, err
		}
	}
}

// Update implements [Interface]. It tries with the cached object first, and believes no refusal
// that rests on one that is out of date.
func (s *Store) Update(ctx context.Context, kind *api.Kind, key Key, w Write, change func(api.Object) (api.Object, error)) (*Entry, error) {
	write, err := s.write(kind, key, w)
	if err != nil {
		if w.CreateMissing {
			return nil, err
		}
		return nil, notFound(kind, key.Name)
	}
	state, err := write.begin(ctx)
	for try := 0; err == nil; try++ {
		entry, failure := write.update(ctx, &state, change)
		switch {
		case entry != nil:
			return entry, nil
		case failure != nil && (state.fresh || write.sent):
			return nil, failure
		case failure != nil:
			refused := state.entry
			if state, err = write.fetch(ctx); err == nil && sameRevision(refused, state.entry) {
				return nil, failure
			}
		case state.fresh:
			err = pause(ctx, try)
		}
	}
	return nil, err
}

// update is one try. No entry and no error: state has changed, the caller tries again.
func (w *write) update(ctx context.Context, state *state, change func(api.Object) (api.Object, error)) (*Entry, error) {
	current, err := w.object(state.entry)
	if err != nil {
		return nil, err
	}
	if current == nil && !w.CreateMissing {
		return nil, notFound(w.kind, w.key.Name)
	}
	if err := w.check(current, objectModified); err != nil {
		return nil, err
	}
	var old api.Object
	if current != nil && len(w.Effects) > 0 {
		old = current.DeepCopyObject().(api.Object) // change may well change its argument
	}
	obj, err := change(current)
	if err != nil {
		return nil, err
	}
	entry, kv, err := w.put(ctx, obj, old, state.entry)
	if entry == nil || err != nil || entry != state.entry {
		if entry == nil && err == nil {
			*state = w.state(ctx, kv)
		}
		return entry, err
	}
	if state.fresh {
		return entry, nil // nothing to write
	}
	// Nothing to write if the cache is right: ask.
	before := *state
	if *state, err = w.fetch(ctx); err != nil {
		state.fresh = true
		return nil, err
	}
	if sameRevision(before.entry, state.entry) {
		return state.entry, nil
	}
	return nil, nil
}

// Delete implements [Interface].
func (s *Store) Delete(ctx context.Context, kind *api.Kind, key Key, w Write, check func(api.Object) error) (*Entry, error) {
	write, err := s.write(kind, key, w)
	if err != nil {
		return nil, notFound(kind, key.Name)
	}
	state, err := write.begin(ctx)
	for try := 0; err == nil; try++ {
		entry, failure := write.delete(ctx, &state, check)
		switch {
		case entry != nil:
			return entry, nil
		case failure != nil && (state.fresh || write.sent):
			return nil, failure
		case failure != nil:
			refused := state.entry
			if state, err = write.fetch(ctx); err == nil && sameRevision(refused, state.entry) {
				return nil, failure
			}
		case state.fresh:
			err = pause(ctx, try)
		}
	}
	return nil, err
}

// delete is one try, like update.
func (w *write) delete(ctx context.Context, state *state, check func(api.Object) error) (*Entry, error) {
	if state.entry == nil {
		return nil, notFound(w.kind, w.key.Name)
	}
	current, err := w.object(state.entry)
	if err != nil {
		return nil, err
	}
	if err := w.check(current, ""); err != nil {
		return nil, err
	}
	if check != nil {
		if err := check(current); err != nil {
			return nil, err
		}
	}
	answer, kv, err := w.commit(ctx, state.entry.Revision, clientv3.OpDelete(w.name), nil, current)
	if err != nil {
		return nil, err
	}
	if answer == nil {
		*state = w.state(ctx, kv)
		return nil, nil
	}
	return state.entry.at(answer.Header.Revision), nil
}

// state is an object that a write starts from.
type state struct {
	entry *Entry // nil: it doesn't exist
	fresh bool   // from etcd, not from the cache
}

func sameRevision(a, b *Entry) bool {
	return a == b || a != nil && b != nil && a.Revision == b.Revision
}

// begin takes the object from the cache if it is there.
func (w *write) begin(ctx context.Context) (state, error) {
	if r := w.s.cached(w.kind); r != nil {
		if e := r.get(w.key.suffix()); e != nil {
			return state{entry: e}, nil
		}
	}
	return w.fetch(ctx)
}

func (w *write) fetch(ctx context.Context) (state, error) {
	began := time.Now()
	var answer *clientv3.GetResponse
	err := w.s.attempts(ctx, func(ctx context.Context) (err error) {
		answer, err = w.s.client.Get(ctx, w.name)
		return err
	})
	w.s.metrics.request("get", w.kind, began, err)
	if err != nil {
		return state{}, unavailable("reading "+w.key.String(), err)
	}
	if len(answer.Kvs) == 0 {
		return w.state(ctx, nil), nil
	}
	return w.state(ctx, answer.Kvs[0]), nil
}

func (w *write) state(ctx context.Context, kv *mvccpb.KeyValue) state {
	if kv == nil {
		return state{fresh: true}
	}
	return state{entry: w.codec.entry(kv), fresh: true}
}

// object is the entry in the requested version.
func (w *write) object(e *Entry) (api.Object, error) {
	if e == nil {
		return nil, nil
	}
	obj, err := e.As(w.kind)
	if err != nil {
		return nil, internal(err)
	}
	return obj, nil
}

// internal is an error of this server, unless it has a status already (conversions that fail).
func internal(err error) error {
	if status := apierrors.APIStatus(nil); errors.As(err, &status) {
		return err
	}
	return apierrors.NewInternalError(err)
}

// check compares the client's preconditions with the current object. modified is what an update says of a
// resourceVersion that is not the current one; a deletion says more.
func (w *write) check(current api.Object, modified string) error {
	if current == nil {
		if w.UID != nil {
			return conflict(w.kind, w.key.Name, "Precondition failed: UID in precondition: %v, UID in object meta: ", *w.UID)
		}
		return nil
	}
	if w.UID != nil && *w.UID != current.GetUID() {
		return conflict(w.kind, w.key.Name, "Precondition failed: UID in precondition: %v, UID in object meta: %v", *w.UID, current.GetUID())
	}
	if w.ResourceVersion == "" || w.ResourceVersion == current.GetResourceVersion() {
		return nil
	}
	if modified != "" {
		return conflict(w.kind, w.key.Name, "%s", modified)
	}
	return conflict(w.kind, w.key.Name, "Precondition failed: ResourceVersion in precondition: %v, ResourceVersion in object meta: %v",
		w.ResourceVersion, current.GetResourceVersion())
}

// put stores obj in the place of old's entry (nil: of nothing). It returns that very entry when there is nothing to
// write, no entry when the comparison failed, and then what etcd holds.
func (w *write) put(ctx context.Context, obj, old api.Object, replaced *Entry) (*Entry, *mvccpb.KeyValue, error) {
	plain, stored, err := w.codec.encode(w.kind, obj)
	if err != nil {
		return nil, nil, internal(err)
	}
	var revision int64
	if replaced != nil {
		revision = replaced.Revision
		if bytes.Equal(plain, replaced.value) && !w.codec.stale(replaced) {
			return replaced, nil, nil
		}
	}
	data, with, err := w.codec.encrypt(w.name, plain)
	if err != nil {
		return nil, nil, apierrors.NewInternalError(err)
	}
	var options []clientv3.OpOption
	var lease clientv3.LeaseID
	if w.TTL > 0 {
		err := w.s.attempts(ctx, func(ctx context.Context) (err error) {
			lease, err = w.s.leases.get(ctx, w.TTL)
			return err
		})
		if err != nil {
			return nil, nil, unavailable("granting a lease for "+w.key.String(), err)
		}
		options = append(options, clientv3.WithLease(lease))
	}
	answer, current, err := w.commit(ctx, revision, clientv3.OpPut(w.name, string(data), options...), obj, old)
	if errors.Is(err, rpctypes.ErrLeaseNotFound) { // etcd was restored from a backup, say
		w.s.leases.drop(lease)
	}
	if answer == nil || err != nil {
		return nil, current, err
	}
	entry := w.codec.newEntry(w.key, answer.Header.Revision, plain)
	entry.with = with
	return entry.describe(stored), nil, nil
}

// commit runs the transaction: op, if the key is still at revision (0: absent) and all effects agree. When not, it
// returns neither answer nor error, but what the key holds.
func (w *write) commit(ctx context.Context, revision int64, op clientv3.Op, obj, old api.Object) (*clientv3.TxnResponse, *mvccpb.KeyValue, error) {
	var effects []Effect
	var committed int64
	defer func() {
		for _, e := range effects {
			if e.Done != nil {
				e.Done(committed)
			}
		}
	}()
	compare := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(w.name), "=", revision)}
	then, otherwise := []clientv3.Op{op}, []clientv3.Op{clientv3.OpGet(w.name)}
	for _, ask := range w.Effects {
		e, err := ask(obj, old)
		if err != nil {
			return nil, nil, err
		}
		effects = append(effects, e)
		if err := w.apart(e.Ops); err != nil {
			return nil, nil, err
		}
		compare = append(compare, e.Compare...)
		then = append(then, e.Ops...)
		otherwise = append(otherwise, e.Else...)
	}
	operation, began := "update", time.Now()
	if obj == nil {
		operation = "delete"
	} else if revision == 0 {
		operation = "create"
	}
	var answer *clientv3.TxnResponse
	doubt := false // about an earlier attempt
	w.sent = true
	err := w.s.attempts(ctx, func(ctx context.Context) (err error) {
		answer, err = w.s.client.Txn(ctx).If(compare...).Then(then...).Else(otherwise...).Commit()
		doubt = doubt || err != nil
		return err
	})
	w.s.metrics.request(operation, w.kind, began, err)
	w.s.noteSpace(err, op)
	if err != nil {
		return nil, nil, unavailable("writing "+w.key.String(), err)
	}
	if answer.Succeeded {
		committed = answer.Header.Revision
		return answer, nil, nil
	}
	var current *mvccpb.KeyValue
	if kvs := answer.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 {
		current = kvs[0]
	}
	if doubt && current.GetModRevision() != revision {
		done, err := resolve(op, current, answer)
		return done, nil, err
	}
	if current.GetModRevision() == revision { // so it was an effect
		if err := failure(effects, answer); err != nil {
			return nil, nil, err
		}
	}
	return nil, current, nil
}

// resolve finds out about a transaction of which an attempt was in doubt, and which failed when it was sent again, because
// the key has changed. Sending it again was safe: it compares the revision, so that it happens once at most.
// When the key holds what was to be written, it was written (by this transaction, or byte for byte by another one like it). Otherwise it
// may have been written and then changed again, or not at all: only the client can decide what to do.
func resolve(op clientv3.Op, current *mvccpb.KeyValue, answer *clientv3.TxnResponse) (*clientv3.TxnResponse, error) {
	revision := answer.Header.Revision // of a deletion: the key no longer tells
	switch {
	case op.IsDelete() && current == nil:
	case op.IsPut() && current != nil && bytes.Equal(current.Value, op.ValueBytes()):
		revision = current.ModRevision
	default:
		return nil, apierrors.NewTimeoutError("etcd did not say whether it wrote the object, which has changed since", 1)
	}
	return &clientv3.TxnResponse{Header: &etcdserverpb.ResponseHeader{Revision: revision}, Succeeded: true}, nil
}

// apart refuses operations on the object's own resource: two of its objects must not share a revision.
func (w *write) apart(ops []clientv3.Op) error {
	for _, op := range ops {
		if bytes.HasPrefix(op.KeyBytes(), []byte(w.codec.prefix)) {
			return fmt.Errorf("an effect of writing %s touches %s", w.key, op.KeyBytes())
		}
	}
	return nil
}

// failure asks the effects in turn which of them failed, each with the answers of its own Else.
func failure(effects []Effect, answer *clientv3.TxnResponse) error {
	next := 1 // the first answer is the object's own
	for _, e := range effects {
		own := &clientv3.TxnResponse{Header: answer.Header, Responses: answer.Responses[next : next+len(e.Else)]}
		next += len(e.Else)
		if e.Failed == nil {
			continue
		}
		if err := e.Failed(own); err != nil {
			return err
		}
	}
	return nil
}

// pause keeps writers of one key from spinning, and ends the tries with ctx.
func pause(ctx context.Context, try int) error {
	if try > 3 {
		sleep(ctx, min(time.Duration(try)*time.Millisecond, 50*time.Millisecond))
	}
	return ctx.Err()
}
