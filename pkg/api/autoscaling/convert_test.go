package autoscaling

import (
	"strings"
	"testing"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/diff"
	"sigs.k8s.io/yaml"
)

const everyMetric = `
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web, namespace: shop, annotations: {team: a}}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}
  minReplicas: 2
  maxReplicas: 10
  behavior:
    scaleDown: {stabilizationWindowSeconds: 30, selectPolicy: Min, policies: [{type: Pods, value: 1, periodSeconds: 60}]}
    scaleUp: {tolerance: 50m}
  metrics:
  - {type: Object, object: {describedObject: {kind: Ingress, name: main}, target: {type: Value, value: 10k}, metric: {name: rps}}}
  - {type: Object, object: {describedObject: {kind: Ingress, name: main}, target: {type: AverageValue, averageValue: "7"}, metric: {name: rps}}}
  - {type: Pods, pods: {metric: {name: packets, selector: {matchLabels: {a: b}}}, target: {type: AverageValue, averageValue: 1k}}}
  - {type: Resource, resource: {name: memory, target: {type: AverageValue, averageValue: 100Mi}}}
  - {type: ContainerResource, containerResource: {name: cpu, container: app, target: {type: Utilization, averageUtilization: 60}}}
  - {type: External, external: {metric: {name: queue}, target: {type: Value, value: "30"}}}
  - {type: External, external: {metric: {name: queue}, target: {type: AverageValue, averageValue: "30"}}}
  - {type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}
status:
  observedGeneration: 1
  lastScaleTime: "2024-05-06T07:08:09Z"
  currentReplicas: 3
  desiredReplicas: 4
  currentMetrics:
  - {type: Resource, resource: {name: cpu, current: {averageUtilization: 40, averageValue: 400m}}}
  - {type: Pods, pods: {metric: {name: packets}, current: {averageValue: 900}}}
  conditions:
  - {type: AbleToScale, status: "True", reason: Ready, message: fine, lastTransitionTime: "2024-05-06T07:08:09Z"}
`

func load(t *testing.T, text string) *autoscalingv2.HorizontalPodAutoscaler {
	t.Helper()
	a := &autoscalingv2.HorizontalPodAutoscaler{}
	if err := yaml.UnmarshalStrict([]byte(text), a); err != nil {
		t.Fatal(err)
	}
	return a
}

func TestV1KeepsWhatOnlyV2CanSay(t *testing.T) {
	stored := load(t, everyMetric)
	served, err := fromV2(stored.DeepCopy())
	if err != nil {
		t.Fatal(err)
	}
	v1 := served.(*autoscalingv1.HorizontalPodAutoscaler)
	if p := v1.Spec.TargetCPUUtilizationPercentage; p == nil || *p != 50 {
		t.Errorf("CPU target %v, want 50", p)
	}
	if p := v1.Status.CurrentCPUUtilizationPercentage; p == nil || *p != 40 {
		t.Errorf("current CPU %v, want 40", p)
	}
	if n := len(v1.Annotations); n != 5 {
		t.Errorf("%d annotations, want team and 4 of the conversion: %v", n, v1.Annotations)
	}
	if strings.Contains(v1.Annotations[metricsAnnotation], `"name":"cpu","target"`) {
		t.Error("the CPU target stands in the annotation too")
	}
	again, err := toV2(served)
	if err != nil {
		t.Fatal(err)
	}
	if !equality.Semantic.DeepEqual(again, stored) {
		t.Error(diff.Diff(again, stored))
	}
}

func TestV1Defaults(t *testing.T) {
	for _, c := range []struct {
		name, annotation string
		want             int32
	}{
		{name: "no metric at all", want: 80},
		{name: "an annotation that is rubbish", annotation: "{", want: 80},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := &autoscalingv1.HorizontalPodAutoscaler{}
			if c.annotation != "" {
				in.Annotations = map[string]string{metricsAnnotation: c.annotation}
			}
			defaultAutoscalerV1(in)
			out, err := toV2(in)
			if err != nil {
				t.Fatal(err)
			}
			s := out.(*autoscalingv2.HorizontalPodAutoscaler).Spec
			if len(s.Metrics) != 1 || *s.Metrics[0].Resource.Target.AverageUtilization != c.want || *s.MinReplicas != 1 {
				t.Errorf("%+v", s)
			}
		})
	}
}

func TestCells(t *testing.T) {
	cells := autoscalerCells(load(t, everyMetric))
	if got, want := cells[2], "<unknown>/10k, <unknown>/7 (avg) + 6 more..."; got != want {
		t.Errorf("targets %q, want %q", got, want)
	}
	if cells[1] != "Deployment/web" || cells[3] != "2" {
		t.Errorf("%v", cells)
	}
}
