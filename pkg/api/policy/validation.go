package policy

import (
	"slices"

	policyv1 "k8s.io/api/policy/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api"
	"skiff/pkg/api/check"
)

func validateBudget(obj api.Object) field.ErrorList {
	return budget(obj.(*policyv1.PodDisruptionBudget), false)
}

func validateBudgetUpdate(obj, old api.Object) field.ErrorList {
	return budget(obj.(*policyv1.PodDisruptionBudget), metavalidation.LabelSelectorHasInvalidLabelValue(old.(*policyv1.PodDisruptionBudget).Spec.Selector))
}

func budget(b *policyv1.PodDisruptionBudget, lax bool) check.Errors {
	s, at := &b.Spec, field.NewPath("spec")
	var errs check.Errors
	if s.MinAvailable != nil && s.MaxUnavailable != nil {
		errs = append(errs, field.Invalid(at, *s, "minAvailable and maxUnavailable cannot be both set"))
	}
	count := func(at *field.Path, n *intstr.IntOrString) check.Errors {
		if n == nil {
			return nil
		}
		return slices.Concat(check.IntOrPercent(at, *n), check.AtMost100Percent(at, *n))
	}
	errs = slices.Concat(errs, count(at.Child("minAvailable"), s.MinAvailable), count(at.Child("maxUnavailable"), s.MaxUnavailable), check.Selector(at.Child("selector"), s.Selector, lax))
	if p := s.UnhealthyPodEvictionPolicy; p != nil {
		errs = append(errs, check.OneOf(at.Child("unhealthyPodEvictionPolicy"), *p, policyv1.AlwaysAllow, policyv1.IfHealthyBudget)...)
	}
	return errs
}

func validateBudgetStatus(obj, _ api.Object) field.ErrorList {
	s, at := &obj.(*policyv1.PodDisruptionBudget).Status, field.NewPath("status")
	return slices.Concat(
		metavalidation.ValidateConditions(s.Conditions, at.Child("conditions")),
		check.NonNegative(at.Child("disruptionsAllowed"), s.DisruptionsAllowed),
		check.NonNegative(at.Child("currentHealthy"), s.CurrentHealthy),
		check.NonNegative(at.Child("desiredHealthy"), s.DesiredHealthy),
		check.NonNegative(at.Child("expectedPods"), s.ExpectedPods),
	)
}
