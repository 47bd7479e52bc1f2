package autoscaling

import (
	"fmt"
	"slices"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api"
	"skiff/pkg/api/check"
	"skiff/pkg/api/core"
)

const (
	longestPeriod = 1800 // seconds, of a scaling policy
	longestWindow = 3600 // seconds, of stabilization
)

func validateAutoscaler(obj api.Object) field.ErrorList { return validateAutoscalerUpdate(obj, nil) }

func validateAutoscalerUpdate(obj, old api.Object) field.ErrorList {
	s := &obj.(*autoscalingv2.HorizontalPodAutoscaler).Spec
	at := field.NewPath("spec")
	was, _ := old.(*autoscalingv2.HorizontalPodAutoscaler)
	least := int32(1)
	if was != nil && was.Spec.MinReplicas != nil && *was.Spec.MinReplicas == 0 {
		least = 0 // a server whose HPAScaleToZero was on has let it pass
	}
	errs := slices.Concat(replicas(at, s, least), scaled(at.Child("scaleTargetRef"), s.ScaleTargetRef, was), metrics(at.Child("metrics"), s))
	if b := s.Behavior; b != nil {
		errs = slices.Concat(errs, scalingRules(at.Child("behavior", "scaleUp"), b.ScaleUp), scalingRules(at.Child("behavior", "scaleDown"), b.ScaleDown))
	}
	return errs
}

// The v1 form is judged by what will be stored, so that messages name the fields of v2, as in Kubernetes.
func validateAutoscalerV1(obj api.Object) field.ErrorList {
	return validateAutoscalerV1Update(obj, nil)
}

func validateAutoscalerV1Update(obj, old api.Object) field.ErrorList {
	stored, err := toV2(obj.DeepCopyObject().(api.Object))
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	if old != nil {
		if old, err = toV2(old.DeepCopyObject().(api.Object)); err != nil {
			return field.ErrorList{field.InternalError(nil, err)}
		}
	}
	return validateAutoscalerUpdate(stored, old)
}

func validateStatusUpdate(obj, _ api.Object) field.ErrorList {
	at := field.NewPath("status")
	current, desired := int32(0), int32(0)
	switch a := obj.(type) {
	case *autoscalingv2.HorizontalPodAutoscaler:
		current, desired = a.Status.CurrentReplicas, a.Status.DesiredReplicas
	case *autoscalingv1.HorizontalPodAutoscaler:
		current, desired = a.Status.CurrentReplicas, a.Status.DesiredReplicas
	}
	return slices.Concat(check.NonNegative(at.Child("currentReplicas"), current), check.NonNegative(at.Child("desiredReplicas"), desired))
}

func replicas(at *field.Path, s *autoscalingv2.HorizontalPodAutoscalerSpec, lowest int32) check.Errors {
	var errs check.Errors
	if least := s.MinReplicas; least != nil && *least < lowest {
		errs = append(errs, field.Invalid(at.Child("minReplicas"), *least, fmt.Sprintf("must be greater than or equal to %d", lowest)))
	}
	switch most := at.Child("maxReplicas"); {
	case s.MaxReplicas == 0:
		errs = append(errs, field.Required(most, "must be set and greater than 0"))
	case s.MaxReplicas < 0:
		errs = append(errs, field.Invalid(most, s.MaxReplicas, "must be greater than or equal to 1"))
	}
	if s.MinReplicas != nil && s.MaxReplicas < *s.MinReplicas {
		errs = append(errs, field.Invalid(at.Child("maxReplicas"), s.MaxReplicas, "must be greater than or equal to `minReplicas`"))
	}
	return errs
}

// scaled: only replication controllers are scaled without a group; what was let pass once may stay.
func scaled(at *field.Path, ref autoscalingv2.CrossVersionObjectReference, was *autoscalingv2.HorizontalPodAutoscaler) check.Errors {
	if was != nil && was.Spec.ScaleTargetRef.Kind == ref.Kind && was.Spec.ScaleTargetRef.APIVersion == ref.APIVersion {
		ref.APIVersion = "apps/v1"
	}
	errs := reference(at, ref)
	if gv, err := schema.ParseGroupVersion(ref.APIVersion); err == nil && gv.Group == "" && ref.Kind != "ReplicationController" {
		errs = append(errs, field.Invalid(at.Child("apiVersion"), ref.APIVersion, "apiVersion must specify API group"))
	}
	return errs
}

func segment(at *field.Path, v, missing string) check.Errors {
	if v == "" {
		return check.Errors{field.Required(at, missing)}
	}
	return check.Messages(at, v, content.IsPathSegmentName(v))
}

