package core

import (
	"context"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"skiff/pkg/api"
)

// valid is a minimal manifest of each kind, as a person would write it.
var valid = map[string]string{
	"Pod":                   "{metadata: {name: p, namespace: d}, spec: {serviceAccountName: default, containers: [{name: c, image: i}]}}",
	"Service":               "{metadata: {name: s, namespace: d}, spec: {selector: {a: b}, ports: [{port: 80}]}}",
	"Node":                  "{metadata: {name: n}}",
	"Namespace":             "{metadata: {name: n}}",
	"ConfigMap":             "{metadata: {name: m, namespace: d}, data: {a: b}}",
	"Secret":                "{metadata: {name: s, namespace: d}, data: {a: Yg==}}",
	"Endpoints":             "{metadata: {name: e, namespace: d}, subsets: [{addresses: [{ip: 10.0.0.1}], ports: [{port: 80}]}]}",
	"Event":                 "{metadata: {name: e, namespace: d}, involvedObject: {namespace: d}}",
	"ReplicationController": "{metadata: {name: r, namespace: d}, spec: {selector: {a: b}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}}",
	"PersistentVolumeClaim": "{metadata: {name: c, namespace: d}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}",
	"PersistentVolume":      "{metadata: {name: v}, spec: {accessModes: [ReadWriteOnce], capacity: {storage: 1Gi}, hostPath: {path: /x}}}",
	"ResourceQuota":         "{metadata: {name: q, namespace: d}, spec: {hard: {pods: 3}}}",
	"LimitRange":            "{metadata: {name: l, namespace: d}, spec: {limits: [{type: Container, max: {cpu: 1}}]}}",
	"Binding":               "{metadata: {name: p, namespace: d}, target: {kind: Node, name: n}}",
}

func rowOf(t *testing.T, kind string) *api.Kind {
	t.Helper()
	for _, k := range Kinds() {
		if k.Kind == kind {
			return k
		}
	}
	t.Fatal("no kind", kind)
	return nil
}

// object is the valid manifest of a kind with a merge of change, as it reaches validation.
func object(t *testing.T, kind, change string) api.Object {
	t.Helper()
	k := rowOf(t, kind)
	obj := k.New()
	var whole, patch map[string]any
	for text, into := range map[string]*map[string]any{valid[kind]: &whole, change: &patch} {
		if err := yaml.Unmarshal([]byte(text), into); err != nil {
			t.Fatal(err)
		}
	}
	merge(whole, patch)
	text, err := yaml.Marshal(whole)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(text, obj); err != nil {
		t.Fatal(err)
	}
	if k.Default != nil {
		k.Default(obj)
	}
	if !k.Virtual {
		k.PrepareCreate(context.Background(), obj)
	}
	return obj
}

// merge sets paths of the form "spec.containers.0.image".
func merge(into, patch map[string]any) {
	for path, v := range patch {
		set(into, strings.Split(path, "/"), v)
	}
}

func set(in any, path []string, v any) any {
	if len(path) == 0 {
		return v
	}
	switch m := in.(type) {
	case []any:
		if path[0] == "+" {
			return append(m, v)
		}
		i := int(path[0][0] - '0')
		m[i] = set(m[i], path[1:], v)
		return m
	case map[string]any:
		if v == nil && len(path) == 1 {
			delete(m, path[0])
			return m
		}
		m[path[0]] = set(m[path[0]], path[1:], v)
		return m
	default:
		return set(map[string]any{}, path, v)
	}
}

