package admission

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/authz"
	"skiff/pkg/apiserver/lookup"
	"skiff/pkg/apiserver/request"
)

// rights is an authorizer that allows what it lists: "verb resource=name".
type rights []string

func (r rights) Authorize(_ context.Context, _ *request.User, info *request.Info) authz.Verdict {
	return authz.Verdict{Allowed: slices.Contains(r, fmt.Sprintf("%s %s=%s", info.Verb, info.Resource, info.Name))}
}

func (r rights) GuardRoles(_ context.Context, attrs *request.Attributes) error {
	if attrs.Kind.Resource == "roles" {
		return errors.New("guarded")
	}
	return nil
}

func meta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name}
}

// write describes the create of an object, or its update when there is an old one.
func write(obj, old runtime.Object) *request.Attributes {
	attrs := &request.Attributes{
		Operation: request.Create, Object: obj, User: &request.User{Name: "alice"},
		Warn: func(string) {}, Annotate: func(string, string) {},
	}
	kinds, _, err := scheme.Scheme.ObjectKinds(obj)
	if err != nil {
		panic(err)
	}
	attrs.Kind = &api.Kind{GroupVersionKind: kinds[0], Resource: lookup.ResourceOf(obj).Resource}
	attrs.Namespace, attrs.Name = obj.(api.Object).GetNamespace(), obj.(api.Object).GetName()
	if old != nil {
		attrs.Operation, attrs.Old = request.Update, old
	}
	return attrs
}

func subresource(attrs *request.Attributes, name string) *request.Attributes {
	attrs.Subresource = name
	return attrs
}

// namespace is one that has its default service account.
func namespaceObjects() []api.Object {
	return []api.Object{
		&corev1.Namespace{ObjectMeta: meta("", "ns"), Status: corev1.NamespaceStatus{Phase: corev1.NamespaceActive}},
		&corev1.ServiceAccount{ObjectMeta: meta("ns", "default")},
	}
}

func check(t *testing.T, name string, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("%s: %v", name, err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("%s: got %v, want %s", name, err, want)
	}
}

func TestChainCompletesAPod(t *testing.T) {
	chain, err := New(Config{Objects: lookup.NewFake(namespaceObjects()...), Authorizer: rights{}})
	if err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{ObjectMeta: meta("ns", "p"), Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}, InitContainers: []corev1.Container{{Name: "i"}}}}
	attrs := write(pod, nil)
	if err := errors.Join(chain.Mutate(t.Context(), attrs), chain.Validate(t.Context(), attrs)); err != nil {
		t.Fatal(err)
	}
	name := pod.Spec.Volumes[0].Name
	if suffix, ok := strings.CutPrefix(name, "kube-api-access-"); !ok || len(suffix) != 5 {
		t.Errorf("token volume %q", name)
	}
	text, err := json.MarshalIndent(pod.Spec, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.ReplaceAll(string(text), name, "kube-api-access-xxxxx"); got != completedPod {
		t.Error(got)
	}
	// The second time changes nothing (as when a webhook changed the pod meanwhile).
	before := pod.DeepCopy()
	if err := chain.Mutate(t.Context(), attrs); err != nil || before.String() != pod.String() {
		t.Errorf("%v\n%v\n%v", err, before, pod)
	}
}

const completedPod = `{
  "volumes": [
    {
      "name": "kube-api-access-xxxxx",
      "projected": {
        "sources": [
          {
            "serviceAccountToken": {
              "expirationSeconds": 3607,
              "path": "token"
            }
          },
          {
            "configMap": {
              "name": "kube-root-ca.crt",
              "items": [
                {
                  "key": "ca.crt",
                  "path": "ca.crt"
                }
              ]
            }
          },
          {
            "downwardAPI": {
              "items": [
                {
                  "path": "namespace",
                  "fieldRef": {
                    "apiVersion": "v1",
                    "fieldPath": "metadata.namespace"
                  }
                }
              ]
            }
          }
        ],
        "defaultMode": 420
      }
    }
  ],
  "initContainers": [
    {
      "name": "i",
      "resources": {},
      "volumeMounts": [
        {
          "name": "kube-api-access-xxxxx",
          "readOnly": true,
          "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"
        }
      ]
    }
  ],
  "containers": [
    {
      "name": "c",
      "resources": {},
      "volumeMounts": [
        {
          "name": "kube-api-access-xxxxx",
          "readOnly": true,
          "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"
        }
      ]
    }
  ],
  "serviceAccountName": "default",
  "serviceAccount": "default",
  "tolerations": [
    {
      "key": "node.kubernetes.io/not-ready",
      "operator": "Exists",
      "effect": "NoExecute",
      "tolerationSeconds": 300
    },
    {
      "key": "node.kubernetes.io/unreachable",
      "operator": "Exists",
      "effect": "NoExecute",
      "tolerationSeconds": 300
    }
  ],
  "priority": 0,
  "preemptionPolicy": "PreemptLowerPriority"
}`

