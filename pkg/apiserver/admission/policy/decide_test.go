package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/admission/match"
	"skiff/pkg/apiserver/lookup"
	"skiff/pkg/apiserver/request"
)

var maps = api.Define[corev1.ConfigMap, corev1.ConfigMapList](corev1.SchemeGroupVersion, "configmaps", api.Kind{Namespaced: true})

func catalogue(t testing.TB) *api.Catalogue {
	t.Helper()
	rows, err := api.NewCatalogue(maps, api.Define[corev1.Node, corev1.NodeList](corev1.SchemeGroupVersion, "nodes", api.Kind{}))
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// writing is the create of a config map in a namespace "ns".
func writing(t testing.TB, data map[string]string, annotate func(key, value string)) *match.Request {
	objects := lookup.NewFake(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns", Labels: map[string]string{"tier": "gold"}}})
	return match.NewRequest(&request.Attributes{
		Operation: request.Create, Kind: maps, Namespace: "ns", Name: "c", User: &request.User{Name: "alice"},
		Object: &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c"}, Data: data}, Annotate: annotate,
	}, catalogue(t).View(), objects)
}

// What a validating policy says about one config map, whose data is {a: x}.
func TestOutcomes(t *testing.T) {
	type spec = v1.ValidatingAdmissionPolicySpec
	rule := func(expression string) func(*spec) {
		return func(s *spec) { s.Validations = []v1.Validation{{Expression: expression}} }
	}
	long := "'" + strings.Repeat("0123456789", 600) + "'"
	for _, c := range []struct {
		name   string
		change func(*spec)
		want   string // rule:reason:message for failures, key=value for annotations, !error for those that are broken
		lax    string // the same with the failure policy Ignore
	}{
		{"fulfilled", rule("object.data.a == 'x'"), "", ""},
		{"not fulfilled", rule(" object.data.a == 'y' "), "0:Invalid:failed expression: object.data.a == 'y'", "0:Invalid:failed expression: object.data.a == 'y'"},
		{"no such field", rule("object.data.b == 'y'"), "0::expression 'object.data.b == 'y'' resulted in error: no such key: b", ""},
		{"doesn't compile", rule("object."), "0::compilation error: compilation failed: ERROR: <input>:1:8: Syntax error: no viable alternative at input '.'\n | object.\n | .......^", ""},
		{"namespace and request", rule("namespaceObject.metadata.labels.tier == 'gold' && request.userInfo.username == 'alice' && request.operation == 'CREATE' && oldObject == null"), "", ""},
		{"several", func(s *spec) {
			s.Validations = []v1.Validation{{Expression: "false", Message: " one "}, {Expression: "true"}, {Expression: "false", Message: "three", Reason: ptr.To(metav1.StatusReasonForbidden)}}
		}, "0:Invalid:one 2:Forbidden:three", "0:Invalid:one 2:Forbidden:three"},
		{"message", func(s *spec) {
			s.Validations = []v1.Validation{{Expression: "false", Message: "fixed", MessageExpression: "' a is ' + object.data.a"}}
		}, "0:Invalid:a is x", "0:Invalid:a is x"},
		{"message that fails", func(s *spec) {
			s.Validations = []v1.Validation{{Expression: "false", Message: "fixed", MessageExpression: "object.data.b"}}
		}, "0:Invalid:fixed", "0:Invalid:fixed"},
		{"message of two lines", func(s *spec) {
			s.Validations = []v1.Validation{{Expression: "false", Message: "fixed", MessageExpression: `"a\nb"`}}
		}, "0:Invalid:fixed", "0:Invalid:fixed"},
		{"long message", func(s *spec) { s.Validations = []v1.Validation{{Expression: "false", MessageExpression: long}} }, "0:Invalid:failed expression: false", "0:Invalid:failed expression: false"},
		{"match condition", func(s *spec) {
			rule("false")(s)
			s.MatchConditions = []v1.MatchCondition{{Name: "x", Expression: "object.data.a == 'y'"}, {Name: "fails", Expression: "object.data.b == 'y'"}}
		}, "", ""},
		{"match condition that fails", func(s *spec) {
			rule("false")(s)
			s.MatchConditions = []v1.MatchCondition{{Name: "fails", Expression: "object.data.b == 'y'"}}
		}, "0::expression 'object.data.b == 'y'' resulted in error: no such key: b", ""},
		{"variables", func(s *spec) {
			rule("variables.twice == 'xx' && size(variables.twice) == 2")(s)
			s.Variables = []v1.Variable{{Name: "a", Expression: "object.data.a"}, {Name: "twice", Expression: "variables.a + variables.a"}, {Name: "unused", Expression: "object.data.b"}}
		}, "", ""},
		{"variable that fails", func(s *spec) {
			rule("variables.b == 'x'")(s)
			s.Variables = []v1.Variable{{Name: "b", Expression: "object.data.b"}}
		}, "0::expression 'variables.b == 'x'' resulted in error: composited variable \"b\" fails to evaluate: no such key: b", ""},
		{"annotations", func(s *spec) {
			s.AuditAnnotations = []v1.AuditAnnotation{{Key: "a", ValueExpression: "' ' + object.data.a"}, {Key: "none", ValueExpression: "null"}, {Key: "empty", ValueExpression: "' '"}}
		}, "a=x", "a=x"},
		{"annotation that fails", func(s *spec) {
			s.AuditAnnotations = []v1.AuditAnnotation{{Key: "a", ValueExpression: "string(object.data.b)"}}
		},
			"!expression 'string(object.data.b)' resulted in error: no such key: b", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			for failures, want := range map[v1.FailurePolicyType]string{v1.Fail: c.want, v1.Ignore: c.lax} {
				p := &v1.ValidatingAdmissionPolicy{}
				p.Spec.FailurePolicy = &failures
				c.change(&p.Spec)
				compiled, err := compileValidating(p)
				if err != nil {
					t.Fatal(err)
				}
				r := writing(t, map[string]string{"a": "x"}, nil)
				namespace, err := r.NamespaceObject(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if got := text(compiled.validate(t.Context(), &subject{request: r, target: r.Own(), namespace: namespace})); got != want {
					t.Errorf("%s: %q, want %q", failures, got, want)
				}
			}
		})
	}
}

func text(o outcome) string {
	var parts []string
	for _, f := range o.failures {
		parts = append(parts, fmt.Sprintf("%d:%s:%s", f.rule, f.reason, f.message))
	}
	for _, n := range o.audit {
		parts = append(parts, n.key+"="+n.value)
	}
	for _, b := range o.broken {
		parts = append(parts, "!"+b)
	}
	return strings.Join(parts, " ")
}

// Each rule is cheap enough, but not all of them.
func TestTotalCost(t *testing.T) {
	p := &v1.ValidatingAdmissionPolicy{}
	for range 40 {
		expression := "!object.data.a.contains('" + strings.Repeat("y", 100) + "')" // half a million units, says the estimate
		p.Spec.Validations = append(p.Spec.Validations, v1.Validation{Expression: expression})
	}
	compiled, err := compileValidating(p)
	if err != nil {
		t.Fatal(err)
	}
	r := writing(t, map[string]string{"a": strings.Repeat("x", 500<<10)}, nil)
	want := "0::validation failed due to running out of cost budget, no further validation rules will be run"
	if got := text(compiled.validate(t.Context(), &subject{request: r, target: r.Own()})); got != want {
		t.Error(got)
	}
	p.Spec.Validations = p.Spec.Validations[:10]
	if compiled, err = compileValidating(p); err != nil {
		t.Fatal(err)
	}
	if got := text(compiled.validate(t.Context(), &subject{request: r, target: r.Own()})); got != "" {
		t.Errorf("ten of them: %s", got)
	}
}

// An annotation's value is cut.
func TestLongAnnotation(t *testing.T) {
	p := &v1.ValidatingAdmissionPolicy{Spec: v1.ValidatingAdmissionPolicySpec{AuditAnnotations: []v1.AuditAnnotation{{Key: "k", ValueExpression: "string(object.data.a)"}}}}
	compiled, err := compileValidating(p)
	if err != nil {
		t.Fatal(err)
	}
	r := writing(t, map[string]string{"a": strings.Repeat("x", 11<<10)}, nil)
	if got := compiled.validate(t.Context(), &subject{request: r, target: r.Own()}).audit; len(got) != 1 || len(got[0].value) != 10<<10 {
		t.Errorf("%d annotations", len(got))
	}
}

// What the audit log has of several policies, bindings and parameters.
func TestVerdictInTheAuditLog(t *testing.T) {
	var got []string
	r := writing(t, nil, func(key, value string) { got = append(got, key+": "+value) })
	hook, actions := &hook{name: "p", compiled: &compiled{}}, []v1.ValidationAction{"Audit", "Warn"}
	one, two := call{hook: hook, binding: &binding{name: "one", actions: actions}}, call{hook: hook, binding: &binding{name: "two"}}
	var v verdict
	v.judge(one, outcome{failures: []failure{{rule: 2, message: "no", reason: "Invalid"}}, audit: []note{{"k", "a"}}})
	v.judge(one, outcome{audit: []note{{"k", "a"}, {"l", "z"}}}) // another parameter
	v.judge(two, outcome{audit: []note{{"k", "b"}}})
	v.annotate(r)
	want := []string{"p/k: a, b", "p/l: z", `validation.policy.admission.k8s.io/validation_failure: [{"message":"no","policy":"p","binding":"one","expressionIndex":2,"validationActions":["Audit","Warn"]}]`}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if len(v.denials) != 0 || !slices.Equal(v.warnings, []string{"Validation failed for ValidatingAdmissionPolicy 'p' with binding 'one': no"}) {
		t.Errorf("%v %v", v.denials, v.warnings)
	}
}

func TestParameters(t *testing.T) {
	object := func(namespace, name, label string) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"l": label}}}
	}
	p := &Policies{config: Config{Catalogue: catalogue(t), Objects: lookup.NewFake(
		object("ns", "a", "x"), object("ns", "b", "y"), object("other", "a", "x"), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}})}}
	configMap, node := &v1.ParamKind{APIVersion: "v1", Kind: "ConfigMap"}, &v1.ParamKind{APIVersion: "v1", Kind: "Node"}
	deny := v1.DenyAction
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{"l": "x"}}
	for _, c := range []struct {
		name      string
		kind      *v1.ParamKind
		ref       *v1.ParamRef
		namespace string
		want      string // namespace/name, or the error
	}{
		{"no kind", nil, &v1.ParamRef{Name: "a"}, "ns", "nil"},
		{"no reference", configMap, nil, "ns", "nil"},
		{"by name", configMap, &v1.ParamRef{Name: "a"}, "ns", "ns/a"},
		{"by name elsewhere", configMap, &v1.ParamRef{Name: "a", Namespace: "other"}, "ns", "other/a"},
		{"by selector", configMap, &v1.ParamRef{Selector: selector}, "ns", "ns/a"},
		{"all", configMap, &v1.ParamRef{Selector: &metav1.LabelSelector{}}, "ns", "ns/a ns/b"},
		{"none", configMap, &v1.ParamRef{Name: "c"}, "ns", ""},
		{"none, which isn't allowed", configMap, &v1.ParamRef{Name: "c", ParameterNotFoundAction: &deny}, "ns", "no params found for policy binding with `Deny` parameterNotFoundAction"},
		{"of the cluster", node, &v1.ParamRef{Name: "n"}, "ns", "/n"},
		{"of the cluster in a namespace", node, &v1.ParamRef{Name: "n", Namespace: "ns"}, "ns", "paramRef.namespace must not be provided for a cluster-scoped `paramKind`"},
		{"for an object of the cluster", configMap, &v1.ParamRef{Name: "a"}, "", "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources"},
		{"unknown", &v1.ParamKind{APIVersion: "x/v1", Kind: "Y"}, &v1.ParamRef{Name: "a"}, "ns", "failed to find resource referenced by paramKind: 'x/v1, Kind=Y'"},
	} {
		found, err := p.parameters(t.Context(), c.kind, c.ref, c.namespace)
		var got []string
		for _, param := range found {
			if o, ok := param.(api.Object); ok {
				got = append(got, o.GetNamespace()+"/"+o.GetName())
				if gvk := o.GetObjectKind().GroupVersionKind(); gvk.Kind != c.kind.Kind {
					t.Errorf("%s: a parameter of kind %v", c.name, gvk)
				}
			} else {
				got = append(got, "nil")
			}
		}
		if err != nil {
			got = []string{err.Error()}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
