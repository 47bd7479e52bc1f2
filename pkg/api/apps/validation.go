package apps

import (
	"encoding/json"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api"
	"skiff/pkg/api/check"
	"skiff/pkg/api/core"
)

var (
	specPath   = field.NewPath("spec")
	statusPath = field.NewPath("status")
)

// selects checks a workload's selector, and its template with it. A workload without a selector would adopt all pods.
func selects(s *metav1.LabelSelector, t, old *corev1.PodTemplateSpec, kind, noun string) check.Errors {
	at := specPath.Child("selector")
	var errs check.Errors
	if s == nil {
		errs = append(errs, field.Required(at, ""))
	} else {
		errs = append(errs, check.Selector(at, s, false)...)
		if len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
			errs = append(errs, field.Invalid(at, s, "empty selector is invalid for "+noun))
		}
	}
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return append(errs, field.Invalid(at, s, "invalid label selector"))
	}
	return append(errs, core.WorkloadTemplate(specPath.Child("template"), t, old, selector, kind)...)
}

func validateDeployment(obj api.Object) field.ErrorList {
	return wholeDeployment(obj.(*appsv1.Deployment), nil)
}

func wholeDeployment(d *appsv1.Deployment, oldTemplate *corev1.PodTemplateSpec) check.Errors {
	s, at := &d.Spec, specPath
	errs := slices.Concat(
		check.NonNegativeIf(at.Child("replicas"), s.Replicas),
		// The template's rules name the replica set that will hold it.
		selects(s.Selector, &s.Template, oldTemplate, "ReplicaSet", "deployment"),
		deploymentStrategy(at.Child("strategy"), &s.Strategy),
		check.NonNegative(at.Child("minReadySeconds"), s.MinReadySeconds),
		check.NonNegativeIf(at.Child("revisionHistoryLimit"), s.RevisionHistoryLimit),
		check.NonNegativeIf(at.Child("progressDeadlineSeconds"), s.ProgressDeadlineSeconds),
	)
	if p := s.ProgressDeadlineSeconds; p != nil && *p <= s.MinReadySeconds {
		errs = append(errs, field.Invalid(at.Child("progressDeadlineSeconds"), *p, "must be greater than minReadySeconds"))
	}
	return errs
}

func deploymentStrategy(at *field.Path, s *appsv1.DeploymentStrategy) check.Errors {
	rolling := at.Child("rollingUpdate")
	switch s.Type {
	case appsv1.RecreateDeploymentStrategyType:
		if s.RollingUpdate != nil {
			return check.Errors{field.Forbidden(rolling, "may not be specified when strategy `type` is 'Recreate'")}
		}
		return nil
	case appsv1.RollingUpdateDeploymentStrategyType:
		if s.RollingUpdate == nil {
			return check.Errors{field.Required(rolling, "this should be defaulted and never be nil")}
		}
	default:
		return check.Errors{field.NotSupported(at, s, []string{string(appsv1.RecreateDeploymentStrategyType), string(appsv1.RollingUpdateDeploymentStrategyType)})}
	}
	unavailable, surge := orZero(s.RollingUpdate.MaxUnavailable), orZero(s.RollingUpdate.MaxSurge)
	errs := slices.Concat(check.IntOrPercent(rolling.Child("maxUnavailable"), unavailable), check.IntOrPercent(rolling.Child("maxSurge"), surge))
	if check.IntOrPercentValue(unavailable) == 0 && check.IntOrPercentValue(surge) == 0 {
		errs = append(errs, field.Invalid(rolling.Child("maxUnavailable"), unavailable, "may not be 0 when `maxSurge` is 0"))
	}
	return append(errs, check.AtMost100Percent(rolling.Child("maxUnavailable"), unavailable)...)
}

func orZero(v *intstr.IntOrString) intstr.IntOrString {
	if v == nil {
		return intstr.IntOrString{}
	}
	return *v
}

func validateDeploymentUpdate(obj, old api.Object) field.ErrorList {
	d, was := obj.(*appsv1.Deployment), old.(*appsv1.Deployment)
	return slices.Concat(wholeDeployment(d, &was.Spec.Template), check.Immutable(specPath.Child("selector"), d.Spec.Selector, was.Spec.Selector))
}