func check1(t *testing.T, errs field.ErrorList, want []string) {
	t.Helper()
	var got []string
	for _, e := range errs {
		got = append(got, e.Error())
	}
	if len(got) != len(want) {
		t.Fatalf("got %d errors:\n%s\nwant:\n%s", len(got), strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for i := range want {
		if !slices.ContainsFunc(got, func(g string) bool { return strings.HasPrefix(g, want[i]) }) {
			t.Errorf("missing %q in\n%s", want[i], strings.Join(got, "\n"))
		}
	}
}

func TestMinimalObjectsAreValid(t *testing.T) {
	for kind := range valid {
		k, obj := rowOf(t, kind), object(t, kind, "{}")
		if errs := k.Validate(obj); len(errs) > 0 {
			t.Errorf("%s: %v", kind, errs.ToAggregate())
		}
		if k.ValidateUpdate == nil {
			continue
		}
		if errs := k.ValidateUpdate(obj, obj.DeepCopyObject().(api.Object)); len(errs) > 0 {
			t.Errorf("%s unchanged: %v", kind, errs.ToAggregate())
		}
		for name, sub := range k.Subresources {
			if sub.ValidateUpdate != nil {
				if errs := sub.ValidateUpdate(obj, obj.DeepCopyObject().(api.Object)); len(errs) > 0 {
					t.Errorf("%s/%s unchanged: %v", kind, name, errs.ToAggregate())
				}
			}
		}
	}
}

func TestValidate(t *testing.T) {
	for _, c := range []struct {
		kind, change string
		want         []string
	}{
		{"Pod", "{spec/containers: []}", []string{"spec.containers: Required value"}},
		{"Pod", "{spec/containers/0/name: A_B}", []string{`spec.containers[0].name: Invalid value: "A_B": a lowercase RFC 1123 label`}},
		{"Pod", "{spec/containers/0/image: ''}", []string{"spec.containers[0].image: Required value"}},
		{"Pod", "{spec/containers/0/image: ' i'}", []string{`spec.containers[0].image: Invalid value: " i": must not have leading or trailing whitespace`}},
		{"Pod", "{spec/containers/0/imagePullPolicy: x}", []string{`spec.containers[0].imagePullPolicy: Unsupported value: "x": supported values: "Always", "IfNotPresent", "Never"`}},
		{"Pod", "{spec/containers/+: {name: c, image: i}}", []string{`spec.containers[1].name: Duplicate value: "c"`}},
		{"Pod", "{spec/restartPolicy: x}", []string{`spec.restartPolicy: Unsupported value: "x": supported values: "Always", "OnFailure", "Never"`}},
		{"Pod", "{spec/initContainers: [{name: c, image: i}]}", []string{`spec.initContainers[0].name: Duplicate value: "c"`}},
		{"Pod", "{spec/initContainers: [{name: x, image: i, livenessProbe: {exec: {command: [x]}}}]}", []string{"spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always"}},
		{"Pod", "{spec/containers/0/ports: [{containerPort: 70000}]}", []string{"spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive"}},
		{"Pod", "{spec/containers/0/env: [{name: ''}]}", []string{"spec.containers[0].env[0].name: Required value"}},
		{"Pod", "{spec/containers/0/env: [{name: a, value: b, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]}", []string{"spec.containers[0].env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty"}},
		{"Pod", "{spec/containers/0/env: [{name: a, valueFrom: {fieldRef: {fieldPath: x.y}}}]}", []string{`spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: "x.y": error converting fieldPath: field label not supported: x.y`}},
		{"Pod", "{spec/containers/0/volumeMounts: [{name: v, mountPath: /x}]}", []string{`spec.containers[0].volumeMounts[0].name: Not found: "v"`}},
		{"Pod", "{spec/containers/0/resources: {requests: {cpu: 2}, limits: {cpu: 1}}}", []string{`spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1`}},
		{"Pod", "{spec/containers/0/resources: {limits: {x: 1}}}", []string{
			`spec.containers[0].resources.limits[x]: Invalid value: "x": must be a standard resource type or fully qualified`, `spec.containers[0].resources.limits[x]: Invalid value: "x": must be a standard resource for containers`,
			`spec.containers[0].resources.requests[x]: Invalid value: "x": must be a standard resource type or fully qualified`, `spec.containers[0].resources.requests[x]: Invalid value: "x": must be a standard resource for containers`}},
		{"Pod", "{spec/containers/0/lifecycle: {stopSignal: SIGUSR1}}", []string{"spec.containers[0].lifecycle.stopSignal: Forbidden: may not be set: the feature ContainerStopSignals is not supported"}},
		{"Pod", "{spec/containers/0/livenessProbe: {exec: {command: [x]}, tcpSocket: {port: 1}}}", []string{"spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type"}},
		{"Pod", "{spec/containers/0/livenessProbe: {periodSeconds: 1}}", []string{"spec.containers[0].livenessProbe: Required value: must specify a handler type"}},
		{"Pod", "{spec/volumes: [{name: v}, {name: v, emptyDir: {}}]}", nil}, // an empty source defaults to emptyDir; see below
		{"Pod", "{spec/volumes: [{name: v, emptyDir: {}, hostPath: {path: /x}}]}", []string{"spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"}},
		{"Pod", "{spec/volumes: [{name: v, configMap: {name: m, items: [{key: a, path: ../b}]}}]}", []string{`spec.volumes[0].configMap.items[0].path: Invalid value: "../b": must not contain '..'`}},
		{"Pod", "{spec/tolerations: [{operator: Gt, key: a, value: '1'}]}", []string{`spec.tolerations[0].operator: Unsupported value: "Gt"`}},
		{"Pod", "{spec/hostNetwork: true, spec/containers/0/ports: [{containerPort: 80, hostPort: 81}]}", []string{"spec.containers[0].ports[0].hostPort: Invalid value: 81: must match `containerPort` when `hostNetwork` is true"}},
		{"Pod", "{spec/ephemeralContainers: [{name: e, image: i, terminationMessagePolicy: File, imagePullPolicy: Never}]}", []string{"spec.ephemeralContainers: Forbidden: cannot be set on create"}},
		{"Pod", "{spec/schedulingGates: [{name: a}], spec/nodeName: n}", []string{"spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared"}},
		{"Pod", "{spec/dnsPolicy: None}", []string{"spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"}},
		{"Service", "{spec/ports: []}", []string{"spec.ports: Required value"}},
		{"Service", "{spec/ports/0/port: 0}", []string{"spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive", "spec.ports[0].targetPort: Invalid value: 0"}},
		{"Service", "{spec/ports/0/nodePort: 30000}", []string{"spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"}},
		{"Service", "{spec/type: x}", []string{`spec.type: Unsupported value: "x": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"`}},
		{"Service", "{spec/clusterIP: 010.0.0.1}", []string{`spec.clusterIPs[0]: Invalid value: "010.0.0.1"`}},
		{"Service", "{spec/type: ExternalName}", []string{"spec.externalName: Required value"}},
		{"Node", "{spec/taints: [{key: a, effect: x}]}", []string{`metadata.taints[0].effect: Unsupported value: "x": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"`}},
		{"ConfigMap", "{data: {'a b': c}}", []string{`data[a b]: Invalid value: "a b": a valid config key`}},
		{"Secret", "{type: kubernetes.io/tls}", []string{"data[tls.crt]: Required value", "data[tls.key]: Required value"}},
		{"Endpoints", "{subsets/0/addresses/0/ip: 127.0.0.1}", []string{`subsets[0].addresses[0].ip: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)`}},
		{"Event", "{involvedObject/namespace: x}", []string{`involvedObject.namespace: Invalid value: "x": does not match event.namespace`}},
		{"ReplicationController", "{spec/template/metadata/labels: {x: z}}", []string{"spec.template.metadata.labels: Invalid value: {\"x\":\"z\"}: `selector` does not match template `labels`"}},
		{"ReplicationController", "{spec/replicas: -1}", []string{"spec.replicas: Invalid value: -1: must be greater than or equal to 0"}},
		{"PersistentVolumeClaim", "{spec/accessModes: []}", []string{"spec.accessModes: Required value: at least 1 access mode is required"}},
		{"ResourceQuota", "{spec/hard: {pods: 1500m}}", []string{`spec.hard[pods]: Invalid value: "1500m": must be an integer`}},
		{"LimitRange", "{spec/limits/0/min: {cpu: 2}}", []string{`spec.limits[0].min[cpu]: Invalid value: "2": min value 2 is greater than max value 1`,
			"spec.limits[0].default", "spec.limits[0].defaultRequest"}},
		{"Binding", "{target: {kind: x}}", []string{`target.kind: Unsupported value: "x": supported values: "Node", "<empty>"`, "target.name: Required value"}},
	} {
		t.Run(c.kind+" "+c.change, func(t *testing.T) {
			want := c.want
			if strings.Contains(c.change, "{name: v}, ") {
				want = []string{`spec.volumes[1].name: Duplicate value: "v"`}
			}
			check1(t, rowOf(t, c.kind).Validate(object(t, c.kind, c.change)), want)
		})
	}
}

func TestValidateUpdate(t *testing.T) {
	for _, c := range []struct {
		kind, sub, old, change string
		want                   []string
	}{
		{"Pod", "", "{}", "{spec/containers/0/image: j}", nil},
		{"Pod", "", "{}", "{spec/containers/0/command: [x]}", []string{"spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n"}},
		{"Pod", "", "{}", "{spec/containers/+: {name: d, image: i}}", []string{"spec.containers: Forbidden: pod updates may not add or remove containers"}},
		{"Pod", "", "{}", "{spec/activeDeadlineSeconds: 5}", nil},
		{"Pod", "", "{spec/activeDeadlineSeconds: 5}", "{spec/activeDeadlineSeconds: 6}", []string{"spec.activeDeadlineSeconds: Invalid value: 6: must be less than or equal to previous value"}},
		{"Pod", "", "{}", "{spec/tolerations: [{operator: Exists}]}", nil},
		{"Pod", "", "{spec/tolerations: [{operator: Exists}]}", "{}", []string{"spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"}},
		{"Pod", "", "{}", "{spec/schedulingGates: [{name: g}]}", []string{"spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'g'"}},
		{"Pod", "", "{spec/schedulingGates: [{name: g}]}", "{spec/nodeSelector: {a: b}}", nil},
		{"Pod", "", "{spec/schedulingGates: [{name: g}], spec/nodeSelector: {a: b}}", "{}", []string{"spec.nodeSelector: Invalid value: null: only additions to spec.nodeSelector are allowed (no mutations or deletions)"}},
		{"Pod", "ephemeralcontainers", "{spec/ephemeralContainers: [{name: e, image: i}]}", "{}", []string{"spec.ephemeralContainers: Forbidden: existing ephemeral containers \"e\" may not be removed\n"}},
		{"Pod", "ephemeralcontainers", "{}", "{spec/ephemeralContainers: [{name: e, image: i, ports: [{containerPort: 1}]}]}", []string{"spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container"}},
		{"Pod", "resize", "{spec/containers/0/resources: {requests: {cpu: 1}}}", "{spec/containers/0/resources: {requests: {cpu: 2}}}", nil},
		{"Pod", "resize", "{spec/containers/0/resources: {requests: {cpu: 1}}}", "{spec/containers/0/resources: {requests: {memory: 2}}}", []string{"spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed"}},
		{"Pod", "resize", "{}", "{spec/containers/0/resources: {requests: {cpu: 2}}}", []string{"spec: Invalid value: \"Burstable\": Pod QOS Class may not change as a result of resizing"}},
		{"Service", "", "{spec/clusterIP: 10.0.0.1}", "{spec/clusterIP: 10.0.0.2}", []string{`spec.clusterIPs[0]: Invalid value: ["10.0.0.2"]: may not change once set`}},
		{"ConfigMap", "", "{immutable: true}", "{immutable: true, data: {a: c}}", []string{"data: Forbidden: field is immutable when `immutable` is set"}},
		{"Secret", "", "{}", "{type: x}", []string{`type: Invalid value: "x": field is immutable`}},
		{"Node", "", "{spec/podCIDRs: [10.1.0.0/24]}", "{spec/podCIDRs: [10.2.0.0/24]}", []string{`spec.podCIDRs: Forbidden: node updates may not change podCIDR except from "" to valid`}},
		{"Node", "", "{spec/providerID: a}", "{spec/providerID: b}", []string{`spec.providerID: Forbidden: node updates may not change providerID except from "" to valid`}},
		{"PersistentVolumeClaim", "", "{}", "{spec/volumeMode: Block}", []string{"spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n", `volumeMode: Invalid value: "Block": field is immutable`}},
		{"ResourceQuota", "", "{}", "{spec/scopes: [Terminating]}", []string{`spec.scopes: Invalid value: ["Terminating"]: field is immutable`}},
	} {
		t.Run(c.kind+" "+c.old+c.change, func(t *testing.T) {
			k := rowOf(t, c.kind)
			rule := k.ValidateUpdate
			if c.sub != "" {
				rule = k.Subresources[c.sub].ValidateUpdate
			}
			check1(t, rule(object(t, c.kind, c.change), object(t, c.kind, c.old)), c.want)
		})
	}
}

// What has ended for good doesn't run again.
func TestContainersStayEnded(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	for _, c := range []struct {
		pod  corev1.RestartPolicy
		own  *corev1.ContainerRestartPolicy
		code int32
		may  bool
	}{
		{corev1.RestartPolicyAlways, nil, 0, true},
		{corev1.RestartPolicyOnFailure, nil, 0, false},
		{corev1.RestartPolicyOnFailure, nil, 1, true},
		{corev1.RestartPolicyNever, nil, 1, false},
		{corev1.RestartPolicyNever, &always, 0, true},
	} {
		old := object(t, "Pod", "{}").(*corev1.Pod)
		old.Spec.RestartPolicy, old.Spec.Containers[0].RestartPolicy = c.pod, c.own
		old.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: c.code}}}}
		p := old.DeepCopy()
		p.Status.ContainerStatuses[0].State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
		var want []string
		if !c.may {
			want = []string{"status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"}
		}
		check1(t, validatePodStatus(p, old), want)
	}
}

