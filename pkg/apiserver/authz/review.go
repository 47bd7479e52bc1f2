package authz

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/request"
)

// Review answers a SubjectAccessReview, SelfSubjectAccessReview,
// LocalSubjectAccessReview or SelfSubjectRulesReview, by filling in its status and
// returning it. Who asks, and in which namespace, is read from ctx.
func (a *Authorizer) Review(ctx context.Context, question api.Object) (api.Object, error) {
	user, info := request.UserFrom(ctx), request.InfoFrom(ctx)
	if user == nil || info == nil {
		return nil, apierrors.NewBadRequest("no user present on request")
	}
	switch q := question.(type) {
	case *authorizationv1.SubjectAccessReview:
		errs := append(validateAccess(q.Spec.ResourceAttributes, q.Spec.NonResourceAttributes), validateSubject(&q.Spec)...)
		if errs = append(errs, validateBareMeta(q, "must be empty")...); len(errs) > 0 {
			return nil, invalid(errs)
		}
		q.Status = a.review(ctx, subjectOf(&q.Spec), q.Spec.ResourceAttributes, q.Spec.NonResourceAttributes)
	case *authorizationv1.SelfSubjectAccessReview:
		errs := append(validateAccess(q.Spec.ResourceAttributes, q.Spec.NonResourceAttributes), validateBareMeta(q, "must be empty")...)
		if len(errs) > 0 {
			return nil, invalid(errs)
		}
		q.Status = a.review(ctx, user, q.Spec.ResourceAttributes, q.Spec.NonResourceAttributes)
	case *authorizationv1.LocalSubjectAccessReview:
		q.Namespace = cmp.Or(q.Namespace, info.Namespace)
		if errs := validateLocal(q); len(errs) > 0 {
			return nil, invalid(errs)
		}
		if info.Namespace != q.Namespace {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("spec.resourceAttributes.namespace must match namespace: %v", info.Namespace))
		}
		q.Status = a.review(ctx, subjectOf(&q.Spec), q.Spec.ResourceAttributes, q.Spec.NonResourceAttributes)
	case *authorizationv1.SelfSubjectRulesReview:
		if q.Spec.Namespace == "" {
			return nil, apierrors.NewBadRequest("no namespace on request")
		}
		return &authorizationv1.SelfSubjectRulesReview{Status: a.rulesReview(user, q.Spec.Namespace)}, nil
	default:
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not an access review: %T", question))
	}
	return question, nil
}

// invalid names no kind, as in Kubernetes.
func invalid(errs field.ErrorList) error {
	return apierrors.NewInvalid(schema.GroupKind{Group: authorizationv1.GroupName}, "", errs)
}

func subjectOf(spec *authorizationv1.SubjectAccessReviewSpec) *request.User {
	user := &request.User{Name: spec.User, UID: spec.UID, Groups: spec.Groups}
	for key, values := range spec.Extra {
		if user.Extra == nil {
			user.Extra = map[string][]string{}
		}
		user.Extra[key] = values
	}
	return user
}

func (a *Authorizer) review(ctx context.Context, user *request.User, resource *authorizationv1.ResourceAttributes, other *authorizationv1.NonResourceAttributes) authorizationv1.SubjectAccessReviewStatus {
	info := &request.Info{}
	var problems []string
	if resource != nil {
		*info = request.Info{
			IsResourceRequest: true,
			Verb:              resource.Verb,
			APIGroup:          resource.Group,
			APIVersion:        cmp.Or(resource.Version, "*"),
			Namespace:         resource.Namespace,
			Resource:          resource.Resource,
			Subresource:       resource.Subresource,
			Name:              resource.Name,
		}
		problems = readSelectors(info, resource)
	} else {
		info.Verb, info.Path = other.Verb, other.Path
	}
	verdict := a.Authorize(ctx, user, info)
	return authorizationv1.SubjectAccessReviewStatus{
		Allowed:         verdict.Allowed,
		Reason:          verdict.Reason(),
		EvaluationError: strings.Join(problems, "; "),
	}
}

