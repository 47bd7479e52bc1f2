package endpointslicemirroring

import (
	"maps"
	"net/netip"
	"slices"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/controller/endpoints"
	"skiff/pkg/controller/endpointslice"
	"skiff/pkg/controller/workload"
)

// ManagedBy is the value of the label endpointslice.kubernetes.io/managed-by on mirrored slices.
const ManagedBy = "endpointslicemirroring-controller.k8s.io"

// Snapshot is what a plan is made from.
type Snapshot struct {
	// Endpoints to mirror; nil when there is nothing to mirror (any more).
	Endpoints    *v1.Endpoints
	Slices       []*discovery.EndpointSlice // mirrored before
	MaxPerSubset int
}

// Plan is what one turn does.
type Plan struct {
	Steps   []endpointslice.Step
	Invalid int // addresses left out because they are none
	Skipped int // addresses left out because there are too many
}

// mirror is one slice to be.
type mirror struct {
	family    discovery.AddressType
	ports     []discovery.EndpointPort
	endpoints []discovery.Endpoint
}

// Decide makes one slice per subset and address family.
func Decide(s Snapshot) Plan {
	var p Plan
	existing := map[string][]*discovery.EndpointSlice{}
	for _, slice := range s.Slices {
		key := string(slice.AddressType) + " " + endpointslice.PortsKey(slice.Ports)
		existing[key] = append(existing[key], slice)
	}
	if s.Endpoints != nil {
		wanted := p.mirrors(s)
		for _, key := range slices.Sorted(maps.Keys(wanted)) {
			p.decideOne(s.Endpoints, wanted[key], existing[key])
			if len(existing[key]) > 0 {
				existing[key] = existing[key][1:]
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(existing)) {
		for _, slice := range existing[key] {
			p.Steps = append(p.Steps, endpointslice.Step{Action: endpointslice.Delete, Slice: slice, Reason: "its subset is no longer mirrored"})
		}
	}
	return p
}

func (p *Plan) mirrors(s Snapshot) map[string]*mirror {
	wanted := map[string]*mirror{}
	for _, subset := range endpoints.Canonical(s.Endpoints.Subsets) {
		ports := make([]discovery.EndpointPort, 0, len(subset.Ports))
		for _, port := range subset.Ports {
			ports = append(ports, discovery.EndpointPort{Name: &port.Name, Port: &port.Port, Protocol: &port.Protocol, AppProtocol: port.AppProtocol})
		}
		added := 0
		add := func(address v1.EndpointAddress, ready bool) {
			ip, err := netip.ParseAddr(address.IP)
			switch {
			case err != nil:
				p.Invalid++
				return
			case added >= s.MaxPerSubset:
				p.Skipped++
				return
			}
			added++
			family := discovery.AddressTypeIPv4
			if ip.Unmap().Is6() {
				family = discovery.AddressTypeIPv6
			}
			key := string(family) + " " + endpointslice.PortsKey(ports)
			if wanted[key] == nil {
				wanted[key] = &mirror{family: family, ports: ports}
			}
			wanted[key].endpoints = append(wanted[key].endpoints, endpointOf(address, ip, ready))
		}
		for _, address := range subset.Addresses {
			add(address, true)
		}
		for _, address := range subset.NotReadyAddresses {
			add(address, false)
		}
	}
	return wanted
}

func endpointOf(address v1.EndpointAddress, ip netip.Addr, ready bool) discovery.Endpoint {
	endpoint := discovery.Endpoint{
		Addresses:  []string{ip.Unmap().String()},
		Conditions: discovery.EndpointConditions{Ready: &ready},
		TargetRef:  address.TargetRef,
		NodeName:   address.NodeName,
	}
	if address.Hostname != "" {
		endpoint.Hostname = &address.Hostname
	}
	return endpoint
}

func (p *Plan) decideOne(e *v1.Endpoints, m *mirror, existing []*discovery.EndpointSlice) {
	wanted := &discovery.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName:    workload.NamePrefix(e.Name),
			Namespace:       e.Namespace,
			Labels:          map[string]string{},
			Annotations:     map[string]string{},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(e, v1.SchemeGroupVersion.WithKind("Endpoints"))},
		},
		AddressType: m.family,
		Ports:       m.ports,
		Endpoints:   m.endpoints,
	}
	maps.Copy(wanted.Labels, e.Labels)
	wanted.Labels[discovery.LabelServiceName], wanted.Labels[discovery.LabelManagedBy] = e.Name, ManagedBy
	maps.Copy(wanted.Annotations, e.Annotations)
	delete(wanted.Annotations, v1.EndpointsLastChangeTriggerTime)
	delete(wanted.Annotations, v1.LastAppliedConfigAnnotation)
	if len(existing) == 0 {
		p.Steps = append(p.Steps, endpointslice.Step{Action: endpointslice.Create, Slice: wanted, Reason: "the subset has no slice"})
		return
	}
	current := existing[0]
	if maps.Equal(current.Labels, wanted.Labels) && maps.Equal(current.Annotations, wanted.Annotations) &&
		apiequality.Semantic.DeepEqual(current.OwnerReferences, wanted.OwnerReferences) &&
		apiequality.Semantic.DeepEqual(current.Endpoints, wanted.Endpoints) {
		return
	}
	updated := current.DeepCopy()
	updated.Labels, updated.Annotations, updated.OwnerReferences = wanted.Labels, wanted.Annotations, wanted.OwnerReferences
	updated.Ports, updated.Endpoints = wanted.Ports, wanted.Endpoints
	p.Steps = append(p.Steps, endpointslice.Step{Action: endpointslice.Update, Slice: updated, Reason: "the subset changed"})
}
