package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/request"
)

// delete deletes one object: at once, or by marking it for whoever finishes the deletion.
func (s *server) delete(w http.ResponseWriter, r *http.Request, c *call) error {
	options, err := deleteOptions(r)
	if err != nil {
		return err
	}
	warnOfDeletion(r.Context(), c.kind, options)
	d, err := s.deletion(r.Context(), c, options)
	if err != nil {
		return err
	}
	code := http.StatusOK
	if !d.gone && options.OrphanDependents != nil && !*options.OrphanDependents {
		code = http.StatusAccepted // what those who still use orphanDependents expect
	}
	if d.gone && !c.kind.ReturnsDeleted {
		s.writeObject(w, r, code, c.plain(s), &metav1.Status{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
			Status:   metav1.StatusSuccess,
			Details:  &metav1.StatusDetails{Name: c.key.Name, Group: c.kind.Group, Kind: c.kind.Resource, UID: d.last.GetUID()},
		})
		return nil
	}
	return s.writeItem(w, r, code, c, drafted{d.last})
}

func warnOfDeletion(ctx context.Context, kind *api.Kind, options *metav1.DeleteOptions) {
	if kind.DeletionWarnings == nil {
		return
	}
	for _, text := range kind.DeletionWarnings(options) {
		request.Warn(ctx, text)
	}
}

// deleted is what a deletion came to.
type deleted struct {
	last api.Object // the object as it is now, or was last
	gone bool
}

// errGoneNow ends an update that would only mark an object which nothing holds.
var errGoneNow = errors.New("nothing holds the object")

// deletion deletes an object, in one or two writes: if somebody has to finish it (finalizers, a
// grace period), the object is marked; if nothing holds it, it is removed.
func (s *server) deletion(ctx context.Context, c *call, options *metav1.DeleteOptions) (*deleted, error) {
	return s.deletionOf(ctx, c, options, false)
}

// deletionOf is deletion, for requests that admission has let pass already as well.
func (s *server) deletionOf(ctx context.Context, c *call, options *metav1.DeleteOptions, admitted bool) (*deleted, error) {
	dryRun := isDryRun(options.DryRun)
	var decided plan
	try := func(current api.Object) (api.Object, error) {
		if err := deletionPrecondition(c, current, options); err != nil {
			return nil, err
		}
		if !admitted {
			// Once is enough: the answer doesn't depend on what changes in between.
			a := c.attributes(ctx, request.Delete, nil, current.DeepCopyObject(), options, dryRun)
			if err := s.mutate(ctx, a); err != nil {
				return nil, err
			}
			if err := s.validate(ctx, a); err != nil {
				return nil, err
			}
			admitted = true
		}
		decided = planDeletion(c.kind, current, options, time.Now())
		if decided.unchanged || decided.remove && !decided.markFirst {
			return nil, errGoneNow
		}
		return decided.next, nil
	}
	write, err := s.newWrite(ctx, c, nil)
	if err != nil {
		return nil, err
	}
	if dryRun {
		entry, err := s.store.Get(ctx, c.kind, c.key, 0)
		if err != nil {
			return nil, err
		}
		current, err := entry.As(c.kind)
		if err != nil {
			return nil, err
		}
		if _, err := try(current); err != nil && !errors.Is(err, errGoneNow) {
			return nil, err
		}
		return &deleted{last: decided.next, gone: decided.remove}, nil
	}
	entry, err := s.store.Update(ctx, c.kind, c.key, write, try)
	switch {
	case err == nil:
		if decided.next, err = entry.As(c.kind); err != nil {
			return nil, err
		}
	case !errors.Is(err, errGoneNow):
		return nil, err
	}
	if !decided.remove {
		return &deleted{last: decided.next}, nil
	}
	return s.remove(ctx, c, decided)
}

// remove takes an object out of the store, if it is still the one that was decided about.
func (s *server) remove(ctx context.Context, c *call, p plan) (*deleted, error) {
	write, err := s.newWrite(ctx, c, nil)
	if err != nil {
		return nil, err
	}
	uid := p.next.GetUID()
	write.UID = &uid
	entry, err := s.store.Delete(ctx, c.kind, c.key, write, func(current api.Object) error {
		// A finalizer that came in between holds the object after all.
		if len(current.GetFinalizers()) > 0 && current.GetResourceVersion() != p.next.GetResourceVersion() {
			return apierrors.NewConflict(c.kind.GroupResource(), c.key.Name, errors.New("the object has been modified; please apply your changes to the latest version and try again"))
		}
		return nil
	})
	if err != nil {
		if apierrors.IsNotFound(err) && p.markFirst {
			return &deleted{last: p.next, gone: true}, nil // somebody else finished what we had begun
		}
		return nil, err
	}
	last, err := entry.As(c.kind)
	if err != nil {
		return nil, err
	}
	return &deleted{last: last, gone: true}, nil
}

func deletionPrecondition(c *call, current api.Object, options *metav1.DeleteOptions) error {
	p := options.Preconditions
	if p == nil {
		return nil
	}
	gr := schema.GroupResource{Group: c.kind.StoredKind().Group, Resource: c.kind.Kind}
	uid, version := "the UID in the precondition (%s) does not match the UID in record (%s). The object might have been deleted and then recreated",
		"the ResourceVersion in the precondition (%s) does not match the ResourceVersion in record (%s). The object might have been modified"
	if _, namespace := current.(*corev1.Namespace); namespace || c.kind.PrepareForDelete != nil { // Kubernetes deletes these in their own way
		gr = c.kind.GroupResource()
		uid, version = "Precondition failed: UID in precondition: %s, UID in object meta: %s", "Precondition failed: ResourceVersion in precondition: %s, ResourceVersion in object meta: %s"
	}
	if p.UID != nil && *p.UID != current.GetUID() {
		return apierrors.NewConflict(gr, c.key.Name, fmt.Errorf(uid, *p.UID, current.GetUID()))
	}
	if p.ResourceVersion != nil && *p.ResourceVersion != current.GetResourceVersion() {
		return apierrors.NewConflict(gr, c.key.Name, fmt.Errorf(version, *p.ResourceVersion, current.GetResourceVersion()))
	}
	return nil
}