// readSelectors takes over what it understands of a review's selectors. To leave a
// requirement out asks for more, so that the answer stays on the safe side.
func readSelectors(info *request.Info, in *authorizationv1.ResourceAttributes) (problems []string) {
	report := func(which string, some bool) {
		text := "ignored"
		if some {
			text = "partially ignored"
		}
		problems = append(problems, fmt.Sprintf("spec.resourceAttributes.%s %s due to parse error", which, text))
	}
	if in.FieldSelector != nil {
		var err error
		if info.Fields, err = readFields(in.FieldSelector); err != nil {
			report("fieldSelector", info.Fields != nil)
		}
	}
	if in.LabelSelector != nil {
		var err error
		if info.Labels, err = readLabels(in.LabelSelector); err != nil {
			report("labelSelector", info.Labels != nil)
		}
	}
	return problems
}

func readFields(in *authorizationv1.FieldSelectorAttributes) (fields.Selector, error) {
	if in.RawSelector != "" {
		return fields.ParseSelector(in.RawSelector)
	}
	var terms []fields.Selector
	var errs []error
	for _, r := range in.Requirements {
		switch {
		case len(r.Values) == 1 && r.Operator == metav1.FieldSelectorOpIn:
			terms = append(terms, fields.OneTermEqualSelector(r.Key, r.Values[0]))
		case len(r.Values) == 1 && r.Operator == metav1.FieldSelectorOpNotIn:
			terms = append(terms, fields.OneTermNotEqualSelector(r.Key, r.Values[0]))
		default:
			errs = append(errs, fmt.Errorf("%q with %d values is not a field selector", r.Operator, len(r.Values)))
		}
	}
	if len(terms) == 0 {
		return nil, errors.Join(errs...)
	}
	return fields.AndSelectors(terms...), errors.Join(errs...)
}

func readLabels(in *authorizationv1.LabelSelectorAttributes) (labels.Selector, error) {
	if in.RawSelector != "" {
		return labels.Parse(in.RawSelector)
	}
	operators := map[metav1.LabelSelectorOperator]selection.Operator{
		metav1.LabelSelectorOpIn:           selection.In,
		metav1.LabelSelectorOpNotIn:        selection.NotIn,
		metav1.LabelSelectorOpExists:       selection.Exists,
		metav1.LabelSelectorOpDoesNotExist: selection.DoesNotExist,
	}
	var terms []labels.Requirement
	var errs []error
	for _, r := range in.Requirements {
		term, err := labels.NewRequirement(r.Key, operators[r.Operator], r.Values)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		terms = append(terms, *term)
	}
	if len(terms) == 0 {
		return nil, errors.Join(errs...)
	}
	return labels.NewSelector().Add(terms...), errors.Join(errs...)
}

// rulesReview lists what a user may do in a namespace. Nodes have further rights, which
// can't be listed.
func (a *Authorizer) rulesReview(user *request.User, namespace string) authorizationv1.SubjectRulesReviewStatus {
	status := authorizationv1.SubjectRulesReviewStatus{
		ResourceRules:    []authorizationv1.ResourceRule{},
		NonResourceRules: []authorizationv1.NonResourceRule{},
	}
	rules, err := a.RBAC.Rules(user, namespace)
	if user.InGroup(request.Masters) { // who need no binding, though most clusters have it
		for _, all := range []rbacv1.PolicyRule{
			{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}}, {Verbs: []string{"*"}, NonResourceURLs: []string{"*"}},
		} {
			if !slices.ContainsFunc(rules, func(rule rbacv1.PolicyRule) bool { return equality.Semantic.DeepEqual(rule, all) }) {
				rules = append(rules, all)
			}
		}
	}
	for _, rule := range rules {
		if len(rule.Resources) > 0 {
			status.ResourceRules = append(status.ResourceRules, authorizationv1.ResourceRule{
				Verbs: rule.Verbs, APIGroups: rule.APIGroups, Resources: rule.Resources, ResourceNames: rule.ResourceNames})
		}
		if len(rule.NonResourceURLs) > 0 {
			status.NonResourceRules = append(status.NonResourceRules, authorizationv1.NonResourceRule{
				Verbs: rule.Verbs, NonResourceURLs: rule.NonResourceURLs})
		}
	}
	var problems []string
	if _, node := NodeName(user); node {
		status.Incomplete = true
		problems = append(problems, "node authorizer does not support user rule resolution")
	}
	if err != nil {
		problems = append(problems, err.Error())
	}
	status.EvaluationError = strings.Join(problems, ", ")
	return status
}

