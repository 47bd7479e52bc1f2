package match

import (
	"context"
	"errors"
	"strings"
	"testing"

	v1 "k8s.io/api/admissionregistration/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"

	"skiff/pkg/api"
	"skiff/pkg/api/catalogue"
	"skiff/pkg/apiserver/authz"
	"skiff/pkg/apiserver/lookup"
	"skiff/pkg/apiserver/request"
)

var view = catalogue.Default().View()

// write describes a request for a resource: "group/version/resource/subresource".
func write(t *testing.T, op request.Operation, path string, obj, old api.Object) *request.Attributes {
	t.Helper()
	parts := strings.Split(path, "/")
	row := view.ByResource(schema.GroupVersionResource{Group: parts[0], Version: parts[1], Resource: parts[2]})
	if row == nil {
		t.Fatalf("%s is not served", path)
	}
	a := &request.Attributes{Operation: op, Kind: row, User: &request.User{Name: "alice", Groups: []string{"people"}}}
	if len(parts) > 3 {
		a.Subresource = parts[3]
	}
	for _, o := range []api.Object{obj, old} {
		if o != nil {
			a.Name, a.Namespace = o.GetName(), o.GetNamespace()
		}
	}
	if obj != nil {
		a.Object = obj
	}
	if old != nil {
		a.Old = old
	}
	if row.Resource == "namespaces" {
		a.Namespace = a.Name
	}
	return a
}

func pod(labels map[string]string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", Labels: labels}}
}

func rule(operations, groups, versions, resources string, change ...func(*v1.NamedRuleWithOperations)) v1.NamedRuleWithOperations {
	r := v1.NamedRuleWithOperations{}
	for _, o := range strings.Fields(operations) {
		r.Operations = append(r.Operations, v1.OperationType(o))
	}
	r.APIGroups = strings.Split(groups, " ")
	r.APIVersions, r.Resources = strings.Fields(versions), strings.Fields(resources)
	for _, c := range change {
		c(&r)
	}
	return r
}

func scope(s v1.ScopeType) func(*v1.NamedRuleWithOperations) {
	return func(r *v1.NamedRuleWithOperations) { r.Scope = &s }
}

func names(all ...string) func(*v1.NamedRuleWithOperations) {
	return func(r *v1.NamedRuleWithOperations) { r.ResourceNames = all }
}

