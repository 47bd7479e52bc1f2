package authz

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/lookup"
	"skiff/pkg/apiserver/request"
)

var clusterRoles = rbacv1.Resource("clusterroles")

func clusterRole(t *testing.T, f *lookup.Fake, name string) *rbacv1.ClusterRole {
	t.Helper()
	role, err := lookup.Get[*rbacv1.ClusterRole](t.Context(), f, clusterRoles, "", name)
	if err != nil {
		t.Fatal(err)
	}
	return role
}

func TestBootstrapCompletesWhatIsThere(t *testing.T) {
	policy := defaultPolicy(t)
	poor := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "system:kube-scheduler", Labels: map[string]string{"mine": "yes"}},
		Rules: []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{"mine"}, Resources: []string{"things"}}}}
	own := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "system:kube-dns", Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: "false"}}}
	admin := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "admin"}, AggregationRule: &rbacv1.AggregationRule{
		ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"mine": "yes"}}}}}
	extra := rbacv1.Subject{Kind: "User", APIGroup: rbacv1.GroupName, Name: "alice"}
	bound := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "cluster-admin"},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"}, Subjects: []rbacv1.Subject{extra}}
	other := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "system:monitoring"},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"}, Subjects: []rbacv1.Subject{extra}}
	f := lookup.NewFake(poor, own, admin, bound, other)
	if err := Bootstrap(t.Context(), f, policy); err != nil {
		t.Fatal(err)
	}
	if role := clusterRole(t, f, "system:kube-scheduler"); len(role.Rules) < 28 || role.Labels["mine"] != "yes" || role.Labels["kubernetes.io/bootstrapping"] == "" {
		t.Errorf("the scheduler's role was not completed: %v", role)
	}
	if role := clusterRole(t, f, "system:kube-dns"); len(role.Rules) > 0 {
		t.Errorf("a protected role was changed: %v", role)
	}
	if role := clusterRole(t, f, "admin"); len(role.AggregationRule.ClusterRoleSelectors) != 2 {
		t.Errorf("admin's aggregation: %v", role.AggregationRule)
	}
	binding, err := lookup.Get[*rbacv1.ClusterRoleBinding](t.Context(), f, rbacv1.Resource("clusterrolebindings"), "", "cluster-admin")
	if err != nil || len(binding.Subjects) != 2 {
		t.Errorf("cluster-admin's subjects: %v %v", binding, err)
	}
	binding, err = lookup.Get[*rbacv1.ClusterRoleBinding](t.Context(), f, rbacv1.Resource("clusterrolebindings"), "", "system:monitoring")
	if err != nil || binding.RoleRef.Name != "system:monitoring" || len(binding.Subjects) != 1 || binding.Subjects[0] == extra {
		t.Errorf("a binding to another role: %v %v", binding, err)
	}
	before := revisions(t, f)
	if err := Bootstrap(t.Context(), f, policy); err != nil {
		t.Fatal(err)
	}
	if after := revisions(t, f); after != before {
		t.Error("the second time wrote something")
	}
}

func revisions(t *testing.T, f *lookup.Fake) string {
	var out strings.Builder
	for _, resource := range []string{"roles", "rolebindings", "clusterroles", "clusterrolebindings"} {
		objects, err := f.List(t.Context(), rbacv1.Resource(resource), "")
		if err != nil {
			t.Fatal(err)
		}
		for _, obj := range objects {
			fmt.Fprintf(&out, "%s %s\n", obj.GetName(), obj.GetResourceVersion())
		}
	}
	return out.String()
}

func TestBootstrapSaysWhatFailed(t *testing.T) {
	err := Bootstrap(t.Context(), failingWriter{}, &Policy{Roles: []*rbacv1.Role{{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "r"}}}})
	if err == nil || err.Error() != "default RBAC policy: roles ns/r: etcd is away" {
		t.Error(err)
	}
}

type failingWriter struct{ lookup.Writer }

func (failingWriter) Update(context.Context, schema.GroupResource, string, string, func(api.Object) (api.Object, error)) error {
	return errors.New("etcd is away")
}

