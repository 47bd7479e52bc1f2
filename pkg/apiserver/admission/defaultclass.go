package admission

import (
	"cmp"
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/lookup"
	"skiff/pkg/apiserver/request"
)

var (
	storageClasses = schema.GroupResource{Group: "storage.k8s.io", Resource: "storageclasses"}
	ingressClasses = schema.GroupResource{Group: "networking.k8s.io", Resource: "ingressclasses"}
	ingresses      = schema.GroupResource{Group: "networking.k8s.io", Resource: "ingresses"}
)

// newestMarked returns the name of the youngest object with one of the annotations set
// to "true", by name among equals; empty when there is none.
func newestMarked[T api.Object](objects []T, annotations ...string) string {
	marked := slices.DeleteFunc(slices.Clone(objects), func(o T) bool {
		return !slices.ContainsFunc(annotations, func(key string) bool { return o.GetAnnotations()[key] == "true" })
	})
	if len(marked) == 0 {
		return ""
	}
	return slices.MinFunc(marked, func(a, b T) int {
		return cmp.Or(b.GetCreationTimestamp().Compare(a.GetCreationTimestamp().Time), cmp.Compare(a.GetName(), b.GetName()))
	}).GetName()
}

// storageClassPlugin gives claims that name no storage class the default one.
type storageClassPlugin struct{ objects lookup.Reader }

func (p *storageClassPlugin) mutate(ctx context.Context, attrs *request.Attributes) error {
	claim, ok := attrs.Object.(*corev1.PersistentVolumeClaim)
	if !ok || attrs.Operation != request.Create || !concerns(attrs, "persistentvolumeclaims", "") || claim.Spec.StorageClassName != nil {
		return nil
	}
	if _, named := claim.Annotations[corev1.BetaStorageClassAnnotation]; named {
		return nil
	}
	classes, err := lookup.List[*storagev1.StorageClass](ctx, p.objects, storageClasses, "")
	if err != nil {
		return forbidden(attrs, "%w", err)
	}
	if name := newestMarked(classes, "storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"); name != "" {
		claim.Spec.StorageClassName = &name
	}
	return nil
}

// ingressClassPlugin gives ingresses that name no class the default one.
type ingressClassPlugin struct{ objects lookup.Reader }

func (p *ingressClassPlugin) mutate(ctx context.Context, attrs *request.Attributes) error {
	ingress, ok := attrs.Object.(*networkingv1.Ingress)
	if !ok || attrs.Operation != request.Create || attrs.Kind.GroupResource() != ingresses || attrs.Subresource != "" || ingress.Spec.IngressClassName != nil {
		return nil
	}
	if _, named := ingress.Annotations["kubernetes.io/ingress.class"]; named {
		return nil
	}
	classes, err := lookup.List[*networkingv1.IngressClass](ctx, p.objects, ingressClasses, "")
	if err != nil {
		return forbidden(attrs, "%w", err)
	}
	if name := newestMarked(classes, networkingv1.AnnotationIsDefaultIngressClass); name != "" {
		ingress.Spec.IngressClassName = &name
	}
	return nil
}

// claimResizePlugin lets claims grow only where their storage class says that they can.
type claimResizePlugin struct{ objects lookup.Reader }

func (p *claimResizePlugin) validate(ctx context.Context, attrs *request.Attributes) error {
	claim, ok := attrs.Object.(*corev1.PersistentVolumeClaim)
	old, wasClaim := attrs.Old.(*corev1.PersistentVolumeClaim)
	if !ok || !wasClaim || attrs.Operation != request.Update || !concerns(attrs, "persistentvolumeclaims", "") {
		return nil
	}
	size, oldSize := claim.Spec.Resources.Requests.Storage(), old.Spec.Resources.Requests.Storage()
	if size.Cmp(*oldSize) <= 0 {
		return nil
	}
	if old.Status.Phase != corev1.ClaimBound {
		return forbidden(attrs, "Only bound persistent volume claims can be expanded")
	}
	if name := claimClass(claim); name != "" && name == claimClass(old) {
		class, err := lookup.Get[*storagev1.StorageClass](ctx, p.objects, storageClasses, "", name)
		if err == nil && class.AllowVolumeExpansion != nil && *class.AllowVolumeExpansion {
			return nil
		}
	}
	return forbidden(attrs, "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize")
}

func claimClass(claim *corev1.PersistentVolumeClaim) string {
	if name, ok := claim.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return name
	}
	if claim.Spec.StorageClassName != nil {
		return *claim.Spec.StorageClassName
	}
	return ""
}
