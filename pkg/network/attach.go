package network

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// Pod is what [Network.Attach] needs to know of a pod.
type Pod struct {
	// ID is unique over time, like a pod's UID.
	ID              string
	Namespace, Name string
	// NetnsPath leads to the pod's network namespace.
	NetnsPath string
	HostPorts []HostPort
}

// HostPort is one port of the node that leads to the pod.
type HostPort struct {
	HostIP   netip.Addr      `json:"hostIP,omitzero"` // zero or unspecified: any address of the node
	Port     uint16          `json:"port"`            // on the node
	PodPort  uint16          `json:"podPort"`
	Protocol corev1.Protocol `json:"protocol"`
}

func (p HostPort) any() bool { return !p.HostIP.IsValid() || p.HostIP.IsUnspecified() }

func (p HostPort) clashes(other HostPort) bool {
	return p.Port == other.Port && p.Protocol == other.Protocol && (p.any() || other.any() || p.HostIP == other.HostIP)
}

func (p HostPort) String() string {
	if p.any() {
		return fmt.Sprintf("%d/%s", p.Port, p.Protocol)
	}
	return fmt.Sprintf("%s:%d/%s", p.HostIP, p.Port, p.Protocol)
}

// podInterface is the name of a pod's interface inside, the same everywhere in Kubernetes.
const podInterface = "eth0"

// Attach connects a pod's network namespace and returns the pod's addresses.
// It may be repeated at any time, also by another process after a restart,
// and then returns the same addresses. It waits until the node has a pod range.
func (n *Network) Attach(ctx context.Context, pod Pod) ([]netip.Addr, error) {
	for _, port := range pod.HostPorts {
		if port.Protocol != corev1.ProtocolTCP && port.Protocol != corev1.ProtocolUDP {
			return nil, fmt.Errorf("network: attach %s/%s: host port %s: protocol %s is not supported", pod.Namespace, pod.Name, port, port.Protocol)
		}
		if !port.any() && !port.HostIP.Is4() {
			return nil, fmt.Errorf("network: attach %s/%s: host port %s: only IPv4 is supported", pod.Namespace, pod.Name, port)
		}
	}
	if err := n.await(ctx); err != nil {
		return nil, err
	}
	defer n.lock(pod.ID)()
	address, fresh, err := n.addresses.take(pod)
	if err != nil {
		return nil, err
	}
	if err := n.connect(pod, address); err != nil {
		if fresh {
			err = errors.Join(err, n.detach(pod.ID))
		}
		return nil, fmt.Errorf("network: attach %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return []netip.Addr{address}, nil
}

// Detach takes away a pod's route, host ports and address. The veth pair ends
// with the pod's network namespace, which is its owner's to delete: the kernel
// then unregisters many links in one go, where deleting a single one costs 30 ms
// under a lock that every other attachment needs. A pair whose namespace
// lives on is swept away within a minute. It may be repeated; an unknown pod is fine.
func (n *Network) Detach(ctx context.Context, podID string) error {
	if err := n.await(ctx); err != nil {
		return err
	}
	defer n.lock(podID)()
	if err := n.detach(podID); err != nil {
		return fmt.Errorf("network: detach %s: %w", podID, err)
	}
	return nil
}

// Reclaim detaches every pod that isn't among the live ones, by ID.
func (n *Network) Reclaim(ctx context.Context, live []string) error {
	if err := n.await(ctx); err != nil {
		return err
	}
	keep := make(map[string]bool, len(live))
	for _, id := range live {
		keep[id] = true
	}
	var failed []error
	for _, id := range n.addresses.pods() {
		if !keep[id] {
			failed = append(failed, n.Detach(ctx, id))
		}
	}
	return errors.Join(failed...)
}

// Address returns the address that a pod holds.
func (n *Network) Address(podID string) (netip.Addr, bool) {
	held, ok := n.addresses.of(podID)
	return held.address, ok
}

// lock serializes what is done for one pod; different pods go in parallel
// (but for the few that share a lock).
func (n *Network) lock(podID string) (unlock func()) {
	hash := fnv.New32a()
	hash.Write([]byte(podID))
	mu := &n.podLocks[hash.Sum32()%uint32(len(n.podLocks))]
	mu.Lock()
	return mu.Unlock
}

func (n *Network) detach(podID string) error {
	held, ok := n.addresses.of(podID)
	if !ok {
		return nil
	}
	if err := n.filter.removeHostPorts(held); err != nil {
		return err
	}
	if err := gone(n.handle.RouteDel(n.podRoute(held.address))); err != nil {
		return fmt.Errorf("removing the route: %w", err)
	}
	if err := gone(n.handle.NeighDel(n.podNeighbour(held.address))); err != nil {
		return fmt.Errorf("removing the neighbour: %w", err)
	}
	return n.addresses.release(podID)
}

// sweep deletes veth pairs that belong to no pod any more, if they were there
// at the last sweep already, which it is given. It returns what it found.
func (n *Network) sweep(before map[string]bool) (map[string]bool, error) {
	links, err := n.handle.LinkList()
	if err != nil {
		return before, fmt.Errorf("network: listing links: %w", err)
	}
	held := map[string]bool{}
	for _, pod := range n.addresses.pods() {
		held[linkName(pod)] = true
	}
	left := map[string]bool{}
	var failed []error
	for _, link := range links {
		name := link.Attrs().Name
		if link.Attrs().MasterIndex != n.bridge.Index || link.Type() != "veth" || held[name] {
			continue
		}
		if !before[name] {
			left[name] = true
			continue
		}
		failed = append(failed, wrap("network: removing "+name, gone(n.handle.LinkDel(link))))
	}
	return left, errors.Join(failed...)
}

// linkName is the host's end of a pod's veth pair: the same for a pod each
// time, and within the 15 characters an interface may have.
func linkName(podID string) string {
	hash := fnv.New64a()
	hash.Write([]byte(podID))
	return fmt.Sprintf("veth%011x", hash.Sum64()>>20)
}

func (n *Network) podRoute(address netip.Addr) *netlink.Route {
	return &netlink.Route{Dst: hostNet(address), LinkIndex: n.bridge.Index, Scope: netlink.SCOPE_LINK, Protocol: routeProtocol}
}

func (n *Network) podNeighbour(address netip.Addr) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: n.bridge.Index, Family: netlink.FAMILY_V4, State: unix.NUD_PERMANENT,
		IP: address.AsSlice(), HardwareAddr: podMAC(address)}
}

