package network

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

const (
	// routeProtocol marks our routes in the kernel's table (see rtnetlink(7)),
	// so that a restarted agent knows them from everybody else's.
	routeProtocol = 83
	// Unreachable ranges stand behind every real route.
	unreachableMetric = 0xfffffffe
	// vxlanOverhead is what the outer IPv4, UDP, VXLAN and inner Ethernet
	// headers take (RFC 7348).
	vxlanOverhead = 50
)

// setUp makes the node's own part: sysctls, the bridge with the gateway, the
// table of nftables, and what pods of a previous run hold. It may be repeated.
func (n *Network) setUp(own *corev1.Node) error {
	podCIDR, err := podRange(own)
	if err != nil {
		return err
	}
	if err := n.config.supported(); err != nil {
		return err
	}
	nodeIP, ok := internalIP(own)
	if !ok {
		return fmt.Errorf("network: node %q has no IPv4 InternalIP yet", own.Name)
	}
	if n.handle == nil {
		if n.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return fmt.Errorf("network: opening netlink: %w", err)
		}
	}
	onLink, mtu, err := n.uplink(nodeIP)
	if err != nil {
		return err
	}
	if err := n.addresses.open(podCIDR); err != nil {
		return err
	}
	gateway := podCIDR.Addr().Next()
	if n.bridge, err = n.ensureBridge(gateway, mtu); err != nil {
		return err
	}
	if err := n.ensureLocalAddresses(); err != nil {
		return err
	}
	if err := setSysctls(n.config.Bridge); err != nil {
		return err
	}
	n.local = Local{
		NodeName: n.config.NodeName, NodeIP: nodeIP, PodCIDR: podCIDR, OnLink: onLink,
		ClusterCIDRs: n.config.ClusterCIDRs, ServiceCIDRs: n.config.ServiceCIDRs,
	}
	n.mtu.Store(int64(mtu))
	if err := n.filter.reset(n.config.Bridge, n.local, n.addresses.hostPorts()); err != nil {
		return fmt.Errorf("network: programming nftables: %w", err)
	}
	return nil
}

// supported refuses what only a later version might do.
func (c *Config) supported() error {
	for _, prefix := range append(slices.Clone(c.ClusterCIDRs), c.ServiceCIDRs...) {
		if !prefix.IsValid() || !prefix.Addr().Is4() {
			return fmt.Errorf("network: range %s: only IPv4 is supported", prefix)
		}
	}
	for _, address := range c.LocalAddresses {
		if !address.Is4() {
			return fmt.Errorf("network: local address %s: only IPv4 is supported", address)
		}
	}
	return nil
}

// uplink finds the prefixes and the MTU of the link that holds the node's address.
func (n *Network) uplink(nodeIP netip.Addr) ([]netip.Prefix, int, error) {
	all, err := n.handle.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, 0, fmt.Errorf("network: listing addresses: %w", err)
	}
	index := 0
	for _, address := range all {
		if address.IP.Equal(nodeIP.AsSlice()) {
			index = address.LinkIndex
		}
	}
	if index == 0 {
		return nil, 0, fmt.Errorf("network: the node's address %s is on none of its interfaces", nodeIP)
	}
	link, err := n.handle.LinkByIndex(index)
	if err != nil {
		return nil, 0, fmt.Errorf("network: reading the uplink: %w", err)
	}
	mtu := link.Attrs().MTU
	if link.Attrs().Flags&net.FlagLoopback != 0 {
		return nil, min(mtu, 1500), nil // nobody else is on lo
	}
	var onLink []netip.Prefix
	for _, address := range all {
		ones, bits := address.Mask.Size()
		if address.LinkIndex == index && bits == 32 && ones < 32 {
			ip, _ := netip.AddrFromSlice(address.IP.To4())
			onLink = append(onLink, netip.PrefixFrom(ip, ones).Masked())
		}
	}
	return onLink, mtu, nil
}

