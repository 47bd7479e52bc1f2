package quota

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/pkg/api"
)

var now = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// list reads "cpu=1 memory=2Gi".
func list(text string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for _, pair := range strings.Fields(text) {
		name, amount, _ := strings.Cut(pair, "=")
		l[corev1.ResourceName(name)] = resource.MustParse(amount)
	}
	return l
}

func text(l corev1.ResourceList) string {
	return strings.ReplaceAll(show(l, slices.Sorted(maps.Keys(l))), ",", " ")
}

func pod(requests, limits string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n"}, Spec: corev1.PodSpec{Containers: []corev1.Container{
		{Name: "c", Resources: corev1.ResourceRequirements{Requests: list(requests), Limits: list(limits)}},
	}}}
	for _, c := range change {
		c(p)
	}
	return p
}

func phase(f corev1.PodPhase) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Status.Phase = f } }
func class(name string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.PriorityClassName = name }
}
func deadline(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = new(int64(5)) }

func deleted(ago time.Duration) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.DeletionTimestamp, p.DeletionGracePeriodSeconds = new(metav1.NewTime(now.Add(-ago))), new(int64(30))
	}
}

func service(kind corev1.ServiceType, ports ...int32) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: corev1.ServiceSpec{Type: kind}}
	for _, p := range ports {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{NodePort: p})
	}
	return s
}

func claim(size, class string, change ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "c"}}
	c.Spec.Resources.Requests = list("storage=" + size)
	if class != "" {
		c.Spec.StorageClassName = &class
	}
	for _, f := range change {
		f(c)
	}
	return c
}

func TestUsage(t *testing.T) {
	unallocated := service("LoadBalancer", 0, 31000)
	unallocated.Spec.AllocateLoadBalancerNodePorts = new(false)
	wholePod := pod("cpu=1", "", func(p *corev1.Pod) { p.Spec.Resources = &corev1.ResourceRequirements{Requests: list("cpu=3")} })
	const ended = "count/pods=1"
	for _, c := range []struct {
		of   schema.GroupResource
		obj  api.Object
		want string
	}{
		{pods, pod("cpu=1 memory=1Gi", "cpu=2"), "count/pods=1 cpu=1 limits.cpu=2 memory=1Gi pods=1 requests.cpu=1 requests.memory=1Gi"},
		{pods, pod("ephemeral-storage=1 hugepages-2Mi=4Mi example.com/gpu=2", "hugepages-2Mi=4Mi example.com/gpu=2"),
			"count/pods=1 ephemeral-storage=1 hugepages-2Mi=4Mi pods=1 requests.ephemeral-storage=1 requests.example.com/gpu=2 requests.hugepages-2Mi=4Mi"},
		{pods, wholePod, "count/pods=1 cpu=3 pods=1 requests.cpu=3"},
		{pods, pod("cpu=1", "", phase(corev1.PodSucceeded)), ended},
		{pods, pod("cpu=1", "", phase(corev1.PodFailed)), ended},
		{pods, pod("", "", deleted(29*time.Second)), "count/pods=1 pods=1"},
		{pods, pod("", "", deleted(31*time.Second)), ended},
		{services, service("ClusterIP", 0), "count/services=1 services=1 services.loadbalancers=0 services.nodeports=0"},
		{services, service("NodePort", 0, 0), "count/services=1 services=1 services.loadbalancers=0 services.nodeports=2"},
		{services, service("LoadBalancer", 0, 0), "count/services=1 services=1 services.loadbalancers=1 services.nodeports=2"},
		{services, unallocated, "count/services=1 services=1 services.loadbalancers=1 services.nodeports=1"},
		{claims, claim("1500m", ""), "count/persistentvolumeclaims=1 persistentvolumeclaims=1 requests.storage=2"},
		{claims, claim("1Gi", "gold", func(c *corev1.PersistentVolumeClaim) { c.Status.AllocatedResources = list("storage=2Gi") }),
			"count/persistentvolumeclaims=1 gold.storageclass.storage.k8s.io/persistentvolumeclaims=1 gold.storageclass.storage.k8s.io/requests.storage=2Gi persistentvolumeclaims=1 requests.storage=2Gi"},
		{devices, &resourcev1.ResourceClaim{Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{
			{Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu", AllocationMode: "ExactCount", Count: 2}},
			{FirstAvailable: []resourcev1.DeviceSubRequest{{DeviceClassName: "gpu", AllocationMode: "ExactCount", Count: 3}, {DeviceClassName: "gpu", AllocationMode: "ExactCount", Count: 1}}},
			{Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "nic", AllocationMode: "All"}},
		}}}}, "count/resourceclaims.resource.k8s.io=1 gpu.deviceclass.resource.k8s.io/devices=5 nic.deviceclass.resource.k8s.io/devices=32"},
		{schema.GroupResource{Resource: "secrets"}, &corev1.Secret{}, "count/secrets=1 secrets=1"},
		{schema.GroupResource{Group: "example.com", Resource: "widgets"}, &corev1.Secret{}, "count/widgets.example.com=1"},
	} {
		got := Usage(c.of, c.obj, now)
		if text(got) != c.want {
			t.Errorf("%s: got %s\nwant %s", c.of, text(got), c.want)
		}
		for name := range got { // what an object uses, its resource must be looked at for
			if of, ok := Resource(name); !ok || of != c.of {
				t.Errorf("%s counts towards %s, not %s", name, of, c.of)
			}
		}
	}
}

