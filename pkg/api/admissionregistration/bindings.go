package admissionregistration

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api"
	"skiff/pkg/api/check"
)

func validateValidatingPolicyBinding(obj api.Object) field.ErrorList {
	s := &obj.(*v1.ValidatingAdmissionPolicyBinding).Spec
	return append(checkBinding(s.PolicyName, s.ParamRef, s.MatchResources), checkActions(specPath.Child("validationActions"), s.ValidationActions)...)
}

func validateMutatingPolicyBinding(obj api.Object) field.ErrorList {
	s := &obj.(*v1.MutatingAdmissionPolicyBinding).Spec
	return append(checkBinding(s.PolicyName, s.ParamRef, s.MatchResources), onlyMutable(specPath.Child("matchResources"), s.MatchResources)...)
}

func checkBinding(policy string, params *v1.ParamRef, m *v1.MatchResources) field.ErrorList {
	errs := check.Required(specPath.Child("policyName"), policy)
	if policy != "" {
		errs = check.Subdomain(specPath.Child("policyName"), policy)
	}
	if params != nil {
		errs = append(errs, checkParamRef(specPath.Child("paramRef"), params)...)
	}
	if m != nil {
		errs = append(errs, checkMatches(specPath.Child("matchResources"), m)...)
	}
	return errs
}

func checkActions(at *field.Path, actions []v1.ValidationAction) field.ErrorList {
	if len(actions) == 0 {
		return field.ErrorList{field.Required(at, "at least one validation action is required")}
	}
	var errs field.ErrorList
	for i, action := range actions {
		errs = append(errs, check.OneOf(at.Index(i), action, v1.Audit, v1.Deny, v1.Warn)...)
		if slices.Contains(actions[:i], action) {
			errs = append(errs, field.Duplicate(at.Index(i), action))
		}
	}
	if slices.Contains(actions, v1.Deny) && slices.Contains(actions, v1.Warn) {
		errs = append(errs, field.Invalid(at, actions, "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)"))
	}
	return errs
}

// checkMatches checks match resources, which are complete by their defaults.
func checkMatches(at *field.Path, m *v1.MatchResources) field.ErrorList {
	errs := optionalOneOf(at.Child("matchPolicy"), m.MatchPolicy, v1.Equivalent, v1.Exact)
	errs = append(errs, check.Selector(at.Child("namespaceSelector"), m.NamespaceSelector, false)...)
	errs = append(errs, check.Selector(at.Child("objectSelector"), m.ObjectSelector, false)...)
	errs = append(errs, checkNamedRules(at.Child("resourceRules"), m.ResourceRules)...)
	return append(errs, checkNamedRules(at.Child("excludeResourceRules"), m.ExcludeResourceRules)...)
}

func checkNamedRules(at *field.Path, rules []v1.NamedRuleWithOperations) field.ErrorList {
	var errs field.ErrorList
	for i := range rules {
		at := at.Index(i)
		for j, name := range rules[i].ResourceNames {
			errs = append(errs, check.Messages(at.Child("resourceNames").Index(j), name, content.IsPathSegmentName(name))...)
			if slices.Contains(rules[i].ResourceNames[:j], name) {
				errs = append(errs, field.Duplicate(at.Child("resourceNames").Index(j), name))
			}
		}
		errs = append(errs, checkRule(at, &rules[i].RuleWithOperations)...)
	}
	return errs
}

func checkParamKind(at *field.Path, k *v1.ParamKind) field.ErrorList {
	var errs field.ErrorList
	version := at.Child("apiVersion")
	if gv, err := schema.ParseGroupVersion(k.APIVersion); k.APIVersion == "" {
		errs = append(errs, field.Required(version, ""))
	} else if err != nil {
		errs = append(errs, field.Invalid(version, k.APIVersion, err.Error()))
	} else {
		if gv.Group != "" {
			errs = append(errs, joined(version, gv.Group, "", utilvalidation.IsDNS1123Subdomain(gv.Group))...)
		}
		if gv.Version == "" {
			errs = append(errs, field.Invalid(version, k.APIVersion, "version must be specified"))
		} else {
			errs = append(errs, joined(version, gv.Version, "", utilvalidation.IsDNS1035Label(gv.Version))...)
		}
	}
	if k.Kind == "" {
		return append(errs, field.Required(at.Child("kind"), ""))
	}
	return append(errs, joined(at.Child("kind"), k.Kind, "may have mixed case, but should otherwise match: ", utilvalidation.IsDNS1035Label(strings.ToLower(k.Kind)))...)
}

// joined makes one error of all messages.
func joined(at *field.Path, value, prefix string, messages []string) field.ErrorList {
	if len(messages) == 0 {
		return nil
	}
	return field.ErrorList{field.Invalid(at, value, prefix+strings.Join(messages, ","))}
}

func checkParamRef(at *field.Path, r *v1.ParamRef) field.ErrorList {
	const both = "name and selector are mutually exclusive"
	var errs field.ErrorList
	if r.Name == "" && r.Selector == nil {
		errs = append(errs, field.Required(at, "one of name or selector must be specified"))
	}
	if r.Name != "" {
		errs = append(errs, check.Messages(at.Child("name"), r.Name, content.IsPathSegmentName(r.Name))...)
		if r.Selector != nil {
			errs = append(errs, field.Forbidden(at.Child("name"), both), field.Forbidden(at.Child("selector"), both))
		}
	}
	errs = append(errs, check.Selector(at.Child("selector"), r.Selector, false)...)
	action := v1.ParameterNotFoundActionType("")
	if r.ParameterNotFoundAction != nil {
		action = *r.ParameterNotFoundAction
	}
	return append(errs, check.Choice(at.Child("parameterNotFoundAction"), action, v1.DenyAction, v1.AllowAction)...)
}

// reservedName warns of names that Kubernetes means for policies that are files of a server.
func reservedName(obj, _ api.Object) []string {
	const suffix = ".static.k8s.io"
	if !strings.HasSuffix(obj.GetName(), suffix) {
		return nil
	}
	return []string{fmt.Sprintf("metadata.name: names ending with %q are reserved for static manifest-based configurations and cannot be managed via the API", suffix)}
}
