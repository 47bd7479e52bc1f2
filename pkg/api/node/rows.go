// Package node holds the catalogue's rows of the group node.k8s.io (runtime classes).
package node

import (
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/validation"

	"skiff/pkg/api"
)

var gv = nodev1.SchemeGroupVersion

// Kinds returns the group's rows.
func Kinds() []*api.Kind {
	return []*api.Kind{runtimeClassKind()}
}

func runtimeClassKind() *api.Kind {
	return api.Define[nodev1.RuntimeClass, nodev1.RuntimeClassList](gv, "runtimeclasses", api.Kind{
		CreateOnUpdate: true,
		AnyFinalizer:   true,
		NameValidation: validation.NameIsDNSSubdomain,
		Validate:       validateClass,
		ValidateUpdate: validateClassUpdate,
		Columns:        runtimeClassColumns,
		Cells:          runtimeClassCells,
	})
}
