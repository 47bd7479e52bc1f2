package network

import (
	"errors"
	"net/netip"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// filter is the table ip skiff-network. It is made anew at the start, in one
// transaction, and changed element by element afterwards.
type filter struct {
	mu    sync.Mutex
	table *nftables.Table
	// inside are the ranges of pods and services, services the latter alone,
	// nodes the nodes' addresses; hostPorts leads from (address, protocol,
	// port) to a pod, with 0.0.0.0 for any address of the node; hairpin holds the
	// pods with host ports, which may call themselves by them.
	inside, services, nodes, hostPorts, hairpin *nftables.Set
}

var (
	endpointType = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService)
	pairType     = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeIPAddr)
	portKeyType  = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService)
)

// reset programs the whole table.
func (f *filter) reset(bridge string, local Local, leases []lease) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	table := &nftables.Table{Name: "skiff-network", Family: nftables.TableFamilyIPv4}
	conn.AddTable(table) // so that there is one to delete
	conn.DelTable(table)
	f.table = conn.AddTable(table)
	f.inside = &nftables.Set{Table: table, Name: "inside", KeyType: nftables.TypeIPAddr, Interval: true, AutoMerge: true}
	f.services = &nftables.Set{Table: table, Name: "service-ranges", KeyType: nftables.TypeIPAddr, Interval: true, AutoMerge: true}
	f.nodes = &nftables.Set{Table: table, Name: "nodes", KeyType: nftables.TypeIPAddr}
	f.hostPorts = &nftables.Set{Table: table, Name: "host-ports", KeyType: portKeyType, Concatenation: true, IsMap: true, DataType: endpointType}

	f.hairpin = &nftables.Set{Table: table, Name: "hairpin", KeyType: pairType, Concatenation: true}

	services, inside := disjoint(local.ServiceCIDRs), disjoint(append(append([]netip.Prefix{local.PodCIDR}, local.ClusterCIDRs...), local.ServiceCIDRs...))
	for _, add := range []struct {
		set      *nftables.Set
		elements []nftables.SetElement
	}{
		{f.inside, intervals(inside)}, {f.services, intervals(services)},
		{f.nodes, []nftables.SetElement{{Key: local.NodeIP.AsSlice()}}}, {f.hostPorts, nil}, {f.hairpin, nil},
	} {
		if err := conn.AddSet(add.set, add.elements); err != nil {
			return err
		}
	}
	for _, held := range leases {
		if err := f.hostPortElements(conn.SetAddElements, held.Ports, held.address); err != nil {
			return err
		}
	}
	f.chains(conn, bridge, local)
	return conn.Flush()
}

// chains adds what never changes.
func (f *filter) chains(conn *nftables.Conn, bridge string, local Local) {
	chain := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority int32) *nftables.Chain {
		return conn.AddChain(&nftables.Chain{Table: f.table, Name: name, Type: kind, Hooknum: hook, Priority: nftables.ChainPriorityRef(nftables.ChainPriority(priority))})
	}
	rule := func(chain *nftables.Chain, parts ...[]expr.Any) {
		var all []expr.Any
		for _, part := range parts {
			all = append(all, part...)
		}
		conn.AddRule(&nftables.Rule{Table: f.table, Chain: chain, Exprs: all})
	}

	// route_localnet is on for host ports; pods must not profit.
	guard := chain("guard", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, -300)
	rule(guard, interfaceIs(expr.MetaKeyIIFNAME, bridge), addressIn(destination, loopback), verdict(expr.VerdictDrop))

	// The route to a pod that isn't there is unreachable, and the kernel says so
	// by ICMP; but within one machine that can come back while the calling
	// socket is still locked, and is lost then. A reset is not.
	absent := chain("unreachable", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, -90)
	rule(absent, newConnection(), load(destination), []expr.Any{&expr.Lookup{SourceRegister: unix.NFT_REG32_00, SetName: f.inside.Name, SetID: f.inside.ID}},
		destinationType(expr.CmpOpNeq, unix.RTN_LOCAL), noWay(), overTCP(), []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})

	hostPorts := conn.AddChain(&nftables.Chain{Table: f.table, Name: "host-ports"})
	rule(hostPorts, load(destination), f.toHostPort())
	rule(hostPorts, []expr.Any{&expr.Immediate{Register: unix.NFT_REG32_00, Data: make([]byte, 4)}}, f.toHostPort())
	jump := []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: "host-ports"}}
	rule(chain("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, -101), destinationType(expr.CmpOpEq, unix.RTN_LOCAL), jump)
	rule(chain("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, -101), destinationType(expr.CmpOpEq, unix.RTN_LOCAL), jump)

	masquerade := []expr.Any{&expr.Masq{FullyRandom: true}}
	post := chain("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, 100)
	// A call to a host port on 127.0.0.1: the answer must find back.
	rule(post, interfaceIs(expr.MetaKeyOIFNAME, bridge), addressIn(source, loopback), masquerade)
	// A pod that calls its own host port must see the node calling.
	rule(post, wasLed(), load(source), []expr.Any{
		&expr.Payload{DestRegister: unix.NFT_REG32_01, Base: expr.PayloadBaseNetworkHeader, Offset: destination, Len: 4},
		&expr.Lookup{SourceRegister: unix.NFT_REG32_00, SetName: f.hairpin.Name, SetID: f.hairpin.ID},
	}, masquerade)
	rule(post, addressIn(source, local.PodCIDR), notIn(f.inside), notIn(f.nodes), notMulticast(), masquerade)

	// Whatever still goes to a service address behind NAT is programmed by nobody.
	refuse := conn.AddChain(&nftables.Chain{Table: f.table, Name: "refuse"})
	rule(refuse, overTCP(), []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})
	rule(refuse, []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: icmpHostUnreachable}})
	for _, hook := range []struct {
		name string
		hook *nftables.ChainHook
	}{{"filter-forward", nftables.ChainHookForward}, {"filter-output", nftables.ChainHookOutput}} {
		rule(chain(hook.name, nftables.ChainTypeFilter, hook.hook, 0), load(destination),
			[]expr.Any{&expr.Lookup{SourceRegister: unix.NFT_REG32_00, SetName: f.services.Name, SetID: f.services.ID}},
			destinationType(expr.CmpOpNeq, unix.RTN_LOCAL), []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: refuse.Name}})
	}
}

