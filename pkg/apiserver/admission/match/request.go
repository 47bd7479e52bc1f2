package match

import (
	"context"
	"fmt"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/lookup"
	"skiff/pkg/apiserver/request"
)

// Request is a write on its way through dynamic admission. It belongs to one goroutine, but what it
// returns may be read by several as long as the object isn't replaced.
type Request struct {
	*request.Attributes
	view    *api.View
	objects lookup.Reader

	own       Target
	others    []*Target // equivalents, once they were asked for
	asked     bool
	namespace *corev1.Namespace // once it was asked for
	versions  map[schema.GroupVersionKind]*admission.VersionedAttributes

	again bool // the second round of mutation
	dirty bool // a first one has changed the object
	turns map[string]*Turn
}

// Target is a resource as which a request can be seen: the one that was asked for, or one that
// shows the same objects in another version.
type Target struct {
	Resource schema.GroupVersionResource
	Kind     schema.GroupVersionKind // of the object there, or of a subresource's body
	row      *api.Kind
}

// NewRequest prepares a write for matching. view holds the rows that are served; objects is where namespaces are found.
func NewRequest(a *request.Attributes, view *api.View, objects lookup.Reader) *Request {
	r := &Request{Attributes: a, view: view, objects: objects, own: target(a.Kind, a.Subresource)}
	for _, obj := range []runtime.Object{a.Object, a.Old} {
		if obj != nil && obj.GetObjectKind().GroupVersionKind().Empty() {
			obj.GetObjectKind().SetGroupVersionKind(r.own.Kind)
		}
	}
	return r
}

func target(row *api.Kind, subresource string) Target {
	t := Target{Resource: row.GroupVersionResource(), Kind: row.GroupVersionKind, row: row}
	if sub := row.Subresources[subresource]; sub != nil && sub.Kind != "" {
		t.Kind = sub.GroupVersionKind
	}
	return t
}

// Own is the resource that was asked for.
func (r *Request) Own() *Target { return &r.own }

// equivalents are the other rows that show the same stored objects, and have the subresource.
func (r *Request) equivalents() []*Target {
	if r.asked {
		return r.others
	}
	r.asked = true
	own := r.Attributes.Kind
	if own.Virtual {
		return nil
	}
	for _, k := range r.view.Kinds() {
		if k.StoragePath != own.StoragePath || k.Virtual || k.GroupVersionResource() == own.GroupVersionResource() ||
			r.Subresource != "" && k.Subresources[r.Subresource] == nil {
			continue
		}
		t := target(k, r.Subresource)
		r.others = append(r.others, &t)
	}
	return r.others
}

// NamespaceObject is the namespace that the request is about something in; nil for what belongs to the
// cluster, namespaces included.
func (r *Request) NamespaceObject(ctx context.Context) (*corev1.Namespace, error) {
	if r.Attributes.Namespace == "" || r.own.Resource == namespaces {
		return nil, nil
	}
	return r.namespaceNamed(ctx, r.Attributes.Namespace)
}

func (r *Request) namespaceNamed(ctx context.Context, name string) (*corev1.Namespace, error) {
	if r.namespace == nil {
		namespace, err := lookup.Get[*corev1.Namespace](ctx, r.objects, namespaces.GroupResource(), "", name)
		if err != nil {
			return nil, err
		}
		r.namespace = namespace
	}
	return r.namespace, nil
}

// Versioned is the request as it looks at a target, in the form that Kubernetes' CEL packages take: its attributes
// are those of the resource asked for, and its versioned objects are of the target's kind. Nothing of it may be changed.
func (r *Request) Versioned(t *Target) (*admission.VersionedAttributes, error) {
	if v := r.versions[t.Kind]; v != nil {
		return v, nil
	}
	v := &admission.VersionedAttributes{VersionedKind: t.Kind, Attributes: admission.NewAttributesRecord(
		r.Object, r.Old, r.own.Kind, r.Attributes.Namespace, r.Name, r.own.Resource, r.Subresource,
		admission.Operation(r.Operation), r.Options, r.DryRun, userInfo(r.User))}
	var err error
	if r.Object != nil {
		if v.VersionedObject, err = convert(r.Object, &r.own, t); err != nil {
			return nil, apierrors.NewInternalError(err)
		}
	}
	if r.Old != nil {
		if v.VersionedOldObject, err = convert(r.Old, &r.own, t); err != nil {
			return nil, apierrors.NewInternalError(err)
		}
	}
	if r.versions == nil {
		r.versions = map[schema.GroupVersionKind]*admission.VersionedAttributes{}
	}
	r.versions[t.Kind] = v
	return v, nil
}

// Replace makes obj, which is of a target's kind and is given away, the object of the request, with the defaults
// of its kind; it reports whether that is another one than before.
func (r *Request) Replace(t *Target, obj runtime.Object) (changed bool, err error) {
	if r.Object == nil {
		return false, fmt.Errorf("a %s has no object to be changed", r.Operation)
	}
	if got := obj.GetObjectKind().GroupVersionKind(); got != t.Kind {
		if u, custom := obj.(*unstructured.Unstructured); custom && got.Kind != t.Kind.Kind {
			return false, apierrors.NewInvalid(got.GroupKind(), u.GetName(), field.ErrorList{field.Invalid(field.NewPath("kind"), got.Kind, "must be "+t.Kind.Kind)})
		}
		return false, fmt.Errorf("expected an object of %v, got %v", t.Kind, got)
	}
	if err := complete(obj, t); err != nil {
		return false, err
	}
	if obj, err = convert(obj, t, &r.own); err != nil {
		return false, err
	}
	if reflect.TypeOf(obj) != reflect.TypeOf(r.Object) {
		return false, fmt.Errorf("expected a %T, got a %T", r.Object, obj)
	}
	if equality.Semantic.DeepEqual(r.Object, obj) {
		return false, nil
	}
	// Whoever began the write goes on with the object that it has.
	reflect.ValueOf(r.Object).Elem().Set(reflect.ValueOf(obj).Elem())
	r.versions = nil
	return true, nil
}

// complete does what decoding a body does.
func complete(obj runtime.Object, t *Target) error {
	whole, ok := obj.(api.Object)
	if !ok || t.Kind != t.row.GroupVersionKind {
		return nil
	}
	if t.row.Custom != nil {
		if _, err := t.row.Custom.Coerce(whole, false); err != nil {
			return err
		}
	}
	if t.row.Default != nil {
		t.row.Default(whole)
	}
	return nil
}

// convert makes the object of another target; the result may be obj itself.
func convert(obj runtime.Object, from, to *Target) (runtime.Object, error) {
	if from.Kind == to.Kind {
		return obj, nil
	}
	whole, ok := obj.(api.Object)
	if !ok {
		return nil, fmt.Errorf("unable to convert %v to %v", from.Kind, to.Kind)
	}
	if from.row.Custom != nil {
		return from.row.Custom.Convert(whole, to.Kind.Version)
	}
	whole = whole.DeepCopyObject().(api.Object)
	var err error
	if from.row.ToStored != nil {
		if whole, err = from.row.ToStored(whole); err != nil {
			return nil, err
		}
	}
	if to.row.FromStored != nil {
		if whole, err = to.row.FromStored(whole); err != nil {
			return nil, err
		}
	}
	whole.GetObjectKind().SetGroupVersionKind(to.Kind)
	return whole, nil
}

func userInfo(u *request.User) user.Info {
	if u == nil {
		return &user.DefaultInfo{}
	}
	return &user.DefaultInfo{Name: u.Name, UID: u.UID, Groups: u.Groups, Extra: u.Extra}
}
