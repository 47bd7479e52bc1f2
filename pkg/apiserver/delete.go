package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/request"
	"skiff/pkg/store"
)

// delete deletes one object: at once, or by marking it for whoever finishes the deletion.
func (s *server) delete(w http.ResponseWriter, r *http.Request, c *call) error {
	options, err := s.deleteOptions(r)
	if err != nil {
		return err
	}
	d, err := s.deletion(r.Context(), c, options)
	if err != nil {
		return err
	}
	code := http.StatusOK
	if !d.gone && options.OrphanDependents != nil && !*options.OrphanDependents {
		code = http.StatusAccepted // what those who still use orphanDependents expect
	}
	if d.gone && !returnsDeleted[c.kind.GroupResource()] {
		s.writeObject(w, r, code, c.plain(s), &metav1.Status{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
			Status:   metav1.StatusSuccess,
			Details:  &metav1.StatusDetails{Name: c.key.Name, Group: c.kind.Group, Kind: c.kind.Resource, UID: d.last.GetUID()},
		})
		return nil
	}
	return s.writeItem(w, r, code, c, drafted{d.last})
}

// returnsDeleted are the resources whose deletion answers with the object instead of a Status.
var returnsDeleted = map[schema.GroupResource]bool{
	{Resource: "namespaces"}:                                       true,
	{Resource: "pods"}:                                             true,
	{Resource: "services"}:                                         true,
	{Resource: "serviceaccounts"}:                                  true,
	{Resource: "podtemplates"}:                                     true,
	{Resource: "resourcequotas"}:                                   true,
	{Resource: "persistentvolumes"}:                                true,
	{Resource: "persistentvolumeclaims"}:                           true,
	{Group: "storage.k8s.io", Resource: "csidrivers"}:              true,
	{Group: "storage.k8s.io", Resource: "csinodes"}:                true,
	{Group: "storage.k8s.io", Resource: "storageclasses"}:          true,
	{Group: "storage.k8s.io", Resource: "volumeattachments"}:       true,
	{Group: "storage.k8s.io", Resource: "volumeattributesclasses"}: true,
	{Group: "resource.k8s.io", Resource: "deviceclasses"}:          true,
	{Group: "resource.k8s.io", Resource: "resourceclaims"}:         true,
	{Group: "resource.k8s.io", Resource: "resourceclaimtemplates"}: true,
	{Group: "resource.k8s.io", Resource: "resourceslices"}:         true,
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
	gr := schema.GroupResource{Group: c.kind.Group, Resource: c.kind.Kind}
	if p.UID != nil && *p.UID != current.GetUID() {
		return apierrors.NewConflict(gr, c.key.Name, fmt.Errorf("the UID in the precondition (%s) does not match the UID in record (%s). The object might have been deleted and then recreated", *p.UID, current.GetUID()))
	}
	if p.ResourceVersion != nil && *p.ResourceVersion != current.GetResourceVersion() {
		return apierrors.NewConflict(gr, c.key.Name, fmt.Errorf("the ResourceVersion in the precondition (%s) does not match the ResourceVersion in record (%s). The object might have been modified", *p.ResourceVersion, current.GetResourceVersion()))
	}
	return nil
}

// plan is what a deletion does to an object.
type plan struct {
	next      api.Object // the object, marked if need be
	unchanged bool       // it is marked already
	markFirst bool       // write next before removing it, for others to see
	remove    bool
}

// planDeletion decides about obj, which it may change. These are the rules of Kubernetes' BeforeDelete and of
// its store: a graceful kind gets a deadline, which later deletions can only bring nearer;
// finalizers hold the object; the propagation policy is kept as a finalizer for the
// garbage collector.
func planDeletion(kind *api.Kind, obj api.Object, options *metav1.DeleteOptions, now time.Time) plan {
	p := plan{next: obj}
	graceful, pending := false, false
	var period int64
	if kind.GraceSeconds != nil {
		period, graceful, pending = markGraceful(kind, obj, options, now)
	}
	if pending {
		p.unchanged = true
		return p
	}
	changed := propagate(kind, obj, options)
	held := len(obj.GetFinalizers()) > 0 || namespaceHeld(obj)
	switch {
	case graceful:
		p.markFirst = true
		p.remove = period == 0 && !held
	case held:
		changed = markDeleting(obj, now) || changed
		p.unchanged = !changed
	default:
		p.remove = true
	}
	return p
}

// markGraceful sets the deadline of a graceful deletion. pending says that an earlier
// deletion's deadline stands.
func markGraceful(kind *api.Kind, obj api.Object, options *metav1.DeleteOptions, now time.Time) (period int64, graceful, pending bool) {
	if options.GracePeriodSeconds != nil && *options.GracePeriodSeconds < 0 {
		options.GracePeriodSeconds = ptr.To[int64](1)
	}
	current := obj.GetDeletionGracePeriodSeconds()
	if obj.GetDeletionTimestamp() == nil {
		period = kind.GraceSeconds(obj, options)
		deadline := metav1.NewTime(now.Add(time.Duration(period) * time.Second).Truncate(time.Second))
		obj.SetDeletionTimestamp(&deadline)
		obj.SetDeletionGracePeriodSeconds(&period)
		if obj.GetGeneration() > 0 {
			obj.SetGeneration(obj.GetGeneration() + 1)
		}
		return period, true, false
	}
	if current == nil || *current == 0 {
		return 0, false, false
	}
	if options.GracePeriodSeconds == nil || *options.GracePeriodSeconds >= *current {
		return *current, false, true
	}
	period = *options.GracePeriodSeconds
	begun := obj.GetDeletionTimestamp().Add(-time.Duration(*current) * time.Second)
	deadline := begun.Add(time.Duration(period) * time.Second)
	if deadline.Before(now) {
		deadline = now
		if period != 0 {
			period = 1 // still graceful: somebody else removes the object
		}
	}
	obj.SetDeletionTimestamp(&metav1.Time{Time: deadline.Truncate(time.Second)})
	obj.SetDeletionGracePeriodSeconds(&period)
	return period, true, false
}

