package autoscaling

import (
	"encoding/json"
	"fmt"
	"maps"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"skiff/pkg/api"
)

// The annotations that carry through v1 what only v2 has fields for.
const (
	metricsAnnotation        = "autoscaling.alpha.kubernetes.io/metrics"
	currentMetricsAnnotation = "autoscaling.alpha.kubernetes.io/current-metrics"
	conditionsAnnotation     = "autoscaling.alpha.kubernetes.io/conditions"
	behaviorAnnotation       = "autoscaling.alpha.kubernetes.io/behavior"
	scaleUpTolerance         = "autoscaling.alpha.kubernetes.io/scale-up-tolerance"
	scaleDownTolerance       = "autoscaling.alpha.kubernetes.io/scale-down-tolerance"
)

// defaultCPUUtilization (percent) is the target of an autoscaler that names no metric.
const defaultCPUUtilization = 80

var roundTrip = []string{metricsAnnotation, currentMetricsAnnotation, conditionsAnnotation,
	behaviorAnnotation, scaleUpTolerance, scaleDownTolerance}

// toV2 reads a v1 autoscaler. What its annotations say wrongly is dropped, as Kubernetes does:
// they are not a client's to write.
func toV2(obj api.Object) (api.Object, error) {
	in := obj.(*autoscalingv1.HorizontalPodAutoscaler)
	out := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: in.ObjectMeta}
	out.SetGroupVersionKind(autoscalingv2.SchemeGroupVersion.WithKind("HorizontalPodAutoscaler"))
	out.Annotations = maps.Clone(in.Annotations)
	out.Spec = autoscalingv2.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv2.CrossVersionObjectReference(in.Spec.ScaleTargetRef),
		MinReplicas:    in.Spec.MinReplicas,
		MaxReplicas:    in.Spec.MaxReplicas,
		Metrics:        metricsToV2(in),
	}
	var behavior *autoscalingv2.HorizontalPodAutoscalerBehavior
	if fromAnnotation(in.Annotations, behaviorAnnotation, &behavior) {
		out.Spec.Behavior = behavior
	}
	out.Status = statusToV2(in)
	for _, key := range roundTrip {
		delete(out.Annotations, key)
	}
	return out, nil
}

func metricsToV2(in *autoscalingv1.HorizontalPodAutoscaler) []autoscalingv2.MetricSpec {
	var metrics []autoscalingv2.MetricSpec
	var others []autoscalingv1.MetricSpec
	if fromAnnotation(in.Annotations, metricsAnnotation, &others) {
		for _, m := range others {
			metrics = append(metrics, metricToV2(m))
		}
	}
	target := in.Spec.TargetCPUUtilizationPercentage
	if target == nil && len(metrics) == 0 {
		target = ptr.To[int32](defaultCPUUtilization)
	}
	if target != nil {
		metrics = append(metrics, cpuMetric(target))
	}
	return metrics
}

func statusToV2(in *autoscalingv1.HorizontalPodAutoscaler) autoscalingv2.HorizontalPodAutoscalerStatus {
	out := autoscalingv2.HorizontalPodAutoscalerStatus{
		ObservedGeneration: in.Status.ObservedGeneration,
		LastScaleTime:      in.Status.LastScaleTime,
		CurrentReplicas:    in.Status.CurrentReplicas,
		DesiredReplicas:    in.Status.DesiredReplicas,
	}
	var current []autoscalingv1.MetricStatus
	if fromAnnotation(in.Annotations, currentMetricsAnnotation, &current) {
		for _, m := range current {
			out.CurrentMetrics = append(out.CurrentMetrics, metricStatusToV2(m))
		}
	} else if percent := in.Status.CurrentCPUUtilizationPercentage; percent != nil {
		out.CurrentMetrics = []autoscalingv2.MetricStatus{{
			Type: autoscalingv2.ResourceMetricSourceType,
			Resource: &autoscalingv2.ResourceMetricStatus{
				Name:    corev1.ResourceCPU,
				Current: autoscalingv2.MetricValueStatus{AverageUtilization: percent},
			},
		}}
	}
	var conditions []autoscalingv1.HorizontalPodAutoscalerCondition
	if fromAnnotation(in.Annotations, conditionsAnnotation, &conditions) {
		for _, c := range conditions {
			out.Conditions = append(out.Conditions, autoscalingv2.HorizontalPodAutoscalerCondition{
				Type:               autoscalingv2.HorizontalPodAutoscalerConditionType(c.Type),
				Status:             c.Status,
				LastTransitionTime: c.LastTransitionTime,
				Reason:             c.Reason,
				Message:            c.Message,
			})
		}
	}
	return out
}

