// Package crd serves custom resources: it turns definitions (CustomResourceDefinition objects) into rows
// of the live catalogue, which the generic handlers then serve like any other kind.
//
//   - [Controller] (controller.go) follows the definitions, puts rows into the catalogue and takes them out.
//     It also keeps the definitions' conditions (conditions.go decides, purely) and deletes the objects of a
//     definition that is being deleted (finalize.go). Every apiserver does all of it; writes are
//     compare-and-swap.
//   - definition.go, rows.go: a definition as it is served, and its rows, one per served version.
//   - schema.go: what a version's schema does to objects on their way in and out: coercion, pruning, defaults.
//     validate.go: what is refused. openapi.go: how it is published, and how server-side apply merges by it.
//   - convert.go, webhook.go: from one version to another.
//   - columns.go: tables; fields.go: field selectors and the scale subresource.
//
// Schemas, pruning, defaulting and CEL are libraries of Kubernetes (k8s.io/apiextensions-apiserver); schemas are
// compiled when an object of their version is first seen.
//
// Limits: a label selector looks at an object's labels as they are stored, not at what a conversion
// webhook makes of them for the version asked for.
package crd