func TestRules(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}
	for _, c := range []struct {
		name string
		rule v1.NamedRuleWithOperations
		op   request.Operation
		path string
		obj  api.Object
		want bool
	}{
		{"exact", rule("CREATE", "", "v1", "pods"), request.Create, "/v1/pods", pod(nil), true},
		{"another operation", rule("CREATE DELETE", "", "v1", "pods"), request.Update, "/v1/pods", pod(nil), false},
		{"all operations", rule("*", "", "v1", "pods"), request.Connect, "/v1/pods", pod(nil), true},
		{"another group", rule("*", "apps", "v1", "pods"), request.Create, "/v1/pods", pod(nil), false},
		{"another version", rule("*", "", "v2", "pods"), request.Create, "/v1/pods", pod(nil), false},
		{"any group and version", rule("*", "*", "*", "pods"), request.Create, "/v1/pods", pod(nil), true},
		{"the star has no subresources", rule("*", "*", "*", "*"), request.Update, "/v1/pods/status", pod(nil), false},
		{"the star is all resources", rule("*", "*", "*", "*"), request.Update, "/v1/nodes", node, true},
		{"two stars are everything", rule("*", "*", "*", "*/*"), request.Update, "/v1/pods/status", pod(nil), true},
		{"two stars are resources as well", rule("*", "*", "*", "*/*"), request.Update, "/v1/pods", pod(nil), true},
		{"all subresources of one", rule("*", "", "*", "pods/*"), request.Connect, "/v1/pods/exec", pod(nil), true},
		{"all subresources, and itself", rule("*", "", "*", "pods/*"), request.Connect, "/v1/pods", pod(nil), true},
		{"one subresource of all", rule("*", "*", "*", "*/scale"), request.Update, "apps/v1/deployments/scale", pod(nil), true},
		{"one subresource, not itself", rule("*", "", "*", "pods/exec"), request.Connect, "/v1/pods", pod(nil), false},
		{"namespaced", rule("*", "*", "*", "*", scope(v1.NamespacedScope)), request.Create, "/v1/pods", pod(nil), true},
		{"namespaced, but isn't", rule("*", "*", "*", "*", scope(v1.NamespacedScope)), request.Create, "/v1/nodes", node, false},
		{"a namespace is not in one", rule("*", "*", "*", "*", scope(v1.NamespacedScope)), request.Create, "/v1/namespaces", namespace, false},
		{"cluster", rule("*", "*", "*", "*", scope(v1.ClusterScope)), request.Create, "/v1/nodes", node, true},
		{"a namespace is the cluster's", rule("*", "*", "*", "*", scope(v1.ClusterScope)), request.Create, "/v1/namespaces", namespace, true},
		{"cluster, but isn't", rule("*", "*", "*", "*", scope(v1.ClusterScope)), request.Create, "/v1/pods", pod(nil), false},
		{"any scope", rule("*", "*", "*", "*", scope(v1.AllScopes)), request.Create, "/v1/pods", pod(nil), true},
		{"by name", rule("*", "", "v1", "pods", names("db", "web")), request.Create, "/v1/pods", pod(nil), true},
		{"by another name", rule("*", "", "v1", "pods", names("db")), request.Create, "/v1/pods", pod(nil), false},
	} {
		a := write(t, c.op, c.path, c.obj, nil)
		if got := ruleMatches(&c.rule, a, a.Kind.GroupVersionResource()); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

func TestCriteria(t *testing.T) {
	cluster := lookup.NewFake(
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{"team": "shop"}}},
	)
	team := func(name string) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: map[string]string{"team": name}}
	}
	app := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	elsewhere := pod(nil)
	elsewhere.Namespace = "nowhere"
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "new", Labels: map[string]string{"team": "shop"}}}
	existing := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	scaler := &autoscalingv1.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}}
	pods := []v1.NamedRuleWithOperations{rule("*", "", "v1", "pods")}
	newer := []v1.NamedRuleWithOperations{rule("*", "autoscaling", "v2", "horizontalpodautoscalers")}
	both := append(newer, rule("*", "autoscaling", "v1", "*"))
	for _, c := range []struct {
		name string
		m    v1.MatchResources
		a    *request.Attributes
		want string // the kind, or the error
	}{
		{"no rules", v1.MatchResources{}, write(t, request.Create, "/v1/pods", pod(nil), nil), "/v1, Kind=Pod"},
		{"a rule", v1.MatchResources{ResourceRules: pods}, write(t, request.Create, "/v1/pods", pod(nil), nil), "/v1, Kind=Pod"},
		{"no rule", v1.MatchResources{ResourceRules: pods}, write(t, request.Create, "/v1/nodes", node, nil), ""},
		{"excluded", v1.MatchResources{ExcludeResourceRules: pods}, write(t, request.Create, "/v1/pods", pod(nil), nil), ""},
		{"its namespace", v1.MatchResources{NamespaceSelector: team("shop")}, write(t, request.Create, "/v1/pods", pod(nil), nil), "/v1, Kind=Pod"},
		{"another namespace", v1.MatchResources{NamespaceSelector: team("bank")}, write(t, request.Create, "/v1/pods", pod(nil), nil), ""},
		{"no namespace", v1.MatchResources{NamespaceSelector: team("bank")}, write(t, request.Create, "/v1/pods", elsewhere, nil), `namespaces "nowhere" not found`},
		{"no namespace, no matter", v1.MatchResources{NamespaceSelector: team("bank"), ObjectSelector: app}, write(t, request.Create, "/v1/pods", elsewhere, nil), ""},
		{"the cluster's", v1.MatchResources{NamespaceSelector: team("bank")}, write(t, request.Create, "/v1/nodes", node, nil), "/v1, Kind=Node"},
		{"a namespace by its new labels", v1.MatchResources{NamespaceSelector: team("shop")}, write(t, request.Create, "/v1/namespaces", namespace, nil), "/v1, Kind=Namespace"},
		{"a namespace that loses its labels", v1.MatchResources{NamespaceSelector: team("shop")}, write(t, request.Update, "/v1/namespaces", existing, existing), ""},
		{"a namespace that goes", v1.MatchResources{NamespaceSelector: team("shop")}, write(t, request.Delete, "/v1/namespaces", nil, existing), "/v1, Kind=Namespace"},
		{"its labels", v1.MatchResources{ObjectSelector: app}, write(t, request.Create, "/v1/pods", pod(app.MatchLabels), nil), "/v1, Kind=Pod"},
		{"its former labels", v1.MatchResources{ObjectSelector: app}, write(t, request.Update, "/v1/pods", pod(nil), pod(app.MatchLabels)), "/v1, Kind=Pod"},
		{"neither labels", v1.MatchResources{ObjectSelector: app}, write(t, request.Update, "/v1/pods", pod(nil), pod(nil)), ""},
		{"exactly", v1.MatchResources{ResourceRules: newer, MatchPolicy: ptr.To(v1.Exact)}, write(t, request.Create, "autoscaling/v1/horizontalpodautoscalers", scaler, nil), ""},
		{"another version", v1.MatchResources{ResourceRules: newer, MatchPolicy: ptr.To(v1.Equivalent)}, write(t, request.Create, "autoscaling/v1/horizontalpodautoscalers", scaler, nil), "autoscaling/v2, Kind=HorizontalPodAutoscaler"},
		{"its own version first", v1.MatchResources{ResourceRules: both, MatchPolicy: ptr.To(v1.Equivalent)}, write(t, request.Create, "autoscaling/v1/horizontalpodautoscalers", scaler, nil), "autoscaling/v1, Kind=HorizontalPodAutoscaler"},
		{"excluded as another version", v1.MatchResources{ExcludeResourceRules: newer, MatchPolicy: ptr.To(v1.Equivalent)}, write(t, request.Create, "autoscaling/v1/horizontalpodautoscalers", scaler, nil), ""},
		{"another group", v1.MatchResources{ResourceRules: []v1.NamedRuleWithOperations{rule("*", "events.k8s.io", "*", "*")}, MatchPolicy: ptr.To(v1.Equivalent)},
			write(t, request.Create, "/v1/events", &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "shop"}}, nil), "events.k8s.io/v1, Kind=Event"},
		{"a body of its own", v1.MatchResources{ResourceRules: []v1.NamedRuleWithOperations{rule("*", "*", "*", "*/scale")}},
			write(t, request.Update, "apps/v1/deployments/scale", &autoscalingv1.Scale{}, nil), "autoscaling/v1, Kind=Scale"},
	} {
		criteria, err := Compile(&c.m)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		target, err := criteria.Match(t.Context(), NewRequest(c.a, view, cluster))
		switch {
		case err != nil:
			got = err.Error()
			if status := apierrors.APIStatus(nil); !errors.As(err, &status) {
				t.Errorf("%s: %#v is no answer to a client", c.name, err)
			}
		case target != nil:
			got = target.Kind.String()
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestExempt(t *testing.T) {
	for path, want := range map[string]bool{
		"admissionregistration.k8s.io/v1/mutatingwebhookconfigurations":     true,
		"admissionregistration.k8s.io/v1/validatingadmissionpolicybindings": true,
		"rbac.authorization.k8s.io/v1/roles":                                false,
	} {
		if got := Exempt(write(t, request.Delete, path, nil, nil)); got != want {
			t.Errorf("%s: %v", path, got)
		}
	}
}

// What a webhook or a policy makes of the object in another version comes back in the one that was asked for, with defaults, in the
// object that the caller holds.
func TestReplaceInAnotherVersion(t *testing.T) {
	asked := &autoscalingv1.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}, Spec: autoscalingv1.HorizontalPodAutoscalerSpec{MaxReplicas: 3}}
	r := NewRequest(write(t, request.Create, "autoscaling/v1/horizontalpodautoscalers", asked, nil), view, lookup.NewFake())
	criteria, err := Compile(&v1.MatchResources{ResourceRules: []v1.NamedRuleWithOperations{rule("*", "autoscaling", "v2", "*")}, MatchPolicy: ptr.To(v1.Equivalent)})
	if err != nil {
		t.Fatal(err)
	}
	target, err := criteria.Match(t.Context(), r)
	if err != nil || target == nil {
		t.Fatal(target, err)
	}
	seen, err := r.Versioned(target)
	if err != nil {
		t.Fatal(err)
	}
	next := seen.VersionedObject.DeepCopyObject().(*autoscalingv2.HorizontalPodAutoscaler)
	next.Spec.MaxReplicas = 5
	next.Spec.MinReplicas = nil
	changed, err := r.Replace(target, next)
	if err != nil || !changed {
		t.Fatal(changed, err)
	}
	if asked.Spec.MaxReplicas != 5 || ptr.Deref(asked.Spec.MinReplicas, 0) != 1 || asked.APIVersion != "autoscaling/v1" {
		t.Errorf("%+v", asked)
	}
	if again, _ := r.Versioned(target); again.VersionedObject.(*autoscalingv2.HorizontalPodAutoscaler).Spec.MaxReplicas != 5 {
		t.Error("the version from before is still there")
	}
	if _, err := r.Replace(target, asked.DeepCopy()); err == nil {
		t.Error("an object of another version is taken")
	}
}

