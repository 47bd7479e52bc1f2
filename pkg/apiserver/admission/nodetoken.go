package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/pkg/apiserver/lookup"
	"skiff/pkg/apiserver/request"
)

// admitToken lets a node ask for tokens that are bound to one of its pods, for an
// audience that the pod asks for.
func (p *nodeRestrictionPlugin) admitToken(ctx context.Context, node string, attrs *request.Attributes) error {
	if attrs.Operation != request.Create || attrs.Subresource != "token" {
		return nil
	}
	req, ok := attrs.Object.(*authenticationv1.TokenRequest)
	if !ok {
		return forbidden(attrs, "unexpected type %T", attrs.Object)
	}
	ref := req.Spec.BoundObjectRef
	if ref == nil || ref.APIVersion != "v1" || ref.Kind != "Pod" || ref.Name == "" {
		return forbidden(attrs, "node requested token not bound to a pod")
	}
	if ref.UID == "" {
		return forbidden(attrs, "node requested token with a pod binding without a uid")
	}
	pod, err := p.pod(ctx, attrs, ref.Name)
	switch {
	case err != nil:
		return err
	case ref.UID != pod.UID:
		return forbidden(attrs, "the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID)
	case pod.Spec.NodeName != node:
		return forbidden(attrs, "node requested token bound to a pod scheduled on a different node")
	}
	if err := p.admitAudience(ctx, req, pod, attrs); err != nil {
		return forbidden(attrs, "%w", err)
	}
	return nil
}

func (p *nodeRestrictionPlugin) admitAudience(ctx context.Context, req *authenticationv1.TokenRequest, pod *corev1.Pod, attrs *request.Attributes) error {
	audience := ""
	switch len(req.Spec.Audiences) {
	case 0:
	case 1:
		audience = req.Spec.Audiences[0]
	default:
		return errors.New("node may only request 0 or 1 audiences")
	}
	wanted, err := p.wantsAudience(ctx, pod, audience)
	if err != nil {
		return fmt.Errorf("error validating audience %q: %w", audience, err)
	}
	if wanted || p.authorizer.Authorize(ctx, attrs.User, &request.Info{
		IsResourceRequest: true,
		Verb:              "request-serviceaccounts-token-audience",
		APIVersion:        "v1",
		Namespace:         attrs.Namespace,
		Resource:          audience,
		Name:              attrs.Name,
	}).Allowed {
		return nil
	}
	return fmt.Errorf("audience %q not found in pod spec volume, %s is not authorized to request tokens for this audience", audience, attrs.User.Name)
}

// wantsAudience reports whether one of a pod's volumes asks for tokens for an audience:
// a projected one itself, others through their CSI driver.
func (p *nodeRestrictionPlugin) wantsAudience(ctx context.Context, pod *corev1.Pod, audience string) (bool, error) {
	var failed []error
	for i := range pod.Spec.Volumes {
		volume := &pod.Spec.Volumes[i]
		if volume.Projected != nil && slices.ContainsFunc(volume.Projected.Sources, func(s corev1.VolumeProjection) bool {
			return s.ServiceAccountToken != nil && s.ServiceAccountToken.Audience == audience
		}) {
			return true, nil
		}
		driver, err := p.volumeDriver(ctx, pod, volume)
		if err == nil && driver != "" {
			var wants bool
			if wants, err = p.driverWants(ctx, driver, audience); wants {
				return true, nil
			}
		}
		if err != nil {
			failed = append(failed, err)
		}
	}
	return false, errors.Join(failed...)
}

// volumeDriver is the name of the CSI driver behind a pod's volume; empty for others.
func (p *nodeRestrictionPlugin) volumeDriver(ctx context.Context, pod *corev1.Pod, volume *corev1.Volume) (string, error) {
	claim := ""
	switch {
	case volume.CSI != nil:
		return volume.CSI.Driver, nil
	case volume.Ephemeral != nil:
		claim = pod.Name + "-" + volume.Name
	case volume.PersistentVolumeClaim != nil:
		claim = volume.PersistentVolumeClaim.ClaimName
	default:
		return "", nil
	}
	pvc, err := lookup.Get[*corev1.PersistentVolumeClaim](ctx, p.objects, core("persistentvolumeclaims"), pod.Namespace, claim)
	if err != nil {
		return "", err
	}
	pv, err := lookup.Get[*corev1.PersistentVolume](ctx, p.objects, core("persistentvolumes"), "", pvc.Spec.VolumeName)
	if err != nil || pv.Spec.CSI == nil {
		return "", err
	}
	return pv.Spec.CSI.Driver, nil
}

func (p *nodeRestrictionPlugin) driverWants(ctx context.Context, name, audience string) (bool, error) {
	drivers := schema.GroupResource{Group: "storage.k8s.io", Resource: "csidrivers"}
	driver, err := lookup.Get[*storagev1.CSIDriver](ctx, p.objects, drivers, "", name)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(driver.Spec.TokenRequests, func(r storagev1.TokenRequest) bool { return r.Audience == audience }), nil
}
