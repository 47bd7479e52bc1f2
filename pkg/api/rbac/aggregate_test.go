package rbac

import (
	"fmt"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestAggregate(t *testing.T) {
	role := func(name, label string, verbs ...string) *rbacv1.ClusterRole {
		r := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"for": label}}}
		for _, verb := range verbs {
			r.Rules = append(r.Rules, rbacv1.PolicyRule{Verbs: []string{verb}})
		}
		return r
	}
	selecting := func(values ...string) *rbacv1.ClusterRole {
		r := role("sum", "x", "stale")
		r.AggregationRule = &rbacv1.AggregationRule{}
		for _, value := range values {
			r.AggregationRule.ClusterRoleSelectors = append(r.AggregationRule.ClusterRoleSelectors, metav1.LabelSelector{MatchLabels: map[string]string{"for": value}})
		}
		return r
	}
	parts := []*rbacv1.ClusterRole{role("b", "x", "get", "list"), role("a", "x", "watch", "get"), role("c", "y", "delete", "get")}
	for _, c := range []struct {
		role *rbacv1.ClusterRole
		want string
	}{
		{role("plain", "", "own"), "[own]"},
		{selecting(), "[]"},
		{selecting("x"), "[watch get list]"},
		{selecting("y", "x"), "[delete get watch list]"},
		{selecting("z"), "[]"},
		{selecting("not a value!"), "error"},
	} {
		rules, err := Aggregate(c.role, append(parts, c.role))
		verbs := []string{}
		for _, rule := range rules {
			verbs = append(verbs, rule.Verbs...)
		}
		got := fmt.Sprint(verbs)
		if err != nil {
			got = "error"
		}
		if got != c.want {
			t.Errorf("%+v: %s, want %s", c.role.AggregationRule, got, c.want)
		}
	}
}