func TestTurns(t *testing.T) {
	obj := pod(nil)
	r := NewRequest(write(t, request.Create, "/v1/pods", obj, nil), view, lookup.NewFake())
	var calls []string
	// a asks to be called again, b doesn't, c changes the object, d asks as well but comes last.
	round := func() {
		turn := r.Begin("test")
		defer turn.End()
		for _, m := range []struct {
			name                 string
			changed, reinvocable bool
		}{{"a", false, true}, {"b", false, false}, {"c", true, false}, {"d", false, true}} {
			if !turn.Runs(m.name) {
				continue
			}
			calls = append(calls, m.name)
			turn.Ran(m.name, m.changed, m.reinvocable)
		}
	}
	round()
	if !r.Again() || r.Round() != 1 {
		t.Fatal("no second round")
	}
	round()
	if got := strings.Join(calls, ""); got != "abcda" {
		t.Errorf("%s", got)
	}
	if r.Again() {
		t.Error("a third round")
	}
}

// What plugins change before the second round concerns everybody who asked.
func TestTurnAfterOthersChanged(t *testing.T) {
	obj := pod(nil)
	r := NewRequest(write(t, request.Create, "/v1/pods", obj, nil), view, lookup.NewFake())
	turn := r.Begin("test")
	turn.Ran("changes", true, false)
	turn.Ran("asks", false, true)
	turn.End()
	r.Again()
	obj.Labels = map[string]string{"by": "a plugin"}
	if turn = r.Begin("test"); !turn.Runs("asks") || turn.Runs("changes") {
		t.Error("wrong members in the second round")
	}
}

