package api

import (
	"cmp"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// AllVerbs are what a stored resource serves unless its row says otherwise.
var AllVerbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}

var viewVerbs = []string{"get", "patch", "update"}

// Define completes the row of the stored kind with Go type T and list type L. The kind's
// name is T's name; what row leaves out is derived from it: singular, storage path,
// the kinds and verbs of its subresources, and whatever PrepareForUpdate a status
// subresource needs. It is called while programs start, with constants.
func Define[T, L any, P interface {
	*T
	Object
}, PL interface {
	*L
	runtime.Object
}](gv schema.GroupVersion, resource string, row Kind) *Kind {
	row.New = func() Object { return P(new(T)) }
	row.NewList = func() runtime.Object { return PL(new(L)) }
	return complete(reflect.TypeFor[T](), gv, resource, row)
}

// DefineVirtual completes the row of a kind that only travels: the server answers a
// create by itself.
func DefineVirtual[T any, P interface {
	*T
	Object
}](gv schema.GroupVersion, resource string, row Kind) *Kind {
	row.New = func() Object { return P(new(T)) }
	row.Virtual = true
	if row.Verbs == nil {
		row.Verbs = []string{"create"}
	}
	return complete(reflect.TypeFor[T](), gv, resource, row)
}

// DefineCustom completes the row of a custom resource: its objects are unstructured, and stored as JSON
// below their group's name.
func DefineCustom(gvk schema.GroupVersionKind, resource string, row Kind) *Kind {
	row.New = func() Object {
		u := &unstructured.Unstructured{}
		u.SetGroupVersionKind(gvk)
		return u
	}
	row.NewList = func() runtime.Object {
		l := &unstructured.UnstructuredList{}
		l.SetGroupVersionKind(gvk.GroupVersion().WithKind(cmp.Or(row.ListKind, gvk.Kind+"List")))
		return l
	}
	row.Verbs = customVerbs
	row.StoredAsJSON = true
	row.StoragePath = gvk.Group + "/" + resource
	return finish(gvk, resource, row)
}

func complete(t reflect.Type, gv schema.GroupVersion, resource string, row Kind) *Kind {
	row.shape = shapeOf(t)
	return finish(gv.WithKind(t.Name()), resource, row)
}

func finish(gvk schema.GroupVersionKind, resource string, row Kind) *Kind {
	k := &row
	k.GroupVersionKind = gvk
	k.Resource = resource
	k.ListKind = cmp.Or(k.ListKind, k.Kind+"List")
	if k.Singular == "" {
		k.Singular = strings.ToLower(k.Kind)
	}
	if k.StoragePath == "" && !k.Virtual {
		k.StoragePath = resource
	}
	for name, sub := range k.Subresources {
		k.completeSubresource(name, sub)
	}
	return k
}

func (k *Kind) completeSubresource(name string, sub *Subresource) {
	if sub.GroupVersionKind.Empty() {
		sub.GroupVersionKind = k.GroupVersionKind
	}
	if sub.Verbs == nil {
		sub.Verbs = viewVerbs
	}
	if name != "status" {
		return
	}
	sub.PrepareForUpdate = k.prepareStatusUpdate(*sub)
}

// shape is what reflection learned once about a kind's Go type.
type shape struct {
	status []int // index of the Status field, empty without one
	rest   []int // of all fields but TypeMeta, ObjectMeta and Status
}

func shapeOf(t reflect.Type) shape {
	var s shape
	for i := range t.NumField() {
		switch t.Field(i).Name {
		case "TypeMeta", "ObjectMeta":
		case "Status":
			s.status = []int{i}
		default:
			s.rest = append(s.rest, i)
		}
	}
	return s
}

// HasVerb reports whether the main resource serves verb.
func (k *Kind) HasVerb(verb string) bool { return slices.Contains(k.ServedVerbs(), verb) }

// ServedVerbs are the main resource's verbs in discovery's (alphabetical) order. Not to be changed.
func (k *Kind) ServedVerbs() []string {
	if k.Verbs == nil {
		return AllVerbs
	}
	return k.Verbs
}

// GroupVersionResource identifies the row on the wire.
func (k *Kind) GroupVersionResource() schema.GroupVersionResource {
	return k.GroupVersion().WithResource(k.Resource)
}

// GroupResource is what status errors name.
func (k *Kind) GroupResource() schema.GroupResource {
	return schema.GroupResource{Group: k.Group, Resource: k.Resource}
}

// StoredKind is the version of the Go type that etcd holds.
func (k *Kind) StoredKind() schema.GroupVersionKind {
	switch {
	case k.Custom != nil && k.Custom.Stored != nil:
		return k.Custom.Stored.GroupVersionKind
	case k.Stored.Empty():
		return k.GroupVersionKind
	}
	return k.Stored
}
