package core

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api/check"
)

// ValidateTolerations checks the tolerations of a new template, or of something like one.
func ValidateTolerations(at *field.Path, list []corev1.Toleration) check.Errors {
	return podCheck{}.tolerations(at, list)
}

func (c podCheck) tolerations(at *field.Path, list []corev1.Toleration) check.Errors {
	var errs check.Errors
	for i := range list {
		t, at := &list[i], at.Index(i)
		operator := at.Child("operator")
		if t.Key != "" {
			errs = append(errs, metavalidation.ValidateLabelName(t.Key, at.Child("key"))...)
		} else if t.Operator != corev1.TolerationOpExists {
			errs = append(errs, field.Invalid(operator, t.Operator, "operator must be Exists when `key` is empty, which means \"match all values and all keys\""))
		}
		if t.TolerationSeconds != nil && t.Effect != corev1.TaintEffectNoExecute {
			errs = append(errs, field.Invalid(at.Child("effect"), t.Effect, "effect must be 'NoExecute' when `tolerationSeconds` is set"))
		}
		switch t.Operator {
		case corev1.TolerationOpEqual, "":
			if wrong := utilvalidation.IsValidLabelValue(t.Value); len(wrong) > 0 {
				errs = append(errs, field.Invalid(operator, t.Value, strings.Join(wrong, ";")))
			}
		case corev1.TolerationOpExists:
			if t.Value != "" {
				errs = append(errs, field.Invalid(operator, t.Value, "value must be empty when `operator` is 'Exists'"))
			}
		case corev1.TolerationOpLt, corev1.TolerationOpGt:
			if !c.had(comparesTaints) { // TaintTolerationComparisonOperators is an alpha feature
				errs = append(errs, field.NotSupported(operator, t.Operator, []corev1.TolerationOperator{corev1.TolerationOpEqual, corev1.TolerationOpExists, corev1.TolerationOpLt, corev1.TolerationOpGt}))
				break
			}
			errs = append(errs, check.Messages(at.Child("value"), t.Value, content.IsDecimalInteger(t.Value))...)
		default:
			errs = append(errs, field.NotSupported(operator, t.Operator, []corev1.TolerationOperator{corev1.TolerationOpEqual, corev1.TolerationOpExists}))
		}
		if t.Effect != "" {
			errs = append(errs, taintEffect(at.Child("effect"), t.Effect)...)
		}
	}
	return errs
}

func comparesTaints(s *corev1.PodSpec) bool {
	return slices.ContainsFunc(s.Tolerations, func(t corev1.Toleration) bool {
		return t.Operator == corev1.TolerationOpLt || t.Operator == corev1.TolerationOpGt
	})
}

func taintEffect(at *field.Path, effect corev1.TaintEffect) check.Errors {
	return check.Choice(at, effect, corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute)
}

func (c podCheck) affinity(at *field.Path, a *corev1.Affinity) check.Errors {
	if a == nil {
		return nil
	}
	var errs check.Errors
	if n, at := a.NodeAffinity, at.Child("nodeAffinity"); n != nil {
		if n.RequiredDuringSchedulingIgnoredDuringExecution != nil {
			errs = append(errs, ValidateNodeSelector(at.Child("requiredDuringSchedulingIgnoredDuringExecution"), n.RequiredDuringSchedulingIgnoredDuringExecution, c.had(hasInvalidNodeValues))...)
		}
		for i, t := range n.PreferredDuringSchedulingIgnoredDuringExecution {
			at := at.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i)
			// Values that no label can have match nothing, which is allowed for a mere preference.
			errs = slices.Concat(errs, weight(at.Child("weight"), t.Weight), nodeSelectorTerm(at.Child("preference"), &t.Preference, true))
		}
	}
	if p := a.PodAffinity; p != nil {
		errs = append(errs, c.podTerms(at.Child("podAffinity"), p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)...)
	}
	if p := a.PodAntiAffinity; p != nil {
		errs = append(errs, c.podTerms(at.Child("podAntiAffinity"), p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)...)
	}
	return errs
}

func weight(at *field.Path, n int32) check.Errors {
	if n >= 1 && n <= 100 {
		return nil
	}
	return check.Errors{field.Invalid(at, n, "must be in the range 1-100")}
}

// ValidateNodeSelector checks terms over labels and fields of nodes. A lax one may hold values that no label has.
func ValidateNodeSelector(at *field.Path, s *corev1.NodeSelector, lax bool) check.Errors {
	at = at.Child("nodeSelectorTerms")
	if len(s.NodeSelectorTerms) == 0 {
		return check.Errors{field.Required(at, "must have at least one node selector term")}
	}
	var errs check.Errors
	for i := range s.NodeSelectorTerms {
		errs = append(errs, nodeSelectorTerm(at.Index(i), &s.NodeSelectorTerms[i], lax)...)
	}
	return errs
}

