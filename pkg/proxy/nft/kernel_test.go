package nft

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff/pkg/proxy"
)

func errorsAs(err error, target any) bool { return errors.As(err, target) }

// cluster is one node (the process's namespace), three pods and a client from outside.
type cluster struct {
	t          *testing.T
	node       *host
	pods       []*host
	outside    *host
	programmer *Programmer
	table      *proxy.Table
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	must(t, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0))
	// Redirects (for pods that reach themselves) would use up the allowance of ICMP refusals.
	for _, name := range []string{"all", "default"} {
		must(t, os.WriteFile("/proc/sys/net/ipv4/conf/"+name+"/send_redirects", []byte("0"), 0))
	}
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.LinkSetUp(lo))
	c := &cluster{t: t, node: &host{t: t, name: "node", address: "192.0.2.1"}, table: proxy.NewTable()}
	for i := range 3 {
		pod := newHost(t, fmt.Sprint("pod", i), fmt.Sprint("10.244.1.1", i), "10.244.1.1")
		pod.serve(8080)
		c.pods = append(c.pods, pod)
	}
	c.outside = newHost(t, "outside", "192.0.2.2", "192.0.2.1")
	// The node's own calls need a route to get as far as NAT.
	first, err := netlink.LinkByName("pod0")
	must(t, err)
	must(t, netlink.RouteAdd(&netlink.Route{Dst: hostRange("10.96.0.0/16"), LinkIndex: first.Attrs().Index, Scope: netlink.SCOPE_LINK}))
	c.programmer, err = New(Config{
		PodCIDRs:     []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")},
	})
	must(t, err)
	must(t, c.programmer.Reset(nil))
	return c
}

// set compiles a service with slices and programs it.
func (c *cluster) set(service *corev1.Service, endpoints ...discoveryv1.Endpoint) {
	c.t.Helper()
	slice := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4, Endpoints: endpoints}
	for _, port := range service.Spec.Ports {
		number := int32(8080)
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &port.Name, Protocol: &port.Protocol, Port: &number})
	}
	rules, problems := proxy.CompileService(service, []*discoveryv1.EndpointSlice{slice}, proxy.Node{Name: "node"})
	if len(problems) > 0 {
		c.t.Fatal(problems)
	}
	must(c.t, c.programmer.Apply(c.table.Set(types.NamespacedName{Namespace: "default", Name: service.Name}, rules)))
}

func (c *cluster) endpoint(pod int, node string) discoveryv1.Endpoint {
	return discoveryv1.Endpoint{Addresses: []string{c.pods[pod].address}, NodeName: &node}
}

func (c *cluster) want(from *host, network, address string, n int, answers ...string) {
	c.t.Helper()
	counts := from.tally(network, address, n)
	if got := slices.Sorted(maps.Keys(counts)); !slices.Equal(got, answers) {
		c.t.Errorf("%s asks %s over %s: %v, want %q", from.name, address, network, counts, answers)
	}
}

func service(name, ip string, change func(*corev1.ServiceSpec)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeClusterIP, ClusterIP: ip, ClusterIPs: []string{ip},
		Ports: []corev1.ServicePort{{Name: "t", Protocol: corev1.ProtocolTCP, Port: 80}, {Name: "u", Protocol: corev1.ProtocolUDP, Port: 80}},
	}}
	if change != nil {
		change(&s.Spec)
	}
	return s
}

func nodePort(policy corev1.ServiceExternalTrafficPolicy) func(*corev1.ServiceSpec) {
	return func(s *corev1.ServiceSpec) {
		s.Type, s.ExternalTrafficPolicy = corev1.ServiceTypeNodePort, policy
		s.Ports[0].NodePort, s.Ports[1].NodePort = 30080, 30080
	}
}

func TestClusterIP(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	c := newCluster(t)
	c.set(service("web", "10.96.0.10", nil), c.endpoint(0, "node"), c.endpoint(1, "node"), c.endpoint(2, "node"))
	for _, network := range []string{"tcp", "udp"} {
		// Pods keep their address, save where one is led to itself.
		c.want(c.pods[0], network, "10.96.0.10:80", 60, "pod0 10.244.1.1", "pod1 10.244.1.10", "pod2 10.244.1.10")
		// Whoever is no pod comes from the node.
		c.want(c.outside, network, "10.96.0.10:80", 60, "pod0 10.244.1.1", "pod1 10.244.1.1", "pod2 10.244.1.1")
		c.want(c.node, network, "10.96.0.10:80", 60, "pod0 10.244.1.1", "pod1 10.244.1.1", "pod2 10.244.1.1")
		// What nobody serves is refused.
		c.want(c.pods[0], network, "10.96.0.10:81", 1, "error: refused")
		c.want(c.pods[0], network, "10.96.9.9:80", 1, "error: refused")
	}
	c.set(service("web", "10.96.0.10", nil), c.endpoint(1, "node"))
	c.want(c.pods[0], "tcp", "10.96.0.10:80", 20, "pod1 10.244.1.10")
	c.set(service("web", "10.96.0.10", nil))
	c.want(c.pods[0], "tcp", "10.96.0.10:80", 1, "error: refused")
	c.want(c.pods[0], "udp", "10.96.0.10:80", 1, "error: refused")
	c.want(c.node, "tcp", "10.96.0.10:80", 1, "error: refused")
	// Back again, and after a restart of the programmer too.
	c.set(service("web", "10.96.0.10", nil), c.endpoint(2, "node"))
	must(t, c.programmer.Reset(c.table.Elements()))
	c.want(c.pods[0], "tcp", "10.96.0.10:80", 20, "pod2 10.244.1.10")
	must(t, c.programmer.Check())
}