func validateSubject(spec *authorizationv1.SubjectAccessReviewSpec) field.ErrorList {
	if spec.User == "" && len(spec.Groups) == 0 {
		return field.ErrorList{field.Invalid(field.NewPath("spec", "user"), spec.User, "at least one of user or group must be specified")}
	}
	return nil
}

func validateAccess(resource *authorizationv1.ResourceAttributes, other *authorizationv1.NonResourceAttributes) field.ErrorList {
	spec := field.NewPath("spec")
	switch {
	case resource != nil && other != nil:
		return field.ErrorList{field.Invalid(spec.Child("nonResourceAttributes"), other, "cannot be specified in combination with resourceAttributes")}
	case resource == nil && other == nil:
		return field.ErrorList{field.Invalid(spec.Child("resourceAttributes"), other, "exactly one of nonResourceAttributes or resourceAttributes must be specified")}
	case resource == nil:
		return nil
	}
	var errs field.ErrorList
	path := spec.Child("resourceAttributes")
	if s := resource.FieldSelector; s != nil {
		path := path.Child("fieldSelector")
		errs = append(errs, validateEitherSelector(s.RawSelector, len(s.Requirements), path)...)
		for i, r := range s.Requirements {
			errs = append(errs, metav1validation.ValidateFieldSelectorRequirement(r,
				metav1validation.FieldSelectorValidationOptions{AllowUnknownOperatorInRequirement: true}, path.Child("requirements").Index(i))...)
		}
	}
	if s := resource.LabelSelector; s != nil {
		path := path.Child("labelSelector")
		errs = append(errs, validateEitherSelector(s.RawSelector, len(s.Requirements), path)...)
		for i, r := range s.Requirements {
			errs = append(errs, metav1validation.ValidateLabelSelectorRequirement(r,
				metav1validation.LabelSelectorValidationOptions{AllowUnknownOperatorInRequirement: true}, path.Child("requirements").Index(i))...)
		}
	}
	return errs
}

func validateEitherSelector(raw string, requirements int, path *field.Path) field.ErrorList {
	switch {
	case raw != "" && requirements > 0:
		return field.ErrorList{field.Invalid(path.Child("rawSelector"), raw, "may not specified at the same time as requirements")}
	case raw == "" && requirements == 0:
		return field.ErrorList{field.Required(path.Child("requirements"), fmt.Sprintf("when %s is specified, requirements or rawSelector is required", path))}
	}
	return nil
}

func validateLocal(q *authorizationv1.LocalSubjectAccessReview) field.ErrorList {
	errs := append(validateAccess(q.Spec.ResourceAttributes, q.Spec.NonResourceAttributes), validateSubject(&q.Spec)...)
	errs = append(errs, validateBareMeta(q, "must be empty except for namespace")...)
	if r := q.Spec.ResourceAttributes; r != nil && r.Namespace != q.Namespace {
		errs = append(errs, field.Invalid(field.NewPath("spec", "resourceAttributes", "namespace"), r.Namespace, "must match metadata.namespace"))
	}
	if q.Spec.NonResourceAttributes != nil {
		errs = append(errs, field.Invalid(field.NewPath("spec", "nonResourceAttributes"), q.Spec.NonResourceAttributes, "disallowed on this kind of request"))
	}
	return errs
}

// validateBareMeta demands metadata with nothing but a namespace and what the server
// itself put there.
func validateBareMeta(obj api.Object, detail string) field.ErrorList {
	metadata := metav1.ObjectMeta{
		Name: obj.GetName(), GenerateName: obj.GetGenerateName(), Labels: obj.GetLabels(), Annotations: obj.GetAnnotations(),
		Finalizers: obj.GetFinalizers(), OwnerReferences: obj.GetOwnerReferences(), ResourceVersion: obj.GetResourceVersion(),
	}
	if _, local := obj.(*authorizationv1.LocalSubjectAccessReview); !local {
		metadata.Namespace = obj.GetNamespace()
	}
	if equality.Semantic.DeepEqual(metadata, metav1.ObjectMeta{}) {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("metadata"), metadata, detail)}
}
