package dns

import (
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	upstreamTimeout = 2 * time.Second
	// maxForwarded bounds the queries that wait for upstreams, and so what a
	// loop through others can hold.
	maxForwarded = 1000
	// resolvConfAge is how often the file is looked at, at most.
	resolvConfAge = 5 * time.Second
)

// upstream forwards queries to other resolvers.
type upstream struct {
	fixed []netip.AddrPort
	path  string
	own   []netip.AddrPort // never asked: that is us; set before the first query

	next  atomic.Uint32
	slots chan struct{}

	mu       sync.Mutex
	servers  []netip.AddrPort
	readAt   time.Time
	modified time.Time
	waiting  map[flight]int // sent and not answered
}

// flight is a query as it was sent. Seen coming in, it has come round.
type flight struct {
	id       uint16
	question dns.Question
}

func newUpstream(fixed []netip.AddrPort, path string) *upstream {
	return &upstream{fixed: fixed, path: path, slots: make(chan struct{}, maxForwarded), waiting: map[flight]int{}}
}

// ask returns an upstream's reply, or nil and a code: REFUSED if there is
// nobody to ask, SERVFAIL if nobody answers.
func (u *upstream) ask(query *dns.Msg, tcp bool) (*dns.Msg, int) {
	servers := u.list()
	if len(servers) == 0 {
		return nil, dns.RcodeRefused
	}
	if u.comesRound(query) {
		return nil, dns.RcodeServerFailure
	}
	select {
	case u.slots <- struct{}{}:
		defer func() { <-u.slots }()
	default:
		return nil, dns.RcodeServerFailure
	}
	client := &dns.Client{Net: "udp", Timeout: upstreamTimeout, UDPSize: dns.DefaultMsgSize}
	if tcp {
		client.Net = "tcp"
	}
	first := int(u.next.Add(1))
	for i := range min(len(servers), 3) {
		sent := query.Copy()
		sent.Id = dns.Id()
		if sent.IsEdns0() == nil {
			sent.SetEdns0(udpSize, false)
		}
		land := u.take(sent)
		reply, _, err := client.Exchange(sent, servers[(first+i)%len(servers)].String())
		land()
		if err == nil && reply != nil {
			return reply, reply.Rcode
		}
	}
	return nil, dns.RcodeServerFailure
}

func (u *upstream) take(sent *dns.Msg) (land func()) {
	key := flight{sent.Id, sent.Question[0]}
	u.mu.Lock()
	u.waiting[key]++
	u.mu.Unlock()
	return func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.waiting[key]--; u.waiting[key] == 0 {
			delete(u.waiting, key)
		}
	}
}

// comesRound says whether a query is one of our own that an upstream sent back.
func (u *upstream) comesRound(query *dns.Msg) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.waiting[flight{query.Id, query.Question[0]}] > 0
}

// list returns the resolvers to ask.
func (u *upstream) list() []netip.AddrPort {
	if u.fixed != nil {
		return u.others(u.fixed)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if now := time.Now(); now.Sub(u.readAt) > resolvConfAge {
		u.readAt = now
		u.read()
	}
	return u.servers
}

// read parses resolv.conf if it has changed. A file that isn't there has no servers.
func (u *upstream) read() {
	info, err := os.Stat(u.path)
	if err != nil {
		u.servers, u.modified = nil, time.Time{}
		return
	}
	if info.ModTime().Equal(u.modified) {
		return
	}
	parsed, err := dns.ClientConfigFromFile(u.path)
	if err != nil {
		return // half written: the old servers stay until it makes sense again
	}
	u.modified = info.ModTime()
	var servers []netip.AddrPort
	port, _ := strconv.ParseUint(parsed.Port, 10, 16)
	for _, text := range parsed.Servers {
		if address, err := netip.ParseAddr(text); err == nil {
			servers = append(servers, netip.AddrPortFrom(address, uint16(port)))
		}
	}
	u.servers = u.others(servers)
}

// others leaves out ourselves.
func (u *upstream) others(servers []netip.AddrPort) []netip.AddrPort {
	return slices.DeleteFunc(slices.Clone(servers), func(server netip.AddrPort) bool {
		return slices.ContainsFunc(u.own, func(own netip.AddrPort) bool {
			own = unmapped(own)
			return own.Port() == server.Port() && (own.Addr() == server.Addr().Unmap() ||
				own.Addr().IsUnspecified() && server.Addr().IsLoopback())
		})
	})
}
