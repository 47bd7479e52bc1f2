// Package admission completes and refuses writes after they were authorized, by the
// plugins that Kubernetes has on by default and in its order.
//
// A [Chain] runs twice per write: Mutate before the object is validated, Validate after
// that. Each plugin is a pure function of the write ([request.Attributes]) and of what
// it reads of the cluster, in a file of its own; [New] lists them. A plugin refuses with
// the status error that the client gets, usually 403 Forbidden.
//
// After the plugins comes what the cluster's own objects describe ([Dynamic]): policies, in subpackage policy, and webhooks, in
// subpackage webhook, on top of subpackage match. If one of those changes the object, all have a second look at it.
//
// Not here: ResourceQuota, which is part of the write's transaction (apiserver/quota.go); StorageObjectInUseProtection;
// and the plugins that Kubernetes leaves off by default.
//
// Source: https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/.
package admission
