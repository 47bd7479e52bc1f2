package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/request"
	"skiff/pkg/store"
)

// update replaces an object, or the part of it that a subresource shows.
func (s *server) update(w http.ResponseWriter, r *http.Request, c *call) error {
	body, err := readBody(r)
	if err != nil {
		return err
	}
	options, err := updateOptions(r)
	if err != nil {
		return err
	}
	info, err := s.codec.bodyFormat(r)
	if err != nil {
		return err
	}
	if c.sub != nil && c.sub.Scale != nil {
		return s.updateScale(w, r, c, info, body, options)
	}
	obj, err := s.codec.decodeKind(r, info, body, c.kind, options.FieldValidation)
	if err != nil {
		return err
	}
	if c.kind.Default != nil {
		c.kind.Default(obj)
	}
	if err := matchNamespace(c.key.Namespace, obj); err != nil {
		return err
	}
	if err := matchName(c, obj); err != nil {
		return err
	}
	dedupOwners(r.Context(), obj, false)
	owner := manager(options.FieldManager, r.UserAgent())
	change := change{
		dryRun:  isDryRun(options.DryRun),
		options: options,
		create:  c.kind.CreateOnUpdate && c.sub == nil,
		apply: func(_ context.Context, current api.Object) (api.Object, error) {
			next := obj.DeepCopyObject().(api.Object)
			live := current
			if live == nil {
				live = c.kind.New()
			}
			return s.managers.Of(c.kind, c.Subresource).Update(live, next, owner), nil
		},
	}
	return s.writeChange(w, r, c, change)
}

// writeChange performs a change and answers with its result.
func (s *server) writeChange(w http.ResponseWriter, r *http.Request, c *call, ch change) error {
	entry, obj, created, err := s.change(r.Context(), c, ch)
	if err != nil {
		return err
	}
	code := http.StatusOK
	if created {
		code = http.StatusCreated
	}
	return s.writeResult(w, r, code, c, entry, obj)
}

// matchName refuses a body whose name isn't the path's.
func matchName(c *call, obj metav1.Object) error {
	if obj.GetName() == "" {
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s based on URL) was undeterminable: name must be provided", c.key.Name))
	}
	if obj.GetName() != c.key.Name {
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", obj.GetName(), c.key.Name))
	}
	return nil
}

// change is a write to an object that may exist.
type change struct {
	// apply returns the successor of current (nil: there is none). It may be called several
	// times, and must not keep or change current.
	apply   func(ctx context.Context, current api.Object) (api.Object, error)
	create  bool // make the object when there is none
	dryRun  bool
	options runtime.Object // *metav1.UpdateOptions or PatchOptions, for admission
	// internal writes are the server's own: no admission.
	internal bool
	// seen is what admission sees of an object instead of itself, when apply has let it complete that already (scale).
	seen func(api.Object) api.Object
	// wanted is told what a service asks for, before allocation.
	wanted func(*corev1.Service)
}

// errEmptied ends an update that removes the last finalizer of an object that was only
// waiting for that; the object is deleted instead.
var errEmptied = errors.New("the last finalizer is gone")

// change runs a change against the store. On a dry run the entry is nil, and the object
// what would have been stored.
func (s *server) change(ctx context.Context, c *call, ch change) (entry *store.Entry, result api.Object, created bool, err error) {
	ch.wanted = func(*corev1.Service) {}
	var last api.Object // the object before the change that errEmptied ended
	try := func(current api.Object) (api.Object, error) {
		created = current == nil
		next, err := s.next(ctx, c, ch, current)
		result = next
		if err == nil && current != nil && emptied(next, current) {
			last = current
			return nil, errEmptied
		}
		return next, err
	}
	if ch.dryRun {
		var stored api.Object
		if stored, err = s.rehearseChange(ctx, c, ch, try); err == nil {
			result = stored
		}
	} else {
		write, werr := s.newWrite(ctx, c, nil)
		if werr != nil {
			return nil, nil, false, werr
		}
		write.CreateMissing = ch.create
		var wanted corev1.Service
		ch.wanted = func(s *corev1.Service) { s.DeepCopyInto(&wanted) }
		err = s.services.retry(&wanted, func() error {
			entry, err = s.store.Update(ctx, c.kind, c.key, write, try)
			return err
		})
	}
	if !errors.Is(err, errEmptied) {
		return entry, result, created, err
	}
	if ch.dryRun {
		return nil, result, false, nil
	}
	// What is answered is the object as the client left it.
	uid := last.GetUID()
	write, err := s.newWrite(ctx, c, nil)
	if err != nil {
		return nil, nil, false, err
	}
	write.UID, write.ResourceVersion = &uid, last.GetResourceVersion()
	if _, err := s.store.Delete(ctx, c.kind, c.key, write, nil); err != nil && !apierrors.IsNotFound(err) {
		return nil, nil, false, err
	}
	return nil, result, false, nil
}

