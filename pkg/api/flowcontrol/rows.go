// Package flowcontrol holds the catalogue's rows of the group flowcontrol.apiserver.k8s.io (API priority and fairness).
package flowcontrol

import (
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api"
)

var gv = flowcontrolv1.SchemeGroupVersion

// Kinds returns the group's rows.
func Kinds() []*api.Kind {
	return []*api.Kind{flowSchemaKind(), priorityLevelConfigurationKind()}
}

func flowSchemaKind() *api.Kind {
	return api.Define[flowcontrolv1.FlowSchema, flowcontrolv1.FlowSchemaList](gv, "flowschemas", api.Kind{
		UnconditionalUpdate: true,
		HasGeneration:       true,
		Default:             defaultFlowSchema,
		Validate:            validateFlowSchema,
		ValidateUpdate:      func(obj, _ api.Object) field.ErrorList { return validateFlowSchema(obj) },
		NameValidation:      validation.NameIsDNSSubdomain,
		Subresources:        map[string]*api.Subresource{"status": {KeepsMeta: true, ValidateUpdate: validateSchemaStatus}},
		Columns:             flowSchemaColumns,
		Cells:               flowSchemaCells,
	})
}

func priorityLevelConfigurationKind() *api.Kind {
	return api.Define[flowcontrolv1.PriorityLevelConfiguration, flowcontrolv1.PriorityLevelConfigurationList](gv, "prioritylevelconfigurations", api.Kind{
		UnconditionalUpdate: true,
		HasGeneration:       true,
		Default:             defaultPriorityLevel,
		Validate:            validatePriorityLevel,
		ValidateUpdate:      func(obj, _ api.Object) field.ErrorList { return validatePriorityLevel(obj) },
		NameValidation:      validation.NameIsDNSSubdomain,
		Subresources:        map[string]*api.Subresource{"status": {KeepsMeta: true, ValidateUpdate: validatePriorityLevelStatus}},
		Columns:             priorityLevelColumns,
		Cells:               priorityLevelCells,
	})
}
