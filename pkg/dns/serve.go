package dns

import (
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// udpSize is what we take and send over UDP at most; beyond it fragments get
// lost (DNS flag day 2020).
const udpSize = 1232

// ServeDNS implements dns.Handler: one query, in a goroutine of its own.
func (s *Server) ServeDNS(writer dns.ResponseWriter, query *dns.Msg) {
	began := time.Now()
	_, tcp := writer.RemoteAddr().(*net.TCPAddr)
	reply := s.handle(query, tcp)
	if reply == nil {
		return // not a query at all
	}
	fit(query, reply, tcp)
	s.metrics.observe(query, reply, tcp, began)
	writer.WriteMsg(reply)
}

// handle decides on a query.
func (s *Server) handle(query *dns.Msg, tcp bool) *dns.Msg {
	reply := new(dns.Msg)
	refuse := func(rcode int) *dns.Msg { return reply.SetRcode(query, rcode) }
	switch {
	case query.Response:
		return nil
	case query.Opcode != dns.OpcodeQuery:
		return refuse(dns.RcodeNotImplemented)
	case len(query.Question) != 1:
		return refuse(dns.RcodeFormatError)
	}
	if option := query.IsEdns0(); option != nil && option.Version() != 0 {
		return refuse(dns.RcodeBadVers)
	}
	question := query.Question[0]
	if question.Qclass != dns.ClassINET || question.Qtype == dns.TypeAXFR || question.Qtype == dns.TypeIXFR {
		return refuse(dns.RcodeRefused)
	}
	found, result := s.zone.Answer(question)
	if result == NotOurs {
		return s.forward(query, tcp)
	}
	reply.SetReply(query)
	reply.Authoritative, reply.RecursionAvailable, reply.Compress = true, true, true
	reply.Rcode, reply.Answer, reply.Extra = found.Rcode, found.Answer, found.Extra
	if found.Chase != "" {
		reply.Answer = append(reply.Answer, s.chase(query, found.Chase, tcp)...)
	}
	if len(reply.Answer) == 0 {
		reply.Ns = []dns.RR{s.zone.SOA()}
	}
	return reply
}

// chase follows a CNAME for the client, as far as it is known here or upstream.
// The alias itself is an answer, so nothing found is no failure.
func (s *Server) chase(query *dns.Msg, target string, tcp bool) []dns.RR {
	question := dns.Question{Name: target, Qtype: query.Question[0].Qtype, Qclass: dns.ClassINET}
	var answers []dns.RR
	for range 8 { // aliases within the zone may point at one another
		found, result := s.zone.Answer(question)
		if result == NotOurs {
			break
		}
		answers = append(answers, found.Answer...)
		if found.Chase == "" {
			return answers
		}
		question.Name = found.Chase
	}
	if dns.IsSubDomain(s.zone.Domain, strings.ToLower(question.Name)) {
		return answers
	}
	further := new(dns.Msg)
	further.SetQuestion(question.Name, question.Qtype)
	if reply := s.forward(further, tcp); reply.Rcode == dns.RcodeSuccess {
		answers = append(answers, reply.Answer...)
	}
	return answers
}

// forward asks the upstream resolvers.
func (s *Server) forward(query *dns.Msg, tcp bool) *dns.Msg {
	reply, rcode := s.upstream.ask(query, tcp)
	if reply != nil {
		reply.Id, reply.Compress = query.Id, true
		return reply
	}
	failure := new(dns.Msg)
	failure.SetRcode(query, rcode)
	failure.RecursionAvailable = rcode != dns.RcodeRefused
	return failure
}

// fit brings a reply to the size and the EDNS version that the client takes.
func fit(query, reply *dns.Msg, tcp bool) {
	size := dns.MinMsgSize
	asked := query.IsEdns0()
	reply.Extra = withoutOPT(reply.Extra)
	if asked != nil {
		size = max(size, min(int(asked.UDPSize()), udpSize))
		rcode := reply.Rcode
		reply.SetEdns0(udpSize, asked.Do())
		if rcode > 0xf {
			reply.IsEdns0().SetExtendedRcode(uint16(rcode))
		}
	}
	if tcp {
		size = dns.MaxMsgSize
	}
	reply.Truncate(size)
}

func withoutOPT(records []dns.RR) []dns.RR {
	kept := records[:0:0]
	for _, record := range records {
		if record.Header().Rrtype != dns.TypeOPT {
			kept = append(kept, record)
		}
	}
	return kept
}

// unmapped is an address without the disguise that a dual-stack socket gives it.
func unmapped(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }
