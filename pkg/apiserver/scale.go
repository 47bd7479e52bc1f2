package apiserver

import (
	"context"
	"errors"
	"fmt"
	"math"
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
	"skiff/pkg/apiserver/request"
	"skiff/pkg/store"
)

// checkScale refuses an object that has no scale.
func checkScale(c *call, obj api.Object) error {
	if c.sub.Scale.Check == nil {
		return nil
	}
	if err := c.sub.Scale.Check(obj); err != nil {
		return apierrors.NewInternalError(err)
	}
	return nil
}

// unset stands for a count that an object doesn't have, while it is being changed.
const unset = math.MinInt32

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
	decoded, err := s.codec.decode(r, decoder(info, nil, options.FieldValidation), body, c.sub.GroupVersionKind, c.sub.New(), options.FieldValidation)
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
	return s.changeScale(w, r, c, options, options.DryRun, func(current *autoscalingv1.Scale) (*autoscalingv1.Scale, error) {
		return s.managers.Of(scaleKind, "scale").Update(current, scale.DeepCopy(), owner).(*autoscalingv1.Scale), nil
	})
}

// scaleKind is what fields are tracked by on the scale subresource.
var scaleKind = &api.Kind{
	GroupVersionKind: autoscalingv1.SchemeGroupVersion.WithKind("Scale"),
	New:              func() api.Object { return &autoscalingv1.Scale{} },
}

// patchScale patches the scale of an object.
func (s *server) patchScale(w http.ResponseWriter, r *http.Request, c *call, p *patchRequest) error {
	fields := s.managers.Of(scaleKind, "scale")
	return s.changeScale(w, r, c, p.options, p.options.DryRun, func(current *autoscalingv1.Scale) (*autoscalingv1.Scale, error) {
		if p.kind == types.ApplyYAMLPatchType {
			configuration, err := readConfiguration(r, p)
			if err != nil {
				return nil, err
			}
			force := p.options.Force != nil && *p.options.Force
			next, err := fields.Apply(current.DeepCopy(), configuration, p.options.FieldManager, force)
			if err != nil {
				return nil, err
			}
			return next.(*autoscalingv1.Scale), matchName(c, next)
		}
		next, err := s.patchObject(r, p, current, c.sub.GroupVersionKind, nil, func() runtime.Object { return &autoscalingv1.Scale{} })
		if err != nil {
			return nil, err
		}
		scale := fields.Update(current, next.(*autoscalingv1.Scale), p.owner).(*autoscalingv1.Scale)
		return scale, matchName(c, scale)
	})
}

// changeScale writes through the scale: the replica count, and who set it.
func (s *server) changeScale(w http.ResponseWriter, r *http.Request, c *call, options runtime.Object, dryRun []string, desired func(current *autoscalingv1.Scale) (*autoscalingv1.Scale, error)) error {
	entry, obj, _, err := s.change(r.Context(), c, change{
		dryRun:  isDryRun(dryRun),
		options: options,
		seen:    func(obj api.Object) api.Object { return scaleOf(c, obj) },
		apply: func(ctx context.Context, current api.Object) (api.Object, error) {
			paths := c.sub.Scale.Paths
			if paths == nil {
				paths = managedfields.ResourcePathMappings{c.kind.GroupVersion().String(): fieldpath.MakePathOrDie("spec", "replicas")}
			}
			owners := managedfields.NewScaleHandler(current.GetManagedFields(), c.kind.GroupVersion(), paths)
			missing, none := api.NoReplicas{}, checkScale(c, current)
			if none != nil && !errors.As(c.sub.Scale.Check(current), &missing) {
				return nil, none
			}
			before := scaleOf(c, current)
			if none != nil {
				before.Spec.Replicas = unset
			}
			before.ManagedFields, _ = owners.ToSubresource() // owners that can't be read don't stop a write
			scale, err := desired(before)
			if err != nil {
				return nil, err
			}
			if scale.Spec.Replicas == unset {
				return nil, apierrors.NewBadRequest(fmt.Sprintf("the spec replicas field %q cannot be empty", missing.Path))
			}
			if none != nil {
				before.Spec.Replicas = 0
			}
			if err := s.mutate(ctx, c.attributes(ctx, request.Update, scale, before, updateOptionsOf(options), isDryRun(dryRun))); err != nil {
				return nil, err
			}
			if c.kind.Custom == nil { // whose own validation looks at the count
				if err := validateScale(c, scale); err != nil {
					return nil, err
				}
			}
			next := current.DeepCopyObject().(api.Object)
			if scale.ResourceVersion != "" {
				next.SetResourceVersion(scale.ResourceVersion)
			}
			if scale.UID != "" {
				next.SetUID(scale.UID)
			}
			c.sub.Scale.Set(next, scale.Spec.Replicas)
			if merged, err := owners.ToParent(scale.ManagedFields); err == nil {
				next.SetManagedFields(merged)
			}
			return next, nil
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
