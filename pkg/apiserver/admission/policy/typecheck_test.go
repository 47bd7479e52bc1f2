package policy

import (
	"errors"
	"strings"
	"testing"

	v1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

func TestTypeChecker(t *testing.T) {
	data := spec.MapProperty(spec.StringProperty())
	checker := &TypeChecker{Catalogue: catalogue(t), Schema: func(gvk schema.GroupVersionKind) (*spec.Schema, error) {
		s := (&spec.Schema{}).Typed("object", "")
		switch gvk.Kind {
		case "ConfigMap":
			return s.SetProperty("data", *data), nil
		case "Node":
			return s.SetProperty("podCIDR", *spec.StringProperty()), nil
		}
		return nil, errors.New("unknown")
	}}
	rules := func(resources ...string) *v1.MatchResources {
		return &v1.MatchResources{ResourceRules: []v1.NamedRuleWithOperations{{RuleWithOperations: v1.RuleWithOperations{
			Rule: v1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: resources}}}}}
	}
	wild := rules("configmaps")
	wild.ResourceRules[0].APIVersions = []string{"*"}
	for _, c := range []struct {
		name       string
		matches    *v1.MatchResources
		expression string
		want       string // the beginnings of warnings, by |
	}{
		{"right", rules("configmaps"), "object.data.a == 'x' && size(oldObject.data) == 1", ""},
		{"no such field", rules("configmaps"), "object.spec == 'x'", "/v1, Kind=ConfigMap: ERROR: <input>:1:7: undefined field 'spec'\n"},
		{"type", rules("configmaps"), "object.data.a == 1", "/v1, Kind=ConfigMap: ERROR: <input>:1:15: found no matching overload for '_==_' applied to '(string, int)'\n"},
		{"of one kind only", rules("nodes", "configmaps"), "object.podCIDR == 'x'", "/v1, Kind=ConfigMap: ERROR: <input>:1:7: undefined field 'podCIDR'\n"},
		{"of two kinds", rules("nodes", "configmaps"), "object.x == 1", "/v1, Kind=ConfigMap: ERROR: <input>:1:7: undefined field 'x'\n|\n/v1, Kind=Node: ERROR: <input>:1:7: undefined field 'x'\n"},
		{"parameters of another type", rules("configmaps"), "params.podCIDR == 1", "/v1, Kind=ConfigMap: ERROR: <input>:1:16: found no matching overload for '_==_' applied to '(string, int)'\n"},
		{"variables", rules("configmaps"), "variables.a.b == 1", "/v1, Kind=ConfigMap: ERROR: <input>:1:15: found no matching overload for '_==_' applied to '(string, int)'\n"},
		{"rights", rules("configmaps"), "authorizer.requestResource.check('get').allowed() && request.name == namespaceObject.metadata.name", ""},
		{"all versions", wild, "object.spec == 'x'", ""},
		{"subresources", rules("configmaps/*", "*"), "object.spec == 'x'", ""},
		{"unknown", rules("boats"), "object.spec == 'x'", ""},
		{"no constraints", nil, "object.spec == 'x'", ""},
	} {
		p := &v1.ValidatingAdmissionPolicy{Spec: v1.ValidatingAdmissionPolicySpec{
			MatchConstraints: c.matches, Validations: []v1.Validation{{Expression: "true", MessageExpression: c.expression}},
			ParamKind: &v1.ParamKind{APIVersion: "v1", Kind: "Node"}, Variables: []v1.Variable{{Name: "a", Expression: "object.data"}},
		}}
		got := checker.Check(p)
		if c.want == "" {
			if len(got) != 0 {
				t.Errorf("%s: %q", c.name, got)
			}
			continue
		}
		if len(got) != 1 || got[0].FieldRef != "spec.validations[0].messageExpression" {
			t.Errorf("%s: %q", c.name, got)
			continue
		}
		for part := range strings.SplitSeq(c.want, "|") {
			if !strings.Contains(got[0].Warning, part) {
				t.Errorf("%s: %q lacks %q", c.name, got[0].Warning, part)
			}
		}
	}
}
