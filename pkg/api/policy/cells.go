package policy

import (
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"skiff/pkg/api"
)

var budgetColumns = api.Columns("Name, Min Available, Max Unavailable, Allowed Disruptions#, Age")

func budgetCells(obj api.Object) []any {
	b := obj.(*policyv1.PodDisruptionBudget)
	return []any{b.Name, orNA(b.Spec.MinAvailable), orNA(b.Spec.MaxUnavailable), int64(b.Status.DisruptionsAllowed), api.Age(b)}
}

func orNA(n *intstr.IntOrString) string {
	if n == nil {
		return "N/A"
	}
	return n.String()
}
