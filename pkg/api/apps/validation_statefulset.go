package apps

import (
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api"
	"skiff/pkg/api/check"
	"skiff/pkg/api/core"
)

func validateStatefulSet(obj api.Object) field.ErrorList {
	return statefulSet(&obj.(*appsv1.StatefulSet).Spec, nil)
}

func statefulSet(s, old *appsv1.StatefulSetSpec) check.Errors {
	at := specPath
	var errs check.Errors
	switch p := s.PodManagementPolicy; p {
	case "":
		errs = append(errs, field.Required(at.Child("podManagementPolicy"), ""))
	case appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement:
	default:
		errs = append(errs, field.Invalid(at.Child("podManagementPolicy"), p, fmt.Sprintf("must be '%s' or '%s'", appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement)))
	}
	errs = append(errs, statefulSetStrategy(at.Child("updateStrategy"), s, old)...)
	if p, at := s.PersistentVolumeClaimRetentionPolicy, at.Child("persistentVolumeClaimRetentionPolicy"); p != nil {
		known := []appsv1.PersistentVolumeClaimRetentionPolicyType{appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType}
		errs = slices.Concat(errs, check.OneOf(at.Child("whenDeleted"), p.WhenDeleted, known...), check.OneOf(at.Child("whenScaled"), p.WhenScaled, known...))
	}
	for i := range s.VolumeClaimTemplates {
		if old != nil {
			break // they and the service can't change, and may be as they are
		}
		errs = append(errs, core.ValidateClaimSpec(at.Child("volumeClaimTemplates").Index(i).Child("spec"), &s.VolumeClaimTemplates[i].Spec, nil)...)
	}
	errs = slices.Concat(errs, check.NonNegativeIf(at.Child("replicas"), s.Replicas), check.NonNegative(at.Child("minReadySeconds"), s.MinReadySeconds))
	if s.Ordinals != nil {
		errs = append(errs, check.NonNegative(at.Child("ordinals.start"), s.Ordinals.Start)...)
	}
	if s.ServiceName != "" && old == nil {
		errs = append(errs, check.Label(at.Child("serviceName"), s.ServiceName)...)
	}
	return append(errs, statefulSetTemplate(s, old)...)
}

func statefulSetStrategy(at *field.Path, s, old *appsv1.StatefulSetSpec) check.Errors {
	strategy, rolling := &s.UpdateStrategy, at.Child("rollingUpdate")
	switch strategy.Type {
	case "":
		return check.Errors{field.Required(at, "")}
	case appsv1.OnDeleteStatefulSetStrategyType:
		if strategy.RollingUpdate != nil {
			return check.Errors{field.Invalid(rolling, strategy.RollingUpdate, "only allowed for updateStrategy 'RollingUpdate'")}
		}
		return nil
	case appsv1.RollingUpdateStatefulSetStrategyType:
	default:
		return check.Errors{field.Invalid(at, strategy, "must be 'RollingUpdate' or 'OnDelete'")}
	}
	if strategy.RollingUpdate == nil {
		return nil
	}
	errs := check.NonNegativeIf(rolling.Child("partition"), strategy.RollingUpdate.Partition)
	if strategy.RollingUpdate.MaxUnavailable != nil {
		had := old != nil && old.UpdateStrategy.RollingUpdate != nil && old.UpdateStrategy.RollingUpdate.MaxUnavailable != nil
		if !had {
			return append(errs, core.Off(rolling.Child("maxUnavailable"), "MaxUnavailableStatefulSet"))
		}
		at, n := rolling.Child("maxUnavailable"), *strategy.RollingUpdate.MaxUnavailable
		errs = append(errs, check.IntOrPercent(at, n)...)
		if check.IntOrPercentValue(n) == 0 {
			errs = append(errs, field.Invalid(at, n, "cannot be 0"))
		}
		errs = append(errs, check.AtMost100Percent(at, n)...)
	}
	return errs
}