func TestResource(t *testing.T) {
	for name, want := range map[corev1.ResourceName]string{
		"count/deployments.apps": "deployments.apps", "configmaps": "configmaps", "limits.memory": "pods", "requests.storage": "persistentvolumeclaims",
		"a.b.storageclass.storage.k8s.io/requests.storage": "persistentvolumeclaims", "requests.hugepages-1Gi": "pods",
		"requests.deviceclass.resource.kubernetes.io/gpu": "pods", "requests.kubernetes.io/x": "", "example.com/gpu": "",
		"count/events": "", "count/events.events.k8s.io": "", "storage": "", "limits.example.com/gpu": "",
	} {
		got, ok := Resource(name)
		if ok != (want != "") || ok && got.String() != want {
			t.Errorf("%s: %s %v, want %q", name, got, ok, want)
		}
	}
}

func quotaOf(name, hard, used string, scopes ...corev1.ScopedResourceSelectorRequirement) *corev1.ResourceQuota {
	q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: name}}
	q.Spec.Hard, q.Status.Hard, q.Status.Used = list(hard), list(hard), list(used)
	if len(scopes) > 0 {
		q.Spec.ScopeSelector = &corev1.ScopeSelector{MatchExpressions: scopes}
	}
	return q
}

func scope(name corev1.ResourceQuotaScope, operator corev1.ScopeSelectorOperator, values ...string) corev1.ScopedResourceSelectorRequirement {
	return corev1.ScopedResourceSelectorRequirement{ScopeName: name, Operator: operator, Values: values}
}

