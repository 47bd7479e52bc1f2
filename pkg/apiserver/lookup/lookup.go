// Package lookup is how authentication, authorization and admission see the rest of
// the cluster: single objects and lists ([Reader]), changes as they happen ([Feed]),
// and the few writes they make on the server's own behalf ([Writer]).
//
// [Store] is all three over the store, with a small memory of decoded objects;
// [Fake] stands in for it in tests.
package lookup

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/pkg/api"
)

// Reader reads objects. Whatever it returns is shared: it must not be changed.
type Reader interface {
	// Get returns an object, or a NotFound status error. The answer may lag behind writes
	// made elsewhere, but what was just created is found.
	Get(ctx context.Context, resource schema.GroupResource, namespace, name string) (api.Object, error)
	// Live is Get that is never older than a write acknowledged before the call.
	Live(ctx context.Context, resource schema.GroupResource, namespace, name string) (api.Object, error)
	// List returns all objects of a namespace, or of all namespaces when it is empty,
	// by name. The answer may lag behind writes made elsewhere.
	List(ctx context.Context, resource schema.GroupResource, namespace string) ([]api.Object, error)
}

// Change is one object that appeared, changed or went.
type Change struct {
	Object  api.Object // the last state known, when Deleted
	Deleted bool
}

// Feed follows resources.
type Feed interface {
	// Follow calls handle with all objects of a resource, then with every change of
	// them, until ctx ends, whose error it returns. Calls do not overlap. A change
	// that was missed comes later, as a change or a deletion of the object; synced is
	// called once, when handle has seen all that there was at the beginning.
	Follow(ctx context.Context, resource schema.GroupResource, synced func(), handle func([]Change)) error
}

// Writer writes on the server's own behalf: past authorization and admission.
type Writer interface {
	// Update stores what change makes of the current object (nil when there is none),
	// unless that equals it. change may be called more than once.
	Update(ctx context.Context, resource schema.GroupResource, namespace, name string, change func(current api.Object) (api.Object, error)) error
}

// Get is [Reader.Get] of a known type.
func Get[T api.Object](ctx context.Context, r Reader, resource schema.GroupResource, namespace, name string) (T, error) {
	return typed[T](r.Get(ctx, resource, namespace, name))
}

// Live is [Reader.Live] of a known type.
func Live[T api.Object](ctx context.Context, r Reader, resource schema.GroupResource, namespace, name string) (T, error) {
	return typed[T](r.Live(ctx, resource, namespace, name))
}

func typed[T api.Object](obj api.Object, err error) (T, error) {
	var none T
	if err != nil {
		return none, err
	}
	t, ok := obj.(T)
	if !ok {
		return none, fmt.Errorf("%s/%s is a %T, not a %T", obj.GetNamespace(), obj.GetName(), obj, none)
	}
	return t, nil
}

// List is [Reader.List] of a known type.
func List[T api.Object](ctx context.Context, r Reader, resource schema.GroupResource, namespace string) ([]T, error) {
	objects, err := r.List(ctx, resource, namespace)
	if err != nil {
		return nil, err
	}
	out := make([]T, len(objects))
	for i, obj := range objects {
		if out[i], err = typed[T](obj, nil); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Retry calls f until it succeeds or ctx ends, with a second between. It is for what must
// be written once at the start, while the store may not be there yet.
func Retry(ctx context.Context, what string, f func(context.Context) error) error {
	for {
		err := f(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		slog.Warn(what+" failed, to be tried again", "error", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}
