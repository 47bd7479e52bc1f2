package apps

import (
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"skiff/pkg/api"
	"skiff/pkg/api/core"
)

// defaultHistory is how many old revisions a workload keeps for a rollback.
const defaultHistory = 10

func defaultDeployment(obj api.Object) {
	s := &obj.(*appsv1.Deployment).Spec
	defaultCount(&s.Replicas, 1)
	defaultCount(&s.RevisionHistoryLimit, defaultHistory)
	defaultCount(&s.ProgressDeadlineSeconds, 600)
	if s.Strategy.Type == "" {
		s.Strategy.Type = appsv1.RollingUpdateDeploymentStrategyType
	}
	if s.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType {
		if s.Strategy.RollingUpdate == nil {
			s.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{}
		}
		u := s.Strategy.RollingUpdate
		if u.MaxUnavailable == nil {
			u.MaxUnavailable = ptr.To(intstr.FromString("25%"))
		}
		if u.MaxSurge == nil {
			u.MaxSurge = ptr.To(intstr.FromString("25%"))
		}
	}
	core.DefaultPodTemplate(&s.Template)
}

func defaultReplicaSet(obj api.Object) {
	s := &obj.(*appsv1.ReplicaSet).Spec
	defaultCount(&s.Replicas, 1)
	core.DefaultPodTemplate(&s.Template)
}

func defaultDaemonSet(obj api.Object) {
	s := &obj.(*appsv1.DaemonSet).Spec
	if s.UpdateStrategy.Type == "" {
		s.UpdateStrategy.Type = appsv1.RollingUpdateDaemonSetStrategyType
	}
	if s.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		if s.UpdateStrategy.RollingUpdate == nil {
			s.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{}
		}
		u := s.UpdateStrategy.RollingUpdate
		if u.MaxUnavailable == nil {
			u.MaxUnavailable = ptr.To(intstr.FromInt32(1))
		}
		if u.MaxSurge == nil {
			u.MaxSurge = ptr.To(intstr.FromInt32(0))
		}
	}
	defaultCount(&s.RevisionHistoryLimit, defaultHistory)
	core.DefaultPodTemplate(&s.Template)
	d := obj.(*appsv1.DaemonSet)
	setTemplateGeneration(d, templateGeneration(d)) // who writes the object owns it
}

func defaultStatefulSet(obj api.Object) {
	s := &obj.(*appsv1.StatefulSet).Spec
	if s.PodManagementPolicy == "" {
		s.PodManagementPolicy = appsv1.OrderedReadyPodManagement
	}
	if s.UpdateStrategy.Type == "" {
		s.UpdateStrategy.Type = appsv1.RollingUpdateStatefulSetStrategyType
		if s.UpdateStrategy.RollingUpdate == nil {
			s.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{}
		}
	}
	if u := s.UpdateStrategy.RollingUpdate; u != nil && s.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType {
		defaultCount(&u.Partition, 0)
	}
	if s.PersistentVolumeClaimRetentionPolicy == nil {
		s.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{}
	}
	p := s.PersistentVolumeClaimRetentionPolicy
	if p.WhenDeleted == "" {
		p.WhenDeleted = appsv1.RetainPersistentVolumeClaimRetentionPolicyType
	}
	if p.WhenScaled == "" {
		p.WhenScaled = appsv1.RetainPersistentVolumeClaimRetentionPolicyType
	}
	defaultCount(&s.Replicas, 1)
	defaultCount(&s.RevisionHistoryLimit, defaultHistory)
	core.DefaultPodTemplate(&s.Template)
	nameClaims(obj)
	for i := range s.VolumeClaimTemplates {
		core.DefaultClaim(&s.VolumeClaimTemplates[i])
	}
}

// nameClaims: the claims of a stateful set have shown their kind since before 1.17, and clients compare it. In
// protobuf, nested objects have none.
func nameClaims(obj api.Object) {
	claims := obj.(*appsv1.StatefulSet).Spec.VolumeClaimTemplates
	for i := range claims {
		claims[i].APIVersion, claims[i].Kind = "v1", "PersistentVolumeClaim"
	}
}

func defaultCount(field **int32, n int32) {
	if *field == nil {
		*field = &n
	}
}