func reference(at *field.Path, r autoscalingv2.CrossVersionObjectReference) check.Errors {
	errs := slices.Concat(segment(at.Child("kind"), r.Kind, ""), segment(at.Child("name"), r.Name, ""))
	if _, err := schema.ParseGroupVersion(r.APIVersion); err != nil {
		errs = append(errs, field.Invalid(at.Child("apiVersion"), r.APIVersion, err.Error()))
	}
	return errs
}

func metrics(at *field.Path, s *autoscalingv2.HorizontalPodAutoscalerSpec) check.Errors {
	var errs check.Errors
	outside := false // of the pods: what still tells something when there is none
	for i := range s.Metrics {
		errs = append(errs, metric(at.Index(i), &s.Metrics[i])...)
		t := s.Metrics[i].Type
		outside = outside || t == autoscalingv2.ObjectMetricSourceType || t == autoscalingv2.ExternalMetricSourceType
	}
	if s.MinReplicas != nil && *s.MinReplicas == 0 && !outside {
		errs = append(errs, field.Forbidden(at, "must specify at least one Object or External metric to support scaling to zero replicas"))
	}
	return errs
}

// source is one of the members of a metric, of which there has to be the one that the type names.
type source struct {
	kind  autoscalingv2.MetricSourceType
	name  string
	check func(*field.Path) check.Errors // nil if it isn't there
}

func sources(m *autoscalingv2.MetricSpec) []source {
	all := []source{
		{kind: autoscalingv2.ObjectMetricSourceType, name: "object"},
		{kind: autoscalingv2.ExternalMetricSourceType, name: "external"},
		{kind: autoscalingv2.PodsMetricSourceType, name: "pods"},
		{kind: autoscalingv2.ResourceMetricSourceType, name: "resource"},
		{kind: autoscalingv2.ContainerResourceMetricSourceType, name: "containerResource"},
	}
	if o := m.Object; o != nil {
		all[0].check = func(at *field.Path) check.Errors {
			return slices.Concat(reference(at.Child("describedObject"), o.DescribedObject), identified(at, o.Metric), metricTarget(at.Child("target"), &o.Target),
				some(at, "averageValue", "must set either a target value or averageValue", o.Target.Value != nil || o.Target.AverageValue != nil))
		}
	}
	if e := m.External; e != nil {
		all[1].check = func(at *field.Path) check.Errors {
			return slices.Concat(identified(at, e.Metric), metricTarget(at.Child("target"), &e.Target),
				some(at, "averageValue", "must set either a target value for metric or a per-pod target", e.Target.Value != nil || e.Target.AverageValue != nil),
				notBoth(at, "value", "may not set both a target value for metric and a per-pod target", e.Target.Value != nil && e.Target.AverageValue != nil))
		}
	}
	if p := m.Pods; p != nil {
		all[2].check = func(at *field.Path) check.Errors {
			return slices.Concat(identified(at, p.Metric), metricTarget(at.Child("target"), &p.Target),
				some(at, "averageValue", "must specify a positive target averageValue", p.Target.AverageValue != nil))
		}
	}
	if r := m.Resource; r != nil {
		all[3].check = func(at *field.Path) check.Errors { return ofResource(at, string(r.Name), &r.Target, nil) }
	}
	if r := m.ContainerResource; r != nil {
		all[4].check = func(at *field.Path) check.Errors { return ofResource(at, string(r.Name), &r.Target, &r.Container) }
	}
	return all
}

func metric(at *field.Path, m *autoscalingv2.MetricSpec) check.Errors {
	var errs check.Errors
	var wanted string
	var present []string
	all := sources(m)
	unknown := !slices.ContainsFunc(all, func(s source) bool { return s.kind == m.Type })
	unsupported := field.NotSupported(at.Child("type"), m.Type, []string{"ContainerResource", "External", "Object", "Pods", "Resource"})
	if m.Type == "" {
		errs = append(errs, field.Required(at.Child("type"), "must specify a metric source type"))
	}
	if unknown {
		errs = append(errs, unsupported)
	}
	var missing check.Errors
	for _, s := range all {
		if s.kind == m.Type {
			wanted = s.name
			if s.check == nil {
				missing = check.Errors{field.Required(at.Child(s.name), "must populate information for the given metric source")}
			}
		}
		if s.check == nil {
			continue
		}
		if present = append(present, s.name); len(present) == 1 {
			errs = append(errs, s.check(at.Child(s.name))...)
		}
	}
	errs = append(errs, missing...)
	if unknown {
		errs = append(errs, unsupported)
	}
	for _, name := range present {
		if name != wanted && len(present) > 1 {
			errs = append(errs, field.Forbidden(at.Child(name), "must populate the given metric source only"))
		}
	}
	return errs
}

