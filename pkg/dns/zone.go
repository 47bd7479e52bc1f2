package dns

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/miekg/dns"
	"k8s.io/apimachinery/pkg/types"
)

// The times that answers live, in seconds.
const (
	positiveTTL = 30
	negativeTTL = 5
)

// specVersion is the version of the specification that is implemented.
const specVersion = "1.1.0"

// Zone answers questions from an index.
type Zone struct {
	// Domain is the cluster's, "cluster.local.", in lower case.
	Domain string
	Index  *Index
	// Server are the name server's own addresses (ns.dns.DOMAIN).
	Server []netip.Addr
}

// Reply is the answer to one question.
type Reply struct {
	Rcode         int
	Answer, Extra []dns.RR
	// Chase, where set, is a name outside the zone that the last CNAME leads to.
	Chase string
}

// Result tells whether a zone is responsible.
type Result int

// The results of [Zone.Answer].
const (
	NotOurs Result = iota // ask elsewhere
	Ours                  // authoritative, denials included
)

// Answer answers a question of class IN.
func (z *Zone) Answer(question dns.Question) (Reply, Result) {
	name := strings.ToLower(question.Name)
	if dns.IsSubDomain(z.Domain, name) {
		return z.forward(question, name), Ours
	}
	if address, ok := reverseAddress(name); ok {
		return z.reverse(question, address)
	}
	return Reply{}, NotOurs
}

// SOA is the record that goes with denials. Its serial does not change: nobody transfers the zone.
func (z *Zone) SOA() dns.RR {
	return &dns.SOA{Hdr: header(z.Domain, dns.TypeSOA, negativeTTL), Ns: "ns.dns." + z.Domain, Mbox: "hostmaster." + z.Domain,
		Serial: 1, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: negativeTTL}
}

func header(name string, kind uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: ttl}
}

var (
	noData   = Reply{Rcode: dns.RcodeSuccess}
	nxDomain = Reply{Rcode: dns.RcodeNameError}
)

// forward answers a name within the domain. name is lower case; the records
// carry the question's own spelling.
func (z *Zone) forward(question dns.Question, name string) Reply {
	labels := dns.SplitDomainName(strings.TrimSuffix(name, z.Domain))
	n := len(labels)
	last := func(i int) string { return labels[n-i] } // from the right, 1-based
	switch {
	case n == 0:
		return z.apex(question)
	case n == 1 && last(1) == "dns-version":
		return only(question, dns.TypeTXT, &dns.TXT{Hdr: header(question.Name, dns.TypeTXT, positiveTTL), Txt: []string{specVersion}})
	case last(1) == "dns" && n == 1:
		return noData
	case last(1) == "dns" && n == 2 && last(2) == "ns":
		return Reply{Answer: addressRecords(question, question.Name, z.Server)}
	case last(1) == "svc":
		return z.service(question, labels[:n-1])
	case last(1) == "pod":
		return z.pod(question, labels[:n-1])
	}
	return nxDomain
}

func (z *Zone) apex(question dns.Question) Reply {
	switch question.Qtype {
	case dns.TypeSOA:
		return Reply{Answer: []dns.RR{z.SOA()}}
	case dns.TypeNS:
		server := "ns.dns." + z.Domain
		return Reply{
			Answer: []dns.RR{&dns.NS{Hdr: header(question.Name, dns.TypeNS, positiveTTL), Ns: server}},
			Extra:  addressRecords(dns.Question{Qtype: dns.TypeANY}, server, z.Server),
		}
	}
	return noData
}

func only(question dns.Question, kind uint16, record dns.RR) Reply {
	if question.Qtype == kind || question.Qtype == dns.TypeANY {
		return Reply{Answer: []dns.RR{record}}
	}
	return noData
}