func (n *Network) ensureBridge(gateway netip.Addr, mtu int) (*netlink.Bridge, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr, attrs.MTU = n.config.Bridge, podMAC(gateway), mtu
	snoop := false
	bridge := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snoop}
	if err := n.handle.LinkAdd(bridge); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("network: making bridge %s: %w", attrs.Name, err)
	}
	link, err := n.handle.LinkByName(attrs.Name)
	if err != nil {
		return nil, fmt.Errorf("network: reading bridge %s: %w", attrs.Name, err)
	}
	found, ok := link.(*netlink.Bridge)
	if !ok {
		return nil, fmt.Errorf("network: %s exists and is a %s, not a bridge", attrs.Name, link.Type())
	}
	if found.HardwareAddr.String() != attrs.HardwareAddr.String() {
		if err := n.handle.LinkSetHardwareAddr(found, attrs.HardwareAddr); err != nil {
			return nil, fmt.Errorf("network: setting the address of %s: %w", attrs.Name, err)
		}
		found.HardwareAddr = attrs.HardwareAddr
	}
	// The gateway of an older pod range would go on answering.
	old, err := n.handle.AddrList(found, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("network: listing addresses of %s: %w", attrs.Name, err)
	}
	for _, address := range old {
		if !address.IP.Equal(gateway.AsSlice()) {
			if err := n.handle.AddrDel(found, &address); err != nil {
				return nil, fmt.Errorf("network: removing %s from %s: %w", address.IP, attrs.Name, err)
			}
		}
	}
	if err := n.handle.AddrReplace(found, &netlink.Addr{IPNet: hostNet(gateway)}); err != nil {
		return nil, fmt.Errorf("network: setting the gateway %s: %w", gateway, err)
	}
	if err := n.handle.LinkSetUp(found); err != nil {
		return nil, fmt.Errorf("network: starting %s: %w", attrs.Name, err)
	}
	return found, nil
}

// ensureLocalAddresses makes service addresses the node's own. Their scope
// keeps them from ever being chosen as a source.
func (n *Network) ensureLocalAddresses() error {
	lo, err := n.handle.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("network: finding lo: %w", err)
	}
	for _, address := range n.config.LocalAddresses {
		if err := n.handle.AddrReplace(lo, &netlink.Addr{IPNet: hostNet(address), Scope: unix.RT_SCOPE_HOST}); err != nil {
			return fmt.Errorf("network: setting the local address %s: %w", address, err)
		}
	}
	return nil
}

// setSysctls sets what forwarding between pods needs. The process must see
// the network namespace's own /proc/sys/net.
func setSysctls(bridge string) error {
	for _, setting := range []struct{ path, value string }{
		{"ipv4/ip_forward", "1"},
		// Pods of one node share the bridge: without this the kernel would tell
		// them to talk past the gateway, and so past NAT.
		{"ipv4/conf/all/send_redirects", "0"},
		{"ipv4/conf/" + bridge + "/send_redirects", "0"},
		// Host ports on 127.0.0.1 lead to pods; the filter keeps pods out of 127/8.
		{"ipv4/conf/" + bridge + "/route_localnet", "1"},
		{"ipv4/conf/" + bridge + "/rp_filter", "0"},
	} {
		path := filepath.Join("/proc/sys/net", setting.path)
		if current, err := os.ReadFile(path); err == nil && string(current) == setting.value+"\n" {
			continue // /proc/sys may be read-only where somebody else has set it
		}
		if err := os.WriteFile(path, []byte(setting.value), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("network: setting %s to %s: %w", path, setting.value, err)
		}
	}
	return nil
}

