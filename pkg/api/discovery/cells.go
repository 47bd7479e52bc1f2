package discovery

import (
	"strconv"

	discoveryv1 "k8s.io/api/discovery/v1"

	"skiff/pkg/api"
)

var sliceColumns = api.Columns("Name, AddressType, Ports, Endpoints, Age")

func sliceCells(obj api.Object) []any {
	s := obj.(*discoveryv1.EndpointSlice)
	var ports, addresses []string
	for _, p := range s.Ports {
		switch {
		case p.Port != nil:
			ports = append(ports, strconv.Itoa(int(*p.Port)))
		case p.Name != nil:
			ports = append(ports, *p.Name)
		default:
			ports = append(ports, "*")
		}
	}
	for _, e := range s.Endpoints {
		addresses = append(addresses, e.Addresses...)
	}
	const most = 3
	return []any{s.Name, string(s.AddressType), api.Some(ports, most, ",", "<unset>"), api.Some(addresses, most, ",", "<unset>"), api.Age(s)}
}
