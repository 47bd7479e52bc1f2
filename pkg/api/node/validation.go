package node

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api"
	"skiff/pkg/api/check"
	"skiff/pkg/api/core"
)

func validateClass(obj api.Object) field.ErrorList {
	c := obj.(*nodev1.RuntimeClass)
	errs := check.RequiredLabel(field.NewPath("handler"), c.Handler)
	if c.Overhead != nil {
		errs = append(errs, core.ValidateOverhead(field.NewPath("overhead"), c.Overhead.PodFixed)...)
	}
	if s := c.Scheduling; s != nil {
		at := field.NewPath("scheduling")
		errs = slices.Concat(errs, metavalidation.ValidateLabels(s.NodeSelector, at.Child("nodeSelector")), core.ValidateTolerations(at.Child("tolerations"), s.Tolerations))
		seen := map[corev1.Toleration]bool{}
		for i, t := range s.Tolerations {
			key := corev1.Toleration{Key: t.Key, Operator: t.Operator, Value: t.Value, Effect: t.Effect}
			if seen[key] {
				errs = append(errs, field.Duplicate(at.Child("tolerations").Index(i), t))
			}
			seen[key] = true
		}
	}
	return errs
}

func validateClassUpdate(obj, old api.Object) field.ErrorList {
	return check.Immutable(field.NewPath("handler"), obj.(*nodev1.RuntimeClass).Handler, old.(*nodev1.RuntimeClass).Handler)
}