// read learns what an earlier run, or this one, has programmed between nodes.
func (n *Network) read() (State, error) {
	state := State{Routes: map[netip.Prefix]Route{}, Peers: map[netip.Addr]Peer{}, Nodes: n.state.Nodes}
	if state.Nodes == nil {
		state.Nodes = map[netip.Addr]bool{} // the table is new
	}
	tunnel := -1
	if link, err := n.handle.LinkByName(n.config.VXLAN); err == nil {
		tunnel = link.Attrs().Index
	}
	routes, err := n.handle.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return state, fmt.Errorf("network: listing routes: %w", err)
	}
	for _, route := range routes {
		prefix, ok := prefixOf(route.Dst)
		if !ok || prefix.Bits() == 32 && route.LinkIndex == n.bridge.Index {
			continue // a pod's own
		}
		via, _ := netip.AddrFromSlice(route.Gw.To4())
		switch {
		case route.Type == unix.RTN_UNREACHABLE:
			state.Routes[prefix] = Route{Kind: Unreachable}
		case route.LinkIndex == tunnel:
			state.Routes[prefix] = Route{Kind: Tunnel, Via: via}
		case via.IsValid():
			state.Routes[prefix] = Route{Kind: Direct, Via: via}
		case route.LinkIndex == n.bridge.Index && route.Src.Equal(n.local.NodeIP.AsSlice()):
			state.Routes[prefix] = Route{Kind: Service}
		default:
			state.Routes[prefix] = Route{Kind: "stale"}
		}
	}
	if tunnel >= 0 {
		return state, n.readPeers(tunnel, state.Peers)
	}
	return state, nil
}

func (n *Network) readPeers(tunnel int, peers map[netip.Addr]Peer) error {
	nodes := map[string]netip.Addr{} // by hardware address
	entries, err := n.handle.NeighList(tunnel, unix.AF_BRIDGE)
	if err != nil {
		return fmt.Errorf("network: listing forwarding entries: %w", err)
	}
	for _, entry := range entries {
		if ip, ok := netip.AddrFromSlice(entry.IP.To4()); ok {
			nodes[entry.HardwareAddr.String()] = ip
		}
	}
	neighbours, err := n.handle.NeighList(tunnel, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("network: listing neighbours: %w", err)
	}
	for _, entry := range neighbours {
		if ip, ok := netip.AddrFromSlice(entry.IP.To4()); ok && entry.State&unix.NUD_PERMANENT != 0 {
			mac := entry.HardwareAddr.String()
			peers[ip] = Peer{MAC: mac, NodeIP: nodes[mac]}
		}
	}
	return nil
}

// apply executes steps. One that fails doesn't keep back the others; it will
// be tried again, since it isn't entered in the state.
func (n *Network) apply(steps []Step, want State) error {
	var failed []error
	if len(want.Peers) > 0 {
		if err := n.ensureTunnel(); err != nil {
			return err
		}
		if n.state.Routes == nil {
			return errors.New("network: the tunnel was made anew") // and so the steps are
		}
	}
	mtu := n.bridge.MTU
	if len(want.Peers) > 0 {
		mtu -= vxlanOverhead
	}
	n.mtu.Store(int64(mtu))
	for _, step := range steps {
		var err error
		switch {
		case step.Node.IsValid():
			err = n.filter.node(step.Node, step.Remove)
		case step.Remote.IsValid():
			err = n.peer(step)
		default:
			err = n.route(step)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("network: %s: %w", step, err))
			continue
		}
		n.state.with(step)
		n.log.Debug("network changed", "step", step.String())
	}
	return errors.Join(failed...)
}

