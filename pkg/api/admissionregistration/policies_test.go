package admissionregistration

import (
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

func podRules(operations ...v1.OperationType) *v1.MatchResources {
	return &v1.MatchResources{ResourceRules: []v1.NamedRuleWithOperations{{RuleWithOperations: v1.RuleWithOperations{
		Operations: operations, Rule: v1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}}}}}}
}

func TestValidatingPolicies(t *testing.T) {
	type spec = v1.ValidatingAdmissionPolicySpec
	for _, c := range []struct {
		what   string
		change func(*spec)
		want   string // errors that begin so, by newline; empty: none
		kept   bool   // an update that leaves it so is taken
	}{
		{"nothing", func(*spec) {}, "", true},
		{"failure policy", func(s *spec) { s.FailurePolicy = ptr.To[v1.FailurePolicyType]("No") }, `spec.failurePolicy: Unsupported value: "No": supported values: "Fail", "Ignore"`, false},
		{"no constraints", func(s *spec) { s.MatchConstraints = nil }, "spec.matchConstraints: Required value", false},
		{"no rules", func(s *spec) { s.MatchConstraints.ResourceRules = nil }, "spec.matchConstraints.resourceRules: Required value", false},
		{"rules", func(s *spec) { s.MatchConstraints = podRules("READ") }, `spec.matchConstraints.resourceRules[0].operations[0]: Unsupported value: "READ": supported values: "*", "CONNECT", "CREATE", "DELETE", "UPDATE"`, false},
		{"names twice", func(s *spec) { s.MatchConstraints.ResourceRules[0].ResourceNames = []string{"a", "a/b", "a"} },
			"spec.matchConstraints.resourceRules[0].resourceNames[1]: Invalid value: \"a/b\": may not contain '/'\nspec.matchConstraints.resourceRules[0].resourceNames[2]: Duplicate value: \"a\"", false},
		{"selector", func(s *spec) {
			s.MatchConstraints.ObjectSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"a": "!"}}
		}, `spec.matchConstraints.objectSelector.matchLabels: Invalid value: "!": a valid label must be`, false},
		{"parameter kind", func(s *spec) { s.ParamKind = &v1.ParamKind{APIVersion: "a/b/c"} }, "spec.paramKind.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c\nspec.paramKind.kind: Required value", false},
		{"parameter version", func(s *spec) { s.ParamKind = &v1.ParamKind{APIVersion: "A/V1", Kind: "1x"} },
			"spec.paramKind.apiVersion: Invalid value: \"A\": a lowercase RFC 1123 subdomain\nspec.paramKind.apiVersion: Invalid value: \"V1\": a DNS-1035 label\nspec.paramKind.kind: Invalid value: \"1x\": may have mixed case, but should otherwise match: a DNS-1035 label", false},
		{"no rule", func(s *spec) { s.Validations = nil }, "spec.validations: Required value: validations or auditAnnotations must contain at least one item\nspec.auditAnnotations: Required value: validations", false},
		{"only annotations", func(s *spec) {
			s.Validations, s.AuditAnnotations = nil, []v1.AuditAnnotation{{Key: "k", ValueExpression: "'v'"}}
		}, "", true},
		{"no expression", func(s *spec) { s.Validations[0].Expression = " " }, "spec.validations[0].expression: Required value: expression is not specified", false},
		{"syntax", func(s *spec) { s.Validations[0].Expression = "object.x in [1, 2" }, "spec.validations[0].expression: Invalid value: \"object.x in [1, 2\": compilation failed: ERROR: <input>:1:18: Syntax error: ", false},
		{"type", func(s *spec) { s.Validations[0].Expression = "'x'" }, `spec.validations[0].expression: Invalid value: "'x'": must evaluate to bool but got string`, false},
		{"parameters without a kind", func(s *spec) { s.Validations[0].Expression = "params.x == 1" }, `spec.validations[0].expression: Invalid value: "params.x == 1": compilation failed: ERROR: <input>:1:1: undeclared reference to 'params'`, false},
		{"parameters", func(s *spec) {
			s.ParamKind = &v1.ParamKind{APIVersion: "v1", Kind: "ConfigMap"}
			s.Validations[0] = v1.Validation{Expression: "params.x == 1", MessageExpression: "string(params.x)"}
			s.MatchConditions = []v1.MatchCondition{{Name: "c", Expression: "params != null"}}
		}, "", true},
		{"variables", func(s *spec) {
			s.Variables = []v1.Variable{{Name: "a", Expression: "1"}, {Name: "b", Expression: "variables.a + 1"}}
			s.Validations[0].Expression = "variables.b > 1"
		}, "", true},
		{"variables of a type", func(s *spec) {
			s.Variables = []v1.Variable{{Name: "a", Expression: "1"}}
			s.Validations[0].Expression = "variables.a == 'x' || variables.c"
		}, "spec.validations[0].expression: Invalid value: \"variables.a == 'x' || variables.c\": compilation failed: ERROR: <input>:1:13: found no matching overload for '_==_' applied to '(int, string)'", false},
		{"variables that come later", func(s *spec) {
			s.Variables = []v1.Variable{{Name: "b", Expression: "variables.a"}, {Name: "a", Expression: "1"}}
		}, `spec.variables[0].expression: Invalid value: "variables.a": compilation failed: ERROR: <input>:1:10: undefined field 'a'`, false},
		{"names of variables", func(s *spec) {
			s.Variables = []v1.Variable{{Expression: "1"}, {Name: "a-b", Expression: "1"}, {Name: "in"}}
		}, "spec.variables[0].name: Required value: name is not specified\nspec.variables[1].name: Invalid value: \"a-b\": must be a valid CEL identifier\nspec.variables[2].name: Invalid value: \"in\": must be\nspec.variables[2].expression: Required value: expression is not specified", false},
		{"variables in a condition", func(s *spec) {
			s.Variables = []v1.Variable{{Name: "a", Expression: "true"}}
			s.MatchConditions = []v1.MatchCondition{{Name: "c", Expression: "variables.a"}}
		}, `spec.matchConditions[0].expression: Invalid value: "variables.a": compilation failed: ERROR: <input>:1:1: undeclared reference to 'variables'`, true},
		{"message", func(s *spec) { s.Validations[0].Message = "a\nb" }, "spec.validations[0].message: Invalid value: \"a\\nb\": must not contain line breaks", false},
		{"empty messages", func(s *spec) { s.Validations[0].Message, s.Validations[0].MessageExpression = " ", " " },
			"spec.validations[0].messageExpression: Invalid value: \" \": must be non-empty if specified\nspec.validations[0].message: Invalid value: \" \": must be non-empty if specified", false},
		{"message of another type", func(s *spec) { s.Validations[0].MessageExpression = "1" }, `spec.validations[0].messageExpression: Invalid value: "1": must evaluate to string but got int`, false},
		{"message that asks", func(s *spec) {
			s.Validations[0].MessageExpression = "string(authorizer.path('/x').check('get').allowed())"
		}, `spec.validations[0].messageExpression: Invalid value: "string(authorizer.path('/x').check('get').allowed())": compilation failed: ERROR: <input>:1:8: undeclared reference to 'authorizer'`, false},
		{"reason", func(s *spec) { s.Validations[0].Reason = ptr.To[metav1.StatusReason]("Why") }, `spec.validations[0].reason: Unsupported value: "Why": supported values: "Forbidden", "Invalid", "RequestEntityTooLarge"`, false},
		{"annotations", func(s *spec) {
			s.AuditAnnotations = []v1.AuditAnnotation{{Key: "a/b", ValueExpression: "'x'"}, {Key: "k", ValueExpression: "1"}, {Key: "k", ValueExpression: strings.Repeat("x", 6000)}}
		}, "spec.auditAnnotations[0].key: Invalid value: \"p/a/b\": a valid label key must\nspec.auditAnnotations[1].valueExpression: Invalid value: \"1\": must evaluate to one of [string null_type] but got int\nspec.auditAnnotations[2].valueExpression: Required value: must not exceed 5120 bytes in length\nspec.auditAnnotations[2].key: Duplicate value: \"k\"", false},
	} {
		p := &v1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: spec{
			MatchConstraints: podRules("CREATE"), Validations: []v1.Validation{{Expression: "true"}}}}
		c.change(&p.Spec)
		defaultValidatingPolicy(p)
		begin(t, c.what, validateValidatingPolicy(p), c.want)
		if got := texts(validateValidatingPolicyUpdate(p, p)); (got == "") != c.kept {
			t.Errorf("%s, updated: %q", c.what, got)
		}
	}
}

