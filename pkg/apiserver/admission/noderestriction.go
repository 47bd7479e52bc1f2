package admission

import (
	"context"
	"maps"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/authz"
	"skiff/pkg/apiserver/lookup"
	"skiff/pkg/apiserver/request"
)

// nodeRestrictionPlugin holds what nodes write to what concerns themselves. It is the
// other half of the Node authorizer, which doesn't see objects.
type nodeRestrictionPlugin struct {
	objects    lookup.Reader
	authorizer Authorizer
}

func (p *nodeRestrictionPlugin) admit(ctx context.Context, attrs *request.Attributes) error {
	if attrs.User == nil {
		return nil
	}
	node, ok := authz.NodeName(attrs.User)
	if !ok {
		return nil
	}
	if node == "" {
		return forbidden(attrs, "could not determine node from user %q", attrs.User.Name)
	}
	switch attrs.Kind.GroupResource() {
	case core("pods"):
		return p.admitPod(ctx, node, attrs)
	case core("nodes"):
		return p.admitNode(node, attrs)
	case core("persistentvolumeclaims"):
		return p.admitClaim(node, attrs)
	case core("serviceaccounts"):
		return p.admitToken(ctx, node, attrs)
	case schema.GroupResource{Group: "coordination.k8s.io", Resource: "leases"}:
		if attrs.Namespace != "kube-node-lease" {
			return forbidden(attrs, `can only access leases in the "kube-node-lease" system namespace`)
		}
		return sameName(node, attrs, "can only access node lease with the same name as the requesting node")
	case schema.GroupResource{Group: "storage.k8s.io", Resource: "csinodes"}:
		return sameName(node, attrs, "can only access CSINode with the same name as the requesting node")
	case schema.GroupResource{Group: "resource.k8s.io", Resource: "resourceslices"}:
		return admitResourceSlice(node, attrs)
	case schema.GroupResource{Group: "certificates.k8s.io", Resource: "podcertificaterequests"}:
		return forbidden(attrs, "PodCertificateRequest feature gate is disabled")
	case signingRequests:
		return admitSigningRequest(node, attrs)
	}
	return nil
}

func sameName(node string, attrs *request.Attributes, refusal string) error {
	name := attrs.Name
	if obj, ok := attrs.Object.(api.Object); ok && attrs.Operation == request.Create {
		name = obj.GetName()
	}
	if name != node {
		return forbidden(attrs, "%s", refusal)
	}
	return nil
}

func (p *nodeRestrictionPlugin) admitPod(ctx context.Context, node string, attrs *request.Attributes) error {
	switch attrs.Subresource + "/" + string(attrs.Operation) {
	case "/CREATE":
		return p.admitMirrorPod(ctx, node, attrs)
	case "/DELETE":
		pod, err := p.pod(ctx, attrs, attrs.Name)
		if err != nil {
			return err
		}
		if pod.Spec.NodeName != node {
			return forbidden(attrs, "node %q can only delete pods with spec.nodeName set to itself", node)
		}
		return nil
	case "status/UPDATE":
		return admitPodStatus(node, attrs)
	case "eviction/CREATE":
		return p.admitEviction(ctx, node, attrs)
	}
	switch attrs.Subresource {
	case "":
		return forbidden(attrs, "unexpected operation %q, node %q can only create and delete mirror pods", attrs.Operation, node)
	case "status", "eviction":
		return forbidden(attrs, "unexpected operation %q", attrs.Operation)
	}
	return forbidden(attrs, "unexpected pod subresource %q, only 'status' and 'eviction' are allowed", attrs.Subresource)
}

func (p *nodeRestrictionPlugin) pod(ctx context.Context, attrs *request.Attributes, name string) (*corev1.Pod, error) {
	pod, err := lookup.Live[*corev1.Pod](ctx, p.objects, core("pods"), attrs.Namespace, name)
	if err != nil && !apierrors.IsNotFound(err) {
		err = forbidden(attrs, "%w", err)
	}
	return pod, err
}