func TestWarnings(t *testing.T) {
	for _, c := range []struct{ kind, change, want string }{
		{"Pod", "{spec/nodeSelector: {beta.kubernetes.io/os: linux}}", `spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use "kubernetes.io/os" instead`},
		{"Pod", "{spec/containers/0/env: [{name: a, value: b}, {name: a, value: c}]}", `spec.containers[0].env[1]: hides previous definition of "a", which may be dropped when using apply`},
		{"Pod", "{metadata/name: a.b}", "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: ["},
		{"Service", "{spec/externalIPs: [1.2.3.4]}", "spec.externalIPs is deprecated and may no longer be implemented in some clusters"},
		{"ReplicationController", "{spec/template/spec/volumes: [{name: g, gitRepo: {repository: x}}]}", "spec.template.spec.volumes[0].gitRepo: deprecated in v1.11, and disabled by default in v1.33+"},
	} {
		got := rowOf(t, c.kind).Warnings(object(t, c.kind, c.change), nil)
		if len(got) != 1 || !strings.HasPrefix(got[0], c.want) {
			t.Errorf("%s: %q", c.change, got)
		}
	}
	if got := rowOf(t, "Pod").Warnings(object(t, "Pod", "{}"), nil); len(got) > 0 {
		t.Errorf("a plain pod: %q", got)
	}
}
