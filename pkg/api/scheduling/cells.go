package scheduling

import (
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/utils/ptr"

	"skiff/pkg/api"
)

var priorityClassColumns = api.Columns("Name, Value#, Global-Default?, Age, PreemptionPolicy")

func priorityClassCells(obj api.Object) []any {
	c := obj.(*schedulingv1.PriorityClass)
	return []any{c.Name, int64(c.Value), c.GlobalDefault, api.Age(c), string(ptr.Deref(c.PreemptionPolicy, ""))}
}
