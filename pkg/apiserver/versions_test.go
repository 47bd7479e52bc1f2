package apiserver_test

import (
	"testing"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// TestTwoVersions writes in one version and reads in the other.
func TestTwoVersions(t *testing.T) {
	i := start(t)
	for _, contentType := range []string{"application/json", "application/vnd.kubernetes.protobuf"} {
		t.Run(contentType, func(t *testing.T) {
			client := typed(t, i, contentType)
			ctx := limited(t)
			name := "e" + contentType[len("application/"):len("application/")+3]
			watch, err := client.CoreV1().Events("default").Watch(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=p,reason=R" + name})
			if err != nil {
				t.Fatal(err)
			}
			defer watch.Stop()
			events := client.EventsV1().Events("default")
			made, err := events.Create(ctx, &eventsv1.Event{
				ObjectMeta: metav1.ObjectMeta{Name: name}, EventTime: metav1.NowMicro(), ReportingController: "c/x", ReportingInstance: "i", Action: "A",
				Reason: "R" + name, Regarding: corev1.ObjectReference{Kind: "Pod", Name: "p", Namespace: "default"}, Type: "Normal", Note: "note",
			}, metav1.CreateOptions{})
			if err != nil || made.Note != "note" || made.Regarding.Name != "p" {
				t.Fatalf("%v %+v", err, made)
			}
			old, err := client.CoreV1().Events("default").Get(ctx, name, metav1.GetOptions{})
			if err != nil || old.Message != "note" || old.InvolvedObject.Name != "p" {
				t.Fatalf("%v %+v", err, old)
			}
			select {
			case event := <-watch.ResultChan():
				if e, ok := event.Object.(*corev1.Event); !ok || e.Message != "note" {
					t.Errorf("%+v", event)
				}
			case <-time.After(10 * time.Second):
				t.Error("no event")
			}
			list, err := events.List(ctx, metav1.ListOptions{FieldSelector: "reason=R" + name})
			if err != nil || len(list.Items) != 1 || list.Items[0].Note != "note" {
				t.Errorf("%v %+v", err, list)
			}
			if _, err := events.Patch(ctx, name, types.MergePatchType, []byte(`{"series":{"count":2,"lastObservedTime":"2030-01-01T00:00:00.000000Z"}}`), metav1.PatchOptions{}); err != nil {
				t.Error(err)
			}
			if old, err = client.CoreV1().Events("default").Get(ctx, name, metav1.GetOptions{}); err != nil || old.Series == nil || old.Series.Count != 2 {
				t.Errorf("%v %+v", err, old)
			}
		})
	}
	t.Run("autoscaling", func(t *testing.T) {
		client := typed(t, i, "application/vnd.kubernetes.protobuf")
		ctx := limited(t)
		_, err := client.AutoscalingV1().HorizontalPodAutoscalers("default").Create(ctx, &autoscalingv1.HorizontalPodAutoscaler{
			ObjectMeta: metav1.ObjectMeta{Name: "h"},
			Spec: autoscalingv1.HorizontalPodAutoscalerSpec{MaxReplicas: 5, TargetCPUUtilizationPercentage: ptr.To[int32](70),
				ScaleTargetRef: autoscalingv1.CrossVersionObjectReference{Kind: "Deployment", Name: "d", APIVersion: "apps/v1"}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		v2, err := client.AutoscalingV2().HorizontalPodAutoscalers("default").Get(ctx, "h", metav1.GetOptions{})
		if err != nil || len(v2.Spec.Metrics) != 1 || *v2.Spec.Metrics[0].Resource.Target.AverageUtilization != 70 {
			t.Fatalf("%v %+v", err, v2)
		}
		v2.Spec.MaxReplicas = 9
		if _, err := client.AutoscalingV2().HorizontalPodAutoscalers("default").Update(ctx, v2, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		v1, err := client.AutoscalingV1().HorizontalPodAutoscalers("default").Get(ctx, "h", metav1.GetOptions{})
		if err != nil || v1.Spec.MaxReplicas != 9 || *v1.Spec.TargetCPUUtilizationPercentage != 70 {
			t.Fatalf("%v %+v", err, v1)
		}
	})
}
