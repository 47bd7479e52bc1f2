package api

import "k8s.io/apimachinery/pkg/runtime/schema"

// groupPriorities order the groups that Kubernetes has itself; groups of one priority follow by name. The
// numbers stand in APIServices, between which others put theirs.
var groupPriorities = map[string]int32{
	"": 18000, "apps": 17800, "events.k8s.io": 17750, "authentication.k8s.io": 17700, "authorization.k8s.io": 17600,
	"autoscaling": 17500, "batch": 17400, "certificates.k8s.io": 17300, "networking.k8s.io": 17200, "policy": 17100,
	"rbac.authorization.k8s.io": 17000, "storage.k8s.io": 16800, "admissionregistration.k8s.io": 16700, "apiextensions.k8s.io": 16700,
	"scheduling.k8s.io": 16600, "coordination.k8s.io": 16500, "node.k8s.io": 16300, "discovery.k8s.io": 16200, "resource.k8s.io": 16200,
	"flowcontrol.apiserver.k8s.io": 16100,
	"apiregistration.k8s.io":       20001, // it has no APIService itself, and none can go before it
}

// versionPriorities are those within a group, where they aren't 15.
var versionPriorities = map[schema.GroupVersion]int32{
	{Version: "v1"}: 1, {Group: "autoscaling", Version: "v2"}: 30, {Group: "flowcontrol.apiserver.k8s.io", Version: "v1"}: 21,
	{Group: "resource.k8s.io", Version: "v1"}: 21,
}

// What custom resources' groups have.
const customGroupPriority, customVersionPriority = 1000, 100

func groupPriority(group string) int32 {
	priority, _ := Priority(schema.GroupVersion{Group: group})
	return priority
}

// Priority is where a version of a group stands in discovery: higher numbers come first.
func Priority(gv schema.GroupVersion) (group, version int32) {
	group, builtin := groupPriorities[gv.Group]
	if !builtin {
		return customGroupPriority, customVersionPriority
	}
	if version, ok := versionPriorities[gv]; ok {
		return group, version
	}
	return group, 15
}
