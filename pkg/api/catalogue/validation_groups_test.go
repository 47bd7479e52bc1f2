package catalogue

import (
	"strings"
	"testing"

	"skiff/pkg/api"
)

// One manifest and its successor for the groups beside core: what is wrong with each.
func TestValidationOfGroups(t *testing.T) {
	const deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d, namespace: x}\nspec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}"
	const slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s, namespace: x}\naddressType: IPv4\nendpoints: [{addresses: [10.0.0.1]}]\nports: [{name: a, port: 80}]"
	const binding = "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {name: b}\nroleRef: {kind: ClusterRole, name: view, apiGroup: rbac.authorization.k8s.io}\nsubjects: [{kind: User, name: u}]"
	const role = "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: r, namespace: x}\nrules: [{verbs: [get], apiGroups: [''], resources: [pods]}]"
	const lease = "apiVersion: coordination.k8s.io/v1\nkind: Lease\nmetadata: {name: l, namespace: x}\nspec: {leaseDurationSeconds: 5}"
	const service = "apiVersion: apiregistration.k8s.io/v1\nkind: APIService\nmetadata: {name: v1.g.io}\nspec: {group: g.io, version: v1, groupPriorityMinimum: 1, versionPriority: 1, service: {namespace: x, name: s}}"
	const scaler = "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: h, namespace: x}\nspec: {maxReplicas: 3, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: d}, metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}], behavior: {scaleUp: {policies: [{type: Pods, value: 4, periodSeconds: 60}]}}}"
	const runtimeClass = "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: r}\nhandler: h\noverhead: {podFixed: {cpu: 10m}}\nscheduling: {tolerations: [{key: k, operator: Exists}]}"
	const storageClass = "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: s}\nprovisioner: a/b\nallowedTopologies: [{matchLabelExpressions: [{key: zone, values: [a]}]}]"
	const attachment = "apiVersion: storage.k8s.io/v1\nkind: VolumeAttachment\nmetadata: {name: a}\nspec: {attacher: d.example.com, nodeName: node, source: {persistentVolumeName: v}}"
	const driver = "apiVersion: storage.k8s.io/v1\nkind: CSIDriver\nmetadata: {name: d}\nspec: {attachRequired: true, tokenRequests: [{audience: a, expirationSeconds: 600}]}"
	const csiNode = "apiVersion: storage.k8s.io/v1\nkind: CSINode\nmetadata: {name: node}\nspec: {drivers: [{name: d, nodeID: id, topologyKeys: [zone], allocatable: {count: 4}}]}"
	const capacity = "apiVersion: storage.k8s.io/v1\nkind: CSIStorageCapacity\nmetadata: {name: c, namespace: x}\nstorageClassName: slow\ncapacity: 1Gi"
	const attributes = "apiVersion: storage.k8s.io/v1\nkind: VolumeAttributesClass\nmetadata: {name: a}\ndriverName: d.example.com\nparameters: {a: b}"
	for _, c := range []struct{ manifest, from, to, created, updated string }{
		{scaler, "", "", "", ""},
		{scaler, "maxReplicas: 3", "maxReplicas: -1", "spec.maxReplicas: Invalid value: -1: must be greater than or equal to 1; spec.maxReplicas: Invalid value: -1: must be greater than or equal to `minReplicas`", "spec.maxReplicas"},
		{scaler, "apps/v1", "v1", "spec.scaleTargetRef.apiVersion: Invalid value: \"v1\": apiVersion must specify API group", "spec.scaleTargetRef.apiVersion"},
		{scaler, "type: Resource", "type: Pods", "spec.metrics[0].pods: Required value: must populate information for the given metric source", "spec.metrics[0].pods"},
		{scaler, "type: Resource", "pods: {metric: {name: m}, target: {}}, type: Resource", "spec.metrics[0].pods.target.type: Required value: must specify a metric target type; spec.metrics[0].pods.target.type: Invalid value: \"\": must be either Utilization, Value, or AverageValue; spec.metrics[0].pods.target.averageValue: Required value: must specify a positive target averageValue; spec.metrics[0].pods: Forbidden: must populate the given metric source only", "spec.metrics[0].pods"},
		{scaler, "Utilization: 50", "Utilization: 0", "spec.metrics[0].resource.target.averageUtilization: Invalid value: 0: must be greater than 0", "spec.metrics"},
		{scaler, "periodSeconds: 60", "periodSeconds: 1801", "spec.behavior.scaleUp.policies[0].periodSeconds: Invalid value: 1801: must be less than or equal to 1800", "spec.behavior"},
		{runtimeClass, "", "", "", ""},
		{runtimeClass, "handler: h", "handler: H", "handler: Invalid value: \"H\": a lowercase RFC 1123 label", "handler: Invalid value: \"H\": field is immutable"},
		{runtimeClass, "cpu: 10m", "cpu: -1", "overhead.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0", ""},
		{runtimeClass, "operator: Exists", "value: v}, {key: k, value: v", "scheduling.tolerations[1]: Duplicate value", ""},
		{storageClass, "", "", "", ""},
		{storageClass, "values: [a]}", "values: [a, a]}, {key: zone}", "allowedTopologies[0].matchLabelExpressions[0].values[1]: Duplicate value: \"a\"; allowedTopologies[0].matchLabelExpressions[1].values: Required value; allowedTopologies[0].matchLabelExpressions[1].key: Duplicate value: \"zone\"", "allowedTopologies[0].matchLabelExpressions[0].values[1]"},
		{storageClass, "{matchLabelExpressions: [{key: zone, values: [a]}]}", "{}", "allowedTopologies[0].matchLabelExpressions: Duplicate value: \"\"", "allowedTopologies[0]"},
		{attachment, "", "", "", ""},
		{attachment, "{persistentVolumeName: v}", "{}", "spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName", "spec.source"},
		{attachment, "persistentVolumeName: v", "inlineVolumeSpec: {accessModes: [ReadWriteOnce], capacity: {storage: 1}, csi: {driver: d, volumeHandle: h}}", "spec.source.inlineVolumeSpec.capacity: Forbidden: may not be specified in the context of inline volumes", "spec.source"},
		{driver, "", "", "", ""},
		{driver, "600", "599", "spec.tokenRequests[0].expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes", "spec.tokenRequests"},
		{driver, "attachRequired: true", "attachRequired: false", "", "spec.attachedRequired: Invalid value: false: field is immutable"},
		{csiNode, "", "", "", ""},
		{csiNode, "count: 4", "count: -1", "spec.drivers[0].allocatable.count: Invalid value: -1: must be greater than or equal to 0", "spec.drivers[0].allocatable.count"},
		{csiNode, "nodeID: id", "nodeID: other", "", "spec.drivers: Invalid value"},
		{capacity, "", "", "", ""},
		{capacity, "slow", "Slow", "storageClassName: Invalid value: \"Slow\"", "storageClassName: Invalid value: \"Slow\": field is immutable"},
		{attributes, "", "", "", ""},
		{attributes, "{a: b}", "{}", "parameters: Required value: must contain at least one key/value pair", "parameters: Forbidden: updates to parameters are forbidden.; parameters: Required value"},
		{deployment, "", "", "", ""},
		{deployment, "{a: b}}, template", "{a: c}}, template", "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`",
			"spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`; spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"c\"}}: field is immutable"},
		{deployment, "selector: {matchLabels: {a: b}}, ", "", "spec.selector: Required value; spec.template", "spec.selector: Required value; spec.template"},
		{deployment, "spec: {selector", "spec: {replicas: -1, selector", "spec.replicas: Invalid value: -1: must be greater than or equal to 0", "spec.replicas: Invalid value: -1"},
		{deployment, "spec: {selector", "spec: {progressDeadlineSeconds: 1, minReadySeconds: 2, selector", "spec.progressDeadlineSeconds: Invalid value: 1: must be greater than minReadySeconds", "spec.progress"},
		{slice, "", "", "", ""},
		{slice, "10.0.0.1", "fd00::1", "endpoints[0].addresses: Invalid value: \"fd00::1\": must be an IPv4 address", "endpoints[0].addresses"},
		{slice, "IPv4", "FQDN", "", "addressType: Invalid value: \"FQDN\": field is immutable"},
		{binding, "", "", "", ""},
		{binding, "view", "edit", "", "roleRef: Invalid value: {\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"ClusterRole\",\"name\":\"edit\"}: cannot change roleRef"},
		{binding, "kind: User", "kind: ServiceAccount", "subjects[0].namespace: Required value", "subjects[0].namespace: Required value"},
		{role, "[get]", "[]", "rules[0].verbs: Required value: verbs must contain at least one value", "rules[0].verbs"},
		{service, "", "", "", ""},
		{service, "version: v1", "version: v2", "metadata.name: Invalid value: \"v1.g.io\": must be `spec.version+\".\"+spec.group`: \"v2.g.io\"", "metadata.name: Invalid value"},
		{service, "Minimum: 1", "Minimum: 20001", "spec.groupPriorityMinimum: Invalid value: 20001: must be positive and less than 20000", "spec.groupPriorityMinimum"},
		{service, "versionPriority: 1", "versionPriority: 0", "spec.versionPriority: Invalid value: 0: must be positive and less than 1000", "spec.versionPriority"},
		{service, "namespace: x, name: s", "port: 65536", "spec.service.namespace: Required value; spec.service.name: Required value; spec.service.port: Invalid value: 65536: port is not valid: must be between 1 and 65535, inclusive", "spec.service.namespace"},
		{service, "service: {namespace: x, name: s}", "caBundle: eA==, insecureSkipTLSVerify: true", "spec.caBundle: Invalid value: \"1 bytes\": local APIServices may not have a caBundle; spec.insecureSkipTLSVerify: Invalid value: true: local APIServices may not have insecureSkipTLSVerify", "spec.caBundle"},
		{service, "service: {", "caBundle: eA==, insecureSkipTLSVerify: true, service: {", "spec.insecureSkipTLSVerify: Invalid value: true: may not be true if caBundle is present", "spec.insecure"},
		{lease, "5", "0", "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0", "spec.leaseDurationSeconds"},
	} {
		t.Run(c.manifest[:40]+c.to, func(t *testing.T) {
			k, old := defaulted(t, c.manifest)
			_, obj := defaulted(t, strings.Replace(c.manifest, c.from, c.to, 1))
			for what, errs := range map[string][2]string{"created": {texts(k.Validate(obj)), c.created}, "updated": {texts(k.ValidateUpdate(obj, old)), c.updated}} {
				if !strings.HasPrefix(errs[0], errs[1]) || errs[1] == "" && errs[0] != "" {
					t.Errorf("%s: got %q, want %q", what, errs[0], errs[1])
				}
			}
		})
	}
}

func texts[E error](errs []E) string {
	var all []string
	for _, e := range errs {
		all = append(all, e.Error())
	}
	return strings.Join(all, "; ")
}

func defaulted(t *testing.T, manifest string) (*api.Kind, api.Object) {
	t.Helper()
	decoded, gvk, err := api.StrictYAML.Decode([]byte(manifest), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	k, obj := Default().View().ByKind(*gvk), decoded.(api.Object)
	if k.Default != nil {
		k.Default(obj)
	}
	return k, obj
}