// running is an authorizer over a fake cluster that has the default policy.
func running(t *testing.T, objects ...api.Object) (*Authorizer, *lookup.Fake) {
	t.Helper()
	f := lookup.NewFake(objects...)
	a, err := New(f)
	if err != nil {
		t.Fatal(err)
	}
	if a.Ready() == nil || a.BootstrapReady() == nil {
		t.Error("ready before it runs")
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	})
	synctest.Wait()
	if err := errors.Join(a.Ready(), a.BootstrapReady()); err != nil {
		t.Fatal(err)
	}
	return a, f
}

// lateSource delivers nothing before its gate opens.
type lateSource struct {
	*lookup.Fake
	gate chan struct{}
}

func (s lateSource) Follow(ctx context.Context, resource schema.GroupResource, synced func(), handle func([]lookup.Change)) error {
	select {
	case <-s.gate:
		return s.Fake.Follow(ctx, resource, synced, handle)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A server that has just been started must not deny what it will allow when it has read the bindings.
func TestDenialsWaitForTheFirstReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := lateSource{gate: make(chan struct{}), Fake: lookup.NewFake(
			&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Rules: []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}}}},
			&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "b"}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "r"},
				Subjects: []rbacv1.Subject{{Kind: "User", Name: "bob"}}})}
		a, err := New(source)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- a.Run(ctx) }()
		defer func() { cancel(); <-done }()

		info := infoOf(t, "get ns//pods=p")
		ask := func(name string, groups ...string) <-chan bool {
			answer := make(chan bool, 1)
			go func() { answer <- a.Authorize(t.Context(), &request.User{Name: name, Groups: groups}, info).Allowed }()
			return answer
		}
		began := time.Now()
		if !<-ask("root", request.Masters) || time.Since(began) != 0 {
			t.Error("an administrator waited, or was denied")
		}
		if <-ask("bob") || time.Since(began) != firstReading {
			t.Errorf("a denial came after %v, want %v", time.Since(began), firstReading)
		}
		bob, eve := ask("bob"), ask("eve")
		synctest.Wait()
		close(source.gate)
		if !<-bob || <-eve {
			t.Error("once the bindings are read, bob may and eve may not")
		}
		if waited := time.Since(began); waited != firstReading {
			t.Errorf("they waited %v longer than needed", waited-firstReading)
		}
	})
}

func TestRunFollowsTheCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, f := running(t)
		bob := &request.User{Name: "bob"}
		info := infoOf(t, "get ns/example.com/widgets=w")
		allowed := func() bool { synctest.Wait(); return a.Authorize(t.Context(), bob, info).Allowed }
		role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "widgets"},
			Rules: []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{"example.com"}, Resources: []string{"widgets"}}}}
		binding := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "b"},
			RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "widgets"}, Subjects: []rbacv1.Subject{{Kind: "User", Name: "bob"}}}
		f.Put(binding)
		if allowed() {
			t.Error("a role that doesn't exist yet allows")
		}
		f.Put(role)
		if !allowed() {
			t.Error("the role came and didn't allow")
		}
		f.Put(&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "widgets"}})
		if allowed() {
			t.Error("the role lost its rules and still allows")
		}
		f.Put(role)
		f.Remove(binding)
		if allowed() {
			t.Error("a binding that is gone still binds")
		}
	})
}

func attributes(user *request.User, kind string, obj, old api.Object) *request.Attributes {
	attrs := &request.Attributes{Operation: request.Create, Kind: &api.Kind{Resource: kind}, Object: obj, User: user, Namespace: obj.GetNamespace(), Name: obj.GetName()}
	attrs.Kind.Group, attrs.Kind.Version = rbacv1.GroupName, "v1"
	if old != nil {
		attrs.Operation, attrs.Old = request.Update, old
	}
	return attrs
}

