package storage

import (
	"fmt"
	"math"
	"slices"

	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api"
	"skiff/pkg/api/check"
	"skiff/pkg/api/core"
)

const largeText = 256 << 10 // bytes, of all keys and values of an attachment's metadata

func validateAttachment(obj api.Object) field.ErrorList {
	a := obj.(*storagev1.VolumeAttachment)
	at := field.NewPath("spec")
	errs := slices.Concat(core.ValidateCSIDriverName(at.Child("attacher"), a.Spec.Attacher), attached(at.Child("source"), &a.Spec.Source),
		check.Messages(at.Child("nodeName"), a.Spec.NodeName, validation.NameIsDNSSubdomain(a.Spec.NodeName, false)), attachmentStatus(field.NewPath("status"), &a.Status))
	if name := a.Spec.Source.PersistentVolumeName; name != nil {
		errs = append(errs, check.Messages(at.Child("source", "persistentVolumeName"), *name, validation.NameIsDNSSubdomain(*name, false))...)
	}
	return errs
}

func validateAttachmentUpdate(obj, old api.Object) field.ErrorList {
	return append(validateAttachment(obj), check.Immutable(field.NewPath("spec"), obj.(*storagev1.VolumeAttachment).Spec, old.(*storagev1.VolumeAttachment).Spec)...)
}

func attached(at *field.Path, s *storagev1.VolumeAttachmentSource) check.Errors {
	const one = "must specify exactly one of inlineVolumeSpec and persistentVolumeName"
	switch {
	case s.InlineVolumeSpec == nil && s.PersistentVolumeName == nil:
		return check.Errors{field.Required(at, one)}
	case s.InlineVolumeSpec != nil && s.PersistentVolumeName != nil:
		return check.Errors{field.Forbidden(at, one)}
	case s.InlineVolumeSpec != nil:
		return core.ValidateInlineVolume(at.Child("inlineVolumeSpec"), s.InlineVolumeSpec)
	case *s.PersistentVolumeName == "":
		return check.Errors{field.Required(at.Child("persistentVolumeName"), "must specify non empty persistentVolumeName")}
	}
	return nil
}

func attachmentStatus(at *field.Path, s *storagev1.VolumeAttachmentStatus) check.Errors {
	var errs check.Errors
	size := 0
	for key, v := range s.AttachmentMetadata {
		size += len(key) + len(v)
	}
	if size > largeText {
		errs = append(errs, field.TooLong(at.Child("attachmentMetadata"), "", largeText))
	}
	return slices.Concat(errs, volumeError(at.Child("attachError"), s.AttachError), volumeError(at.Child("detachError"), s.DetachError))
}

func volumeError(at *field.Path, e *storagev1.VolumeError) check.Errors {
	if e == nil {
		return nil
	}
	var errs check.Errors
	if len(e.Message) > 1024 {
		errs = append(errs, field.TooLong(at.Child("message"), "", largeText)) // Kubernetes names that limit
	}
	if e.ErrorCode != nil && *e.ErrorCode < 0 {
		errs = append(errs, field.Invalid(at.Child("errorCode"), *e.ErrorCode, utilvalidation.InclusiveRangeError(0, math.MaxInt32)))
	}
	return errs
}

func validateNode(obj api.Object) field.ErrorList {
	var errs check.Errors
	drivers := obj.(*storagev1.CSINode).Spec.Drivers
	for i, d := range drivers {
		at := field.NewPath("spec", "drivers").Index(i)
		errs = slices.Concat(errs, core.ValidateCSIDriverName(at.Child("name"), d.Name), check.Required(at.Child("nodeID"), d.NodeID))
		if len(d.NodeID) > 256 {
			errs = append(errs, field.Invalid(at.Child("nodeID"), d.NodeID, fmt.Sprintf("must be %d characters or less", 256)))
		}
		if d.Allocatable != nil {
			errs = append(errs, check.NonNegativeIf(at.Child("allocatable", "count"), d.Allocatable.Count)...)
		}
		if slices.ContainsFunc(drivers[:i], func(other storagev1.CSINodeDriver) bool { return other.Name == d.Name }) {
			errs = append(errs, field.Duplicate(at.Child("name"), d.Name))
		}
		for j, key := range d.TopologyKeys {
			errs = append(errs, check.Required(at, key)...)
			if slices.Contains(d.TopologyKeys[:j], key) {
				errs = append(errs, field.Duplicate(at, key))
			}
			errs = append(errs, check.QualifiedName(at, key)...)
		}
	}
	return errs
}

// A driver that is there may change only how many volumes it takes.
func validateNodeUpdate(obj, old api.Object) field.ErrorList {
	errs := validateNode(obj)
	for _, was := range old.(*storagev1.CSINode).Spec.Drivers {
		for _, d := range obj.(*storagev1.CSINode).Spec.Drivers {
			if d.Name == was.Name {
				d.Allocatable, was.Allocatable = nil, nil
				errs = append(errs, check.Immutable(field.NewPath("spec", "drivers"), d, was)...)
			}
		}
	}
	return errs
}