func nodeSelectorTerm(at *field.Path, t *corev1.NodeSelectorTerm, lax bool) check.Errors {
	var errs check.Errors
	for i := range t.MatchExpressions {
		errs = append(errs, nodeRequirement(at.Child("matchExpressions").Index(i), &t.MatchExpressions[i], lax)...)
	}
	for i := range t.MatchFields {
		errs = append(errs, nodeFieldRequirement(at.Child("matchFields").Index(i), &t.MatchFields[i])...)
	}
	return errs
}

func nodeRequirement(at *field.Path, r *corev1.NodeSelectorRequirement, lax bool) check.Errors {
	values := at.Child("values")
	var errs check.Errors
	switch r.Operator {
	case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
		if len(r.Values) == 0 {
			errs = append(errs, field.Required(values, "must be specified when `operator` is 'In' or 'NotIn'"))
		}
	case corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist:
		if len(r.Values) > 0 {
			errs = append(errs, field.Forbidden(values, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"))
		}
	case corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt:
		if len(r.Values) != 1 {
			errs = append(errs, field.Required(values, "must be specified single value when `operator` is 'Lt' or 'Gt'"))
		}
	default:
		errs = append(errs, field.Invalid(at.Child("operator"), r.Operator, "not a valid selector operator"))
	}
	errs = append(errs, metavalidation.ValidateLabelName(r.Key, at.Child("key"))...)
	for i, v := range r.Values {
		if !lax {
			errs = append(errs, check.Messages(values.Index(i), v, utilvalidation.IsValidLabelValue(v))...)
		}
	}
	return errs
}

func nodeFieldRequirement(at *field.Path, r *corev1.NodeSelectorRequirement) check.Errors {
	var errs check.Errors
	switch r.Operator {
	case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
		if len(r.Values) != 1 {
			errs = append(errs, field.Required(at.Child("values"), "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"))
		}
	default:
		errs = append(errs, field.Invalid(at.Child("operator"), r.Operator, "not a valid selector operator"))
	}
	if r.Key != metav1.ObjectNameField {
		return append(errs, field.Invalid(at.Child("key"), r.Key, "not a valid field selector key"))
	}
	for i, v := range r.Values {
		errs = append(errs, check.Subdomain(at.Child("values").Index(i), v)...)
	}
	return errs
}

func hasInvalidNodeValues(s *corev1.PodSpec) bool {
	if s.Affinity == nil || s.Affinity.NodeAffinity == nil || s.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return false
	}
	for _, t := range s.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for _, r := range t.MatchExpressions {
			if slices.ContainsFunc(r.Values, func(v string) bool { return len(utilvalidation.IsValidLabelValue(v)) > 0 }) {
				return true
			}
		}
	}
	return false
}

func (c podCheck) podTerms(at *field.Path, required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) check.Errors {
	lax := c.had(hasInvalidPodValues)
	var errs check.Errors
	for i := range required {
		errs = append(errs, podTerm(at.Child("requiredDuringSchedulingIgnoredDuringExecution").Index(i), &required[i], lax)...)
	}
	for i := range preferred {
		at := at.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i)
		errs = slices.Concat(errs, weight(at.Child("weight"), preferred[i].Weight), podTerm(at.Child("podAffinityTerm"), &preferred[i].PodAffinityTerm, lax))
	}
	return errs
}

func podTerm(at *field.Path, t *corev1.PodAffinityTerm, lax bool) check.Errors {
	errs := slices.Concat(check.Selector(at.Child("labelSelector"), t.LabelSelector, lax), check.Selector(at.Child("namespaceSelector"), t.NamespaceSelector, lax))
	for _, name := range t.Namespaces {
		errs = append(errs, check.Messages(at.Child("namespace"), name, validation.ValidateNamespaceName(name, false))...)
	}
	errs = append(errs, labelKeys(at, t.MatchLabelKeys, t.MismatchLabelKeys, t.LabelSelector)...)
	if t.TopologyKey == "" {
		errs = append(errs, field.Required(at.Child("topologyKey"), "can not be empty"))
	}
	return append(errs, metavalidation.ValidateLabelName(t.TopologyKey, at.Child("topologyKey"))...)
}

// hasInvalidPodValues looks for label selectors with values that no label can have.
func hasInvalidPodValues(s *corev1.PodSpec) bool {
	bad := func(t *corev1.PodAffinityTerm) bool {
		return metavalidation.LabelSelectorHasInvalidLabelValue(t.LabelSelector) || metavalidation.LabelSelectorHasInvalidLabelValue(t.NamespaceSelector)
	}
	any := func(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) bool {
		return slices.ContainsFunc(required, func(t corev1.PodAffinityTerm) bool { return bad(&t) }) ||
			slices.ContainsFunc(preferred, func(t corev1.WeightedPodAffinityTerm) bool { return bad(&t.PodAffinityTerm) })
	}
	a := s.Affinity
	return a != nil && (a.PodAffinity != nil && any(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution) ||
		a.PodAntiAffinity != nil && any(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution))
}