func fromV2(obj api.Object) (api.Object, error) {
	in := obj.(*autoscalingv2.HorizontalPodAutoscaler)
	out := &autoscalingv1.HorizontalPodAutoscaler{ObjectMeta: in.ObjectMeta}
	out.SetGroupVersionKind(autoscalingv1.SchemeGroupVersion.WithKind("HorizontalPodAutoscaler"))
	out.Spec = autoscalingv1.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv1.CrossVersionObjectReference(in.Spec.ScaleTargetRef),
		MinReplicas:    in.Spec.MinReplicas,
		MaxReplicas:    in.Spec.MaxReplicas,
	}
	out.Status = autoscalingv1.HorizontalPodAutoscalerStatus{
		ObservedGeneration: in.Status.ObservedGeneration,
		LastScaleTime:      in.Status.LastScaleTime,
		CurrentReplicas:    in.Status.CurrentReplicas,
		DesiredReplicas:    in.Status.DesiredReplicas,
	}
	annotations := maps.Clone(in.Annotations)
	for _, key := range roundTrip {
		delete(annotations, key)
	}
	out.Annotations = annotations
	var others []autoscalingv1.MetricSpec
	for _, m := range in.Spec.Metrics {
		if percent := cpuTarget(m); percent != nil {
			out.Spec.TargetCPUUtilizationPercentage = percent
			continue
		}
		others = append(others, metricFromV2(m))
	}
	var current []autoscalingv1.MetricStatus
	for _, m := range in.Status.CurrentMetrics {
		if m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil && m.Resource.Name == corev1.ResourceCPU {
			out.Status.CurrentCPUUtilizationPercentage = m.Resource.Current.AverageUtilization
		}
		current = append(current, metricStatusFromV2(m))
	}
	if err := toAnnotation(out, metricsAnnotation, others, len(others) > 0); err != nil {
		return nil, err
	}
	if err := toAnnotation(out, currentMetricsAnnotation, current, len(current) > 0); err != nil {
		return nil, err
	}
	// Kubernetes writes this one in its internal, untagged form; reading is case-insensitive.
	if err := toAnnotation(out, behaviorAnnotation, in.Spec.Behavior, in.Spec.Behavior != nil); err != nil {
		return nil, err
	}
	if err := toAnnotation(out, conditionsAnnotation, conditionsFromV2(in.Status.Conditions), len(in.Status.Conditions) > 0); err != nil {
		return nil, err
	}
	return out, nil
}

func conditionsFromV2(in []autoscalingv2.HorizontalPodAutoscalerCondition) []autoscalingv1.HorizontalPodAutoscalerCondition {
	var out []autoscalingv1.HorizontalPodAutoscalerCondition
	for _, c := range in {
		out = append(out, autoscalingv1.HorizontalPodAutoscalerCondition{
			Type:               autoscalingv1.HorizontalPodAutoscalerConditionType(c.Type),
			Status:             c.Status,
			LastTransitionTime: c.LastTransitionTime,
			Reason:             c.Reason,
			Message:            c.Message,
		})
	}
	return out
}

// cpuTarget is the one metric v1 has a field for.
func cpuTarget(m autoscalingv2.MetricSpec) *int32 {
	if m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil && m.Resource.Name == corev1.ResourceCPU {
		return m.Resource.Target.AverageUtilization
	}
	return nil
}

func fromAnnotation(annotations map[string]string, key string, into any) bool {
	text, ok := annotations[key]
	return ok && json.Unmarshal([]byte(text), into) == nil
}

func toAnnotation(obj api.Object, key string, value any, present bool) error {
	if !present {
		return nil
	}
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("annotation %s: %w", key, err)
	}
	annotations := obj.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[key] = string(text)
	obj.SetAnnotations(annotations)
	return nil
}
