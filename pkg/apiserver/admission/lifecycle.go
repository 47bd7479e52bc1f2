package admission

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/apiserver/lookup"
	"skiff/pkg/apiserver/request"
)

// lifecyclePlugin keeps namespaces whole: nothing is created in one that doesn't exist or is
// going, and some can't be deleted.
type lifecyclePlugin struct{ objects lookup.Reader }

var immortal = []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic}

func (p *lifecyclePlugin) admit(ctx context.Context, attrs *request.Attributes) error {
	if attrs.Kind.Group == "" && attrs.Kind.Resource == "namespaces" {
		if attrs.Operation == request.Delete && slices.Contains(immortal, attrs.Name) {
			return apierrors.NewForbidden(core("namespaces"), attrs.Name, fmt.Errorf("this namespace may not be deleted"))
		}
		return nil
	}
	if attrs.Namespace == "" || attrs.Operation == request.Delete || attrs.Operation == request.Connect {
		return nil
	}
	// To say anything about the namespace to someone who only asks for their rights would be telling.
	if attrs.Kind.Group == "authorization.k8s.io" && attrs.Kind.Resource == "localsubjectaccessreviews" {
		return nil
	}
	namespace, err := lookup.Get[*corev1.Namespace](ctx, p.objects, core("namespaces"), "", attrs.Namespace)
	switch {
	case apierrors.IsNotFound(err):
		return err
	case err != nil:
		return apierrors.NewInternalError(err)
	case attrs.Operation != request.Create || namespace.Status.Phase != corev1.NamespaceTerminating:
		return nil
	}
	refusal := forbidden(attrs, "unable to create new content in namespace %s because it is being terminated", attrs.Namespace)
	refusal.ErrStatus.Details.Causes = append(refusal.ErrStatus.Details.Causes, metav1.StatusCause{
		Type:    corev1.NamespaceTerminatingCause,
		Message: fmt.Sprintf("namespace %s is being terminated", attrs.Namespace),
		Field:   "metadata.namespace",
	})
	return refusal
}
