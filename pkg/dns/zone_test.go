package dns

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func ptr[T any](v T) *T { return &v }

func testService(name string, change func(*corev1.ServiceSpec)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.96.0.20", ClusterIPs: []string{"10.96.0.20", "fd00::20"},
		Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}, {Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53}},
	}}
	if change != nil {
		change(&s.Spec)
	}
	return s
}

func headless(s *corev1.ServiceSpec) { s.ClusterIP, s.ClusterIPs = "None", []string{"None"} }

func testSlice(name, service string, kind discoveryv1.AddressType, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: kind, Endpoints: endpoints,
		Ports: []discoveryv1.EndpointPort{{Name: ptr("http"), Protocol: ptr(corev1.ProtocolTCP), Port: ptr(int32(8080))}},
	}
}

func enter(x *Index, objects ...any) {
	for _, object := range objects {
		switch o := object.(type) {
		case *corev1.Service:
			x.SetService(types.NamespacedName{Namespace: o.Namespace, Name: o.Name}, o)
		case *discoveryv1.EndpointSlice:
			x.SetSlice(types.NamespacedName{Namespace: o.Namespace, Name: o.Name}, o)
		}
	}
}

func testZone() *Zone {
	z := &Zone{Domain: "cluster.local.", Index: NewIndex(), Server: []netip.Addr{netip.MustParseAddr("10.96.0.10")}}
	enter(z.Index,
		testService("web", nil),
		testSlice("web-a", "web", discoveryv1.AddressTypeIPv4, discoveryv1.Endpoint{Addresses: []string{"10.244.1.5"}}),
		testService("db", headless),
		testSlice("db-4", "db", discoveryv1.AddressTypeIPv4,
			discoveryv1.Endpoint{Addresses: []string{"10.244.1.7"}, Hostname: ptr("db-0")},
			discoveryv1.Endpoint{Addresses: []string{"10.244.1.8"}},
			discoveryv1.Endpoint{Addresses: []string{"10.244.1.9"}, Conditions: discoveryv1.EndpointConditions{Ready: ptr(false)}}),
		testSlice("db-6", "db", discoveryv1.AddressTypeIPv6, discoveryv1.Endpoint{Addresses: []string{"fd00:1::7"}, Hostname: ptr("db-0")}),
		testService("empty", headless),
		testService("far", func(s *corev1.ServiceSpec) {
			*s = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "Foo.example.com"}
		}),
	)
	return z
}

// short is a reply as a few words: code, then answers, then additional records.
func short(reply Reply) string {
	text := dns.RcodeToString[reply.Rcode]
	for i, records := range [][]dns.RR{reply.Answer, reply.Extra} {
		var parts []string
		for _, record := range records {
			fields := strings.Fields(record.String())
			part := strings.Join(fields[3:], " ")
			if i == 1 {
				part = fields[0] + " " + part
			}
			parts = append(parts, part)
		}
		slices.Sort(parts)
		if len(parts) > 0 {
			text += [2]string{": ", " + "}[i] + strings.Join(parts, ", ")
		}
	}
	return text
}