func validateDeploymentStatus(obj, old api.Object) field.ErrorList {
	s, was, at := &obj.(*appsv1.Deployment).Status, &old.(*appsv1.Deployment).Status, statusPath
	return slices.Concat(
		check.NonNegative(at.Child("observedGeneration"), s.ObservedGeneration),
		core.ReplicaCounts(at, s.Replicas, slices.Concat(
			check.NonNegative(at.Child("unavailableReplicas"), s.UnavailableReplicas),
			check.NonNegativeIf(at.Child("terminatingReplicas"), s.TerminatingReplicas),
			check.NonNegativeIf(at.Child("collisionCount"), s.CollisionCount),
		), []string{"updatedReplicas", "readyReplicas", "availableReplicas"}, s.UpdatedReplicas, s.ReadyReplicas, s.AvailableReplicas),
		check.NotAbove(at.Child("availableReplicas"), s.AvailableReplicas, s.ReadyReplicas, "readyReplicas"),
		check.NotDecremented(at.Child("collisionCount"), s.CollisionCount, was.CollisionCount),
	)
}

func validateReplicaSet(obj api.Object) field.ErrorList {
	return wholeReplicaSet(obj.(*appsv1.ReplicaSet), nil)
}

func wholeReplicaSet(rs *appsv1.ReplicaSet, oldTemplate *corev1.PodTemplateSpec) check.Errors {
	s := &rs.Spec
	return slices.Concat(
		check.NonNegativeIf(specPath.Child("replicas"), s.Replicas),
		check.NonNegative(specPath.Child("minReadySeconds"), s.MinReadySeconds),
		selects(s.Selector, &s.Template, oldTemplate, "ReplicaSet", "deployment"), // the noun is Kubernetes' own
	)
}

func validateReplicaSetUpdate(obj, old api.Object) field.ErrorList {
	rs, was := obj.(*appsv1.ReplicaSet), old.(*appsv1.ReplicaSet)
	return slices.Concat(wholeReplicaSet(rs, &was.Spec.Template), check.Immutable(specPath.Child("selector"), rs.Spec.Selector, was.Spec.Selector))
}

func validateReplicaSetStatus(obj, _ api.Object) field.ErrorList {
	s, at := &obj.(*appsv1.ReplicaSet).Status, statusPath
	return slices.Concat(
		core.ReplicaCounts(at, s.Replicas, slices.Concat(
			check.NonNegative(at.Child("observedGeneration"), s.ObservedGeneration),
			check.NonNegativeIf(at.Child("terminatingReplicas"), s.TerminatingReplicas),
		), []string{"fullyLabeledReplicas", "readyReplicas", "availableReplicas"}, s.FullyLabeledReplicas, s.ReadyReplicas, s.AvailableReplicas),
		check.NotAbove(at.Child("availableReplicas"), s.AvailableReplicas, s.ReadyReplicas, "readyReplicas"),
	)
}

func validateDaemonSet(obj api.Object) field.ErrorList {
	return wholeDaemonSet(obj.(*appsv1.DaemonSet), &appsv1.DaemonSet{}, nil)
}

func wholeDaemonSet(d, old *appsv1.DaemonSet, oldTemplate *corev1.PodTemplateSpec) check.Errors {
	s, at := &d.Spec, specPath
	lax := len(check.Selector(nil, old.Spec.Selector, false)) > 0
	errs := check.Selector(at.Child("selector"), s.Selector, lax)
	selector, err := metav1.LabelSelectorAsSelector(s.Selector)
	if err == nil && !selector.Matches(labels.Set(s.Template.Labels)) {
		errs = append(errs, field.Invalid(at.Child("template", "metadata", "labels"), s.Template.Labels, "`selector` does not match template `labels`"))
	}
	if s.Selector != nil && len(s.Selector.MatchLabels)+len(s.Selector.MatchExpressions) == 0 {
		errs = append(errs, field.Invalid(at.Child("selector"), s.Selector, "empty selector is invalid for daemonset"))
	}
	template := at.Child("template")
	return slices.Concat(errs,
		core.ValidatePodTemplate(template, &s.Template, oldTemplate),
		core.RunsForever(template.Child("spec"), &s.Template.Spec, "DaemonSet"),
		check.NonNegative(at.Child("minReadySeconds"), s.MinReadySeconds),
		daemonSetStrategy(at.Child("updateStrategy"), &s.UpdateStrategy),
		check.NonNegativeIf(at.Child("revisionHistoryLimit"), s.RevisionHistoryLimit),
	)
}

