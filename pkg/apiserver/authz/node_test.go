package authz

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/lookup"
	"skiff/pkg/apiserver/request"
)

func podOn(node, name string, change func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.PodSpec{NodeName: node}}
	if change != nil {
		change(pod)
	}
	return pod
}

// everything a pod can refer to, each name telling where it stands.
func referringPod() *corev1.Pod {
	secretEnv := func(name string) []corev1.EnvVar {
		return []corev1.EnvVar{{ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: name}}}}}
	}
	return podOn("n1", "p1", func(p *corev1.Pod) {
		p.Spec.ServiceAccountName = "sa"
		p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "pull"}}
		p.Spec.InitContainers = []corev1.Container{{Env: secretEnv("init-env")}}
		p.Spec.Containers = []corev1.Container{{EnvFrom: []corev1.EnvFromSource{
			{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "from"}}},
			{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "from"}}},
		}}}
		p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Env: secretEnv("debug-env")}}}
		p.Spec.Volumes = []corev1.Volume{
			{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "volume"}}},
			{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
				{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "projected"}}},
				{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}}},
			}}}},
			{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "claim"}}},
			{Name: "scratch", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}},
		}
	})
}

func nodeFixture(t *testing.T) *nodeAuthorizer {
	n := newNodeAuthorizer(defaultPolicy(t))
	n.graph.apply([]lookup.Change{
		{Object: referringPod()},
		{Object: podOn("", "pending", func(p *corev1.Pod) { p.Spec.ServiceAccountName = "later" })},
		{Object: podOn("n2", "p2", func(p *corev1.Pod) { p.Spec.ServiceAccountName = "sa2" })},
		{Object: podOn("n1", "mirror", func(p *corev1.Pod) {
			p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
			p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "stolen"}}
		})},
		{Object: &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: corev1.PersistentVolumeSpec{
			ClaimRef: &corev1.ObjectReference{Namespace: "ns", Name: "claim"},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
				NodeStageSecretRef:         &corev1.SecretReference{Namespace: "storage", Name: "stage"},
				ControllerPublishSecretRef: &corev1.SecretReference{Namespace: "storage", Name: "publish"},
			}},
		}}},
		{Object: &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "unbound"}}},
		{Object: &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: "va"}, Spec: storagev1.VolumeAttachmentSpec{NodeName: "n1"}}},
	})
	return n
}

func TestNodeAuthorizer(t *testing.T) {
	for _, c := range []struct {
		request string
		node    string
		why     string // "yes", or how the refusal begins
	}{
		{"get ns//secrets=volume", "n1", "yes"},
		{"watch ns//secrets=projected", "n1", "yes"},
		{"list ns//secrets=pull", "n1", "yes"},
		{"get ns//secrets=init-env", "n1", "yes"},
		{"get ns//secrets=from", "n1", "yes"},
		{"get ns//secrets=debug-env", "n1", "yes"},
		{"get ns//configmaps=from", "n1", "yes"},
		{"get ns//configmaps=kube-root-ca.crt", "n1", "yes"},
		{"get ns//secrets=volume", "n2", "no relationship found between node 'n2' and this object"},
		{"get ns//secrets=stolen", "n1", "no relationship found"},
		{"get ns//secrets=other", "n1", "no relationship found"},
		{"get other//secrets=volume", "n1", "no relationship found"},
		{"list ns//secrets", "n1", "No Object name found"},
		{"list //secrets=volume", "n1", "can only read namespaced object of this type"},
		{"update ns//secrets=volume", "n1", "can only read resources of this type"},
		{"get ns//configmaps/x=from", "n1", "cannot read subresource"},

		{"get ns//persistentvolumeclaims=claim", "n1", "yes"},
		{"get ns//persistentvolumeclaims=p1-scratch", "n1", "yes"},
		{"update ns//persistentvolumeclaims/status=claim", "n1", "yes"},
		{"get ns//persistentvolumeclaims/status=claim", "n1", "can only get/update/patch this type"},
		{"list ns//persistentvolumeclaims", "n1", "can only get individual resources of this type"},
		{"get ns//persistentvolumeclaims=claim", "n2", "no relationship found"},
		{"get //persistentvolumes=pv", "n1", "yes"},
		{"get //persistentvolumes=pv", "n2", "no relationship found"},
		{"get //persistentvolumes=unbound", "n1", "no relationship found"},
		{"get storage//secrets=stage", "n1", "yes"},
		{"get storage//secrets=publish", "n1", "no relationship found"},
		{"get storage//secrets=stage", "n2", "no relationship found"},
		{"get /storage.k8s.io/volumeattachments=va", "n1", "yes"},
		{"get /storage.k8s.io/volumeattachments=va", "n2", "no relationship found"},

		{"create ns//serviceaccounts/token=sa", "n1", "yes"},
		{"get ns//serviceaccounts=sa", "n1", "yes"},
		{"create ns//serviceaccounts/token=sa2", "n1", "no relationship found"},
		{"create ns//serviceaccounts/token=later", "n1", "no relationship found"},
		{"create ns//serviceaccounts=sa", "n1", "can only create token subresource of serviceaccount"},
		{"create ns//serviceaccounts/token", "n1", "can only create tokens for individual service accounts"},
		{"list ns//serviceaccounts", "n1", "can only create tokens for individual service accounts"},

		{"get ns//pods=p1", "n1", "yes"},
		{"get ns//pods=p2", "n1", "no relationship found"},
		{"watch ns//pods=p1", "n1", "yes"},
		{"list //pods", "n1", "can only list/watch pods with spec.nodeName field selector"},
		{"list //pods?n1", "n1", "yes"},
		{"list //pods?n1", "n2", "can only list/watch pods with spec.nodeName field selector"},
		{"create ns//pods", "n1", "yes"},
		{"update ns//pods/status=p2", "n1", "yes"}, // NodeRestriction's business
		{"create ns//pods/exec=p1", "n1", ""},
		{"update ns//pods=p1", "n1", ""},

		{"get //nodes=n1", "n1", "yes"},
		{"list //nodes", "n1", "node 'n1' cannot read all nodes, only its own Node object"},
		{"get //nodes=n2", "n1", "node 'n1' cannot read 'n2', only its own Node object"},
		{"patch //nodes/status=n1", "n1", "yes"},
		{"delete //nodes=n1", "n1", ""},

		{"update kube-node-lease/coordination.k8s.io/leases=n1", "n1", "yes"},
		{"create kube-node-lease/coordination.k8s.io/leases", "n1", "yes"},
		{"update kube-node-lease/coordination.k8s.io/leases=n2", "n1", "can only access node lease with the same name"},
		{"list kube-node-lease/coordination.k8s.io/leases", "n1", "can only get, create, update, patch, or delete a node lease"},
		{"get kube-system/coordination.k8s.io/leases=n1", "n1", `can only access leases in the "kube-node-lease" system namespace`},
		{"get /storage.k8s.io/csinodes=n1", "n1", "yes"},
		{"get /storage.k8s.io/csinodes=n2", "n1", "can only access CSINode with the same name"},
		{"create /resource.k8s.io/resourceslices", "n1", "yes"},
		{"list /resource.k8s.io/resourceslices", "n1", "can only list/watch/deletecollection resourceslices"},
		{"list /resource.k8s.io/resourceslices?n1", "n1", "yes"},

		{"list //services", "n1", "yes"},
		{"create ns//events", "n1", "yes"},
		{"create /authentication.k8s.io/tokenreviews", "n1", "yes"},
		{"list /discovery.k8s.io/endpointslices", "n1", ""},
		{"list //namespaces", "n1", ""},
		{"get ns//secrets=volume", "", `unknown node for user "system:node:"`},
	} {
		synctest.Test(t, func(t *testing.T) { // refusals wait
			n := nodeFixture(t)
			text, selected, _ := strings.Cut(c.request, "?")
			info := infoOf(t, text)
			if selected != "" {
				info.Fields = fields.OneTermEqualSelector("spec.nodeName", selected)
			}
			allowed, why := n.authorize(t.Context(), c.node, info)
			if allowed != (c.why == "yes") || !allowed && !strings.HasPrefix(why, c.why) || !allowed && c.why == "" && why != "" {
				t.Errorf("%s by %q: %t %s", c.request, c.node, allowed, why)
			}
		})
	}
}

