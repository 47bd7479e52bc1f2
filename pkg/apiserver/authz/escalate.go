package authz

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/component-helpers/auth/rbac/validation"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/lookup"
	"skiff/pkg/apiserver/request"
)

// GuardRoles refuses a create or update of a role or binding by which the user would
// grant more than they hold, unless they may use the verb "escalate" on the role or
// "bind" on the role that a binding refers to. Writes of other kinds pass.
func (a *Authorizer) GuardRoles(ctx context.Context, attrs *request.Attributes) error {
	obj, ok := attrs.Object.(api.Object)
	if !ok || attrs.Subresource != "" || attrs.User == nil || attrs.User.InGroup(request.Masters) {
		return nil
	}
	if attrs.Operation != request.Create && attrs.Operation != request.Update {
		return nil
	}
	old, _ := attrs.Old.(api.Object)
	if old != nil && onlyLifecycleChanged(obj, old) {
		return nil
	}
	switch o := obj.(type) {
	case *rbacv1.Role:
		return a.guardRole(ctx, attrs, o.Rules, false)
	case *rbacv1.ClusterRole:
		oldRole, _ := old.(*rbacv1.ClusterRole)
		return a.guardRole(ctx, attrs, o.Rules, aggregated(o) || aggregated(oldRole))
	case *rbacv1.RoleBinding:
		return a.guardBinding(ctx, attrs, o.RoleRef)
	case *rbacv1.ClusterRoleBinding:
		return a.guardBinding(ctx, attrs, o.RoleRef)
	}
	return nil
}

func aggregated(role *rbacv1.ClusterRole) bool {
	return role != nil && role.AggregationRule != nil && len(role.AggregationRule.ClusterRoleSelectors) > 0
}

// onlyLifecycleChanged lets garbage collection work on roles it doesn't hold.
func onlyLifecycleChanged(obj, old api.Object) bool {
	copied := obj.DeepCopyObject().(api.Object)
	copied.SetOwnerReferences(old.GetOwnerReferences())
	copied.SetFinalizers(old.GetFinalizers())
	copied.SetManagedFields(old.GetManagedFields())
	return equality.Semantic.DeepEqual(copied, old)
}

func (a *Authorizer) guardRole(ctx context.Context, attrs *request.Attributes, rules []rbacv1.PolicyRule, aggregated bool) error {
	resource := attrs.Kind.GroupResource()
	name := ""
	if info := request.InfoFrom(ctx); info != nil {
		name = info.Name // a create by POST has none: rights to single names don't count then
	}
	if a.mayUse(ctx, attrs.User, "escalate", resource, attrs.Namespace, name) {
		return nil
	}
	if err := a.covers(attrs.User, attrs.Namespace, rules); err != nil {
		return apierrors.NewForbidden(resource, objectNameOf(attrs), err)
	}
	// An aggregation rule may gather anything.
	if aggregated && a.covers(attrs.User, attrs.Namespace, everything) != nil {
		return apierrors.NewForbidden(resource, objectNameOf(attrs), errors.New("must have cluster-admin privileges to use the aggregationRule"))
	}
	return nil
}

var everything = []rbacv1.PolicyRule{
	{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}},
	{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}},
}

func (a *Authorizer) guardBinding(ctx context.Context, attrs *request.Attributes, ref rbacv1.RoleRef) error {
	resource := map[string]string{"ClusterRole": "clusterroles", "Role": "roles"}[ref.Kind]
	if resource != "" && a.mayUse(ctx, attrs.User, "bind", schema.GroupResource{Group: ref.APIGroup, Resource: resource}, attrs.Namespace, ref.Name) {
		return nil
	}
	rules, err := a.roleRules(ctx, ref, attrs.Namespace)
	if err != nil {
		return err
	}
	if err := a.covers(attrs.User, attrs.Namespace, rules); err != nil {
		return apierrors.NewForbidden(attrs.Kind.GroupResource(), objectNameOf(attrs), err)
	}
	return nil
}

// roleRules reads the rules of the role that a binding in a namespace refers to from
// the store: it may have been created a moment ago.
func (a *Authorizer) roleRules(ctx context.Context, ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
	switch ref.Kind {
	case "Role":
		role, err := lookup.Live[*rbacv1.Role](ctx, a.source, rbacv1.Resource("roles"), namespace, ref.Name)
		if err != nil {
			return nil, err
		}
		return role.Rules, nil
	case "ClusterRole":
		role, err := lookup.Live[*rbacv1.ClusterRole](ctx, a.source, rbacv1.Resource("clusterroles"), "", ref.Name)
		if err != nil {
			return nil, err
		}
		return role.Rules, nil
	}
	return nil, apierrors.NewBadRequest(fmt.Sprintf("unsupported role reference kind: %q", ref.Kind))
}

func objectNameOf(attrs *request.Attributes) string {
	return attrs.Object.(api.Object).GetName()
}

func (a *Authorizer) mayUse(ctx context.Context, user *request.User, verb string, resource schema.GroupResource, namespace, name string) bool {
	return a.Authorize(ctx, user, &request.Info{
		IsResourceRequest: true,
		Verb:              verb,
		APIGroup:          resource.Group,
		APIVersion:        "*",
		Resource:          resource.Resource,
		Namespace:         namespace,
		Name:              name,
	}).Allowed
}

// covers is nil when the user holds all the rules in a namespace ("": everywhere).
func (a *Authorizer) covers(user *request.User, namespace string, rules []rbacv1.PolicyRule) error {
	held, resolution := a.RBAC.Rules(user, namespace)
	covered, missing := validation.Covers(held, rules)
	if covered {
		return nil
	}
	lines := map[string]bool{}
	for _, rule := range compact(missing) {
		lines[describe(rule)] = true
	}
	message := fmt.Sprintf("user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s",
		user.Name, user.Groups, strings.Join(slices.Sorted(maps.Keys(lines)), "\n"))
	if resolution != nil {
		message += fmt.Sprintf("; resolution errors: %v", []error{resolution})
	}
	return errors.New(message)
}

// compact joins the verbs of rules for one and the same resource, as they come out of
// a comparison that takes rules apart.
func compact(rules []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	type target struct{ group, resource, name string }
	var out []rbacv1.PolicyRule
	at := map[target]int{}
	for _, rule := range rules {
		if len(rule.NonResourceURLs) > 0 || len(rule.APIGroups) != 1 || len(rule.Resources) != 1 || len(rule.ResourceNames) > 1 {
			out = append(out, rule)
			continue
		}
		key := target{rule.APIGroups[0], rule.Resources[0], strings.Join(rule.ResourceNames, "")}
		if i, ok := at[key]; ok {
			out[i].Verbs = append(slices.Clone(out[i].Verbs), rule.Verbs...)
			continue
		}
		at[key] = len(out)
		out = append(out, rule)
	}
	return out
}

func describe(rule rbacv1.PolicyRule) string {
	var parts []string
	for _, part := range []struct {
		name   string
		values []string
	}{
		{"APIGroups", rule.APIGroups},
		{"Resources", rule.Resources},
		{"NonResourceURLs", rule.NonResourceURLs},
		{"ResourceNames", rule.ResourceNames},
		{"Verbs", rule.Verbs},
	} {
		if len(part.values) > 0 {
			parts = append(parts, fmt.Sprintf("%s:%q", part.name, part.values))
		}
	}
	return "{" + strings.Join(parts, ", ") + "}"
}