func (s *server) rehearseChange(ctx context.Context, c *call, ch change, try func(api.Object) (api.Object, error)) (api.Object, error) {
	var current api.Object
	entry, err := s.store.Get(ctx, c.kind, c.key, 0)
	switch {
	case err == nil:
		if current, err = entry.As(c.kind); err != nil {
			return nil, err
		}
	case !apierrors.IsNotFound(err) || !ch.create:
		return nil, err
	}
	next, err := try(current)
	if err != nil {
		return nil, err
	}
	write, err := s.newWrite(ctx, c, next)
	if err != nil {
		return nil, err
	}
	return rehearse(c.kind, write, next, current)
}

// emptied says that obj is only waiting for its deletion.
func emptied(obj, old api.Object) bool {
	grace := old.GetDeletionGracePeriodSeconds()
	return len(obj.GetFinalizers()) == 0 && !namespaceHeld(obj) &&
		old.GetDeletionTimestamp() != nil && (grace == nil || *grace == 0)
}

// next computes and checks the successor of current.
func (s *server) next(ctx context.Context, c *call, ch change, current api.Object) (api.Object, error) {
	if current == nil {
		return s.nextNew(ctx, c, ch)
	}
	obj, err := ch.apply(ctx, current)
	if err != nil {
		return nil, err
	}
	obj.GetObjectKind().SetGroupVersionKind(c.kind.GroupVersionKind)
	current.GetObjectKind().SetGroupVersionKind(c.kind.GroupVersionKind)
	if !ch.internal && ch.seen == nil {
		if err := s.mutate(ctx, c.attributes(ctx, request.Update, obj, current, updateOptionsOf(ch.options), ch.dryRun)); err != nil {
			return nil, err
		}
		dedupOwners(ctx, obj, true)
	}
	if err := precondition(c, obj, current); err != nil {
		return nil, err
	}
	if err := matchNamespace(c.key.Namespace, obj); err != nil {
		return nil, err
	}
	s.prepareSuccessor(ctx, c, obj, current)
	if service, ok := obj.(*corev1.Service); ok && c.sub == nil {
		ch.wanted(service)
		if err := s.services.allocate(ctx, service, current.(*corev1.Service)); err != nil {
			return nil, err
		}
	}
	if err := s.validateSuccessor(ctx, c, obj, current); err != nil {
		return nil, err
	}
	keepTimes(obj, current)
	if ch.internal {
		return obj, nil
	}
	next := obj.DeepCopyObject().(api.Object)
	if ch.seen != nil {
		next, current = ch.seen(next), ch.seen(current)
	}
	return obj, s.validate(ctx, c.attributes(ctx, request.Update, next, current, updateOptionsOf(ch.options), ch.dryRun))
}

// nextNew is next for an object that doesn't exist, by PUT or apply.
func (s *server) nextNew(ctx context.Context, c *call, ch change) (api.Object, error) {
	obj, err := ch.apply(ctx, nil)
	if err != nil {
		return nil, err
	}
	if uid := obj.GetUID(); uid != "" {
		return nil, apierrors.NewConflict(c.kind.GroupResource(), c.key.Name,
			fmt.Errorf("uid mismatch: the provided object specified uid %s, and no existing object was found", uid))
	}
	if !ch.internal {
		info := *c.Info
		info.Verb = "create"
		if err := s.may(ctx, c.user, &info); err != nil {
			return nil, err
		}
	}
	options := createOptionsOf(ch.options)
	obj.GetObjectKind().SetGroupVersionKind(c.kind.GroupVersionKind)
	if !ch.internal {
		if err := s.mutate(ctx, c.attributes(ctx, request.Create, obj, nil, options, ch.dryRun)); err != nil {
			return nil, err
		}
		dedupOwners(ctx, obj, true)
	}
	wipeSystemFields(obj)
	fillSystemFields(obj)
	if err := matchNamespace(c.key.Namespace, obj); err != nil {
		return nil, err
	}
	obj.SetResourceVersion("")
	return obj, s.prepareNew(ctx, c, obj, options, ch.dryRun)
}