// service answers what stands below svc.DOMAIN.
func (z *Zone) service(question dns.Question, labels []string) Reply {
	n := len(labels)
	if n == 0 {
		return noData
	}
	namespace := labels[n-1]
	if n == 1 {
		if z.Index.namespace(namespace) {
			return noData // an empty non-terminal
		}
		return nxDomain
	}
	found := z.Index.lookup(types.NamespacedName{Namespace: namespace, Name: labels[n-2]})
	if found == nil {
		return nxDomain
	}
	base := labels[n-2] + "." + namespace + ".svc." + z.Domain
	switch rest := labels[:n-2]; {
	case len(rest) == 0:
		return z.whole(question, found, base)
	case found.external != "":
		return nxDomain
	case len(rest) == 2 && strings.HasPrefix(rest[0], "_") && strings.HasPrefix(rest[1], "_"):
		return ports(question, found, base, rest[0][1:], rest[1][1:])
	case len(rest) == 1 && strings.HasPrefix(rest[0], "_"):
		return protocol(found, rest[0][1:])
	case len(rest) == 1:
		for _, endpoint := range found.endpoints {
			if endpoint.host == rest[0] {
				return z.endpoint(question, endpoint, base)
			}
		}
	}
	return nxDomain
}

// whole answers a service's own name.
func (z *Zone) whole(question dns.Question, found *service, base string) Reply {
	if found.external != "" {
		return z.external(question, found)
	}
	addresses := found.addresses
	if found.headless {
		addresses = nil
		for _, endpoint := range found.endpoints {
			addresses = append(addresses, endpoint.addresses...)
		}
		if len(addresses) == 0 {
			return nxDomain // section 2.4.1: without ready endpoints there is no such name
		}
	}
	if question.Qtype == dns.TypeSRV {
		return ports(question, found, base, "", "")
	}
	return Reply{Answer: addressRecords(question, question.Name, addresses)}
}

// external answers the name of an ExternalName service.
func (z *Zone) external(question dns.Question, found *service) Reply {
	if address, err := netip.ParseAddr(strings.TrimSuffix(found.external, ".")); err == nil {
		return Reply{Answer: addressRecords(question, question.Name, []netip.Addr{address})}
	}
	switch question.Qtype {
	case dns.TypeA, dns.TypeAAAA, dns.TypeCNAME, dns.TypeANY:
	default:
		return noData
	}
	reply := Reply{Answer: []dns.RR{&dns.CNAME{Hdr: header(question.Name, dns.TypeCNAME, positiveTTL), Target: found.external}}}
	if question.Qtype == dns.TypeA || question.Qtype == dns.TypeAAAA {
		reply.Chase = found.external
	}
	return reply
}

// endpoint answers the name of one endpoint.
func (z *Zone) endpoint(question dns.Question, found endpoint, base string) Reply {
	if question.Qtype == dns.TypeSRV {
		reply := Reply{}
		for _, p := range found.ports {
			reply.Answer = append(reply.Answer, srv(question.Name, p, 1, found.host+"."+base))
		}
		reply.Extra = addressRecords(dns.Question{Qtype: dns.TypeANY}, found.host+"."+base, found.addresses)
		return reply
	}
	return Reply{Answer: addressRecords(question, question.Name, found.addresses)}
}

// ports answers _PORT._PROTO, or all ports if both are empty.
func ports(question dns.Question, found *service, base, name, protocol string) Reply {
	matches := func(p port) bool {
		return name == "" && protocol == "" || p.name == name && p.protocol == protocol
	}
	reply := Reply{}
	exists := false
	if !found.headless {
		for _, p := range found.ports {
			if matches(p) {
				exists = true
				reply.Answer = append(reply.Answer, srv(question.Name, p, 100, base))
			}
		}
		reply.Extra = addressRecords(dns.Question{Qtype: dns.TypeANY}, base, found.addresses)
	} else {
		for _, endpoint := range found.endpoints {
			target := endpoint.host + "." + base
			some := false
			for _, p := range endpoint.ports {
				if matches(p) {
					some = true
					reply.Answer = append(reply.Answer, srv(question.Name, p, 1, target))
				}
			}
			if some {
				exists = true
				reply.Extra = append(reply.Extra, addressRecords(dns.Question{Qtype: dns.TypeANY}, target, endpoint.addresses)...)
			}
		}
		// The weights of all endpoints are equal, whatever their number.
		for _, record := range reply.Answer {
			record.(*dns.SRV).Weight = uint16(max(100/len(reply.Answer), 1))
		}
	}
	switch {
	case name == "" && protocol == "":
		return reply
	case !exists:
		return nxDomain
	case question.Qtype != dns.TypeSRV && question.Qtype != dns.TypeANY:
		return noData
	}
	return reply
}

