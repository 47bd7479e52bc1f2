package authz

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/auth/rbac/validation"
	"pgregory.net/rapid"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/lookup"
	"skiff/pkg/apiserver/request"
)

func (p *Policy) objects() []api.Object {
	var out []api.Object
	for _, o := range p.ClusterRoles {
		out = append(out, o)
	}
	for _, o := range p.Roles {
		out = append(out, o)
	}
	for _, o := range p.ClusterRoleBindings {
		out = append(out, o)
	}
	for _, o := range p.RoleBindings {
		out = append(out, o)
	}
	return out
}

func rbacOf(policy *Policy) *RBAC {
	rbac := NewRBAC()
	var changes []lookup.Change
	for _, obj := range policy.objects() {
		changes = append(changes, lookup.Change{Object: obj})
	}
	rbac.Apply(changes)
	return rbac
}

func bind(rbac *RBAC, namespace, roleKind, role, user string) {
	rbac.Apply([]lookup.Change{{Object: &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: role + "-" + user},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: roleKind, Name: role},
		Subjects:   []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: user}},
	}}})
}

func pick(t *rapid.T, label string, from ...string) string {
	return rapid.SampledFrom(from).Draw(t, label)
}

func drawRule(t *rapid.T) rbacv1.PolicyRule {
	some := func(label string, from ...string) []string {
		return rapid.SliceOfN(rapid.SampledFrom(from), 1, 3).Draw(t, label)
	}
	rule := rbacv1.PolicyRule{Verbs: some("verbs", "get", "list", "create", "*")}
	if rapid.IntRange(0, 4).Draw(t, "url") == 0 {
		rule.NonResourceURLs = some("urls", "/healthz", "/healthz/*", "/api", "*", "/a*", "/**")
		return rule
	}
	rule.APIGroups = some("groups", "", "apps", "*")
	rule.Resources = some("resources", "pods", "pods/log", "deployments", "*/scale", "*", "pods/scale", "deployments/scale", "og")
	if rapid.Bool().Draw(t, "named") {
		rule.ResourceNames = some("names", "a", "b")
	}
	return rule
}

func drawInfo(t *rapid.T) *request.Info {
	verb := pick(t, "verb", "get", "list", "create", "*")
	if rapid.IntRange(0, 4).Draw(t, "url") == 0 {
		return &request.Info{Verb: verb, Path: pick(t, "path", "/healthz", "/healthz/etcd", "/api", "/apis", "/", "")}
	}
	return &request.Info{
		IsResourceRequest: true, Verb: verb, APIGroup: pick(t, "group", "", "apps"),
		Namespace: pick(t, "namespace", "", "x", "y"), Name: pick(t, "name", "", "a", "b", "c"),
		Resource: pick(t, "resource", "pods", "deployments", "p", "*"), Subresource: pick(t, "subresource", "", "log", "scale", "og"),
	}
}

// ruleOf is the one rule that exactly covers a request.
func ruleOf(info *request.Info) rbacv1.PolicyRule {
	if !info.IsResourceRequest {
		return rbacv1.PolicyRule{Verbs: []string{info.Verb}, NonResourceURLs: []string{info.Path}}
	}
	resource := info.Resource
	if info.Subresource != "" {
		resource += "/" + info.Subresource
	}
	rule := rbacv1.PolicyRule{Verbs: []string{info.Verb}, APIGroups: []string{info.APIGroup}, Resources: []string{resource}}
	if info.Name != "" {
		rule.ResourceNames = []string{info.Name}
	}
	return rule
}

// A rule allows a request if, in the eyes of Kubernetes' own comparison of rules, it covers it.
func TestRulesAllowWhatTheyCover(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rule, info := drawRule(t), drawInfo(t)
		want, _ := validation.Covers([]rbacv1.PolicyRule{rule}, []rbacv1.PolicyRule{ruleOf(info)})
		if got := ruleAllows(&rule, info); got != want {
			t.Fatalf("%+v for %+v: got %t", rule, info, got)
		}
	})
}

// slowRBAC keeps roles and bindings as they are and goes through all of them.
type slowRBAC map[string]api.Object

func (s slowRBAC) key(obj api.Object) string {
	return fmt.Sprintf("%T %s/%s", obj, obj.GetNamespace(), obj.GetName())
}

func (s slowRBAC) allows(user *request.User, info *request.Info) bool {
	for _, obj := range s {
		var ref rbacv1.RoleRef
		var subjects []rbacv1.Subject
		switch b := obj.(type) {
		case *rbacv1.ClusterRoleBinding:
			ref, subjects = b.RoleRef, b.Subjects
		case *rbacv1.RoleBinding:
			if b.Namespace != info.Namespace {
				continue
			}
			ref, subjects = b.RoleRef, b.Subjects
		default:
			continue
		}
		if slices.ContainsFunc(subjects, func(subject rbacv1.Subject) bool { return s.means(subject, obj.GetNamespace(), user) }) &&
			allows(s.rules(ref, obj.GetNamespace()), info) {
			return true
		}
	}
	return false
}

