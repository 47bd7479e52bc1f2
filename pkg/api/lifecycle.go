package api

import (
	"context"
	"reflect"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// PrepareCreate takes from a new object what its author can't decide: the status of
// kinds with a status subresource and the generation, then what the kind adds. Name, namespace,
// uid and creation time must be set before: some kinds build on them.
func (k *Kind) PrepareCreate(ctx context.Context, obj Object) {
	if k.Subresources["status"] != nil && !k.KeepsStatusOnCreate {
		k.ResetStatus(obj)
	}
	if k.HasGeneration {
		obj.SetGeneration(1)
	}
	if k.PrepareForCreate != nil {
		k.PrepareForCreate(ctx, obj)
	}
}

// PrepareUpdate takes from an update of the main resource what it can't change: the
// status of kinds with a status subresource. The generation grows when anything beside
// metadata and status differs from old. old is only read.
func (k *Kind) PrepareUpdate(ctx context.Context, obj, old Object) {
	if k.Subresources["status"] != nil {
		k.CopyStatus(obj, old)
	}
	obj.SetGeneration(old.GetGeneration())
	if k.PrepareForUpdate != nil {
		k.PrepareForUpdate(ctx, obj, old)
	}
	if k.HasGeneration && !k.SameSpec(obj, old) {
		obj.SetGeneration(old.GetGeneration() + 1)
	}
}

// prepareStatusUpdate keeps all but metadata and status, then applies the kind's own rule.
func (k *Kind) prepareStatusUpdate(sub Subresource) func(ctx context.Context, obj, old Object) {
	return func(ctx context.Context, obj, old Object) {
		k.CopySpec(obj, old)
		obj.SetGeneration(old.GetGeneration())
		if sub.KeepsMeta {
			KeepMeta(ctx, obj, old)
		}
		if sub.PrepareForUpdate != nil {
			sub.PrepareForUpdate(ctx, obj, old)
		}
	}
}

// ResetStatus empties the status, if the kind has one.
func (k *Kind) ResetStatus(obj Object) {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		delete(u.Object, "status")
		return
	}
	for _, i := range k.shape.status {
		reflect.ValueOf(obj).Elem().Field(i).SetZero()
	}
}

// CopyStatus gives obj the status of from, whose memory obj shares afterwards.
func (k *Kind) CopyStatus(obj, from Object) {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		copyKey(u, from, "status")
		return
	}
	for _, i := range k.shape.status {
		reflect.ValueOf(obj).Elem().Field(i).Set(reflect.ValueOf(from).Elem().Field(i))
	}
}

// CopySpec gives obj everything of from but type, metadata and status; obj shares that memory
// afterwards.
func (k *Kind) CopySpec(obj, from Object) {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		f, ok := from.(*unstructured.Unstructured)
		if !ok {
			return
		}
		keep := map[string]any{}
		for _, key := range []string{"apiVersion", "kind", "metadata", "status"} {
			if v, ok := u.Object[key]; ok {
				keep[key] = v
			}
		}
		for key, v := range f.Object {
			if !outsideSpec(key) {
				keep[key] = v
			}
		}
		u.Object = keep
		return
	}
	dst, src := reflect.ValueOf(obj).Elem(), reflect.ValueOf(from).Elem()
	for _, i := range k.shape.rest {
		dst.Field(i).Set(src.Field(i))
	}
}

// SameSpec reports whether a and b are equal in everything but type, metadata and status.
func (k *Kind) SameSpec(a, b Object) bool {
	if u, ok := a.(*unstructured.Unstructured); ok {
		v, ok := b.(*unstructured.Unstructured)
		return ok && sameKeys(u.Object, v.Object) && sameKeys(v.Object, u.Object)
	}
	x, y := reflect.ValueOf(a).Elem(), reflect.ValueOf(b).Elem()
	for _, i := range k.shape.rest {
		// By address: an interface made of a large struct would copy it.
		if !equality.Semantic.DeepEqual(x.Field(i).Addr().Interface(), y.Field(i).Addr().Interface()) {
			return false
		}
	}
	return true
}

func outsideSpec(key string) bool {
	switch key {
	case "apiVersion", "kind", "metadata", "status":
		return true
	}
	return false
}

// sameKeys reports whether b has each of a's keys outside metadata with an equal value. A
// status counts: it differs only where there is no subresource for it.
func sameKeys(a, b map[string]any) bool {
	for key, v := range a {
		if key != "status" && outsideSpec(key) {
			continue
		}
		if w, ok := b[key]; !ok || !equality.Semantic.DeepEqual(v, w) {
			return false
		}
	}
	return true
}

func copyKey(dst *unstructured.Unstructured, from Object, key string) {
	src, ok := from.(*unstructured.Unstructured)
	if !ok {
		return
	}
	if v, ok := src.Object[key]; ok {
		dst.Object[key] = v
	} else {
		delete(dst.Object, key)
	}
}
