package apiserver

import (
	"context"
	"net/http"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"skiff/pkg/api"
	"skiff/pkg/store"
)

// scaleOf is an object seen through its scale subresource.
func scaleOf(c *call, obj api.Object) *autoscalingv1.Scale {
	spec, current, selector := c.sub.Scale.Get(obj)
	scale := &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{
			Name: obj.GetName(), Namespace: obj.GetNamespace(), UID: obj.GetUID(),
			ResourceVersion: obj.GetResourceVersion(), CreationTimestamp: obj.GetCreationTimestamp(),
		},
		Spec:   autoscalingv1.ScaleSpec{Replicas: spec},
		Status: autoscalingv1.ScaleStatus{Replicas: current, Selector: selector},
	}
	scale.SetGroupVersionKind(c.sub.GroupVersionKind)
	return scale
}

// updateScale sets the replica count of an object.
func (s *server) updateScale(w http.ResponseWriter, r *http.Request, c *call, info *runtime.SerializerInfo, body []byte, options *metav1.UpdateOptions) error {
	decoded, err := s.codec.decode(r, info, body, c.sub.GroupVersionKind, c.sub.New(), options.FieldValidation)
	if err != nil {
		return err
	}
	scale, ok := decoded.(*autoscalingv1.Scale)
	if !ok {
		return apierrors.NewBadRequest("wrong object passed to Scale update")
	}
	if err := matchNamespace(c.key.Namespace, scale); err != nil {
		return err
	}
	if err := matchName(c, scale); err != nil {
		return err
	}
	owner := manager(options.FieldManager, r.UserAgent())
	return s.changeScale(w, r, c, options, options.DryRun, owner, func(*autoscalingv1.Scale) (*autoscalingv1.Scale, error) { return scale, nil })
}

// patchScale patches the scale of an object.
func (s *server) patchScale(w http.ResponseWriter, r *http.Request, c *call, p *patchRequest) error {
	return s.changeScale(w, r, c, p.options, p.options.DryRun, p.owner, func(current *autoscalingv1.Scale) (*autoscalingv1.Scale, error) {
		if p.kind == types.ApplyYAMLPatchType {
			configuration, err := readConfiguration(r, p)
			if err != nil {
				return nil, err
			}
			next := current.DeepCopy()
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(configuration.Object, next); err != nil {
				return nil, apierrors.NewBadRequest(err.Error())
			}
			return next, nil
		}
		next, err := s.patchObject(r, p, current, c.sub.GroupVersionKind, func() runtime.Object { return &autoscalingv1.Scale{} })
		if err != nil {
			return nil, err
		}
		scale := next.(*autoscalingv1.Scale)
		return scale, matchName(c, scale)
	})
}

func (s *server) changeScale(w http.ResponseWriter, r *http.Request, c *call, options runtime.Object, dryRun []string, owner string, desired func(*autoscalingv1.Scale) (*autoscalingv1.Scale, error)) error {
	entry, obj, _, err := s.change(r.Context(), c, change{
		dryRun:  isDryRun(dryRun),
		options: options,
		apply: func(_ context.Context, current api.Object) (api.Object, error) {
			scale, err := desired(scaleOf(c, current))
			if err != nil {
				return nil, err
			}
			if err := validateScale(c, scale); err != nil {
				return nil, err
			}
			next := current.DeepCopyObject().(api.Object)
			next.SetResourceVersion(scale.ResourceVersion)
			if next.GetResourceVersion() == "" {
				next.SetResourceVersion(current.GetResourceVersion())
			}
			if scale.UID != "" {
				next.SetUID(scale.UID)
			}
			c.sub.Scale.Set(next, scale.Spec.Replicas)
			return ownReplicas(c.kind, current, next, owner)
		},
	})
	if err != nil {
		return err
	}
	return s.writeScale(w, r, c, entry, obj)
}

func (s *server) writeScale(w http.ResponseWriter, r *http.Request, c *call, entry *store.Entry, obj api.Object) error {
	if entry != nil {
		var err error
		if obj, err = entry.As(c.kind); err != nil {
			return err
		}
	}
	s.writeObject(w, r, http.StatusOK, c.plain(s), scaleOf(c, obj))
	return nil
}

func validateScale(c *call, scale *autoscalingv1.Scale) error {
	if scale.Spec.Replicas >= 0 {
		return nil
	}
	return apierrors.NewInvalid(c.sub.GroupVersionKind.GroupKind(), scale.Name, field.ErrorList{
		field.Invalid(field.NewPath("spec", "replicas"), scale.Spec.Replicas, "must be greater than or equal to 0"),
	})
}

// ownReplicas records that owner set spec.replicas by the scale subresource.
func ownReplicas(kind *api.Kind, current, next api.Object, owner string) (api.Object, error) {
	gv := kind.GroupVersion()
	handler := managedfields.NewScaleHandler(current.GetManagedFields(), gv, managedfields.ResourcePathMappings{
		gv.String(): fieldpath.MakePathOrDie("spec", "replicas"),
	})
	entries, err := handler.ToSubresource()
	if err != nil {
		return next, nil // fields that can't be tracked don't stop a write
	}
	now := metav1.Now()
	const fields = `{"f:spec":{"f:replicas":{}}}`
	kept := entries[:0]
	for _, e := range entries {
		if e.Manager != owner || e.Subresource != "scale" {
			continue
		}
		kept = append(kept, e)
	}
	kept = append(kept, metav1.ManagedFieldsEntry{
		Manager: owner, Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: autoscalingv1.SchemeGroupVersion.String(),
		Time: &now, FieldsType: "FieldsV1", FieldsV1: &metav1.FieldsV1{Raw: []byte(fields)}, Subresource: "scale",
	})
	merged, err := handler.ToParent(kept)
	if err != nil {
		return next, nil
	}
	next.SetManagedFields(merged)
	return next, nil
}
