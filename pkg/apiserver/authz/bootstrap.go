package authz

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/auth/rbac/validation"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/lookup"
)

// Bootstrap creates what is missing of a policy, and adds to what is there: rules and
// subjects, labels and annotations. It takes nothing away but what can't be added to: a
// binding to another role is replaced. Objects whose annotation
// rbac.authorization.kubernetes.io/autoupdate is "false" are left alone.
func Bootstrap(ctx context.Context, w lookup.Writer, policy *Policy) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(16) // the store commits concurrent writes together
	ensure := func(resource string, expected api.Object, reconcile func(current, expected api.Object) api.Object) {
		group.Go(func() error {
			err := w.Update(ctx, rbacv1.Resource(resource), expected.GetNamespace(), expected.GetName(), func(current api.Object) (api.Object, error) {
				if current == nil {
					return expected, nil
				}
				if current.GetAnnotations()[rbacv1.AutoUpdateAnnotationKey] == "false" {
					return current, nil
				}
				current.SetLabels(merged(expected.GetLabels(), current.GetLabels()))
				current.SetAnnotations(merged(expected.GetAnnotations(), current.GetAnnotations()))
				return reconcile(current, expected), nil
			})
			if err != nil {
				return fmt.Errorf("default RBAC policy: %s %s: %w", resource, strings.TrimPrefix(expected.GetNamespace()+"/"+expected.GetName(), "/"), err)
			}
			return nil
		})
	}
	for _, role := range policy.ClusterRoles {
		ensure("clusterroles", role, reconcileClusterRole)
	}
	for _, role := range policy.Roles {
		ensure("roles", role, reconcileRole)
	}
	for _, binding := range policy.ClusterRoleBindings {
		ensure("clusterrolebindings", binding, reconcileClusterRoleBinding)
	}
	for _, binding := range policy.RoleBindings {
		ensure("rolebindings", binding, reconcileRoleBinding)
	}
	return group.Wait()
}

// merged is base with what over says on top.
func merged(base, over map[string]string) map[string]string {
	out := maps.Clone(base)
	if out == nil {
		return over
	}
	maps.Copy(out, over)
	return out
}

func reconcileClusterRole(current, expected api.Object) api.Object {
	have, want := current.(*rbacv1.ClusterRole), expected.(*rbacv1.ClusterRole)
	if want.AggregationRule == nil {
		have.Rules = withRules(have.Rules, want.Rules)
		have.AggregationRule = nil
		return have
	}
	// The rules of an aggregated role are the aggregation's business.
	if have.AggregationRule == nil {
		have.AggregationRule = &rbacv1.AggregationRule{}
	}
	for _, selector := range want.AggregationRule.ClusterRoleSelectors {
		if !slices.ContainsFunc(have.AggregationRule.ClusterRoleSelectors, func(s metav1.LabelSelector) bool {
			return equality.Semantic.DeepEqual(s, selector)
		}) {
			have.AggregationRule.ClusterRoleSelectors = append(have.AggregationRule.ClusterRoleSelectors, selector)
		}
	}
	return have
}

func reconcileRole(current, expected api.Object) api.Object {
	have, want := current.(*rbacv1.Role), expected.(*rbacv1.Role)
	have.Rules = withRules(have.Rules, want.Rules)
	return have
}

func withRules(have, want []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	_, missing := validation.Covers(have, want)
	return append(have, missing...)
}

func reconcileClusterRoleBinding(current, expected api.Object) api.Object {
	have, want := current.(*rbacv1.ClusterRoleBinding), expected.(*rbacv1.ClusterRoleBinding)
	have.Subjects = withSubjects(have.Subjects, want.Subjects, have.RoleRef == want.RoleRef)
	have.RoleRef = want.RoleRef
	return have
}

func reconcileRoleBinding(current, expected api.Object) api.Object {
	have, want := current.(*rbacv1.RoleBinding), expected.(*rbacv1.RoleBinding)
	have.Subjects = withSubjects(have.Subjects, want.Subjects, have.RoleRef == want.RoleRef)
	have.RoleRef = want.RoleRef
	return have
}

// withSubjects adds the subjects that are missing. Where the role changes, those bound
// to the other one don't come along.
func withSubjects(have, want []rbacv1.Subject, sameRole bool) []rbacv1.Subject {
	if !sameRole {
		return want
	}
	for _, subject := range want {
		if !slices.Contains(have, subject) {
			have = append(have, subject)
		}
	}
	return have
}
