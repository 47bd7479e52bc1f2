package api

import (
	"context"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// StatusView is the status subresource of most kinds: everything but metadata and status is kept.
func StatusView() *Subresource { return &Subresource{} }

// StatusViewWith is a status subresource with a rule of the kind's own, applied after the common one.
func StatusViewWith(prepare func(ctx context.Context, obj, old Object)) *Subresource {
	return &Subresource{PrepareForUpdate: prepare}
}

// KeepMeta is what [Subresource.KeepsMeta] does.
func KeepMeta(_ context.Context, obj, old Object) { metav1.ResetObjectMetaForStatus(obj, old) }

// ScaleView is a scale subresource over an object's replica count.
func ScaleView(scale Scale) *Subresource {
	return &Subresource{
		GroupVersionKind: autoscalingv1.SchemeGroupVersion.WithKind("Scale"),
		New:              func() runtime.Object { return &autoscalingv1.Scale{} },
		Scale:            &scale,
	}
}

// Action is a subresource that the server handles by itself. gvk is the kind of its body or
// options, its parent's when empty; create is nil when there is no body.
func Action(gvk schema.GroupVersionKind, create func() runtime.Object, verbs ...string) *Subresource {
	return &Subresource{GroupVersionKind: gvk, Verbs: verbs, Action: true, New: create}
}