// admitMirrorPod lets a node create mirror pods bound to and owned by itself, which
// refer to nothing.
func (p *nodeRestrictionPlugin) admitMirrorPod(ctx context.Context, node string, attrs *request.Attributes) error {
	pod, ok := attrs.Object.(*corev1.Pod)
	switch {
	case !ok:
		return forbidden(attrs, "unexpected type %T", attrs.Object)
	case !isMirror(pod):
		return forbidden(attrs, "pod does not have %q annotation, node %q can only create mirror pods", corev1.MirrorPodAnnotationKey, node)
	case pod.Spec.NodeName != node:
		return forbidden(attrs, "node %q can only create pods with spec.nodeName set to itself", node)
	case len(pod.OwnerReferences) > 1:
		return forbidden(attrs, "node %q can only create pods with a single owner reference set to itself", node)
	case len(pod.OwnerReferences) == 0:
		return forbidden(attrs, "node %q can only create pods with an owner reference set to itself", node)
	}
	owner := pod.OwnerReferences[0]
	switch {
	case owner.APIVersion != "v1" || owner.Kind != "Node" || owner.Name != node:
		return forbidden(attrs, "node %q can only create pods with an owner reference set to itself", node)
	case owner.Controller == nil || !*owner.Controller:
		return forbidden(attrs, "node %q can only create pods with a controller owner reference set to itself", node)
	case owner.BlockOwnerDeletion != nil && *owner.BlockOwnerDeletion:
		return forbidden(attrs, "node %q must not set blockOwnerDeletion on an owner reference", node)
	}
	self, err := lookup.Live[*corev1.Node](ctx, p.objects, core("nodes"), "", node)
	switch {
	case apierrors.IsNotFound(err):
		return err
	case err != nil:
		return forbidden(attrs, "error looking up node %s to verify uid: %w", node, err)
	case owner.UID != self.UID:
		return forbidden(attrs, "node %s UID mismatch: expected %s got %s", node, owner.UID, self.UID)
	}
	if what := podNeeds(pod); what != "" {
		return forbidden(attrs, "node %q can not create pods that reference %s", node, what)
	}
	return nil
}

// podNeeds names something of the API that a pod depends on; empty when there is nothing.
func podNeeds(pod *corev1.Pod) string {
	if pod.Spec.ServiceAccountName != "" {
		return "serviceaccounts"
	}
	refs := authz.PodReferences(pod)
	for _, resource := range []string{"secrets", "configmaps"} {
		if slices.ContainsFunc(refs, func(r authz.Reference) bool { return r.Resource == resource }) {
			return resource
		}
	}
	if len(pod.Spec.ResourceClaims) > 0 {
		return "resourceclaims"
	}
	for i := range pod.Spec.Volumes {
		if what := volumeNeeds(&pod.Spec.Volumes[i]); what != "" {
			return what
		}
	}
	return ""
}

func volumeNeeds(volume *corev1.Volume) string {
	switch {
	case volume.ConfigMap != nil:
		return "configmaps (via configmap volumes)"
	case volume.Secret != nil:
		return "secrets (via secret volumes)"
	case volume.CSI != nil:
		return "csidrivers (via CSI volumes)"
	case volume.Glusterfs != nil:
		return "endpoints (via glusterFS volumes)"
	case volume.PersistentVolumeClaim != nil:
		return "persistentvolumeclaims"
	case volume.Ephemeral != nil:
		return "persistentvolumeclaims (via ephemeral volumes)"
	case volume.AzureFile != nil:
		return "secrets (via azureFile volumes)"
	case volume.Projected == nil:
		return ""
	}
	for _, source := range volume.Projected.Sources {
		switch {
		case source.ConfigMap != nil:
			return "configmaps (via projected volumes)"
		case source.Secret != nil:
			return "secrets (via projected volumes)"
		case source.ServiceAccountToken != nil:
			return "serviceaccounts (via projected volumes)"
		case source.ClusterTrustBundle != nil:
			return "clustertrustbundles"
		case source.PodCertificate != nil:
			return "podcertificates"
		}
	}
	return ""
}

