package proxy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

// serviceProxyName is the label of services (and their slices) that another
// proxy serves (KEP-2447).
const serviceProxyName = "service.kubernetes.io/service-proxy-name"

// Node is what compiling must know of the node it is for.
type Node struct {
	Name string
	Zone string // the label topology.kubernetes.io/zone
}

// Problem is a part of a service that can't be honoured, as an event says it.
type Problem struct {
	Reason  string
	Message string
}

// Compile makes the table of all services. Slices are matched to services by
// their label and namespace.
func Compile(services []*corev1.Service, all []*discoveryv1.EndpointSlice, node Node) *Table {
	byService := map[types.NamespacedName][]*discoveryv1.EndpointSlice{}
	for _, slice := range all {
		name := serviceOf(slice)
		byService[name] = append(byService[name], slice)
	}
	table := NewTable()
	for _, service := range services {
		name := types.NamespacedName{Namespace: service.Namespace, Name: service.Name}
		rules, _ := CompileService(service, byService[name], node)
		table.Set(name, rules)
	}
	return table
}

// serviceOf is the service that a slice belongs to; its name is empty if none.
func serviceOf(slice *discoveryv1.EndpointSlice) types.NamespacedName {
	return types.NamespacedName{Namespace: slice.Namespace, Name: slice.Labels[discoveryv1.LabelServiceName]}
}

// CompileService makes the rules of one service. It is pure.
func CompileService(service *corev1.Service, endpointSlices []*discoveryv1.EndpointSlice, node Node) (map[Frontend]Rule, []Problem) {
	spec := &service.Spec
	if _, others := service.Labels[serviceProxyName]; others || spec.Type == corev1.ServiceTypeExternalName ||
		spec.ClusterIP == "" || spec.ClusterIP == corev1.ClusterIPNone {
		return nil, nil
	}
	internal, external, problems := vips(service)
	rules := map[Frontend]Rule{}
	for i := range spec.Ports {
		port := &spec.Ports[i]
		protocol, ok := protocolOf(port.Protocol)
		if !ok {
			problems = append(problems, Problem{"UnsupportedProtocol", fmt.Sprintf("port %d: protocol %s is not supported by this node's proxy", port.Port, port.Protocol)})
			continue
		}
		c := categorize(service, port, endpointSlices, node)
		add := func(address netip.Addr, number int32, rule Rule) {
			rule.Port, rule.Endpoints = fmt.Sprintf("%s/%s:%s", service.Namespace, service.Name, port.Name), c.endpoints
			rules[Frontend{Addr: address, Protocol: protocol, Port: uint16(number)}] = rule
		}
		for _, address := range internal {
			add(address, port.Port, Rule{Default: c.internal()})
		}
		for _, address := range external {
			rule := c.external()
			rule.Sources = address.sources
			add(address.Addr, port.Port, rule)
		}
		if port.NodePort != 0 && spec.Type != corev1.ServiceTypeClusterIP {
			add(netip.IPv4Unspecified(), port.NodePort, c.external())
		}
	}
	return rules, problems
}

// externalVIP is an address from outside, with the clients that may use it.
type externalVIP struct {
	netip.Addr
	sources []netip.Prefix
}

// vips collects the service's IPv4 addresses.
func vips(service *corev1.Service) (internal []netip.Addr, external []externalVIP, problems []Problem) {
	spec := &service.Spec
	clusterIPs := spec.ClusterIPs
	if len(clusterIPs) == 0 {
		clusterIPs = []string{spec.ClusterIP}
	}
	for _, text := range clusterIPs {
		if address, err := netip.ParseAddr(text); err == nil && address.Is4() {
			internal = append(internal, address)
		}
	}
	if len(internal) == 0 {
		problems = append(problems, Problem{"UnsupportedIPFamily", fmt.Sprintf("cluster addresses %s: only IPv4 is supported by this node's proxy", strings.Join(clusterIPs, ", "))})
	}
	for _, text := range spec.ExternalIPs {
		if address, err := netip.ParseAddr(text); err == nil && address.Is4() {
			external = append(external, externalVIP{Addr: address})
		}
	}
	if spec.Type != corev1.ServiceTypeLoadBalancer {
		return internal, external, problems
	}
	var sources []netip.Prefix
	for _, text := range spec.LoadBalancerSourceRanges {
		// Validation has let surrounding blanks pass since the beginning.
		if prefix, err := netip.ParsePrefix(strings.TrimSpace(text)); err == nil && prefix.Addr().Is4() {
			sources = append(sources, prefix.Masked())
		}
	}
	slices.SortFunc(sources, netip.Prefix.Compare)
	sources = slices.Compact(sources)
	if len(sources) == 0 && len(spec.LoadBalancerSourceRanges) > 0 {
		// Ranges of the other family only: nobody of this one is allowed.
		sources = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 32)}
	}
	for _, ingress := range service.Status.LoadBalancer.Ingress {
		if ingress.IPMode != nil && *ingress.IPMode == corev1.LoadBalancerIPModeProxy {
			continue // KEP-1860: the load balancer wants to see its traffic itself
		}
		if address, err := netip.ParseAddr(ingress.IP); err == nil && address.Is4() {
			external = append(external, externalVIP{address, sources})
		}
	}
	return internal, external, problems
}