func TestInternalTrafficPolicy(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	c := newCluster(t)
	local := func(s *corev1.ServiceSpec) {
		policy := corev1.ServiceInternalTrafficPolicyLocal
		s.InternalTrafficPolicy = &policy
	}
	c.set(service("web", "10.96.0.10", local), c.endpoint(0, "other"), c.endpoint(1, "node"), c.endpoint(2, "other"))
	c.want(c.pods[0], "tcp", "10.96.0.10:80", 20, "pod1 10.244.1.10")
	c.set(service("web", "10.96.0.10", local), c.endpoint(0, "other"))
	c.want(c.pods[0], "tcp", "10.96.0.10:80", 1, "error: timeout")
}

func TestNodePort(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	c := newCluster(t)
	c.set(service("web", "10.96.0.10", nodePort(corev1.ServiceExternalTrafficPolicyCluster)), c.endpoint(0, "node"), c.endpoint(1, "other"))
	for _, network := range []string{"tcp", "udp"} {
		c.want(c.outside, network, "192.0.2.1:30080", 40, "pod0 10.244.1.1", "pod1 10.244.1.1")
		c.want(c.node, network, "192.0.2.1:30080", 40, "pod0 10.244.1.1", "pod1 10.244.1.1")
		c.want(c.pods[2], network, "192.0.2.1:30080", 40, "pod0 10.244.1.1", "pod1 10.244.1.1")
	}
	// Local policy: the client's own address, and this node's endpoints only.
	c.set(service("web", "10.96.0.10", nodePort(corev1.ServiceExternalTrafficPolicyLocal)), c.endpoint(0, "node"), c.endpoint(1, "other"))
	c.want(c.outside, "tcp", "192.0.2.1:30080", 20, "pod0 192.0.2.2")
	c.want(c.pods[2], "tcp", "192.0.2.1:30080", 40, "pod0 10.244.1.12", "pod1 10.244.1.12")
	c.want(c.node, "tcp", "192.0.2.1:30080", 40, "pod0 10.244.1.1", "pod1 10.244.1.1")
	c.set(service("web", "10.96.0.10", nodePort(corev1.ServiceExternalTrafficPolicyLocal)), c.endpoint(1, "other"))
	c.want(c.outside, "tcp", "192.0.2.1:30080", 1, "error: timeout")
	c.want(c.pods[2], "tcp", "192.0.2.1:30080", 5, "pod1 10.244.1.12")
	c.set(service("web", "10.96.0.10", nodePort(corev1.ServiceExternalTrafficPolicyLocal)))
	c.want(c.outside, "tcp", "192.0.2.1:30080", 1, "error: refused")
	if _, err := exec.LookPath("nft"); err == nil {
		if output, err := exec.Command("nft", "list", "ruleset").CombinedOutput(); err != nil {
			t.Errorf("nft can't list the table: %v\n%s", err, output)
		} else if testing.Verbose() {
			t.Logf("%s", output)
		}
	}
	// Ordinary ports of the node are nobody's business.
	c.node.serve(9000)
	c.want(c.outside, "tcp", "192.0.2.1:9000", 1, "node 192.0.2.2")
}