func TestScopes(t *testing.T) {
	far := pod("", "", func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{
			{PodAffinityTerm: corev1.PodAffinityTerm{Namespaces: []string{"other"}}},
		}}}
	})
	modified := claim("1", "", func(c *corev1.PersistentVolumeClaim) {
		c.Spec.VolumeAttributesClassName, c.Status.CurrentVolumeAttributesClassName = new("fast"), new("slow")
	})
	const exists = corev1.ScopeSelectorOpExists
	for _, c := range []struct {
		of   schema.GroupResource
		obj  api.Object
		in   corev1.ScopedResourceSelectorRequirement
		want bool
	}{
		{pods, pod("", "", deadline), scope("Terminating", exists), true},
		{pods, pod("", ""), scope("Terminating", exists), false},
		{pods, pod("", ""), scope("NotTerminating", exists), true},
		{pods, pod("", ""), scope("BestEffort", exists), true},
		{pods, pod("cpu=1", ""), scope("BestEffort", exists), false},
		{pods, pod("cpu=1", ""), scope("NotBestEffort", exists), true},
		{pods, far, scope("CrossNamespacePodAffinity", exists), true},
		{pods, pod("", ""), scope("CrossNamespacePodAffinity", exists), false},
		{pods, pod("", "", class("high")), scope("PriorityClass", exists), true},
		{pods, pod("", ""), scope("PriorityClass", exists), false},
		{pods, pod("", ""), scope("PriorityClass", "DoesNotExist"), true},
		{pods, pod("", "", class("high")), scope("PriorityClass", "In", "low", "high"), true},
		{pods, pod("", "", class("high")), scope("PriorityClass", "NotIn", "high"), false},
		{pods, pod("", ""), scope("PriorityClass", "NotIn", "high"), true},
		{pods, pod("", ""), scope("VolumeAttributesClass", exists), false},
		{claims, modified, scope("VolumeAttributesClass", exists), true},
		{claims, modified, scope("VolumeAttributesClass", "In", "slow"), true},
		{claims, modified, scope("VolumeAttributesClass", "NotIn", "fast"), true},
		{claims, claim("1", ""), scope("VolumeAttributesClass", "In", "fast"), false},
		{claims, claim("1", ""), scope("PriorityClass", exists), false},
		{services, service("ClusterIP"), scope("BestEffort", exists), false},
	} {
		if got := inScope(quotaOf("q", "pods=1", "", c.in), c.of, c.obj); got != c.want {
			t.Errorf("%s %+v: %v", c.of, c.in, got)
		}
	}
}

func TestPlan(t *testing.T) {
	all := func(q ...*corev1.ResourceQuota) []*corev1.ResourceQuota { return q }
	two := pod("cpu=1", "")
	two.Spec.InitContainers = []corev1.Container{{Name: "i"}}
	resized := pod("cpu=3", "")
	for name, c := range map[string]struct {
		quotas []*corev1.ResourceQuota
		write  Write
		want   string
	}{
		"fits":       {all(quotaOf("a", "pods=2 cpu=2 secrets=1", "pods=1 cpu=500m secrets=1")), Write{Resource: pods, Object: pod("cpu=1", "")}, "a: cpu=1500m pods=2 secrets=1"},
		"both":       {all(quotaOf("a", "pods=2", "pods=1"), quotaOf("b", "count/pods=9", "count/pods=3")), Write{Resource: pods, Object: pod("", "")}, "a: pods=2; b: count/pods=4"},
		"not theirs": {all(quotaOf("a", "secrets=0", "secrets=0")), Write{Resource: pods, Object: pod("", "")}, ""},
		"full": {all(quotaOf("a", "pods=1 cpu=1 memory=1", "pods=1 cpu=500m memory=0")), Write{Resource: pods, Object: pod("cpu=1 memory=1", "")},
			"exceeded quota: a, requested: cpu=1,pods=1, used: cpu=500m,pods=1, limited: cpu=1,pods=1"},
		"already over":  {all(quotaOf("a", "pods=9 cpu=1", "pods=1 cpu=2")), Write{Resource: pods, Object: pod("cpu=0", "")}, "a: cpu=2 pods=2"},
		"unknown":       {all(quotaOf("a", "pods=1 cpu=1", "pods=0")), Write{Resource: pods, Object: pod("cpu=1", "")}, "status unknown for quota: a, resources: cpu,pods"},
		"unspecified":   {all(quotaOf("a", "limits.cpu=1 cpu=2", "")), Write{Resource: pods, Object: two}, "failed quota: a: must specify cpu for: i; limits.cpu for: c,i"},
		"out of scope":  {all(quotaOf("a", "pods=0", "pods=0", scope("Terminating", "Exists"))), Write{Resource: pods, Object: pod("", "")}, ""},
		"resize":        {all(quotaOf("a", "cpu=9", "cpu=1")), Write{Resource: pods, Subresource: "resize", Object: resized, Old: pod("cpu=1", "")}, "a: cpu=3"},
		"shrink":        {all(quotaOf("a", "cpu=9", "cpu=3")), Write{Resource: pods, Subresource: "resize", Object: pod("cpu=1", ""), Old: resized}, ""},
		"into scope":    {all(quotaOf("a", "pods=1", "pods=0", scope("Terminating", "Exists"))), Write{Resource: pods, Object: pod("", "", deadline), Old: pod("", "")}, "a: pods=1"},
		"growth":        {all(quotaOf("a", "requests.storage=2Gi persistentvolumeclaims=1", "requests.storage=1Gi persistentvolumeclaims=1")), Write{Resource: claims, Object: claim("2Gi", ""), Old: claim("1Gi", "")}, "a: persistentvolumeclaims=1 requests.storage=2Gi"},
		"status grew":   {all(quotaOf("a", "requests.storage=1", "requests.storage=1")), Write{Resource: claims, Subresource: "status", Object: claim("2", ""), Old: claim("1", "")}, "a: requests.storage=2"},
		"negative":      {nil, Write{Resource: pods, Object: pod("cpu=-1", "")}, "quota usage is negative for resource(s): cpu,requests.cpu"},
		"another's sum": {all(quotaOf("a", "services.nodeports=1", "services.nodeports=0")), Write{Resource: services, Object: service("ClusterIP", 0)}, ""},
	} {
		c.write.Now = now
		charges, err := Plan(c.quotas, c.write)
		var parts []string
		for _, charge := range charges {
			parts = append(parts, charge.Quota.Name+": "+text(charge.Used))
		}
		got := strings.Join(parts, "; ")
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: got %q\nwant %q", name, got, c.want)
		}
	}
}

