package rbac

import (
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api"
	"skiff/pkg/api/check"
)

func validateRole(obj api.Object) field.ErrorList { return rules(obj.(*rbacv1.Role).Rules, true) }

func validateRoleUpdate(obj, _ api.Object) field.ErrorList { return validateRole(obj) }

func rules(list []rbacv1.PolicyRule, namespaced bool) check.Errors {
	var errs check.Errors
	for i := range list {
		r, at := &list[i], field.NewPath("rules").Index(i)
		if len(r.Verbs) == 0 {
			errs = append(errs, field.Required(at.Child("verbs"), "verbs must contain at least one value"))
		}
		if urls := at.Child("nonResourceURLs"); len(r.NonResourceURLs) > 0 {
			if namespaced {
				errs = append(errs, field.Invalid(urls, r.NonResourceURLs, "namespaced rules cannot apply to non-resource URLs"))
			}
			if len(r.APIGroups)+len(r.Resources)+len(r.ResourceNames) > 0 {
				errs = append(errs, field.Invalid(urls, r.NonResourceURLs, "rules cannot apply to both regular resources and non-resource URLs"))
			}
			continue
		}
		if len(r.APIGroups) == 0 {
			errs = append(errs, field.Required(at.Child("apiGroups"), "resource rules must supply at least one api group"))
		}
		if len(r.Resources) == 0 {
			errs = append(errs, field.Required(at.Child("resources"), "resource rules must supply at least one resource"))
		}
	}
	return errs
}

func validateClusterRole(obj api.Object) field.ErrorList {
	return clusterRole(obj.(*rbacv1.ClusterRole), false)
}

func clusterRole(r *rbacv1.ClusterRole, lax bool) check.Errors {
	errs := rules(r.Rules, false)
	if r.AggregationRule == nil {
		return errs
	}
	at := field.NewPath("aggregationRule", "clusterRoleSelectors")
	selectors := r.AggregationRule.ClusterRoleSelectors
	if len(selectors) == 0 {
		errs = append(errs, field.Required(at, "at least one clusterRoleSelector required if aggregationRule is non-nil"))
	}
	for i := range selectors {
		errs = append(errs, check.Selector(at.Index(i), &selectors[i], lax)...)
		if _, err := metav1.LabelSelectorAsSelector(&selectors[i]); err != nil {
			errs = append(errs, field.Invalid(at.Index(i), nil, "invalid label selector."))
		}
	}
	return errs
}

func validateClusterRoleUpdate(obj, old api.Object) field.ErrorList {
	was := old.(*rbacv1.ClusterRole).AggregationRule
	lax := was != nil && slices.ContainsFunc(was.ClusterRoleSelectors, func(s metav1.LabelSelector) bool { return metavalidation.LabelSelectorHasInvalidLabelValue(&s) })
	return clusterRole(obj.(*rbacv1.ClusterRole), lax)
}

func validateRoleBinding(obj api.Object) field.ErrorList {
	b := obj.(*rbacv1.RoleBinding)
	return binding(&b.RoleRef, b.Subjects, true, "Role", "ClusterRole")
}

func validateRoleBindingUpdate(obj, old api.Object) field.ErrorList {
	return append(validateRoleBinding(obj), sameRole(obj.(*rbacv1.RoleBinding).RoleRef, old.(*rbacv1.RoleBinding).RoleRef)...)
}

func validateClusterRoleBinding(obj api.Object) field.ErrorList {
	b := obj.(*rbacv1.ClusterRoleBinding)
	return binding(&b.RoleRef, b.Subjects, false, "ClusterRole")
}

func validateClusterRoleBindingUpdate(obj, old api.Object) field.ErrorList {
	return append(validateClusterRoleBinding(obj), sameRole(obj.(*rbacv1.ClusterRoleBinding).RoleRef, old.(*rbacv1.ClusterRoleBinding).RoleRef)...)
}

// sameRole: who may edit the subjects of a binding must not thereby give away another role.
func sameRole(now, old rbacv1.RoleRef) check.Errors {
	if now == old {
		return nil
	}
	return check.Errors{field.Invalid(field.NewPath("roleRef"), now, "cannot change roleRef")}
}

func binding(ref *rbacv1.RoleRef, subjects []rbacv1.Subject, namespaced bool, kinds ...string) check.Errors {
	at := field.NewPath("roleRef")
	errs := slices.Concat(check.OneOf(at.Child("apiGroup"), ref.APIGroup, rbacv1.GroupName), check.OneOf(at.Child("kind"), ref.Kind, kinds...))
	if ref.Name == "" {
		errs = append(errs, field.Required(at.Child("name"), ""))
	} else {
		errs = append(errs, check.Messages(at.Child("name"), ref.Name, content.IsPathSegmentName(ref.Name))...)
	}
	for i := range subjects {
		errs = append(errs, subject(field.NewPath("subjects").Index(i), &subjects[i], namespaced)...)
	}
	return errs
}

func subject(at *field.Path, s *rbacv1.Subject, namespaced bool) check.Errors {
	errs := check.Required(at.Child("name"), s.Name)
	switch s.Kind {
	case rbacv1.ServiceAccountKind:
		if s.Name != "" {
			errs = append(errs, check.Messages(at.Child("name"), s.Name, validation.ValidateServiceAccountName(s.Name, false))...)
		}
		errs = append(errs, check.OneOf(at.Child("apiGroup"), s.APIGroup, "")...)
		if !namespaced {
			errs = append(errs, check.Required(at.Child("namespace"), s.Namespace)...)
		}
	case rbacv1.UserKind, rbacv1.GroupKind:
		errs = append(errs, check.OneOf(at.Child("apiGroup"), s.APIGroup, rbacv1.GroupName)...)
	default:
		errs = append(errs, check.OneOf(at.Child("kind"), s.Kind, rbacv1.ServiceAccountKind, rbacv1.UserKind, rbacv1.GroupKind)...)
	}
	return errs
}
