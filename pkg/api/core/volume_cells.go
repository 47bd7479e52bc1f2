package core

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"skiff/pkg/api"
)

var volumeColumns = api.Columns("Name, Capacity, Access Modes, Reclaim Policy, Status, Claim, StorageClass, VolumeAttributesClass, Reason, Age, +VolumeMode")

func volumeCells(obj api.Object) []any {
	v := obj.(*corev1.PersistentVolume)
	claim := ""
	if v.Spec.ClaimRef != nil {
		claim = v.Spec.ClaimRef.Namespace + "/" + v.Spec.ClaimRef.Name
	}
	return []any{v.Name, quantity(v.Spec.Capacity), accessModes(v.Spec.AccessModes), string(v.Spec.PersistentVolumeReclaimPolicy),
		phase(v, string(v.Status.Phase)), claim, storageClass(v, &v.Spec.StorageClassName), orUnset(v.Spec.VolumeAttributesClassName),
		v.Status.Reason, api.Age(v), orUnset(v.Spec.VolumeMode)}
}

var claimColumns = api.Columns("Name, Status, Volume, Capacity, Access Modes, StorageClass, VolumeAttributesClass, Age, +VolumeMode")

func claimCells(obj api.Object) []any {
	c := obj.(*corev1.PersistentVolumeClaim)
	capacity, modes := "", ""
	if c.Spec.VolumeName != "" {
		capacity, modes = quantity(c.Status.Capacity), accessModes(c.Status.AccessModes)
	}
	return []any{c.Name, phase(c, string(c.Status.Phase)), c.Spec.VolumeName, capacity, modes,
		storageClass(c, c.Spec.StorageClassName), orUnset(c.Spec.VolumeAttributesClassName), api.Age(c), orUnset(c.Spec.VolumeMode)}
}

func phase(obj api.Object, phase string) string {
	if obj.GetDeletionTimestamp() != nil {
		return "Terminating"
	}
	return phase
}

func quantity(list corev1.ResourceList) string {
	q := list[corev1.ResourceStorage]
	return q.String()
}

func accessModes(modes []corev1.PersistentVolumeAccessMode) string {
	var short []string
	for _, m := range []struct {
		mode corev1.PersistentVolumeAccessMode
		name string
	}{
		{corev1.ReadWriteOnce, "RWO"},
		{corev1.ReadOnlyMany, "ROX"},
		{corev1.ReadWriteMany, "RWX"},
		{corev1.ReadWriteOncePod, "RWOP"},
	} {
		if slices.Contains(modes, m.mode) {
			short = append(short, m.name)
		}
	}
	return strings.Join(short, ",")
}

// storageClass: the annotation is older than the field, and wins.
func storageClass(obj api.Object, class *string) string {
	if name, ok := obj.GetAnnotations()[corev1.BetaStorageClassAnnotation]; ok {
		return name
	}
	if class == nil {
		return ""
	}
	return *class
}

func orUnset[T ~string](p *T) string {
	if p == nil {
		return "<unset>"
	}
	return string(*p)
}
