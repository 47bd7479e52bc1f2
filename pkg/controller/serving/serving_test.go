package serving

import (
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func TestPort(t *testing.T) {
	always := v1.ContainerRestartPolicyAlways
	port := func(name string, number int32, protocol v1.Protocol) []v1.ContainerPort {
		return []v1.ContainerPort{{Name: name, ContainerPort: number, Protocol: protocol}}
	}
	pod := &v1.Pod{Spec: v1.PodSpec{
		Containers: []v1.Container{{Ports: port("dns", 1, v1.ProtocolTCP)}, {Ports: port("dns", 2, v1.ProtocolUDP)}},
		InitContainers: []v1.Container{{Ports: port("setup", 3, v1.ProtocolTCP)},
			{Ports: port("sidecar", 4, v1.ProtocolTCP), RestartPolicy: &always}},
	}}
	for _, c := range []struct {
		target   intstr.IntOrString
		protocol v1.Protocol
		want     int32
	}{
		{intstr.FromInt32(99), v1.ProtocolTCP, 99},
		{intstr.FromString("dns"), v1.ProtocolTCP, 1},
		{intstr.FromString("dns"), v1.ProtocolUDP, 2},
		{intstr.FromString("sidecar"), v1.ProtocolTCP, 4},
		{intstr.FromString("setup"), v1.ProtocolTCP, 0}, // it has ended by the time the pod serves
		{intstr.FromString("nothing"), v1.ProtocolTCP, 0},
	} {
		got, err := Port(pod, &v1.ServicePort{TargetPort: c.target, Protocol: c.protocol})
		if got != c.want || (err == nil) != (c.want != 0) {
			t.Errorf("%s/%s: %d, %v", c.target.String(), c.protocol, got, err)
		}
	}
}

func TestChanged(t *testing.T) {
	base := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}},
		Spec: v1.PodSpec{Containers: []v1.Container{{Name: "c"}}}, Status: v1.PodStatus{Phase: v1.PodRunning}}
	for name, c := range map[string]struct {
		change func(*v1.Pod)
		want   bool
	}{
		"nothing":     {func(*v1.Pod) {}, false},
		"annotations": {func(p *v1.Pod) { p.Annotations = map[string]string{"x": "y"} }, false},
		"image":       {func(p *v1.Pod) { p.Spec.Containers[0].Image = "i" }, false},
		"labels":      {func(p *v1.Pod) { p.Labels = nil }, true},
		"ready": {func(p *v1.Pod) {
			p.Status.Conditions = []v1.PodCondition{{Type: v1.PodReady, Status: v1.ConditionTrue}}
		}, true},
		"address":     {func(p *v1.Pod) { p.Status.PodIPs = []v1.PodIP{{IP: "1.2.3.4"}} }, true},
		"terminating": {func(p *v1.Pod) { p.DeletionTimestamp = &metav1.Time{} }, true},
		"ended":       {func(p *v1.Pod) { p.Status.Phase = v1.PodFailed }, true},
		"bound":       {func(p *v1.Pod) { p.Spec.NodeName = "n" }, true},
	} {
		p := base.DeepCopy()
		c.change(p)
		if changed(base, p) != c.want {
			t.Errorf("%s: %t", name, !c.want)
		}
	}
}

func TestTriggers(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	service := &v1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web", CreationTimestamp: metav1.NewTime(start.Add(time.Minute))}}
	pod := func(name string, ready time.Duration) *v1.Pod {
		return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: v1.PodStatus{Conditions: []v1.PodCondition{
			{Type: v1.PodReady, LastTransitionTime: metav1.NewTime(start.Add(ready))}}}}
	}
	var triggers Triggers
	for i, c := range []struct {
		pods []*v1.Pod
		want time.Time
	}{
		{nil, start.Add(time.Minute)}, // the service's creation
		{nil, time.Time{}},
		{[]*v1.Pod{pod("a", 2*time.Minute), pod("b", 3*time.Minute)}, start.Add(2 * time.Minute)},
		{[]*v1.Pod{pod("a", 2*time.Minute), pod("b", 3*time.Minute)}, time.Time{}},
		{[]*v1.Pod{pod("a", 2*time.Minute), pod("b", 9*time.Minute)}, start.Add(9 * time.Minute)},
	} {
		if got := triggers.Observe(service, c.pods); !got.Equal(c.want) {
			t.Errorf("%d: %v, want %v", i, got, c.want)
		}
	}
}