func TestChainNamesWhoFailed(t *testing.T) {
	chain, err := New(Config{Objects: lookup.NewFake(namespaceObjects()...), Authorizer: rights{}})
	if err != nil {
		t.Fatal(err)
	}
	attrs := write(&corev1.ConfigMap{ObjectMeta: meta("ns", "c")}, nil)
	attrs.Kind.Resource = "roles"
	err = chain.Validate(t.Context(), attrs)
	check(t, "internal error", err, `admission plugin "RBACEscalation": guarded`)
	if !apierrors.IsInternalError(err) {
		t.Error(err)
	}
}

func TestNamespaceLifecycle(t *testing.T) {
	objects := append(namespaceObjects(), &corev1.Namespace{ObjectMeta: meta("", "going"), Status: corev1.NamespaceStatus{Phase: corev1.NamespaceTerminating}})
	p := &lifecyclePlugin{lookup.NewFake(objects...)}
	config := func(namespace string) *corev1.ConfigMap { return &corev1.ConfigMap{ObjectMeta: meta(namespace, "c")} }
	remove := func(obj runtime.Object) *request.Attributes {
		attrs := write(obj, obj)
		attrs.Operation, attrs.Object = request.Delete, nil
		return attrs
	}
	review := write(config("gone"), nil)
	review.Kind = &api.Kind{Resource: "localsubjectaccessreviews"}
	review.Kind.Group = "authorization.k8s.io"
	namespaceless := write(&corev1.Node{ObjectMeta: meta("", "n")}, nil)
	for _, c := range []struct {
		name string
		*request.Attributes
		want string
	}{
		{"create", write(config("ns"), nil), ""},
		{"create in none", write(config("gone"), nil), `namespaces "gone" not found`},
		{"update in none", write(config("gone"), config("gone")), `namespaces "gone" not found`},
		{"create in a going one", write(config("going"), nil), `configmaps "c" is forbidden: unable to create new content in namespace going because it is being terminated`},
		{"update in a going one", write(config("going"), config("going")), ""},
		{"delete in none", remove(config("gone")), ""},
		{"review in none", review, ""},
		{"no namespace", namespaceless, ""},
		{"delete default", remove(&corev1.Namespace{ObjectMeta: meta("", "default")}), `namespaces "default" is forbidden: this namespace may not be deleted`},
		{"delete kube-system", remove(&corev1.Namespace{ObjectMeta: meta("", "kube-system")}), "may not be deleted"},
		{"delete kube-node-lease", remove(&corev1.Namespace{ObjectMeta: meta("", "kube-node-lease")}), ""},
		{"delete another", remove(&corev1.Namespace{ObjectMeta: meta("", "ns")}), ""},
		{"create a namespace", write(&corev1.Namespace{ObjectMeta: meta("", "new")}, nil), ""},
	} {
		check(t, c.name, p.admit(t.Context(), c.Attributes), c.want)
	}
	err := p.admit(t.Context(), write(config("going"), nil))
	if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) || !apierrors.IsForbidden(err) {
		t.Errorf("%#v", err)
	}
}

