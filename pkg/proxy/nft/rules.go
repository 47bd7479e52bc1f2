package nft

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"skiff/pkg/proxy"
)

// masqueradeMark is the bit that kube-proxy uses by default, too.
const masqueradeMark = 0x4000

// affinitySize bounds the clients that are remembered. The kernel allocates as
// needed, and beyond it new clients are balanced without being remembered.
const affinitySize = 1 << 20

var (
	frontendType = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService)
	indexedType  = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService, nftables.TypeMark)
	memberType   = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService, nftables.TypeIPAddr, nftables.TypeInetService)
	allowedType  = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService, nftables.TypeIPAddr)
	clientType   = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService)
	pairType     = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeIPAddr)
	endpointType = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService)
)

// Registers. A key is built in consecutive ones.
const (
	r0 = unix.NFT_REG32_00
	r1 = unix.NFT_REG32_01
	r2 = unix.NFT_REG32_02
	r3 = unix.NFT_REG32_03
	r4 = unix.NFT_REG32_04
	r8 = unix.NFT_REG32_08
)

// declare makes the table, with all that stands from the start and nothing
// else, save what clients chose if keep is set.
func (p *Programmer) declare(conn *nftables.Conn, keep bool) error {
	table := &nftables.Table{Name: p.config.Table, Family: nftables.TableFamilyIPv4}
	p.table = conn.AddTable(table)
	if keep {
		conn.FlushTable(table) // all rules; chains that are left over are empty and led to by nothing
	} else {
		conn.DelTable(table)
		conn.AddTable(table)
	}

	concat := func(name string, key nftables.SetDatatype) *nftables.Set {
		return &nftables.Set{Table: table, Name: name, KeyType: key, Concatenation: true}
	}
	mapTo := func(set *nftables.Set, data nftables.SetDatatype) *nftables.Set {
		set.IsMap, set.DataType = true, data
		return set
	}
	remembered := func(name string) *nftables.Set {
		set := mapTo(concat(name, clientType), endpointType)
		set.Dynamic, set.HasTimeout, set.Size, set.Timeout = true, true, affinitySize, 3*time.Hour
		return set
	}
	allowed := concat(string(proxy.Allowed), allowedType)
	allowed.Interval = true
	p.sets = map[proxy.Map]*nftables.Set{
		proxy.Services:   mapTo(concat(string(proxy.Services), frontendType), nftables.TypeVerdict),
		proxy.Outside:    mapTo(concat(string(proxy.Outside), frontendType), nftables.TypeVerdict),
		proxy.Endpoints:  mapTo(concat(string(proxy.Endpoints), indexedType), endpointType),
		proxy.Members:    concat(string(proxy.Members), memberType),
		proxy.Hairpin:    concat(string(proxy.Hairpin), pairType),
		proxy.Restricted: concat(string(proxy.Restricted), frontendType),
		proxy.Allowed:    allowed,
	}
	p.affinity = map[bool]*nftables.Set{false: remembered("affinity"), true: remembered("affinity-outside")}
	for _, name := range []proxy.Map{proxy.Services, proxy.Outside, proxy.Endpoints, proxy.Members, proxy.Hairpin, proxy.Restricted, proxy.Allowed} {
		if err := conn.AddSet(p.sets[name], nil); err != nil {
			return err
		}
		conn.FlushSet(p.sets[name])
	}
	for _, outside := range []bool{false, true} {
		if err := conn.AddSet(p.affinity[outside], nil); err != nil {
			return err
		}
	}
	ranges := map[string]*nftables.Set{}
	for _, add := range []struct {
		name     string
		prefixes []netip.Prefix
	}{{"pods", p.config.PodCIDRs}, {"service-ranges", p.config.ServiceCIDRs}, {"nodeport-addresses", p.config.NodePortAddresses}} {
		set := &nftables.Set{Table: table, Name: add.name, KeyType: nftables.TypeIPAddr, Interval: true, AutoMerge: true}
		if err := conn.AddSet(set, nil); err != nil {
			return err
		}
		conn.FlushSet(set)
		if elements := intervals(add.prefixes); len(elements) > 0 {
			if err := conn.SetAddElements(set, elements); err != nil {
				return err
			}
		}
		ranges[add.name] = set
	}
	p.baseChains(conn, ranges)
	return nil
}

