package admission

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"skiff/pkg/apiserver/request"
)

// troubleSeconds is how long a pod stays on a node that is not ready or unreachable,
// when the pod says nothing about it.
const troubleSeconds = 300

// tolerateNodeTrouble is the plugin DefaultTolerationSeconds.
func tolerateNodeTrouble(_ context.Context, attrs *request.Attributes) error {
	if !concerns(attrs, "pods", "") || attrs.Operation != request.Create && attrs.Operation != request.Update {
		return nil
	}
	pod, ok := attrs.Object.(*corev1.Pod)
	if !ok {
		return nil
	}
	given := pod.Spec.Tolerations
	for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		tolerated := slices.ContainsFunc(given, func(t corev1.Toleration) bool {
			return (t.Key == key || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "")
		})
		if tolerated {
			continue
		}
		seconds := int64(troubleSeconds)
		pod.Spec.Tolerations = append(slices.Clip(pod.Spec.Tolerations), corev1.Toleration{
			Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds})
	}
	return nil
}

// taintNewNode is the plugin TaintNodesByCondition: a node takes no pods until the node
// lifecycle controller has seen it ready.
func taintNewNode(_ context.Context, attrs *request.Attributes) error {
	node, ok := attrs.Object.(*corev1.Node)
	if !ok || attrs.Operation != request.Create || !concerns(attrs, "nodes", "") {
		return nil
	}
	taint := corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}
	if !slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.MatchTaint(&taint) }) {
		node.Spec.Taints = append(node.Spec.Taints, taint)
	}
	return nil
}
