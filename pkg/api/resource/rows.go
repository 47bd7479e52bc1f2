// Package resource holds the catalogue's rows of the group resource.k8s.io (dynamic resource allocation).
package resource

import (
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/validation"

	"skiff/pkg/api"
)

var gv = resourcev1.SchemeGroupVersion

// Kinds returns the group's rows.
func Kinds() []*api.Kind {
	return []*api.Kind{
		deviceClassKind(),
		resourceClaimKind(),
		resourceClaimTemplateKind(),
		resourceSliceKind(),
	}
}

func deviceClassKind() *api.Kind {
	return api.Define[resourcev1.DeviceClass, resourcev1.DeviceClassList](gv, "deviceclasses", api.Kind{
		UnconditionalUpdate: true,
		HasGeneration:       true,
		ReturnsDeleted:      true,
		Validate:            validateClass,
		ValidateUpdate:      validateClassUpdate,
		NameValidation:      api.LongName,
		Columns:             nameAndAge,
		Cells:               nameAndAgeCells,
	})
}

func resourceClaimKind() *api.Kind {
	return api.Define[resourcev1.ResourceClaim, resourcev1.ResourceClaimList](gv, "resourceclaims", api.Kind{
		Namespaced:          true,
		UnconditionalUpdate: true,
		Default:             defaultClaim,
		ReturnsDeleted:      true,
		Validate:            validateClaim,
		ValidateUpdate:      validateClaimUpdate,
		NameValidation:      validation.NameIsDNSSubdomain,
		Subresources:        map[string]*api.Subresource{"status": {KeepsMeta: true, PrepareForUpdate: prepareClaimStatus, ValidateUpdate: validateClaimStatus}},
		Columns:             claimColumns,
		Cells:               claimCells,
	})
}

func resourceClaimTemplateKind() *api.Kind {
	return api.Define[resourcev1.ResourceClaimTemplate, resourcev1.ResourceClaimTemplateList](gv, "resourceclaimtemplates", api.Kind{
		Namespaced:          true,
		UnconditionalUpdate: true,
		Default:             defaultClaimTemplate,
		ReturnsDeleted:      true,
		Validate:            validateTemplate,
		ValidateUpdate:      validateTemplateUpdate,
		NameValidation:      validation.NameIsDNSSubdomain,
		Columns:             nameAndAge,
		Cells:               nameAndAgeCells,
	})
}

func resourceSliceKind() *api.Kind {
	return api.Define[resourcev1.ResourceSlice, resourcev1.ResourceSliceList](gv, "resourceslices", api.Kind{
		UnconditionalUpdate: true,
		HasGeneration:       true,
		Default:             defaultSlice,
		ReturnsDeleted:      true,
		NameValidation:      validation.NameIsDNSSubdomain,
		Validate:            validateSlice,
		ValidateUpdate:      validateSliceUpdate,
		Warnings:            sliceWarnings,
		SelectableFields:    sliceFields,
		UnknownField:        "field label not supported for resource.k8s.io/v1, Kind=ResourceSlice: %s",
		Columns:             sliceColumns,
		Cells:               sliceCells,
	})
}