func (p *Programmer) baseChains(conn *nftables.Conn, ranges map[string]*nftables.Set) {
	plain := func(name string) *nftables.Chain { return conn.AddChain(&nftables.Chain{Table: p.table, Name: name}) }
	hooked := func(name string, hook *nftables.ChainHook, priority int32) *nftables.Chain {
		return conn.AddChain(&nftables.Chain{Table: p.table, Name: name, Type: nftables.ChainTypeNAT, Hooknum: hook,
			Priority: nftables.ChainPriorityRef(nftables.ChainPriority(priority))})
	}
	rule := func(chain *nftables.Chain, parts ...[]expr.Any) {
		var all []expr.Any
		for _, part := range parts {
			all = append(all, part...)
		}
		conn.AddRule(&nftables.Rule{Table: p.table, Chain: chain, Exprs: all})
	}
	jump := func(name string) []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: name}} }
	pods := ranges["pods"]

	// A TCP client learns it by a reset, others by ICMP.
	reject := plain("rejected")
	rule(reject, protocolIs(unix.IPPROTO_TCP), []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})
	rule(reject, []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: icmpPortUnreachable}})
	rule(plain("dropped"), []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}})

	nodePort := nodePortAddress(ranges["nodeport-addresses"], len(p.config.NodePortAddresses) > 0)
	services := plain("services")
	rule(services, loadFrontend(), p.in(proxy.Restricted, r0), loadSource(r3), p.notIn(proxy.Allowed, r0), []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}})
	rule(services, loadFrontend(), p.vmap(proxy.Services))
	rule(services, nodePort, loadNodePort(), p.vmap(proxy.Services))
	rule(services, loadDestination(r0), in(ranges["service-ranges"], r0), destinationType(expr.CmpOpNeq, unix.RTN_LOCAL), []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: "rejected"}})

	outside := plain("outside")
	rule(outside, loadFrontend(), p.in(proxy.Restricted, r0), loadSource(r3), p.notIn(proxy.Allowed, r0), []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}})
	rule(outside, loadFrontend(), p.vmap(proxy.Outside))
	rule(outside, nodePort, loadNodePort(), p.vmap(proxy.Outside))

	const dstnat, srcnat = -100, 100
	prerouting := hooked("prerouting", nftables.ChainHookPrerouting, dstnat)
	rule(prerouting, loadSource(r0), notIn(pods, r0), jump("outside"))
	rule(prerouting, jump("services"))
	rule(hooked("output", nftables.ChainHookOutput, dstnat), jump("services"))

	postrouting := hooked("postrouting", nftables.ChainHookPostrouting, srcnat)
	rule(postrouting, marked(), []expr.Any{&expr.Masq{FullyRandom: true}})
	rule(postrouting, wasLed(), loadSource(r0), loadDestination(r1), p.in(proxy.Hairpin, r0), []expr.Any{&expr.Masq{FullyRandom: true}})
}

// forward is what a chain of an action holds.
func (p *Programmer) forward(a proxy.Action) [][]expr.Any {
	var rules [][]expr.Any
	switch a.Masquerade {
	case proxy.Always:
		rules = append(rules, mark())
	case proxy.NonPods:
		if len(p.config.PodCIDRs) > 0 {
			pods := &nftables.Set{Name: "pods"}
			rules = append(rules, concat(loadSource(r0), notIn(pods, r0), mark()))
		}
	}
	frontend := loadFrontend()
	if a.NodePort {
		frontend = loadNodePort()
	}
	// r0…r3 = frontend and index; the endpoint is left in r4, r5 (of register r4).
	random := concat(frontend,
		[]expr.Any{
			&expr.Numgen{Register: r3, Modulus: uint32(a.Count), Type: unix.NFT_NG_RANDOM, Offset: uint32(a.First)},
			&expr.Lookup{SourceRegister: r0, DestRegister: r4, IsDestRegSet: true, SetName: string(proxy.Endpoints), SetID: p.sets[proxy.Endpoints].ID},
		})
	lead := []expr.Any{&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: r4, RegProtoMin: r4 + 1}}
	if a.Affinity > 0 {
		rules = append(rules, p.sticky(a, frontend, random, lead)...)
	}
	return append(rules, concat(random, lead))
}

