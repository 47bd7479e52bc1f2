package admission

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"skiff/pkg/apiserver/lookup"
	"skiff/pkg/apiserver/request"
)

// topologyLabelsPlugin copies the zone and region of a pod's node to the pod: by way of
// the binding's labels, which the server adds to the pod's, or directly for a pod that
// is created with a node.
type topologyLabelsPlugin struct{ objects lookup.Reader }

func (p *topologyLabelsPlugin) mutate(ctx context.Context, attrs *request.Attributes) error {
	if pod := podOf(attrs); pod != nil && pod.Spec.NodeName != "" {
		labels, err := p.labels(ctx, pod.Spec.NodeName)
		pod.Labels = overlaid(pod.Labels, labels)
		return err
	}
	binding, ok := attrs.Object.(*corev1.Binding)
	if !ok || attrs.Operation != request.Create || !concerns(attrs, "pods", "binding") || binding.Target.Kind != "Node" {
		return nil
	}
	labels, err := p.labels(ctx, binding.Target.Name)
	binding.Labels = overlaid(binding.Labels, labels)
	return err
}

func (p *topologyLabelsPlugin) labels(ctx context.Context, name string) (map[string]string, error) {
	node, err := lookup.Get[*corev1.Node](ctx, p.objects, core("nodes"), "", name)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	labels := map[string]string{}
	for _, key := range []string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion} {
		if value, ok := node.Labels[key]; ok {
			labels[key] = value
		}
	}
	return labels, nil
}

func overlaid(labels, over map[string]string) map[string]string {
	if labels == nil && len(over) > 0 {
		labels = map[string]string{}
	}
	for key, value := range over {
		labels[key] = value
	}
	return labels
}
