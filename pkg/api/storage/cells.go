package storage

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"skiff/pkg/api"
)

var storageClassColumns = api.Columns("Name, Provisioner, ReclaimPolicy, VolumeBindingMode, AllowVolumeExpansion, Age")

func storageClassCells(obj api.Object) []any {
	c := obj.(*storagev1.StorageClass)
	name := c.Name
	if c.Annotations["storageclass.kubernetes.io/is-default-class"] == "true" ||
		c.Annotations["storageclass.beta.kubernetes.io/is-default-class"] == "true" {
		name += " (default)"
	}
	return []any{name, c.Provisioner, string(ptr.Deref(c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)),
		string(ptr.Deref(c.VolumeBindingMode, storagev1.VolumeBindingImmediate)), ptr.Deref(c.AllowVolumeExpansion, false), api.Age(c)}
}

var volumeAttachmentColumns = func() []metav1.TableColumnDefinition {
	columns := api.Columns("Name, Attacher, PV, Node, Attached?, Age")
	columns[1].Format = "name"
	return columns
}()

func volumeAttachmentCells(obj api.Object) []any {
	a := obj.(*storagev1.VolumeAttachment)
	return []any{a.Name, a.Spec.Attacher, ptr.Deref(a.Spec.Source.PersistentVolumeName, ""), a.Spec.NodeName, a.Status.Attached, api.Age(a)}
}

var csiNodeColumns = api.Columns("Name, Drivers#, Age")

func csiNodeCells(obj api.Object) []any {
	n := obj.(*storagev1.CSINode)
	return []any{n.Name, int64(len(n.Spec.Drivers)), api.Age(n)}
}

var csiDriverColumns = api.Columns("Name, AttachRequired?, PodInfoOnMount?, StorageCapacity?, TokenRequests, RequiresRepublish?, Modes, Age")

func csiDriverCells(obj api.Object) []any {
	d := obj.(*storagev1.CSIDriver)
	var modes, audiences []string
	for _, m := range d.Spec.VolumeLifecycleModes {
		modes = append(modes, string(m))
	}
	for _, t := range d.Spec.TokenRequests {
		audiences = append(audiences, t.Audience)
	}
	tokens := "<unset>"
	if d.Spec.TokenRequests != nil {
		tokens = strings.Join(audiences, ",")
	}
	return []any{d.Name, ptr.Deref(d.Spec.AttachRequired, true), ptr.Deref(d.Spec.PodInfoOnMount, false), ptr.Deref(d.Spec.StorageCapacity, false),
		tokens, ptr.Deref(d.Spec.RequiresRepublish, false), api.OrNone(strings.Join(modes, ",")), api.Age(d)}
}

var volumeAttributesClassColumns = api.Columns("Name, DriverName, Age")

func volumeAttributesClassCells(obj api.Object) []any {
	c := obj.(*storagev1.VolumeAttributesClass)
	return []any{c.Name, c.DriverName, api.Age(c)}
}
