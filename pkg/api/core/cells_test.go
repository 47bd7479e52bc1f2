package core

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"

	"skiff/pkg/api"
)

// All objects were created 90 seconds before the bubble's clock starts.
func TestCells(t *testing.T) {
	cell := func(cells func(api.Object) []any, load func(*testing.T, string) api.Object, text, want string) {
		synctest.Test(t, func(t *testing.T) {
			obj := load(t, "metadata: {name: x, creationTimestamp: '1999-12-31T23:58:30Z'}\n"+text)
			var got []string
			for _, c := range cells(obj) {
				got = append(got, fmt.Sprint(c))
			}
			if joined := strings.Join(got, " | "); joined != want {
				t.Errorf("%s\ngot  %s\nwant %s", text, joined, want)
			}
		})
	}
	service := func(t *testing.T, s string) api.Object { return fromYAML[corev1.Service](t, s) }
	cell(serviceCells, service, "spec: {type: ClusterIP, clusterIPs: [10.0.0.1], ports: [{port: 80, protocol: TCP}], selector: {a: b}}",
		"x | ClusterIP | 10.0.0.1 | <none> | 80/TCP | 90s | a=b")
	cell(serviceCells, service, "spec: {type: NodePort, clusterIPs: [10.0.0.1], externalIPs: [1.1.1.1, 2.2.2.2], ports: [{port: 80, nodePort: 30080, protocol: TCP}, {port: 53, protocol: UDP}]}",
		"x | NodePort | 10.0.0.1 | 1.1.1.1,2.2.2.2 | 80:30080/TCP,53/UDP | 90s | <none>")
	cell(serviceCells, service, "spec: {type: LoadBalancer}", "x | LoadBalancer | <none> | <pending> | <none> | 90s | <none>")
	cell(serviceCells, service, "spec: {type: LoadBalancer, externalIPs: [9.9.9.9]}\nstatus: {loadBalancer: {ingress: [{hostname: h}, {ip: 1.1.1.1}]}}",
		"x | LoadBalancer | <none> | 1.1.1.1,h,9.9.9.9 | <none> | 90s | <none>")
	cell(serviceCells, service, "spec: {type: ExternalName, externalName: example.com}", "x | ExternalName | <none> | example.com | <none> | 90s | <none>")

	node := func(t *testing.T, s string) api.Object {
		n := fromYAML[corev1.Node](t, s)
		n.Labels = map[string]string{"node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/": "", "kubernetes.io/role": "old"}
		return n
	}
	cell(nodeCells, node, `
spec: {unschedulable: true}
status:
  conditions: [{type: Ready, status: "True"}]
  addresses: [{type: InternalIP, address: 10.1.1.1}]
  nodeInfo: {kubeletVersion: v1.36.0, osImage: Debian, kernelVersion: "6.1", architecture: amd64, containerRuntimeVersion: "containerd://2"}`,
		"x | Ready,SchedulingDisabled | old,worker | 90s | v1.36.0 | 10.1.1.1 | <none> | Debian | 6.1 (amd64) | containerd://2")
	cell(nodeCells, node, "status: {conditions: [{type: Ready, status: Unknown}]}",
		"x | NotReady | old,worker | 90s |  | <none> | <none> | <unknown> | <unknown> | <unknown>")

	event := func(t *testing.T, s string) api.Object { return fromYAML[corev1.Event](t, s) }
	cell(EventCells, event, `
involvedObject: {kind: Pod, name: p, fieldPath: "spec.containers{a}"}
reason: Pulled
type: Normal
message: " pulled\n"
source: {component: kubelet, host: n1}
firstTimestamp: "1999-12-31T23:50:00Z"
lastTimestamp: "1999-12-31T23:59:55Z"
count: 4`, "5s | Normal | Pulled | pod/p | spec.containers{a} | kubelet, n1 | pulled | 10m | 4 | x")
	cell(EventCells, event, `
involvedObject: {kind: Node}
eventTime: "1999-12-31T23:59:00.000000Z"
reportingComponent: scheduler
series: {count: 7, lastObservedTime: "1999-12-31T23:59:58.000000Z"}`, "2s |  |  | node |  | scheduler |  | 60s | 7 | x")

	endpoints := func(t *testing.T, s string) api.Object { return fromYAML[corev1.Endpoints](t, s) }
	cell(endpointsCells, endpoints, "", "x | <none> | 90s")
	cell(endpointsCells, endpoints, "subsets: [{addresses: [{ip: 1.1.1.1}, {ip: 'fd00::1'}], ports: [{port: 80}, {port: 443}]}]",
		"x | 1.1.1.1:80,[fd00::1]:80,1.1.1.1:443 + 1 more... | 90s")

	claim := func(t *testing.T, s string) api.Object { return fromYAML[corev1.PersistentVolumeClaim](t, s) }
	cell(claimCells, claim, "spec: {volumeName: v, storageClassName: fast, volumeMode: Block}\nstatus: {phase: Bound, accessModes: [ReadWriteMany, ReadWriteOnce], capacity: {storage: 1Gi}}",
		"x | Bound | v | 1Gi | RWO,RWX | fast | <unset> | 90s | Block")

	quota := func(t *testing.T, s string) api.Object { return fromYAML[corev1.ResourceQuota](t, s) }
	cell(resourceQuotaCells, quota, "status: {hard: {pods: 4, limits.cpu: 2, cpu: 1}, used: {pods: 1}}",
		"x | cpu: 0/1, pods: 1/4 | limits.cpu: 0/2 | 90s")

	secret := func(t *testing.T, s string) api.Object { return fromYAML[corev1.Secret](t, s) }
	cell(secretCells, secret, "type: Opaque\ndata: {a: YQ==}", "x | Opaque | 1 | 90s")
}