func ofResource(at *field.Path, name string, t *autoscalingv2.MetricTarget, container *string) check.Errors {
	var errs check.Errors
	switch {
	case name == "":
		errs = append(errs, field.Required(at.Child("name"), "must specify a resource name"))
	case container != nil:
		errs = append(errs, core.ContainerResourceName(at.Child("name"), corev1.ResourceName(name))...)
	}
	if container != nil {
		if *container == "" {
			errs = append(errs, field.Required(at.Child("container"), "must specify a container"))
		} else {
			errs = append(errs, check.Label(at.Child("container"), *container)...)
		}
	}
	return slices.Concat(errs, metricTarget(at.Child("target"), t),
		some(at, "averageUtilization", "must set either a target raw value or a target utilization", t.AverageUtilization != nil || t.AverageValue != nil),
		notBoth(at, "averageValue", "may not set both a target raw value and a target utilization", t.AverageUtilization != nil && t.AverageValue != nil))
}

func some(at *field.Path, member, message string, is bool) check.Errors {
	if is {
		return nil
	}
	return check.Errors{field.Required(at.Child("target", member), message)}
}

func notBoth(at *field.Path, member, message string, are bool) check.Errors {
	if !are {
		return nil
	}
	return check.Errors{field.Forbidden(at.Child("target", member), message)}
}

func identified(at *field.Path, m autoscalingv2.MetricIdentifier) check.Errors {
	return segment(at.Child("metric", "name"), m.Name, "must specify a metric name")
}

func metricTarget(at *field.Path, t *autoscalingv2.MetricTarget) check.Errors {
	var errs check.Errors
	if t.Type == "" {
		errs = append(errs, field.Required(at.Child("type"), "must specify a metric target type"))
	}
	if t.Type != autoscalingv2.UtilizationMetricType && t.Type != autoscalingv2.ValueMetricType && t.Type != autoscalingv2.AverageValueMetricType {
		errs = append(errs, field.Invalid(at.Child("type"), t.Type, "must be either Utilization, Value, or AverageValue"))
	}
	positive := func(name string, q *resource.Quantity) {
		if q != nil && q.Sign() != 1 {
			errs = append(errs, field.Invalid(at.Child(name), q, "must be positive"))
		}
	}
	positive("value", t.Value)
	positive("averageValue", t.AverageValue)
	if u := t.AverageUtilization; u != nil && *u < 1 {
		errs = append(errs, field.Invalid(at.Child("averageUtilization"), *u, "must be greater than 0"))
	}
	return errs
}

func scalingRules(at *field.Path, r *autoscalingv2.HPAScalingRules) check.Errors {
	if r == nil {
		return nil
	}
	var errs check.Errors
	if w := r.StabilizationWindowSeconds; w != nil && *w < 0 {
		errs = append(errs, field.Invalid(at.Child("stabilizationWindowSeconds"), *w, "must be greater than or equal to zero"))
	} else if w != nil && *w > longestWindow {
		errs = append(errs, field.Invalid(at.Child("stabilizationWindowSeconds"), *w, fmt.Sprintf("must be less than or equal to %d", longestWindow)))
	}
	if p := r.SelectPolicy; p != nil {
		errs = append(errs, check.OneOf(at.Child("selectPolicy"), *p, autoscalingv2.DisabledPolicySelect, autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect)...)
	}
	if len(r.Policies) == 0 {
		errs = append(errs, field.Required(at.Child("policies"), "must specify at least one Policy"))
	}
	for i, p := range r.Policies {
		at := at.Child("policies").Index(i)
		errs = slices.Concat(errs, check.OneOf(at.Child("type"), p.Type, autoscalingv2.PercentScalingPolicy, autoscalingv2.PodsScalingPolicy),
			check.Positive(at.Child("value"), int64(p.Value)), check.Positive(at.Child("periodSeconds"), int64(p.PeriodSeconds)))
		if p.PeriodSeconds > longestPeriod {
			errs = append(errs, field.Invalid(at.Child("periodSeconds"), p.PeriodSeconds, fmt.Sprintf("must be less than or equal to %d", longestPeriod)))
		}
	}
	if r.Tolerance != nil {
		errs = append(errs, check.NonNegativeQuantity(at.Child("tolerance"), *r.Tolerance)...)
	}
	return errs
}
