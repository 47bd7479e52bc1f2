package coordination

import (
	"strings"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api"
	"skiff/pkg/api/check"
)

func validateLease(obj api.Object) field.ErrorList {
	s, at := &obj.(*coordinationv1.Lease).Spec, field.NewPath("spec")
	var errs check.Errors
	if d := s.LeaseDurationSeconds; d != nil && *d <= 0 {
		errs = append(errs, field.Invalid(at.Child("leaseDurationSeconds"), *d, "must be greater than 0"))
	}
	if n := s.LeaseTransitions; n != nil && *n < 0 {
		errs = append(errs, field.Invalid(at.Child("leaseTransitions"), *n, "must be greater than or equal to 0"))
	}
	none := s.Strategy == nil || *s.Strategy == ""
	if s.Strategy != nil {
		at := at.Child("strategy", "strategy")
		if strings.Contains(string(*s.Strategy), "/") {
			errs = append(errs, check.QualifiedName(at, string(*s.Strategy))...)
		} else {
			errs = append(errs, check.OneOf(at, *s.Strategy, coordinationv1.OldestEmulationVersion)...)
		}
	}
	if s.PreferredHolder != nil && *s.PreferredHolder != "" && none {
		errs = append(errs, field.Forbidden(at.Child("preferredHolder"), "may only be specified if `strategy` is defined"))
	}
	return errs
}

func validateLeaseUpdate(obj, _ api.Object) field.ErrorList { return validateLease(obj) }