// sticky leads a client to where it was before, if that is an endpoint still;
// else it forgets the old choice and remembers a new one. If nothing more can
// be remembered, the rule breaks off and the caller's next one balances.
func (p *Programmer) sticky(a proxy.Action, frontend, random, lead []expr.Any) [][]expr.Any {
	remembered := p.affinity[a.Outside]
	// The client's key goes to r8…r11: its address, then the frontend.
	client := concat(loadSource(r8), move(frontend, r8+1))
	dynset := func(operation uint32) []expr.Any {
		e := &expr.Dynset{SrcRegKey: r8, SrcRegData: r4, SetName: remembered.Name, SetID: remembered.ID, Operation: operation}
		if operation != dynsetDelete {
			e.Timeout = a.Affinity
		}
		return []expr.Any{e}
	}
	lookup := []expr.Any{
		&expr.Lookup{SourceRegister: r8, DestRegister: r4, IsDestRegSet: true, SetName: remembered.Name, SetID: remembered.ID},
	}
	// members' key is frontend and endpoint in a row: r1…r3, and r4, r5 as they stand.
	member := concat(move(frontend, r1), p.in(proxy.Members, r1))
	return [][]expr.Any{
		concat(client, lookup, member, dynset(unix.NFT_DYNSET_OP_UPDATE), lead),
		concat(client, []expr.Any{&expr.Immediate{Register: r4, Data: make([]byte, 8)}}, dynset(dynsetDelete)), // the kernel wants data even so
		concat(random, client, dynset(unix.NFT_DYNSET_OP_UPDATE), lead),
	}
}

// dynsetDelete is NFT_DYNSET_OP_DELETE of the kernel's nf_tables.h.
const dynsetDelete = 2

// icmpPortUnreachable is the code of RFC 792.
const icmpPortUnreachable = 3

func concat(parts ...[]expr.Any) []expr.Any {
	var all []expr.Any
	for _, part := range parts {
		all = append(all, part...)
	}
	return all
}

// Offsets in the IPv4 header (RFC 791) and in those of TCP and UDP.
func loadSource(register uint32) []expr.Any { return []expr.Any{network(register, 12)} }

func loadDestination(register uint32) []expr.Any { return []expr.Any{network(register, 16)} }

func network(register, offset uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4}
}

// loadFrontend puts address, protocol and port of the destination into r0…r2.
func loadFrontend() []expr.Any { return concat(loadDestination(r0), loadPort(r1)) }

// loadNodePort is the same with 0.0.0.0 for an address.
func loadNodePort() []expr.Any {
	return concat([]expr.Any{&expr.Immediate{Register: r0, Data: make([]byte, 4)}}, loadPort(r1))
}

func loadPort(register uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
		&expr.Payload{DestRegister: register + 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	}
}

// move is the same frontend, loaded from another register on.
func move(frontend []expr.Any, to uint32) []expr.Any {
	if _, constant := frontend[0].(*expr.Immediate); constant {
		return concat([]expr.Any{&expr.Immediate{Register: to, Data: make([]byte, 4)}}, loadPort(to+1))
	}
	return concat(loadDestination(to), loadPort(to+1))
}

func in(set *nftables.Set, register uint32) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: register, SetName: set.Name, SetID: set.ID}}
}

func notIn(set *nftables.Set, register uint32) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: register, SetName: set.Name, SetID: set.ID, Invert: true}}
}

