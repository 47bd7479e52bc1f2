package admissionregistration

import (
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/utils/ptr"

	"skiff/pkg/api"
	"skiff/pkg/api/check"
)

// Webhooks are the webhooks of a configuration of either kind, in the form that has the fields of both. They
// share memory with obj.
func Webhooks(obj api.Object) []admissionregistrationv1.MutatingWebhook {
	validating, ok := obj.(*admissionregistrationv1.ValidatingWebhookConfiguration)
	if !ok {
		return obj.(*admissionregistrationv1.MutatingWebhookConfiguration).Webhooks
	}
	hooks := make([]admissionregistrationv1.MutatingWebhook, len(validating.Webhooks))
	for i, h := range validating.Webhooks {
		hooks[i] = admissionregistrationv1.MutatingWebhook{
			Name: h.Name, ClientConfig: h.ClientConfig, Rules: h.Rules, FailurePolicy: h.FailurePolicy, MatchPolicy: h.MatchPolicy,
			NamespaceSelector: h.NamespaceSelector, ObjectSelector: h.ObjectSelector, SideEffects: h.SideEffects,
			TimeoutSeconds: h.TimeoutSeconds, AdmissionReviewVersions: h.AdmissionReviewVersions, MatchConditions: h.MatchConditions,
		}
	}
	return hooks
}

// ReviewVersions are those of AdmissionReview that Skiff speaks.
var ReviewVersions = []string{"v1", "v1beta1"}

var (
	sideEffects = []admissionregistrationv1.SideEffectClass{
		admissionregistrationv1.SideEffectClassNone, admissionregistrationv1.SideEffectClassNoneOnDryRun,
	}
	oldSideEffects = append(slices.Clone(sideEffects), admissionregistrationv1.SideEffectClassSome, admissionregistrationv1.SideEffectClassUnknown)
)

// leniency is what an update may leave as it is, because the object had it before there was a rule.
type leniency struct {
	sideEffects, versions, names, selectors bool
	conditions                              bool            // they are what they were
	known                                   map[string]bool // expressions that were there before
}

func validateWebhooks(obj api.Object) field.ErrorList {
	return checkWebhooks(Webhooks(obj), leniency{})
}

func validateWebhooksUpdate(obj, old api.Object) field.ErrorList {
	now, before := Webhooks(obj), Webhooks(old)
	l := leniency{
		conditions: slices.EqualFunc(now, before, func(a, b admissionregistrationv1.MutatingWebhook) bool {
			return equality.Semantic.DeepEqual(a.MatchConditions, b.MatchConditions)
		}),
		known: map[string]bool{},
	}
	names := map[string]bool{}
	for i := range before {
		h := &before[i]
		l.sideEffects = l.sideEffects || h.SideEffects == nil || !slices.Contains(sideEffects, *h.SideEffects)
		l.versions = l.versions || len(h.AdmissionReviewVersions) > 0 && !slices.ContainsFunc(h.AdmissionReviewVersions, spoken)
		l.names = l.names || names[h.Name]
		l.selectors = l.selectors || len(check.Selector(nil, h.NamespaceSelector, false)) > 0 || len(check.Selector(nil, h.ObjectSelector, false)) > 0
		names[h.Name] = true
		for _, c := range h.MatchConditions {
			l.known[c.Expression] = true
		}
	}
	return checkWebhooks(now, l)
}

func spoken(version string) bool { return slices.Contains(ReviewVersions, version) }

func checkWebhooks(hooks []admissionregistrationv1.MutatingWebhook, l leniency) field.ErrorList {
	var errs field.ErrorList
	names := map[string]bool{}
	for i := range hooks {
		at := field.NewPath("webhooks").Index(i)
		errs = append(errs, checkWebhook(at, &hooks[i], l)...)
		errs = append(errs, checkReviewVersions(at.Child("admissionReviewVersions"), hooks[i].AdmissionReviewVersions, l)...)
		if name := hooks[i].Name; name != "" && names[name] && !l.names {
			errs = append(errs, field.Duplicate(at.Child("name"), name))
		}
		names[hooks[i].Name] = true
	}
	return errs
}