func (slowRBAC) means(subject rbacv1.Subject, namespace string, user *request.User) bool {
	switch subject.Kind {
	case "User":
		return user.Name == subject.Name
	case "Group":
		return slices.Contains(user.Groups, subject.Name)
	case "ServiceAccount":
		if subject.Namespace != "" {
			namespace = subject.Namespace
		}
		return namespace != "" && user.Name == "system:serviceaccount:"+namespace+":"+subject.Name
	}
	return false
}

func (s slowRBAC) rules(ref rbacv1.RoleRef, namespace string) []rbacv1.PolicyRule {
	if ref.Kind == "ClusterRole" {
		if role, ok := s[s.key(&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: ref.Name}})]; ok {
			return role.(*rbacv1.ClusterRole).Rules
		}
	}
	if ref.Kind == "Role" && namespace != "" {
		if role, ok := s[s.key(&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: ref.Name, Namespace: namespace}})]; ok {
			return role.(*rbacv1.Role).Rules
		}
	}
	return nil
}

func drawObject(t *rapid.T) api.Object {
	meta := metav1.ObjectMeta{Name: pick(t, "object", "a", "b")}
	ref := rbacv1.RoleRef{Kind: pick(t, "ref", "ClusterRole", "Role", "Other"), Name: pick(t, "role", "a", "b")}
	subjects := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) rbacv1.Subject {
		return rbacv1.Subject{Kind: pick(t, "kind", "User", "Group", "ServiceAccount", "Other"),
			Namespace: pick(t, "in", "", "x"), Name: pick(t, "who", "u", "v", "system:serviceaccount:x:u")}
	}), 0, 3).Draw(t, "subjects")
	rules := rapid.SliceOfN(rapid.Custom(drawRule), 0, 3).Draw(t, "rules")
	inNamespace := meta
	inNamespace.Namespace = pick(t, "namespace", "x", "y")
	switch rapid.IntRange(0, 3).Draw(t, "what") {
	case 0:
		return &rbacv1.ClusterRole{ObjectMeta: meta, Rules: rules}
	case 1:
		return &rbacv1.Role{ObjectMeta: inNamespace, Rules: rules}
	case 2:
		return &rbacv1.ClusterRoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: subjects}
	}
	return &rbacv1.RoleBinding{ObjectMeta: inNamespace, RoleRef: ref, Subjects: subjects}
}

// After any changes the index decides as a search through all objects does, and
// keeps nothing of what is gone.
func TestIndexIsTheSearch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fast, slow := NewRBAC(), slowRBAC{}
		for range rapid.IntRange(1, 30).Draw(t, "batches") {
			var batch []lookup.Change
			for range rapid.IntRange(1, 3).Draw(t, "changes") {
				obj := drawObject(t)
				deleted := rapid.IntRange(0, 2).Draw(t, "deleted") == 0
				if deleted {
					delete(slow, slow.key(obj))
				} else {
					slow[slow.key(obj)] = obj
				}
				batch = append(batch, lookup.Change{Object: obj, Deleted: deleted})
			}
			fast.Apply(batch)
			groups := rapid.SliceOfN(rapid.SampledFrom([]string{"u", "v"}), 0, 2).Draw(t, "groups")
			info := drawInfo(t)
			for _, name := range []string{"u", "system:serviceaccount:x:u", "system:serviceaccount::u"} {
				for _, namespace := range []string{"", "x", "y"} {
					user, info := &request.User{Name: name, Groups: groups}, *info
					if info.IsResourceRequest {
						info.Namespace = namespace
					}
					if got, want := fast.authorize(user, &info) != nil, slow.allows(user, &info); got != want {
						t.Fatalf("%+v, %+v: got %t, want %t", user, info, got, want)
					}
				}
			}
		}
		var all []lookup.Change
		for _, obj := range slow {
			all = append(all, lookup.Change{Object: obj, Deleted: true})
		}
		fast.Apply(all)
		if len(fast.roles) > 0 || len(fast.bindings) > 0 || len(fast.index.Load().namespaces) > 0 || len(fast.index.Load().cluster) > 0 {
			t.Fatalf("left over: %v %v %v", fast.roles, fast.bindings, fast.index.Load())
		}
	})
}