func TestServiceAccounts(t *testing.T) {
	no, yes := false, true
	enforced := &corev1.ServiceAccount{ObjectMeta: meta("ns", "enforced"), Secrets: []corev1.ObjectReference{{Name: "mine"}}}
	enforced.Annotations = map[string]string{enforceSecrets: "true"}
	p := &serviceAccountPlugin{lookup.NewFake(append(namespaceObjects(), enforced,
		&corev1.ServiceAccount{ObjectMeta: meta("ns", "quiet"), AutomountServiceAccountToken: &no, ImagePullSecrets: []corev1.LocalObjectReference{{Name: "pull"}}})...)}
	pod := func(account string, change func(*corev1.Pod)) *corev1.Pod {
		pod := &corev1.Pod{ObjectMeta: meta("ns", "p"), Spec: corev1.PodSpec{ServiceAccountName: account, Containers: []corev1.Container{{Name: "c"}}}}
		if change != nil {
			change(pod)
		}
		return pod
	}
	mirror := func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"} }
	for _, c := range []struct {
		name    string
		pod     *corev1.Pod
		want    string
		volumes int
		pull    int
	}{
		{"default", pod("", nil), "", 1, 0},
		{"missing", pod("gone", nil), `pods "p" is forbidden: error looking up service account ns/gone: serviceaccount "gone" not found`, 0, 0},
		{"account says no", pod("quiet", nil), "", 0, 1},
		{"pod says yes", pod("quiet", func(p *corev1.Pod) { p.Spec.AutomountServiceAccountToken = &yes }), "", 1, 1},
		{"pod says no", pod("", func(p *corev1.Pod) { p.Spec.AutomountServiceAccountToken = &no }), "", 0, 0},
		{"own pull secrets", pod("quiet", func(p *corev1.Pod) { p.Spec.ImagePullSecrets = make([]corev1.LocalObjectReference, 3) }), "", 0, 3},
		{"something else mounted there", pod("", func(p *corev1.Pod) {
			p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: tokenMountPath}}
		}), "", 0, 0},
		{"volume there already", pod("", func(p *corev1.Pod) { p.Spec.Volumes = []corev1.Volume{{Name: "kube-api-access-12345"}} }), "", 1, 0},
		{"mirror", pod("", mirror), "", 0, 0},
		{"mirror with account", pod("default", mirror), "a mirror pod may not reference service accounts", 0, 0},
		{"mirror with secret", pod("", func(p *corev1.Pod) { mirror(p); p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "s"}} }), "a mirror pod may not reference secrets", 0, 0},
		{"mirror with token", pod("", func(p *corev1.Pod) {
			mirror(p)
			p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{Projected: tokenSource()}}}
		}),
			"a mirror pod may not use ServiceAccountToken volume projections", 0, 0},
		{"secret that is listed", pod("enforced", func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "mine"}}}}
		}), "", 2, 0},
		{"secret that isn't", pod("enforced", func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "other"}}}}
		}), `volume with secret.secretName="other" is not allowed because service account enforced does not reference that secret`, 0, 0},
		{"secret env that isn't", pod("enforced", func(p *corev1.Pod) {
			p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "other"}}}}
		}), `container c with envFrom referencing secret.secretName="other" is not allowed`, 0, 0},
		{"pull secret that isn't", pod("enforced", func(p *corev1.Pod) { p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "other"}} }),
			`imagePullSecrets[0].name="other" is not allowed`, 0, 0},
	} {
		attrs := write(c.pod, nil)
		err := p.mutate(t.Context(), attrs)
		check(t, c.name, err, c.want)
		if err == nil {
			check(t, c.name+", validated", p.validate(t.Context(), attrs), "")
			if len(c.pod.Spec.Volumes) != c.volumes || len(c.pod.Spec.ImagePullSecrets) != c.pull {
				t.Errorf("%s: %d volumes, %d pull secrets", c.name, len(c.pod.Spec.Volumes), len(c.pod.Spec.ImagePullSecrets))
			}
		}
	}
	check(t, "update", p.mutate(t.Context(), write(pod("gone", nil), pod("gone", nil))), "")
	check(t, "no account at validation", p.validate(t.Context(), write(pod("", nil), nil)), "no service account specified for pod ns/p")
	debug := pod("enforced", func(p *corev1.Pod) {
		p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "d",
			EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "other"}}}}}}}
	})
	check(t, "ephemeral", p.validate(t.Context(), subresource(write(debug, pod("enforced", nil)), "ephemeralcontainers")), "ephemeral container d with envFrom")
}

// A pod that follows its namespace too fast waits for the default service account.
func TestDefaultServiceAccountIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := lookup.NewFake()
		p := &serviceAccountPlugin{f}
		go func() {
			time.Sleep(time.Second)
			f.Put(&corev1.ServiceAccount{ObjectMeta: meta("ns", "default")})
		}()
		check(t, "late", p.mutate(t.Context(), write(&corev1.Pod{ObjectMeta: meta("ns", "p")}, nil)), "")
		began := time.Now()
		check(t, "another", p.mutate(t.Context(), write(&corev1.Pod{ObjectMeta: meta("ns", "p"), Spec: corev1.PodSpec{ServiceAccountName: "gone"}}, nil)), `serviceaccount "gone" not found`)
		if time.Since(began) > 0 {
			t.Error("another service account is waited for")
		}
		check(t, "never", p.mutate(t.Context(), write(&corev1.Pod{ObjectMeta: meta("other", "p")}, nil)), `serviceaccount "default" not found`)
	})
}

