package apiserver_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// policed is a server with admission, to which everybody is an administrator.
type policed struct {
	*custom
	client   kubernetes.Interface
	warnings *warnings
}

// warnings collects those that a client gets.
type warnings struct {
	mu   sync.Mutex
	text []string
}

func (w *warnings) HandleWarningHeader(_ int, _ string, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = append(w.text, text)
}

func (w *warnings) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := w.text
	w.text = nil
	return text
}

func startPoliced(t testing.TB) *policed {
	i := start(t, securedForAll(t))
	p := &policed{custom: withClients(t, i), warnings: &warnings{}}
	config := rest.CopyConfig(i.config)
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.WarningHandler = p.warnings
	p.client = kubernetes.NewForConfigOrDie(config)
	eventually(t, func(context.Context) (bool, error) {
		code, _, _ := raw(t, i, "GET", "/readyz", "", "")
		return code == http.StatusOK, nil
	})
	return p
}

// space makes a namespace that carries its own name as the label "space".
func (p *policed) space(t testing.TB, name string) string {
	t.Helper()
	_, err := p.client.CoreV1().Namespaces().Create(limited(t), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"space": name}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func in(space string) *admissionregistrationv1.MatchResources {
	return &admissionregistrationv1.MatchResources{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"space": space}}}
}

func about(group, resource string) *admissionregistrationv1.MatchResources {
	return &admissionregistrationv1.MatchResources{ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{
		RuleWithOperations: admissionregistrationv1.RuleWithOperations{
			Operations: []admissionregistrationv1.OperationType{"CREATE", "UPDATE"},
			Rule:       admissionregistrationv1.Rule{APIGroups: []string{group}, APIVersions: []string{"*"}, Resources: []string{resource}},
		},
	}}}
}