// connect makes the pair and sets up both ends.
func (n *Network) connect(pod Pod, address netip.Addr) error {
	namespace, err := netns.GetFromPath(pod.NetnsPath)
	if err != nil {
		return fmt.Errorf("opening network namespace %s: %w", pod.NetnsPath, err)
	}
	defer namespace.Close()
	inside, err := netlink.NewHandleAt(namespace, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("entering network namespace %s: %w", pod.NetnsPath, err)
	}
	defer inside.Close()

	if err := n.ensurePair(pod, address, namespace, inside); err != nil {
		return err
	}
	if err := n.setUpInside(inside, address); err != nil {
		return err
	}
	if err := n.setUpOutside(pod, address); err != nil {
		return err
	}
	return n.filter.addHostPorts(pod.HostPorts, address)
}

// ensurePair makes the veth pair, with one end in the pod from birth. A pair
// that an earlier, interrupted attempt left is taken over where it fits.
func (n *Network) ensurePair(pod Pod, address netip.Addr, namespace netns.NsHandle, inside *netlink.Handle) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = linkName(pod.ID), int(n.mtu.Load())
	pair := &netlink.Veth{LinkAttrs: attrs, PeerName: podInterface, PeerHardwareAddr: podMAC(address),
		PeerMTU: uint32(attrs.MTU), PeerNamespace: netlink.NsFd(namespace)}
	err := n.handle.LinkAdd(pair)
	if !errors.Is(err, unix.EEXIST) {
		return wrap("making the veth pair", err)
	}
	outer, outerErr := n.handle.LinkByName(attrs.Name)
	inner, innerErr := inside.LinkByName(podInterface)
	if outerErr == nil && innerErr == nil {
		if inner.Attrs().ParentIndex == outer.Attrs().Index && inner.Attrs().HardwareAddr.String() == podMAC(address).String() {
			return nil
		}
	}
	if innerErr == nil && outerErr != nil {
		return fmt.Errorf("%s in %s belongs to somebody else", podInterface, pod.NetnsPath)
	}
	if err := gone(n.handle.LinkDel(outer)); err != nil {
		return fmt.Errorf("removing a stale veth pair: %w", err)
	}
	return wrap("making the veth pair", n.handle.LinkAdd(pair))
}

