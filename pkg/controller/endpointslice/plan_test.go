package endpointslice

import (
	"fmt"
	"maps"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"
)

func serviceOf(change func(*v1.Service)) *v1.Service {
	s := &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "shop", UID: "s", Labels: map[string]string{"team": "a"}},
		Spec: v1.ServiceSpec{
			ClusterIP: "10.0.0.1", IPFamilies: []v1.IPFamily{v1.IPv4Protocol}, Selector: map[string]string{"app": "web"},
			Ports: []v1.ServicePort{{Name: "http", Port: 80, Protocol: v1.ProtocolTCP, TargetPort: intstr.FromString("http")}},
		},
	}
	if change != nil {
		change(s)
	}
	return s
}

func podOf(n int, change func(*v1.Pod)) *v1.Pod {
	p := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("p", n), Namespace: "shop", UID: types.UID(fmt.Sprint("u", n))},
		Spec:       v1.PodSpec{NodeName: "n1", Containers: []v1.Container{{Ports: []v1.ContainerPort{{Name: "http", ContainerPort: 8080, Protocol: v1.ProtocolTCP}}}}},
		Status: v1.PodStatus{Phase: v1.PodRunning, PodIP: fmt.Sprintf("10.1.%d.%d", n/200, n%200+1),
			Conditions: []v1.PodCondition{{Type: v1.PodReady, Status: v1.ConditionTrue}}},
	}
	p.Status.PodIPs = []v1.PodIP{{IP: p.Status.PodIP}, {IP: fmt.Sprintf("fd00::%x", n+1)}}
	if change != nil {
		change(p)
	}
	return p
}

func snapshot(s *v1.Service, pods ...*v1.Pod) Snapshot {
	return Snapshot{Service: s, Pods: pods, Zones: map[string]string{"n1": "a", "n2": ""}, MaxPerSlice: 100}
}

// conditions of the only endpoint of a plan's only slice: ready, serving, terminating.
func only(t *testing.T, p Plan) (*discovery.EndpointSlice, discovery.Endpoint) {
	t.Helper()
	if len(p.Steps) != 1 || len(p.Steps[0].Slice.Endpoints) != 1 {
		t.Fatalf("%+v", p)
	}
	return p.Steps[0].Slice, p.Steps[0].Slice.Endpoints[0]
}