func TestMatters(t *testing.T) {
	widgets := schema.GroupResource{Group: "example.com", Resource: "widgets"}
	for want, writes := range map[bool][]Write{
		true: {
			{Resource: pods}, {Resource: widgets}, {Resource: pods, Subresource: "resize", Object: pod("", ""), Old: pod("", "")},
			{Resource: pods, Object: pod("", "", deadline), Old: pod("", "")}, {Resource: services, Old: service("ClusterIP")}, {Resource: claims, Subresource: "status", Old: claim("1", "")},
		},
		false: {
			{Resource: schema.GroupResource{Resource: "events"}}, {Resource: pods, Subresource: "binding"}, {Resource: widgets, Old: &corev1.Secret{}},
			{Resource: pods, Object: pod("", ""), Old: pod("", "")}, {Resource: pods, Subresource: "status", Object: pod("", ""), Old: pod("", "")}, {Resource: services, Subresource: "status", Old: service("ClusterIP")},
		},
	} {
		for _, w := range writes {
			if w.Matters() != want {
				t.Errorf("%s/%s: %v", w.Resource, w.Subresource, !want)
			}
		}
	}
}

func TestSum(t *testing.T) {
	q := quotaOf("q", "pods=9 count/pods=9 cpu=9 secrets=9 count/secrets=9", "")
	content := Content{Resource: pods, Objects: []api.Object{pod("cpu=1", ""), pod("cpu=2", "", phase(corev1.PodFailed)), pod("cpu=500m", "")}}
	if got := text(Sum(q, content, now)); got != "count/pods=3 cpu=1500m pods=2" {
		t.Error(got)
	}
	secrets := Content{Resource: schema.GroupResource{Resource: "secrets"}, Number: 4}
	if got := text(Sum(q, secrets, now)); got != "count/secrets=4 secrets=4" {
		t.Error(got)
	}
	q.Spec.Scopes = []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeBestEffort}
	if got := fmt.Sprint(text(Sum(q, content, now)), " ", text(Sum(q, secrets, now))); got != "count/pods=0 cpu=0 pods=0 count/secrets=0 secrets=0" {
		t.Error(got)
	}
}