// precondition compares what the body says about the object it replaces: uid and resourceVersion.
func precondition(c *call, obj, current api.Object) error {
	gr := c.kind.GroupResource()
	if uid := obj.GetUID(); uid != "" && uid != current.GetUID() {
		return apierrors.NewConflict(gr, c.key.Name, fmt.Errorf(
			"StorageError: invalid object, Code: 4, Key: /registry/%s, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: %v, UID in object meta: %v",
			pathOf(c.key), uid, current.GetUID()))
	}
	switch obj.GetResourceVersion() {
	case current.GetResourceVersion():
	case "", "0":
		if !c.kind.UnconditionalUpdate {
			return apierrors.NewInvalid(schema.GroupKind{Group: gr.Group, Kind: gr.Resource}, c.key.Name, field.ErrorList{
				field.Invalid(field.NewPath("metadata", "resourceVersion"), uint64(0), "must be specified for an update"),
			})
		}
		obj.SetResourceVersion(current.GetResourceVersion())
	default:
		return apierrors.NewConflict(gr, c.key.Name, errors.New("the object has been modified; please apply your changes to the latest version and try again"))
	}
	return nil
}

func pathOf(key store.Key) string {
	if key.Namespace == "" {
		return key.Path + "/" + key.Name
	}
	return key.Path + "/" + key.Namespace + "/" + key.Name
}

// prepareSuccessor keeps from the old object what an update can't change.
func (s *server) prepareSuccessor(ctx context.Context, c *call, obj, old api.Object) {
	obj.SetGeneration(old.GetGeneration())
	if c.whole() {
		c.kind.PrepareUpdate(ctx, obj, old)
	} else if c.sub.PrepareForUpdate != nil {
		c.sub.PrepareForUpdate(ctx, obj, old)
	}
	if obj.GetUID() == "" {
		obj.SetUID(old.GetUID())
	}
	if created := old.GetCreationTimestamp(); !created.IsZero() {
		obj.SetCreationTimestamp(created)
	}
	if old.GetDeletionTimestamp() != nil {
		obj.SetDeletionTimestamp(old.GetDeletionTimestamp())
	}
	if old.GetDeletionGracePeriodSeconds() != nil && obj.GetDeletionGracePeriodSeconds() == nil {
		obj.SetDeletionGracePeriodSeconds(old.GetDeletionGracePeriodSeconds())
	}
}

// whole says that a call is about all of an object: scaling is an update of it.
func (c *call) whole() bool { return c.sub == nil || c.sub.Scale != nil }

func (s *server) validateSuccessor(ctx context.Context, c *call, obj, old api.Object) error {
	errs := api.ValidateMeta(c.kind, obj, old)
	switch {
	case c.sub != nil && c.sub.ValidateUpdate != nil:
		errs = append(errs, c.sub.ValidateUpdate(obj, old)...)
	case c.whole() && c.kind.ValidateUpdate != nil:
		errs = append(errs, c.kind.ValidateUpdate(obj, old)...)
	}
	if len(errs) > 0 {
		return apierrors.NewInvalid(c.kind.StoredKind().GroupKind(), obj.GetName(), errs)
	}
	if c.kind.Warnings != nil && c.sub == nil {
		for _, text := range c.kind.Warnings(obj, old) {
			request.Warn(ctx, text)
		}
	}
	return nil
}

// keepTimes takes back an update that changes nothing but the times in managedFields, so that
// it isn't written.
func keepTimes(obj, old api.Object) {
	fresh, before := obj.GetManagedFields(), old.GetManagedFields()
	if len(fresh) != len(before) {
		return
	}
	for i := range fresh {
		a, b := fresh[i], before[i]
		a.Time, b.Time = nil, nil
		if !equality.Semantic.DeepEqual(a, b) {
			return
		}
	}
	obj.SetManagedFields(before)
	if !equality.Semantic.DeepEqual(obj, old) {
		obj.SetManagedFields(fresh)
	}
}

func createOptionsOf(o runtime.Object) *metav1.CreateOptions {
	out := &metav1.CreateOptions{}
	switch o := o.(type) {
	case *metav1.UpdateOptions:
		out.DryRun, out.FieldManager, out.FieldValidation = o.DryRun, o.FieldManager, o.FieldValidation
	case *metav1.PatchOptions:
		out.DryRun, out.FieldManager, out.FieldValidation = o.DryRun, o.FieldManager, o.FieldValidation
	}
	out.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("CreateOptions"))
	return out
}

func updateOptionsOf(o runtime.Object) runtime.Object {
	patch, ok := o.(*metav1.PatchOptions)
	if !ok {
		return o
	}
	out := &metav1.UpdateOptions{DryRun: patch.DryRun, FieldManager: patch.FieldManager, FieldValidation: patch.FieldValidation}
	out.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("UpdateOptions"))
	return out
}
