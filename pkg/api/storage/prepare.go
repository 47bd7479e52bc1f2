package storage

import (
	"context"

	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"skiff/pkg/api"
)

// preventPodSchedulingIfMissing (KEP-5030) is alpha in 1.36, and not taken.

func prepareDriverCreate(_ context.Context, obj api.Object) {
	obj.(*storagev1.CSIDriver).Spec.PreventPodSchedulingIfMissing = nil
}

// prepareDriverUpdate: a driver's generation is 0 until its first change.
func prepareDriverUpdate(_ context.Context, obj, old api.Object) {
	d, was := obj.(*storagev1.CSIDriver), old.(*storagev1.CSIDriver)
	if was.Spec.PreventPodSchedulingIfMissing == nil {
		d.Spec.PreventPodSchedulingIfMissing = nil
	}
	if !equality.Semantic.DeepEqual(&d.Spec, &was.Spec) {
		d.Generation = was.Generation + 1
	}
}

// driverWarnings: tokens are safer among the secrets of a call than in its plain attributes.
func driverWarnings(obj, old api.Object) []string {
	s := &obj.(*storagev1.CSIDriver).Spec
	if len(s.TokenRequests) == 0 || s.ServiceAccountTokenInSecrets != nil ||
		old != nil && equality.Semantic.DeepEqual(s.TokenRequests, old.(*storagev1.CSIDriver).Spec.TokenRequests) {
		return nil
	}
	return []string{"spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes"}
}