// begin compares errors with how they are to begin, one a line.
func begin(t *testing.T, what string, got field.ErrorList, want string) {
	t.Helper()
	var beginnings []string
	if want != "" {
		beginnings = strings.Split(want, "\n")
	}
	if !slices.EqualFunc(got, beginnings, func(e *field.Error, beginning string) bool { return strings.HasPrefix(e.Error(), beginning) }) {
		t.Errorf("%s: %q, want %q", what, texts(got), want)
	}
}

func TestMutatingPolicies(t *testing.T) {
	type spec = v1.MutatingAdmissionPolicySpec
	apply := func(text string) *v1.ApplyConfiguration { return &v1.ApplyConfiguration{Expression: text} }
	patch := func(text string) *v1.JSONPatch { return &v1.JSONPatch{Expression: text} }
	for _, c := range []struct {
		what   string
		change func(*spec)
		want   string
	}{
		{"nothing", func(*spec) {}, ""},
		{"operation", func(s *spec) { s.MatchConstraints = podRules("DELETE") }, `spec.matchConstraints.resourceRules.operations: Unsupported value: "DELETE": supported values: "*", "CONNECT", "CREATE", "UPDATE"`},
		{"reinvocation", func(s *spec) { s.ReinvocationPolicy = "" }, "spec.reinvocationPolicy: Required value"},
		{"no mutation", func(s *spec) { s.Mutations = nil }, "spec.mutations: Required value: mutations must contain at least one item"},
		{"no type", func(s *spec) { s.Mutations[0].PatchType = "" }, "spec.mutations[0].patchType: Required value"},
		{"type", func(s *spec) { s.Mutations[0].PatchType = "Merge" }, `spec.mutations[0].patchType: Unsupported value: "Merge": supported values: "ApplyConfiguration", "JSONPatch"`},
		{"no patch", func(s *spec) { s.Mutations[0].JSONPatch = nil }, "spec.mutations[0].jsonPatch: Required value: must be specified when patchType is JSONPatch"},
		{"both", func(s *spec) { s.Mutations[0].ApplyConfiguration = apply("Object{}") }, `spec.mutations[0].applyConfiguration: Invalid value: "{applyConfiguration}": must not be specified when patchType is JSONPatch`},
		{"empty", func(s *spec) { s.Mutations[0].JSONPatch = patch(" ") }, "spec.mutations[0].jsonPatch.expression: Required value"},
		{"value", func(s *spec) { s.Mutations[0].JSONPatch = patch("[1]") }, `spec.mutations[0].jsonPatch.expression: Invalid value: "[1]": must evaluate to list(JSONPatch) but got list(int)`},
		{"variables", func(s *spec) {
			s.Variables = []v1.Variable{{Name: "a", Expression: "'x'"}}
			s.Mutations[0] = v1.Mutation{PatchType: "ApplyConfiguration", ApplyConfiguration: apply("Object{metadata: Object.metadata{name: variables.a}}")}
		}, ""},
		{"types", func(s *spec) {
			s.Mutations[0] = v1.Mutation{PatchType: "ApplyConfiguration", ApplyConfiguration: apply("Other{}")}
		}, `spec.mutations[0].applyConfiguration.expression: Invalid value: "Other{}": compilation failed: ERROR: <input>:1:6: undeclared reference to 'Other'`},
	} {
		p := &v1.MutatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: spec{MatchConstraints: podRules("CREATE"), ReinvocationPolicy: "Never",
			Mutations: []v1.Mutation{{PatchType: "JSONPatch", JSONPatch: patch(`[JSONPatch{op: "remove", path: "/x"}]`)}}}}
		c.change(&p.Spec)
		defaultMutatingPolicy(p)
		begin(t, c.what, validateMutatingPolicy(p), c.want)
	}
}