// validate makes a policy about config maps and binds it in a namespace.
func (p *policed) validate(t testing.TB, space string, policy admissionregistrationv1.ValidatingAdmissionPolicySpec, bind ...func(*admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec)) {
	t.Helper()
	if policy.MatchConstraints == nil {
		policy.MatchConstraints = about("", "configmaps")
	}
	binding := admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec{
		PolicyName: space, MatchResources: in(space), ValidationActions: []admissionregistrationv1.ValidationAction{"Deny"}}
	for _, b := range bind {
		b(&binding)
	}
	meta := metav1.ObjectMeta{Name: space}
	if _, err := p.client.AdmissionregistrationV1().ValidatingAdmissionPolicies().Create(limited(t),
		&admissionregistrationv1.ValidatingAdmissionPolicy{ObjectMeta: meta, Spec: policy}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.client.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings().Create(limited(t),
		&admissionregistrationv1.ValidatingAdmissionPolicyBinding{ObjectMeta: meta, Spec: binding}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// try makes a config map, of which nothing remains.
func (p *policed) try(space string, data map[string]string) error {
	_, err := p.client.CoreV1().ConfigMaps(space).Create(context.Background(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "c"}, Data: data}, metav1.CreateOptions{DryRun: []string{"All"}})
	return err
}

// refused waits until config maps with this data are refused, and returns how.
func (p *policed) refused(t testing.TB, space string, data map[string]string) *metav1.Status {
	t.Helper()
	var status *metav1.Status
	eventually(t, func(context.Context) (bool, error) {
		err := p.try(space, data)
		if err == nil {
			return false, nil
		}
		s, ok := err.(apierrors.APIStatus)
		if !ok {
			return false, err
		}
		answer := s.Status()
		status = &answer
		return true, nil
	})
	return status
}

func rules(expressions ...string) []admissionregistrationv1.Validation {
	var out []admissionregistrationv1.Validation
	for _, e := range expressions {
		out = append(out, admissionregistrationv1.Validation{Expression: e})
	}
	return out
}

func TestValidatingPolicies(t *testing.T) {
	t.Parallel()
	p := startPoliced(t)
	expect := func(t *testing.T, s *metav1.Status, code int32, reason metav1.StatusReason, message string) {
		t.Helper()
		if s.Code != code || s.Reason != reason || s.Message != message {
			t.Errorf("%d %s %q, want %d %s %q", s.Code, s.Reason, s.Message, code, reason, message)
		}
	}
	denied := func(name, message string) string {
		return fmt.Sprintf("configmaps \"c\" is forbidden: ValidatingAdmissionPolicy '%s' with binding '%s' denied request: %s", name, name, message)
	}

	t.Run("deny", func(t *testing.T) {
		space := p.space(t, "deny")
		p.validate(t, space, admissionregistrationv1.ValidatingAdmissionPolicySpec{Validations: rules("!has(object.data) || !('x' in object.data)")})
		expect(t, p.refused(t, space, map[string]string{"x": "1"}), 422, "Invalid", denied("deny", "failed expression: !has(object.data) || !('x' in object.data)"))
		if err := p.try(space, map[string]string{"y": "1"}); err != nil {
			t.Error(err)
		}
		if err := p.try(p.space(t, "elsewhere"), map[string]string{"x": "1"}); err != nil {
			t.Errorf("another namespace: %v", err)
		}
		// A policy that changes is another one from then on, without the binding being touched.
		policies := p.client.AdmissionregistrationV1().ValidatingAdmissionPolicies()
		policy, err := policies.Get(limited(t), "deny", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		policy.Spec.Validations = rules("!has(object.data) || !('y' in object.data)")
		if _, err := policies.Update(limited(t), policy, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		p.refused(t, space, map[string]string{"y": "1"})
		if err := p.try(space, map[string]string{"x": "1"}); err != nil {
			t.Error(err)
		}
		if err := policies.Delete(limited(t), "deny", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, func(context.Context) (bool, error) { return p.try(space, map[string]string{"y": "1"}) == nil, nil })
	})

	t.Run("messages, reasons and variables", func(t *testing.T) {
		space := p.space(t, "words")
		forbidden := metav1.StatusReasonForbidden
		p.validate(t, space, admissionregistrationv1.ValidatingAdmissionPolicySpec{
			Variables: []admissionregistrationv1.Variable{
				{Name: "keys", Expression: "has(object.data) ? object.data.map(k, k) : []"},
				{Name: "bad", Expression: "variables.keys.filter(k, k.startsWith('bad'))"},
				{Name: "unused", Expression: "object.nothing.here"}, // never evaluated
			},
			MatchConditions: []admissionregistrationv1.MatchCondition{{Name: "not-exempt", Expression: "!has(object.data) || !('exempt' in object.data)"}},
			Validations: []admissionregistrationv1.Validation{
				{Expression: "size(variables.bad) == 0", MessageExpression: "'bad keys in ' + namespaceObject.metadata.name + ': ' + variables.bad.join(' ')", Reason: &forbidden},
				{Expression: "!('two' in variables.keys)", Message: "no two"},
			},
		})
		expect(t, p.refused(t, space, map[string]string{"bad1": "", "good": ""}), 403, "Forbidden", denied("words", "bad keys in words: bad1"))
		expect(t, p.refused(t, space, map[string]string{"two": ""}), 422, "Invalid", denied("words", "no two"))
		if err := p.try(space, map[string]string{"two": "", "exempt": ""}); err != nil {
			t.Errorf("a match condition doesn't hold: %v", err)
		}
	})

	t.Run("warn", func(t *testing.T) {
		space := p.space(t, "warn")
		p.validate(t, space, admissionregistrationv1.ValidatingAdmissionPolicySpec{Validations: []admissionregistrationv1.Validation{{Expression: "false", Message: "think again"}}},
			func(b *admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec) {
				b.ValidationActions = []admissionregistrationv1.ValidationAction{"Warn", "Audit"}
			})
		eventually(t, func(context.Context) (bool, error) {
			p.warnings.take()
			if err := p.try(space, nil); err != nil {
				return false, err
			}
			return slices.Equal(p.warnings.take(), []string{"Validation failed for ValidatingAdmissionPolicy 'warn' with binding 'warn': think again"}), nil
		})
	})

	t.Run("failures", func(t *testing.T) {
		ignore := admissionregistrationv1.Ignore
		ignoring, failing := p.space(t, "ignoring"), p.space(t, "failing")
		p.validate(t, ignoring, admissionregistrationv1.ValidatingAdmissionPolicySpec{FailurePolicy: &ignore, Validations: rules("object.nothing == 1", "!has(object.data)")})
		p.validate(t, failing, admissionregistrationv1.ValidatingAdmissionPolicySpec{Validations: rules("object.nothing == 1")})
		expect(t, p.refused(t, failing, nil), 422, "Invalid", denied("failing", "expression 'object.nothing == 1' resulted in error: no such key: nothing"))
		p.refused(t, ignoring, map[string]string{"a": "b"})
		if err := p.try(ignoring, nil); err != nil {
			t.Error(err)
		}
	})

	t.Run("costs too much", func(t *testing.T) {
		space := p.space(t, "costly")
		rule := "true"
		for _, v := range "abcdefg" { // ten million turns
			rule = fmt.Sprintf("variables.l.all(%c, %s)", v, rule)
		}
		p.validate(t, space, admissionregistrationv1.ValidatingAdmissionPolicySpec{
			Validations: rules(rule), Variables: []admissionregistrationv1.Variable{{Name: "l", Expression: "[0,1,2,3,4,5,6,7,8,9]"}}})
		expect(t, p.refused(t, space, nil), 422, "Invalid", denied("costly", "expression '"+rule+"' resulted in error: operation cancelled: actual cost limit exceeded"))
		if err := p.client.AdmissionregistrationV1().ValidatingAdmissionPolicies().Delete(limited(t), space, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	})

	t.Run("rights", func(t *testing.T) {
		space := p.space(t, "rights")
		p.validate(t, space, admissionregistrationv1.ValidatingAdmissionPolicySpec{Validations: rules("authorizer.group('').resource('secrets').namespace('" + space + "').check('get').allowed()")})
		body := `{"metadata":{"name":"c"}}`
		path := "/api/v1/namespaces/rights/configmaps?dryRun=All"
		eventually(t, func(context.Context) (bool, error) {
			code, _, _ := raw(t, p.instance, "POST", path, asJSON, body, "X-Test-User", "someone")
			return code == 422, nil
		})
		if err := p.try(space, nil); err != nil {
			t.Errorf("a member of system:masters: %v", err)
		}
	})

	t.Run("parameters", func(t *testing.T) {
		space := p.space(t, "params")
		deny := admissionregistrationv1.DenyAction
		maps := p.client.CoreV1().ConfigMaps("default")
		p.validate(t, space, admissionregistrationv1.ValidatingAdmissionPolicySpec{
			ParamKind:   &admissionregistrationv1.ParamKind{APIVersion: "v1", Kind: "ConfigMap"},
			Validations: rules("params.kind == 'ConfigMap' && (!has(object.data) || size(object.data) <= int(params.data.most))"),
		}, func(b *admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec) {
			b.ParamRef = &admissionregistrationv1.ParamRef{Namespace: "default", ParameterNotFoundAction: &deny,
				Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"limits": "yes"}}}
		})
		expect(t, p.refused(t, space, nil), 422, "Invalid", denied("params", "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"))
		for name, most := range map[string]string{"one": "1", "two": "2"} {
			if _, err := maps.Create(limited(t), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"limits": "yes"}},
				Data: map[string]string{"most": most}}, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, func(context.Context) (bool, error) { return p.try(space, map[string]string{"a": ""}) == nil, nil })
		p.refused(t, space, map[string]string{"a": "", "b": ""})
		if err := maps.Delete(limited(t), "one", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, func(context.Context) (bool, error) {
			return p.try(space, map[string]string{"a": "", "b": ""}) == nil, nil
		})
	})
}

func TestPolicyTypes(t *testing.T) {
	t.Parallel()
	p := startPoliced(t)
	m := about("apps", "deployments")
	m.ResourceRules[0].APIVersions = []string{"v1"}
	p.validate(t, p.space(t, "types"), admissionregistrationv1.ValidatingAdmissionPolicySpec{
		MatchConstraints: m,
		Variables:        []admissionregistrationv1.Variable{{Name: "spec", Expression: "object.spec"}},
		Validations: []admissionregistrationv1.Validation{
			{Expression: "object.spec.replicas > '1'"},
			{Expression: "variables.spec.replicas > 1", MessageExpression: "'x' + object.spec.unknown"},
		},
	})
	var policy *admissionregistrationv1.ValidatingAdmissionPolicy
	eventually(t, func(ctx context.Context) (bool, error) {
		var err error
		policy, err = p.client.AdmissionregistrationV1().ValidatingAdmissionPolicies().Get(ctx, "types", metav1.GetOptions{})
		return err == nil && policy.Status.TypeChecking != nil, err
	})
	if policy.Status.ObservedGeneration != 1 || policy.Generation != 1 {
		t.Errorf("%d of %d", policy.Status.ObservedGeneration, policy.Generation)
	}
	got := policy.Status.TypeChecking.ExpressionWarnings
	if len(got) != 2 || got[0].FieldRef != "spec.validations[0].expression" ||
		!strings.HasPrefix(got[0].Warning, "apps/v1, Kind=Deployment: ERROR: <input>:1:22: found no matching overload for '_>_' applied to '(int, string)'\n") ||
		got[1].FieldRef != "spec.validations[1].messageExpression" ||
		!strings.HasPrefix(got[1].Warning, "apps/v1, Kind=Deployment: ERROR: <input>:1:18: undefined field 'unknown'\n") {
		t.Errorf("%+v", got)
	}
}

func TestPoliciesOfCustomResources(t *testing.T) {
	t.Parallel()
	p := startPoliced(t)
	p.define(t, boats)
	ctx := limited(t)
	space := p.space(t, "sea")
	client := p.of("sea.example.com", "v1", "boats", space)

	// A boat says how large config maps of its namespace may be.
	allow := admissionregistrationv1.AllowAction
	p.validate(t, space, admissionregistrationv1.ValidatingAdmissionPolicySpec{
		ParamKind:   &admissionregistrationv1.ParamKind{APIVersion: "sea.example.com/v1", Kind: "Boat"},
		Validations: []admissionregistrationv1.Validation{{Expression: "!has(object.data) || size(object.data) <= params.spec.crew", MessageExpression: "'more than ' + params.metadata.name + ' can carry'"}},
	}, func(b *admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec) {
		b.ParamRef = &admissionregistrationv1.ParamRef{Name: "ark", ParameterNotFoundAction: &allow}
	})
	two := map[string]string{"a": "", "b": ""}
	if err := p.try(space, two); err != nil {
		t.Errorf("without a parameter: %v", err)
	}
	if _, err := client.Create(ctx, object(t, `{apiVersion: sea.example.com/v1, kind: Boat, metadata: {name: ark}, spec: {color: red, crew: 1}}`), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if s := p.refused(t, space, two); !strings.HasSuffix(s.Message, "denied request: more than ark can carry") {
		t.Error(s.Message)
	}

	// Boats are changed by one policy, with the defaults of what it adds, and held by another.
	meta := metav1.ObjectMeta{Name: "masts"}
	everywhere := about("sea.example.com", "boats")
	if _, err := p.client.AdmissionregistrationV1().MutatingAdmissionPolicies().Create(ctx, &admissionregistrationv1.MutatingAdmissionPolicy{ObjectMeta: meta,
		Spec: admissionregistrationv1.MutatingAdmissionPolicySpec{MatchConstraints: everywhere, ReinvocationPolicy: "Never", Mutations: []admissionregistrationv1.Mutation{
			{PatchType: "ApplyConfiguration", ApplyConfiguration: &admissionregistrationv1.ApplyConfiguration{Expression: `Object{spec: Object.spec{masts: [Object.spec.masts{name: "main"}]}}`}},
			{PatchType: "JSONPatch", JSONPatch: &admissionregistrationv1.JSONPatch{Expression: `[JSONPatch{op: "add", path: "/spec/never", value: "sink"}]`}}}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.client.AdmissionregistrationV1().MutatingAdmissionPolicyBindings().Create(ctx, &admissionregistrationv1.MutatingAdmissionPolicyBinding{ObjectMeta: meta,
		Spec: admissionregistrationv1.MutatingAdmissionPolicyBindingSpec{PolicyName: "masts"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func(ctx context.Context) (bool, error) {
		b, err := client.Create(ctx, object(t, `{apiVersion: sea.example.com/v1, kind: Boat, metadata: {name: dry}, spec: {color: red, masts: [{name: fore, height: 1}]}}`), metav1.CreateOptions{DryRun: []string{"All"}})
		if err != nil {
			return false, err
		}
		return fmt.Sprint(b.Object["spec"]) == "map[color:red length:7 masts:[map[height:1 name:fore] map[height:3 name:main]] never:sink]", nil
	})
	everywhere.ResourceRules[0].Operations = []admissionregistrationv1.OperationType{"DELETE"}
	held := p.space(t, "held")
	p.validate(t, held, admissionregistrationv1.ValidatingAdmissionPolicySpec{MatchConstraints: everywhere, Validations: rules("object == null && oldObject.spec.color != 'red'")})
	boats := p.of("sea.example.com", "v1", "boats", held)
	for name, color := range map[string]string{"r": "red", "b": "blue"} {
		if _, err := boats.Create(ctx, object(t, `{apiVersion: sea.example.com/v1, kind: Boat, metadata: {name: `+name+`}, spec: {color: `+color+`}}`), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, func(ctx context.Context) (bool, error) {
		err := boats.Delete(ctx, "r", metav1.DeleteOptions{DryRun: []string{"All"}})
		return err != nil && strings.HasSuffix(err.Error(), "failed expression: object == null && oldObject.spec.color != 'red'"), nil
	})
	if err := boats.Delete(ctx, "b", metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
}

// A policy sees what a client asks for, be it a part of an object, an action or another version.
func TestPoliciesOfSubresources(t *testing.T) {
	t.Parallel()
	p := startPoliced(t)
	ctx := limited(t)
	space := p.space(t, "parts")
	m := about("apps", "deployments/scale")
	m.ResourceRules = append(m.ResourceRules, about("", "serviceaccounts/token").ResourceRules...)
	m.ResourceRules = append(m.ResourceRules, about("autoscaling", "horizontalpodautoscalers").ResourceRules...)
	m.ResourceRules[2].APIVersions = []string{"v1"}
	p.validate(t, space, admissionregistrationv1.ValidatingAdmissionPolicySpec{MatchConstraints: m, Validations: []admissionregistrationv1.Validation{
		{Expression: "object.kind != 'Scale' || object.spec.replicas - oldObject.spec.replicas <= 1", Message: "one at a time"},
		{Expression: "object.kind != 'TokenRequest' || request.subResource == 'token' && object.spec.expirationSeconds <= 3600", Message: "not so long"},
		{Expression: "object.kind != 'HorizontalPodAutoscaler' || object.apiVersion == 'autoscaling/v1' && request.requestKind.version == 'v2' && object.spec.targetCPUUtilizationPercentage < 90", Message: "not so hot"},
	}})
	labels := map[string]string{"app": "x"}
	if _, err := p.client.AppsV1().Deployments(space).Create(ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "d"}, Spec: appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "c"}}}}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	scale := func(replicas int32) error {
		_, err := p.client.AppsV1().Deployments(space).UpdateScale(ctx, "d", &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: "d", Namespace: space}, Spec: autoscalingv1.ScaleSpec{Replicas: replicas}}, metav1.UpdateOptions{DryRun: []string{"All"}})
		return err
	}
	eventually(t, func(context.Context) (bool, error) {
		err := scale(3)
		return err != nil && strings.HasSuffix(err.Error(), "denied request: one at a time"), nil
	})
	if err := scale(2); err != nil {
		t.Error(err)
	}
	if _, err := p.client.CoreV1().ServiceAccounts(space).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "s"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for seconds, want := range map[int64]string{3600: "", 7200: "denied request: not so long"} {
		_, err := p.client.CoreV1().ServiceAccounts(space).CreateToken(ctx, "s", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}, metav1.CreateOptions{})
		if got := fmt.Sprint(err); !strings.HasSuffix(got, want) || want == "" && err != nil {
			t.Errorf("%d: %v", seconds, err)
		}
	}
	for percent, want := range map[int32]string{50: "", 95: "denied request: not so hot"} {
		_, err := p.client.AutoscalingV2().HorizontalPodAutoscalers(space).Create(ctx, &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: "h"}, Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{Kind: "Deployment", Name: "d", APIVersion: "apps/v1"}, MaxReplicas: 3,
			Metrics: []autoscalingv2.MetricSpec{{Type: "Resource", Resource: &autoscalingv2.ResourceMetricSource{Name: "cpu", Target: autoscalingv2.MetricTarget{Type: "Utilization", AverageUtilization: &percent}}}},
		}}, metav1.CreateOptions{DryRun: []string{"All"}})
		if got := fmt.Sprint(err); !strings.HasSuffix(got, want) || want == "" && err != nil {
			t.Errorf("%d: %v", percent, err)
		}
	}
}