func TestPriority(t *testing.T) {
	never, lower := corev1.PreemptNever, corev1.PreemptLowerPriority
	class := func(name string, value int32, isDefault bool, policy *corev1.PreemptionPolicy) *schedulingv1.PriorityClass {
		return &schedulingv1.PriorityClass{ObjectMeta: meta("", name), Value: value, GlobalDefault: isDefault, PreemptionPolicy: policy}
	}
	pod := func(name string, priority *int32, policy *corev1.PreemptionPolicy) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: meta("ns", "p"), Spec: corev1.PodSpec{PriorityClassName: name, Priority: priority, PreemptionPolicy: policy}}
	}
	number := func(n int32) *int32 { return &n }
	without := &priorityPlugin{lookup.NewFake(class("high", 1000, false, &never))}
	with := &priorityPlugin{lookup.NewFake(class("high", 1000, false, &never), class("usual", 10, true, &lower), class("other", 20, true, nil))}
	for _, c := range []struct {
		name   string
		plugin *priorityPlugin
		pod    *corev1.Pod
		want   string // class priority policy, or an error
	}{
		{"none", without, pod("", nil, nil), " 0 PreemptLowerPriority"},
		{"none but zero", without, pod("", number(0), nil), " 0 PreemptLowerPriority"},
		{"default, the lowest", with, pod("", nil, nil), "usual 10 PreemptLowerPriority"},
		{"named", with, pod("high", nil, nil), "high 1000 Never"},
		{"without a policy", with, pod("other", nil, nil), "other 20 -"},
		{"wrong number", with, pod("high", number(1), nil),
			"the integer value of priority (1) must not be provided in pod spec; priority admission controller computed 1000 from the given PriorityClass name"},
		{"right number", with, pod("high", number(1000), nil), "high 1000 Never"},
		{"wrong policy", with, pod("high", nil, &lower),
			"the string value of PreemptionPolicy (PreemptLowerPriority) must not be provided in pod spec; priority admission controller computed Never from the given PriorityClass name"},
		{"missing", with, pod("gone", nil, nil), `pods "p" is forbidden: no PriorityClass with name gone was found`},
	} {
		err := c.plugin.mutate(t.Context(), write(c.pod, nil))
		if err != nil {
			check(t, c.name, err, c.want)
			continue
		}
		policy := "-"
		if p := c.pod.Spec.PreemptionPolicy; p != nil {
			policy = string(*p)
		}
		if got := fmt.Sprintf("%s %d %s", c.pod.Spec.PriorityClassName, *c.pod.Spec.Priority, policy); got != c.want {
			t.Errorf("%s: %s", c.name, got)
		}
	}
	kept := pod("high", nil, nil)
	check(t, "update", with.mutate(t.Context(), write(kept, pod("high", number(1000), &never))), "")
	if kept.Spec.Priority == nil || *kept.Spec.Priority != 1000 || kept.Spec.PreemptionPolicy != &never {
		t.Error("an old client's update loses the priority")
	}
	check(t, "second default", with.validate(t.Context(), write(class("new", 1, true, nil), nil)), "PriorityClass usual is already marked as default. Only one default can exist")
	check(t, "same default", with.validate(t.Context(), write(class("usual", 10, true, nil), class("usual", 10, true, nil))), "")
	check(t, "first default", without.validate(t.Context(), write(class("new", 1, true, nil), nil)), "")
}