func protocolOf(protocol corev1.Protocol) (Protocol, bool) {
	switch protocol {
	case corev1.ProtocolTCP, "":
		return TCP, true
	case corev1.ProtocolUDP:
		return UDP, true
	}
	return 0, false
}

// categorized is a service port with its usable endpoints.
type categorized struct {
	internalLocal, externalLocal bool
	affinity                     time.Duration

	endpoints []Endpoint // by class, then by address
	any       bool       // some node has an endpoint that some policy could use
	local     pick
	cluster   pick
}

// pick is a range of endpoints.
type pick struct{ first, count int }

func (c *categorized) internal() Action {
	if c.internalLocal {
		return c.action(c.local, NonPods)
	}
	return c.action(c.cluster, NonPods)
}

func (c *categorized) external() Rule {
	if !c.externalLocal {
		return Rule{Default: c.action(c.cluster, Always)}
	}
	// Local policy keeps the client's address and this node's endpoints for
	// clients from outside; pods and the node itself take the short way to any.
	outside := c.action(c.local, Never)
	return Rule{Default: c.action(c.cluster, NonPods), Outside: &outside}
}

func (c *categorized) action(from pick, masquerade Masquerade) Action {
	switch {
	case !c.any:
		return Action{Verdict: Reject}
	case from.count == 0:
		return Action{Verdict: Drop}
	}
	return Action{Verdict: Forward, Masquerade: masquerade, First: from.first, Count: from.count, Affinity: c.affinity}
}

// candidate is an endpoint as a slice has it.
type candidate struct {
	address                     netip.AddrPort
	local                       bool
	ready, serving, terminating bool
	zones                       []discoveryv1.ForZone
	nodes                       []discoveryv1.ForNode
}

// fallback says that the endpoint may serve while none is ready (KEP-1669).
func (c candidate) fallback() bool { return !c.ready && c.serving && c.terminating }

// categorize chooses a port's endpoints by policy, readiness and topology.
func categorize(service *corev1.Service, port *corev1.ServicePort, endpointSlices []*discoveryv1.EndpointSlice, node Node) *categorized {
	spec := &service.Spec
	outer := port.NodePort != 0 || len(spec.ExternalIPs) > 0 || spec.Type == corev1.ServiceTypeLoadBalancer
	c := &categorized{
		internalLocal: spec.InternalTrafficPolicy != nil && *spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal,
		externalLocal: outer && spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal,
	}
	if spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		c.affinity = time.Duration(corev1.DefaultClientIPServiceAffinitySeconds) * time.Second
		if config := spec.SessionAffinityConfig; config != nil && config.ClientIP != nil && config.ClientIP.TimeoutSeconds != nil {
			c.affinity = time.Duration(*config.ClientIP.TimeoutSeconds) * time.Second
		}
	}
	all := candidates(port, endpointSlices, node.Name)
	chosen := map[netip.AddrPort]*Endpoint{}
	choose := func(from candidate) *Endpoint {
		endpoint := chosen[from.address]
		if endpoint == nil {
			endpoint = &Endpoint{AddrPort: from.address, Local: from.local}
			chosen[from.address] = endpoint
		}
		return endpoint
	}
	for _, one := range all {
		c.any = c.any || one.ready || one.fallback()
	}
	if !c.internalLocal || outer { // local policy for outside still has the short way
		near := nearness(all, node)
		for _, one := range best(all, near) {
			choose(one).ForCluster = true
		}
	}
	if c.internalLocal || c.externalLocal {
		for _, one := range best(all, func(one candidate) bool { return one.local }) {
			choose(one).ForLocal = true
		}
	}
	counts := [3]int{}
	for _, endpoint := range chosen {
		c.endpoints = append(c.endpoints, *endpoint)
		counts[endpoint.class()]++
	}
	slices.SortFunc(c.endpoints, func(a, b Endpoint) int {
		return cmp.Or(cmp.Compare(a.class(), b.class()), a.AddrPort.Compare(b.AddrPort))
	})
	c.local = pick{0, counts[0] + counts[1]}
	c.cluster = pick{counts[0], counts[1] + counts[2]}
	return c
}