// protocol answers _PROTO.SERVICE…: an empty non-terminal, if some port lies below.
func protocol(found *service, name string) Reply {
	for _, p := range found.ports {
		if p.protocol == name {
			return noData
		}
	}
	for _, endpoint := range found.endpoints {
		for _, p := range endpoint.ports {
			if p.protocol == name {
				return noData
			}
		}
	}
	return nxDomain
}

// pod answers A-B-C-D.NS.pod.DOMAIN from the name alone.
func (z *Zone) pod(question dns.Question, labels []string) Reply {
	switch {
	case len(labels) == 0:
		return noData
	case !z.Index.namespace(labels[len(labels)-1]) || len(labels) > 2:
		return nxDomain
	case len(labels) == 1:
		return noData
	}
	address, ok := undashed(labels[0])
	if !ok {
		return nxDomain
	}
	return Reply{Answer: addressRecords(question, question.Name, []netip.Addr{address})}
}

func undashed(label string) (netip.Addr, bool) {
	if strings.Count(label, "-") == 3 && !strings.Contains(label, "--") {
		if address, err := netip.ParseAddr(strings.ReplaceAll(label, "-", ".")); err == nil {
			return address, true
		}
	}
	address, err := netip.ParseAddr(strings.ReplaceAll(label, "-", ":"))
	return address, err == nil
}

// reverse answers PTR questions; addresses that aren't the cluster's are somebody else's.
func (z *Zone) reverse(question dns.Question, address netip.Addr) (Reply, Result) {
	names := z.Index.names(address)
	if names == nil {
		return Reply{}, NotOurs
	}
	if question.Qtype != dns.TypePTR && question.Qtype != dns.TypeANY {
		return noData, Ours
	}
	all := names.services
	if len(all) == 0 {
		all = names.endpoints
	}
	reply := Reply{}
	for _, name := range all {
		reply.Answer = append(reply.Answer, &dns.PTR{Hdr: header(question.Name, dns.TypePTR, positiveTTL), Ptr: name + ".svc." + z.Domain})
	}
	return reply, Ours
}

// reverseAddress reads an address from a name below in-addr.arpa or ip6.arpa.
func reverseAddress(name string) (netip.Addr, bool) {
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		labels := strings.Split(rest, ".")
		if len(labels) != 4 {
			return netip.Addr{}, false
		}
		address, err := netip.ParseAddr(labels[3] + "." + labels[2] + "." + labels[1] + "." + labels[0])
		return address, err == nil
	}
	if rest, ok := strings.CutSuffix(name, ".ip6.arpa."); ok {
		nibbles := strings.Split(rest, ".")
		if len(nibbles) != 32 {
			return netip.Addr{}, false
		}
		var bytes [16]byte
		for i, text := range nibbles {
			nibble, err := strconv.ParseUint(text, 16, 4)
			if err != nil || len(text) != 1 {
				return netip.Addr{}, false
			}
			at := 31 - i
			bytes[at/2] |= byte(nibble) << (4 * (1 - at%2))
		}
		return netip.AddrFrom16(bytes), true
	}
	return netip.Addr{}, false
}

// addressRecords are the A or AAAA records that a question asks for, in random
// order, so that clients that take the first spread.
func addressRecords(question dns.Question, name string, addresses []netip.Addr) []dns.RR {
	var records []dns.RR
	wants := func(kind uint16) bool { return question.Qtype == kind || question.Qtype == dns.TypeANY }
	for _, address := range addresses {
		switch {
		case address.Is4() && wants(dns.TypeA):
			records = append(records, &dns.A{Hdr: header(name, dns.TypeA, positiveTTL), A: net.IP(address.AsSlice())})
		case address.Is6() && wants(dns.TypeAAAA):
			records = append(records, &dns.AAAA{Hdr: header(name, dns.TypeAAAA, positiveTTL), AAAA: net.IP(address.AsSlice())})
		}
	}
	rand.Shuffle(len(records), func(i, j int) { records[i], records[j] = records[j], records[i] })
	return records
}

func srv(name string, p port, weight uint16, target string) dns.RR {
	return &dns.SRV{Hdr: header(name, dns.TypeSRV, positiveTTL), Priority: 0, Weight: weight, Port: p.number, Target: target}
}