func TestMutatingPolicies(t *testing.T) {
	t.Parallel()
	p := startPoliced(t)
	space := p.space(t, "mutate")
	ctx := limited(t)
	mutate := func(name string, reinvocation admissionregistrationv1.ReinvocationPolicyType, mutations ...admissionregistrationv1.Mutation) {
		t.Helper()
		m := about("apps", "deployments")
		meta := metav1.ObjectMeta{Name: name}
		if _, err := p.client.AdmissionregistrationV1().MutatingAdmissionPolicies().Create(ctx, &admissionregistrationv1.MutatingAdmissionPolicy{ObjectMeta: meta,
			Spec: admissionregistrationv1.MutatingAdmissionPolicySpec{MatchConstraints: m, ReinvocationPolicy: reinvocation, Mutations: mutations}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := p.client.AdmissionregistrationV1().MutatingAdmissionPolicyBindings().Create(ctx, &admissionregistrationv1.MutatingAdmissionPolicyBinding{ObjectMeta: meta,
			Spec: admissionregistrationv1.MutatingAdmissionPolicyBindingSpec{PolicyName: name, MatchResources: in(space)}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	apply := func(expression string) admissionregistrationv1.Mutation {
		return admissionregistrationv1.Mutation{PatchType: admissionregistrationv1.PatchTypeApplyConfiguration, ApplyConfiguration: &admissionregistrationv1.ApplyConfiguration{Expression: expression}}
	}
	patch := func(expression string) admissionregistrationv1.Mutation {
		return admissionregistrationv1.Mutation{PatchType: admissionregistrationv1.PatchTypeJSONPatch, JSONPatch: &admissionregistrationv1.JSONPatch{Expression: expression}}
	}
	// In the order of their names; the first looks again at what the second does.
	mutate("a", admissionregistrationv1.IfNeededReinvocationPolicy,
		apply(`Object{metadata: Object.metadata{annotations: {"replicas": string(object.spec.replicas)}}, spec: Object.spec{template: Object.spec.template{spec: Object.spec.template.spec{
			initContainers: [Object.spec.template.spec.initContainers{name: "first", image: "first"}]}}}}`))
	mutate("b", admissionregistrationv1.NeverReinvocationPolicy,
		patch(`[JSONPatch{op: "test", path: "/spec/replicas", value: 1}, JSONPatch{op: "replace", path: "/spec/replicas", value: 3}]`),
		patch(`[JSONPatch{op: "add", path: "/metadata/labels/" + jsonpatch.escapeKey("skiff.test/by"), value: "b"}]`))
	labels := map[string]string{"app": "x"}
	one := int32(1)
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "d", Labels: labels}, Spec: appsv1.DeploymentSpec{Replicas: &one, Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "c"}}}}}}
	var got *appsv1.Deployment
	eventually(t, func(ctx context.Context) (bool, error) {
		var err error
		got, err = p.client.AppsV1().Deployments(space).Create(ctx, d, metav1.CreateOptions{DryRun: []string{"All"}})
		return err == nil && got.Labels["skiff.test/by"] == "b" && got.Annotations["replicas"] != "", err
	})
	init := got.Spec.Template.Spec.InitContainers
	if *got.Spec.Replicas != 3 || got.Annotations["replicas"] != "3" || len(init) != 1 || init[0].ImagePullPolicy != corev1.PullAlways || len(got.Spec.Template.Spec.Containers) != 1 {
		t.Errorf("%d replicas, noted as %q, init containers %+v", *got.Spec.Replicas, got.Annotations["replicas"], init)
	}
	mutate("z", admissionregistrationv1.NeverReinvocationPolicy, apply(`Object{spec: Object.spec{template: Object.spec.template{spec: Object.spec.template.spec{
			containers: [Object.spec.template.spec.containers{name: "c", args: ["atomic"]}]}}}}`))
	var err error
	eventually(t, func(ctx context.Context) (bool, error) {
		_, err = p.client.AppsV1().Deployments(space).Create(ctx, d, metav1.CreateOptions{DryRun: []string{"All"}})
		return err != nil, nil
	})
	if s, ok := err.(apierrors.APIStatus); !ok || s.Status().Code != 403 || s.Status().Reason != "Invalid" ||
		s.Status().Message != "policy 'z' with binding 'z' denied request: error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.template.spec.containers[0].args" {
		t.Errorf("%v", err)
	}
}
