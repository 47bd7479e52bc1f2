package coordination

import (
	"context"

	coordinationv1 "k8s.io/api/coordination/v1"

	"skiff/pkg/api"
)

// Coordinated leader election (KEP-4355) is off in Kubernetes 1.36 by default, and not here at all:
// its two fields are not taken, but kept where a lease has them already.

func prepareLeaseCreate(_ context.Context, obj api.Object) {
	s := &obj.(*coordinationv1.Lease).Spec
	s.Strategy, s.PreferredHolder = nil, nil
}

func prepareLeaseUpdate(_ context.Context, obj, old api.Object) {
	s, was := &obj.(*coordinationv1.Lease).Spec, &old.(*coordinationv1.Lease).Spec
	if was.Strategy == nil {
		s.Strategy = nil
	}
	if was.PreferredHolder == nil {
		s.PreferredHolder = nil
	}
}
