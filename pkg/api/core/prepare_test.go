package core

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var ctx = context.Background()

func TestQOSClass(t *testing.T) {
	for _, c := range []struct {
		name, spec string
		want       corev1.PodQOSClass
	}{
		{"nothing asked for", "{containers: [{name: a}]}", corev1.PodQOSBestEffort},
		{"zero is nothing", "{containers: [{name: a, resources: {requests: {cpu: 0}}}]}", corev1.PodQOSBestEffort},
		{"other resources don't count", "{containers: [{name: a, resources: {requests: {ephemeral-storage: 1Gi}}}]}", corev1.PodQOSBestEffort},
		{"all limited", "{containers: [{name: a, resources: {requests: {cpu: 1, memory: 1Gi}, limits: {cpu: 1000m, memory: 1Gi}}}]}", corev1.PodQOSGuaranteed},
		{"request below limit", "{containers: [{name: a, resources: {requests: {cpu: 1, memory: 1Gi}, limits: {cpu: 2, memory: 1Gi}}}]}", corev1.PodQOSBurstable},
		{"no memory limit", "{containers: [{name: a, resources: {requests: {cpu: 1}, limits: {cpu: 1}}}]}", corev1.PodQOSBurstable},
		{"one container without", "{containers: [{name: a, resources: {requests: {cpu: 1, memory: 1}, limits: {cpu: 1, memory: 1}}}, {name: b}]}", corev1.PodQOSBurstable},
		{"init container without", "{initContainers: [{name: i}], containers: [{name: a, resources: {requests: {cpu: 1, memory: 1}, limits: {cpu: 1, memory: 1}}}]}", corev1.PodQOSBurstable},
		{"the pod's own", "{resources: {requests: {cpu: 1, memory: 1}, limits: {cpu: 1, memory: 1}}, containers: [{name: a}]}", corev1.PodQOSGuaranteed},
		{"the pod's own, in part", "{resources: {requests: {cpu: 1}, limits: {cpu: 1}}, containers: [{name: a}]}", corev1.PodQOSBurstable},
	} {
		if got := QOSClass(fromYAML[corev1.Pod](t, "spec: "+c.spec)); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestPodCreate(t *testing.T) {
	pod := fromYAML[corev1.Pod](t, `
metadata:
  labels: {app: a}
  annotations: {container.apparmor.security.beta.kubernetes.io/a: localhost/strict, container.apparmor.security.beta.kubernetes.io/b: nonsense}
spec:
  schedulingGates: [{name: g}]
  containers: [{name: a}, {name: b}]
  topologySpreadConstraints: [{maxSkew: 1, topologyKey: z, whenUnsatisfiable: DoNotSchedule, labelSelector: {}, matchLabelKeys: [app, missing]}]
  affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: z, labelSelector: {}, mismatchLabelKeys: [app]}, {topologyKey: z, matchLabelKeys: [app]}]}}
status: {phase: Running, podIP: 1.2.3.4}`)
	podKind().PrepareCreate(ctx, pod)
	if pod.Generation != 1 || pod.Status.Phase != corev1.PodPending || pod.Status.PodIP != "" || pod.Status.QOSClass != corev1.PodQOSBestEffort {
		t.Errorf("generation %d, status %+v", pod.Generation, pod.Status)
	}
	if c := pod.Status.Conditions; len(c) != 1 || c[0].Type != corev1.PodScheduled || c[0].Reason != "SchedulingGated" {
		t.Errorf("conditions %+v", c)
	}
	in := []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOpIn, Values: []string{"a"}}}
	if got := pod.Spec.TopologySpreadConstraints[0].LabelSelector.MatchExpressions; !equality.Semantic.DeepEqual(got, in) {
		t.Errorf("spread selects %+v", got)
	}
	terms := pod.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	if got := terms[0].LabelSelector.MatchExpressions; len(got) != 1 || got[0].Operator != metav1.LabelSelectorOpNotIn {
		t.Errorf("anti-affinity selects %+v", got)
	}
	if terms[1].LabelSelector != nil {
		t.Error("a nil selector, which matches nothing, became one that matches")
	}
	if p := pod.Spec.Containers[0].SecurityContext.AppArmorProfile; p.Type != corev1.AppArmorProfileTypeLocalhost || *p.LocalhostProfile != "strict" {
		t.Errorf("profile %+v", p)
	}
	if pod.Spec.Containers[1].SecurityContext != nil {
		t.Error("a meaningless annotation became a profile")
	}
}

