package apps

import (
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/pkg/api"
	"skiff/pkg/api/core"
)

var deploymentColumns = api.Columns("Name, Ready, Up-to-date, Available, Age, +Containers, +Images, +Selector")

func deploymentCells(obj api.Object) []any {
	d := obj.(*appsv1.Deployment)
	names, images := core.ContainerCells(d.Spec.Template.Spec.Containers)
	match := "<invalid>"
	if s, err := metav1.LabelSelectorAsSelector(d.Spec.Selector); err == nil {
		match = s.String()
	}
	return []any{d.Name, fmt.Sprintf("%d/%d", d.Status.ReadyReplicas, replicas(d.Spec.Replicas)),
		int64(d.Status.UpdatedReplicas), int64(d.Status.AvailableReplicas), api.Age(d), names, images, match}
}

var replicaSetColumns = api.Columns("Name, Desired#, Current#, Ready#, Age, +Containers, +Images, +Selector")

func replicaSetCells(obj api.Object) []any {
	rs := obj.(*appsv1.ReplicaSet)
	names, images := core.ContainerCells(rs.Spec.Template.Spec.Containers)
	return []any{rs.Name, int64(replicas(rs.Spec.Replicas)), int64(rs.Status.Replicas), int64(rs.Status.ReadyReplicas),
		api.Age(rs), names, images, metav1.FormatLabelSelector(rs.Spec.Selector)}
}

var statefulSetColumns = api.Columns("Name, Ready, Age, +Containers, +Images")

func statefulSetCells(obj api.Object) []any {
	s := obj.(*appsv1.StatefulSet)
	names, images := core.ContainerCells(s.Spec.Template.Spec.Containers)
	return []any{s.Name, fmt.Sprintf("%d/%d", s.Status.ReadyReplicas, replicas(s.Spec.Replicas)), api.Age(s), names, images}
}

var daemonSetColumns = api.Columns("Name, Desired#, Current#, Ready#, Up-to-date#, Available#, Node Selector, Age, +Containers, +Images, +Selector")

func daemonSetCells(obj api.Object) []any {
	d := obj.(*appsv1.DaemonSet)
	names, images := core.ContainerCells(d.Spec.Template.Spec.Containers)
	s := &d.Status
	return []any{d.Name, int64(s.DesiredNumberScheduled), int64(s.CurrentNumberScheduled), int64(s.NumberReady),
		int64(s.UpdatedNumberScheduled), int64(s.NumberAvailable), labels.FormatLabels(d.Spec.Template.Spec.NodeSelector),
		api.Age(d), names, images, metav1.FormatLabelSelector(d.Spec.Selector)}
}

var controllerRevisionColumns = api.Columns("Name, Controller, Revision, Age")

func controllerRevisionCells(obj api.Object) []any {
	r := obj.(*appsv1.ControllerRevision)
	owner := "<none>"
	if ref := metav1.GetControllerOfNoCopy(r); ref != nil {
		kind := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind).GroupKind()
		owner = strings.ToLower(kind.String()) + "/" + ref.Name
	}
	return []any{r.Name, owner, r.Revision, api.Age(r)}
}