func TestBootstrap(t *testing.T) {
	f := lookup.NewFake()
	for range 2 {
		if err := Bootstrap(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
	classes, err := lookup.List[*schedulingv1.PriorityClass](t.Context(), f, priorityClasses, "")
	if err != nil || len(classes) != 2 || classes[0].Name != "system-cluster-critical" || classes[0].Value != 2000000000 || classes[1].Value != 2000001000 {
		t.Error(classes, err)
	}
}

func TestTolerations(t *testing.T) {
	for _, c := range []struct {
		name  string
		given []corev1.Toleration
		want  int
	}{
		{"none", nil, 2},
		{"one", []corev1.Toleration{{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoExecute}}, 2},
		{"other effect", []corev1.Toleration{{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}}, 3},
		{"any effect", []corev1.Toleration{{Key: corev1.TaintNodeNotReady}}, 2},
		{"everything", []corev1.Toleration{{Operator: corev1.TolerationOpExists}}, 1},
	} {
		pod := &corev1.Pod{ObjectMeta: meta("ns", "p"), Spec: corev1.PodSpec{Tolerations: c.given}}
		if err := tolerateNodeTrouble(t.Context(), write(pod, nil)); err != nil || len(pod.Spec.Tolerations) != c.want {
			t.Errorf("%s: %v %v", c.name, pod.Spec.Tolerations, err)
		}
	}
	node := &corev1.Node{ObjectMeta: meta("", "n")}
	for range 2 {
		if err := taintNewNode(t.Context(), write(node, nil)); err != nil || len(node.Spec.Taints) != 1 || node.Spec.Taints[0].Key != corev1.TaintNodeNotReady || node.Spec.Taints[0].Effect != corev1.TaintEffectNoSchedule {
			t.Error(node.Spec.Taints, err)
		}
	}
	ready := &corev1.Node{ObjectMeta: meta("", "n")}
	if err := taintNewNode(t.Context(), write(ready, node)); err != nil || len(ready.Spec.Taints) > 0 {
		t.Error("an update taints")
	}
}

func TestDefaultClasses(t *testing.T) {
	marked := func(name, annotation string, age time.Duration) metav1.ObjectMeta {
		m := meta("", name)
		m.Annotations, m.CreationTimestamp = map[string]string{annotation: "true"}, metav1.NewTime(time.Unix(1e9, 0).Add(-age))
		return m
	}
	const isDefault, wasDefault = "storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"
	claim := func(class *string) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{ObjectMeta: meta("ns", "c"), Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: class}}
	}
	none := ""
	for _, c := range []struct {
		name    string
		classes []api.Object
		claim   *corev1.PersistentVolumeClaim
		want    string
	}{
		{"no class", nil, claim(nil), "<nil>"},
		{"not marked", []api.Object{&storagev1.StorageClass{ObjectMeta: meta("", "a")}}, claim(nil), "<nil>"},
		{"the newest", []api.Object{&storagev1.StorageClass{ObjectMeta: marked("a", isDefault, time.Hour)}, &storagev1.StorageClass{ObjectMeta: marked("b", wasDefault, 0)}}, claim(nil), "b"},
		{"of the same age", []api.Object{&storagev1.StorageClass{ObjectMeta: marked("b", isDefault, 0)}, &storagev1.StorageClass{ObjectMeta: marked("a", isDefault, 0)}}, claim(nil), "a"},
		{"none wanted", []api.Object{&storagev1.StorageClass{ObjectMeta: marked("a", isDefault, 0)}}, claim(&none), ""},
	} {
		err := (&storageClassPlugin{lookup.NewFake(c.classes...)}).mutate(t.Context(), write(c.claim, nil))
		got := "<nil>"
		if name := c.claim.Spec.StorageClassName; name != nil {
			got = *name
		}
		if err != nil || got != c.want {
			t.Errorf("%s: %q %v", c.name, got, err)
		}
	}

	p := &ingressClassPlugin{lookup.NewFake(&networkingv1.IngressClass{ObjectMeta: marked("nginx", networkingv1.AnnotationIsDefaultIngressClass, 0)})}
	ingress, legacy := &networkingv1.Ingress{ObjectMeta: meta("ns", "i")}, &networkingv1.Ingress{ObjectMeta: meta("ns", "i")}
	legacy.Annotations = map[string]string{"kubernetes.io/ingress.class": "x"}
	if err := errors.Join(p.mutate(t.Context(), write(ingress, nil)), p.mutate(t.Context(), write(legacy, nil))); err != nil {
		t.Fatal(err)
	}
	if ingress.Spec.IngressClassName == nil || *ingress.Spec.IngressClassName != "nginx" || legacy.Spec.IngressClassName != nil {
		t.Error(ingress.Spec, legacy.Spec)
	}
}

func TestClaimResize(t *testing.T) {
	yes := true
	p := &claimResizePlugin{lookup.NewFake(&storagev1.StorageClass{ObjectMeta: meta("", "grows"), AllowVolumeExpansion: &yes}, &storagev1.StorageClass{ObjectMeta: meta("", "fixed")})}
	claim := func(class, size string, phase corev1.PersistentVolumeClaimPhase) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{ObjectMeta: meta("ns", "c"), Status: corev1.PersistentVolumeClaimStatus{Phase: phase}, Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: &class, Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": resource.MustParse(size)}}}}
	}
	for want, c := range map[string][2]*corev1.PersistentVolumeClaim{
		"": {claim("grows", "2Gi", ""), claim("grows", "1Gi", corev1.ClaimBound)},
		"Only bound persistent volume claims can be expanded": {claim("grows", "2Gi", ""), claim("grows", "1Gi", corev1.ClaimPending)},
		"only dynamically provisioned pvc can be resized":     {claim("fixed", "2Gi", ""), claim("fixed", "1Gi", corev1.ClaimBound)},
	} {
		check(t, want, p.validate(t.Context(), write(c[0], c[1])), want)
	}
	check(t, "same size", p.validate(t.Context(), write(claim("fixed", "1Gi", ""), claim("fixed", "1Gi", ""))), "")
}

