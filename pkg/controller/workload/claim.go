package workload

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Claims sorts the objects of a namespace by what they are to an owner.
type Claims[T metav1.Object] struct {
	Owned   []T // controlled by the owner, and selected
	Adopt   []T // orphans that the owner selects
	Release []T // controlled by the owner, but no longer selected
}

// Classify decides which objects belong to owner. An owner that is being
// deleted neither adopts nor releases; an object that is being deleted isn't adopted.
func Classify[T metav1.Object](owner metav1.Object, selector labels.Selector, objects []T) Claims[T] {
	var claims Claims[T]
	dying := owner.GetDeletionTimestamp() != nil
	for _, object := range objects {
		selected := selector.Matches(labels.Set(object.GetLabels()))
		ref := metav1.GetControllerOfNoCopy(object)
		switch {
		case ref != nil && ref.UID != owner.GetUID():
		case ref != nil && selected:
			claims.Owned = append(claims.Owned, object)
		case ref != nil && !dying:
			claims.Release = append(claims.Release, object)
		case ref == nil && selected && !dying && object.GetDeletionTimestamp() == nil && object.GetNamespace() == owner.GetNamespace():
			claims.Adopt = append(claims.Adopt, object)
		}
	}
	return claims
}

// Adopter carries out claims by patches that are bound to the objects' UIDs.
type Adopter[T metav1.Object] struct {
	Owner metav1.Object
	Ref   metav1.OwnerReference
	// Fresh reads the owner past all caches. It is called once, before the first
	// adoption: an owner that is gone or being deleted must not adopt
	// (the garbage collector would take the adopted object along).
	Fresh func(context.Context) (metav1.Object, error)
	// Patch sends a strategic merge patch.
	Patch func(ctx context.Context, object T, patch []byte) error
}

// Settle adopts and releases as claims say, and returns what is owned then.
// Objects that have vanished meanwhile are left out.
func (a Adopter[T]) Settle(ctx context.Context, claims Claims[T]) ([]T, error) {
	owned := claims.Owned
	var errs []error
	for _, object := range claims.Release {
		err := a.Patch(ctx, object, releasePatch(object.GetUID(), a.Owner.GetUID()))
		// Invalid: the object was replaced by another of its name, or has no such owner any more.
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsInvalid(err) {
			errs = append(errs, fmt.Errorf("release %s/%s: %w", object.GetNamespace(), object.GetName(), err))
		}
	}
	if len(claims.Adopt) == 0 {
		return owned, errors.Join(errs...)
	}
	if err := a.mayAdopt(ctx); err != nil {
		return owned, errors.Join(append(errs, err)...)
	}
	for _, object := range claims.Adopt {
		err := a.Patch(ctx, object, adoptPatch(object.GetUID(), a.Ref))
		switch {
		case err == nil:
			owned = append(owned, object)
		case !apierrors.IsNotFound(err):
			errs = append(errs, fmt.Errorf("adopt %s/%s: %w", object.GetNamespace(), object.GetName(), err))
		}
	}
	return owned, errors.Join(errs...)
}

func (a Adopter[T]) mayAdopt(ctx context.Context) error {
	fresh, err := a.Fresh(ctx)
	if err != nil {
		return fmt.Errorf("read owner %s/%s before adoption: %w", a.Owner.GetNamespace(), a.Owner.GetName(), err)
	}
	if fresh.GetUID() != a.Owner.GetUID() {
		return fmt.Errorf("original %s %s/%s is gone: got uid %s, wanted %s",
			a.Ref.Kind, a.Owner.GetNamespace(), a.Owner.GetName(), fresh.GetUID(), a.Owner.GetUID())
	}
	if fresh.GetDeletionTimestamp() != nil {
		return fmt.Errorf("%s/%s has just been deleted at %v", a.Owner.GetNamespace(), a.Owner.GetName(), fresh.GetDeletionTimestamp())
	}
	return nil
}

type ownerPatch struct {
	Metadata struct {
		UID             types.UID `json:"uid"`
		OwnerReferences []any     `json:"ownerReferences"`
	} `json:"metadata"`
}

func adoptPatch(uid types.UID, ref metav1.OwnerReference) []byte {
	var patch ownerPatch
	patch.Metadata.UID = uid
	patch.Metadata.OwnerReferences = []any{ref}
	return mustJSON(patch)
}

func releasePatch(uid, owner types.UID) []byte {
	var patch ownerPatch
	patch.Metadata.UID = uid
	patch.Metadata.OwnerReferences = []any{map[string]string{"$patch": "delete", "uid": string(owner)}}
	return mustJSON(patch)
}

// mustJSON encodes a value whose types can't fail to encode.
func mustJSON(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return data
}
