package resource

import (
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/utils/ptr"

	"skiff/pkg/api"
)

var nameAndAge = api.Columns("Name, Age")

func nameAndAgeCells(obj api.Object) []any { return []any{obj.GetName(), api.Age(obj)} }

var claimColumns = api.Columns("Name, State, Age")

func claimCells(obj api.Object) []any {
	c := obj.(*resourcev1.ResourceClaim)
	var states []string
	if c.DeletionTimestamp != nil {
		states = append(states, "deleted")
	}
	switch {
	case c.Status.Allocation != nil:
		states = append(states, "allocated")
		if len(c.Status.ReservedFor) > 0 {
			states = append(states, "reserved")
		}
	case c.DeletionTimestamp == nil:
		states = append(states, "pending")
	}
	return []any{c.Name, strings.Join(states, ","), api.Age(c)}
}

var sliceColumns = api.Columns("Name, Node, Driver, Pool, Age")

func sliceCells(obj api.Object) []any {
	s := obj.(*resourcev1.ResourceSlice)
	return []any{s.Name, ptr.Deref(s.Spec.NodeName, ""), s.Spec.Driver, s.Spec.Pool.Name, api.Age(s)}
}
