package admissionregistration

import (
	"strings"
	"testing"

	v1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/utils/ptr"

	"skiff/pkg/api"
)

func hook(name string) v1.MutatingWebhook {
	return v1.MutatingWebhook{
		Name: name, ClientConfig: v1.WebhookClientConfig{URL: ptr.To("https://hooks.example/mutate")},
		SideEffects: ptr.To(v1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"},
		Rules: []v1.RuleWithOperations{{Operations: []v1.OperationType{"CREATE"}, Rule: v1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}}}},
	}
}

func texts[E error](errs []E) string {
	var all []string
	for _, e := range errs {
		all = append(all, e.Error())
	}
	return strings.Join(all, "\n")
}

func TestValidateWebhooks(t *testing.T) {
	const name = "a.hooks.example"
	for _, c := range []struct {
		what   string
		change func(*v1.MutatingWebhook)
		want   string // what is wrong on create, without the path before webhooks[0]
		kept   bool   // an update may leave it as it is
	}{
		{"good", func(*v1.MutatingWebhook) {}, "", true},
		{"short name", func(h *v1.MutatingWebhook) { h.Name = "hooks.example" }, `name: Invalid value: "hooks.example": should be a domain with at least three segments separated by dots`, false},
		{"no name", func(h *v1.MutatingWebhook) { h.Name = "" }, `name: Required value`, false},
		{"no side effects", func(h *v1.MutatingWebhook) { h.SideEffects = nil }, "sideEffects: Required value: must specify one of None, NoneOnDryRun", false},
		{"side effects", func(h *v1.MutatingWebhook) { h.SideEffects = ptr.To(v1.SideEffectClassSome) }, `sideEffects: Unsupported value: "Some": supported values: "None", "NoneOnDryRun"`, true},
		{"long", func(h *v1.MutatingWebhook) { h.TimeoutSeconds = ptr.To[int32](31) }, "timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds", false},
		{"failure policy", func(h *v1.MutatingWebhook) { h.FailurePolicy = ptr.To[v1.FailurePolicyType]("No") }, `failurePolicy: Unsupported value: "No": supported values: "Fail", "Ignore"`, false},
		{"match policy", func(h *v1.MutatingWebhook) { h.MatchPolicy = ptr.To[v1.MatchPolicyType]("No") }, `matchPolicy: Unsupported value: "No": supported values: "Equivalent", "Exact"`, false},
		{"reinvocation", func(h *v1.MutatingWebhook) { h.ReinvocationPolicy = ptr.To[v1.ReinvocationPolicyType]("No") }, `reinvocationPolicy: Unsupported value: "No": supported values: "IfNeeded", "Never"`, false},
		{"no client", func(h *v1.MutatingWebhook) { h.ClientConfig.URL = nil }, "clientConfig: Required value: exactly one of url or service is required", false},
		{"http", func(h *v1.MutatingWebhook) { h.ClientConfig.URL = ptr.To("http://hooks.example") }, `clientConfig.url: Invalid value: "http": 'https' is the only allowed URL scheme; desired format: https://host[/path]`, false},
		{"service", func(h *v1.MutatingWebhook) {
			h.ClientConfig = v1.WebhookClientConfig{Service: &v1.ServiceReference{Name: "s", Path: ptr.To("x")}}
		}, "clientConfig.service.namespace: Required value\nwebhooks[0].clientConfig.service.path: Invalid value: \"x\": must start with a '/'", false},
		{"no versions", func(h *v1.MutatingWebhook) { h.AdmissionReviewVersions = nil }, "admissionReviewVersions: Required value: must specify one of v1, v1beta1", false},
		{"unknown versions", func(h *v1.MutatingWebhook) { h.AdmissionReviewVersions = []string{"v2"} }, `admissionReviewVersions: Invalid value: ["v2"]: must include at least one of v1, v1beta1`, true},
		{"version twice", func(h *v1.MutatingWebhook) { h.AdmissionReviewVersions = []string{"v1", "v1"} }, `admissionReviewVersions[1]: Invalid value: "v1": duplicate version`, false},
		{"no operations", func(h *v1.MutatingWebhook) { h.Rules[0].Operations = nil }, "rules[0].operations: Required value", false},
		{"all and one", func(h *v1.MutatingWebhook) { h.Rules[0].Operations = []v1.OperationType{"*", "CREATE"} }, `rules[0].operations: Invalid value: ["*","CREATE"]: if '*' is present, must not specify other operations`, false},
		{"operation", func(h *v1.MutatingWebhook) { h.Rules[0].Operations = []v1.OperationType{"READ"} }, `rules[0].operations[0]: Unsupported value: "READ": supported values: "*", "CONNECT", "CREATE", "DELETE", "UPDATE"`, false},
		{"groups", func(h *v1.MutatingWebhook) { h.Rules[0].APIGroups = []string{"", "*"} }, `rules[0].apiGroups: Invalid value: ["","*"]: if '*' is present, must not specify other API groups`, false},
		{"empty version", func(h *v1.MutatingWebhook) { h.Rules[0].APIVersions = []string{""} }, "rules[0].apiVersions[0]: Required value", false},
		{"resources", func(h *v1.MutatingWebhook) { h.Rules[0].Resources = []string{"*/*", "pods"} }, `rules[0].resources: Invalid value: ["*/*","pods"]: if '*/*' is present, must not specify other resources`, false},
		{"all resources and one", func(h *v1.MutatingWebhook) { h.Rules[0].Resources = []string{"*", "pods"} }, `rules[0].resources: Invalid value: ["*","pods"]: if '*' is present, must not specify other resources without subresources`, false},
		{"a subresource twice", func(h *v1.MutatingWebhook) { h.Rules[0].Resources = []string{"pods/*", "pods/exec"} }, `rules[0].resources[1]: Invalid value: "pods/exec": if 'pods/*' is present, must not specify pods/exec`, false},
		{"scope", func(h *v1.MutatingWebhook) { h.Rules[0].Scope = ptr.To[v1.ScopeType]("No") }, `rules[0].scope: Unsupported value: "No": supported values: "*", "Cluster", "Namespaced"`, false},
		{"condition", func(h *v1.MutatingWebhook) {
			h.MatchConditions = []v1.MatchCondition{{Name: "c", Expression: "... [}"}}
		}, `matchConditions[0].expression: Invalid value: "... [}": compilation failed: ERROR: <input>:1:2: Syntax error`, true},
		{"condition of another type", func(h *v1.MutatingWebhook) {
			h.MatchConditions = []v1.MatchCondition{{Name: "c", Expression: "1 + 1"}}
		}, `matchConditions[0].expression: Invalid value: "1 + 1": must evaluate to bool but got int`, true},
		{"condition with parameters", func(h *v1.MutatingWebhook) {
			h.MatchConditions = []v1.MatchCondition{{Name: "c", Expression: "params.x"}}
		}, `matchConditions[0].expression: Invalid value: "params.x": compilation failed: ERROR: <input>:1:1: undeclared reference to 'params'`, true},
		{"conditions of one name", func(h *v1.MutatingWebhook) {
			h.MatchConditions = []v1.MatchCondition{{Name: "c", Expression: "true"}, {Name: "c", Expression: "true"}}
		}, `matchConditions[1].name: Duplicate value: "c"`, true},
	} {
		h := hook(name)
		c.change(&h)
		configuration := &v1.MutatingWebhookConfiguration{Webhooks: []v1.MutatingWebhook{h}}
		got := texts(validateWebhooks(configuration))
		if want := c.want; want != "" && !strings.HasPrefix(got, "webhooks[0]."+want) || want == "" && got != "" {
			t.Errorf("%s: %q, want %q", c.what, got, want)
		}
		if got := texts(validateWebhooksUpdate(configuration, configuration)); (got == "") != c.kept {
			t.Errorf("%s, updated: %q", c.what, got)
		}
	}
	twice := &v1.MutatingWebhookConfiguration{Webhooks: []v1.MutatingWebhook{hook(name), hook(name)}}
	if got := texts(validateWebhooks(twice)); got != `webhooks[1].name: Duplicate value: "a.hooks.example"` {
		t.Error(got)
	}
	if got := texts(validateWebhooksUpdate(twice, twice)); got != "" {
		t.Error(got)
	}
}

// The two kinds are judged alike.
func TestWebhooksOfBothKinds(t *testing.T) {
	h := hook("x")
	validating := &v1.ValidatingWebhookConfiguration{Webhooks: []v1.ValidatingWebhook{{
		Name: h.Name, ClientConfig: h.ClientConfig, Rules: h.Rules, SideEffects: h.SideEffects, AdmissionReviewVersions: []string{"v3"},
		MatchConditions: []v1.MatchCondition{{Name: "c", Expression: "1"}}, TimeoutSeconds: ptr.To[int32](0), FailurePolicy: ptr.To[v1.FailurePolicyType]("?"),
		MatchPolicy: ptr.To[v1.MatchPolicyType]("?"),
	}}}
	var of api.Object = validating
	if got := validateWebhooks(of); len(got) != 6 {
		t.Errorf("%d errors: %s", len(got), texts(got))
	}
}