func TestSubjects(t *testing.T) {
	for _, c := range []struct {
		subject   rbacv1.Subject
		namespace string
		want      subject
		ok        bool
	}{
		{rbacv1.Subject{Kind: "User", Name: "u"}, "", subject{name: "u"}, true},
		{rbacv1.Subject{Kind: "Group", Name: "u"}, "", subject{group: true, name: "u"}, true},
		{rbacv1.Subject{Kind: "ServiceAccount", Name: "u"}, "x", subject{name: "system:serviceaccount:x:u"}, true},
		{rbacv1.Subject{Kind: "ServiceAccount", Name: "u", Namespace: "y"}, "x", subject{name: "system:serviceaccount:y:u"}, true},
		{rbacv1.Subject{Kind: "ServiceAccount", Name: "u"}, "", subject{}, false},
		{rbacv1.Subject{Kind: "user", Name: "u"}, "", subject{}, false},
	} {
		if got, ok := subjectKey(c.subject, c.namespace); ok != c.ok || ok && got != c.want {
			t.Errorf("%+v in %q: %+v %t", c.subject, c.namespace, got, ok)
		}
	}
}

func TestAuthorizeDoesNotAllocate(t *testing.T) {
	rbac := rbacOf(defaultPolicy(t))
	bind(rbac, "dev", "ClusterRole", "edit", "bob")
	user := &request.User{Name: "bob", Groups: []string{"a", "b", request.Authenticated}}
	allowed, denied := infoOf(t, "update dev/apps/deployments/scale=web"), infoOf(t, "delete dev//nodes=n")
	if n := testing.AllocsPerRun(100, func() {
		if rbac.authorize(user, allowed) == nil || rbac.authorize(user, denied) != nil {
			panic("wrong decision")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestReasons(t *testing.T) {
	rbac := NewRBAC()
	authorizer := &Authorizer{RBAC: rbac, node: newNodeAuthorizer(defaultPolicy(t)), read: make(chan struct{})}
	close(authorizer.read)
	rbac.Apply([]lookup.Change{
		{Object: &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Rules: []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}}}}},
		{Object: &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "crb"}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "r"},
			Subjects: []rbacv1.Subject{{Kind: "Group", Name: "g"}}}},
		{Object: &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "rb"}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "r"},
			Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: "sa"}}}},
		{Object: &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "dangling"}, RoleRef: rbacv1.RoleRef{Kind: "Role", Name: "gone"},
			Subjects: []rbacv1.Subject{{Kind: "User", Name: "u"}}}},
	})
	for _, c := range []struct {
		user *request.User
		want string
	}{
		{&request.User{Name: "u", Groups: []string{"g"}}, `RBAC: allowed by ClusterRoleBinding "crb" of ClusterRole "r" to Group "g"`},
		{&request.User{Name: "system:serviceaccount:ns:sa"}, `RBAC: allowed by RoleBinding "rb/ns" of ClusterRole "r" to ServiceAccount "sa/ns"`},
		{&request.User{Name: "u"}, `RBAC: role.rbac.authorization.k8s.io "gone" not found`},
		{&request.User{Name: "v"}, ""},
		{&request.User{Name: "v", Groups: []string{request.Masters}}, ""},
	} {
		if got := authorizer.Authorize(t.Context(), c.user, infoOf(t, "get ns//pods=p")).Reason(); got != c.want {
			t.Errorf("%+v: %s", c.user, got)
		}
	}
}

func TestForbiddenMessages(t *testing.T) {
	user := &request.User{Name: "<u>"}
	for request, want := range map[string]string{
		"list ns/apps/deployments": `deployments.apps is forbidden: User "&lt;u&gt;" cannot list resource "deployments" in API group "apps" in the namespace "ns": why`,
		"get //nodes/proxy=n":      `nodes "n" is forbidden: User "&lt;u&gt;" cannot get resource "nodes/proxy" in API group "" at the cluster scope: why`,
		"get url:/metrics":         `forbidden: User "&lt;u&gt;" cannot get path "/metrics": why`,
	} {
		if got := Forbidden(user, infoOf(t, request), "why").Error(); got != want {
			t.Errorf("%s: %s", request, got)
		}
	}
}

func BenchmarkAuthorize(b *testing.B) {
	rbac := rbacOf(defaultPolicy(b))
	for i := range 10_000 {
		bind(rbac, fmt.Sprintf("ns-%d", rand.IntN(1000)), "ClusterRole", "edit", fmt.Sprintf("user-%d", i))
	}
	bind(rbac, "dev", "ClusterRole", "edit", "bob")
	user := &request.User{Name: "bob", Groups: []string{request.Authenticated}}
	info := infoOf(b, "update dev/apps/deployments=web")
	b.ReportAllocs()
	for b.Loop() {
		if rbac.authorize(user, info) == nil {
			b.Fatal("denied")
		}
	}
}
