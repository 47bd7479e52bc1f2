package endpointslicemirroring

import (
	"fmt"
	"testing"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func handmade() *v1.Endpoints {
	return &v1.Endpoints{
		ObjectMeta: metav1.ObjectMeta{Name: "ext", Namespace: "shop", UID: "e", Labels: map[string]string{"team": "a"},
			Annotations: map[string]string{"note": "n", v1.EndpointsLastChangeTriggerTime: "t", v1.LastAppliedConfigAnnotation: "{}"}},
		Subsets: []v1.EndpointSubset{{
			Addresses:         []v1.EndpointAddress{{IP: "1.2.3.4", Hostname: "h"}, {IP: "fd00::1"}, {IP: "rubbish"}},
			NotReadyAddresses: []v1.EndpointAddress{{IP: "1.2.3.5"}},
			Ports:             []v1.EndpointPort{{Name: "http", Port: 80, Protocol: v1.ProtocolTCP}},
		}},
	}
}

func TestDecide(t *testing.T) {
	p := Decide(Snapshot{Endpoints: handmade(), MaxPerSubset: 10})
	if len(p.Steps) != 2 || p.Invalid != 1 || p.Skipped != 0 {
		t.Fatalf("%+v", p)
	}
	four, six := p.Steps[0].Slice, p.Steps[1].Slice
	if four.AddressType != discovery.AddressTypeIPv4 || len(four.Endpoints) != 2 || six.AddressType != discovery.AddressTypeIPv6 || len(six.Endpoints) != 1 {
		t.Fatalf("%+v\n%+v", four, six)
	}
	if fmt.Sprint(four.Labels) != fmt.Sprint(map[string]string{"team": "a", discovery.LabelServiceName: "ext", discovery.LabelManagedBy: ManagedBy}) || fmt.Sprint(four.Annotations) != "map[note:n]" {
		t.Errorf("%v %v", four.Labels, four.Annotations)
	}
	if *four.Endpoints[0].Conditions.Ready != true || *four.Endpoints[1].Conditions.Ready != false || *four.Endpoints[0].Hostname != "h" {
		t.Errorf("%+v", four.Endpoints)
	}
	four.Name, six.Name = "a", "b"
	slices := []*discovery.EndpointSlice{four, six}
	if again := Decide(Snapshot{Endpoints: handmade(), Slices: slices, MaxPerSubset: 10}); len(again.Steps) != 0 {
		t.Errorf("written again: %+v", again.Steps)
	}
	changed := handmade()
	changed.Subsets[0].Addresses = changed.Subsets[0].Addresses[:1]
	p = Decide(Snapshot{Endpoints: changed, Slices: slices, MaxPerSubset: 10})
	if got := fmt.Sprintf("%s %d", p.Steps[0].Action, len(p.Steps)); got != "delete 1" {
		t.Errorf("the IPv6 address went: %s", got)
	}
	changed.Labels["team"] = "b"
	p = Decide(Snapshot{Endpoints: changed, Slices: slices[:1], MaxPerSubset: 10})
	if got := fmt.Sprintf("%s %d", p.Steps[0].Action, len(p.Steps)); got != "update 1" || p.Steps[0].Slice.Name != "a" {
		t.Errorf("labels changed: %s", got)
	}
	if p = Decide(Snapshot{Slices: slices}); len(p.Steps) != 2 || p.Steps[0].Action != "delete" {
		t.Errorf("nothing to mirror: %+v", p)
	}
	if p = Decide(Snapshot{Endpoints: handmade(), MaxPerSubset: 1}); p.Skipped != 2 {
		t.Errorf("%d skipped", p.Skipped)
	}
}
