package admission

import (
	"slices"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/lookup"
	"skiff/pkg/apiserver/request"
)

func withUID[T api.Object](uid string, obj T) T {
	obj.SetUID("uid-" + types.UID(uid))
	return obj
}

func podOn(node string, change func(*corev1.Pod)) *corev1.Pod {
	pod := withUID("pod", &corev1.Pod{ObjectMeta: meta("ns", "p-"+node), Spec: corev1.PodSpec{NodeName: node}})
	if change != nil {
		change(pod)
	}
	return pod
}

func mirrorPod(change func(*corev1.Pod)) *corev1.Pod {
	yes := true
	return podOn("n1", func(p *corev1.Pod) {
		p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "n1", UID: "uid-n1", Controller: &yes}}
		if change != nil {
			change(p)
		}
	})
}

func nodeWith(name string, change func(*corev1.Node)) *corev1.Node {
	node := withUID(name, &corev1.Node{ObjectMeta: meta("", name)})
	node.Labels = map[string]string{"keep": "me"}
	if change != nil {
		change(node)
	}
	return node
}

// action is a create of another kind's object below a resource.
func action(resource, subresource, name string, obj runtime.Object) *request.Attributes {
	return &request.Attributes{Operation: request.Create, Kind: &api.Kind{Resource: resource}, Subresource: subresource, Namespace: "ns", Name: name, Object: obj}
}

func deletion(obj runtime.Object) *request.Attributes {
	attrs := write(obj, obj)
	attrs.Operation, attrs.Object = request.Delete, nil
	return attrs
}

func tokenFor(kind, name, uid string, audiences ...string) *request.Attributes {
	return action("serviceaccounts", "token", "sa", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: audiences,
		BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: kind, Name: name, UID: types.UID(uid)}}})
}

