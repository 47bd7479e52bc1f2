// Package openapi describes the API to its clients: kubectl validates and
// explains with it, and merges with its list and patch strategies.
//
// Everything comes from what is there already: the Go types by reflection (names,
// fields, patch strategies), their SwaggerDoc texts, the schema of server-side
// apply (list and map types, defaults, unions), and the catalogue (paths). Only the values
// that string types may have are in no Go type: enums.txt has them. A document
// is built when it is first asked for: one for all of OpenAPI v2, and one
// per group and version of OpenAPI v3, whose URLs carry a hash of their
// content so that clients can keep them for good (KEP-2896).
//
// test/differential compares them with Kubernetes' documents as a whole. They leave out the historic /watch/
// paths, and the texts that Kubernetes adds to the values of an enum.
package openapi
