package endpoints

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	netutils "k8s.io/utils/net"

	"skiff/pkg/controller/serving"
	"skiff/pkg/controller/workload"
)

const (
	// maxCapacity is how many addresses one object may have; what is beyond is cut off and
	// the object annotated.
	maxCapacity = 1000
	// labelManagedBy and managedBy mark the objects that this reconciler writes.
	labelManagedBy = "endpoints.kubernetes.io/managed-by"
	managedBy      = "endpoint-controller"
)

// Snapshot is what a plan is made from.
type Snapshot struct {
	Service     *v1.Service
	Pods        []*v1.Pod
	Current     *v1.Endpoints // nil: there is none
	TriggerTime time.Time     // zero: unknown
}

// Plan is the object to write; nil when the current one is right.
type Plan struct {
	Write  *v1.Endpoints
	Create bool
	Reason string
}

// Decide works out what the service's Endpoints should be.
func Decide(s Snapshot) Plan {
	current := s.Current
	p := Plan{Reason: "addresses or labels changed"}
	if current == nil {
		p.Create, p.Reason = true, "the service has no Endpoints"
		current = &v1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: s.Service.Name, Namespace: s.Service.Namespace}}
	}
	wanted := current.DeepCopy()
	wanted.Labels = labelsFor(s.Service)
	wanted.Subsets = subsets(s)
	if wanted.Annotations == nil {
		wanted.Annotations = map[string]string{}
	}
	delete(wanted.Annotations, v1.EndpointsOverCapacity)
	if truncate(wanted.Subsets) {
		wanted.Annotations[v1.EndpointsOverCapacity] = "truncated"
	}
	if !p.Create && maps.Equal(current.Labels, wanted.Labels) &&
		current.Annotations[v1.EndpointsOverCapacity] == wanted.Annotations[v1.EndpointsOverCapacity] &&
		apiequality.Semantic.DeepEqual(Canonical(current.Subsets), wanted.Subsets) {
		return Plan{}
	}
	delete(wanted.Annotations, v1.EndpointsLastChangeTriggerTime)
	if !s.TriggerTime.IsZero() {
		wanted.Annotations[v1.EndpointsLastChangeTriggerTime] = s.TriggerTime.UTC().Format(time.RFC3339Nano)
	}
	p.Write = wanted
	return p
}