func TestPodUpdates(t *testing.T) {
	kind := podKind()
	old := fromYAML[corev1.Pod](t, `
metadata: {name: p, generation: 3, labels: {a: b}, ownerReferences: [{name: rs}]}
spec: {containers: [{name: a, image: one, resources: {requests: {cpu: 1}}}]}
status: {phase: Running, qosClass: Burstable, observedGeneration: 2, conditions: [{type: Ready, status: "True", observedGeneration: 2}]}`)
	change := func(text string) *corev1.Pod {
		p := old.DeepCopy()
		p.Spec, p.Status, p.Labels, p.OwnerReferences = corev1.PodSpec{}, corev1.PodStatus{}, map[string]string{"new": "label"}, nil
		from := fromYAML[corev1.Pod](t, text)
		p.Spec, p.Status = from.Spec, from.Status
		return p
	}

	t.Run("main", func(t *testing.T) {
		p := change("spec: {containers: [{name: a, image: two}]}\nstatus: {phase: Failed}")
		kind.PrepareUpdate(ctx, p, old)
		if p.Generation != 4 || p.Status.Phase != corev1.PodRunning || p.Spec.Containers[0].Image != "two" || p.Labels["new"] == "" {
			t.Errorf("%+v", p)
		}
	})
	t.Run("status", func(t *testing.T) {
		p := change("spec: {containers: [{name: a, image: two}]}\nstatus: {phase: Failed, conditions: [{type: Ready, status: 'False'}]}")
		kind.Subresources["status"].PrepareForUpdate(ctx, p, old)
		s := p.Status
		if s.Phase != corev1.PodFailed || s.QOSClass != corev1.PodQOSBurstable || s.ObservedGeneration != 2 || s.Conditions[0].ObservedGeneration != 2 {
			t.Errorf("status %+v", s)
		}
		if p.Generation != 3 || p.Spec.Containers[0].Image != "one" || len(p.OwnerReferences) != 1 {
			t.Errorf("more than status changed: %+v", p)
		}
	})
	t.Run("ephemeralcontainers", func(t *testing.T) {
		p := change("spec: {containers: [{name: a, image: two}], ephemeralContainers: [{name: debug}]}\nstatus: {phase: Failed}")
		kind.Subresources["ephemeralcontainers"].PrepareForUpdate(ctx, p, old)
		if p.Generation != 4 || p.Spec.Containers[0].Image != "one" || len(p.Spec.EphemeralContainers) != 1 || p.Status.Phase != corev1.PodRunning || p.Labels["new"] != "" {
			t.Errorf("%+v", p)
		}
	})
	t.Run("resize", func(t *testing.T) {
		p := change("spec: {nodeName: n, containers: [{name: a, image: two, resources: {requests: {cpu: 2}}}]}")
		kind.Subresources["resize"].PrepareForUpdate(ctx, p, old)
		if q := p.Spec.Containers[0].Resources.Requests.Cpu(); p.Generation != 4 || q.Value() != 2 || p.Spec.Containers[0].Image != "one" || p.Spec.NodeName != "" {
			t.Errorf("%+v", p)
		}
		if q := old.Spec.Containers[0].Resources.Requests.Cpu(); q.Value() != 1 {
			t.Error("the stored pod was changed")
		}
	})
	t.Run("resize of another container", func(t *testing.T) {
		p := change("spec: {containers: [{name: b}]}")
		kind.Subresources["resize"].PrepareForUpdate(ctx, p, old)
		if p.Spec.Containers[0].Name != "b" {
			t.Error("validation wouldn't see that a container was renamed")
		}
	})
}

