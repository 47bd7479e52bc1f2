package core

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// Defaults are filled in on every write and many reads: an object that has them already costs nothing.
func TestDefaultingTwiceAllocatesNothing(t *testing.T) {
	pod := fromYAML[corev1.Pod](t, `
metadata: {annotations: {a: b}}
spec:
  hostNetwork: true
  containers:
  - {name: a, image: "registry:5000/a/b:1", ports: [{containerPort: 1}], livenessProbe: {httpGet: {port: 1}}, resources: {requests: {cpu: 100m}, limits: {cpu: 1, memory: 1Gi}}}
  volumes: [{name: e}, {name: p, projected: {sources: [{serviceAccountToken: {path: t}}]}}]
status: {podIP: 1.1.1.1, containerStatuses: [{name: a, allocatedResources: {cpu: 1}}]}`)
	defaultPod(pod)
	if n := testing.AllocsPerRun(10, func() { defaultPod(pod) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	service := fromYAML[corev1.Service](t, "spec: {sessionAffinity: ClientIP, type: LoadBalancer, ports: [{port: 1}]}")
	defaultService(service)
	if n := testing.AllocsPerRun(10, func() { defaultService(service) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestPullPolicy(t *testing.T) {
	const digest = "@sha256:0000000000000000000000000000000000000000000000000000000000000000"
	for image, want := range map[string]corev1.PullPolicy{
		"a":                        corev1.PullAlways,
		"a:latest":                 corev1.PullAlways,
		"host:5000/a":              corev1.PullAlways,
		"host:5000/a:latest":       corev1.PullAlways,
		"a:1":                      corev1.PullIfNotPresent,
		"host:5000/a:1":            corev1.PullIfNotPresent,
		"a" + digest:               corev1.PullIfNotPresent,
		"host:5000/a" + digest:     corev1.PullIfNotPresent,
		"host/a:1" + digest:        corev1.PullIfNotPresent,
		"host/a:latest" + digest:   corev1.PullAlways,
		"":                         corev1.PullIfNotPresent,
		"No Name":                  corev1.PullIfNotPresent,
		"host:5000/deep/er/a:v1.2": corev1.PullIfNotPresent,
	} {
		if got := pullPolicy(image); got != want {
			t.Errorf("%q: %s, want %s", image, got, want)
		}
	}
}
