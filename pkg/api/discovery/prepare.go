package discovery

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"skiff/pkg/api"
)

func prepareSliceCreate(_ context.Context, obj api.Object) {
	dropTopology(obj.(*discoveryv1.EndpointSlice), nil)
}

// prepareSliceUpdate: labels bind a slice to its service, so they count as spec.
func prepareSliceUpdate(_ context.Context, obj, old api.Object) {
	s, was := obj.(*discoveryv1.EndpointSlice), old.(*discoveryv1.EndpointSlice)
	if !equality.Semantic.DeepEqual(s.Labels, was.Labels) {
		s.Generation = was.Generation + 1
	}
	if !equality.Semantic.DeepEqual(s.Endpoints, was.Endpoints) {
		dropTopology(s, was)
	}
}

// dropTopology: v1 doesn't take deprecatedTopology, but a node name that it held for as long as the
// slice is stored moves to the field of its own.
func dropTopology(s, was *discoveryv1.EndpointSlice) {
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		if name, ok := e.DeprecatedTopology[corev1.LabelHostname]; ok && e.NodeName == nil && hadTopology(was, name) {
			e.NodeName = &name
		}
		e.DeprecatedTopology = nil
	}
}

func hadTopology(was *discoveryv1.EndpointSlice, name string) bool {
	if was == nil || name == "" {
		return false
	}
	for i := range was.Endpoints {
		if was.Endpoints[i].DeprecatedTopology[corev1.LabelHostname] == name {
			return true
		}
	}
	return false
}
