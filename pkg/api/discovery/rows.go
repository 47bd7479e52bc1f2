// Package discovery holds the catalogue's rows of the group discovery.k8s.io (endpoint slices).
package discovery

import (
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/validation"

	"skiff/pkg/api"
)

var gv = discoveryv1.SchemeGroupVersion

// Kinds returns the group's rows.
func Kinds() []*api.Kind {
	return []*api.Kind{endpointSliceKind()}
}

func endpointSliceKind() *api.Kind {
	return api.Define[discoveryv1.EndpointSlice, discoveryv1.EndpointSliceList](gv, "endpointslices", api.Kind{
		Validate:            validateSlice,
		ValidateUpdate:      validateSliceUpdate,
		Warnings:            sliceWarnings,
		Namespaced:          true,
		UnconditionalUpdate: true,
		HasGeneration:       true,
		Default:             defaultEndpointSlice,
		PrepareForCreate:    prepareSliceCreate,
		PrepareForUpdate:    prepareSliceUpdate,
		NameValidation:      validation.NameIsDNSSubdomain,
		Columns:             sliceColumns,
		Cells:               sliceCells,
	})
}
