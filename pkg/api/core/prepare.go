package core

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"

	"skiff/pkg/api"
)

func prepareNodeCreate(_ context.Context, obj api.Object) {
	n := obj.(*corev1.Node)
	n.Spec.ConfigSource, n.Status.Config = nil, nil // dynamic kubelet configuration, gone since 1.24
}

func prepareNodeUpdate(_ context.Context, obj, old api.Object) {
	n, was := obj.(*corev1.Node), old.(*corev1.Node)
	if was.Spec.ConfigSource == nil {
		n.Spec.ConfigSource = nil
	}
}

func prepareNodeStatus(_ context.Context, obj, old api.Object) {
	n, was := obj.(*corev1.Node), old.(*corev1.Node)
	if was.Status.Config == nil {
		n.Status.Config = nil
	}
}

func prepareNamespaceCreate(_ context.Context, obj api.Object) {
	n := obj.(*corev1.Namespace)
	labelWithName(n)
	n.Status = corev1.NamespaceStatus{Phase: corev1.NamespaceActive}
	// The namespace controller takes it away when the namespace is empty.
	if !slices.Contains(n.Spec.Finalizers, corev1.FinalizerKubernetes) {
		n.Spec.Finalizers = append(n.Spec.Finalizers, corev1.FinalizerKubernetes)
	}
}

func prepareNamespaceUpdate(_ context.Context, obj, old api.Object) {
	n, was := obj.(*corev1.Namespace), old.(*corev1.Namespace)
	labelWithName(n)
	n.Spec.Finalizers = was.Spec.Finalizers
}

// prepareNamespaceFinalize keeps the status: finalizers are what this subresource is for.
func prepareNamespaceFinalize(_ context.Context, obj, old api.Object) {
	n, was := obj.(*corev1.Namespace), old.(*corev1.Namespace)
	n.Status = was.Status
}

func prepareSecretUpdate(_ context.Context, obj, old api.Object) {
	if s := obj.(*corev1.Secret); s.Type == "" {
		s.Type = old.(*corev1.Secret).Type
	}
}

func prepareServiceAccountCreate(_ context.Context, obj api.Object) { onlyNames(obj) }

func prepareServiceAccountUpdate(_ context.Context, obj, _ api.Object) { onlyNames(obj) }

func onlyNames(obj api.Object) {
	secrets := obj.(*corev1.ServiceAccount).Secrets
	for i := range secrets {
		secrets[i] = corev1.ObjectReference{Name: secrets[i].Name}
	}
}

func prepareVolumeCreate(_ context.Context, obj api.Object) {
	now := metav1.Now()
	obj.(*corev1.PersistentVolume).Status = corev1.PersistentVolumeStatus{
		Phase: corev1.VolumePending, LastPhaseTransitionTime: &now}
}

// prepareVolumeStatus keeps the time of the last change of phase right when a writer doesn't.
func prepareVolumeStatus(_ context.Context, obj, old api.Object) {
	s, was := &obj.(*corev1.PersistentVolume).Status, &old.(*corev1.PersistentVolume).Status
	switch {
	case s.Phase == was.Phase && s.LastPhaseTransitionTime == nil:
		s.LastPhaseTransitionTime = was.LastPhaseTransitionTime
	case s.Phase != was.Phase && (s.LastPhaseTransitionTime == nil || s.LastPhaseTransitionTime.Equal(was.LastPhaseTransitionTime)):
		now := metav1.Now()
		s.LastPhaseTransitionTime = &now
	}
}

func prepareClaimCreate(_ context.Context, obj api.Object) {
	c := obj.(*corev1.PersistentVolumeClaim)
	c.Status = corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending}
	dropForeignSource(&c.Spec)
	syncSources(&c.Spec)
}

func prepareClaimUpdate(_ context.Context, obj, old api.Object) {
	c, was := obj.(*corev1.PersistentVolumeClaim), old.(*corev1.PersistentVolumeClaim)
	if was.Spec.DataSource == nil && was.Spec.DataSourceRef == nil {
		dropForeignSource(&c.Spec)
	}
	syncSources(&c.Spec)
}

// dropForeignSource: dataSource names claims and snapshots; anything else was always dropped
// silently. dataSourceRef takes any kind (KEP-1495).
func dropForeignSource(s *corev1.PersistentVolumeClaimSpec) {
	if s.DataSource == nil || s.DataSourceRef != nil {
		return
	}
	group := ""
	if s.DataSource.APIGroup != nil {
		group = *s.DataSource.APIGroup
	}
	claim := group == "" && s.DataSource.Kind == "PersistentVolumeClaim"
	snapshot := group == "snapshot.storage.k8s.io" && s.DataSource.Kind == "VolumeSnapshot"
	if !claim && !snapshot {
		s.DataSource = nil
	}
}

// syncSources shows the source under both names, unless it lies in another namespace.
func syncSources(s *corev1.PersistentVolumeClaimSpec) {
	switch from, ref := s.DataSource, s.DataSourceRef; {
	case from != nil && ref == nil:
		s.DataSourceRef = &corev1.TypedObjectReference{APIGroup: clone(from.APIGroup), Kind: from.Kind, Name: from.Name}
	case ref != nil && from == nil && (ref.Namespace == nil || *ref.Namespace == ""):
		s.DataSource = &corev1.TypedLocalObjectReference{APIGroup: clone(ref.APIGroup), Kind: ref.Kind, Name: ref.Name}
	}
}

func clone[T any](p *T) *T {
	if p == nil {
		return nil
	}
	v := *p
	return &v
}

func prepareLimitRangeCreate(_ context.Context, obj api.Object) {
	if obj.GetName() == "" {
		obj.SetName(string(uuid.NewUUID()))
	}
}
