package apiserver

import (
	"context"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/apiserver/request"
)

// dedupOwners drops owner references that stand there twice, and warns.
func dedupOwners(ctx context.Context, obj metav1.Object, afterAdmission bool) {
	references := obj.GetOwnerReferences()
	if len(references) < 2 {
		return
	}
	var kept []metav1.OwnerReference
	var doubled []string
	for _, ref := range references {
		same := func(other metav1.OwnerReference) bool { return equality.Semantic.DeepEqual(ref, other) }
		if slices.ContainsFunc(kept, same) {
			doubled = append(doubled, string(ref.UID))
			continue
		}
		kept = append(kept, ref)
	}
	if len(doubled) == 0 {
		return
	}
	obj.SetOwnerReferences(kept)
	when := ""
	if afterAdmission {
		when = " after mutating admission happens"
	}
	request.Warn(ctx, ".metadata.ownerReferences contains duplicate entries"+when+
		"; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: "+
		strings.Join(doubled, ", "))
}