func checkWebhook(at *field.Path, h *admissionregistrationv1.MutatingWebhook, l leniency) field.ErrorList {
	errs := utilvalidation.IsFullyQualifiedName(at.Child("name"), h.Name)
	for i := range h.Rules {
		errs = append(errs, checkRule(at.Child("rules").Index(i), &h.Rules[i])...)
	}
	errs = append(errs, optionalOneOf(at.Child("failurePolicy"), h.FailurePolicy, admissionregistrationv1.Fail, admissionregistrationv1.Ignore)...)
	errs = append(errs, optionalOneOf(at.Child("matchPolicy"), h.MatchPolicy, admissionregistrationv1.Equivalent, admissionregistrationv1.Exact)...)
	allowed := sideEffects
	if l.sideEffects {
		allowed = oldSideEffects
	}
	if h.SideEffects == nil {
		texts := make([]string, len(allowed))
		for i, s := range allowed {
			texts[i] = string(s)
		}
		errs = append(errs, field.Required(at.Child("sideEffects"), "must specify one of "+strings.Join(texts, ", ")))
	}
	errs = append(errs, optionalOneOf(at.Child("sideEffects"), h.SideEffects, allowed...)...)
	if t := h.TimeoutSeconds; t != nil && (*t < 1 || *t > 30) {
		errs = append(errs, field.Invalid(at.Child("timeoutSeconds"), *t, "the timeout value must be between 1 and 30 seconds"))
	}
	errs = append(errs, check.Selector(at.Child("namespaceSelector"), h.NamespaceSelector, l.selectors)...)
	errs = append(errs, check.Selector(at.Child("objectSelector"), h.ObjectSelector, l.selectors)...)
	errs = append(errs, optionalOneOf(at.Child("reinvocationPolicy"), h.ReinvocationPolicy,
		admissionregistrationv1.IfNeededReinvocationPolicy, admissionregistrationv1.NeverReinvocationPolicy)...)
	errs = append(errs, checkClient(at.Child("clientConfig"), &h.ClientConfig)...)
	if !l.conditions {
		errs = append(errs, checkConditions(at.Child("matchConditions"), h.MatchConditions, false, l.known)...)
	}
	return errs
}

func optionalOneOf[T ~string](at *field.Path, v *T, supported ...T) field.ErrorList {
	if v == nil {
		return nil
	}
	return check.OneOf(at, *v, supported...)
}

func checkClient(at *field.Path, c *admissionregistrationv1.WebhookClientConfig) field.ErrorList {
	switch {
	case (c.URL == nil) == (c.Service == nil):
		return field.ErrorList{field.Required(at, "exactly one of url or service is required")}
	case c.URL != nil:
		return webhook.ValidateWebhookURL(at.Child("url"), *c.URL, true)
	}
	s := c.Service
	return webhook.ValidateWebhookService(at.Child("service"), s.Namespace, s.Name, s.Path, ptr.Deref(s.Port, 443))
}

func checkReviewVersions(at *field.Path, versions []string, l leniency) field.ErrorList {
	if len(versions) == 0 {
		return field.ErrorList{field.Required(at, "must specify one of "+strings.Join(ReviewVersions, ", "))}
	}
	var errs field.ErrorList
	for i, v := range versions {
		if slices.Contains(versions[:i], v) {
			errs = append(errs, field.Invalid(at.Index(i), v, "duplicate version"))
			continue
		}
		errs = append(errs, check.Messages(at.Index(i), v, utilvalidation.IsDNS1035Label(v))...)
	}
	if !l.versions && !slices.ContainsFunc(versions, spoken) {
		errs = append(errs, field.Invalid(at, versions, "must include at least one of "+strings.Join(ReviewVersions, ", ")))
	}
	return errs
}
