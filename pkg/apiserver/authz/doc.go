// Package authz decides whether a user may do what a request asks for.
//
// An [Authorizer] asks three sources in turn, and the first that says yes wins:
// members of system:masters may do everything; a node may do what concerns its own
// pods ([Node], the Node authorizer of Kubernetes); and everyone may do what roles
// bound to them say ([RBAC]). Nothing can say no but the absence of a yes.
//
// RBAC keeps an index from subject to the roles bound to it, fed by watches of the
// four RBAC kinds and swapped as a whole, so that a decision takes no lock and
// allocates nothing. The Node authorizer keeps, for each secret, config map, claim and
// service account, the nodes that run a pod which refers to it.
//
// The roles and bindings that Kubernetes begins a cluster with are in policy.txt;
// [Bootstrap] writes what is missing of them at every start.
//
// Source: https://kubernetes.io/docs/reference/access-authn-authz/rbac/ and …/node/.
package authz
