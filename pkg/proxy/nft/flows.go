package nft

import (
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"skiff/pkg/proxy"
)

// flowFilter selects the UDP flows that may not go on: those that were sent to
// a frontend and are answered by none of its endpoints.
type flowFilter struct {
	keep map[netip.AddrPort]map[netip.AddrPort]bool // by frontend
}

func newFlowFilter(flows []proxy.Flow) *flowFilter {
	f := &flowFilter{keep: map[netip.AddrPort]map[netip.AddrPort]bool{}}
	for _, flow := range flows {
		keep := map[netip.AddrPort]bool{}
		for _, endpoint := range flow.Keep {
			keep[endpoint] = true
		}
		// Several flows of one frontend follow one another: the last is right.
		f.keep[netip.AddrPortFrom(flow.Frontend.Addr, flow.Frontend.Port)] = keep
	}
	return f
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (f *flowFilter) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	from, ok := netip.AddrFromSlice(flow.Reverse.SrcIP.To4())
	to, ok2 := netip.AddrFromSlice(flow.Forward.DstIP.To4())
	if !ok || !ok2 {
		return false
	}
	keep, ours := f.keep[netip.AddrPortFrom(to, flow.Forward.DstPort)]
	if !ours {
		// A node port: to any address, but only what was led elsewhere, for the
		// same number may be an ordinary port of another machine.
		keep, ours = f.keep[netip.AddrPortFrom(netip.IPv4Unspecified(), flow.Forward.DstPort)]
		ours = ours && from != to
	}
	return ours && !keep[netip.AddrPortFrom(from, flow.Reverse.SrcPort)]
}