// node adds or removes one node's address.
func (f *filter) node(address netip.Addr, remove bool) error {
	element := []nftables.SetElement{{Key: address.AsSlice()}}
	return f.transaction(func(conn *nftables.Conn) error {
		if remove {
			return conn.SetDeleteElements(f.nodes, element)
		}
		return conn.SetAddElements(f.nodes, element)
	})
}

func (f *filter) addHostPorts(ports []HostPort, address netip.Addr) error {
	if len(ports) == 0 {
		return nil
	}
	return f.transaction(func(conn *nftables.Conn) error { return f.hostPortElements(conn.SetAddElements, ports, address) })
}

func (f *filter) removeHostPorts(held lease) error {
	if len(held.Ports) == 0 {
		return nil
	}
	return gone(f.transaction(func(conn *nftables.Conn) error {
		return f.hostPortElements(conn.SetDeleteElements, held.Ports, held.address)
	}))
}

// hostPortElements adds or deletes all that makes a pod's host ports.
func (f *filter) hostPortElements(change func(*nftables.Set, []nftables.SetElement) error, ports []HostPort, address netip.Addr) error {
	pair := append(address.AsSlice(), address.AsSlice()...)
	return errors.Join(change(f.hostPorts, portElements(ports, address)), change(f.hairpin, []nftables.SetElement{{Key: pair}}))
}

func (f *filter) transaction(fill func(*nftables.Conn) error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	if err := fill(conn); err != nil {
		return err
	}
	return conn.Flush()
}

// portElements encodes host ports; each part of a key fills whole registers of four bytes.
func portElements(ports []HostPort, address netip.Addr) []nftables.SetElement {
	var elements []nftables.SetElement
	for _, port := range ports {
		hostIP := netip.IPv4Unspecified()
		if !port.any() {
			hostIP = port.HostIP
		}
		protocol := byte(unix.IPPROTO_TCP)
		if port.Protocol == corev1.ProtocolUDP {
			protocol = unix.IPPROTO_UDP
		}
		key := append(hostIP.AsSlice(), protocol, 0, 0, 0)
		key = append(key, byte(port.Port>>8), byte(port.Port), 0, 0)
		value := append(address.AsSlice(), byte(port.PodPort>>8), byte(port.PodPort), 0, 0)
		elements = append(elements, nftables.SetElement{Key: key, Val: value})
	}
	return elements
}

// disjoint drops prefixes that lie within others: an interval set takes no overlaps.
func disjoint(prefixes []netip.Prefix) []netip.Prefix {
	var kept []netip.Prefix
	for i, prefix := range prefixes {
		covered := false
		for j, other := range prefixes {
			if prefix.Overlaps(other) && (other.Bits() < prefix.Bits() || other.Bits() == prefix.Bits() && j < i) {
				covered = true
			}
		}
		if !covered {
			kept = append(kept, prefix.Masked())
		}
	}
	return kept
}

