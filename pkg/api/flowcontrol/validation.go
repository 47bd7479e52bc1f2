package flowcontrol

import (
	"fmt"
	"slices"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/apiserver/pkg/util/shufflesharding"

	"skiff/pkg/api"
	"skiff/pkg/api/check"
)

// The mandatory objects hold a server together: their specs are Kubernetes' own.
const fixed = "spec of '%s' must equal the fixed value"

func validateFlowSchema(obj api.Object) field.ErrorList {
	s, spec := obj.(*flowcontrolv1.FlowSchema), field.NewPath("spec")
	var errs field.ErrorList
	precedence := spec.Child("matchingPrecedence")
	switch p := s.Spec.MatchingPrecedence; {
	case p <= 0:
		errs = append(errs, field.Invalid(precedence, p, "must be a positive value"))
	case p > flowcontrolv1.FlowSchemaMaxMatchingPrecedence:
		errs = append(errs, field.Invalid(precedence, p, fmt.Sprintf("must not be greater than %v", flowcontrolv1.FlowSchemaMaxMatchingPrecedence)))
	case p == 1 && s.Name != flowcontrolv1.FlowSchemaNameExempt:
		errs = append(errs, field.Invalid(precedence, p, "only the schema named 'exempt' may have matchingPrecedence 1"))
	}
	if m := s.Spec.DistinguisherMethod; m != nil {
		types := []flowcontrolv1.FlowDistinguisherMethodType{flowcontrolv1.FlowDistinguisherMethodByNamespaceType, flowcontrolv1.FlowDistinguisherMethodByUserType}
		if !slices.Contains(types, m.Type) {
			errs = append(errs, field.NotSupported(spec.Child("distinguisherMethod", "type"), m, types))
		}
	}
	if level := s.Spec.PriorityLevelConfiguration.Name; level == "" {
		errs = append(errs, field.Required(spec.Child("priorityLevelConfiguration", "name"), "must reference a priority level"))
	} else {
		errs = append(errs, check.Subdomain(spec.Child("priorityLevelConfiguration", "name"), level)...)
	}
	for i := range s.Spec.Rules {
		errs = append(errs, validateRule(spec.Child("rules").Index(i), &s.Spec.Rules[i])...)
	}
	for _, want := range bootstrap.MandatoryFlowSchemas {
		if want.Name == s.Name && !equality.Semantic.DeepEqual(s.Spec, want.Spec) {
			errs = append(errs, field.Invalid(spec, s.Spec, fmt.Sprintf(fixed, s.Name)))
		}
	}
	return errs
}

func validateRule(at *field.Path, r *flowcontrolv1.PolicyRulesWithSubjects) field.ErrorList {
	var errs field.ErrorList
	if len(r.Subjects) == 0 {
		errs = append(errs, field.Required(at.Child("subjects"), "subjects must contain at least one value"))
	}
	for i := range r.Subjects {
		errs = append(errs, validateSubject(at.Child("subjects").Index(i), &r.Subjects[i])...)
	}
	if len(r.ResourceRules) == 0 && len(r.NonResourceRules) == 0 {
		errs = append(errs, field.Required(at, "at least one of resourceRules and nonResourceRules has to be non-empty"))
	}
	for i := range r.ResourceRules {
		at, rule := at.Child("resourceRules").Index(i), &r.ResourceRules[i]
		errs = slices.Concat(errs, validateVerbs(at, rule.Verbs),
			list(at.Child("apiGroups"), rule.APIGroups, "resource rules must supply at least one api group", "api groups"),
			list(at.Child("resources"), rule.Resources, "resource rules must supply at least one resource", "resources"))
		if len(rule.Namespaces) == 0 && rule.ClusterScope {
			continue
		}
		errs = append(errs, list(at.Child("namespaces"), rule.Namespaces, "resource rules that are not cluster scoped must supply at least one namespace", "namespaces")...)
		for j, namespace := range rule.Namespaces {
			for _, message := range validation.ValidateNamespaceName(namespace, false) {
				if !slices.Contains(rule.Namespaces, flowcontrolv1.NamespaceEvery) {
					errs = append(errs, field.Invalid(at.Child("namespaces").Index(j), namespace, "each member of this list must be '*' or a DNS-1123 label; "+message))
				}
			}
		}
	}
	for i := range r.NonResourceRules {
		at, rule := at.Child("nonResourceRules").Index(i), &r.NonResourceRules[i]
		errs = slices.Concat(errs, validateVerbs(at, rule.Verbs),
			list(at.Child("nonResourceURLs"), rule.NonResourceURLs, "nonResourceURLs must contain at least one value", "non-resource URLs"))
		for j, url := range rule.NonResourceURLs {
			if message := urlProblem(url); message != "" && !slices.Contains(rule.NonResourceURLs, flowcontrolv1.NonResourceAll) {
				errs = append(errs, field.Invalid(at.Child("nonResourceURLs").Index(j), url, message))
			}
		}
	}
	return errs
}

