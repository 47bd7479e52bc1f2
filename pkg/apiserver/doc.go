// Package apiserver answers the Kubernetes API over the catalogue of kinds.
//
// One set of generic handlers serves every row of the catalogue: a request is
// parsed into a [request.Info], authenticated, authorized, and then handled by
// the verb's handler (get.go, which lists as well, watch.go, create.go,
// update.go, patch.go, delete.go, collection.go). Actions that aren't views of
// an object have handlers of their own: actions.go, binding.go, eviction.go,
// connect.go (logs, exec and the like). Handlers return errors; one place
// (errors.go) turns them into metav1.Status.
//
// Reading order: server.go (what there is and how it starts), filters.go (what
// every request passes through), route.go (path to handler), then a verb.
//
// Objects leave the server as encodings kept with the store's entries
// (encode.go): a list is a concatenation, a watch event is encoded once for
// all who see it.
//
// What a request writes beside its object goes into the same transaction:
// services.go (with addresses.go and nodeports.go: what a service is given),
// fence.go (the epochs of leaders).
// What the server itself keeps in order is in bootstrap.go and endpoints.go.
//
// Limits, deliberately: no CBOR, no CORS, no profiling endpoints,
// no aggregated APIs.
package apiserver
