package admissionregistration

import (
	"fmt"
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api/check"
)

var operations = []admissionregistrationv1.OperationType{
	admissionregistrationv1.OperationAll, admissionregistrationv1.Connect, admissionregistrationv1.Create,
	admissionregistrationv1.Delete, admissionregistrationv1.Update,
}

// checkRule checks a rule of a webhook or a policy.
func checkRule(at *field.Path, r *admissionregistrationv1.RuleWithOperations) field.ErrorList {
	errs := wildcardAlone(at.Child("operations"), r.Operations, "operations")
	for i, o := range r.Operations {
		errs = append(errs, check.OneOf(at.Child("operations").Index(i), o, operations...)...)
	}
	errs = append(errs, wildcardAlone(at.Child("apiGroups"), r.APIGroups, "API groups")...)
	errs = append(errs, wildcardAlone(at.Child("apiVersions"), r.APIVersions, "API versions")...)
	for i, v := range r.APIVersions {
		errs = append(errs, check.Required(at.Child("apiVersions").Index(i), v)...)
	}
	errs = append(errs, checkResources(at.Child("resources"), r.Resources)...)
	return append(errs, optionalOneOf(at.Child("scope"), r.Scope,
		admissionregistrationv1.AllScopes, admissionregistrationv1.ClusterScope, admissionregistrationv1.NamespacedScope)...)
}

// wildcardAlone reports a list that is empty, or says everything and something.
func wildcardAlone[T ~string](at *field.Path, list []T, of string) field.ErrorList {
	switch {
	case len(list) == 0:
		return field.ErrorList{field.Required(at, "")}
	case len(list) > 1 && slices.Contains(list, "*"):
		return field.ErrorList{field.Invalid(at, list, "if '*' is present, must not specify other "+of)}
	}
	return nil
}

// checkResources checks "x", "x/y" and their wildcards: one that says a thing twice was hardly meant.
func checkResources(at *field.Path, resources []string) field.ErrorList {
	if len(resources) == 0 {
		return field.ErrorList{field.Required(at, "")}
	}
	var errs field.ErrorList
	allOf, inAll := map[string]bool{}, map[string]bool{} // x of "x/*", y of "*/y"
	plain := false                                       // the last resource without a subresource isn't "*"
	for i, pattern := range resources {
		if pattern == "" {
			errs = append(errs, field.Required(at.Index(i), ""))
			continue
		}
		name, sub, has := strings.Cut(pattern, "/")
		if !has {
			plain = pattern != "*"
			continue
		}
		if allOf[name] {
			errs = append(errs, field.Invalid(at.Index(i), pattern, fmt.Sprintf("if '%s/*' is present, must not specify %s", name, pattern)))
		}
		if inAll[sub] {
			errs = append(errs, field.Invalid(at.Index(i), pattern, fmt.Sprintf("if '*/%s' is present, must not specify %s", sub, pattern)))
		}
		allOf[name] = allOf[name] || sub == "*"
		inAll[sub] = inAll[sub] || name == "*"
	}
	if len(resources) > 1 && slices.Contains(resources, "*/*") {
		errs = append(errs, field.Invalid(at, resources, "if '*/*' is present, must not specify other resources"))
	}
	if plain && slices.Contains(resources, "*") {
		errs = append(errs, field.Invalid(at, resources, "if '*' is present, must not specify other resources without subresources"))
	}
	return errs
}
