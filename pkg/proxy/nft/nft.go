// Package nft programs a proxy's table into the kernel, over netlink: one
// transaction a change, nothing listed back, no rule rewritten.
//
// The table (ip skiff) is made of base chains and maps that stand from the
// start, of elements, and of one chain for each manner of forwarding, added
// when an element first leads there. It needs CAP_NET_ADMIN in the network
// namespace and a kernel from 5.9 on (reject in prerouting; concatenated
// ranges came with 5.6).
//
// A packet mark bit (0x4000, the one that kube-proxy uses) carries "to be
// masqueraded" from the destination's rewriting to postrouting.
//
// "nft list table ip skiff" shows all of it, with one exception that is nft's:
// its version 1.0.6 aborts at a key whose parts came out of a map, which the
// kernel takes and client affinity needs. Where a service has that, list maps
// and chains one by one.
package nft

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	vishvananda "github.com/vishvananda/netlink"

	"skiff/pkg/proxy"
)

// Config is what does not change while a programmer lives.
type Config struct {
	// PodCIDRs hold the cluster's pods: other clients are masqueraded towards
	// cluster addresses. With none, nobody is.
	PodCIDRs []netip.Prefix
	// ServiceCIDRs are the ranges of cluster addresses: what nobody serves
	// there is rejected.
	ServiceCIDRs []netip.Prefix
	// NodePortAddresses are the ranges of local addresses on which node ports
	// answer; with none, all local addresses but those of loopback.
	NodePortAddresses []netip.Prefix
	// Table is the table's name, "skiff" by default.
	Table string
}

// Programmer is a [proxy.Programmer] of the kernel's.
type Programmer struct {
	config Config
	table  *nftables.Table
	sets   map[proxy.Map]*nftables.Set
	// affinity holds what clients chose; by whether the client is from outside.
	affinity map[bool]*nftables.Set
	chains   map[string]bool
}

// New makes a programmer; it does nothing to the kernel yet.
func New(config Config) (*Programmer, error) {
	if config.Table == "" {
		config.Table = "skiff"
	}
	for _, prefixes := range [][]netip.Prefix{config.PodCIDRs, config.ServiceCIDRs, config.NodePortAddresses} {
		for _, prefix := range prefixes {
			if !prefix.Addr().Is4() {
				return nil, fmt.Errorf("proxy: range %s: only IPv4 is supported", prefix)
			}
		}
	}
	return &Programmer{config: config}, nil
}

// Reset implements [proxy.Programmer]. A table that an earlier process left is
// filled anew, so that clients with affinity stay where they are; if it can't
// be (its maps are of another version, say), it is replaced.
func (p *Programmer) Reset(elements []proxy.Element) error {
	err := p.reset(elements, true)
	if err != nil {
		err = p.reset(elements, false)
	}
	if err != nil {
		return fmt.Errorf("proxy: programming table %s: %w", p.config.Table, err)
	}
	return nil
}

func (p *Programmer) reset(elements []proxy.Element, keep bool) error {
	conn, err := dial(len(elements))
	if err != nil {
		return err
	}
	p.chains = nil // until the transaction is through, nothing is known
	if err := p.declare(conn, keep); err != nil {
		return err
	}
	chains := map[string]bool{}
	p.addChains(conn, elements, chains)
	if err := p.addElements(conn, elements); err != nil {
		return err
	}
	if err := conn.Flush(); err != nil {
		return err
	}
	p.chains = chains
	return nil
}

// Apply implements [proxy.Programmer].
func (p *Programmer) Apply(changes proxy.Changes) error {
	if p.chains == nil {
		return errors.New("proxy: the table was never programmed")
	}
	if len(changes.Delete) > 0 || len(changes.Add) > 0 {
		conn, err := dial(len(changes.Delete) + len(changes.Add))
		if err != nil {
			return err
		}
		added := p.addChains(conn, changes.Add, p.chains)
		err = errors.Join(p.deleteElements(conn, changes.Delete), p.addElements(conn, changes.Add))
		if err == nil {
			err = conn.Flush()
		}
		if err != nil {
			for _, name := range added {
				delete(p.chains, name)
			}
			return fmt.Errorf("proxy: changing table %s: %w", p.config.Table, err)
		}
	}
	return endFlows(changes.Flows)
}

// Check implements [proxy.Programmer].
func (p *Programmer) Check() error {
	if p.chains == nil {
		return errors.New("proxy: the table was never programmed")
	}
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	if _, err := conn.ListChain(p.table, "services"); err != nil {
		return fmt.Errorf("proxy: table %s: %w", p.config.Table, err)
	}
	return nil
}

