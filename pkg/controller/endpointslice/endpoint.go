package endpointslice

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	netutils "k8s.io/utils/net"

	"skiff/pkg/controller/serving"
	"skiff/pkg/controller/workload"
)

// families are the address types that a service's slices have.
func families(service *v1.Service) []discovery.AddressType {
	var types []discovery.AddressType
	for _, family := range service.Spec.IPFamilies {
		if family == v1.IPv6Protocol {
			types = append(types, discovery.AddressTypeIPv6)
		} else {
			types = append(types, discovery.AddressTypeIPv4)
		}
	}
	switch {
	case len(types) > 0:
		return types
	case service.Spec.ClusterIP == v1.ClusterIPNone || service.Spec.ClusterIP == "":
		// A headless service from before dual stack: whatever addresses its pods have.
		return []discovery.AddressType{discovery.AddressTypeIPv4, discovery.AddressTypeIPv6}
	case netutils.IsIPv6String(service.Spec.ClusterIP):
		return []discovery.AddressType{discovery.AddressTypeIPv6}
	}
	return []discovery.AddressType{discovery.AddressTypeIPv4}
}

func endpointOf(s Snapshot, pod *v1.Pod, family discovery.AddressType) discovery.Endpoint {
	isServing := workload.Ready(pod)
	terminating := pod.DeletionTimestamp != nil
	// A terminating pod is never "ready", for consumers that know only that condition.
	ready := s.Service.Spec.PublishNotReadyAddresses || (isServing && !terminating)
	endpoint := discovery.Endpoint{
		Addresses:  serving.Addresses(pod, family == discovery.AddressTypeIPv6),
		Conditions: discovery.EndpointConditions{Ready: &ready, Serving: &isServing, Terminating: &terminating},
		TargetRef:  &v1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
	}
	if pod.Spec.NodeName != "" {
		endpoint.NodeName = new(pod.Spec.NodeName)
	}
	if zone := s.Zones[pod.Spec.NodeName]; zone != "" {
		endpoint.Zone = &zone
	}
	if name := serving.Hostname(pod, s.Service); name != "" {
		endpoint.Hostname = &name
	}
	endpoint.Hints = hints(s.Service, endpoint)
	return endpoint
}

// hints tell proxies which zones or nodes an endpoint is meant for, as
// spec.trafficDistribution asks: its own. An endpoint without a zone has no hints, by which
// proxies fall back to all endpoints.
func hints(service *v1.Service, endpoint discovery.Endpoint) *discovery.EndpointHints {
	if service.Spec.TrafficDistribution == nil {
		return nil
	}
	h := &discovery.EndpointHints{}
	switch *service.Spec.TrafficDistribution {
	case v1.ServiceTrafficDistributionPreferClose, v1.ServiceTrafficDistributionPreferSameZone:
	case v1.ServiceTrafficDistributionPreferSameNode:
		if endpoint.NodeName != nil {
			h.ForNodes = []discovery.ForNode{{Name: *endpoint.NodeName}}
		}
	default:
		return nil
	}
	if endpoint.Zone != nil {
		h.ForZones = []discovery.ForZone{{Name: *endpoint.Zone}}
	}
	if h.ForNodes == nil && h.ForZones == nil {
		return nil
	}
	return h
}

// portsOf are the service's ports as numbers of this pod; a port that the
// pod doesn't have is left out.
func portsOf(service *v1.Service, pod *v1.Pod) []discovery.EndpointPort {
	ports := []discovery.EndpointPort{}
	for i := range service.Spec.Ports {
		port := &service.Spec.Ports[i]
		number, err := serving.Port(pod, port)
		if err != nil {
			continue
		}
		ports = append(ports, discovery.EndpointPort{
			Name: new(port.Name), Port: &number, Protocol: new(port.Protocol), AppProtocol: port.AppProtocol,
		})
	}
	return ports
}

// PortsKey is the same for the same ports in any order.
func PortsKey(ports []discovery.EndpointPort) string {
	keys := make([]string, 0, len(ports))
	for _, p := range ports {
		keys = append(keys, fmt.Sprintf("%s/%d/%s/%s", deref(p.Name), deref(p.Port), deref(p.Protocol), deref(p.AppProtocol)))
	}
	slices.Sort(keys)
	return strings.Join(keys, ",")
}

func deref[T any](p *T) T {
	var zero T
	if p == nil {
		return zero
	}
	return *p
}

// EndpointKey tells endpoints apart: what they point to, and where.
func EndpointKey(e discovery.Endpoint) string {
	key := strings.Join(e.Addresses, ",")
	if e.TargetRef != nil {
		key += "/" + e.TargetRef.Namespace + "/" + e.TargetRef.Name + "/" + string(e.TargetRef.UID)
	}
	return key
}

func same(a, b discovery.Endpoint) bool {
	if a.TargetRef != nil && b.TargetRef != nil {
		target := *a.TargetRef
		target.ResourceVersion = cmp.Or(b.TargetRef.ResourceVersion, "") // older controllers recorded it
		a.TargetRef = &target
	}
	return apiequality.Semantic.DeepEqual(a, b)
}