// markDeleting marks an object that only its finalizers hold; it reports whether that was new.
func markDeleting(obj api.Object, now time.Time) bool {
	changed := false
	stamp := obj.GetDeletionTimestamp()
	if stamp == nil && obj.GetGeneration() > 0 {
		obj.SetGeneration(obj.GetGeneration() + 1)
	}
	if stamp == nil || stamp.After(now) {
		t := metav1.NewTime(now.Truncate(time.Second))
		obj.SetDeletionTimestamp(&t)
		changed = true
	}
	if namespace, ok := obj.(*corev1.Namespace); ok {
		changed = changed || namespace.Status.Phase != corev1.NamespaceTerminating
		namespace.Status.Phase = corev1.NamespaceTerminating
		return changed
	}
	if grace := obj.GetDeletionGracePeriodSeconds(); grace == nil || *grace != 0 {
		obj.SetDeletionGracePeriodSeconds(ptr.To[int64](0))
		changed = true
	}
	return changed
}

// namespaceHeld says that a namespace still has contents: finalizers of its own kind, that
// whoever empties it takes away.
func namespaceHeld(obj api.Object) bool {
	namespace, ok := obj.(*corev1.Namespace)
	return ok && len(namespace.Spec.Finalizers) > 0
}

// propagate sets the garbage collector's finalizers after the propagation policy; it
// reports whether they changed.
func propagate(kind *api.Kind, obj api.Object, options *metav1.DeleteOptions) bool {
	if ungarbaged[kind.GroupResource()] {
		return false
	}
	before := obj.GetFinalizers()
	orphan := shallOrphan(kind, before, options)
	foreground := shallForeground(before, options)
	after := slices.DeleteFunc(slices.Clone(before), func(f string) bool {
		return f == metav1.FinalizerOrphanDependents && !orphan || f == metav1.FinalizerDeleteDependents && !foreground
	})
	if orphan && !slices.Contains(after, metav1.FinalizerOrphanDependents) {
		after = append(after, metav1.FinalizerOrphanDependents)
	}
	if foreground && !slices.Contains(after, metav1.FinalizerDeleteDependents) {
		after = append(after, metav1.FinalizerDeleteDependents)
	}
	if slices.Equal(before, after) {
		return false
	}
	obj.SetFinalizers(after)
	return true
}

// ungarbaged are the resources that the garbage collector ignores.
var ungarbaged = map[schema.GroupResource]bool{
	{Resource: "events"}:                         true,
	{Group: "events.k8s.io", Resource: "events"}: true,
}

func shallOrphan(kind *api.Kind, finalizers []string, options *metav1.DeleteOptions) bool {
	if options.OrphanDependents != nil {
		return *options.OrphanDependents
	}
	if options.PropagationPolicy != nil {
		return *options.PropagationPolicy == metav1.DeletePropagationOrphan
	}
	for _, f := range finalizers {
		switch f {
		case metav1.FinalizerOrphanDependents:
			return true
		case metav1.FinalizerDeleteDependents:
			return false
		}
	}
	return kind.DefaultGarbageCollection == metav1.DeletePropagationOrphan
}

func shallForeground(finalizers []string, options *metav1.DeleteOptions) bool {
	if options.OrphanDependents != nil {
		return false
	}
	if options.PropagationPolicy != nil {
		return *options.PropagationPolicy == metav1.DeletePropagationForeground
	}
	for _, f := range finalizers {
		switch f {
		case metav1.FinalizerDeleteDependents:
			return true
		case metav1.FinalizerOrphanDependents:
			return false
		}
	}
	return false
}

// collectionAtOnce is how many objects of a collection are deleted at the same time, and
// how many are listed in one page.
const (
	collectionAtOnce = 8
	collectionPage   = 500
)

// deleteCollection deletes what a list would return, and answers with it.
func (s *server) deleteCollection(w http.ResponseWriter, r *http.Request, c *call) error {
	listing, err := listOptions(r, c.kind)
	if err != nil {
		return err
	}
	query, err := c.query(listing)
	if err != nil {
		return err
	}
	options, err := s.deleteOptions(r)
	if err != nil {
		return err
	}
	query.Limit = collectionPage
	if listing.Limit > 0 {
		query.Limit, query.Continue = listing.Limit, listing.Continue
	}
	var all []*store.Entry
	var listMeta metav1.ListMeta
	for {
		page, err := s.store.List(r.Context(), c.kind, query)
		if err != nil {
			return err
		}
		if err := s.deletePage(r.Context(), c, page.Entries, options); err != nil {
			return err
		}
		all = append(all, page.Entries...)
		listMeta.ResourceVersion = fmt.Sprint(page.Revision)
		if query.Continue = page.Continue; page.Continue == "" || listing.Limit > 0 {
			listMeta.Continue = page.Continue
			break
		}
	}
	if c.accept.as != nil && c.accept.as.Kind == "Table" {
		return s.writeTable(w, r, http.StatusOK, c, items(all), listMeta)
	}
	return s.writeList(w, r, c, all, listMeta)
}
