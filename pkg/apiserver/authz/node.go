package authz

import (
	"context"
	"fmt"
	"slices"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"

	"skiff/pkg/apiserver/request"
)

// nodeAuthorizer lets a node do what concerns itself and the pods bound to it. What
// it is asked to create or change is checked by the NodeRestriction admission plugin,
// since it can't be seen here.
type nodeAuthorizer struct {
	graph *graph
	rules []rbacv1.PolicyRule // for what is not subdivided: those of the role system:node
}

// patience is how long a node's question about an object that none of its pods refers
// to is kept. A node may learn of a pod through another apiserver before this one does.
const patience = 300 * time.Millisecond

func newNodeAuthorizer(policy *Policy) *nodeAuthorizer {
	n := &nodeAuthorizer{graph: newGraph()}
	for _, role := range policy.ClusterRoles {
		if role.Name == "system:node" {
			n.rules = role.Rules
		}
	}
	return n
}

// authorize answers with yes, or with the reason why not.
func (n *nodeAuthorizer) authorize(ctx context.Context, node string, info *request.Info) (bool, string) {
	if node == "" {
		return false, fmt.Sprintf("unknown node for user %q", "system:node:")
	}
	if info.IsResourceRequest {
		if rule, ok := nodeResources[info.GroupResource()]; ok {
			return rule(n, ctx, node, info)
		}
	}
	return allows(n.rules, info), ""
}

type nodeRule func(n *nodeAuthorizer, ctx context.Context, node string, info *request.Info) (bool, string)

// nodeResources are the resources whose objects a node is not given as a whole.
var nodeResources = map[schema.GroupResource]nodeRule{
	{Resource: "secrets"}:                                    (*nodeAuthorizer).readNamespaced,
	{Resource: "configmaps"}:                                 (*nodeAuthorizer).readNamespaced,
	{Resource: "persistentvolumeclaims"}:                     (*nodeAuthorizer).claim,
	{Resource: "persistentvolumes"}:                          (*nodeAuthorizer).get,
	{Resource: "serviceaccounts"}:                            (*nodeAuthorizer).serviceAccount,
	{Resource: "nodes"}:                                      (*nodeAuthorizer).node,
	{Resource: "pods"}:                                       (*nodeAuthorizer).pod,
	{Group: "coordination.k8s.io", Resource: "leases"}:       (*nodeAuthorizer).lease,
	{Group: "storage.k8s.io", Resource: "csinodes"}:          (*nodeAuthorizer).csiNode,
	{Group: "storage.k8s.io", Resource: "volumeattachments"}: (*nodeAuthorizer).get,
	{Group: "resource.k8s.io", Resource: "resourceclaims"}:   (*nodeAuthorizer).get,
	{Group: "resource.k8s.io", Resource: "resourceslices"}:   (*nodeAuthorizer).slice,
	{Group: "certificates.k8s.io", Resource: "podcertificaterequests"}: func(*nodeAuthorizer, context.Context, string, *request.Info) (bool, string) {
		return false, "" // alpha in Kubernetes 1.36
	},
}

// related allows what one of the node's pods refers to.
func (n *nodeAuthorizer) related(ctx context.Context, node string, info *request.Info) (bool, string) {
	if info.Name == "" {
		return false, "No Object name found"
	}
	if n.graph.waitRelated(ctx, node, info, patience) {
		return true, ""
	}
	return false, fmt.Sprintf("no relationship found between node '%s' and this object", node)
}

func (n *nodeAuthorizer) get(ctx context.Context, node string, info *request.Info) (bool, string) {
	if info.Verb != "get" {
		return false, "can only get individual resources of this type"
	}
	if info.Subresource != "" {
		return false, "cannot get subresource"
	}
	return n.related(ctx, node, info)
}

func (n *nodeAuthorizer) readNamespaced(ctx context.Context, node string, info *request.Info) (bool, string) {
	switch info.Verb {
	case "get", "list", "watch":
	default:
		return false, "can only read resources of this type"
	}
	if info.Subresource != "" {
		return false, "cannot read subresource"
	}
	if info.Namespace == "" {
		return false, "can only read namespaced object of this type"
	}
	return n.related(ctx, node, info)
}