// candidates collects the endpoints of a port, each once.
func candidates(port *corev1.ServicePort, endpointSlices []*discoveryv1.EndpointSlice, nodeName string) []candidate {
	found := map[netip.AddrPort]candidate{}
	for _, slice := range endpointSlices {
		if slice.AddressType != discoveryv1.AddressTypeIPv4 {
			continue
		}
		number := portNumber(port, slice.Ports)
		if number == 0 {
			continue
		}
		for i := range slice.Endpoints {
			endpoint := &slice.Endpoints[i]
			if len(endpoint.Addresses) == 0 {
				continue
			}
			address, err := netip.ParseAddr(endpoint.Addresses[0])
			if err != nil || !address.Is4() {
				continue
			}
			conditions := endpoint.Conditions
			one := candidate{
				address:     netip.AddrPortFrom(address, number),
				local:       endpoint.NodeName != nil && *endpoint.NodeName == nodeName,
				ready:       conditions.Ready == nil || *conditions.Ready,
				serving:     conditions.Serving == nil || *conditions.Serving,
				terminating: conditions.Terminating != nil && *conditions.Terminating,
			}
			if endpoint.Hints != nil {
				one.zones, one.nodes = endpoint.Hints.ForZones, endpoint.Hints.ForNodes
			}
			// One address can stand in two slices while it moves, or belong to a
			// dying pod and to its successor: the living one is right.
			if _, twice := found[one.address]; !twice || !one.terminating {
				found[one.address] = one
			}
		}
	}
	all := make([]candidate, 0, len(found))
	for _, one := range found {
		all = append(all, one)
	}
	return all
}

// portNumber finds a service port in a slice, by name and protocol.
func portNumber(port *corev1.ServicePort, ports []discoveryv1.EndpointPort) uint16 {
	want, _ := protocolOf(port.Protocol)
	for _, candidate := range ports {
		name, protocol := "", TCP
		if candidate.Name != nil {
			name = *candidate.Name
		}
		if candidate.Protocol != nil {
			protocol, _ = protocolOf(*candidate.Protocol)
		}
		if name == port.Name && protocol == want && candidate.Port != nil {
			return uint16(*candidate.Port)
		}
	}
	return 0
}

// best returns the ready endpoints that fit, or else the fitting ones that
// still serve while they terminate.
func best(all []candidate, fits func(candidate) bool) []candidate {
	var ready, terminating []candidate
	for _, one := range all {
		switch {
		case !fits(one):
		case one.ready:
			ready = append(ready, one)
		case one.fallback():
			terminating = append(terminating, one)
		}
	}
	if len(ready) > 0 {
		return ready
	}
	return terminating
}

// nearness turns the hints of the slices into a filter (KEP-2433, KEP-3015):
// hints count only when every ready endpoint has one and some are for us.
func nearness(all []candidate, node Node) func(candidate) bool {
	forNode := func(one candidate) bool {
		return slices.ContainsFunc(one.nodes, func(hint discoveryv1.ForNode) bool { return hint.Name == node.Name })
	}
	forZone := func(one candidate) bool {
		return slices.ContainsFunc(one.zones, func(hint discoveryv1.ForZone) bool { return hint.Name == node.Zone })
	}
	allNodes, allZones, someNode, someZone, ready := true, true, false, false, false
	for _, one := range all {
		if !one.ready {
			continue
		}
		ready = true
		allNodes, allZones = allNodes && len(one.nodes) > 0, allZones && len(one.zones) > 0
		someNode, someZone = someNode || forNode(one), someZone || forZone(one)
	}
	switch {
	case ready && allNodes && someNode:
		return forNode
	case ready && allZones && someZone:
		return forZone
	}
	return func(candidate) bool { return true }
}

// HealthCheck returns the service's health check port and the number of ready
// endpoints on this node; the port is 0 if it has none.
func HealthCheck(service *corev1.Service, endpointSlices []*discoveryv1.EndpointSlice, node Node) (port uint16, local int) {
	spec := &service.Spec
	if spec.Type != corev1.ServiceTypeLoadBalancer || spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
		return 0, 0
	}
	seen := map[netip.Addr]bool{}
	for i := range spec.Ports {
		for _, one := range candidates(&spec.Ports[i], endpointSlices, node.Name) {
			if one.local && one.ready {
				seen[one.address.Addr()] = true
			}
		}
	}
	return uint16(spec.HealthCheckNodePort), len(seen)
}
