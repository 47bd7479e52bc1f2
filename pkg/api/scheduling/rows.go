// Package scheduling holds the catalogue's rows of the group scheduling.k8s.io (priority classes).
package scheduling

import (
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/validation"

	"skiff/pkg/api"
)

var gv = schedulingv1.SchemeGroupVersion

// Kinds returns the group's rows.
func Kinds() []*api.Kind {
	return []*api.Kind{priorityClassKind()}
}

func priorityClassKind() *api.Kind {
	return api.Define[schedulingv1.PriorityClass, schedulingv1.PriorityClassList](gv, "priorityclasses", api.Kind{
		ShortNames:          []string{"pc"},
		Validate:            validatePriorityClass,
		ValidateUpdate:      validatePriorityClassUpdate,
		UnconditionalUpdate: true,
		Default:             defaultPriorityClass,
		PrepareForCreate:    prepareClassCreate,
		NameValidation:      validation.NameIsDNSSubdomain,
		Columns:             priorityClassColumns,
		Cells:               priorityClassCells,
	})
}
