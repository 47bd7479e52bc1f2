package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api/check"
)

// ValidateInlineVolume checks the volume that an attachment describes in place: what a pod's own volume becomes
// when it is handed to a CSI driver. It has none of what binds a persistent volume to a claim.
func ValidateInlineVolume(at *field.Path, s *corev1.PersistentVolumeSpec) check.Errors {
	var errs check.Errors
	forbid := func(name, text string, has bool) {
		if has {
			errs = append(errs, field.Forbidden(at.Child(name), text+" in the context of inline volumes"))
		}
	}
	forbid("claimRef", "may not be specified", s.ClaimRef != nil)
	forbid("capacity", "may not be specified", len(s.Capacity) != 0)
	if s.CSI == nil {
		errs = append(errs, field.Required(at.Child("csi"), "has to be specified in the context of inline volumes"))
	}
	if len(s.AccessModes) == 0 {
		errs = append(errs, field.Required(at.Child("accessModes"), ""))
	}
	errs = append(errs, modesKnown(at.Child("accessModes"), s.AccessModes)...)
	policy := s.PersistentVolumeReclaimPolicy
	forbid("persistentVolumeReclaimPolicy", "may only be Retain", policy != "" && policy != corev1.PersistentVolumeReclaimRetain)
	forbid("nodeAffinity", "may not be specified", s.NodeAffinity != nil)
	errs = append(errs, oneSource(at, "volume type", volumeSources(at, s, ""))...)
	forbid("storageClassName", "may not be specified", s.StorageClassName != "")
	forbid("volumeMode", "may not specify volumeMode other than Filesystem", s.VolumeMode != nil && *s.VolumeMode != corev1.PersistentVolumeFilesystem)
	return errs
}
