package authz

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"skiff/pkg/api"
	"skiff/pkg/api/rbac"
	"skiff/pkg/apiserver/lookup"
	"skiff/pkg/apiserver/request"
)

// matrix is every request of a small world, in a namespace or (without one) at the cluster scope.
func matrix(namespace string) []*request.Info {
	var all []*request.Info
	for _, verb := range []string{"get", "list", "create", "escalate", "bind", "*"} {
		for _, path := range []string{"", "/", "/api", "/apis", "/healthz", "/healthz/etcd"} {
			all = append(all, &request.Info{Verb: verb, Path: path})
		}
		for _, group := range []string{"", "apps", rbacv1.GroupName} {
			for _, resource := range []string{"pods", "deployments", "roles", "og", "*"} {
				for _, subresource := range []string{"", "log", "scale"} {
					for _, name := range []string{"", "a", "c"} {
						all = append(all, &request.Info{IsResourceRequest: true, Verb: verb, APIGroup: group, Resource: resource, Subresource: subresource, Name: name, Namespace: namespace})
					}
				}
			}
		}
	}
	return all
}

// permits is RBAC as its documentation has it.
func permits(rule rbacv1.PolicyRule, info *request.Info) bool {
	any := func(set []string, values ...string) bool {
		return slices.ContainsFunc(append(values, "*"), func(v string) bool { return slices.Contains(set, v) })
	}
	if !any(rule.Verbs, info.Verb) {
		return false
	}
	if !info.IsResourceRequest {
		return slices.ContainsFunc(rule.NonResourceURLs, func(url string) bool {
			return url == info.Path || strings.HasSuffix(url, "*") && strings.HasPrefix(info.Path, strings.TrimRight(url, "*"))
		})
	}
	resources := []string{info.Resource}
	if info.Subresource != "" {
		resources = []string{info.Resource + "/" + info.Subresource, "*/" + info.Subresource}
	}
	return any(rule.APIGroups, info.APIGroup) && any(rule.Resources, resources...) &&
		(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, info.Name))
}

// world is a small cluster: roles, bindings, and aggregated roles whose rules a controller has filled in.
type world struct {
	slowRBAC
	*Authorizer
}

func drawWorld(t *rapid.T) *world {
	w := &world{slowRBAC: slowRBAC{}}
	var clusterRoles []*rbacv1.ClusterRole
	for _, obj := range rapid.SliceOfN(rapid.Custom(drawObject), 1, 12).Draw(t, "objects") {
		if role, ok := obj.(*rbacv1.ClusterRole); ok {
			role.Labels = map[string]string{"to": pick(t, "to", "a", "b", "")}
			if rapid.IntRange(0, 2).Draw(t, "aggregated") == 0 {
				role.Rules, role.AggregationRule = nil, &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"to": pick(t, "from", "a", "b")}}}}
			}
		}
		w.slowRBAC[w.key(obj)] = obj
	}
	for _, obj := range w.slowRBAC {
		if role, ok := obj.(*rbacv1.ClusterRole); ok {
			clusterRoles = append(clusterRoles, role)
		}
	}
	for changed := true; changed; {
		changed = false
		for _, role := range clusterRoles {
			rules, err := rbac.Aggregate(role, clusterRoles)
			if err != nil {
				t.Fatal(err)
			}
			if !equality.Semantic.DeepEqual(rules, role.Rules) {
				role.Rules, changed = rules, true
			}
		}
	}
	var objects []api.Object
	var changes []lookup.Change
	for _, obj := range w.slowRBAC {
		objects, changes = append(objects, obj), append(changes, lookup.Change{Object: obj})
	}
	read := make(chan struct{})
	close(read)
	w.Authorizer = &Authorizer{RBAC: NewRBAC(), node: newNodeAuthorizer(&Policy{}), source: lookup.NewFake(objects...), read: read}
	w.RBAC.Apply(changes)
	return w
}

// held are all rules that a user has, found the long way: bindings, their roles, and what those gather.
func (w *world) held(user *request.User, namespace string) []rbacv1.PolicyRule {
	var rules []rbacv1.PolicyRule
	for _, obj := range w.slowRBAC {
		var ref rbacv1.RoleRef
		var subjects []rbacv1.Subject
		switch b := obj.(type) {
		case *rbacv1.ClusterRoleBinding:
			ref, subjects = b.RoleRef, b.Subjects
		case *rbacv1.RoleBinding:
			if b.Namespace == namespace {
				ref, subjects = b.RoleRef, b.Subjects
			}
		}
		if slices.ContainsFunc(subjects, func(s rbacv1.Subject) bool { return w.means(s, obj.GetNamespace(), user) }) {
			rules = append(rules, w.gathered(ref, obj.GetNamespace(), map[string]bool{})...)
		}
	}
	return rules
}