func TestAffinity(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	c := newCluster(t)
	sticky := func(s *corev1.ServiceSpec) {
		nodePort(corev1.ServiceExternalTrafficPolicyCluster)(s)
		seconds := int32(1)
		s.SessionAffinity = corev1.ServiceAffinityClientIP
		s.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
	}
	all := []discoveryv1.Endpoint{c.endpoint(0, "node"), c.endpoint(1, "node"), c.endpoint(2, "node")}
	c.set(service("web", "10.96.0.10", sticky), all...)
	for _, address := range []string{"10.96.0.10:80", "192.0.2.1:30080"} {
		for _, network := range []string{"tcp", "udp"} {
			if counts := c.outside.tally(network, address, 20); len(counts) != 1 {
				t.Errorf("%s %s: a client with affinity got to %v", network, address, counts)
			}
		}
	}
	// A new process finds the table and changes no client's mind.
	long := func(s *corev1.ServiceSpec) {
		sticky(s)
		s.SessionAffinityConfig = nil
	}
	c.set(service("web", "10.96.0.10", long), all...)
	choices := func() (all []string) {
		for _, pod := range c.pods {
			for _, address := range []string{"10.96.0.10:80", "192.0.2.1:30080"} {
				answer, err := pod.ask("tcp", address)
				must(t, err)
				all = append(all, answer)
			}
		}
		return all
	}
	before := choices()
	var err error
	c.programmer, err = New(c.programmer.config)
	must(t, err)
	must(t, c.programmer.reset(c.table.Elements(), true))
	if after := choices(); !slices.Equal(before, after) {
		t.Errorf("clients got to %v, and after a restart to %v", before, after)
	}
	c.set(service("web", "10.96.0.10", sticky), all...)
	// The chosen endpoint leaves: another one is chosen and kept.
	var answer string
	answer, err = c.outside.ask("tcp", "10.96.0.10:80")
	must(t, err)
	left := slices.DeleteFunc(slices.Clone(all), func(e discoveryv1.Endpoint) bool {
		return strings.HasPrefix(answer, c.pods[e.Addresses[0][len(e.Addresses[0])-1]-'0'].name)
	})
	c.set(service("web", "10.96.0.10", sticky), left...)
	counts := c.outside.tally("tcp", "10.96.0.10:80", 20)
	if len(counts) != 1 || counts[answer] > 0 {
		t.Errorf("after %q left, the client got to %v", answer, counts)
	}
	// Without affinity clients are spread again.
	c.set(service("web", "10.96.0.10", nil), all...)
	if counts := c.outside.tally("tcp", "10.96.0.10:80", 60); len(counts) != 3 {
		t.Errorf("without affinity: %v", counts)
	}
	// What was remembered ends with its time.
	c.set(service("web", "10.96.0.10", sticky), all...)
	seen := map[string]bool{}
	for deadline := time.Now().Add(60 * time.Second); len(seen) < 2 && time.Now().Before(deadline); {
		answer, err := c.outside.ask("tcp", "10.96.0.10:80")
		must(t, err)
		seen[answer] = true
		time.Sleep(1100 * time.Millisecond) // the kernel's clock, not ours
	}
	if len(seen) < 2 {
		t.Error("a client's choice never ends")
	}
}

func TestExternalAddresses(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	c := newCluster(t)
	s := service("web", "10.96.0.10", func(s *corev1.ServiceSpec) {
		s.Type, s.ExternalIPs = corev1.ServiceTypeLoadBalancer, []string{"198.51.100.1"}
		s.LoadBalancerSourceRanges = []string{"192.0.2.0/24"}
	})
	proxied := corev1.LoadBalancerIPModeProxy
	s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "198.51.100.2"}, {IP: "198.51.100.3", IPMode: &proxied}}
	c.set(s, c.endpoint(0, "node"))
	c.want(c.outside, "tcp", "198.51.100.1:80", 5, "pod0 10.244.1.1")
	c.want(c.outside, "tcp", "198.51.100.2:80", 5, "pod0 10.244.1.1")
	c.want(c.pods[1], "tcp", "198.51.100.1:80", 5, "pod0 10.244.1.1")
	c.want(c.pods[1], "tcp", "198.51.100.2:80", 1, "error: timeout") // not within the source ranges
}

func TestUDPFlowsEnd(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	c := newCluster(t)
	c.set(service("web", "10.96.0.10", nil), c.endpoint(0, "node"))
	connection := c.pods[2].dialUDP("10.96.0.10:80")
	if got := connection.ask(); got != "pod0 10.244.1.12" {
		t.Fatal(got)
	}
	c.set(service("web", "10.96.0.10", nil), c.endpoint(1, "node"))
	if got := connection.ask(); got != "pod1 10.244.1.12" {
		t.Errorf("a flow went on to %q after its endpoint left", got)
	}
}

func BenchmarkApply(b *testing.B) {
	if !inNamespace(b) {
		return
	}
	for _, services := range []int{100, 10000} {
		b.Run(fmt.Sprint(services), func(b *testing.B) {
			programmer, err := New(Config{})
			must(b, err)
			table := proxy.NewTable()
			rules := func(i, n int) map[proxy.Frontend]proxy.Rule {
				var endpoints []proxy.Endpoint
				for e := range n {
					endpoints = append(endpoints, proxy.Endpoint{AddrPort: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, byte(i), byte(e)}), 80), ForCluster: true})
				}
				return map[proxy.Frontend]proxy.Rule{{Addr: netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), Protocol: proxy.TCP, Port: 80}: {
					Endpoints: endpoints, Default: proxy.Action{Verdict: proxy.Forward, Count: n}}}
			}
			for i := range services {
				table.Set(types.NamespacedName{Name: fmt.Sprint(i)}, rules(i, 3))
			}
			began := time.Now()
			must(b, programmer.Reset(table.Elements()))
			b.ReportMetric(float64(time.Since(began).Milliseconds()), "ms/reset")
			n := 0
			for b.Loop() {
				n++
				must(b, programmer.Apply(table.Set(types.NamespacedName{Name: "5"}, rules(5, 3+n%2))))
			}
		})
	}
}
