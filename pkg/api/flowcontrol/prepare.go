package flowcontrol

import (
	"context"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"

	"skiff/pkg/api"
)

// The status of these kinds is written by every apiserver; none of them touches metadata on the
// way, but for the record of who wrote what.

func prepareSchemaStatus(_ context.Context, obj, old api.Object) {
	s, was := obj.(*flowcontrolv1.FlowSchema), old.(*flowcontrolv1.FlowSchema)
	managed := s.ManagedFields
	s.ObjectMeta = was.ObjectMeta
	s.ManagedFields = managed
}

func preparePriorityLevelStatus(_ context.Context, obj, old api.Object) {
	p, was := obj.(*flowcontrolv1.PriorityLevelConfiguration), old.(*flowcontrolv1.PriorityLevelConfiguration)
	managed := p.ManagedFields
	p.ObjectMeta = was.ObjectMeta
	p.ManagedFields = managed
}
