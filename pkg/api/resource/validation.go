package resource

import (
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api"
	"skiff/pkg/api/check"
)

// What a claim asks for can't be changed any more.
func validateClaimUpdate(obj, old api.Object) field.ErrorList {
	return check.Immutable(field.NewPath("spec"), obj.(*resourcev1.ResourceClaim).Spec, old.(*resourcev1.ResourceClaim).Spec)
}

func validateTemplateUpdate(obj, old api.Object) field.ErrorList {
	return check.Immutable(field.NewPath("spec"), obj.(*resourcev1.ResourceClaimTemplate).Spec, old.(*resourcev1.ResourceClaimTemplate).Spec)
}
