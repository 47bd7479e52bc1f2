// Package storage holds the catalogue's rows of the group storage.k8s.io (storage classes, attachments, CSI).
package storage

import (
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/validation"

	"skiff/pkg/api"
)

var gv = storagev1.SchemeGroupVersion

// Kinds returns the group's rows.
func Kinds() []*api.Kind {
	return []*api.Kind{
		storageClassKind(),
		volumeAttachmentKind(),
		csiNodeKind(),
		csiDriverKind(),
		csiStorageCapacityKind(),
		volumeAttributesClassKind(),
	}
}

func storageClassKind() *api.Kind {
	return api.Define[storagev1.StorageClass, storagev1.StorageClassList](gv, "storageclasses", api.Kind{
		ShortNames:          []string{"sc"},
		Validate:            validateClass,
		ValidateUpdate:      validateClassUpdate,
		UnconditionalUpdate: true,
		Default:             defaultStorageClass,
		ReturnsDeleted:      true,
		NameValidation:      validation.NameIsDNSSubdomain,
		Columns:             storageClassColumns,
		Cells:               storageClassCells,
	})
}

func volumeAttachmentKind() *api.Kind {
	return api.Define[storagev1.VolumeAttachment, storagev1.VolumeAttachmentList](gv, "volumeattachments", api.Kind{
		Default:        defaultVolumeAttachment,
		ReturnsDeleted: true,
		Validate:       validateAttachment,
		ValidateUpdate: validateAttachmentUpdate,
		NameValidation: validation.NameIsDNSSubdomain,
		Subresources:   map[string]*api.Subresource{"status": {KeepsMeta: true}},
		Columns:        volumeAttachmentColumns,
		Cells:          volumeAttachmentCells,
	})
}

func csiNodeKind() *api.Kind {
	return api.Define[storagev1.CSINode, storagev1.CSINodeList](gv, "csinodes", api.Kind{
		ReturnsDeleted: true,
		Validate:       validateNode,
		ValidateUpdate: validateNodeUpdate,
		NameValidation: validation.NameIsDNSSubdomain,
		Columns:        csiNodeColumns,
		Cells:          csiNodeCells,
	})
}

func csiDriverKind() *api.Kind {
	return api.Define[storagev1.CSIDriver, storagev1.CSIDriverList](gv, "csidrivers", api.Kind{
		Default:          defaultCSIDriver,
		PrepareForCreate: prepareDriverCreate,
		PrepareForUpdate: prepareDriverUpdate,
		ReturnsDeleted:   true,
		Validate:         validateDriver,
		ValidateUpdate:   validateDriverUpdate,
		Warnings:         driverWarnings,
		NameValidation:   validation.NameIsDNSSubdomain,
		Columns:          csiDriverColumns,
		Cells:            csiDriverCells,
	})
}

func csiStorageCapacityKind() *api.Kind {
	return api.Define[storagev1.CSIStorageCapacity, storagev1.CSIStorageCapacityList](gv, "csistoragecapacities", api.Kind{
		Namespaced:     true,
		Validate:       validateCapacity,
		ValidateUpdate: validateCapacityUpdate,
		NameValidation: validation.NameIsDNSSubdomain,
	})
}

func volumeAttributesClassKind() *api.Kind {
	return api.Define[storagev1.VolumeAttributesClass, storagev1.VolumeAttributesClassList](gv, "volumeattributesclasses", api.Kind{
		ShortNames:          []string{"vac"},
		UnconditionalUpdate: true,
		ReturnsDeleted:      true,
		Validate:            validateAttributes,
		ValidateUpdate:      validateAttributesUpdate,
		NameValidation:      validation.NameIsDNSSubdomain,
		Columns:             volumeAttributesClassColumns,
		Cells:               volumeAttributesClassCells,
	})
}