// dial opens a connection that takes a transaction of n elements: it is sent
// in one piece, and its answers must not overflow the receive buffer.
func dial(n int) (*nftables.Conn, error) {
	size := 1<<20 + n*256
	conn, err := nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error {
		// These go beyond net.core.{r,w}mem_max with CAP_NET_ADMIN.
		return errors.Join(c.SetWriteBuffer(size), c.SetReadBuffer(size))
	}))
	if err != nil {
		return nil, fmt.Errorf("proxy: opening nftables: %w", err)
	}
	return conn, nil
}

// addChains adds the chains that elements need and known lacks.
func (p *Programmer) addChains(conn *nftables.Conn, elements []proxy.Element, known map[string]bool) (added []string) {
	for _, element := range elements {
		if element.Map != proxy.Services && element.Map != proxy.Outside || element.Action.Verdict != proxy.Forward {
			continue
		}
		name := element.Action.Chain()
		if known[name] {
			continue
		}
		chain := conn.AddChain(&nftables.Chain{Table: p.table, Name: name})
		for _, rule := range p.forward(element.Action) {
			conn.AddRule(&nftables.Rule{Table: p.table, Chain: chain, Exprs: rule})
		}
		known[name] = true
		added = append(added, name)
	}
	return added
}

// perMessage bounds the elements of one message: a netlink attribute is at most 64 KiB long.
const perMessage = 400

func (p *Programmer) addElements(conn *nftables.Conn, elements []proxy.Element) error {
	return p.batches(elements, true, conn.SetAddElements)
}

func (p *Programmer) deleteElements(conn *nftables.Conn, elements []proxy.Element) error {
	return p.batches(elements, false, conn.SetDeleteElements)
}

func (p *Programmer) batches(elements []proxy.Element, values bool, send func(*nftables.Set, []nftables.SetElement) error) error {
	pending := map[proxy.Map][]nftables.SetElement{}
	flush := func(to proxy.Map) error {
		defer delete(pending, to)
		return send(p.sets[to], pending[to])
	}
	for _, element := range elements {
		pending[element.Map] = append(pending[element.Map], encode(element, values))
		if len(pending[element.Map]) == perMessage {
			if err := flush(element.Map); err != nil {
				return err
			}
		}
	}
	for to := range pending {
		if err := flush(to); err != nil {
			return err
		}
	}
	return nil
}

// encode writes an element as the kernel compares it: every part of a key
// fills whole registers of four bytes, numbers are in network order, save the
// index, which numgen leaves in the host's.
func encode(element proxy.Element, value bool) nftables.SetElement {
	key := element.Key
	var out nftables.SetElement
	switch element.Map {
	case proxy.Hairpin:
		address := key.Endpoint.Addr().AsSlice()
		out.Key = append(address, address...)
		return out
	case proxy.Endpoints:
		out.Key = append(frontendKey(key.Frontend), hostOrder(key.Index)...)
	case proxy.Members:
		out.Key = append(frontendKey(key.Frontend), endpointValue(key.Endpoint)...)
	case proxy.Allowed:
		first, last := bounds(key.Source)
		out.Key = append(frontendKey(key.Frontend), first...)
		out.KeyEnd = append(frontendKey(key.Frontend), last...)
	default:
		out.Key = frontendKey(key.Frontend)
	}
	if !value {
		return out
	}
	switch element.Map {
	case proxy.Endpoints:
		out.Val = endpointValue(element.Endpoint)
	case proxy.Services, proxy.Outside:
		out.VerdictData = &expr.Verdict{Kind: expr.VerdictGoto, Chain: element.Action.Chain()}
	}
	return out
}

func frontendKey(f proxy.Frontend) []byte {
	key := append(make([]byte, 0, 20), f.Addr.AsSlice()...)
	return append(key, byte(f.Protocol), 0, 0, 0, byte(f.Port>>8), byte(f.Port), 0, 0)
}

func endpointValue(endpoint netip.AddrPort) []byte {
	return append(endpoint.Addr().AsSlice(), byte(endpoint.Port()>>8), byte(endpoint.Port()), 0, 0)
}

// endFlows deletes tracked UDP flows. The kernel's table is read once for all of them.
func endFlows(flows []proxy.Flow) error {
	if len(flows) == 0 {
		return nil
	}
	filter := newFlowFilter(flows)
	_, err := vishvananda.ConntrackDeleteFilters(vishvananda.ConntrackTable, vishvananda.FAMILY_V4, filter)
	if err != nil && !errors.Is(err, vishvananda.ErrDumpInterrupted) {
		return fmt.Errorf("proxy: ending UDP flows: %w", err)
	}
	return nil
}
