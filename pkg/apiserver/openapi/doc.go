// Package openapi describes the API to its clients: kubectl validates and
// explains with it, and merges with its list and patch strategies.
//
// Everything comes from what is there already: the Go types by reflection (names,
// fields, patch strategies), their SwaggerDoc texts, the schema of server-side
// apply (list and map types, defaults), and the catalogue (paths). A document
// is built when it is first asked for: one for all of OpenAPI v2, and one
// per group and version of OpenAPI v3, whose URLs carry a hash of their
// content so that clients can keep them for good (KEP-2896).
//
// Compared with Kubernetes' documents, these leave out the historic /watch/
// paths, CBOR, the texts of a few types that carry none (Quantity, IntOrString), and the
// lists of allowed values, which are in no Go type.
package openapi