func TestPolicyBindings(t *testing.T) {
	type spec = v1.ValidatingAdmissionPolicyBindingSpec
	for _, c := range []struct {
		what   string
		change func(*spec)
		want   string
	}{
		{"nothing", func(*spec) {}, ""},
		{"no policy", func(s *spec) { s.PolicyName = "" }, "spec.policyName: Required value"},
		{"policy", func(s *spec) { s.PolicyName = "A" }, `spec.policyName: Invalid value: "A": a lowercase RFC 1123 subdomain`},
		{"no action", func(s *spec) { s.ValidationActions = nil }, "spec.validationActions: Required value: at least one validation action is required"},
		{"actions", func(s *spec) { s.ValidationActions = []v1.ValidationAction{"Audit", "Shout", "Audit"} },
			"spec.validationActions[1]: Unsupported value: \"Shout\": supported values: \"Audit\", \"Deny\", \"Warn\"\nspec.validationActions[2]: Duplicate value: \"Audit\""},
		{"deny and warn", func(s *spec) { s.ValidationActions = []v1.ValidationAction{"Deny", "Warn"} }, `spec.validationActions: Invalid value: ["Deny","Warn"]: must not contain both Deny and Warn (repeating the same`},
		{"no parameter", func(s *spec) { s.ParamRef = &v1.ParamRef{} }, "spec.paramRef: Required value: one of name or selector must be specified\nspec.paramRef.parameterNotFoundAction: Required value"},
		{"parameter twice", func(s *spec) {
			s.ParamRef = &v1.ParamRef{Name: "a/b", Selector: &metav1.LabelSelector{}, ParameterNotFoundAction: ptr.To[v1.ParameterNotFoundActionType]("Shrug")}
		}, "spec.paramRef.name: Invalid value: \"a/b\": may not contain '/'\nspec.paramRef.name: Forbidden: name and selector are mutually exclusive\nspec.paramRef.selector: Forbidden: name and selector are mutually exclusive\nspec.paramRef.parameterNotFoundAction: Unsupported value: \"Shrug\": supported values: \"Deny\", \"Allow\""},
		{"resources", func(s *spec) { s.MatchResources = podRules("READ") }, `spec.matchResources.resourceRules[0].operations[0]: Unsupported value: "READ"`},
	} {
		b := &v1.ValidatingAdmissionPolicyBinding{Spec: spec{PolicyName: "p", ValidationActions: []v1.ValidationAction{"Deny"}}}
		c.change(&b.Spec)
		defaultValidatingPolicyBinding(b)
		begin(t, c.what, validateValidatingPolicyBinding(b), c.want)
	}
	m := &v1.MutatingAdmissionPolicyBinding{Spec: v1.MutatingAdmissionPolicyBindingSpec{PolicyName: "p", MatchResources: podRules("DELETE")}}
	begin(t, "mutating", validateMutatingPolicyBinding(m), `spec.matchResources.resourceRules.operations: Unsupported value: "DELETE"`)
}

func TestPolicyStatus(t *testing.T) {
	p := &v1.ValidatingAdmissionPolicy{Status: v1.ValidatingAdmissionPolicyStatus{TypeChecking: &v1.TypeChecking{ExpressionWarnings: []v1.ExpressionWarning{
		{FieldRef: "spec.validations[0].expression", Warning: "w"}, {}, {FieldRef: "{", Warning: "w"}}}}}
	begin(t, "status", validatePolicyStatus(p, p), "status.typeChecking.expressionWarnings[1].warning: Required value\nstatus.typeChecking.expressionWarnings[1].fieldRef: Required value\nstatus.typeChecking.expressionWarnings[2].fieldRef: Invalid value: \"{\": invalid JSONPath: ")
}

func TestReservedNames(t *testing.T) {
	p := &v1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "a.static.k8s.io"}}
	if got := reservedName(p, nil); len(got) != 1 || !strings.HasPrefix(got[0], `metadata.name: names ending with ".static.k8s.io" are reserved`) {
		t.Error(got)
	}
	if p.Name = "static.k8s.io"; len(reservedName(p, nil)) != 0 {
		t.Error("a name that only looks like one")
	}
}