func (n *Network) ensureTunnel() error {
	name := n.config.VXLAN
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, n.bridge.MTU-vxlanOverhead
	remote := n.local.PodCIDR.Addr()
	attrs.HardwareAddr = tunnelMAC(remote)
	if found, err := n.handle.LinkByName(name); err == nil {
		old, ok := found.(*netlink.Vxlan)
		if ok && old.VxlanId == n.config.VNI && old.Port == n.config.VXLANPort && old.HardwareAddr.String() == attrs.HardwareAddr.String() &&
			old.SrcAddr.Equal(n.local.NodeIP.AsSlice()) {
			return nil
		}
		// Of another pod range, address or configuration: its entries go with it.
		if err := n.handle.LinkDel(found); err != nil {
			return fmt.Errorf("network: removing the old %s: %w", name, err)
		}
		n.state.Routes, n.state.Peers = nil, nil
	}
	// Not bound to the uplink: the kernel's routes choose the way to a node.
	device := &netlink.Vxlan{LinkAttrs: attrs, VxlanId: n.config.VNI, Port: n.config.VXLANPort, SrcAddr: n.local.NodeIP.AsSlice(), Learning: false}
	if err := n.handle.LinkAdd(device); err != nil {
		return fmt.Errorf("network: making %s: %w", name, err)
	}
	if err := n.handle.AddrReplace(device, &netlink.Addr{IPNet: hostNet(remote)}); err != nil {
		return fmt.Errorf("network: setting the address of %s: %w", name, err)
	}
	if err := n.handle.LinkSetUp(device); err != nil {
		return fmt.Errorf("network: starting %s: %w", name, err)
	}
	return nil
}

func (n *Network) peer(step Step) error {
	link, err := n.handle.LinkByName(n.config.VXLAN)
	if err != nil {
		return err
	}
	mac, err := net.ParseMAC(step.Peer.MAC)
	if err != nil {
		return err
	}
	forward := &netlink.Neigh{LinkIndex: link.Attrs().Index, Family: unix.AF_BRIDGE, State: unix.NUD_PERMANENT | unix.NUD_NOARP,
		Flags: unix.NTF_SELF, IP: step.Peer.NodeIP.AsSlice(), HardwareAddr: mac}
	neighbour := &netlink.Neigh{LinkIndex: link.Attrs().Index, Family: netlink.FAMILY_V4, State: unix.NUD_PERMANENT,
		IP: step.Remote.AsSlice(), HardwareAddr: mac}
	if !step.Remove {
		return errors.Join(n.handle.NeighSet(forward), n.handle.NeighSet(neighbour))
	}
	return errors.Join(gone(n.handle.NeighDel(neighbour)), gone(n.handle.NeighDel(forward)))
}

func (n *Network) route(step Step) error {
	route := &netlink.Route{Dst: netOf(step.Prefix), Protocol: routeProtocol}
	if step.Remove && step.Route.Kind != Unreachable {
		return gone(n.handle.RouteDel(route))
	}
	switch step.Route.Kind {
	case Unreachable:
		route.Type, route.Priority = unix.RTN_UNREACHABLE, unreachableMetric
		if step.Remove {
			return gone(n.handle.RouteDel(route))
		}
	case Service:
		route.LinkIndex, route.Scope, route.Src = n.bridge.Index, netlink.SCOPE_LINK, n.local.NodeIP.AsSlice()
	case Direct:
		route.Gw = step.Route.Via.AsSlice()
	case Tunnel:
		link, err := n.handle.LinkByName(n.config.VXLAN)
		if err != nil {
			return err
		}
		route.LinkIndex, route.Gw, route.Flags = link.Attrs().Index, step.Route.Via.AsSlice(), int(netlink.FLAG_ONLINK)
	}
	return n.handle.RouteReplace(route)
}

// gone takes the error of a removal that found nothing for success.
func gone(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil
	}
	return err
}

func hostNet(address netip.Addr) *net.IPNet { return netOf(netip.PrefixFrom(address, 32)) }

func netOf(prefix netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), 32)}
}

func prefixOf(ipNet *net.IPNet) (netip.Prefix, bool) {
	if ipNet == nil {
		return netip.Prefix{}, false
	}
	address, ok := netip.AddrFromSlice(ipNet.IP.To4())
	ones, _ := ipNet.Mask.Size()
	return netip.PrefixFrom(address, ones), ok
}