func TestConditions(t *testing.T) {
	old := pod(map[string]string{"app": "db"})
	a := write(t, request.Update, "/v1/pods", pod(map[string]string{"app": "web"}), old)
	a.DryRun = true
	for _, c := range []struct {
		name       string
		conditions []string
		failure    v1.FailurePolicyType
		want       bool
		err        string
	}{
		{"none", nil, v1.Fail, true, ""},
		{"what there is", []string{
			`object.metadata.labels.app == "web"`, `oldObject.metadata.labels.app == "db"`, `request.userInfo.username == "alice"`,
			`request.operation == "UPDATE" && request.dryRun`, `request.resource.resource == "pods"`, `namespaceObject == null`,
			`authorizer.group("").resource("pods").namespace("shop").check("create").allowed()`,
			`!authorizer.requestResource.check("delete").allowed()`,
		}, v1.Fail, true, ""},
		{"one is false", []string{"true", `object.metadata.name == "other"`}, v1.Fail, false, ""},
		{"false beats an error", []string{"object.spec.nonsense == 1", "false"}, v1.Fail, false, ""},
		{"an error", []string{"true", "object.spec.nonsense == 1"}, v1.Fail, false, "expression 'object.spec.nonsense == 1' resulted in error: no such key: nonsense"},
		{"an error that is ignored", []string{"object.spec.nonsense == 1"}, v1.Ignore, false, ""},
	} {
		var all []v1.MatchCondition
		for _, e := range c.conditions {
			all = append(all, v1.MatchCondition{Name: "c", Expression: e})
		}
		r := NewRequest(a, view, lookup.NewFake())
		got, err := CompileConditions(all, &c.failure, false).Match(t.Context(), r, r.Own(), nil, Rights(creators{}))
		text := ""
		if err != nil {
			text = err.Error()
		}
		if got != c.want || text != c.err {
			t.Errorf("%s: %v %q, want %v %q", c.name, got, text, c.want, c.err)
		}
	}
}

// creators may create.
type creators struct{}

func (creators) Authorize(_ context.Context, _ *request.User, info *request.Info) authz.Verdict {
	return authz.Verdict{Allowed: info.Verb == "create"}
}
