// Package apiserver answers the Kubernetes API over the catalogue of kinds.
//
// One set of generic handlers serves every row of the catalogue: a request is
// parsed into a [request.Info], authenticated, authorized, and then handled by
// the verb's handler (get.go, list.go, watch.go, create.go, update.go,
// patch.go, delete.go). Actions that aren't views of an object (binding,
// eviction, exec …) have handlers of their own, in actions*.go. Handlers
// return errors; one place (errors.go) turns them into metav1.Status.
//
// Reading order: server.go (what there is and how it starts), filters.go (what
// every request passes through), route.go (path to handler), then a verb.
//
// Objects leave the server as encodings kept with the store's entries
// (encode.go): a list is a concatenation, a watch event is encoded once for
// all who see it.
//
// Limits, deliberately: no CBOR, no API priority and fairness (a fixed number
// of requests in flight instead), no CORS, no profiling endpoints.
package apiserver