func TestZone(t *testing.T) {
	z := testZone()
	for _, test := range []struct{ name, kind, want string }{
		{"web.default.svc.cluster.local.", "A", "NOERROR: A 10.96.0.20"},
		{"WEB.Default.svc.Cluster.Local.", "A", "NOERROR: A 10.96.0.20"},
		{"web.default.svc.cluster.local.", "AAAA", "NOERROR: AAAA fd00::20"},
		{"web.default.svc.cluster.local.", "MX", "NOERROR"},
		{"web.default.svc.cluster.local.", "SRV", "NOERROR: SRV 0 100 53 web.default.svc.cluster.local., SRV 0 100 80 web.default.svc.cluster.local." +
			" + web.default.svc.cluster.local. A 10.96.0.20, web.default.svc.cluster.local. AAAA fd00::20"},
		{"_http._tcp.web.default.svc.cluster.local.", "SRV", "NOERROR: SRV 0 100 80 web.default.svc.cluster.local." +
			" + web.default.svc.cluster.local. A 10.96.0.20, web.default.svc.cluster.local. AAAA fd00::20"},
		{"_http._udp.web.default.svc.cluster.local.", "SRV", "NXDOMAIN"},
		{"_http._tcp.web.default.svc.cluster.local.", "A", "NOERROR"},
		{"_tcp.web.default.svc.cluster.local.", "SRV", "NOERROR"},
		{"_sctp.web.default.svc.cluster.local.", "SRV", "NXDOMAIN"},
		{"10-244-1-5.web.default.svc.cluster.local.", "A", "NOERROR: A 10.244.1.5"},
		{"other.default.svc.cluster.local.", "A", "NXDOMAIN"},
		{"default.svc.cluster.local.", "A", "NOERROR"},
		{"nowhere.svc.cluster.local.", "A", "NXDOMAIN"},
		{"web.nowhere.svc.cluster.local.", "A", "NXDOMAIN"},
		{"x.y.z.web.default.svc.cluster.local.", "A", "NXDOMAIN"},

		{"db.default.svc.cluster.local.", "A", "NOERROR: A 10.244.1.7, A 10.244.1.8"},
		{"db.default.svc.cluster.local.", "AAAA", "NOERROR: AAAA fd00:1::7"},
		{"db-0.db.default.svc.cluster.local.", "A", "NOERROR: A 10.244.1.7"},
		{"10-244-1-8.db.default.svc.cluster.local.", "A", "NOERROR: A 10.244.1.8"},
		{"10-244-1-8.db.default.svc.cluster.local.", "AAAA", "NOERROR"},
		{"10-244-1-9.db.default.svc.cluster.local.", "A", "NXDOMAIN"},
		{"_http._tcp.db.default.svc.cluster.local.", "SRV", "NOERROR: SRV 0 50 8080 10-244-1-8.db.default.svc.cluster.local., SRV 0 50 8080 db-0.db.default.svc.cluster.local." +
			" + 10-244-1-8.db.default.svc.cluster.local. A 10.244.1.8, db-0.db.default.svc.cluster.local. A 10.244.1.7, db-0.db.default.svc.cluster.local. AAAA fd00:1::7"},
		{"empty.default.svc.cluster.local.", "A", "NXDOMAIN"},

		{"far.default.svc.cluster.local.", "A", "NOERROR: CNAME foo.example.com."},
		{"far.default.svc.cluster.local.", "CNAME", "NOERROR: CNAME foo.example.com."},
		{"far.default.svc.cluster.local.", "TXT", "NOERROR"},
		{"_http._tcp.far.default.svc.cluster.local.", "SRV", "NXDOMAIN"},

		{"10-244-1-77.default.pod.cluster.local.", "A", "NOERROR: A 10.244.1.77"},
		{"fd00--1.default.pod.cluster.local.", "AAAA", "NOERROR: AAAA fd00::1"},
		{"10-244-1-77.nowhere.pod.cluster.local.", "A", "NXDOMAIN"},
		{"10-244-1.default.pod.cluster.local.", "A", "NXDOMAIN"},
		{"default.pod.cluster.local.", "A", "NOERROR"},

		{"cluster.local.", "SOA", "NOERROR: SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5"},
		{"cluster.local.", "NS", "NOERROR: NS ns.dns.cluster.local. + ns.dns.cluster.local. A 10.96.0.10"},
		{"cluster.local.", "A", "NOERROR"},
		{"ns.dns.cluster.local.", "A", "NOERROR: A 10.96.0.10"},
		{"dns-version.cluster.local.", "TXT", `NOERROR: TXT "1.1.0"`},
		{"dns-version.cluster.local.", "A", "NOERROR"},
		{"svc.cluster.local.", "A", "NOERROR"},
		{"nonsense.cluster.local.", "A", "NXDOMAIN"},

		{"20.0.96.10.in-addr.arpa.", "PTR", "NOERROR: PTR web.default.svc.cluster.local."},
		{"7.1.244.10.in-addr.arpa.", "PTR", "NOERROR: PTR db-0.db.default.svc.cluster.local."},
		{"0.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.", "PTR", "NOERROR: PTR web.default.svc.cluster.local."},
		{"7.1.244.10.in-addr.arpa.", "A", "NOERROR"},
		{"1.2.3.4.in-addr.arpa.", "PTR", "not ours"},
		{"244.10.in-addr.arpa.", "PTR", "not ours"},
		{"example.com.", "A", "not ours"},
		{"notcluster.local.", "A", "not ours"},
	} {
		t.Run(fmt.Sprint(test.name, test.kind), func(t *testing.T) {
			reply, result := z.Answer(dns.Question{Name: test.name, Qtype: dns.StringToType[test.kind], Qclass: dns.ClassINET})
			got := short(reply)
			if result == NotOurs {
				got = "not ours"
			}
			if got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

// What was entered and removed again leaves nothing behind.
func TestIndexForgets(t *testing.T) {
	z := testZone()
	x := z.Index
	// A slice that changes hands leaves its old service.
	enter(x, testSlice("db-4", "web", discoveryv1.AddressTypeIPv4, discoveryv1.Endpoint{Addresses: []string{"10.244.1.7"}}))
	if names := x.names(netip.MustParseAddr("10.244.1.7")); names == nil || !slices.Equal(names.endpoints, []string{"10-244-1-7.web.default"}) {
		t.Errorf("reverse names after a slice changed hands: %v", names)
	}
	for _, name := range []string{"web-a", "db-4", "db-6"} {
		x.SetSlice(types.NamespacedName{Namespace: "default", Name: name}, nil)
	}
	for _, name := range []string{"web", "db", "empty", "far", "never-there"} {
		x.SetService(types.NamespacedName{Namespace: "default", Name: name}, nil)
	}
	left := 0
	count := func(key, value any) bool { left++; t.Errorf("left: %v %v", key, value); return true }
	x.services.Range(count)
	x.addresses.Range(count)
	x.namespaces.Range(count)
	if left += len(x.specs) + len(x.slices) + len(x.ownerOf) + len(x.counts); left > 0 {
		t.Errorf("%d things left", left)
	}
}

func BenchmarkAnswer(b *testing.B) {
	z := testZone()
	question := dns.Question{Name: "web.default.svc.cluster.local.", Qtype: dns.TypeA, Qclass: dns.ClassINET}
	for b.Loop() {
		z.Answer(question)
	}
}
