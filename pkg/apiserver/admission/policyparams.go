package admission

import (
	"context"
	"fmt"

	v1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/lookup"
	"skiff/pkg/apiserver/request"
)

// policyParamsPlugin lets nobody read through the parameters of an admission policy what they may not read themselves.
// Kubernetes checks this in the registry of policies and bindings.
type policyParamsPlugin struct {
	objects    lookup.Reader
	authorizer Authorizer
	catalogue  *api.Catalogue
}

func (p *policyParamsPlugin) validate(ctx context.Context, attrs *request.Attributes) error {
	if attrs.Kind.Group != v1.GroupName || attrs.Subresource != "" || attrs.User == nil || attrs.User.InGroup(request.Masters) ||
		attrs.Operation != request.Create && attrs.Operation != request.Update {
		return nil
	}
	var err error
	at := "paramKind"
	if policy, ref := paramRef(attrs.Object); ref != nil {
		if before, old := paramRef(attrs.Old); before == policy && equality.Semantic.DeepEqual(old, ref) {
			return nil
		}
		at, err = "paramRef", p.mayRefer(ctx, attrs, policy, ref)
	} else if kind := paramKind(attrs.Object); kind != nil && !equality.Semantic.DeepEqual(kind, paramKind(attrs.Old)) {
		err = p.mayName(ctx, attrs, kind)
	}
	if err == nil {
		return nil
	}
	return apierrors.NewInvalid(attrs.Kind.GroupVersionKind.GroupKind(), attrs.Name, field.ErrorList{field.Forbidden(field.NewPath("spec", at), err.Error())})
}

// paramKind is the kind of a policy's parameters; nil for other objects.
func paramKind(obj runtime.Object) *v1.ParamKind {
	switch p := obj.(type) {
	case *v1.ValidatingAdmissionPolicy:
		return p.Spec.ParamKind
	case *v1.MutatingAdmissionPolicy:
		return p.Spec.ParamKind
	}
	return nil
}

// paramRef is what a binding refers to, and the policy that it binds.
func paramRef(obj runtime.Object) (string, *v1.ParamRef) {
	switch b := obj.(type) {
	case *v1.ValidatingAdmissionPolicyBinding:
		return b.Spec.PolicyName, b.Spec.ParamRef
	case *v1.MutatingAdmissionPolicyBinding:
		return b.Spec.PolicyName, b.Spec.ParamRef
	}
	return "", nil
}

// mayName asks for the right to read all objects of a kind.
func (p *policyParamsPlugin) mayName(ctx context.Context, attrs *request.Attributes, kind *v1.ParamKind) error {
	info, _ := p.asking("get", kind)
	info.Name, info.Namespace = "*", "*"
	if p.authorizer.Authorize(ctx, attrs.User, info).Allowed {
		return nil
	}
	return fmt.Errorf(`user %v must have "get" permission on all objects of the referenced paramKind (kind=%s, apiVersion=%s)`, attrs.User, kind.Kind, kind.APIVersion)
}

// mayRefer asks for the right to read what a binding refers to: anything at all, if the policy's kind can't be told.
func (p *policyParamsPlugin) mayRefer(ctx context.Context, attrs *request.Attributes, policy string, ref *v1.ParamRef) error {
	verb := "get"
	if ref.Name == "" {
		verb = "list"
	}
	resource := v1.Resource("validatingadmissionpolicies")
	if attrs.Kind.Kind == "MutatingAdmissionPolicyBinding" {
		resource = v1.Resource("mutatingadmissionpolicies")
	}
	bound, missing := p.objects.Live(ctx, resource, "", policy)
	kind := paramKind(bound)
	info, unable := p.asking(verb, kind)
	info.Name, info.Namespace = ref.Name, ref.Namespace
	switch {
	case p.authorizer.Authorize(ctx, attrs.User, info).Allowed:
		return nil
	case missing != nil:
		return fmt.Errorf(`unable to get policy %s to determine minimum required permissions and user %v does not have "%v" permission for all groups, versions and resources`, policy, attrs.User, verb)
	case unable != "":
		return fmt.Errorf(`unable to %s paramKind %v to determine minimum required permissions and user %v does not have "%v" permission for all groups, versions and resources`, unable, kind, attrs.User, verb)
	}
	return fmt.Errorf(`user %v does not have "%v" permission on the object referenced by paramRef`, attrs.User, verb)
}

// asking is the question for a right to a kind's resource; to everything that the kind may be, as far as it can't be
// told: nil is any kind. unable is what can't be done about it.
func (p *policyParamsPlugin) asking(verb string, kind *v1.ParamKind) (info *request.Info, unable string) {
	info = &request.Info{IsResourceRequest: true, Verb: verb, APIGroup: "*", APIVersion: "*", Resource: "*"}
	if kind == nil {
		return info, ""
	}
	gv, err := schema.ParseGroupVersion(kind.APIVersion)
	if err != nil {
		return info, "parse"
	}
	info.APIGroup, info.APIVersion = gv.Group, gv.Version
	row := p.catalogue.View().ByKind(gv.WithKind(kind.Kind))
	if row == nil {
		return info, "resolve"
	}
	info.Resource = row.Resource
	return info, ""
}
