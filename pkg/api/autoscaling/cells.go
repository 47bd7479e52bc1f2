package autoscaling

import (
	"fmt"
	"strconv"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/resource"

	"skiff/pkg/api"
)

var autoscalerColumns = api.Columns("Name, Reference, Targets, MinPods, MaxPods, Replicas, Age")

func autoscalerCells(obj api.Object) []any {
	a := obj.(*autoscalingv2.HorizontalPodAutoscaler)
	least := "<unset>"
	if a.Spec.MinReplicas != nil {
		least = strconv.Itoa(int(*a.Spec.MinReplicas))
	}
	var targets []string
	for i := range a.Spec.Metrics {
		var current autoscalingv2.MetricStatus
		if i < len(a.Status.CurrentMetrics) {
			current = a.Status.CurrentMetrics[i]
		}
		targets = append(targets, target(&a.Spec.Metrics[i], &current))
	}
	return []any{a.Name, a.Spec.ScaleTargetRef.Kind + "/" + a.Spec.ScaleTargetRef.Name, api.Some(targets, 2, ", ", "<none>"),
		least, int64(a.Spec.MaxReplicas), int64(a.Status.CurrentReplicas), api.Age(a)}
}

func autoscalerV1Cells(obj api.Object) []any {
	stored, err := toV2(obj)
	if err != nil {
		return nil
	}
	return autoscalerCells(stored)
}

// target says how far a metric is from where it should be.
func target(m *autoscalingv2.MetricSpec, now *autoscalingv2.MetricStatus) string {
	switch {
	case m.Type == autoscalingv2.ExternalMetricSourceType && m.External != nil:
		var current autoscalingv2.MetricValueStatus
		if now.External != nil {
			current = now.External.Current
		}
		return valueOrAverage(m.External.Target, current)
	case m.Type == autoscalingv2.ObjectMetricSourceType && m.Object != nil:
		var current autoscalingv2.MetricValueStatus
		if now.Object != nil {
			current = now.Object.Current
		}
		return valueOrAverage(m.Object.Target, current)
	case m.Type == autoscalingv2.PodsMetricSourceType && m.Pods != nil:
		var current *resource.Quantity
		if now.Pods != nil {
			current = now.Pods.Current.AverageValue
		}
		return text(current, "<unknown>") + "/" + text(m.Pods.Target.AverageValue, "<unknown>")
	case m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil:
		var current autoscalingv2.MetricValueStatus
		if now.Resource != nil {
			current = now.Resource.Current
		}
		return string(m.Resource.Name) + ": " + utilization(m.Resource.Target, current)
	case m.Type == autoscalingv2.ContainerResourceMetricSourceType && m.ContainerResource != nil:
		var current autoscalingv2.MetricValueStatus
		if now.ContainerResource != nil {
			current = now.ContainerResource.Current
		}
		return string(m.ContainerResource.Name) + ": " + utilization(m.ContainerResource.Target, current)
	}
	return "<unknown type>"
}

func valueOrAverage(t autoscalingv2.MetricTarget, current autoscalingv2.MetricValueStatus) string {
	if t.AverageValue != nil {
		return text(current.AverageValue, "<unknown>") + "/" + t.AverageValue.String() + " (avg)"
	}
	return text(current.Value, "<unknown>") + "/" + text(t.Value, "<unknown>")
}

func utilization(t autoscalingv2.MetricTarget, current autoscalingv2.MetricValueStatus) string {
	if t.AverageValue != nil {
		return text(current.AverageValue, "<unknown>") + "/" + t.AverageValue.String()
	}
	return percent(current.AverageUtilization, "<unknown>") + "/" + percent(t.AverageUtilization, "<auto>")
}

func text(q *resource.Quantity, missing string) string {
	if q == nil {
		return missing
	}
	return q.String()
}

func percent(n *int32, missing string) string {
	if n == nil {
		return missing
	}
	return fmt.Sprintf("%d%%", *n)
}
