package discovery

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"
)

func TestSliceGenerationAndTopology(t *testing.T) {
	kind, ctx := endpointSliceKind(), context.Background()
	topology := map[string]string{corev1.LabelHostname: "n1"}
	created := &discoveryv1.EndpointSlice{Endpoints: []discoveryv1.Endpoint{{DeprecatedTopology: topology}}}
	kind.PrepareCreate(ctx, created)
	if created.Generation != 1 || created.Endpoints[0].DeprecatedTopology != nil || created.Endpoints[0].NodeName != nil {
		t.Errorf("created as %+v", created)
	}

	stored := &discoveryv1.EndpointSlice{Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"1.1.1.1"}, DeprecatedTopology: topology}}}
	stored.Generation = 4
	label := stored.DeepCopy()
	label.Labels = map[string]string{"a": "b"}
	kind.PrepareUpdate(ctx, label, stored)
	if label.Generation != 5 || label.Endpoints[0].DeprecatedTopology == nil {
		t.Errorf("a label: %+v", label)
	}
	note := stored.DeepCopy()
	note.Annotations = map[string]string{"a": "b"}
	kind.PrepareUpdate(ctx, note, stored)
	if note.Generation != 4 {
		t.Errorf("an annotation raised the generation to %d", note.Generation)
	}
	moved := stored.DeepCopy()
	moved.Endpoints[0].Addresses[0] = "2.2.2.2"
	moved.Endpoints = append(moved.Endpoints, discoveryv1.Endpoint{DeprecatedTopology: map[string]string{corev1.LabelHostname: "new"}})
	kind.PrepareUpdate(ctx, moved, stored)
	if e := moved.Endpoints; moved.Generation != 5 || *e[0].NodeName != "n1" || e[0].DeprecatedTopology != nil || e[1].NodeName != nil {
		t.Errorf("endpoints: %+v", moved)
	}
}

func TestCells(t *testing.T) {
	s := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4,
		Ports:     []discoveryv1.EndpointPort{{Port: ptr.To[int32](80)}, {Name: ptr.To("web")}, {}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"1", "2"}}, {Addresses: []string{"3", "4"}}}}
	if got, want := fmt.Sprint(sliceCells(s)), "[ IPv4 80,web,* 1,2,3 + 1 more... <unknown>]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := fmt.Sprint(sliceCells(&discoveryv1.EndpointSlice{})), "[  <unset> <unset> <unknown>]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