func TestNodeRestriction(t *testing.T) {
	no, yes, n1, n2 := false, true, "n1", "n2"
	withTokens := podOn("n1", func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{
			{VolumeSource: corev1.VolumeSource{Projected: tokenSource()}},
			{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: "vault"}}}}}},
			{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "claim"}}},
		}
	})
	objects := lookup.NewFake(withTokens, podOn("n2", nil), podOn("", nil), nodeWith("n1", nil),
		&corev1.PersistentVolumeClaim{ObjectMeta: meta("ns", "claim"), Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pv"}},
		&corev1.PersistentVolume{ObjectMeta: meta("", "pv"), Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "csi"}}}},
		&storagev1.CSIDriver{ObjectMeta: meta("", "csi"), Spec: storagev1.CSIDriverSpec{TokenRequests: []storagev1.TokenRequest{{Audience: "cloud"}}}},
	)
	p := &nodeRestrictionPlugin{objects, rights{"request-serviceaccounts-token-audience allowed=sa"}}
	lease := func(namespace, name string) *coordinationv1.Lease {
		return &coordinationv1.Lease{ObjectMeta: meta(namespace, name)}
	}
	labelled := func(key string) *corev1.Node {
		return nodeWith("n1", func(n *corev1.Node) { n.Labels[key] = "x" })
	}
	status := func(change func(*corev1.Pod)) *request.Attributes {
		return subresource(write(podOn("n1", change), podOn("n1", nil)), "status")
	}
	claim := func(change func(*corev1.PersistentVolumeClaim)) *request.Attributes {
		old := &corev1.PersistentVolumeClaim{ObjectMeta: meta("ns", "c")}
		claim := old.DeepCopy()
		change(claim)
		return subresource(write(claim, old), "status")
	}
	slice := func(node *string) *resourcev1.ResourceSlice {
		return &resourcev1.ResourceSlice{ObjectMeta: meta("", "s"), Spec: resourcev1.ResourceSliceSpec{NodeName: node}}
	}
	for _, c := range []struct {
		name string
		*request.Attributes
		want string
	}{
		{"mirror pod", write(mirrorPod(nil), nil), ""},
		{"plain pod", write(podOn("n1", nil), nil), `pod does not have "kubernetes.io/config.mirror" annotation, node "n1" can only create mirror pods`},
		{"elsewhere", write(mirrorPod(func(p *corev1.Pod) { p.Spec.NodeName = "n2" }), nil), `node "n1" can only create pods with spec.nodeName set to itself`},
		{"no owner", write(mirrorPod(func(p *corev1.Pod) { p.OwnerReferences = nil }), nil), "with an owner reference set to itself"},
		{"two owners", write(mirrorPod(func(p *corev1.Pod) { p.OwnerReferences = append(p.OwnerReferences, p.OwnerReferences[0]) }), nil), "with a single owner reference set to itself"},
		{"other owner", write(mirrorPod(func(p *corev1.Pod) { p.OwnerReferences[0].Name = "n2" }), nil), "with an owner reference set to itself"},
		{"not controlling", write(mirrorPod(func(p *corev1.Pod) { p.OwnerReferences[0].Controller = &no }), nil), "with a controller owner reference set to itself"},
		{"blocking", write(mirrorPod(func(p *corev1.Pod) { p.OwnerReferences[0].BlockOwnerDeletion = &yes }), nil), "must not set blockOwnerDeletion on an owner reference"},
		{"older node", write(mirrorPod(func(p *corev1.Pod) { p.OwnerReferences[0].UID = "old" }), nil), "node n1 UID mismatch: expected old got uid-n1"},
		{"mirror with account", write(mirrorPod(func(p *corev1.Pod) { p.Spec.ServiceAccountName = "sa" }), nil), `node "n1" can not create pods that reference serviceaccounts`},
		{"mirror with secret", write(mirrorPod(func(p *corev1.Pod) { p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "s"}} }), nil), "that reference secrets"},
		{"mirror with claim", write(mirrorPod(func(p *corev1.Pod) { p.Spec.Volumes = withTokens.Spec.Volumes[2:] }), nil), "that reference persistentvolumeclaims"},
		{"mirror with token", write(mirrorPod(func(p *corev1.Pod) { p.Spec.Volumes = withTokens.Spec.Volumes[1:] }), nil), "that reference serviceaccounts (via projected volumes)"},
		{"mirror with host path", write(mirrorPod(func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{}}}}
		}), nil), ""},
		{"update pod", write(podOn("n1", nil), podOn("n1", nil)), `unexpected operation "UPDATE", node "n1" can only create and delete mirror pods`},
		{"delete own pod", deletion(podOn("n1", nil)), ""},
		{"delete other pod", deletion(podOn("n2", nil)), `node "n1" can only delete pods with spec.nodeName set to itself`},
		{"exec", action("pods", "exec", "p-n1", nil), `unexpected pod subresource "exec", only 'status' and 'eviction' are allowed`},
		{"evict own pod", action("pods", "eviction", "p-n1", &policyv1.Eviction{}), ""},
		{"evict other pod", action("pods", "eviction", "p-n2", &policyv1.Eviction{}), "node n1 can only evict pods with spec.nodeName set to itself"},
		{"evict missing pod", action("pods", "eviction", "gone", &policyv1.Eviction{}), `pods "gone" not found`},
		{"own pod's status", status(func(p *corev1.Pod) { p.Status.Phase = corev1.PodRunning }), ""},
		{"own pod's labels", status(func(p *corev1.Pod) { p.Labels = map[string]string{"a": "b"} }), `node "n1" cannot update labels through pod status`},
		{"own pod's claims", status(func(p *corev1.Pod) { p.Status.ResourceClaimStatuses = []corev1.PodResourceClaimStatus{{Name: "x"}} }), "cannot update resource claim statues"},
		{"other pod's status", subresource(write(podOn("n2", nil), podOn("n2", nil)), "status"), `node "n1" can only update pod status for pods with spec.nodeName set to itself`},

		{"register", write(nodeWith("n1", nil), nil), ""},
		{"register another", write(nodeWith("n2", nil), nil), `nodes "n2" is forbidden: node "n1" is not allowed to modify node "n2"`},
		{"register with a role", write(labelled("node-role.kubernetes.io/control-plane"), nil), `node "n1" is not allowed to set the following labels: node-role.kubernetes.io/control-plane`},
		{"register with a zone", write(labelled(corev1.LabelTopologyZone), nil), ""},
		{"register with an instance type", write(labelled("node.kubernetes.io/instance-type"), nil), ""},
		{"register with an own domain", write(labelled("example.com/x"), nil), ""},
		{"register with node-restriction", write(labelled("x.node-restriction.kubernetes.io/y"), nil), "not allowed to set the following labels"},
		{"relabel", write(labelled("foo.k8s.io/x"), nodeWith("n1", nil)), "is not allowed to modify labels: foo.k8s.io/x"},
		{"unlabel", write(nodeWith("n1", nil), labelled("node-role.kubernetes.io/x")), "is not allowed to modify labels"},
		{"taint", write(nodeWith("n1", func(n *corev1.Node) { n.Spec.Taints = make([]corev1.Taint, 1) }), nodeWith("n1", nil)), `node "n1" is not allowed to modify taints`},
		{"register with a taint", write(nodeWith("n1", func(n *corev1.Node) { n.Spec.Taints = make([]corev1.Taint, 1) }), nil), ""},
		{"disown", write(nodeWith("n1", func(n *corev1.Node) { n.OwnerReferences = make([]metav1.OwnerReference, 1) }), nodeWith("n1", nil)), "is not allowed to modify ownerReferences"},
		{"other's status", subresource(write(nodeWith("n2", nil), nodeWith("n2", nil)), "status"), `is not allowed to modify node "n2"`},
		{"delete another", deletion(nodeWith("n2", nil)), `is not allowed to modify node "n2"`},

		{"volume's size", claim(func(c *corev1.PersistentVolumeClaim) { c.Status.Capacity = corev1.ResourceList{"storage": {}} }), ""},
		{"volume's phase", claim(func(c *corev1.PersistentVolumeClaim) { c.Status.Phase = corev1.ClaimLost }), "is not allowed to update fields other than status.quantity and status.conditions"},
		{"volume's labels", claim(func(c *corev1.PersistentVolumeClaim) { c.Labels = map[string]string{"a": "b"} }), "is not allowed to update fields"},
		{"claim", write(&corev1.PersistentVolumeClaim{ObjectMeta: meta("ns", "c")}, nil), "may only update PVC status"},

		{"lease", write(lease("kube-node-lease", "n1"), nil), ""},
		{"other's lease", write(lease("kube-node-lease", "n2"), nil), "can only access node lease with the same name as the requesting node"},
		{"lease elsewhere", write(lease("kube-system", "n1"), nil), `can only access leases in the "kube-node-lease" system namespace`},
		{"CSI node", write(&storagev1.CSINode{ObjectMeta: meta("", "n1")}, nil), ""},
		{"other CSI node", write(&storagev1.CSINode{ObjectMeta: meta("", "n2")}, nil), "can only access CSINode with the same name as the requesting node"},
		{"slice", write(slice(&n1), nil), ""},
		{"other's slice", write(slice(&n2), nil), "can only create ResourceSlice with the same NodeName as the requesting node"},
		{"nobody's slice", deletion(slice(nil)), "can only delete ResourceSlice with the same NodeName as the requesting node"},
		{"CSR", write(signingRequest(t, certificatesv1.KubeletServingSignerName, "system:node:n1"), nil), ""},
		{"other's CSR", write(signingRequest(t, certificatesv1.KubeAPIServerClientKubeletSignerName, "system:node:n2"), nil), "can only create a node CSR with CN=system:node:n1"},
		{"another CSR", write(signingRequest(t, "example.com/x", "y"), nil), ""},

		{"token", tokenFor("Pod", "p-n1", "uid-pod"), ""},
		{"token for an audience", tokenFor("Pod", "p-n1", "uid-pod", "vault"), ""},
		{"token for a driver", tokenFor("Pod", "p-n1", "uid-pod", "cloud"), ""},
		{"token by right", tokenFor("Pod", "p-n1", "uid-pod", "allowed"), ""},
		{"token for others", tokenFor("Pod", "p-n1", "uid-pod", "bank"), `audience "bank" not found in pod spec volume, system:node:n1 is not authorized to request tokens for this audience`},
		{"token for two", tokenFor("Pod", "p-n1", "uid-pod", "vault", "cloud"), "node may only request 0 or 1 audiences"},
		{"token unbound", action("serviceaccounts", "token", "sa", &authenticationv1.TokenRequest{}), "node requested token not bound to a pod"},
		{"token for a node", tokenFor("Node", "n1", "uid-n1"), "node requested token not bound to a pod"},
		{"token without uid", tokenFor("Pod", "p-n1", ""), "node requested token with a pod binding without a uid"},
		{"token for an older pod", tokenFor("Pod", "p-n1", "old"), "the UID in the bound object reference (old) does not match the UID in record"},
		{"token for another's pod", tokenFor("Pod", "p-n2", "uid-pod"), "node requested token bound to a pod scheduled on a different node"},
		{"token for no pod", tokenFor("Pod", "gone", "uid-pod"), `pods "gone" not found`},

		{"event", write(&corev1.Event{ObjectMeta: meta("ns", "e")}, nil), ""},
	} {
		c.User = &request.User{Name: "system:node:n1", Groups: []string{"system:nodes"}}
		check(t, c.name, p.admit(t.Context(), c.Attributes), c.want)
		c.User = &request.User{Name: "alice"}
		check(t, c.name+" by somebody else", p.admit(t.Context(), c.Attributes), "")
	}
	attrs := write(podOn("n1", nil), nil)
	attrs.User = &request.User{Name: "system:node:", Groups: []string{"system:nodes"}}
	check(t, "nameless", p.admit(t.Context(), attrs), `could not determine node from user "system:node:"`)
}

func TestForbiddenLabels(t *testing.T) {
	got := forbiddenLabels(map[string]string{"kubernetes.io/hostname": "b", "kubernetes.io/x": "1", "x": "1", "same.k8s.io/x": "1"},
		map[string]string{"kubernetes.io/hostname": "a", "gone.k8s.io/x": "1", "same.k8s.io/x": "1"})
	if !slices.Equal(got, []string{"gone.k8s.io/x", "kubernetes.io/x"}) {
		t.Error(got)
	}
}
