package autoscaling

import (
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"skiff/pkg/api"
)

// policyPeriod (seconds) is the window of the default scaling policies.
const policyPeriod = 15

func defaultAutoscaler(obj api.Object) {
	s := &obj.(*autoscalingv2.HorizontalPodAutoscaler).Spec
	if s.MinReplicas == nil {
		s.MinReplicas = ptr.To[int32](1)
	}
	if len(s.Metrics) == 0 {
		s.Metrics = []autoscalingv2.MetricSpec{cpuMetric(ptr.To[int32](defaultCPUUtilization))}
	}
	if s.Behavior == nil {
		return
	}
	// Up: at once, by the larger of four pods and doubling; down: whatever is
	// superfluous, after the controller's own stabilization window.
	up := rules(&s.Behavior.ScaleUp)
	if up.StabilizationWindowSeconds == nil {
		up.StabilizationWindowSeconds = ptr.To[int32](0)
	}
	if up.Policies == nil {
		up.Policies = []autoscalingv2.HPAScalingPolicy{
			{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: policyPeriod},
			{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: policyPeriod},
		}
	}
	down := rules(&s.Behavior.ScaleDown)
	if down.Policies == nil {
		down.Policies = []autoscalingv2.HPAScalingPolicy{
			{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: policyPeriod},
		}
	}
}

func rules(field **autoscalingv2.HPAScalingRules) *autoscalingv2.HPAScalingRules {
	if *field == nil {
		*field = &autoscalingv2.HPAScalingRules{}
	}
	if (*field).SelectPolicy == nil {
		(*field).SelectPolicy = ptr.To(autoscalingv2.MaxChangePolicySelect)
	}
	return *field
}

func cpuMetric(percent *int32) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{
		Type: autoscalingv2.ResourceMetricSourceType,
		Resource: &autoscalingv2.ResourceMetricSource{
			Name:   corev1.ResourceCPU,
			Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: percent},
		},
	}
}

// defaultAutoscalerV1 leaves the metric to the conversion, which sees the annotations.
func defaultAutoscalerV1(obj api.Object) {
	s := &obj.(*autoscalingv1.HorizontalPodAutoscaler).Spec
	if s.MinReplicas == nil {
		s.MinReplicas = ptr.To[int32](1)
	}
}
