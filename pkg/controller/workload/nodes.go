package workload

import (
	"context"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"skiff/pkg/controller/reconciler"
)

// The index of pods by the node they are bound to.
const nodeIndex = "spec.nodeName"

// IndexPodsByNode adds the index that [PodsOnNode] needs.
func IndexPodsByNode(pods cache.SharedIndexInformer) {
	reconciler.Index(pods, nodeIndex, func(pod *v1.Pod) []string {
		if pod.Spec.NodeName == "" {
			return nil
		}
		return []string{pod.Spec.NodeName}
	})
}

// PodsOnNode returns the pods bound to a node. They are the cache's own.
func PodsOnNode(pods cache.Indexer, node string) []*v1.Pod {
	return reconciler.Indexed[*v1.Pod](pods, nodeIndex, node)
}

// SetCondition writes one condition of a pod, and its phase unless that is empty.
// The pod is named by its UID too: one that took its name since is a conflict.
// A condition that has the wanted status and reason already is left alone.
func SetCondition(ctx context.Context, client kubernetes.Interface, pod *v1.Pod, phase v1.PodPhase, condition *v1.PodCondition) error {
	status := map[string]any{}
	if phase != "" {
		status["phase"] = phase
	}
	if condition != nil {
		current := Condition(pod, condition.Type)
		if current == nil || current.Status != condition.Status || current.Reason != condition.Reason || current.Message != condition.Message {
			written := *condition
			written.LastTransitionTime = metav1.Now()
			if current != nil && current.Status == condition.Status {
				written.LastTransitionTime = current.LastTransitionTime
			}
			status["conditions"] = []v1.PodCondition{written}
		}
	}
	if len(status) == 0 {
		return nil
	}
	patch := mustJSON(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
	_, err := client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}
