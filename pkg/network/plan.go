package network

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Local is what a plan must know of the node it is for.
type Local struct {
	NodeName string
	NodeIP   netip.Addr
	PodCIDR  netip.Prefix
	// OnLink are the prefixes of the uplink: nodes within are neighbours.
	OnLink       []netip.Prefix
	ClusterCIDRs []netip.Prefix
	ServiceCIDRs []netip.Prefix
}

// State is what lies between nodes: wanted by a plan, or programmed.
type State struct {
	// Routes by destination.
	Routes map[netip.Prefix]Route
	// Peers are the tunnel's far ends by their address in it, the first of
	// their pod range (which no pod ever has).
	Peers map[netip.Addr]Peer
	// Nodes are the addresses that pods reach under their own address.
	Nodes map[netip.Addr]bool
}

// Route is how one prefix is reached.
type Route struct {
	Kind RouteKind
	Via  netip.Addr // the next hop: a node's address, or its address in the tunnel
}

// RouteKind tells the ways apart.
type RouteKind string

// The kinds of routes.
const (
	Direct      RouteKind = "direct"      // via a node on the same link
	Tunnel      RouteKind = "vxlan"       // via skiff.vxlan
	Service     RouteKind = "service"     // to the bridge, so that the node's own calls get as far as NAT
	Unreachable RouteKind = "unreachable" // a range of ours of which nothing more is known
)

// Peer is the far end of a tunnel.
type Peer struct {
	MAC    string
	NodeIP netip.Addr
}

// Step is one change of the kernel's state, and why.
type Step struct {
	Remove bool
	// Exactly one of these is meant: a route, a peer of the tunnel, a node's address.
	Prefix netip.Prefix
	Route  Route
	Remote netip.Addr
	Peer   Peer
	Node   netip.Addr
	Reason string
}