// intervals encodes prefixes as the half-open intervals that nftables knows.
func intervals(prefixes []netip.Prefix) []nftables.SetElement {
	var elements []nftables.SetElement
	for _, prefix := range prefixes {
		first := prefix.Addr().As4()
		end := uint64(binaryutil.BigEndian.Uint32(first[:])) + 1<<(32-prefix.Bits())
		elements = append(elements, nftables.SetElement{Key: first[:]})
		if end <= 0xffffffff {
			elements = append(elements, nftables.SetElement{Key: binaryutil.BigEndian.PutUint32(uint32(end)), IntervalEnd: true})
		}
	}
	return elements
}

// Expressions. Offsets are those of the IPv4 header (RFC 791).
const (
	source              = 12
	destination         = 16
	icmpHostUnreachable = 1
)

var loopback = netip.MustParsePrefix("127.0.0.0/8")

func load(offset uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: unix.NFT_REG32_00, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4}}
}

func addressIn(offset uint32, prefix netip.Prefix) []expr.Any {
	mask := binaryutil.BigEndian.PutUint32(^uint32(0) << (32 - prefix.Bits()))
	return append(load(offset),
		&expr.Bitwise{SourceRegister: unix.NFT_REG32_00, DestRegister: unix.NFT_REG32_00, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG32_00, Data: prefix.Masked().Addr().AsSlice()})
}

func notIn(set *nftables.Set) []expr.Any {
	return append(load(destination), &expr.Lookup{SourceRegister: unix.NFT_REG32_00, SetName: set.Name, SetID: set.ID, Invert: true})
}

func notMulticast() []expr.Any {
	return append(load(destination),
		&expr.Bitwise{SourceRegister: unix.NFT_REG32_00, DestRegister: unix.NFT_REG32_00, Len: 4, Mask: []byte{0xf0, 0, 0, 0}, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: unix.NFT_REG32_00, Data: []byte{0xe0, 0, 0, 0}})
}

// wasLed matches connections whose destination was rewritten.
func wasLed() []expr.Any {
	const dnat = 1 << 5 // IPS_DST_NAT of the kernel's nf_conntrack_common.h
	return []expr.Any{
		&expr.Ct{Register: unix.NFT_REG32_00, Key: expr.CtKeySTATUS},
		&expr.Bitwise{SourceRegister: unix.NFT_REG32_00, DestRegister: unix.NFT_REG32_00, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(dnat), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: unix.NFT_REG32_00, Data: make([]byte, 4)},
	}
}

// noWay matches destinations that no route leads to, and those of the node itself.
func noWay() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: unix.NFT_REG32_00, FlagDADDR: true, ResultOIF: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG32_00, Data: make([]byte, 4)},
	}
}

func newConnection() []expr.Any {
	return []expr.Any{
		&expr.Ct{Register: unix.NFT_REG32_00, Key: expr.CtKeySTATE},
		&expr.Bitwise{SourceRegister: unix.NFT_REG32_00, DestRegister: unix.NFT_REG32_00, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitNEW), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: unix.NFT_REG32_00, Data: make([]byte, 4)},
	}
}

func overTCP() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: unix.NFT_REG32_00},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG32_00, Data: []byte{unix.IPPROTO_TCP}}}
}

func interfaceIs(key expr.MetaKey, name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{&expr.Meta{Key: key, Register: unix.NFT_REG_1}, &expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: padded}}
}

// destinationType compares the kind of route that the destination has (RTN_…).
// The kernel looks into its local table only: unreachable is no kind there.
func destinationType(op expr.CmpOp, kind uint32) []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: unix.NFT_REG32_00, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: op, Register: unix.NFT_REG32_00, Data: binaryutil.NativeEndian.PutUint32(kind)},
	}
}

func verdict(kind expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: kind}} }

// toHostPort completes a key whose address is loaded, looks it up and rewrites
// the destination; a miss goes on to the next rule.
func (f *filter) toHostPort() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: unix.NFT_REG32_01},
		&expr.Payload{DestRegister: unix.NFT_REG32_02, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: unix.NFT_REG32_00, DestRegister: unix.NFT_REG32_00, IsDestRegSet: true,
			SetName: f.hostPorts.Name, SetID: f.hostPorts.ID},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: unix.NFT_REG32_00, RegProtoMin: unix.NFT_REG32_01},
	}
}
