package admission

import (
	"context"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/pkg/apiserver/lookup"
	"skiff/pkg/apiserver/request"
)

// runtimeClassPlugin gives a pod what its runtime class demands: overhead, node
// selector and tolerations.
type runtimeClassPlugin struct{ objects lookup.Reader }

var runtimeClasses = schema.GroupResource{Group: "node.k8s.io", Resource: "runtimeclasses"}

// class returns the pod's runtime class; without one, an empty class.
func (p *runtimeClassPlugin) class(ctx context.Context, attrs *request.Attributes, pod *corev1.Pod) (*nodev1.RuntimeClass, error) {
	if pod.Spec.RuntimeClassName == nil {
		return &nodev1.RuntimeClass{}, nil
	}
	class, err := lookup.Get[*nodev1.RuntimeClass](ctx, p.objects, runtimeClasses, "", *pod.Spec.RuntimeClassName)
	if apierrors.IsNotFound(err) {
		return nil, forbidden(attrs, "pod rejected: RuntimeClass %q not found", *pod.Spec.RuntimeClassName)
	}
	return class, err
}

func (p *runtimeClassPlugin) mutate(ctx context.Context, attrs *request.Attributes) error {
	pod := podOf(attrs)
	if pod == nil {
		return nil
	}
	class, err := p.class(ctx, attrs, pod)
	if err != nil {
		return err
	}
	if class.Overhead != nil {
		if len(pod.Spec.Overhead) > 0 && !equality.Semantic.DeepEqual(class.Overhead.PodFixed, pod.Spec.Overhead) {
			return forbidden(attrs, "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
		}
		pod.Spec.Overhead = class.Overhead.PodFixed.DeepCopy()
	}
	if class.Scheduling == nil {
		return nil
	}
	for _, key := range slices.Sorted(maps.Keys(class.Scheduling.NodeSelector)) {
		value := class.Scheduling.NodeSelector[key]
		if own, ok := pod.Spec.NodeSelector[key]; ok && own != value {
			return forbidden(attrs, "conflict: runtimeClass.scheduling.nodeSelector[%s] = %s; pod.spec.nodeSelector[%s] = %s", key, value, key, own)
		}
		if pod.Spec.NodeSelector == nil {
			pod.Spec.NodeSelector = map[string]string{}
		}
		pod.Spec.NodeSelector[key] = value
	}
	pod.Spec.Tolerations = mergeTolerations(slices.Concat(pod.Spec.Tolerations, class.Scheduling.Tolerations))
	return nil
}

func (p *runtimeClassPlugin) validate(ctx context.Context, attrs *request.Attributes) error {
	pod := podOf(attrs)
	if pod == nil {
		return nil
	}
	class, err := p.class(ctx, attrs, pod)
	switch {
	case err != nil:
		return err
	case class.Overhead == nil && pod.Spec.Overhead != nil:
		return forbidden(attrs, "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")
	case class.Overhead != nil && !equality.Semantic.DeepEqual(class.Overhead.PodFixed, pod.Spec.Overhead):
		return forbidden(attrs, "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
	}
	return nil
}

// mergeTolerations leaves out what another toleration of the list covers.
func mergeTolerations(all []corev1.Toleration) []corev1.Toleration {
	var merged []corev1.Toleration
	for i, t := range all {
		covered := slices.ContainsFunc(merged, func(other corev1.Toleration) bool { return covers(other, t) }) ||
			slices.ContainsFunc(all[i+1:], func(other corev1.Toleration) bool {
				return !equality.Semantic.DeepEqual(other, t) && covers(other, t)
			})
		if !covered {
			merged = append(merged, t)
		}
	}
	return merged
}

// covers reports whether wide tolerates all that narrow does.
func covers(wide, narrow corev1.Toleration) bool {
	if equality.Semantic.DeepEqual(wide, narrow) {
		return true
	}
	everyKey := wide.Key == "" && wide.Operator == corev1.TolerationOpExists
	if narrow.Key != wide.Key && !everyKey || narrow.Effect != wide.Effect && wide.Effect != "" {
		return false
	}
	if wide.Effect == corev1.TaintEffectNoExecute && wide.TolerationSeconds != nil &&
		(narrow.TolerationSeconds == nil || *narrow.TolerationSeconds > *wide.TolerationSeconds) {
		return false
	}
	switch wide.Operator {
	case corev1.TolerationOpEqual, "":
		return narrow.Operator == corev1.TolerationOpEqual && narrow.Value == wide.Value
	case corev1.TolerationOpExists:
		return true
	}
	return false
}
