package coordination

import (
	coordinationv1 "k8s.io/api/coordination/v1"

	"skiff/pkg/api"
)

var leaseColumns = api.Columns("Name, Holder, Age")

func leaseCells(obj api.Object) []any {
	l := obj.(*coordinationv1.Lease)
	holder := ""
	if l.Spec.HolderIdentity != nil {
		holder = *l.Spec.HolderIdentity
	}
	return []any{l.Name, holder, api.Age(l)}
}
