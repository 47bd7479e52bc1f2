package cluster

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	bridgeName = "nodes"
	uplinkName = "machine" // the switch's end of the link to the machine
	nodeLink   = "eth0"    // a node's end of its link
)

// weave makes the network that joins a cluster's nodes: a bridge in a namespace
// of its own, and one link from there to the machine, which has the range's first address.
// Doing it again changes nothing.
func weave(s *Spec, l layout) error {
	pin := l.switchNamespace()
	if err := pinNamespace(pin); err != nil {
		return fmt.Errorf("network namespace of the switch: %w", err)
	}
	space, in, err := openNamespace(pin)
	if err != nil {
		return err
	}
	defer space.Close()
	defer in.Close()
	bridge, err := in.LinkByName(bridgeName)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = bridgeName
		if err := in.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return fmt.Errorf("bridge: %w", err)
		}
		bridge, err = in.LinkByName(bridgeName)
	}
	if err != nil {
		return fmt.Errorf("bridge: %w", err)
	}
	if err := in.LinkSetUp(bridge); err != nil {
		return fmt.Errorf("bridge: %w", err)
	}
	if _, err := netlink.LinkByName(l.link()); err == nil {
		return nil
	}
	if err := plug(in, space, uplinkName, l.link(), nil, hardware(s.Gateway())); err != nil {
		return err
	}
	link, err := netlink.LinkByName(l.link())
	if err != nil {
		return err
	}
	return address(nil, link, netip.PrefixFrom(s.Gateway(), s.NodeRange.Bits()))
}

// connect plugs a node, known by the pid of its PID 1, into the switch.
func connect(s *Spec, l layout, n Node, pid int) error {
	space, in, err := openNamespace(l.switchNamespace())
	if err != nil {
		return err
	}
	defer space.Close()
	defer in.Close()
	target, node, err := openNamespace(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return err
	}
	defer target.Close()
	defer node.Close()

	port := fmt.Sprintf("node%d", n.IP.As4()[3])
	if old, err := in.LinkByName(port); err == nil {
		in.LinkDel(old) // of a life of this node that ended without a farewell
	}
	if err := plug(in, space, port, nodeLink, &target, hardware(n.IP)); err != nil {
		return err
	}
	lo, err := node.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := node.LinkSetUp(lo); err != nil {
		return err
	}
	link, err := node.LinkByName(nodeLink)
	if err != nil {
		return err
	}
	if err := address(node, link, netip.PrefixFrom(n.IP, s.NodeRange.Bits())); err != nil {
		return err
	}
	if s.Isolated {
		return nil
	}
	return node.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.IP(s.Gateway().AsSlice())})
}

// hardware is the link-layer address that belongs to a node's address for good:
// after a restart of the node, what the others remember of it is still right.
func hardware(ip netip.Addr) net.HardwareAddr {
	four := ip.As4()
	return append(net.HardwareAddr{0x02, 0}, four[:]...)
}

// plug makes a veth pair: port on the switch's bridge, and an end in another
// namespace (nil: the machine's).
func plug(in *netlink.Handle, space netns.NsHandle, port, end string, target *netns.NsHandle, address net.HardwareAddr) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = end, address
	if target != nil {
		attrs.Namespace = netlink.NsFd(*target)
	}
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: port, PeerNamespace: netlink.NsFd(space)}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("link %s: %w", end, err)
	}
	peer, err := in.LinkByName(port)
	if err != nil {
		return err
	}
	bridge, err := in.LinkByName(bridgeName)
	if err != nil {
		return err
	}
	if err := in.LinkSetMaster(peer, bridge); err != nil {
		return fmt.Errorf("link %s: %w", port, err)
	}
	return in.LinkSetUp(peer)
}

// address gives a link its address and sets it up; a nil handle is the machine's namespace.
func address(in *netlink.Handle, link netlink.Link, prefix netip.Prefix) error {
	if in == nil {
		in = &netlink.Handle{}
	}
	ip := net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())}
	if err := in.AddrReplace(link, &netlink.Addr{IPNet: &ip}); err != nil {
		return fmt.Errorf("address %s on %s: %w", prefix, link.Attrs().Name, err)
	}
	return in.LinkSetUp(link)
}

// unravel takes away the switch, with all links into it, and the machine's end.
func unravel(l layout) error {
	if link, err := netlink.LinkByName(l.link()); err == nil {
		if err := netlink.LinkDel(link); err != nil {
			return err
		}
	}
	pin := l.switchNamespace()
	if err := unix.Unmount(pin, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", pin, err)
	}
	if err := os.Remove(pin); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// pinNamespace makes a network namespace that lives as long as a file is mounted on.
func pinNamespace(file string) error {
	var fs unix.Statfs_t
	if unix.Statfs(file, &fs) == nil && fs.Type == unix.NSFS_MAGIC {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	f.Close()
	done := make(chan error, 1)
	go pinNew(file, done)
	return <-done
}

// pinNew moves its thread into a new network namespace and mounts that on file.
// The thread is in there for good: it ends with this goroutine, which never
// unlocks it. The process's first thread can't end, and /proc/self shows its
// namespaces as the process's own; being held, it leaves the work to another.
func pinNew(file string, done chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		other := make(chan error, 1)
		go pinNew(file, other)
		done <- <-other
		runtime.UnlockOSThread()
		return
	}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		done <- err
		return
	}
	done <- unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), file, "", unix.MS_BIND, "")
}

func openNamespace(path string) (netns.NsHandle, *netlink.Handle, error) {
	space, err := netns.GetFromPath(path)
	if err != nil {
		return 0, nil, fmt.Errorf("network namespace %s: %w", path, err)
	}
	handle, err := netlink.NewHandleAt(space)
	if err != nil {
		space.Close()
		return 0, nil, fmt.Errorf("network namespace %s: %w", path, err)
	}
	return space, handle, nil
}

// rangesInUse are the machine's routes and addresses, which a new cluster must
// stay clear of.
func rangesInUse() ([]netip.Prefix, error) {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{}, 0)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var out []netip.Prefix
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		if p, ok := prefixOf(r.Dst); ok && p.Bits() > 0 {
			out = append(out, p)
		}
	}
	addresses, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addresses {
		if p, ok := prefixOf(a.IPNet); ok {
			out = append(out, p)
		}
	}
	return out, nil
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	a, ok := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), bits).Masked(), ok
}
