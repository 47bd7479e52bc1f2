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
	"k8s.io/apimachinery/pkg/runtime"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/uuid"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/request"
	"skiff/pkg/store"
)

// create stores a new object, or answers the question that a virtual kind is.
func (s *server) create(w http.ResponseWriter, r *http.Request, c *call) error {
	info, err := s.codec.bodyFormat(r)
	if err != nil {
		return err
	}
	body, err := readBody(r)
	if err != nil {
		return err
	}
	options, err := createOptions(r)
	if err != nil {
		return err
	}
	obj, err := s.codec.decodeKind(r, info, body, c.kind, options.FieldValidation)
	if err != nil {
		return err
	}
	if c.kind.Default != nil {
		c.kind.Default(obj)
	}
	if c.kind.Virtual {
		return s.review(w, r, c, obj, options)
	}
	wipeSystemFields(obj)
	if err := matchNamespace(c.key.Namespace, obj); err != nil {
		return err
	}
	dedupOwners(r.Context(), obj, false)
	obj = s.managers.Of(c.kind, "").Update(c.kind.New(), obj, manager(options.FieldManager, r.UserAgent()))
	c.Info.Name = obj.GetName()
	if err := s.mutate(r.Context(), c.attributes(r.Context(), request.Create, obj, nil, options, isDryRun(options.DryRun))); err != nil {
		return err
	}
	wipeSystemFields(obj) // admission may have set them
	if err := matchNamespace(c.key.Namespace, obj); err != nil {
		return err
	}
	dedupOwners(r.Context(), obj, true)
	entry, result, err := s.storeNew(r.Context(), c, obj, options)
	if err != nil {
		return err
	}
	return s.writeResult(w, r, http.StatusCreated, c, entry, result)
}

// writeResult answers a write: with the entry, or with the object where nothing was stored.
func (s *server) writeResult(w http.ResponseWriter, r *http.Request, code int, c *call, entry *store.Entry, obj api.Object) error {
	if entry == nil {
		return s.writeItem(w, r, code, c, drafted{obj})
	}
	if err := s.sendEpoch(r.Context(), w, c, entry); err != nil {
		return err
	}
	return s.writeItem(w, r, code, c, entry)
}

// nameTries is how often a generated name that is taken is generated again.
const nameTries = 8

// storeNew brings an admitted object into the store, under a generated name if it has
// none. On a dry run the entry is nil, and the object is what would have been stored.
func (s *server) storeNew(ctx context.Context, c *call, obj api.Object, options *metav1.CreateOptions) (*store.Entry, api.Object, error) {
	if obj.GetName() != "" || obj.GetGenerateName() == "" {
		return s.storeAllocated(ctx, c, obj, options)
	}
	var err error
	for range nameTries {
		try := obj.DeepCopyObject().(api.Object)
		try.SetName(generateName(obj.GetGenerateName()))
		var entry *store.Entry
		var result api.Object
		if entry, result, err = s.storeAllocated(ctx, c, try, options); err == nil {
			return entry, result, nil
		}
		if !apierrors.IsAlreadyExists(err) {
			return nil, nil, err
		}
		err = apierrors.NewGenerateNameConflict(c.kind.GroupResource(), try.GetName(), 1)
	}
	return nil, nil, err
}

// storeAllocated tries again when an address or a port that the server chose was taken meanwhile.
func (s *server) storeAllocated(ctx context.Context, c *call, obj api.Object, options *metav1.CreateOptions) (entry *store.Entry, result api.Object, err error) {
	err = s.services.retry(obj, func() error {
		try := obj
		if _, ok := obj.(*corev1.Service); ok {
			try = obj.DeepCopyObject().(api.Object)
		}
		entry, result, err = s.storeNamed(ctx, c, try, options)
		return err
	})
	return entry, result, err
}