func TestRuntimeClass(t *testing.T) {
	overhead := corev1.ResourceList{"memory": resource.MustParse("64Mi")}
	p := &runtimeClassPlugin{lookup.NewFake(&nodev1.RuntimeClass{ObjectMeta: meta("", "vm"), Handler: "vm", Overhead: &nodev1.Overhead{PodFixed: overhead},
		Scheduling: &nodev1.Scheduling{NodeSelector: map[string]string{"vm": "yes"}, Tolerations: []corev1.Toleration{{Key: "vm", Operator: corev1.TolerationOpExists}}}})}
	pod := func(class string, change func(*corev1.PodSpec)) *corev1.Pod {
		pod := &corev1.Pod{ObjectMeta: meta("ns", "p")}
		if class != "" {
			pod.Spec.RuntimeClassName = &class
		}
		if change != nil {
			change(&pod.Spec)
		}
		return pod
	}
	for _, c := range []struct {
		name string
		pod  *corev1.Pod
		want string
	}{
		{"none", pod("", nil), ""},
		{"overhead without a class", pod("", func(s *corev1.PodSpec) { s.Overhead = overhead }), "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"},
		{"class", pod("vm", nil), ""},
		{"same overhead", pod("vm", func(s *corev1.PodSpec) { s.Overhead = overhead }), ""},
		{"other overhead", pod("vm", func(s *corev1.PodSpec) { s.Overhead = corev1.ResourceList{"cpu": resource.MustParse("1")} }), "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"},
		{"other node", pod("vm", func(s *corev1.PodSpec) { s.NodeSelector = map[string]string{"vm": "no"} }), "conflict: runtimeClass.scheduling.nodeSelector[vm] = yes; pod.spec.nodeSelector[vm] = no"},
		{"missing", pod("gone", nil), `pod rejected: RuntimeClass "gone" not found`},
	} {
		attrs := write(c.pod, nil)
		err := p.mutate(t.Context(), attrs)
		if err == nil {
			err = p.validate(t.Context(), attrs)
		}
		check(t, c.name, err, c.want)
		if c.want == "" && c.pod.Spec.RuntimeClassName != nil && (len(c.pod.Spec.Overhead) != 1 || c.pod.Spec.NodeSelector["vm"] != "yes" || len(c.pod.Spec.Tolerations) != 1) {
			t.Errorf("%s: %+v", c.name, c.pod.Spec)
		}
	}
}

func TestMergeTolerations(t *testing.T) {
	exists := func(key string, effect corev1.TaintEffect) corev1.Toleration {
		return corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: effect}
	}
	short, long := exists("a", corev1.TaintEffectNoExecute), exists("a", corev1.TaintEffectNoExecute)
	one, two := int64(1), int64(2)
	short.TolerationSeconds, long.TolerationSeconds = &one, &two
	value := corev1.Toleration{Key: "a", Operator: corev1.TolerationOpEqual, Value: "v"}
	for name, c := range map[string]struct{ all, want []corev1.Toleration }{
		"same twice":     {[]corev1.Toleration{value, value}, []corev1.Toleration{value}},
		"wider later":    {[]corev1.Toleration{value, exists("a", "")}, []corev1.Toleration{exists("a", "")}},
		"wider first":    {[]corev1.Toleration{exists("", ""), value, short}, []corev1.Toleration{exists("", "")}},
		"longer first":   {[]corev1.Toleration{long, short}, []corev1.Toleration{long}},
		"longer":         {[]corev1.Toleration{short, long}, []corev1.Toleration{long}},
		"other effects":  {[]corev1.Toleration{exists("a", "NoSchedule"), exists("a", "NoExecute")}, []corev1.Toleration{exists("a", "NoSchedule"), exists("a", "NoExecute")}},
		"different keys": {[]corev1.Toleration{exists("a", ""), exists("b", "")}, []corev1.Toleration{exists("a", ""), exists("b", "")}},
	} {
		if got := mergeTolerations(c.all); fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func signingRequest(t *testing.T, signer, name string, groups ...string) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name, Organization: groups}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return &certificatesv1.CertificateSigningRequest{ObjectMeta: meta("", "csr"), Spec: certificatesv1.CertificateSigningRequestSpec{
		SignerName: signer, Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})}}
}