func labelsFor(service *v1.Service) map[string]string {
	labels := maps.Clone(service.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	delete(labels, v1.IsHeadlessService)
	if serving.Headless(service) {
		labels[v1.IsHeadlessService] = ""
	}
	labels[labelManagedBy] = managedBy
	return labels
}

// subsets are one per set of addresses that share a set of ports.
func subsets(s Snapshot) []v1.EndpointSubset {
	var single []v1.EndpointSubset
	for _, pod := range s.Pods {
		publish := s.Service.Spec.PublishNotReadyAddresses
		address, ok := addressOf(s.Service, pod)
		if !ok || !serving.Include(pod, publish) {
			continue
		}
		add := func(ports ...v1.EndpointPort) {
			subset := v1.EndpointSubset{Ports: ports}
			if publish || workload.Ready(pod) {
				subset.Addresses = []v1.EndpointAddress{address}
			} else {
				subset.NotReadyAddresses = []v1.EndpointAddress{address}
			}
			single = append(single, subset)
		}
		if len(s.Service.Spec.Ports) == 0 && s.Service.Spec.ClusterIP == v1.ClusterIPNone {
			add()
		}
		for i := range s.Service.Spec.Ports {
			port := &s.Service.Spec.Ports[i]
			if number, err := serving.Port(pod, port); err == nil {
				add(v1.EndpointPort{Name: port.Name, Port: number, Protocol: port.Protocol, AppProtocol: port.AppProtocol})
			}
		}
	}
	return Canonical(single)
}

// addressOf is the pod's address of the service's first family.
func addressOf(service *v1.Service, pod *v1.Pod) (v1.EndpointAddress, bool) {
	ipv6 := netutils.IsIPv6String(service.Spec.ClusterIP)
	if len(service.Spec.IPFamilies) > 0 {
		ipv6 = service.Spec.IPFamilies[0] == v1.IPv6Protocol
	} else if service.Spec.ClusterIP == v1.ClusterIPNone || service.Spec.ClusterIP == "" {
		ipv6 = netutils.IsIPv6String(pod.Status.PodIP)
	}
	addresses := serving.Addresses(pod, ipv6)
	if len(addresses) == 0 {
		return v1.EndpointAddress{}, false
	}
	address := v1.EndpointAddress{
		IP:        addresses[0],
		Hostname:  serving.Hostname(pod, service),
		TargetRef: &v1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
	}
	if pod.Spec.NodeName != "" {
		address.NodeName = new(pod.Spec.NodeName)
	}
	return address, true
}

// endpoint is one address at one port. An address without ports has the zero port.
type endpoint struct {
	address v1.EndpointAddress
	ready   bool
}

// Canonical merges subsets so that each set of addresses stands once, with all
// its ports, in a fixed order. An address that is ready and not ready at one port is not ready.
func Canonical(all []v1.EndpointSubset) []v1.EndpointSubset {
	type place struct {
		port      v1.EndpointPort
		addresses map[string]endpoint
	}
	byPort := map[string]*place{}
	for _, subset := range all {
		ports := subset.Ports
		if len(ports) == 0 {
			ports = []v1.EndpointPort{{}}
		}
		for _, port := range ports {
			key := portKey(port)
			if byPort[key] == nil {
				byPort[key] = &place{port: port, addresses: map[string]endpoint{}}
			}
			for _, address := range subset.Addresses {
				if _, known := byPort[key].addresses[addressKey(address)]; !known {
					byPort[key].addresses[addressKey(address)] = endpoint{address, true}
				}
			}
			for _, address := range subset.NotReadyAddresses {
				byPort[key].addresses[addressKey(address)] = endpoint{address, false}
			}
		}
	}
	merged := map[string]*v1.EndpointSubset{}
	for _, key := range slices.Sorted(maps.Keys(byPort)) {
		place := byPort[key]
		var identity strings.Builder
		subset := &v1.EndpointSubset{}
		for _, addressKey := range slices.Sorted(maps.Keys(place.addresses)) {
			e := place.addresses[addressKey]
			fmt.Fprintf(&identity, "%s %t;", addressKey, e.ready)
			if e.ready {
				subset.Addresses = append(subset.Addresses, e.address)
			} else {
				subset.NotReadyAddresses = append(subset.NotReadyAddresses, e.address)
			}
		}
		if merged[identity.String()] == nil {
			merged[identity.String()] = subset
		}
		if place.port.Port != 0 {
			m := merged[identity.String()]
			m.Ports = append(m.Ports, place.port)
		}
	}
	result := make([]v1.EndpointSubset, 0, len(merged))
	for _, key := range slices.Sorted(maps.Keys(merged)) {
		result = append(result, *merged[key])
	}
	slices.SortStableFunc(result, func(a, b v1.EndpointSubset) int { return cmp.Compare(firstPort(a), firstPort(b)) })
	return result
}

func firstPort(s v1.EndpointSubset) string {
	if len(s.Ports) == 0 {
		return ""
	}
	return portKey(s.Ports[0])
}

func portKey(p v1.EndpointPort) string {
	app := ""
	if p.AppProtocol != nil {
		app = *p.AppProtocol
	}
	return fmt.Sprintf("%s/%05d/%s/%s", p.Name, p.Port, p.Protocol, app)
}

// addressKey tells addresses apart also where several pods share one (the host's network).
func addressKey(a v1.EndpointAddress) string {
	if a.TargetRef == nil {
		return a.IP
	}
	return a.IP + "/" + string(a.TargetRef.UID)
}

// truncate cuts the subsets to [maxCapacity] addresses in all, each in
// proportion, those that aren't ready first. It reports whether it had to.
func truncate(subsets []v1.EndpointSubset) bool {
	ready, notReady := 0, 0
	for _, subset := range subsets {
		ready += len(subset.Addresses)
		notReady += len(subset.NotReadyAddresses)
	}
	if ready+notReady <= maxCapacity {
		return false
	}
	room, of := maxCapacity-ready, notReady
	if ready > maxCapacity {
		room, of = maxCapacity, ready
	}
	left := room
	cut := func(addresses []v1.EndpointAddress) []v1.EndpointAddress {
		share := int(math.Ceil(float64(len(addresses)) / float64(of) * float64(room)))
		addresses = addresses[:min(len(addresses), share, left)]
		left -= len(addresses)
		return addresses
	}
	for i := range subsets {
		if ready > maxCapacity {
			subsets[i].Addresses = cut(subsets[i].Addresses)
			subsets[i].NotReadyAddresses = nil
		} else {
			subsets[i].NotReadyAddresses = cut(subsets[i].NotReadyAddresses)
		}
	}
	return true
}