func (n *Network) setUpInside(inside *netlink.Handle, address netip.Addr) error {
	loopback, err := inside.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("finding lo: %w", err)
	}
	if err := inside.LinkSetUp(loopback); err != nil {
		return fmt.Errorf("starting lo: %w", err)
	}
	link, err := inside.LinkByName(podInterface)
	if err != nil {
		return fmt.Errorf("finding %s: %w", podInterface, err)
	}
	if err := inside.AddrReplace(link, &netlink.Addr{IPNet: hostNet(address)}); err != nil {
		return fmt.Errorf("setting address %s: %w", address, err)
	}
	if err := inside.LinkSetUp(link); err != nil {
		return fmt.Errorf("starting %s: %w", podInterface, err)
	}
	gateway, index := n.gateway(), link.Attrs().Index
	if err := inside.NeighSet(&netlink.Neigh{LinkIndex: index, Family: netlink.FAMILY_V4, State: unix.NUD_PERMANENT,
		IP: gateway.AsSlice(), HardwareAddr: podMAC(gateway)}); err != nil {
		return fmt.Errorf("setting the gateway's hardware address: %w", err)
	}
	if err := inside.RouteReplace(&netlink.Route{LinkIndex: index, Scope: netlink.SCOPE_LINK, Dst: hostNet(gateway)}); err != nil {
		return fmt.Errorf("setting the route to the gateway: %w", err)
	}
	if err := inside.RouteReplace(&netlink.Route{LinkIndex: index, Gw: gateway.AsSlice(),
		Dst: &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}}); err != nil {
		return fmt.Errorf("setting the default route: %w", err)
	}
	return nil
}

// setUpOutside joins the pair to the bridge and makes the pod known there.
func (n *Network) setUpOutside(pod Pod, address netip.Addr) error {
	link, err := n.handle.LinkByName(linkName(pod.ID))
	if err != nil {
		return fmt.Errorf("finding the veth pair: %w", err)
	}
	if link.Attrs().MasterIndex != n.bridge.Index {
		if err := n.handle.LinkSetMasterByIndex(link, n.bridge.Index); err != nil {
			return fmt.Errorf("joining %s: %w", n.config.Bridge, err)
		}
	}
	if err := n.handle.LinkSetHairpin(link, true); err != nil {
		return fmt.Errorf("setting hairpin mode: %w", err)
	}
	if err := n.handle.LinkSetUp(link); err != nil {
		return fmt.Errorf("starting %s: %w", link.Attrs().Name, err)
	}
	if err := n.handle.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, Family: unix.AF_BRIDGE,
		State: unix.NUD_PERMANENT | unix.NUD_NOARP, Flags: unix.NTF_MASTER, HardwareAddr: podMAC(address)}); err != nil {
		return fmt.Errorf("setting the forwarding entry: %w", err)
	}
	if err := n.handle.NeighSet(n.podNeighbour(address)); err != nil {
		return fmt.Errorf("setting the neighbour: %w", err)
	}
	return wrap("setting the pod's route", n.handle.RouteReplace(n.podRoute(address)))
}

func (n *Network) gateway() netip.Addr { return n.local.PodCIDR.Addr().Next() }

func wrap(operation string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", operation, err)
}
