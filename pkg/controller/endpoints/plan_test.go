package endpoints

import (
	"fmt"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func service(change func(*v1.Service)) *v1.Service {
	s := &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "shop", Labels: map[string]string{"team": "a"}},
		Spec: v1.ServiceSpec{ClusterIP: "10.0.0.1", IPFamilies: []v1.IPFamily{v1.IPv4Protocol}, Selector: map[string]string{"app": "web"},
			Ports: []v1.ServicePort{
				{Name: "http", Protocol: v1.ProtocolTCP, TargetPort: intstr.FromInt32(8080)},
				{Name: "admin", Protocol: v1.ProtocolTCP, TargetPort: intstr.FromString("admin")},
			}},
	}
	if change != nil {
		change(s)
	}
	return s
}

func pod(n int, ready bool, adminPort int32) *v1.Pod {
	p := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("p", n), Namespace: "shop", UID: types.UID(fmt.Sprint("u", n))},
		Spec:       v1.PodSpec{NodeName: "n1", Containers: []v1.Container{{Ports: []v1.ContainerPort{{Name: "admin", ContainerPort: adminPort, Protocol: v1.ProtocolTCP}}}}},
		Status:     v1.PodStatus{Phase: v1.PodRunning, PodIP: fmt.Sprintf("10.1.%d.%d", n/250, n%250)},
	}
	p.Status.PodIPs = []v1.PodIP{{IP: p.Status.PodIP}}
	if ready {
		p.Status.Conditions = []v1.PodCondition{{Type: v1.PodReady, Status: v1.ConditionTrue}}
	}
	return p
}

func show(subsets []v1.EndpointSubset) string {
	text := ""
	for _, s := range subsets {
		text += "["
		for _, a := range s.Addresses {
			text += a.IP + " "
		}
		for _, a := range s.NotReadyAddresses {
			text += "!" + a.IP + " "
		}
		for _, p := range s.Ports {
			text += fmt.Sprintf("%s:%d ", p.Name, p.Port)
		}
		text += "]"
	}
	return text
}

func TestSubsets(t *testing.T) {
	for name, c := range map[string]struct {
		service *v1.Service
		pods    []*v1.Pod
		want    string
	}{
		"alike":        {service(nil), []*v1.Pod{pod(2, true, 99), pod(1, true, 99)}, "[10.1.0.1 10.1.0.2 admin:99 http:8080 ]"},
		"not ready":    {service(nil), []*v1.Pod{pod(1, true, 99), pod(2, false, 99)}, "[10.1.0.1 !10.1.0.2 admin:99 http:8080 ]"},
		"other number": {service(nil), []*v1.Pod{pod(1, true, 98), pod(2, true, 99)}, "[10.1.0.1 admin:98 ][10.1.0.2 admin:99 ][10.1.0.1 10.1.0.2 http:8080 ]"},
		"published": {service(func(s *v1.Service) { s.Spec.PublishNotReadyAddresses = true }),
			[]*v1.Pod{pod(1, false, 99)}, "[10.1.0.1 admin:99 http:8080 ]"},
		"headless without ports": {service(func(s *v1.Service) { s.Spec.ClusterIP, s.Spec.Ports = "None", nil }),
			[]*v1.Pod{pod(1, true, 99), pod(2, true, 99)}, "[10.1.0.1 10.1.0.2 ]"},
		"none": {service(nil), nil, ""},
	} {
		p := Decide(Snapshot{Service: c.service, Pods: c.pods})
		if got := show(p.Write.Subsets); got != c.want || !p.Create {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
		if again := Decide(Snapshot{Service: c.service, Pods: c.pods, Current: p.Write}); again.Write != nil {
			t.Errorf("%s: written again: %+v", name, again)
		}
	}
}

func TestLabels(t *testing.T) {
	e := Decide(Snapshot{Service: service(func(s *v1.Service) { s.Spec.ClusterIP = "None" })}).Write
	if e.Labels["team"] != "a" || e.Labels[labelManagedBy] != managedBy {
		t.Errorf("%v", e.Labels)
	}
	if _, headless := e.Labels[v1.IsHeadlessService]; !headless {
		t.Errorf("%v", e.Labels)
	}
	p := Decide(Snapshot{Service: service(nil), Current: e})
	if p.Write == nil || p.Create || len(p.Write.Labels) != 2 {
		t.Errorf("%+v", p)
	}
}

func TestOverCapacity(t *testing.T) {
	var pods []*v1.Pod
	for n := range 1200 {
		pods = append(pods, pod(n, n < 900, 99))
	}
	e := Decide(Snapshot{Service: service(nil), Pods: pods}).Write
	if len(e.Subsets[0].Addresses) != 900 || len(e.Subsets[0].NotReadyAddresses) != 100 || e.Annotations[v1.EndpointsOverCapacity] != "truncated" {
		t.Errorf("%d and %d, %v", len(e.Subsets[0].Addresses), len(e.Subsets[0].NotReadyAddresses), e.Annotations)
	}
	if again := Decide(Snapshot{Service: service(nil), Pods: pods, Current: e}); again.Write != nil {
		t.Error("written again")
	}
	for _, p := range pods {
		p.Status.Conditions = []v1.PodCondition{{Type: v1.PodReady, Status: v1.ConditionTrue}}
	}
	e = Decide(Snapshot{Service: service(nil), Pods: pods, Current: e}).Write
	if len(e.Subsets[0].Addresses) != 1000 || len(e.Subsets[0].NotReadyAddresses) != 0 {
		t.Errorf("%d and %d", len(e.Subsets[0].Addresses), len(e.Subsets[0].NotReadyAddresses))
	}
	e = Decide(Snapshot{Service: service(nil), Pods: pods[:10], Current: e}).Write
	if _, over := e.Annotations[v1.EndpointsOverCapacity]; over {
		t.Error("the annotation stays")
	}
}
