package admissionregistration

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"

	"skiff/pkg/api"
)

var webhookColumns = api.Columns("Name, Webhooks#, Age")

func validatingWebhookCells(obj api.Object) []any {
	c := obj.(*admissionregistrationv1.ValidatingWebhookConfiguration)
	return []any{c.Name, int64(len(c.Webhooks)), api.Age(c)}
}

func mutatingWebhookCells(obj api.Object) []any {
	c := obj.(*admissionregistrationv1.MutatingWebhookConfiguration)
	return []any{c.Name, int64(len(c.Webhooks)), api.Age(c)}
}

var validatingPolicyColumns = api.Columns("Name, Validations#, ParamKind, Age")

func validatingPolicyCells(obj api.Object) []any {
	p := obj.(*admissionregistrationv1.ValidatingAdmissionPolicy)
	return []any{p.Name, int64(len(p.Spec.Validations)), paramKind(p.Spec.ParamKind), api.Age(p)}
}

var mutatingPolicyColumns = api.Columns("Name, Mutations#, ParamKind, Age")

func mutatingPolicyCells(obj api.Object) []any {
	p := obj.(*admissionregistrationv1.MutatingAdmissionPolicy)
	return []any{p.Name, int64(len(p.Spec.Mutations)), paramKind(p.Spec.ParamKind), api.Age(p)}
}

var bindingColumns = api.Columns("Name, PolicyName, ParamRef, Age")

func validatingBindingCells(obj api.Object) []any {
	b := obj.(*admissionregistrationv1.ValidatingAdmissionPolicyBinding)
	return []any{b.Name, b.Spec.PolicyName, paramRef(b.Spec.ParamRef), api.Age(b)}
}

func mutatingBindingCells(obj api.Object) []any {
	b := obj.(*admissionregistrationv1.MutatingAdmissionPolicyBinding)
	return []any{b.Name, b.Spec.PolicyName, paramRef(b.Spec.ParamRef), api.Age(b)}
}

func paramKind(k *admissionregistrationv1.ParamKind) string {
	if k == nil {
		return "<unset>"
	}
	return k.APIVersion + "/" + k.Kind
}

// paramRef: whether a parameter without a namespace is cluster-scoped can't be told here.
func paramRef(r *admissionregistrationv1.ParamRef) string {
	switch {
	case r == nil:
		return "<unset>"
	case r.Name != "":
		return api.Or(r.Namespace, "*") + "/" + r.Name
	case r.Selector != nil:
		return r.Selector.String()
	}
	return "<unset>"
}