func (p *Programmer) in(name proxy.Map, register uint32) []expr.Any {
	return in(p.sets[name], register)
}

func (p *Programmer) notIn(name proxy.Map, register uint32) []expr.Any {
	return notIn(p.sets[name], register)
}

// vmap goes where the map says for the frontend in r0…r2.
func (p *Programmer) vmap(name proxy.Map) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: r0, DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true,
		SetName: p.sets[name].Name, SetID: p.sets[name].ID}}
}

func protocolIs(protocol byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: r0}, &expr.Cmp{Op: expr.CmpOpEq, Register: r0, Data: []byte{protocol}}}
}

// nodePortAddress matches destinations on which node ports answer.
func nodePortAddress(set *nftables.Set, chosen bool) []expr.Any {
	local := destinationType(expr.CmpOpEq, unix.RTN_LOCAL)
	if chosen {
		return concat(local, loadDestination(r0), in(set, r0))
	}
	return concat(local, loadDestination(r0), []expr.Any{
		&expr.Bitwise{SourceRegister: r0, DestRegister: r0, Len: 4, Mask: []byte{0xff, 0, 0, 0}, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: r0, Data: []byte{127, 0, 0, 0}},
	})
}

func destinationType(op expr.CmpOp, kind uint32) []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: r0, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: op, Register: r0, Data: native(kind)},
	}
}

// mark sets the bit, marked matches and clears it.
func mark() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: r0},
		&expr.Bitwise{SourceRegister: r0, DestRegister: r0, Len: 4, Mask: native(^uint32(masqueradeMark)), Xor: native(masqueradeMark)},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: r0, SourceRegister: true},
	}
}

func marked() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: r0},
		&expr.Bitwise{SourceRegister: r0, DestRegister: r1, Len: 4, Mask: native(masqueradeMark), Xor: native(0)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: r1, Data: native(0)},
		&expr.Bitwise{SourceRegister: r0, DestRegister: r0, Len: 4, Mask: native(^uint32(masqueradeMark)), Xor: native(0)},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: r0, SourceRegister: true},
	}
}

// wasLed matches connections whose destination was rewritten.
func wasLed() []expr.Any {
	const dnat = 1 << 5 // IPS_DST_NAT of the kernel's nf_conntrack_common.h
	return []expr.Any{
		&expr.Ct{Register: r0, Key: expr.CtKeySTATUS},
		&expr.Bitwise{SourceRegister: r0, DestRegister: r0, Len: 4, Mask: native(dnat), Xor: native(0)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: r0, Data: native(0)},
	}
}

func native(value uint32) []byte { return binaryutil.NativeEndian.PutUint32(value) }

func hostOrder(index int) []byte { return native(uint32(index)) }

// bounds are the first and the last address of a prefix.
func bounds(prefix netip.Prefix) (first, last []byte) {
	address := prefix.Masked().Addr().As4()
	from := binary.BigEndian.Uint32(address[:])
	return address[:], binary.BigEndian.AppendUint32(nil, from|uint32(uint64(1)<<(32-prefix.Bits())-1))
}

// intervals encodes prefixes as half-open intervals, leaving out what lies
// within others: a set takes no overlaps.
func intervals(prefixes []netip.Prefix) []nftables.SetElement {
	var elements []nftables.SetElement
	for i, prefix := range prefixes {
		covered := false
		for j, other := range prefixes {
			covered = covered || prefix.Overlaps(other) && (other.Bits() < prefix.Bits() || other.Bits() == prefix.Bits() && j < i)
		}
		if covered {
			continue
		}
		first, last := bounds(prefix)
		elements = append(elements, nftables.SetElement{Key: first})
		if end := uint64(binary.BigEndian.Uint32(last)) + 1; end <= 0xffffffff {
			elements = append(elements, nftables.SetElement{Key: binary.BigEndian.AppendUint32(nil, uint32(end)), IntervalEnd: true})
		}
	}
	return elements
}
