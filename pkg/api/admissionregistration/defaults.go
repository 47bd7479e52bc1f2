package admissionregistration

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/api"
)

// defaultTimeout (seconds) is how long a webhook may take.
const defaultTimeout = 10

func defaultValidatingWebhooks(obj api.Object) {
	c := obj.(*admissionregistrationv1.ValidatingWebhookConfiguration)
	for i := range c.Webhooks {
		h := &c.Webhooks[i]
		setIfNil(&h.FailurePolicy, admissionregistrationv1.Fail)
		setIfNil(&h.TimeoutSeconds, defaultTimeout)
		defaultMatch(&h.MatchPolicy, &h.NamespaceSelector, &h.ObjectSelector)
		defaultCall(&h.ClientConfig, h.Rules)
	}
}

func defaultMutatingWebhooks(obj api.Object) {
	c := obj.(*admissionregistrationv1.MutatingWebhookConfiguration)
	for i := range c.Webhooks {
		h := &c.Webhooks[i]
		setIfNil(&h.FailurePolicy, admissionregistrationv1.Fail)
		setIfNil(&h.TimeoutSeconds, defaultTimeout)
		setIfNil(&h.ReinvocationPolicy, admissionregistrationv1.NeverReinvocationPolicy)
		defaultMatch(&h.MatchPolicy, &h.NamespaceSelector, &h.ObjectSelector)
		defaultCall(&h.ClientConfig, h.Rules)
	}
}

func defaultCall(c *admissionregistrationv1.WebhookClientConfig, rules []admissionregistrationv1.RuleWithOperations) {
	if c.Service != nil {
		setIfNil(&c.Service.Port, 443)
	}
	for i := range rules {
		setIfNil(&rules[i].Scope, admissionregistrationv1.AllScopes)
	}
}

func defaultValidatingPolicy(obj api.Object) {
	s := &obj.(*admissionregistrationv1.ValidatingAdmissionPolicy).Spec
	setIfNil(&s.FailurePolicy, admissionregistrationv1.Fail)
	defaultMatchResources(s.MatchConstraints)
}

func defaultValidatingPolicyBinding(obj api.Object) {
	defaultMatchResources(obj.(*admissionregistrationv1.ValidatingAdmissionPolicyBinding).Spec.MatchResources)
}

func defaultMutatingPolicy(obj api.Object) {
	s := &obj.(*admissionregistrationv1.MutatingAdmissionPolicy).Spec
	setIfNil(&s.FailurePolicy, admissionregistrationv1.Fail)
	defaultMatchResources(s.MatchConstraints)
}

func defaultMutatingPolicyBinding(obj api.Object) {
	defaultMatchResources(obj.(*admissionregistrationv1.MutatingAdmissionPolicyBinding).Spec.MatchResources)
}

func defaultMatchResources(m *admissionregistrationv1.MatchResources) {
	if m == nil {
		return
	}
	defaultMatch(&m.MatchPolicy, &m.NamespaceSelector, &m.ObjectSelector)
	for i := range m.ResourceRules {
		setIfNil(&m.ResourceRules[i].Scope, admissionregistrationv1.AllScopes)
	}
	for i := range m.ExcludeResourceRules {
		setIfNil(&m.ExcludeResourceRules[i].Scope, admissionregistrationv1.AllScopes)
	}
}

func defaultMatch(policy **admissionregistrationv1.MatchPolicyType, namespaces, objects **metav1.LabelSelector) {
	setIfNil(policy, admissionregistrationv1.Equivalent)
	setIfNil(namespaces, metav1.LabelSelector{})
	setIfNil(objects, metav1.LabelSelector{})
}

func setIfNil[T any](field **T, v T) {
	if *field == nil {
		*field = &v
	}
}