func (s *server) storeNamed(ctx context.Context, c *call, obj api.Object, options *metav1.CreateOptions) (*store.Entry, api.Object, error) {
	fillSystemFields(obj)
	if err := s.prepareNew(ctx, c, obj, options, isDryRun(options.DryRun)); err != nil {
		return nil, nil, err
	}
	key := c.key
	key.Name = obj.GetName()
	c.key.Name = key.Name
	if obj.GetResourceVersion() != "" {
		return nil, nil, request.Plain(errors.New("resourceVersion should not be set on objects to be created"))
	}
	write, err := s.newWrite(ctx, c, obj)
	if err != nil {
		return nil, nil, err
	}
	if isDryRun(options.DryRun) {
		if _, err := s.store.Get(ctx, c.kind, key, 0); !apierrors.IsNotFound(err) {
			if err == nil {
				err = apierrors.NewAlreadyExists(c.kind.GroupResource(), key.Name)
			}
			return nil, nil, err
		}
		result, err := rehearse(c.kind, write, obj, nil)
		return nil, result, err
	}
	entry, err := s.store.Create(ctx, c.kind, key, obj, write)
	if apierrors.IsAlreadyExists(err) {
		return nil, nil, s.explainExisting(ctx, c, key, err)
	}
	return entry, obj, err
}

// explainExisting adds to an AlreadyExists that the object is on its way out.
func (s *server) explainExisting(ctx context.Context, c *call, key store.Key, err error) error {
	entry, getErr := s.store.Get(ctx, c.kind, key, 0)
	if getErr != nil {
		return err
	}
	obj, getErr := entry.As(c.kind)
	if getErr != nil || obj.GetDeletionTimestamp() == nil {
		return err
	}
	if st, ok := err.(*apierrors.StatusError); ok {
		st.ErrStatus.Message = "object is being deleted: " + st.ErrStatus.Message
	}
	return err
}

// prepareNew makes an object complete, and refuses it when it isn't valid or admitted.
func (s *server) prepareNew(ctx context.Context, c *call, obj api.Object, options runtime.Object, dryRun bool) error {
	c.kind.PrepareCreate(ctx, obj)
	if service, ok := obj.(*corev1.Service); ok {
		if err := s.services.allocate(ctx, service, nil); err != nil {
			return err
		}
	}
	errs := api.ValidateMeta(c.kind, obj, nil)
	if c.kind.Validate != nil {
		errs = append(errs, c.kind.Validate(obj)...)
	}
	if len(errs) > 0 {
		return apierrors.NewInvalid(c.kind.StoredKind().GroupKind(), obj.GetName(), errs)
	}
	if c.kind.Warnings != nil {
		for _, text := range c.kind.Warnings(obj, nil) {
			request.Warn(ctx, text)
		}
	}
	a := c.attributes(ctx, request.Create, obj.DeepCopyObject(), nil, options, dryRun)
	a.Name = obj.GetName()
	return s.validate(ctx, a)
}

// rehearse asks the effects of a write that won't happen whether they could. It returns what would be stored.
func rehearse(kind *api.Kind, w store.Write, obj, old api.Object) (api.Object, error) {
	for _, effect := range w.Effects {
		e, err := effect(obj, old)
		if err != nil {
			return nil, err
		}
		if e.Done != nil {
			e.Done(0)
		}
	}
	return api.AsStored(kind, obj)
}

// wipeSystemFields takes from a new object what only the server sets.
func wipeSystemFields(obj metav1.Object) {
	obj.SetUID("")
	obj.SetCreationTimestamp(metav1.Time{})
	obj.SetDeletionTimestamp(nil)
	obj.SetDeletionGracePeriodSeconds(nil)
	obj.SetSelfLink("")
}

func fillSystemFields(obj metav1.Object) {
	obj.SetCreationTimestamp(metav1.NewTime(time.Now().Truncate(time.Second)))
	obj.SetUID(uuid.NewUUID())
}

// matchNamespace gives an object the request's namespace, and refuses one of another.
func matchNamespace(namespace string, obj metav1.Object) error {
	switch own := obj.GetNamespace(); {
	case own == namespace:
	case own == "" || namespace == "":
		obj.SetNamespace(namespace)
	default:
		return apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
	}
	return nil
}

// generateName adds five random letters, as Kubernetes' SimpleNameGenerator.
func generateName(base string) string {
	const random, longest = 5, 63
	if len(base) > longest-random {
		base = base[:longest-random]
	}
	return fmt.Sprintf("%s%s", base, utilrand.String(random))
}