func admitPodStatus(node string, attrs *request.Attributes) error {
	old, wasPod := attrs.Old.(*corev1.Pod)
	pod, ok := attrs.Object.(*corev1.Pod)
	switch {
	case !wasPod:
		return forbidden(attrs, "unexpected type %T", attrs.Old)
	case old.Spec.NodeName != node:
		return forbidden(attrs, "node %q can only update pod status for pods with spec.nodeName set to itself", node)
	case !ok:
		return forbidden(attrs, "unexpected type %T", attrs.Object)
	case !maps.Equal(old.Labels, pod.Labels):
		return forbidden(attrs, "node %q cannot update labels through pod status", node)
	case !equality.Semantic.DeepEqual(old.Status.ResourceClaimStatuses, pod.Status.ResourceClaimStatuses):
		return forbidden(attrs, "node %q cannot update resource claim statues", node)
	case !equality.Semantic.DeepEqual(old.Status.ExtendedResourceClaimStatus, pod.Status.ExtendedResourceClaimStatus):
		return forbidden(attrs, "node %q cannot update extended resource claim status", node)
	}
	return nil
}

func (p *nodeRestrictionPlugin) admitEviction(ctx context.Context, node string, attrs *request.Attributes) error {
	eviction, ok := attrs.Object.(*policyv1.Eviction)
	if !ok {
		return forbidden(attrs, "unexpected type %T", attrs.Object)
	}
	name := attrs.Name
	if name == "" {
		name = eviction.Name
	}
	if name == "" {
		return forbidden(attrs, "could not determine pod from request data")
	}
	pod, err := p.pod(ctx, attrs, name)
	if err != nil {
		return err
	}
	if pod.Spec.NodeName != node {
		return forbidden(attrs, "node %s can only evict pods with spec.nodeName set to itself", node)
	}
	return nil
}

// admitClaim lets a node report a volume's size and the state of its resizing.
func (p *nodeRestrictionPlugin) admitClaim(node string, attrs *request.Attributes) error {
	if attrs.Subresource != "status" {
		return forbidden(attrs, "may only update PVC status")
	}
	old, wasClaim := attrs.Old.(*corev1.PersistentVolumeClaim)
	claim, ok := attrs.Object.(*corev1.PersistentVolumeClaim)
	if attrs.Operation != request.Update || !wasClaim || !ok {
		return forbidden(attrs, "unexpected operation %q", attrs.Operation)
	}
	allowed := claim.DeepCopy()
	allowed.ResourceVersion, allowed.ManagedFields = old.ResourceVersion, old.ManagedFields
	allowed.Status.Capacity, allowed.Status.Conditions = old.Status.Capacity, old.Status.Conditions
	allowed.Status.AllocatedResources, allowed.Status.AllocatedResourceStatuses = old.Status.AllocatedResources, old.Status.AllocatedResourceStatuses
	if !equality.Semantic.DeepEqual(allowed, old) {
		return forbidden(attrs, "node %q is not allowed to update fields other than status.quantity and status.conditions", node)
	}
	return nil
}

