// Package coordination holds the catalogue's rows of the group coordination.k8s.io (leases).
package coordination

import (
	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/api/validation"

	"skiff/pkg/api"
)

var gv = coordinationv1.SchemeGroupVersion

// Kinds returns the group's rows.
func Kinds() []*api.Kind {
	return []*api.Kind{leaseKind()}
}

func leaseKind() *api.Kind {
	return api.Define[coordinationv1.Lease, coordinationv1.LeaseList](gv, "leases", api.Kind{
		Validate:         validateLease,
		ValidateUpdate:   validateLeaseUpdate,
		Namespaced:       true,
		CreateOnUpdate:   true,
		AnyFinalizer:     true,
		PrepareForCreate: prepareLeaseCreate,
		PrepareForUpdate: prepareLeaseUpdate,
		NameValidation:   validation.NameIsDNSSubdomain,
		Columns:          leaseColumns,
		Cells:            leaseCells,
	})
}