// list is one that must not be empty, and holds an asterisk alone or not at all.
func list(at *field.Path, values []string, empty, others string) field.ErrorList {
	switch {
	case len(values) == 0:
		return field.ErrorList{field.Required(at, empty)}
	case len(values) > 1 && slices.Contains(values, "*"):
		return field.ErrorList{field.Invalid(at, values, "if '*' is present, must not specify other "+others)}
	}
	return nil
}

var verbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"}

func validateVerbs(rule *field.Path, values []string) field.ErrorList {
	at := rule.Child("verbs")
	errs := list(at, values, "verbs must contain at least one value", "verbs")
	if !slices.Contains(values, "*") && slices.ContainsFunc(values, func(v string) bool { return !slices.Contains(verbs, v) }) {
		errs = append(errs, field.NotSupported(at, values, verbs))
	}
	return errs
}

func urlProblem(url string) string {
	switch {
	case url == "":
		return "must not be empty"
	case !strings.HasPrefix(url, "/"):
		return "must start with slash"
	case strings.Contains(url, " "):
		return "must not contain white-space"
	case strings.Contains(url, "//"):
		return "must not contain double slash"
	case strings.Contains(strings.TrimSuffix(url, "/*"), "*"):
		return "wildcard can only do suffix matching"
	}
	return ""
}

func validateSubject(at *field.Path, s *flowcontrolv1.Subject) field.ErrorList {
	errs := check.OneOf(at.Child("kind"), s.Kind, flowcontrolv1.SubjectKindGroup, flowcontrolv1.SubjectKindServiceAccount, flowcontrolv1.SubjectKindUser)
	if errs != nil {
		return errs
	}
	for _, part := range []struct {
		kind flowcontrolv1.SubjectKind
		name string
		set  bool
	}{
		{flowcontrolv1.SubjectKindUser, "user", s.User != nil},
		{flowcontrolv1.SubjectKindGroup, "group", s.Group != nil},
		{flowcontrolv1.SubjectKindServiceAccount, "serviceAccount", s.ServiceAccount != nil},
	} {
		switch {
		case part.set && s.Kind != part.kind:
			errs = append(errs, field.Forbidden(at.Child(part.name), fmt.Sprintf("%s is forbidden when subject kind is not '%s'", part.name, part.kind)))
		case !part.set && s.Kind == part.kind:
			errs = append(errs, field.Required(at.Child(part.name), fmt.Sprintf("%s is required when subject kind is '%s'", part.name, part.kind)))
		}
	}
	switch {
	case s.Kind == flowcontrolv1.SubjectKindUser && s.User != nil:
		errs = append(errs, check.Required(at.Child("user", "name"), s.User.Name)...)
	case s.Kind == flowcontrolv1.SubjectKindGroup && s.Group != nil:
		errs = append(errs, check.Required(at.Child("group", "name"), s.Group.Name)...)
	case s.Kind == flowcontrolv1.SubjectKindServiceAccount && s.ServiceAccount != nil:
		at, name, namespace := at.Child("serviceAccount"), s.ServiceAccount.Name, s.ServiceAccount.Namespace
		if errs = append(errs, check.Required(at.Child("name"), name)...); name != "" && name != flowcontrolv1.NameAll {
			errs = append(errs, check.Messages(at.Child("name"), name, validation.ValidateServiceAccountName(name, false))...)
		}
		if namespace == "" {
			return append(errs, field.Required(at.Child("namespace"), "must specify namespace for service account"))
		}
		errs = append(errs, check.Messages(at.Child("namespace"), namespace, validation.ValidateNamespaceName(namespace, false))...)
	}
	return errs
}

func validatePriorityLevel(obj api.Object) field.ErrorList {
	p, spec := obj.(*flowcontrolv1.PriorityLevelConfiguration), field.NewPath("spec")
	var errs field.ErrorList
	if (p.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt) != (p.Spec.Type == flowcontrolv1.PriorityLevelEnablementExempt) {
		errs = append(errs, field.Invalid(spec.Child("type"), p.Spec.Type, "must be 'Exempt' if and only if `name` is 'exempt'"))
	}
	switch p.Spec.Type {
	case flowcontrolv1.PriorityLevelEnablementExempt:
		if p.Spec.Limited != nil {
			errs = append(errs, field.Forbidden(spec.Child("limited"), "must be nil if the type is not Limited"))
		}
		if e := p.Spec.Exempt; e != nil {
			errs = append(errs, validateShares(spec.Child("exempt"), e.NominalConcurrencyShares, e.LendablePercent)...)
		}
	case flowcontrolv1.PriorityLevelEnablementLimited:
		if p.Spec.Exempt != nil {
			errs = append(errs, field.Forbidden(spec.Child("exempt"), "must be nil if the type is Limited"))
		}
		if p.Spec.Limited == nil {
			errs = append(errs, field.Required(spec.Child("limited"), "must not be empty when type is Limited"))
		} else {
			errs = append(errs, validateLimited(spec.Child("limited"), p.Spec.Limited)...)
		}
	default:
		errs = append(errs, check.OneOf(spec.Child("type"), p.Spec.Type, flowcontrolv1.PriorityLevelEnablementExempt, flowcontrolv1.PriorityLevelEnablementLimited)...)
	}
	for _, want := range bootstrap.MandatoryPriorityLevelConfigurations {
		if want.Name != p.Name {
			continue
		}
		have, what := p.Spec.DeepCopy(), fixed
		if p.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt { // its shares are an administrator's to choose
			have.Exempt, what = want.Spec.Exempt, "spec of '%s' except the 'spec.exempt' field must equal the fixed value"
		}
		if !equality.Semantic.DeepEqual(*have, want.Spec) {
			errs = append(errs, field.Invalid(spec, p.Spec, fmt.Sprintf(what, p.Name)))
		}
	}
	return errs
}