func validateDriver(obj api.Object) field.ErrorList {
	s := &obj.(*storagev1.CSIDriver).Spec
	at := field.NewPath("spec")
	errs := slices.Concat(needed(at.Child("attachedRequired"), s.AttachRequired), needed(at.Child("podInfoOnMount"), s.PodInfoOnMount), needed(at.Child("storageCapacity"), s.StorageCapacity))
	if p := s.FSGroupPolicy; p != nil {
		errs = append(errs, check.OneOf(at.Child("fsGroupPolicy"), *p, storagev1.FileFSGroupPolicy, storagev1.NoneFSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)...)
	}
	errs = append(errs, tokenRequests(at.Child("tokenRequests"), s.TokenRequests)...)
	for _, m := range s.VolumeLifecycleModes {
		errs = append(errs, check.OneOf(at.Child("volumeLifecycleModes"), m, storagev1.VolumeLifecyclePersistent, storagev1.VolumeLifecycleEphemeral)...)
	}
	errs = append(errs, needed(at.Child("seLinuxMount"), s.SELinuxMount)...)
	if p := s.NodeAllocatableUpdatePeriodSeconds; p != nil && *p < 10 {
		errs = append(errs, field.Invalid(at.Child("nodeAllocatableUpdatePeriodSeconds"), *p, "must be greater than or equal to 10 seconds"))
	}
	if s.ServiceAccountTokenInSecrets != nil && len(s.TokenRequests) == 0 {
		errs = append(errs, field.Invalid(at.Child("serviceAccountTokenInSecrets"), *s.ServiceAccountTokenInSecrets, "serviceAccountTokenInSecrets is set but no tokenRequests are specified"))
	}
	return errs
}

func needed(at *field.Path, v *bool) check.Errors {
	if v != nil {
		return nil
	}
	return check.Errors{field.Required(at, "")}
}

func tokenRequests(at *field.Path, all []storagev1.TokenRequest) check.Errors {
	var errs check.Errors
	for i, r := range all {
		at := at.Index(i)
		if slices.ContainsFunc(all[:i], func(other storagev1.TokenRequest) bool { return other.Audience == r.Audience }) {
			errs = append(errs, field.Duplicate(at.Child("audience"), r.Audience))
			continue
		}
		if r.ExpirationSeconds == nil {
			continue
		}
		switch seconds := *r.ExpirationSeconds; {
		case seconds < 600:
			errs = append(errs, field.Invalid(at.Child("expirationSeconds"), seconds, "may not specify a duration less than 10 minutes"))
		case seconds > 1<<32:
			errs = append(errs, field.Invalid(at.Child("expirationSeconds"), seconds, "may not specify a duration larger than 2^32 seconds"))
		}
	}
	return errs
}

func validateDriverUpdate(obj, old api.Object) field.ErrorList {
	now, was := &obj.(*storagev1.CSIDriver).Spec, &old.(*storagev1.CSIDriver).Spec
	return slices.Concat(validateDriver(obj), check.Immutable(field.NewPath("spec", "attachedRequired"), now.AttachRequired, was.AttachRequired),
		check.Immutable(field.NewPath("spec", "volumeLifecycleModes"), now.VolumeLifecycleModes, was.VolumeLifecycleModes))
}

func validateCapacity(obj api.Object) field.ErrorList {
	c := obj.(*storagev1.CSIStorageCapacity)
	errs := slices.Concat(check.Selector(field.NewPath("nodeTopology"), c.NodeTopology, false),
		check.Messages(field.NewPath("storageClassName"), c.StorageClassName, validation.NameIsDNSSubdomain(c.StorageClassName, false)))
	if c.Capacity != nil {
		errs = append(errs, check.NonNegativeQuantity(field.NewPath("capacity"), *c.Capacity)...)
	}
	return errs
}

func validateCapacityUpdate(obj, old api.Object) field.ErrorList {
	c, was := obj.(*storagev1.CSIStorageCapacity), old.(*storagev1.CSIStorageCapacity)
	var errs check.Errors
	if !equality.Semantic.DeepEqual(c.NodeTopology, was.NodeTopology) {
		errs = append(errs, field.Invalid(field.NewPath("nodeTopology"), c.NodeTopology, "field is immutable"))
	}
	if c.StorageClassName != was.StorageClassName {
		errs = append(errs, field.Invalid(field.NewPath("storageClassName"), c.StorageClassName, "field is immutable"))
	}
	return errs
}

func validateAttributes(obj api.Object) field.ErrorList {
	c := obj.(*storagev1.VolumeAttributesClass)
	errs := slices.Concat(provisioner(field.NewPath("driverName"), c.DriverName), parameters(field.NewPath("parameters"), c.Parameters))
	if len(c.Parameters) == 0 {
		errs = append(errs, field.Required(field.NewPath("parameters"), "must contain at least one key/value pair"))
	}
	return errs
}

func validateAttributesUpdate(obj, old api.Object) field.ErrorList {
	c, was := obj.(*storagev1.VolumeAttributesClass), old.(*storagev1.VolumeAttributesClass)
	var errs check.Errors
	if c.DriverName != was.DriverName {
		errs = append(errs, field.Forbidden(field.NewPath("driverName"), "updates to driverName are forbidden."))
	}
	if !equality.Semantic.DeepEqual(c.Parameters, was.Parameters) {
		errs = append(errs, field.Forbidden(field.NewPath("parameters"), "updates to parameters are forbidden."))
	}
	return append(errs, validateAttributes(obj)...)
}