func TestCertificateSigning(t *testing.T) {
	csr := signingRequest(t, "example.com/s", "x")
	signed := csr.DeepCopy()
	signed.Status.Certificate = []byte("x")
	for _, c := range []struct {
		name            string
		rights          rights
		approve, signed string
	}{
		{"nothing", nil, `user not permitted to approve requests with signerName "example.com/s"`, `user not permitted to sign requests with signerName "example.com/s"`},
		{"by name", rights{"approve signers=example.com/s", "sign signers=example.com/s"}, "", ""},
		{"by domain", rights{"approve signers=example.com/*", "sign signers=example.com/*"}, "", ""},
		{"another", rights{"approve signers=example.com/t", "sign signers=other/*"}, "not permitted", "not permitted"},
	} {
		p := &signerPlugin{c.rights}
		check(t, c.name, p.validateApproval(t.Context(), subresource(write(csr, csr), "approval")), c.approve)
		check(t, c.name, p.validateSigning(t.Context(), subresource(write(signed, csr), "status")), c.signed)
		check(t, c.name+", unchanged", p.validateSigning(t.Context(), subresource(write(csr, csr), "status")), "")
	}
	const apiserver = certificatesv1.KubeAPIServerClientSignerName
	check(t, "masters", validateCertificateSubject(t.Context(), write(signingRequest(t, apiserver, "x", "system:masters"), nil)),
		"use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed")
	check(t, "others", validateCertificateSubject(t.Context(), write(signingRequest(t, apiserver, "x", "g"), nil)), "")
	check(t, "another signer", validateCertificateSubject(t.Context(), write(signingRequest(t, "example.com/s", "x", "system:masters"), nil)), "")
	broken := signingRequest(t, apiserver, "x")
	broken.Spec.Request = []byte("x")
	check(t, "broken", validateCertificateSubject(t.Context(), write(broken, nil)), "failed to parse CSR")
}

func TestTopologyLabels(t *testing.T) {
	node := &corev1.Node{ObjectMeta: meta("", "n")}
	node.Labels = map[string]string{corev1.LabelTopologyZone: "z", "other": "x"}
	p := &topologyLabelsPlugin{lookup.NewFake(node)}
	pod := &corev1.Pod{ObjectMeta: meta("ns", "p")}
	binding := &corev1.Binding{ObjectMeta: meta("ns", "p"), Target: corev1.ObjectReference{Kind: "Node", Name: "n"}}
	attrs := write(pod, nil)
	attrs.Object, attrs.Subresource = binding, "binding"
	if err := p.mutate(t.Context(), attrs); err != nil || len(binding.Labels) != 1 || binding.Labels[corev1.LabelTopologyZone] != "z" {
		t.Error(binding.Labels, err)
	}
	pod.Spec.NodeName, pod.Labels = "n", map[string]string{corev1.LabelTopologyZone: "lie"}
	if err := p.mutate(t.Context(), write(pod, nil)); err != nil || pod.Labels[corev1.LabelTopologyZone] != "z" {
		t.Error(pod.Labels, err)
	}
	pod.Spec.NodeName = "gone"
	check(t, "missing node", p.mutate(t.Context(), write(pod, nil)), "")
}

func TestPodSecurity(t *testing.T) {
	strict := &corev1.Namespace{ObjectMeta: meta("", "strict")}
	strict.Labels = map[string]string{"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/warn": "restricted"}
	p, err := newPodSecurity(lookup.NewFake(append(namespaceObjects(), strict)...))
	if err != nil {
		t.Fatal(err)
	}
	yes := true
	pod := func(namespace string, privileged bool) *corev1.Pod {
		pod := &corev1.Pod{ObjectMeta: meta(namespace, "p"), Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
		if privileged {
			pod.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: &yes}
		}
		return pod
	}
	var warnings []string
	attempt := func(attrs *request.Attributes) error {
		warnings = nil
		attrs.Warn = func(text string) { warnings = append(warnings, text) }
		return p.validate(t.Context(), attrs)
	}
	check(t, "privileged anywhere", attempt(write(pod("ns", true), nil)), "")
	check(t, "privileged in strict", attempt(write(pod("strict", true), nil)),
		`pods "p" is forbidden: violates PodSecurity "baseline:latest": privileged (container "c" must not set securityContext.privileged=true)`)
	check(t, "plain in strict", attempt(write(pod("strict", false), nil)), "")
	if len(warnings) != 1 || !strings.Contains(warnings[0], `would violate PodSecurity "restricted:latest"`) {
		t.Error(warnings)
	}
	bad := strict.DeepCopy()
	bad.Labels["pod-security.kubernetes.io/enforce"] = "lax"
	check(t, "bad label", attempt(write(bad, nil)), "must be one of privileged, baseline, restricted")
	check(t, "config map", attempt(write(&corev1.ConfigMap{ObjectMeta: meta("strict", "c")}, nil)), "")
}