func validateShares(at *field.Path, nominal, lendable *int32) field.ErrorList {
	var errs field.ErrorList
	if nominal != nil && *nominal < 0 {
		errs = append(errs, field.Invalid(at.Child("nominalConcurrencyShares"), *nominal, "must be a non-negative integer"))
	}
	if lendable != nil && (*lendable < 0 || *lendable > 100) {
		errs = append(errs, field.Invalid(at.Child("lendablePercent"), *lendable, "must be between 0 and 100, inclusive"))
	}
	return errs
}

const mostQueues = 10_000_000

func validateLimited(at *field.Path, l *flowcontrolv1.LimitedPriorityLevelConfiguration) field.ErrorList {
	errs := validateShares(at, l.NominalConcurrencyShares, l.LendablePercent)
	if b := l.BorrowingLimitPercent; b != nil && *b < 0 {
		errs = append(errs, field.Invalid(at.Child("borrowingLimitPercent"), *b, "if specified, must be a non-negative integer"))
	}
	at = at.Child("limitResponse")
	q := l.LimitResponse.Queuing
	switch l.LimitResponse.Type {
	case flowcontrolv1.LimitResponseTypeReject:
		if q != nil {
			errs = append(errs, field.Forbidden(at.Child("queuing"), "must be nil if limited.limitResponse.type is not Limited"))
		}
		return errs
	case flowcontrolv1.LimitResponseTypeQueue:
		if q == nil {
			return append(errs, field.Required(at.Child("queuing"), "must not be empty if limited.limitResponse.type is Limited"))
		}
	default:
		return append(errs, check.OneOf(at.Child("type"), l.LimitResponse.Type, flowcontrolv1.LimitResponseTypeQueue, flowcontrolv1.LimitResponseTypeReject)...)
	}
	at = at.Child("queuing")
	if q.QueueLengthLimit <= 0 {
		errs = append(errs, field.Invalid(at.Child("queueLengthLimit"), q.QueueLengthLimit, "must be positive"))
	}
	switch {
	case q.Queues <= 0:
		errs = append(errs, field.Invalid(at.Child("queues"), q.Queues, "must be positive"))
	case q.Queues > mostQueues:
		errs = append(errs, field.Invalid(at.Child("queues"), q.Queues, fmt.Sprintf("must not be greater than %d", mostQueues)))
	}
	hand := at.Child("handSize")
	switch {
	case q.HandSize <= 0:
		errs = append(errs, field.Invalid(hand, q.HandSize, "must be positive"))
	case q.HandSize > q.Queues:
		errs = append(errs, field.Invalid(hand, q.HandSize, fmt.Sprintf("should not be greater than queues (%d)", q.Queues)))
	default:
		if bits := shufflesharding.RequiredEntropyBits(int(q.Queues), int(q.HandSize)); bits > shufflesharding.MaxHashBits {
			errs = append(errs, field.Invalid(hand, q.HandSize, fmt.Sprintf("required entropy bits of deckSize %d and handSize %d should not be greater than %d",
				q.Queues, q.HandSize, shufflesharding.MaxHashBits)))
		}
	}
	return errs
}

func validateSchemaStatus(obj, _ api.Object) field.ErrorList {
	return validateConditions(obj.(*flowcontrolv1.FlowSchema).Status.Conditions, func(c flowcontrolv1.FlowSchemaCondition) string { return string(c.Type) })
}

func validatePriorityLevelStatus(obj, _ api.Object) field.ErrorList {
	return validateConditions(obj.(*flowcontrolv1.PriorityLevelConfiguration).Status.Conditions,
		func(c flowcontrolv1.PriorityLevelConfigurationCondition) string { return string(c.Type) })
}

func validateConditions[T any](conditions []T, typeOf func(T) string) field.ErrorList {
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, c := range conditions {
		at, name := field.NewPath("status", "conditions").Index(i).Child("type"), typeOf(c)
		if seen[name] {
			errs = append(errs, field.Duplicate(at, name))
		}
		seen[name] = true
		errs = append(errs, check.Required(at, name)...)
	}
	return errs
}