func (p *nodeRestrictionPlugin) admitNode(node string, attrs *request.Attributes) error {
	name := attrs.Name
	obj, ok := attrs.Object.(*corev1.Node)
	if ok && name == "" {
		name = obj.Name
	}
	if name != node {
		return forbidden(attrs, "node %q is not allowed to modify node %q", node, name)
	}
	if attrs.Operation != request.Create && attrs.Operation != request.Update {
		return nil
	}
	if !ok {
		return forbidden(attrs, "unexpected type %T", attrs.Object)
	}
	if attrs.Operation == request.Create {
		if labels := forbiddenLabels(obj.Labels, nil); len(labels) > 0 {
			return forbidden(attrs, "node %q is not allowed to set the following labels: %s", node, strings.Join(labels, ", "))
		}
		return nil
	}
	old, ok := attrs.Old.(*corev1.Node)
	switch {
	case !ok:
		return forbidden(attrs, "unexpected type %T", attrs.Old)
	case !equality.Semantic.DeepEqual(obj.Spec.Taints, old.Spec.Taints):
		return forbidden(attrs, "node %q is not allowed to modify taints", node)
	case !equality.Semantic.DeepEqual(obj.OwnerReferences, old.OwnerReferences):
		return forbidden(attrs, "node %q is not allowed to modify ownerReferences", node)
	}
	if labels := forbiddenLabels(obj.Labels, old.Labels); len(labels) > 0 {
		return forbidden(attrs, "is not allowed to modify labels: %s", strings.Join(labels, ", "))
	}
	return nil
}

// nodeLabels are the labels of Kubernetes' own domains that a node may set on itself,
// beside those of node.kubernetes.io and kubelet.kubernetes.io.
var nodeLabels = []string{
	corev1.LabelHostname,
	corev1.LabelTopologyZone, corev1.LabelTopologyRegion,
	corev1.LabelFailureDomainBetaZone, corev1.LabelFailureDomainBetaRegion,
	corev1.LabelInstanceType, corev1.LabelInstanceTypeStable,
	corev1.LabelOSStable, corev1.LabelArchStable,
	"beta.kubernetes.io/os", "beta.kubernetes.io/arch",
}

// forbiddenLabels lists the labels that differ and that a node may not touch, in order:
// by them it could draw workloads to itself.
func forbiddenLabels(labels, old map[string]string) []string {
	touched := map[string]bool{}
	for key, value := range labels {
		if before, ok := old[key]; !ok || before != value {
			touched[key] = true
		}
	}
	for key := range old {
		if _, ok := labels[key]; !ok {
			touched[key] = true
		}
	}
	var out []string
	for key := range touched {
		domain, _, found := strings.Cut(key, "/")
		if !found {
			continue
		}
		kubernetes := within(domain, "kubernetes.io") || within(domain, "k8s.io")
		own := slices.Contains(nodeLabels, key) || within(domain, "kubelet.kubernetes.io") || within(domain, "node.kubernetes.io")
		if within(domain, "node-restriction.kubernetes.io") || kubernetes && !own {
			out = append(out, key)
		}
	}
	slices.Sort(out)
	return out
}

func within(domain, parent string) bool {
	return domain == parent || strings.HasSuffix(domain, "."+parent)
}

func admitResourceSlice(node string, attrs *request.Attributes) error {
	owns := func(slice *resourcev1.ResourceSlice, ok bool) bool {
		return ok && slice.Spec.NodeName != nil && *slice.Spec.NodeName == node
	}
	switch attrs.Operation {
	case request.Create:
		slice, ok := attrs.Object.(*resourcev1.ResourceSlice)
		if !owns(slice, ok) {
			return forbidden(attrs, "can only create ResourceSlice with the same NodeName as the requesting node")
		}
	case request.Delete:
		slice, ok := attrs.Old.(*resourcev1.ResourceSlice)
		if !owns(slice, ok) {
			return forbidden(attrs, "can only delete ResourceSlice with the same NodeName as the requesting node")
		}
	}
	return nil
}

// admitSigningRequest lets a node ask for certificates in its own name only.
func admitSigningRequest(node string, attrs *request.Attributes) error {
	csr, ok := attrs.Object.(*certificatesv1.CertificateSigningRequest)
	if !ok || attrs.Operation != request.Create ||
		csr.Spec.SignerName != certificatesv1.KubeletServingSignerName && csr.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName {
		return nil
	}
	parsed, err := parseCSR(csr.Spec.Request)
	if err != nil {
		return forbidden(attrs, "unable to parse csr: %w", err)
	}
	if parsed.Subject.CommonName != "system:node:"+node {
		return forbidden(attrs, "can only create a node CSR with CN=system:node:%s", node)
	}
	return nil
}