func TestConditions(t *testing.T) {
	unready := func(p *v1.Pod) { p.Status.Conditions[0].Status = v1.ConditionFalse }
	dying := func(p *v1.Pod) { p.DeletionTimestamp = &metav1.Time{} }
	publish := func(s *v1.Service) { s.Spec.PublishNotReadyAddresses = true }
	for name, c := range map[string]struct {
		pod     func(*v1.Pod)
		service func(*v1.Service)
		want    string
	}{
		"ready":                  {nil, nil, "true true false"},
		"not ready":              {unready, nil, "false false false"},
		"terminating":            {dying, nil, "false true true"},
		"published":              {unready, publish, "true false false"},
		"terminating, published": {dying, publish, "true true true"},
	} {
		_, e := only(t, Decide(snapshot(serviceOf(c.service), podOf(1, c.pod))))
		if got := fmt.Sprint(*e.Conditions.Ready, *e.Conditions.Serving, *e.Conditions.Terminating); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestEndpoint(t *testing.T) {
	slice, e := only(t, Decide(snapshot(serviceOf(nil), podOf(1, func(p *v1.Pod) { p.Spec.Hostname, p.Spec.Subdomain = "h", "web" }))))
	if slice.GenerateName != "web-" || slice.AddressType != discovery.AddressTypeIPv4 || !metav1.IsControlledBy(slice, serviceOf(nil)) {
		t.Errorf("%+v", slice)
	}
	want := map[string]string{"team": "a", discovery.LabelServiceName: "web", discovery.LabelManagedBy: ManagedBy}
	if !maps.Equal(slice.Labels, want) {
		t.Errorf("labels %v", slice.Labels)
	}
	if *slice.Ports[0].Port != 8080 || *slice.Ports[0].Name != "http" || *slice.Ports[0].Protocol != v1.ProtocolTCP {
		t.Errorf("ports %+v", slice.Ports)
	}
	if e.Addresses[0] != "10.1.0.2" || len(e.Addresses) != 1 || *e.NodeName != "n1" || *e.Zone != "a" || *e.Hostname != "h" || e.TargetRef.Name != "p1" || e.Hints != nil {
		t.Errorf("%+v", e)
	}
}

func TestHeadless(t *testing.T) {
	s := serviceOf(func(s *v1.Service) { s.Spec.ClusterIP, s.Spec.Ports = v1.ClusterIPNone, nil })
	slice, _ := only(t, Decide(snapshot(s, podOf(1, nil))))
	if v, ok := slice.Labels[v1.IsHeadlessService]; !ok || v != "" || len(slice.Ports) != 0 {
		t.Errorf("%+v", slice)
	}
}

func TestDualStack(t *testing.T) {
	s := serviceOf(func(s *v1.Service) { s.Spec.IPFamilies = []v1.IPFamily{v1.IPv6Protocol, v1.IPv4Protocol} })
	p := Decide(snapshot(s, podOf(1, nil)))
	if len(p.Steps) != 2 || p.Steps[0].Slice.AddressType != discovery.AddressTypeIPv6 || p.Steps[0].Slice.Endpoints[0].Addresses[0] != "fd00::2" {
		t.Errorf("%+v", p)
	}
	six := p.Steps[0].Slice
	after := snapshot(serviceOf(nil), podOf(1, nil))
	after.Slices = []*discovery.EndpointSlice{six, p.Steps[1].Slice}
	if p = Decide(after); len(p.Steps) != 1 || p.Steps[0].Action != Delete || p.Steps[0].Slice != six {
		t.Errorf("a family that was given up: %+v", p)
	}
}

func TestHints(t *testing.T) {
	for distribution, want := range map[string]string{
		"PreferClose": "zones a, nodes", "PreferSameZone": "zones a, nodes", "PreferSameNode": "zones a, nodes n1", "unheard of": "",
	} {
		s := serviceOf(func(s *v1.Service) { s.Spec.TrafficDistribution = &distribution })
		_, e := only(t, Decide(snapshot(s, podOf(1, nil))))
		got := ""
		if e.Hints != nil {
			got = "zones"
			for _, z := range e.Hints.ForZones {
				got += " " + z.Name
			}
			got += ", nodes"
			for _, n := range e.Hints.ForNodes {
				got += " " + n.Name
			}
		}
		if got != want {
			t.Errorf("%s: %q", distribution, got)
		}
	}
}

func TestLeftOut(t *testing.T) {
	for name, change := range map[string]func(*v1.Pod){
		"ended":      func(p *v1.Pod) { p.Status.Phase = v1.PodSucceeded },
		"no address": func(p *v1.Pod) { p.Status.PodIP, p.Status.PodIPs = "", nil },
		"lost node":  func(p *v1.Pod) { p.Spec.NodeName = "gone" },
	} {
		p := Decide(snapshot(serviceOf(nil), podOf(1, change)))
		if len(p.Steps) != 1 || len(p.Steps[0].Slice.Endpoints) != 0 || p.Steps[0].Action != Create {
			t.Errorf("%s: want an empty placeholder, got %+v", name, p)
		}
		if (name == "lost node") != (len(p.Missing) == 1) {
			t.Errorf("%s: missing %v", name, p.Missing)
		}
	}
}

func TestPlaceholderStays(t *testing.T) {
	s := snapshot(serviceOf(nil))
	s.Slices = []*discovery.EndpointSlice{Decide(s).Steps[0].Slice}
	if p := Decide(s); len(p.Steps) != 0 {
		t.Errorf("it is written again: %+v", p)
	}
	s.Service = serviceOf(func(s *v1.Service) { s.Labels = nil })
	if p := Decide(s); len(p.Steps) != 1 || p.Steps[0].Action != Update {
		t.Errorf("labels changed: %+v", p)
	}
	s.Pods = []*v1.Pod{podOf(1, nil)}
	if p := Decide(s); len(p.Steps) != 2 || p.Steps[0].Action != Create || p.Steps[1].Action != Delete {
		t.Errorf("the first endpoint: %+v", p)
	}
}

func TestTriggerTime(t *testing.T) {
	s := snapshot(serviceOf(nil), podOf(1, nil))
	s.TriggerTime = time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	slice, _ := only(t, Decide(s))
	if got := slice.Annotations[v1.EndpointsLastChangeTriggerTime]; got != "2026-01-02T03:04:05.000000006Z" {
		t.Error(got)
	}
	s.Slices, s.TriggerTime = []*discovery.EndpointSlice{slice}, time.Time{}
	if p := Decide(s); len(p.Steps) != 0 {
		t.Errorf("the annotation alone is no reason to write: %+v", p)
	}
}

// TestConverges follows random changes of a service's pods: after one plan is carried out there is nothing left to
// do, each endpoint is in exactly one slice, no slice is too large, and few are half empty.
func TestConverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		most := rapid.IntRange(1, 7).Draw(t, "most")
		var slices []*discovery.EndpointSlice
		made := 0
		for range 6 {
			var pods []*v1.Pod
			for n := range rapid.IntRange(0, 30).Draw(t, "pods") {
				kind := rapid.IntRange(0, 5).Draw(t, "kind")
				if kind == 0 {
					continue // this one is gone
				}
				pods = append(pods, podOf(n, func(p *v1.Pod) {
					if kind == 1 {
						p.Status.Conditions[0].Status = v1.ConditionFalse
					}
					if kind == 2 {
						p.Spec.Containers[0].Ports[0].ContainerPort = 9090
					}
				}))
			}
			s := snapshot(serviceOf(nil), pods...)
			s.MaxPerSlice, s.Slices = most, slices
			byName := map[string]*discovery.EndpointSlice{}
			for _, slice := range slices {
				byName[slice.Name] = slice
			}
			for _, step := range Decide(s).Steps {
				switch step.Action {
				case Create:
					made++
					slice := step.Slice.DeepCopy()
					slice.Name = fmt.Sprint("s", made)
					byName[slice.Name] = slice
				case Update:
					byName[step.Slice.Name] = step.Slice
				case Delete:
					delete(byName, step.Slice.Name)
				}
			}
			slices = nil
			seen := map[string]int{}
			for _, slice := range byName {
				slices = append(slices, slice)
				if len(slice.Endpoints) > most {
					t.Fatalf("%s has %d endpoints", slice.Name, len(slice.Endpoints))
				}
				for _, e := range slice.Endpoints {
					seen[e.TargetRef.Name]++
				}
			}
			for _, pod := range pods {
				if seen[pod.Name] != 1 {
					t.Fatalf("%s is in %d slices", pod.Name, seen[pod.Name])
				}
				delete(seen, pod.Name)
			}
			if len(seen) > 0 || len(slices) == 0 {
				t.Fatalf("%d slices; not wanted: %v", len(slices), seen)
			}
			s.Slices = slices
			if again := Decide(s); len(again.Steps) != 0 {
				t.Fatalf("not settled: %+v", again.Steps[0])
			}
		}
	})
}