func TestGuardRoles(t *testing.T) {
	rules := func(verbs ...string) []rbacv1.PolicyRule {
		return []rbacv1.PolicyRule{{Verbs: verbs, APIGroups: []string{""}, Resources: []string{"pods", "secrets"}}}
	}
	role := func(verbs ...string) *rbacv1.Role {
		return &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "r"}, Rules: rules(verbs...)}
	}
	binding := func(kind, name string) *rbacv1.RoleBinding {
		return &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "b"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: name}}
	}
	aggregate := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "c"}, AggregationRule: &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{}}}}
	collected := role("delete")
	collected.OwnerReferences = []metav1.OwnerReference{{Name: "o"}}
	alice, root := &request.User{Name: "alice", Groups: []string{"g"}}, &request.User{Name: "root", Groups: []string{request.Masters}}
	escalator, binder := &request.User{Name: "escalator"}, &request.User{Name: "binder"}
	const kept = `user "alice" (groups=["g"]) is attempting to grant RBAC permissions not currently held:` + "\n"
	for _, c := range []struct {
		name string
		want string
		*request.Attributes
	}{
		{"held", "", attributes(alice, "roles", role("get"), nil)},
		{"not held", `roles.rbac.authorization.k8s.io "r" is forbidden: ` + kept +
			`{APIGroups:[""], Resources:["pods"], Verbs:["create" "delete"]}` + "\n" + `{APIGroups:[""], Resources:["secrets"], Verbs:["create" "delete"]}`,
			attributes(alice, "roles", role("get", "create", "delete"), nil)},
		{"superuser", "", attributes(root, "roles", role("*"), nil)},
		{"escalator", "", attributes(escalator, "roles", role("*"), nil)},
		{"garbage collection", "", attributes(alice, "roles", collected, role("delete"))},
		{"update", "is attempting to grant", attributes(alice, "roles", role("delete"), role("get"))},
		{"bind held", "", attributes(alice, "rolebindings", binding("Role", "reader"), nil)},
		{"bind not held", `rolebindings.rbac.authorization.k8s.io "b" is forbidden: ` + kept + `{APIGroups:["*"], Resources:["*"], Verbs:["*"]}` + "\n" + `{NonResourceURLs:["*"], Verbs:["*"]}`,
			attributes(alice, "rolebindings", binding("ClusterRole", "cluster-admin"), nil)},
		{"bind missing", `roles.rbac.authorization.k8s.io "gone" not found`, attributes(alice, "rolebindings", binding("Role", "gone"), nil)},
		{"binder", "", attributes(binder, "rolebindings", binding("ClusterRole", "cluster-admin"), nil)},
		{"binder of another", "is attempting to grant", attributes(binder, "rolebindings", binding("ClusterRole", "edit"), nil)},
		{"cluster-wide", "is attempting to grant", attributes(alice, "clusterrolebindings",
			&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "b"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"}}, nil)},
		{"aggregation", `clusterroles.rbac.authorization.k8s.io "c" is forbidden: must have cluster-admin privileges to use the aggregationRule`, attributes(alice, "clusterroles", aggregate, nil)},
		{"aggregation taken away", "must have cluster-admin privileges", attributes(alice, "clusterroles", &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "c"}}, aggregate)},
	} {
		synctest.Test(t, func(t *testing.T) {
			grant := func(name, user string, rules ...rbacv1.PolicyRule) []api.Object {
				return []api.Object{
					&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Rules: rules},
					&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
						Subjects: []rbacv1.Subject{{Kind: "User", Name: user}}},
				}
			}
			objects := grant("reader", "alice", rules("get")...)
			objects = append(objects, grant("e", "escalator", rbacv1.PolicyRule{Verbs: []string{"escalate"}, APIGroups: []string{rbacv1.GroupName}, Resources: []string{"roles"}})...)
			objects = append(objects, grant("b", "binder", rbacv1.PolicyRule{Verbs: []string{"bind"}, APIGroups: []string{rbacv1.GroupName}, Resources: []string{"clusterroles"}, ResourceNames: []string{"cluster-admin"}})...)
			a, _ := running(t, objects...)
			err := a.GuardRoles(t.Context(), c.Attributes)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%s: %v", c.name, err)
			}
		})
	}
}

