package policy

import (
	v1 "k8s.io/api/admissionregistration/v1"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/admission/match"
)

func readValidating(obj api.Object) *hook {
	p := obj.(*v1.ValidatingAdmissionPolicy)
	h := &hook{name: p.Name, params: p.Spec.ParamKind}
	var err error
	if h.compiled, err = compileValidating(p); err != nil {
		h.fail(err, p.Spec.FailurePolicy)
	}
	return h.matching(p.Spec.MatchConstraints)
}

func readMutating(obj api.Object) *hook {
	p := obj.(*v1.MutatingAdmissionPolicy)
	h := &hook{name: p.Name, params: p.Spec.ParamKind}
	var err error
	if h.compiled, err = compileMutating(p); err != nil {
		h.fail(err, p.Spec.FailurePolicy)
	}
	return h.matching(p.Spec.MatchConstraints)
}

func (h *hook) fail(err error, failures *v1.FailurePolicyType) {
	h.broken, h.compiled = err, &compiled{ignoresFailures: ignores(failures)}
}

func (h *hook) matching(m *v1.MatchResources) *hook {
	var err error
	if h.criteria, err = criteria(m); err != nil {
		h.broken = err
	}
	return h
}

func readValidatingBinding(obj api.Object) *binding {
	b := obj.(*v1.ValidatingAdmissionPolicyBinding)
	return newBinding(b.Name, b.Spec.PolicyName, b.Spec.MatchResources, b.Spec.ParamRef, b.Spec.ValidationActions)
}

func readMutatingBinding(obj api.Object) *binding {
	b := obj.(*v1.MutatingAdmissionPolicyBinding)
	return newBinding(b.Name, b.Spec.PolicyName, b.Spec.MatchResources, b.Spec.ParamRef, nil)
}

func newBinding(name, policy string, m *v1.MatchResources, params *v1.ParamRef, actions []v1.ValidationAction) *binding {
	b := &binding{name: name, policy: policy, params: params, actions: actions}
	b.criteria, b.broken = criteria(m)
	return b
}

// criteria are never nil: with selectors that can't be read, which validation keeps out, they are those of the rules alone.
func criteria(m *v1.MatchResources) (*match.Criteria, error) {
	c, err := match.Compile(m)
	if err != nil {
		rules := *m
		rules.NamespaceSelector, rules.ObjectSelector = nil, nil
		c, _ = match.Compile(&rules)
	}
	return c, err
}