// statefulSetTemplate checks the template as the controller completes it: with the volumes of its claims, and
// with names of its own.
func statefulSetTemplate(s, old *appsv1.StatefulSetSpec) check.Errors {
	at, template := specPath.Child("selector"), specPath.Child("template")
	var errs check.Errors
	if s.Selector == nil {
		errs = append(errs, field.Required(at, ""))
	} else {
		errs = append(errs, check.Selector(at, s.Selector, false)...)
		if len(s.Selector.MatchLabels)+len(s.Selector.MatchExpressions) == 0 {
			errs = append(errs, field.Invalid(at, s.Selector, "empty selector is invalid for statefulset"))
		}
	}
	selector, err := metav1.LabelSelectorAsSelector(s.Selector)
	if err != nil {
		errs = append(errs, field.Invalid(at, s.Selector, ""))
	} else if !selector.Matches(labels.Set(s.Template.Labels)) {
		errs = append(errs, field.Invalid(template.Child("metadata", "labels"), s.Template.Labels, "`selector` does not match template `labels`"))
	}
	if err == nil {
		var before *corev1.PodTemplateSpec
		if old != nil {
			before = completed(old)
		}
		wrong := core.ValidatePodTemplate(template, completed(s), before)
		// What was wrong before may stay wrong: the rest of the set must remain editable.
		if len(wrong) > 0 && (before == nil || len(core.ValidatePodTemplate(template, before, nil)) == 0) {
			errs = append(errs, wrong...)
		}
	}
	return append(errs, core.RunsForever(template.Child("spec"), &s.Template.Spec, "StatefulSet")...)
}

func completed(s *appsv1.StatefulSetSpec) *corev1.PodTemplateSpec {
	t := s.Template.DeepCopy()
	t.Spec.Subdomain, t.Spec.Hostname = "", ""
	var volumes []corev1.Volume
	for i := range s.VolumeClaimTemplates {
		name := s.VolumeClaimTemplates[i].Name
		if slices.ContainsFunc(volumes, func(v corev1.Volume) bool { return v.Name == name }) {
			continue
		}
		volumes = append(volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}})
	}
	for _, v := range t.Spec.Volumes {
		if !slices.ContainsFunc(s.VolumeClaimTemplates, func(c corev1.PersistentVolumeClaim) bool { return c.Name == v.Name }) {
			volumes = append(volumes, v)
		}
	}
	t.Spec.Volumes = volumes
	return t
}

func validateStatefulSetUpdate(obj, old api.Object) field.ErrorList {
	s, was := &obj.(*appsv1.StatefulSet).Spec, &old.(*appsv1.StatefulSet).Spec
	errs := statefulSet(s, was)
	rest := s.DeepCopy()
	rest.Replicas, rest.Template, rest.UpdateStrategy, rest.MinReadySeconds = was.Replicas, was.Template, was.UpdateStrategy, was.MinReadySeconds
	rest.Ordinals, rest.RevisionHistoryLimit, rest.PersistentVolumeClaimRetentionPolicy = was.Ordinals, was.RevisionHistoryLimit, was.PersistentVolumeClaimRetentionPolicy
	if !equality.Semantic.DeepEqual(rest, was) {
		errs = append(errs, field.Forbidden(specPath, "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"))
	}
	return errs
}

func validateStatefulSetStatus(obj, old api.Object) field.ErrorList {
	s, was, at := &obj.(*appsv1.StatefulSet).Status, &old.(*appsv1.StatefulSet).Status, statusPath
	return slices.Concat(
		core.ReplicaCounts(at, s.Replicas, slices.Concat(
			check.NonNegative(at.Child("observedGeneration"), s.ObservedGeneration),
			check.NonNegativeIf(at.Child("collisionCount"), s.CollisionCount),
		), []string{"readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"}, s.ReadyReplicas, s.CurrentReplicas, s.UpdatedReplicas, s.AvailableReplicas),
		check.NotAbove(at.Child("availableReplicas"), s.AvailableReplicas, s.ReadyReplicas, "status.readyReplicas"),
		check.NotDecremented(at.Child("collisionCount"), s.CollisionCount, was.CollisionCount),
	)
}

func statefulSetWarnings(obj, old api.Object) []string {
	list := warnings(func(o api.Object) *corev1.PodTemplateSpec { return &o.(*appsv1.StatefulSet).Spec.Template }, false)(obj, old)
	s := &obj.(*appsv1.StatefulSet).Spec
	for i := range s.VolumeClaimTemplates {
		at := specPath.Child("volumeClaimTemplates").Index(i)
		if old != nil {
			at = at.Child("Spec")
		}
		list = append(list, core.ClaimWarnings(at, &s.VolumeClaimTemplates[i].Spec)...)
	}
	if n := s.RevisionHistoryLimit; n != nil && *n < 0 {
		list = append(list, "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended")
	}
	return list
}
