// Package policy holds the catalogue's rows of the group policy (pod disruption budgets).
package policy

import (
	policyv1 "k8s.io/api/policy/v1"

	"skiff/pkg/api"
)

var gv = policyv1.SchemeGroupVersion

// Kinds returns the group's rows.
func Kinds() []*api.Kind {
	return []*api.Kind{podDisruptionBudgetKind()}
}

func podDisruptionBudgetKind() *api.Kind {
	return api.Define[policyv1.PodDisruptionBudget, policyv1.PodDisruptionBudgetList](gv, "poddisruptionbudgets", api.Kind{
		ShortNames:     []string{"pdb"},
		Validate:       validateBudget,
		ValidateUpdate: validateBudgetUpdate,
		Namespaced:     true,
		HasGeneration:  true,
		AnyFinalizer:   true,
		NameValidation: api.PathSegment,
		Subresources:   map[string]*api.Subresource{"status": {ValidateUpdate: validateBudgetStatus}},
		Columns:        budgetColumns,
		Cells:          budgetCells,
	})
}