func daemonSetStrategy(at *field.Path, s *appsv1.DaemonSetUpdateStrategy) check.Errors {
	switch s.Type {
	case appsv1.OnDeleteDaemonSetStrategyType:
		return nil
	case appsv1.RollingUpdateDaemonSetStrategyType:
	default:
		return check.Errors{field.NotSupported(at, s, []string{string(appsv1.RollingUpdateDaemonSetStrategyType), string(appsv1.OnDeleteDaemonSetStrategyType)})}
	}
	at = at.Child("rollingUpdate")
	if s.RollingUpdate == nil {
		return check.Errors{field.Required(at, "")}
	}
	unavailable, surge := orZero(s.RollingUpdate.MaxUnavailable), orZero(s.RollingUpdate.MaxSurge)
	errs := slices.Concat(
		check.IntOrPercent(at.Child("maxUnavailable"), unavailable), check.IntOrPercent(at.Child("maxSurge"), surge),
		check.AtMost100Percent(at.Child("maxUnavailable"), unavailable), check.AtMost100Percent(at.Child("maxSurge"), surge),
	)
	switch down, up := check.IntOrPercentValue(unavailable) != 0, check.IntOrPercentValue(surge) != 0; {
	case down && up:
		errs = append(errs, field.Invalid(at.Child("maxSurge"), surge, "may not be set when maxUnavailable is non-zero"))
	case !down && !up:
		errs = append(errs, field.Required(at.Child("maxUnavailable"), "cannot be 0 when maxSurge is 0"))
	}
	return errs
}

func validateDaemonSetUpdate(obj, old api.Object) field.ErrorList {
	d, was := obj.(*appsv1.DaemonSet), old.(*appsv1.DaemonSet)
	return slices.Concat(check.Immutable(specPath.Child("selector"), d.Spec.Selector, was.Spec.Selector), wholeDaemonSet(d, was, &was.Spec.Template))
}

func validateDaemonSetStatus(obj, old api.Object) field.ErrorList {
	s, was, at := &obj.(*appsv1.DaemonSet).Status, &old.(*appsv1.DaemonSet).Status, statusPath
	return slices.Concat(
		check.NonNegative(at.Child("currentNumberScheduled"), s.CurrentNumberScheduled),
		check.NonNegative(at.Child("numberMisscheduled"), s.NumberMisscheduled),
		check.NonNegative(at.Child("desiredNumberScheduled"), s.DesiredNumberScheduled),
		check.NonNegative(at.Child("numberReady"), s.NumberReady),
		check.NonNegative(at.Child("observedGeneration"), s.ObservedGeneration),
		check.NonNegative(at.Child("updatedNumberScheduled"), s.UpdatedNumberScheduled),
		check.NonNegative(at.Child("numberAvailable"), s.NumberAvailable),
		check.NonNegative(at.Child("numberUnavailable"), s.NumberUnavailable),
		check.NonNegativeIf(at.Child("collisionCount"), s.CollisionCount),
		check.NotDecremented(at.Child("collisionCount"), s.CollisionCount, was.CollisionCount),
	)
}

func revision(r *appsv1.ControllerRevision) check.Errors {
	return check.NonNegative(field.NewPath("revision"), r.Revision)
}

func validateRevision(obj api.Object) field.ErrorList {
	r, at := obj.(*appsv1.ControllerRevision), field.NewPath("data")
	errs := revision(r)
	var v any
	if r.Data.Raw == nil {
		return append(errs, field.Required(at, "data is mandatory"))
	}
	if err := json.Unmarshal(r.Data.Raw, &v); err != nil {
		return append(errs, field.Invalid(at, "<value omitted>", fmt.Sprintf("error parsing data: %v", err)))
	}
	if v == nil {
		errs = append(errs, field.Required(at, "data is mandatory"))
	} else if _, ok := v.(map[string]any); !ok {
		errs = append(errs, field.Required(at, "data must be a valid JSON object"))
	}
	return errs
}

func validateRevisionUpdate(obj, old api.Object) field.ErrorList {
	r, was := obj.(*appsv1.ControllerRevision), old.(*appsv1.ControllerRevision)
	return slices.Concat(revision(r), check.Immutable(field.NewPath("data"), r.Data, was.Data))
}

// warnings are those of a workload's template, and of a name of which names of pods are made.
func warnings(template func(api.Object) *corev1.PodTemplateSpec, named bool) func(obj, old api.Object) []string {
	return func(obj, old api.Object) []string {
		var list []string
		if old == nil && named {
			list = core.PodNameWarning(obj.GetName())
		}
		if old == nil || !equality.Semantic.DeepEqual(template(obj), template(old)) {
			list = append(list, core.TemplateWarnings(specPath.Child("template"), template(obj))...)
		}
		return list
	}
}

var (
	deploymentWarnings = warnings(func(o api.Object) *corev1.PodTemplateSpec { return &o.(*appsv1.Deployment).Spec.Template }, true)
	replicaSetWarnings = warnings(func(o api.Object) *corev1.PodTemplateSpec { return &o.(*appsv1.ReplicaSet).Spec.Template }, true)
	daemonSetWarnings  = warnings(func(o api.Object) *corev1.PodTemplateSpec { return &o.(*appsv1.DaemonSet).Spec.Template }, false)
)
