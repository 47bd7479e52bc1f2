package core

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/api/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api"
	"skiff/pkg/api/check"
)

func validateLimitRange(obj api.Object) field.ErrorList {
	var errs check.Errors
	seen := map[corev1.LimitType]bool{}
	limits := obj.(*corev1.LimitRange).Spec.Limits
	for i := range limits {
		at, l := specPath.Child("limits").Index(i), &limits[i]
		errs = append(errs, limitType(at.Child("type"), l.Type)...)
		if seen[l.Type] {
			errs = append(errs, field.Duplicate(at.Child("type"), l.Type))
		}
		seen[l.Type] = true
		errs = append(errs, limitItem(at, l)...)
	}
	return errs
}

func validateLimitRangeUpdate(obj, _ api.Object) field.ErrorList { return validateLimitRange(obj) }

func limitType(at *field.Path, t corev1.LimitType) check.Errors {
	if errs := check.Messages(at, t, utilvalidation.IsQualifiedName(string(t))); len(errs) > 0 {
		return errs
	}
	if !strings.Contains(string(t), "/") && t != corev1.LimitTypePod && t != corev1.LimitTypeContainer && t != corev1.LimitTypePersistentVolumeClaim {
		return check.Errors{field.Invalid(at, t, "must be a standard limit type or fully qualified")}
	}
	return nil
}

func limitItem(at *field.Path, l *corev1.LimitRangeItem) check.Errors {
	name := resourceName(anyResourceName)
	if l.Type == corev1.LimitTypePod || l.Type == corev1.LimitTypeContainer {
		name = ContainerResourceName
	}
	var errs check.Errors
	defaults, requests := l.Default, l.DefaultRequest
	if l.Type == corev1.LimitTypePod {
		for child, list := range map[string]corev1.ResourceList{"default": defaults, "defaultRequest": requests} {
			if len(list) > 0 {
				errs = append(errs, field.Forbidden(at.Child(child), "may not be specified when `type` is 'Pod'"))
			}
		}
		defaults, requests = nil, nil
	}
	all := corev1.ResourceList{}
	for _, list := range []struct {
		child string
		list  corev1.ResourceList
	}{{"max", l.Max}, {"min", l.Min}, {"default", defaults}, {"defaultRequest", requests}, {"maxLimitRequestRatio", l.MaxLimitRequestRatio}} {
		for _, n := range slices.Sorted(maps.Keys(list.list)) {
			errs = append(errs, name(at.Child(list.child).Key(string(n)), n)...)
			all[n] = resource.Quantity{}
		}
	}
	_, least := l.Min[corev1.ResourceStorage]
	_, most := l.Max[corev1.ResourceStorage]
	if l.Type == corev1.LimitTypePersistentVolumeClaim && !least && !most {
		errs = append(errs, field.Required(at.Child("limits"), "either minimum or maximum storage value is required, but neither was provided"))
	}
	for _, n := range slices.Sorted(maps.Keys(all)) {
		errs = append(errs, limitOrder(at, n, l.Min, l.Max, defaults, requests)...)
		errs = append(errs, limitRatio(at.Child("maxLimitRequestRatio").Key(string(n)), n, l)...)
	}
	return errs
}

// limitOrder: min ≤ default request ≤ default ≤ max.
func limitOrder(at *field.Path, n corev1.ResourceName, least, most, defaults, requests corev1.ResourceList) check.Errors {
	var errs check.Errors
	compare := func(child string, shown, low, high corev1.ResourceList, format string) {
		a, hasLow := low[n]
		b, hasHigh := high[n]
		if hasLow && hasHigh && a.Cmp(b) > 0 {
			errs = append(errs, field.Invalid(at.Child(child).Key(string(n)), shown[n], fmt.Sprintf(format, a.String(), b.String())))
		}
	}
	compare("min", least, least, most, "min value %s is greater than max value %s")
	compare("defaultRequest", requests, least, requests, "min value %s is greater than default request value %s")
	compare("defaultRequest", requests, requests, most, "default request value %s is greater than max value %s")
	compare("defaultRequest", requests, requests, defaults, "default request value %s is greater than default limit value %s")
	compare("default", least, least, defaults, "min value %s is greater than default value %s")
	compare("default", most, defaults, most, "default value %s is greater than max value %s")
	d, hasDefault := defaults[n]
	r, hasRequest := requests[n]
	if !canOvercommit(n) && hasDefault && hasRequest && d.Cmp(r) != 0 {
		errs = append(errs, field.Invalid(at.Child("defaultRequest").Key(string(n)), r, fmt.Sprintf("default value %s must equal to defaultRequest value %s in %s", d.String(), r.String(), n)))
	}
	return errs
}

func limitRatio(at *field.Path, n corev1.ResourceName, l *corev1.LimitRangeItem) check.Errors {
	ratio, ok := l.MaxLimitRequestRatio[n]
	if !ok {
		return nil
	}
	var errs check.Errors
	if ratio.Cmp(resource.MustParse("1")) < 0 {
		errs = append(errs, field.Invalid(at, ratio, fmt.Sprintf("ratio %s is less than 1", ratio.String())))
	}
	low, hasLow := l.Min[n]
	high, hasHigh := l.Max[n]
	if hasLow && hasHigh {
		if most := high.AsApproximateFloat64() / low.AsApproximateFloat64(); ratio.AsApproximateFloat64() > most {
			errs = append(errs, field.Invalid(at, ratio, fmt.Sprintf("ratio %s is greater than max/min = %f", ratio.String(), most)))
		}
	}
	return errs
}

