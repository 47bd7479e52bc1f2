package clusterrole

import (
	"fmt"
	"testing"

	rbac "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestAggregate(t *testing.T) {
	role := func(name, label string, verbs ...string) *rbac.ClusterRole {
		r := &rbac.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{label: "true"}}}
		for _, verb := range verbs {
			r.Rules = append(r.Rules, rbac.PolicyRule{Verbs: []string{verb}})
		}
		return r
	}
	whole := role("whole", "a", "old")
	whole.AggregationRule = &rbac.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{
		{MatchLabels: map[string]string{"b": "true"}}, {MatchLabels: map[string]string{"a": "true"}},
	}}
	all := []*rbac.ClusterRole{role("z", "a", "get", "list"), whole, role("m", "a", "watch", "get"), role("x", "b", "list"), role("no", "c", "delete")}
	rules, err := Aggregate(whole, all)
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	for _, rule := range rules {
		got += fmt.Sprint(rule.Verbs)
	}
	if got != "[list][watch][get]" {
		t.Error(got)
	}
	whole.AggregationRule.ClusterRoleSelectors[0].MatchExpressions = []metav1.LabelSelectorRequirement{{Key: "k", Operator: "bad"}}
	if _, err := Aggregate(whole, all); err == nil {
		t.Error("a bad selector is taken")
	}
}