// A node that hears of its pod before the graph does is not refused.
func TestNodeWaitsForTheGraph(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNodeAuthorizer(defaultPolicy(t))
		go func() {
			time.Sleep(patience / 2)
			n.graph.apply([]lookup.Change{{Object: referringPod()}})
		}()
		began := time.Now()
		if allowed, why := n.authorize(t.Context(), "n1", infoOf(t, "get ns//secrets=volume")); !allowed || time.Since(began) != patience/2 {
			t.Errorf("after %s: %t %s", time.Since(began), allowed, why)
		}
	})
}

func TestGraphForgets(t *testing.T) {
	n := nodeFixture(t)
	// Of two pods that refer to one object, one may go.
	twin := referringPod()
	twin.Name = "twin"
	n.graph.apply([]lookup.Change{{Object: twin}})
	n.graph.apply([]lookup.Change{{Object: twin, Deleted: true}})
	if got, _ := n.graph.related("n1", infoOf(t, "get ns//secrets=pull")); !got {
		t.Error("a pod's reference went with another pod")
	}
	moved := referringPod()
	moved.Spec.NodeName, moved.Spec.Volumes = "n2", nil
	n.graph.apply([]lookup.Change{{Object: moved}})
	for text, want := range map[string]bool{"get ns//secrets=pull": true, "get ns//secrets=volume": false, "get //persistentvolumes=pv": false} {
		if got, _ := n.graph.related("n2", infoOf(t, text)); got != want {
			t.Errorf("%s by the new node: %t", text, got)
		}
		if got, _ := n.graph.related("n1", infoOf(t, text)); got {
			t.Errorf("%s by the old node is still allowed", text)
		}
	}
	var gone []lookup.Change
	for _, obj := range []api.Object{moved, podOn("n2", "p2", nil), podOn("n1", "mirror", nil),
		&corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}},
		&storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: "va"}}} {
		gone = append(gone, lookup.Change{Object: obj, Deleted: true})
	}
	n.graph.apply(gone)
	if g := n.graph; len(g.pods)+len(g.uses)+len(g.volumes)+len(g.secrets)+len(g.owners[attachments]) != 0 {
		t.Errorf("left over: %+v", g)
	}
}

func TestNodeName(t *testing.T) {
	nodes := []string{"system:nodes"}
	for _, c := range []struct {
		user *request.User
		name string
		ok   bool
	}{
		{&request.User{Name: "system:node:n1", Groups: nodes}, "n1", true},
		{&request.User{Name: "system:node:n1"}, "", false},
		{&request.User{Name: "alice", Groups: nodes}, "", false},
		{&request.User{Name: "system:node:", Groups: nodes}, "", true},
	} {
		if name, ok := NodeName(c.user); ok != c.ok || ok && name != c.name {
			t.Errorf("%+v: %q %t", c.user, name, ok)
		}
	}
}