func validateQuota(obj api.Object) field.ErrorList {
	q := obj.(*corev1.ResourceQuota)
	return slices.Concat(quotaSpec(&q.Spec), validateQuotaStatus(obj, nil))
}

func validateQuotaStatus(obj, _ api.Object) field.ErrorList {
	s := &obj.(*corev1.ResourceQuota).Status
	return slices.Concat(quantities(statusPath.Child("hard"), s.Hard, quotaResourceName), quantities(statusPath.Child("used"), s.Used, quotaResourceName))
}

func validateQuotaUpdate(obj, old api.Object) field.ErrorList {
	q, was := obj.(*corev1.ResourceQuota), old.(*corev1.ResourceQuota)
	errs := quotaSpec(&q.Spec)
	if !slices.Equal(uniqueScopes(q.Spec.Scopes), uniqueScopes(was.Spec.Scopes)) {
		errs = append(errs, field.Invalid(specPath.Child("scopes"), q.Spec.Scopes, validation.FieldImmutableErrorMsg))
	}
	return errs
}

func uniqueScopes(list []corev1.ResourceQuotaScope) []corev1.ResourceQuotaScope {
	return slices.Compact(slices.Sorted(slices.Values(list)))
}

func quotaSpec(s *corev1.ResourceQuotaSpec) check.Errors {
	errs := quantities(specPath.Child("hard"), s.Hard, quotaResourceName)
	at := specPath.Child("scopes")
	for _, scope := range s.Scopes {
		if scopeResources(scope) == nil {
			errs = append(errs, field.Invalid(at, s.Scopes, "unsupported scope"))
		}
		if !scopeFits(scope, s.Hard) {
			errs = append(errs, field.Invalid(at, s.Scopes, "unsupported scope applied to resource"))
		}
	}
	errs = append(errs, scopeConflicts(at, s.Scopes, s)...)
	if s.ScopeSelector == nil {
		return errs
	}
	at = specPath.Child("scopeSelector", "matchExpressions")
	var scopes []corev1.ResourceQuotaScope
	for i := range s.ScopeSelector.MatchExpressions {
		r := &s.ScopeSelector.MatchExpressions[i]
		scopes = append(scopes, r.ScopeName)
		errs = append(errs, scopeRequirement(at, r, s)...)
	}
	return append(errs, scopeConflicts(at, scopes, s)...)
}

func scopeRequirement(at *field.Path, r *corev1.ScopedResourceSelectorRequirement, s *corev1.ResourceQuotaSpec) check.Errors {
	var errs check.Errors
	if scopeResources(r.ScopeName) == nil {
		errs = append(errs, field.Invalid(at.Child("scopeName"), r.ScopeName, "unsupported scope"))
	}
	if !scopeFits(r.ScopeName, s.Hard) {
		errs = append(errs, field.Invalid(at, s.ScopeSelector, "unsupported scope applied to resource"))
	}
	switch r.ScopeName {
	case corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		if r.Operator != corev1.ScopeSelectorOpExists {
			errs = append(errs, field.Invalid(at.Child("operator"), r.Operator, "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity"))
		}
	}
	switch r.Operator {
	case corev1.ScopeSelectorOpIn, corev1.ScopeSelectorOpNotIn:
		if len(r.Values) == 0 {
			errs = append(errs, field.Required(at.Child("values"), "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"))
		}
	case corev1.ScopeSelectorOpExists, corev1.ScopeSelectorOpDoesNotExist:
		if len(r.Values) > 0 {
			errs = append(errs, field.Invalid(at.Child("values"), r.Values, "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"))
		}
	default:
		errs = append(errs, field.Invalid(at.Child("operator"), r.Operator, "not a valid selector operator"))
	}
	return errs
}

func scopeConflicts(at *field.Path, scopes []corev1.ResourceQuotaScope, s *corev1.ResourceQuotaSpec) check.Errors {
	var errs check.Errors
	for _, pair := range [][2]corev1.ResourceQuotaScope{{corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort}, {corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating}} {
		if slices.Contains(scopes, pair[0]) && slices.Contains(scopes, pair[1]) {
			errs = append(errs, field.Invalid(at, s.Scopes, "conflicting scopes"))
		}
	}
	return errs
}

// scopeResources are the resources that a scope can restrict; nil for an unknown scope.
func scopeResources(scope corev1.ResourceQuotaScope) []corev1.ResourceName {
	switch scope {
	case corev1.ResourceQuotaScopeBestEffort:
		return []corev1.ResourceName{corev1.ResourcePods}
	case corev1.ResourceQuotaScopeVolumeAttributesClass:
		return []corev1.ResourceName{corev1.ResourcePersistentVolumeClaims, corev1.ResourceRequestsStorage}
	case corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeNotBestEffort,
		corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return []corev1.ResourceName{corev1.ResourcePods, corev1.ResourceCPU, corev1.ResourceMemory,
			corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory}
	}
	return nil
}

func scopeFits(scope corev1.ResourceQuotaScope, hard corev1.ResourceList) bool {
	fits := scopeResources(scope)
	for n := range hard {
		if fits != nil && isQuotaResource(n) && !slices.Contains(fits, n) {
			return false
		}
	}
	return true
}