func TestReviews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := running(t)
		ask := func(user *request.User, namespace string, q api.Object) (api.Object, error) {
			ctx := request.WithInfo(request.WithUser(t.Context(), user), &request.Info{Namespace: namespace})
			return a.Review(ctx, q)
		}
		root, bob := &request.User{Name: "root", Groups: []string{request.Masters}}, &request.User{Name: "bob", Groups: []string{request.Authenticated}}
		get := &authorizationv1.ResourceAttributes{Namespace: "ns", Verb: "get", Resource: "pods"}

		got, err := ask(root, "", &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: get}})
		if err != nil || !got.(*authorizationv1.SelfSubjectAccessReview).Status.Allowed {
			t.Error(got, err)
		}
		got, err = ask(root, "", &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{User: "bob", ResourceAttributes: get}})
		if err != nil || got.(*authorizationv1.SubjectAccessReview).Status.Allowed {
			t.Error(got, err)
		}
		got, err = ask(root, "", &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User: "bob", Groups: []string{request.Authenticated}, NonResourceAttributes: &authorizationv1.NonResourceAttributes{Verb: "get", Path: "/version"}}})
		if err != nil || !got.(*authorizationv1.SubjectAccessReview).Status.Allowed {
			t.Error(got, err)
		}
		node := authorizationv1.SubjectAccessReviewSpec{User: "system:node:n1", Groups: []string{"system:nodes"}, ResourceAttributes: &authorizationv1.ResourceAttributes{
			Verb: "list", Resource: "pods", FieldSelector: &authorizationv1.FieldSelectorAttributes{RawSelector: "spec.nodeName=n1"}}}
		got, err = ask(root, "", &authorizationv1.SubjectAccessReview{Spec: node})
		if err != nil || !got.(*authorizationv1.SubjectAccessReview).Status.Allowed {
			t.Error(got, err)
		}
		node.ResourceAttributes.FieldSelector = &authorizationv1.FieldSelectorAttributes{Requirements: []metav1.FieldSelectorRequirement{
			{Key: "spec.nodeName", Operator: metav1.FieldSelectorOpIn, Values: []string{"n1"}}, {Key: "x", Operator: "Near"}}}
		got, err = ask(root, "", &authorizationv1.SubjectAccessReview{Spec: node})
		if err != nil {
			t.Fatal(err)
		}
		if status := got.(*authorizationv1.SubjectAccessReview).Status; !status.Allowed || status.EvaluationError != "spec.resourceAttributes.fieldSelector partially ignored due to parse error" {
			t.Error(status)
		}
		got, err = ask(bob, "", &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: "ns"}})
		if err != nil {
			t.Fatal(err)
		}
		if status := got.(*authorizationv1.SelfSubjectRulesReview).Status; len(status.ResourceRules) != 2 || len(status.NonResourceRules) != 2 || status.Incomplete {
			t.Error(status)
		}

		for want, q := range map[string]api.Object{
			"at least one of user or group must be specified":        &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{ResourceAttributes: get}},
			"exactly one of nonResourceAttributes":                   &authorizationv1.SelfSubjectAccessReview{},
			"cannot be specified in combination":                     &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: get, NonResourceAttributes: &authorizationv1.NonResourceAttributes{}}},
			"must be empty":                                          &authorizationv1.SelfSubjectAccessReview{ObjectMeta: metav1.ObjectMeta{Name: "x"}, Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: get}},
			"must match metadata.namespace":                          &authorizationv1.LocalSubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{User: "u", ResourceAttributes: get}},
			"spec.resourceAttributes.namespace must match namespace": &authorizationv1.LocalSubjectAccessReview{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}, Spec: authorizationv1.SubjectAccessReviewSpec{User: "u", ResourceAttributes: get}},
			"no namespace on request":                                &authorizationv1.SelfSubjectRulesReview{},
		} {
			_, err := ask(root, "elsewhere", q)
			if err == nil || !strings.Contains(err.Error(), want) || !apierrors.IsInvalid(err) && !apierrors.IsBadRequest(err) {
				t.Errorf("want %q, got %v", want, err)
			}
		}
	})
}
