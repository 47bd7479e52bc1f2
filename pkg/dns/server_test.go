package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/tools/cache"
	cachetesting "k8s.io/client-go/tools/cache/testing"
)

type testServer struct {
	t         *testing.T
	address   string
	services  *cachetesting.FakeControllerSource
	endpoints *cachetesting.FakeControllerSource
	server    *Server
}

// startServer runs a server on a loopback port with a few services.
func startServer(t *testing.T, config Config) *testServer {
	t.Helper()
	s := &testServer{t: t, services: cachetesting.NewFakeControllerSource(), endpoints: cachetesting.NewFakeControllerSource()}
	s.services.Add(testService("web", nil))
	s.services.Add(testService("big", headless))
	s.services.Add(testService("far", func(spec *corev1.ServiceSpec) {
		*spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "there.example.com"}
	}))
	var many []discoveryv1.Endpoint
	for i := range 200 {
		many = append(many, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.244.2.%d", i)}})
	}
	s.endpoints.Add(testSlice("big-a", "big", discoveryv1.AddressTypeIPv4, many...))
	config.Services = cache.NewSharedIndexInformer(s.services, &corev1.Service{}, 0, nil)
	config.EndpointSlices = cache.NewSharedIndexInformer(s.endpoints, &discoveryv1.EndpointSlice{}, 0, nil)
	packet, listener, err := Listen(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	config.PacketConns, config.Listeners = []net.PacketConn{packet}, []net.Listener{listener}
	s.address = packet.LocalAddr().String()
	s.server = New(config)
	ctx, cancel := context.WithCancel(context.Background())
	go config.Services.Run(ctx.Done())
	go config.EndpointSlices.Run(ctx.Done())
	done := make(chan error, 1)
	go func() { done <- s.server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *testServer) ask(network string, query *dns.Msg) *dns.Msg {
	s.t.Helper()
	client := &dns.Client{Net: network, Timeout: 5 * time.Second, UDPSize: dns.MaxMsgSize}
	reply, _, err := client.Exchange(query, s.address)
	if err != nil {
		s.t.Fatalf("%s %v: %v", network, query.Question, err)
	}
	return reply
}

func question(name string, kind uint16) *dns.Msg {
	return new(dns.Msg).SetQuestion(name, kind)
}

func TestServer(t *testing.T) {
	nobody := filepath.Join(t.TempDir(), "resolv.conf")
	s := startServer(t, Config{ResolvConf: nobody})
	// The first query may come before the informers have synced: it waits.
	for _, network := range []string{"udp", "tcp"} {
		reply := s.ask(network, question("web.default.svc.cluster.local.", dns.TypeA))
		if len(reply.Answer) != 1 || !reply.Authoritative || reply.Answer[0].Header().Ttl != positiveTTL {
			t.Errorf("%s: %v", network, reply)
		}
		denied := s.ask(network, question("nothing.default.svc.cluster.local.", dns.TypeA))
		if denied.Rcode != dns.RcodeNameError || len(denied.Ns) != 1 || denied.Ns[0].Header().Ttl != negativeTTL {
			t.Errorf("%s: %v", network, denied)
		}
		// Nobody to ask: refused at once.
		if reply := s.ask(network, question("example.com.", dns.TypeA)); reply.Rcode != dns.RcodeRefused {
			t.Errorf("%s: %v", network, reply)
		}
	}
	if err := s.server.Ready(); err != nil {
		t.Error(err)
	}
	// An alias out of the zone that nobody resolves is an answer still.
	if reply := s.ask("udp", question("far.default.svc.cluster.local.", dns.TypeA)); reply.Rcode != dns.RcodeSuccess || len(reply.Answer) != 1 {
		t.Errorf("%v", reply)
	}
}

func TestTruncation(t *testing.T) {
	s := startServer(t, Config{ResolvConf: filepath.Join(t.TempDir(), "none")})
	all := s.ask("tcp", question("big.default.svc.cluster.local.", dns.TypeA))
	if len(all.Answer) != 200 || all.Truncated {
		t.Errorf("over TCP %d answers, truncated %v", len(all.Answer), all.Truncated)
	}
	for _, size := range []uint16{0, 1232, 4096} {
		query := question("big.default.svc.cluster.local.", dns.TypeA)
		if size > 0 {
			query.SetEdns0(size, false)
		}
		reply := s.ask("udp", query)
		limit := 512
		if size > 0 {
			limit = udpSize
		}
		reply.Compress = true // as it came
		if !reply.Truncated || reply.Len() > limit || len(reply.Answer) == 0 || (reply.IsEdns0() != nil) != (size > 0) {
			t.Errorf("size %d: %d bytes, truncated %v, %d answers", size, reply.Len(), reply.Truncated, len(reply.Answer))
		}
	}
	query := question("web.default.svc.cluster.local.", dns.TypeA)
	query.SetEdns0(1232, false)
	query.IsEdns0().SetVersion(1)
	if reply := s.ask("udp", query); reply.Rcode != dns.RcodeBadVers {
		t.Errorf("EDNS version 1: %v", reply)
	}
	chaos := question("version.bind.", dns.TypeTXT)
	chaos.Question[0].Qclass = dns.ClassCHAOS
	if reply := s.ask("udp", chaos); reply.Rcode != dns.RcodeRefused {
		t.Errorf("class CHAOS: %v", reply)
	}
}

// resolver is an upstream that knows one name.
func resolver(t *testing.T, handle dns.HandlerFunc) netip.AddrPort {
	t.Helper()
	packet, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: packet, Handler: handle}
	started := make(chan struct{})
	server.NotifyStartedFunc = func() { close(started) }
	go server.ActivateAndServe()
	<-started
	t.Cleanup(func() { server.Shutdown() })
	return netip.MustParseAddrPort(packet.LocalAddr().String())
}

func TestForward(t *testing.T) {
	good := resolver(t, func(w dns.ResponseWriter, query *dns.Msg) {
		reply := new(dns.Msg).SetReply(query)
		record, _ := dns.NewRR(query.Question[0].Name + " 60 IN A 192.0.2.7")
		reply.Answer = []dns.RR{record}
		w.WriteMsg(reply)
	})
	s := startServer(t, Config{Upstreams: []netip.AddrPort{good}})
	reply := s.ask("udp", question("example.com.", dns.TypeA))
	if len(reply.Answer) != 1 || reply.Authoritative || reply.IsEdns0() != nil {
		t.Errorf("%v", reply)
	}
	if reply := s.ask("udp", question("far.default.svc.cluster.local.", dns.TypeA)); len(reply.Answer) != 2 {
		t.Errorf("an alias that leads outside: %v", reply)
	}
	if reply := s.ask("udp", question("9.9.9.9.in-addr.arpa.", dns.TypePTR)); reply.Rcode != dns.RcodeSuccess {
		t.Errorf("a foreign address: %v", reply)
	}
}

func TestForwardLoop(t *testing.T) {
	var s *testServer
	ready := make(chan struct{})
	loop := resolver(t, func(w dns.ResponseWriter, query *dns.Msg) {
		<-ready
		reply, _, err := (&dns.Client{Timeout: 5 * time.Second}).Exchange(query, s.address)
		if err == nil {
			w.WriteMsg(reply)
		}
	})
	s = startServer(t, Config{Upstreams: []netip.AddrPort{loop}})
	close(ready)
	if reply := s.ask("udp", question("example.com.", dns.TypeA)); reply.Rcode != dns.RcodeServerFailure {
		t.Errorf("a query that comes back: %v", reply)
	}
	// Itself it doesn't ask at all.
	own := netip.MustParseAddrPort(s.address)
	u := newUpstream([]netip.AddrPort{own, loop}, "")
	u.own = []netip.AddrPort{own}
	if got := u.list(); len(got) != 1 || got[0] != loop {
		t.Errorf("upstreams %v", got)
	}
}

func TestResolvConf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	u := newUpstream(nil, path)
	write := func(text string, age time.Duration) {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(-age)
		os.Chtimes(path, at, at)
		u.readAt = time.Time{}
	}
	if got := u.list(); len(got) != 0 {
		t.Errorf("no file: %v", got)
	}
	write("nameserver 192.0.2.1\nnameserver 192.0.2.2\nsearch example.com\n", time.Hour)
	if got := fmt.Sprint(u.list()); got != "[192.0.2.1:53 192.0.2.2:53]" {
		t.Error(got)
	}
	write("nameserver 192.0.2.3\n", time.Minute)
	if got := fmt.Sprint(u.list()); got != "[192.0.2.3:53]" {
		t.Error(got)
	}
}

func TestInherited(t *testing.T) {
	packet, listener, err := Listen(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll([]net.PacketConn{packet}, []net.Listener{listener})
	const first = 900 // far from what this process opens
	for i, socket := range []interface{ File() (*os.File, error) }{packet.(*net.UDPConn), listener.(*net.TCPListener)} {
		file, err := socket.File()
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Dup3(int(file.Fd()), first+i, unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		file.Close()
	}
	if packets, listeners, err := inherited([]string{"other"}, []string{"dns-udp", "dns-tcp"}, first, 2); err != nil || len(packets)+len(listeners) != 0 {
		t.Errorf("a name that isn't there: %v %v %v", packets, listeners, err)
	}
	packets, listeners, err := inherited([]string{"dns-tcp", "dns-udp"}, []string{"dns-udp", "dns-tcp"}, first, 2)
	if err != nil || len(packets) != 1 || len(listeners) != 1 {
		t.Fatalf("%v %v %v", packets, listeners, err)
	}
	if packets[0].LocalAddr().String() != packet.LocalAddr().String() {
		t.Error("another socket")
	}
	closeAll(packets, listeners)
}
