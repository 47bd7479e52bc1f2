package storage

import (
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"skiff/pkg/api"
	"skiff/pkg/api/core"
)

func defaultStorageClass(obj api.Object) {
	c := obj.(*storagev1.StorageClass)
	setIfNil(&c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)
	setIfNil(&c.VolumeBindingMode, storagev1.VolumeBindingImmediate)
}

func defaultCSIDriver(obj api.Object) {
	s := &obj.(*storagev1.CSIDriver).Spec
	setIfNil(&s.AttachRequired, true)
	setIfNil(&s.PodInfoOnMount, false)
	setIfNil(&s.StorageCapacity, false)
	setIfNil(&s.FSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)
	if len(s.VolumeLifecycleModes) == 0 {
		s.VolumeLifecycleModes = []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}
	}
	setIfNil(&s.RequiresRepublish, false)
	setIfNil(&s.SELinuxMount, false)
}

func defaultVolumeAttachment(obj api.Object) {
	if inline := obj.(*storagev1.VolumeAttachment).Spec.Source.InlineVolumeSpec; inline != nil {
		core.DefaultVolumeSpec(inline)
	}
}

func setIfNil[T any](field **T, v T) {
	if *field == nil {
		*field = &v
	}
}
