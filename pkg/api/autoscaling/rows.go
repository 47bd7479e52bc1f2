// Package autoscaling holds the catalogue's rows of the group autoscaling: horizontal pod
// autoscalers in v2, which etcd holds, and in v1, which has room for a CPU target only and keeps the
// rest in annotations.
package autoscaling

import (
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/validation"

	"skiff/pkg/api"
)

// Kinds returns the group's rows.
func Kinds() []*api.Kind { return []*api.Kind{autoscalerKind(), autoscalerV1Kind()} }

func autoscalerKind() *api.Kind {
	return api.Define[autoscalingv2.HorizontalPodAutoscaler, autoscalingv2.HorizontalPodAutoscalerList](
		autoscalingv2.SchemeGroupVersion, "horizontalpodautoscalers", api.Kind{
			ShortNames:          []string{"hpa"},
			Categories:          []string{"all"},
			Namespaced:          true,
			UnconditionalUpdate: true,
			Default:             defaultAutoscaler,
			NameValidation:      validation.NameIsDNSSubdomain,
			Validate:            validateAutoscaler,
			ValidateUpdate:      validateAutoscalerUpdate,
			Subresources:        map[string]*api.Subresource{"status": {ValidateUpdate: validateStatusUpdate}},
			Columns:             autoscalerColumns,
			Cells:               autoscalerCells,
		})
}

func autoscalerV1Kind() *api.Kind {
	return api.Define[autoscalingv1.HorizontalPodAutoscaler, autoscalingv1.HorizontalPodAutoscalerList](
		autoscalingv1.SchemeGroupVersion, "horizontalpodautoscalers", api.Kind{
			ShortNames:          []string{"hpa"},
			Categories:          []string{"all"},
			Namespaced:          true,
			Stored:              autoscalingv2.SchemeGroupVersion.WithKind("HorizontalPodAutoscaler"),
			ToStored:            toV2,
			FromStored:          fromV2,
			UnconditionalUpdate: true,
			Default:             defaultAutoscalerV1,
			NameValidation:      validation.NameIsDNSSubdomain,
			Validate:            validateAutoscalerV1,
			ValidateUpdate:      validateAutoscalerV1Update,
			Subresources:        map[string]*api.Subresource{"status": {ValidateUpdate: validateStatusUpdate}},
			Columns:             autoscalerColumns,
			Cells:               autoscalerV1Cells,
		})
}
