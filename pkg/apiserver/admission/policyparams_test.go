package admission

import (
	"testing"

	v1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/lookup"
	"skiff/pkg/apiserver/request"
)

func TestPolicyParameters(t *testing.T) {
	catalogue, err := api.NewCatalogue(api.Define[corev1.ConfigMap, corev1.ConfigMapList](corev1.SchemeGroupVersion, "configmaps", api.Kind{Namespaced: true}))
	if err != nil {
		t.Fatal(err)
	}
	policy := func(name, kind string) *v1.MutatingAdmissionPolicy {
		return &v1.MutatingAdmissionPolicy{ObjectMeta: meta("", name), Spec: v1.MutatingAdmissionPolicySpec{ParamKind: &v1.ParamKind{APIVersion: "v1", Kind: kind}}}
	}
	binding := func(policy, name string) *v1.MutatingAdmissionPolicyBinding {
		ref := &v1.ParamRef{Name: name, Namespace: "ns"}
		if name == "" {
			ref.Selector = &metav1.LabelSelector{}
		}
		return &v1.MutatingAdmissionPolicyBinding{ObjectMeta: meta("", "b"), Spec: v1.MutatingAdmissionPolicyBindingSpec{PolicyName: policy, ParamRef: ref}}
	}
	objects := lookup.NewFake(policy("known", "ConfigMap"), policy("unknown", "Boat"))
	for _, c := range []struct {
		name   string
		obj    runtime.Object
		old    runtime.Object
		rights rights
		want   string
	}{
		{"a kind", policy("p", "ConfigMap"), nil, rights{"get configmaps=x"}, `spec.paramKind: Forbidden: user &{alice  [] map[]} must have "get" permission on all objects of the referenced paramKind (kind=ConfigMap, apiVersion=v1)`},
		{"a kind that may be read", policy("p", "ConfigMap"), nil, rights{"get configmaps=*"}, ""},
		{"a kind that isn't served", policy("p", "Boat"), nil, rights{"get configmaps=*"}, "(kind=Boat, apiVersion=v1)"},
		{"a kind that isn't served, with all rights", policy("p", "Boat"), nil, rights{"get *=*"}, ""},
		{"the kind that it had", policy("p", "ConfigMap"), policy("p", "ConfigMap"), nil, ""},
		{"another kind", policy("p", "ConfigMap"), policy("p", "Boat"), nil, "spec.paramKind: Forbidden"},
		{"a reference", binding("known", "x"), nil, nil, `spec.paramRef: Forbidden: user &{alice  [] map[]} does not have "get" permission on the object referenced by paramRef`},
		{"a reference that may be read", binding("known", "x"), nil, rights{"get configmaps=x"}, ""},
		{"a selector", binding("known", ""), nil, rights{"get configmaps="}, `does not have "list" permission`},
		{"a selector that may be listed", binding("known", ""), nil, rights{"list configmaps="}, ""},
		{"no policy", binding("missing", "x"), nil, rights{"get configmaps=x"}, `unable to get policy missing to determine minimum required permissions and user &{alice  [] map[]} does not have "get" permission for all groups`},
		{"no such kind", binding("unknown", "x"), nil, rights{"get configmaps=x"}, `unable to resolve paramKind &ParamKind{APIVersion:v1,Kind:Boat,} to determine`},
		{"the reference that it had", binding("known", "x"), binding("known", "x"), nil, ""},
		{"another policy", binding("known", "x"), binding("unknown", "x"), nil, "spec.paramRef: Forbidden"},
	} {
		p := &policyParamsPlugin{objects, c.rights, catalogue}
		check(t, c.name, p.validate(t.Context(), write(c.obj, c.old)), c.want)
		administrator := write(c.obj, c.old)
		administrator.User = &request.User{Groups: []string{request.Masters}}
		check(t, c.name+", by an administrator", p.validate(t.Context(), administrator), "")
	}
}