// Plan says what the kernel of a node should hold, given all nodes. Nodes that
// can't be reached yet are left out, with an error each where that is a fault
// (and none where a node merely has no address or pod range yet).
func Plan(local Local, nodes []*corev1.Node) (State, []error) {
	want := State{Routes: map[netip.Prefix]Route{}, Peers: map[netip.Addr]Peer{}, Nodes: map[netip.Addr]bool{}}
	var refused []error
	for _, prefix := range append([]netip.Prefix{local.PodCIDR}, local.ClusterCIDRs...) {
		want.Routes[prefix] = Route{Kind: Unreachable}
	}
	for _, prefix := range local.ServiceCIDRs {
		want.Routes[prefix] = Route{Kind: Service}
	}
	// In the order of names, so that of two nodes with one range the same wins everywhere.
	nodes = slices.Clone(nodes)
	slices.SortFunc(nodes, func(a, b *corev1.Node) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	for _, node := range nodes {
		for _, address := range nodeAddresses(node) {
			want.Nodes[address] = true
		}
		if node.Name == local.NodeName {
			continue
		}
		nodeIP, known := internalIP(node)
		podCIDR, err := podRange(node)
		if !known || errors.Is(err, errNoPodRange) {
			continue
		}
		if err != nil {
			refused = append(refused, err)
			continue
		}
		if clash := overlap(podCIDR, local.PodCIDR, want.Routes); clash != "" {
			refused = append(refused, fmt.Errorf("network: node %q has pod range %s, which overlaps %s", node.Name, podCIDR, clash))
			continue
		}
		if slices.ContainsFunc(local.OnLink, func(p netip.Prefix) bool { return p.Contains(nodeIP) }) {
			want.Routes[podCIDR] = Route{Kind: Direct, Via: nodeIP}
			continue
		}
		remote := podCIDR.Masked().Addr()
		want.Routes[podCIDR] = Route{Kind: Tunnel, Via: remote}
		want.Peers[remote] = Peer{MAC: tunnelMAC(remote).String(), NodeIP: nodeIP}
	}
	return want, refused
}

// overlap names what else holds a part of prefix, if anything does.
func overlap(prefix, own netip.Prefix, routes map[netip.Prefix]Route) string {
	if prefix.Overlaps(own) {
		return "this node's " + own.String()
	}
	for other, route := range routes {
		if route.Kind != Unreachable && prefix.Overlaps(other) {
			return fmt.Sprintf("%s (%s)", other, route.Kind)
		}
	}
	return ""
}

// Steps leads from what is programmed to what is wanted. Ways are opened
// before others are closed, and a tunnel's far end stands before its route.
func Steps(have, want State) []Step {
	var steps []Step
	for _, address := range sortedAddrs(want.Nodes) {
		if !have.Nodes[address] {
			steps = append(steps, Step{Node: address, Reason: "a node's address"})
		}
	}
	for _, remote := range sortedAddrs(want.Peers) {
		if peer := want.Peers[remote]; have.Peers[remote] != peer {
			steps = append(steps, Step{Remote: remote, Peer: peer, Reason: "a node on another link"})
		}
	}
	for _, prefix := range sortedPrefixes(want.Routes) {
		if route := want.Routes[prefix]; have.Routes[prefix] != route {
			steps = append(steps, Step{Prefix: prefix, Route: route, Reason: route.reason()})
		}
	}
	for _, prefix := range sortedPrefixes(have.Routes) {
		if _, stays := want.Routes[prefix]; !stays {
			steps = append(steps, Step{Remove: true, Prefix: prefix, Route: have.Routes[prefix], Reason: "no node has this range"})
		}
	}
	for _, remote := range sortedAddrs(have.Peers) {
		if _, stays := want.Peers[remote]; !stays {
			steps = append(steps, Step{Remove: true, Remote: remote, Peer: have.Peers[remote], Reason: "the node is gone, or on this link now"})
		}
	}
	for _, address := range sortedAddrs(have.Nodes) {
		if !want.Nodes[address] {
			steps = append(steps, Step{Remove: true, Node: address, Reason: "no node has this address"})
		}
	}
	return steps
}

func (r Route) reason() string {
	switch r.Kind {
	case Direct:
		return "a node on this link"
	case Tunnel:
		return "a node on another link"
	case Service:
		return "service addresses"
	default:
		return "nothing of the cluster's ranges strays"
	}
}

func (s Step) String() string {
	verb := "add"
	if s.Remove {
		verb = "remove"
	}
	switch {
	case s.Node.IsValid():
		return fmt.Sprintf("%s node %s: %s", verb, s.Node, s.Reason)
	case s.Remote.IsValid():
		return fmt.Sprintf("%s peer %s %s at %s: %s", verb, s.Remote, s.Peer.MAC, s.Peer.NodeIP, s.Reason)
	case s.Route.Via.IsValid():
		return fmt.Sprintf("%s route %s %s via %s: %s", verb, s.Prefix, s.Route.Kind, s.Route.Via, s.Reason)
	}
	return fmt.Sprintf("%s route %s %s: %s", verb, s.Prefix, s.Route.Kind, s.Reason)
}

// with returns the state after a step.
func (s State) with(step Step) {
	switch {
	case step.Node.IsValid():
		set(s.Nodes, step.Node, true, step.Remove)
	case step.Remote.IsValid():
		set(s.Peers, step.Remote, step.Peer, step.Remove)
	default:
		set(s.Routes, step.Prefix, step.Route, step.Remove)
	}
}

func set[K comparable, V any](m map[K]V, key K, value V, remove bool) {
	if remove {
		delete(m, key)
		return
	}
	m[key] = value
}

var errNoPodRange = errors.New("no pod range yet")

// podRange is the IPv4 range of a node's pods.
func podRange(node *corev1.Node) (netip.Prefix, error) {
	ranges := node.Spec.PodCIDRs
	if len(ranges) == 0 && node.Spec.PodCIDR != "" {
		ranges = []string{node.Spec.PodCIDR}
	}
	if len(ranges) == 0 {
		return netip.Prefix{}, fmt.Errorf("network: node %q: %w", node.Name, errNoPodRange)
	}
	for _, text := range ranges {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return netip.Prefix{}, fmt.Errorf("network: node %q: pod range: %w", node.Name, err)
		}
		if prefix.Addr().Is4() {
			if prefix.Bits() > 30 {
				return netip.Prefix{}, fmt.Errorf("network: node %q: pod range %s has no room for a pod", node.Name, prefix)
			}
			return prefix.Masked(), nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("network: node %q has pod ranges %v, but only IPv4 is supported", node.Name, ranges)
}

// internalIP is the IPv4 address under which other nodes reach this one.
func internalIP(node *corev1.Node) (netip.Addr, bool) {
	for _, address := range node.Status.Addresses {
		if ip, err := netip.ParseAddr(address.Address); err == nil && address.Type == corev1.NodeInternalIP && ip.Is4() {
			return ip, true
		}
	}
	return netip.Addr{}, false
}

func nodeAddresses(node *corev1.Node) []netip.Addr {
	var all []netip.Addr
	for _, address := range node.Status.Addresses {
		if ip, err := netip.ParseAddr(address.Address); err == nil && ip.Is4() {
			all = append(all, ip)
		}
	}
	return all
}

// sameNetwork says whether two states of a node ask for the same plan.
func sameNetwork(a, b *corev1.Node) bool {
	return a.Spec.PodCIDR == b.Spec.PodCIDR && slices.Equal(a.Spec.PodCIDRs, b.Spec.PodCIDRs) &&
		slices.Equal(nodeAddresses(a), nodeAddresses(b))
}

// podMAC and tunnelMAC follow from addresses, so that nobody has to be told.
// Both are locally administered; 0a:58 is what bridges of pods carry elsewhere too.
func podMAC(address netip.Addr) net.HardwareAddr {
	b := address.As4()
	return net.HardwareAddr{0x0a, 0x58, b[0], b[1], b[2], b[3]}
}

func tunnelMAC(address netip.Addr) net.HardwareAddr {
	b := address.As4()
	return net.HardwareAddr{0x0a, 0x59, b[0], b[1], b[2], b[3]}
}

func sortedAddrs[V any](m map[netip.Addr]V) []netip.Addr {
	return slices.SortedFunc(maps.Keys(m), netip.Addr.Compare)
}

func sortedPrefixes[V any](m map[netip.Prefix]V) []netip.Prefix {
	return slices.SortedFunc(maps.Keys(m), netip.Prefix.Compare)
}