func TestLimitRanger(t *testing.T) {
	list := func(text string) corev1.ResourceList { // cpu=1,memory=2
		if text == "" {
			return nil
		}
		out := corev1.ResourceList{}
		for _, part := range strings.Split(text, ",") {
			name, value, _ := strings.Cut(part, "=")
			out[corev1.ResourceName(name)] = resource.MustParse(value)
		}
		return out
	}
	item := func(kind corev1.LimitType, min, max, ratio string) corev1.LimitRangeItem {
		return corev1.LimitRangeItem{Type: kind, Min: list(min), Max: list(max), MaxLimitRequestRatio: list(ratio)}
	}
	pod := func(requests, limits string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: meta("ns", "p"), Spec: corev1.PodSpec{Containers: []corev1.Container{
			{Name: "c", Resources: corev1.ResourceRequirements{Requests: list(requests), Limits: list(limits)}},
			{Name: "d", Resources: corev1.ResourceRequirements{Requests: list(requests), Limits: list(limits)}},
		}}}
	}
	for _, c := range []struct {
		name string
		item corev1.LimitRangeItem
		pod  *corev1.Pod
		want string
	}{
		{"inside", item("Container", "cpu=100m", "cpu=1", "cpu=4"), pod("cpu=200m", "cpu=800m"), ""},
		{"no request", item("Container", "cpu=100m", "", ""), pod("", ""), "minimum cpu usage per Container is 100m.  No request is specified"},
		{"too little", item("Container", "cpu=100m", "", ""), pod("cpu=99m", ""), "minimum cpu usage per Container is 100m, but request is 99m"},
		{"too little limit", item("Container", "cpu=100m", "", ""), pod("cpu=100m", "cpu=99m"), "minimum cpu usage per Container is 100m, but limit is 99m"},
		{"too much requested", item("Container", "", "cpu=1", ""), pod("cpu=2", "cpu=1"), "maximum cpu usage per Container is 1, but request is 2"},
		{"no limit", item("Container", "", "cpu=1", ""), pod("cpu=99m", ""), "maximum cpu usage per Container is 1.  No limit is specified"},
		{"too much", item("Container", "", "cpu=1", ""), pod("", "cpu=1100m"), "maximum cpu usage per Container is 1, but limit is 1100m"},
		{"too far apart", item("Container", "", "", "cpu=4"), pod("cpu=100m", "cpu=500m"), "cpu max limit to request ratio per Container is 4, but provided ratio is 5.000000"},
		{"ratio of nothing", item("Container", "", "", "cpu=4"), pod("", "cpu=500m"), "but no request is specified or request is 0"},
		{"the whole pod", item("Pod", "", "memory=1Gi", ""), pod("", "memory=600Mi"), "maximum memory usage per Pod is 1Gi, but limit is 1200Mi"},
		{"the pod's containers together", item("Pod", "", "memory=2Gi", ""), pod("", "memory=600Mi"), ""},
	} {
		p := &limitRangerPlugin{lookup.NewFake(&corev1.LimitRange{ObjectMeta: meta("ns", "l"), Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{c.item}}})}
		check(t, c.name, p.validate(t.Context(), write(c.pod, nil)), c.want)
		check(t, c.name+", update", p.validate(t.Context(), write(c.pod, c.pod)), "")
		check(t, c.name+", resize", p.validate(t.Context(), subresource(write(c.pod, c.pod), "resize")), c.want)
	}

	p := &limitRangerPlugin{lookup.NewFake(&corev1.LimitRange{ObjectMeta: meta("ns", "l"), Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{
		{Type: "Container", Default: list("cpu=1,memory=1Gi"), DefaultRequest: list("cpu=500m")},
		{Type: "PersistentVolumeClaim", Min: list("storage=1Gi"), Max: list("storage=2Gi")},
	}}})}
	given := pod("", "cpu=2")
	check(t, "defaults", p.mutate(t.Context(), write(given, nil)), "")
	resources := given.Spec.Containers[1].Resources
	if resources.Requests.Cpu().String() != "500m" || resources.Limits.Cpu().String() != "2" || resources.Limits.Memory().String() != "1Gi" {
		t.Error(resources)
	}
	if got := given.Annotations["kubernetes.io/limit-ranger"]; got != "LimitRanger plugin set: cpu request for container c; memory limit for container c; cpu request for container d; memory limit for container d" {
		t.Error(got)
	}
	claim := func(size string) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{ObjectMeta: meta("ns", "c"), Spec: corev1.PersistentVolumeClaimSpec{Resources: corev1.VolumeResourceRequirements{Requests: list(size)}}}
	}
	check(t, "small claim", p.validate(t.Context(), write(claim("storage=500Mi"), nil)), "minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 500Mi")
	check(t, "large claim", p.validate(t.Context(), write(claim("storage=3Gi"), nil)), "maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi")
	check(t, "good claim", p.validate(t.Context(), write(claim("storage=2Gi"), nil)), "")
	going := claim("storage=3Gi")
	going.DeletionTimestamp = &metav1.Time{}
	check(t, "claim that goes", p.validate(t.Context(), write(claim("storage=3Gi"), going)), "")
}
