package node

import (
	nodev1 "k8s.io/api/node/v1"

	"skiff/pkg/api"
)

var runtimeClassColumns = api.Columns("Name, Handler, Age")

func runtimeClassCells(obj api.Object) []any {
	c := obj.(*nodev1.RuntimeClass)
	return []any{c.Name, c.Handler, api.Age(c)}
}