func (n *nodeAuthorizer) claim(ctx context.Context, node string, info *request.Info) (bool, string) {
	if info.Subresource != "status" {
		return n.get(ctx, node, info)
	}
	if info.Verb != "update" && info.Verb != "patch" {
		return false, "can only get/update/patch this type"
	}
	return n.related(ctx, node, info)
}

func (n *nodeAuthorizer) serviceAccount(ctx context.Context, node string, info *request.Info) (bool, string) {
	switch {
	case info.Verb == "get" && info.Subresource == "":
		return n.readNamespaced(ctx, node, info)
	case info.Verb != "create" || info.Name == "":
		return false, "can only create tokens for individual service accounts"
	case info.Subresource != "token":
		return false, "can only create token subresource of serviceaccount"
	}
	return n.related(ctx, node, info)
}

func (n *nodeAuthorizer) lease(_ context.Context, node string, info *request.Info) (bool, string) {
	switch {
	case !ownVerb(info.Verb):
		return false, "can only get, create, update, patch, or delete a node lease"
	case info.Namespace != "kube-node-lease":
		return false, `can only access leases in the "kube-node-lease" system namespace`
	case info.Verb != "create" && info.Name != node: // a create has no name yet
		return false, "can only access node lease with the same name as the requesting node"
	}
	return true, ""
}

func (n *nodeAuthorizer) csiNode(_ context.Context, node string, info *request.Info) (bool, string) {
	switch {
	case !ownVerb(info.Verb):
		return false, "can only get, create, update, patch, or delete a CSINode"
	case info.Subresource != "":
		return false, "cannot authorize CSINode subresources"
	case info.Verb != "create" && info.Name != node:
		return false, "can only access CSINode with the same name as the requesting node"
	}
	return true, ""
}

// ownVerb is a verb that a node may use on an object of its own name.
func ownVerb(verb string) bool {
	return slices.Contains([]string{"get", "create", "update", "patch", "delete"}, verb)
}

func (n *nodeAuthorizer) slice(ctx context.Context, node string, info *request.Info) (bool, string) {
	if info.Subresource != "" {
		return false, "cannot authorize ResourceSlice subresources"
	}
	switch info.Verb {
	case "create":
		return true, ""
	case "get", "update", "patch", "delete":
		return n.related(ctx, node, info)
	case "watch", "list", "deletecollection":
		if selects(info.Fields, "spec.nodeName", node) {
			return true, ""
		}
		return false, "can only list/watch/deletecollection resourceslices with nodeName field selector"
	}
	return false, "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection"
}

func (n *nodeAuthorizer) node(_ context.Context, node string, info *request.Info) (bool, string) {
	switch info.Subresource + "/" + info.Verb {
	case "/create", "/update", "/patch", "status/update", "status/patch":
		return true, ""
	case "/get", "/list", "/watch":
		switch info.Name {
		case node:
			return true, ""
		case "":
			return false, fmt.Sprintf("node '%s' cannot read all nodes, only its own Node object", node)
		}
		return false, fmt.Sprintf("node '%s' cannot read '%s', only its own Node object", node, info.Name)
	}
	return false, ""
}

func (n *nodeAuthorizer) pod(ctx context.Context, node string, info *request.Info) (bool, string) {
	switch info.Subresource + "/" + info.Verb {
	case "/create", "/delete", "status/update", "status/patch", "eviction/create":
		return true, ""
	case "/get":
		return n.get(ctx, node, info)
	case "/list", "/watch":
		if selects(info.Fields, "spec.nodeName", node) {
			return true, ""
		}
		if info.Name != "" {
			return n.related(ctx, node, info)
		}
		return false, "can only list/watch pods with spec.nodeName field selector"
	}
	return false, ""
}

// selects reports whether a selector demands that a field has this value.
func selects(selector fields.Selector, field, value string) bool {
	if selector == nil {
		return false
	}
	return slices.ContainsFunc(selector.Requirements(), func(r fields.Requirement) bool {
		return r.Field == field && r.Value == value && (r.Operator == selection.Equals || r.Operator == selection.DoubleEquals)
	})
}