// labelKeys: a key of matchLabelKeys has become an expression already (see mergeLabelKeys), so that it
// may stand in the selector once.
func labelKeys(at *field.Path, match, mismatch []string, selector *metav1.LabelSelector) check.Errors {
	valid := func(at *field.Path, keys []string) check.Errors {
		if len(keys) > 0 && selector == nil {
			return check.Errors{field.Forbidden(at, "must not be specified when labelSelector is not set")}
		}
		var errs check.Errors
		for i, key := range keys {
			errs = append(errs, metavalidation.ValidateLabelName(key, at.Index(i))...)
		}
		return errs
	}
	errs := slices.Concat(valid(at.Child("matchLabelKeys"), match), valid(at.Child("mismatchLabelKeys"), mismatch))
	if selector != nil && len(match) > 0 {
		seen := map[string]bool{}
		for key := range selector.MatchLabels {
			seen[key] = true
		}
		for _, r := range selector.MatchExpressions {
			if i := slices.Index(match, r.Key); i >= 0 && seen[r.Key] {
				errs = append(errs, field.Invalid(at.Index(i), r.Key, "exists in both matchLabelKeys and labelSelector"))
			}
			seen[r.Key] = true
		}
	}
	for i, key := range match {
		if slices.Contains(mismatch, key) {
			errs = append(errs, field.Invalid(at.Child("matchLabelKeys").Index(i), key, "exists in both matchLabelKeys and mismatchLabelKeys"))
		}
	}
	return errs
}

func (c podCheck) spread(list *field.Path, constraints []corev1.TopologySpreadConstraint) check.Errors {
	var errs check.Errors
	for i := range constraints {
		t, at := &constraints[i], list.Index(i)
		errs = append(errs, check.Positive(at.Child("maxSkew"), int64(t.MaxSkew))...)
		if t.TopologyKey == "" {
			errs = append(errs, field.Required(at.Child("topologyKey"), "can not be empty"))
		}
		errs = append(errs, check.OneOf(at.Child("whenUnsatisfiable"), t.WhenUnsatisfiable, corev1.DoNotSchedule, corev1.ScheduleAnyway)...)
		if slices.ContainsFunc(constraints[i+1:], func(o corev1.TopologySpreadConstraint) bool {
			return o.TopologyKey == t.TopologyKey && o.WhenUnsatisfiable == t.WhenUnsatisfiable
		}) {
			errs = append(errs, field.Duplicate(at.Child("{topologyKey, whenUnsatisfiable}"), fmt.Sprintf("{%v, %v}", t.TopologyKey, t.WhenUnsatisfiable)))
		}
		if n := t.MinDomains; n != nil {
			errs = append(errs, check.Positive(at.Child("minDomains"), int64(*n))...)
			if t.WhenUnsatisfiable != corev1.DoNotSchedule {
				errs = append(errs, field.Invalid(at.Child("minDomains"), *n, fmt.Sprintf("can only use minDomains if whenUnsatisfiable=%s, not %s", corev1.DoNotSchedule, t.WhenUnsatisfiable)))
			}
		}
		errs = slices.Concat(errs, inclusion(at.Child("nodeAffinityPolicy"), t.NodeAffinityPolicy), inclusion(at.Child("nodeTaintsPolicy"), t.NodeTaintsPolicy))
		if !c.had(hasInvalidSpreadKeys) {
			errs = append(errs, labelKeys(at, t.MatchLabelKeys, nil, t.LabelSelector)...)
		}
		if !c.had(hasInvalidSpreadSelector) {
			errs = append(errs, check.Selector(at.Child("labelSelector"), t.LabelSelector, false)...)
		}
	}
	return errs
}

func inclusion(at *field.Path, p *corev1.NodeInclusionPolicy) check.Errors {
	if p == nil {
		return nil
	}
	return check.OneOf(at, *p, corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)
}

func hasInvalidSpreadKeys(s *corev1.PodSpec) bool {
	return slices.ContainsFunc(s.TopologySpreadConstraints, func(t corev1.TopologySpreadConstraint) bool {
		return len(labelKeys(nil, t.MatchLabelKeys, nil, t.LabelSelector)) > 0
	})
}

func hasInvalidSpreadSelector(s *corev1.PodSpec) bool {
	return slices.ContainsFunc(s.TopologySpreadConstraints, func(t corev1.TopologySpreadConstraint) bool {
		return len(check.Selector(nil, t.LabelSelector, false)) > 0
	})
}