func (w *world) gathered(ref rbacv1.RoleRef, namespace string, seen map[string]bool) []rbacv1.PolicyRule {
	role, _ := w.slowRBAC[w.key(&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: ref.Name}})].(*rbacv1.ClusterRole)
	if ref.Kind != "ClusterRole" || role == nil || role.AggregationRule == nil {
		return w.rules(ref, namespace)
	}
	var rules []rbacv1.PolicyRule
	if seen[ref.Name] {
		return nil
	}
	seen[ref.Name] = true
	for _, obj := range w.slowRBAC {
		if part, ok := obj.(*rbacv1.ClusterRole); ok && part.Labels["to"] == role.AggregationRule.ClusterRoleSelectors[0].MatchLabels["to"] {
			rules = append(rules, w.gathered(rbacv1.RoleRef{Kind: "ClusterRole", Name: part.Name}, "", seen)...)
		}
	}
	return rules
}

func drawUser(t *rapid.T) *request.User {
	return &request.User{Name: pick(t, "user", "u", "v", "system:serviceaccount:x:u"), Groups: rapid.SliceOfN(rapid.SampledFrom([]string{"u", "v", request.Masters}), 0, 2).Draw(t, "groups")}
}

// Every decision, and what the rules review says of it, is what the documentation says.
func TestMatrix(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, user, namespace := drawWorld(t), drawUser(t), pick(t, "namespace", "", "x", "y")
		held, everywhere := w.held(user, namespace), w.held(user, "")
		var listed []rbacv1.PolicyRule
		review := w.rulesReview(user, namespace)
		for _, r := range review.ResourceRules {
			listed = append(listed, rbacv1.PolicyRule{Verbs: r.Verbs, APIGroups: r.APIGroups, Resources: r.Resources, ResourceNames: r.ResourceNames})
		}
		for _, r := range review.NonResourceRules {
			listed = append(listed, rbacv1.PolicyRule{Verbs: r.Verbs, NonResourceURLs: r.NonResourceURLs})
		}
		for _, info := range matrix(namespace) {
			allowed := func(r rbacv1.PolicyRule) bool { return permits(r, info) }
			want := user.InGroup(request.Masters) || slices.ContainsFunc(held, allowed)
			if got := slices.ContainsFunc(listed, allowed); got != want {
				t.Fatalf("%+v, %+v: the review says %t: %+v", user, info, got, review)
			}
			if !info.IsResourceRequest { // a path is in no namespace, though the review lists it, as Kubernetes' does
				want = user.InGroup(request.Masters) || slices.ContainsFunc(everywhere, allowed)
			}
			if got := w.Authorize(t.Context(), user, info).Allowed; got != want {
				t.Fatalf("%+v, %+v: got %t", user, info, got)
			}
			attributes, paths := &authorizationv1.ResourceAttributes{Namespace: namespace, Verb: info.Verb, Group: info.APIGroup, Resource: info.Resource, Subresource: info.Subresource, Name: info.Name}, (*authorizationv1.NonResourceAttributes)(nil)
			if !info.IsResourceRequest {
				attributes, paths = nil, &authorizationv1.NonResourceAttributes{Verb: info.Verb, Path: info.Path}
			}
			if got := w.review(t.Context(), user, attributes, paths).Allowed; got != want {
				t.Fatalf("%+v, %+v: the access review says %t", user, info, got)
			}
		}
	})
}

// atoms are the single permissions of a rule, each a rule of its own.
func atoms(rule rbacv1.PolicyRule) []rbacv1.PolicyRule {
	var all []rbacv1.PolicyRule
	for _, verb := range rule.Verbs {
		for _, url := range rule.NonResourceURLs {
			all = append(all, rbacv1.PolicyRule{Verbs: []string{verb}, NonResourceURLs: []string{url}})
		}
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				one := rbacv1.PolicyRule{Verbs: []string{verb}, APIGroups: []string{group}, Resources: []string{resource}}
				if len(rule.ResourceNames) == 0 {
					all = append(all, one)
				}
				for _, name := range rule.ResourceNames {
					one.ResourceNames = []string{name}
					all = append(all, one)
				}
			}
		}
	}
	return all
}

