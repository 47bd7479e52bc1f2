// Package catalogue puts the rows of all API groups together. Adding a group is adding
// its package's Kinds to the list below; adding a kind is adding a row in its group's package.
package catalogue

import (
	"slices"

	"skiff/pkg/api"
	"skiff/pkg/api/admissionregistration"
	"skiff/pkg/api/apiextensions"
	"skiff/pkg/api/apiregistration"
	"skiff/pkg/api/apps"
	"skiff/pkg/api/authentication"
	"skiff/pkg/api/authorization"
	"skiff/pkg/api/autoscaling"
	"skiff/pkg/api/batch"
	"skiff/pkg/api/certificates"
	"skiff/pkg/api/coordination"
	"skiff/pkg/api/core"
	"skiff/pkg/api/discovery"
	"skiff/pkg/api/events"
	"skiff/pkg/api/flowcontrol"
	"skiff/pkg/api/networking"
	"skiff/pkg/api/node"
	"skiff/pkg/api/policy"
	"skiff/pkg/api/rbac"
	"skiff/pkg/api/resource"
	"skiff/pkg/api/scheduling"
	"skiff/pkg/api/storage"
)

// Default returns a new catalogue of every kind that Skiff serves by itself.
func Default() *api.Catalogue {
	c, err := api.NewCatalogue(kinds()...)
	if err != nil {
		panic(err) // two rows of this program claim one resource: the tests of this package fail first
	}
	return c
}

func kinds() []*api.Kind {
	return slices.Concat(
		core.Kinds(),
		apiregistration.Kinds(),
		apps.Kinds(),
		events.Kinds(),
		authentication.Kinds(),
		authorization.Kinds(),
		autoscaling.Kinds(),
		batch.Kinds(),
		certificates.Kinds(),
		networking.Kinds(),
		policy.Kinds(),
		rbac.Kinds(),
		storage.Kinds(),
		admissionregistration.Kinds(),
		apiextensions.Kinds(),
		scheduling.Kinds(),
		coordination.Kinds(),
		node.Kinds(),
		discovery.Kinds(),
		resource.Kinds(),
		flowcontrol.Kinds(),
	)
}