func TestPodGraceSeconds(t *testing.T) {
	seconds := func(n int64) *metav1.DeleteOptions { return &metav1.DeleteOptions{GracePeriodSeconds: &n} }
	for _, c := range []struct {
		name, pod string
		options   *metav1.DeleteOptions
		want      int64
	}{
		{"the pod's", "spec: {nodeName: n, terminationGracePeriodSeconds: 30}", nil, 30},
		{"the request's", "spec: {nodeName: n, terminationGracePeriodSeconds: 30}", seconds(5), 5},
		{"forced", "spec: {nodeName: n, terminationGracePeriodSeconds: 30}", seconds(0), 0},
		{"negative", "spec: {nodeName: n}", seconds(-1), 1},
		{"on no node", "spec: {terminationGracePeriodSeconds: 30}", seconds(5), 0},
		{"ended", "spec: {nodeName: n, terminationGracePeriodSeconds: 30}\nstatus: {phase: Succeeded}", nil, 0},
	} {
		if got := podGraceSeconds(fromYAML[corev1.Pod](t, c.pod), c.options); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

func TestServiceUpdate(t *testing.T) {
	const clusterIP = "{type: ClusterIP, clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ipFamilies: [IPv4], ports: [{name: a, port: 80}]}"
	const nodePort = "{type: NodePort, clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], externalTrafficPolicy: Cluster, ports: [{name: a, port: 80, nodePort: 30001}, {name: b, port: 81, nodePort: 30002}]}"
	for _, c := range []struct{ name, old, new, want string }{
		{"what was allocated and left out stays", nodePort, "{type: NodePort, externalTrafficPolicy: Cluster, ports: [{name: b, port: 81}, {name: a, port: 8080}]}",
			"{type: NodePort, clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], externalTrafficPolicy: Cluster, ports: [{name: b, port: 81, nodePort: 30002}, {name: a, port: 8080, nodePort: 30001}]}"},
		{"a port given to another isn't given out again", nodePort, "{type: NodePort, clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ports: [{name: a, port: 80}, {name: c, port: 82, nodePort: 30001}]}",
			"{type: NodePort, clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ports: [{name: a, port: 80}, {name: c, port: 82, nodePort: 30001}]}"},
		{"to ClusterIP, written back", nodePort, "{type: ClusterIP, clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], externalTrafficPolicy: Cluster, ports: [{name: a, port: 80, nodePort: 30001}]}",
			"{type: ClusterIP, clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ports: [{name: a, port: 80}]}"},
		{"to ClusterIP with a node port of one's own", nodePort, "{type: ClusterIP, clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ports: [{name: a, port: 80, nodePort: 30009}]}",
			"{type: ClusterIP, clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ports: [{name: a, port: 80, nodePort: 30009}]}"},
		{"to ExternalName", clusterIP, "{type: ExternalName, externalName: x, clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ipFamilies: [IPv4]}", "{type: ExternalName, externalName: x}"},
		{"another address, the list written back", clusterIP, "{type: ClusterIP, clusterIP: 10.0.0.2, clusterIPs: [10.0.0.1], ipFamilies: [IPv4]}",
			"{type: ClusterIP, clusterIP: 10.0.0.2, clusterIPs: [10.0.0.2], ipFamilies: [IPv4]}"},
	} {
		load := func(spec string) *corev1.Service { return fromYAML[corev1.Service](t, "spec: "+spec) }
		got, want := load(c.new), load(c.want)
		serviceKind().PrepareUpdate(ctx, got, load(c.old))
		if !equality.Semantic.DeepEqual(got.Spec, want.Spec) {
			t.Errorf("%s:\ngot  %+v\nwant %+v", c.name, got.Spec, want.Spec)
		}
	}
}

func TestNamespaceLifecycle(t *testing.T) {
	kind := namespaceKind()
	n := &corev1.Namespace{}
	kind.Default(n)
	n.Name = "made-up" // generated after defaulting
	n.Status.Phase = corev1.NamespaceTerminating
	kind.PrepareCreate(ctx, n)
	if n.Labels[corev1.LabelMetadataName] != "made-up" || n.Status.Phase != corev1.NamespaceActive || len(n.Spec.Finalizers) != 1 {
		t.Errorf("created as %+v", n)
	}
	update := n.DeepCopy()
	update.Spec.Finalizers, update.Labels = nil, nil
	kind.PrepareUpdate(ctx, update, n)
	if len(update.Spec.Finalizers) != 1 || update.Labels[corev1.LabelMetadataName] != "made-up" {
		t.Errorf("updated to %+v", update)
	}
	final := n.DeepCopy()
	final.Spec.Finalizers, final.Status.Phase = nil, corev1.NamespaceTerminating
	kind.Subresources["finalize"].PrepareForUpdate(ctx, final, n)
	if len(final.Spec.Finalizers) != 0 || final.Status.Phase != corev1.NamespaceActive {
		t.Errorf("finalized as %+v", final)
	}
}

func TestNodesBringTheirStatus(t *testing.T) {
	n := fromYAML[corev1.Node](t, "spec: {configSource: {}}\nstatus: {phase: Running, config: {}}")
	nodeKind().PrepareCreate(ctx, n)
	if n.Status.Phase != corev1.NodeRunning || n.Status.Config != nil || n.Spec.ConfigSource != nil {
		t.Errorf("%+v", n)
	}
}

func TestClaimSources(t *testing.T) {
	for _, c := range []struct{ name, spec, want string }{
		{"an old client's claim", "{dataSource: {kind: PersistentVolumeClaim, name: a}}", "{dataSource: {kind: PersistentVolumeClaim, name: a}, dataSourceRef: {kind: PersistentVolumeClaim, name: a}}"},
		{"an old client's rubbish", "{dataSource: {kind: Pod, name: a}}", "{}"},
		{"any kind, by reference", "{dataSourceRef: {apiGroup: x, kind: Y, name: a}}", "{dataSource: {apiGroup: x, kind: Y, name: a}, dataSourceRef: {apiGroup: x, kind: Y, name: a}}"},
		{"in another namespace", "{dataSourceRef: {kind: PersistentVolumeClaim, name: a, namespace: b}}", "{dataSourceRef: {kind: PersistentVolumeClaim, name: a, namespace: b}}"},
	} {
		got := fromYAML[corev1.PersistentVolumeClaim](t, "spec: "+c.spec)
		want := fromYAML[corev1.PersistentVolumeClaim](t, "spec: "+c.want)
		persistentVolumeClaimKind().PrepareCreate(ctx, got)
		if !equality.Semantic.DeepEqual(got.Spec, want.Spec) || got.Status.Phase != corev1.ClaimPending {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}

func TestVolumePhaseTimes(t *testing.T) {
	status := persistentVolumeKind().Subresources["status"].PrepareForUpdate
	old := fromYAML[corev1.PersistentVolume](t, "status: {phase: Available, lastPhaseTransitionTime: '2024-01-01T00:00:00Z'}")
	same := fromYAML[corev1.PersistentVolume](t, "status: {phase: Available}")
	status(ctx, same, old)
	if !same.Status.LastPhaseTransitionTime.Equal(old.Status.LastPhaseTransitionTime) {
		t.Error("the time was lost")
	}
	bound := fromYAML[corev1.PersistentVolume](t, "status: {phase: Bound, lastPhaseTransitionTime: '2024-01-01T00:00:00Z'}")
	status(ctx, bound, old)
	if !bound.Status.LastPhaseTransitionTime.After(old.Status.LastPhaseTransitionTime.Time) {
		t.Error("a new phase has an old time")
	}
}

func TestScale(t *testing.T) {
	rc := fromYAML[corev1.ReplicationController](t, "spec: {replicas: 2, selector: {b: c, a: b}}\nstatus: {replicas: 1}")
	spec, status, selector := replicationControllerScale.Get(rc)
	if spec != 2 || status != 1 || selector != "a=b,b=c" {
		t.Errorf("%d, %d, %q", spec, status, selector)
	}
}