// covers says that a rule holds all that an atom stands for, wildcards included.
func covers(rule, atom rbacv1.PolicyRule) bool {
	if len(atom.NonResourceURLs) > 0 {
		return permits(rule, &request.Info{Verb: atom.Verbs[0], Path: atom.NonResourceURLs[0]})
	}
	resource, subresource, _ := strings.Cut(atom.Resources[0], "/")
	if len(rule.ResourceNames) > 0 && len(atom.ResourceNames) == 0 {
		return false
	}
	info := &request.Info{IsResourceRequest: true, Verb: atom.Verbs[0], APIGroup: atom.APIGroups[0], Resource: resource, Subresource: subresource}
	if len(atom.ResourceNames) > 0 {
		info.Name = atom.ResourceNames[0]
	}
	return permits(rule, info)
}

// A role or a binding may be written by who holds all that it grants, and by whom a role lets escalate or bind;
// so nobody gains anything by writing one.
func TestNobodyGains(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, user, obj := drawWorld(t), drawUser(t), drawObject(t)
		namespace := obj.GetNamespace()
		held := w.held(user, namespace)
		may := func(info request.Info) bool {
			info.IsResourceRequest, info.APIGroup, info.Namespace = true, rbacv1.GroupName, namespace
			return user.InGroup(request.Masters) || slices.ContainsFunc(held, func(r rbacv1.PolicyRule) bool { return permits(r, &info) })
		}
		var granted []rbacv1.PolicyRule
		var free bool
		resource := map[string]string{"*v1.Role": "roles", "*v1.ClusterRole": "clusterroles", "*v1.RoleBinding": "rolebindings", "*v1.ClusterRoleBinding": "clusterrolebindings"}[fmt.Sprintf("%T", obj)]
		reference := rbacv1.RoleRef{}
		switch o := obj.(type) {
		case *rbacv1.ClusterRole:
			granted, free = o.Rules, may(request.Info{Verb: "escalate", Resource: resource})
		case *rbacv1.Role:
			granted, free = o.Rules, may(request.Info{Verb: "escalate", Resource: resource})
		case *rbacv1.ClusterRoleBinding:
			o.RoleRef.APIGroup = rbacv1.GroupName
			reference = o.RoleRef
		case *rbacv1.RoleBinding:
			o.RoleRef.APIGroup = rbacv1.GroupName
			reference = o.RoleRef
		}
		if reference.Name != "" {
			free = user.InGroup(request.Masters) || reference.Kind != "Other" && may(request.Info{Verb: "bind", Resource: strings.ToLower(reference.Kind) + "s", Name: reference.Name})
			granted = w.rules(reference, namespace)
			if !free && !w.exists(reference, namespace) {
				if err := w.GuardRoles(t.Context(), attributes(user, resource, obj, nil)); !apierrors.IsNotFound(err) && !apierrors.IsBadRequest(err) {
					t.Fatalf("%+v may refer to what isn't there: %v", obj, err)
				}
				return
			}
		}
		missing := slices.ContainsFunc(granted, func(rule rbacv1.PolicyRule) bool {
			return slices.ContainsFunc(atoms(rule), func(atom rbacv1.PolicyRule) bool {
				return !slices.ContainsFunc(held, func(r rbacv1.PolicyRule) bool { return covers(r, atom) })
			})
		})
		err := w.GuardRoles(t.Context(), attributes(user, resource, obj, nil))
		if want := free || !missing; (err == nil) != want || err != nil && !apierrors.IsForbidden(err) {
			t.Fatalf("%+v writes %+v: %v, want %t", user, obj, err, want)
		}
		if err != nil || free {
			return
		}
		for _, info := range matrix(namespace) {
			has := func(r rbacv1.PolicyRule) bool { return permits(r, info) }
			if slices.ContainsFunc(granted, has) && !slices.ContainsFunc(held, has) {
				t.Fatalf("%+v gains %+v by %+v", user, info, obj)
			}
		}
	})
}

func (w *world) exists(ref rbacv1.RoleRef, namespace string) bool {
	var obj api.Object = &rbacv1.ClusterRole{}
	switch {
	case ref.Kind == "Role" && namespace != "":
		obj = &rbacv1.Role{}
		obj.SetNamespace(namespace)
	case ref.Kind != "ClusterRole":
		return false
	}
	obj.SetName(ref.Name)
	return w.slowRBAC[w.key(obj)] != nil
}
