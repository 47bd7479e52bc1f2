package proxy_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"skiff/pkg/proxy"
	"skiff/pkg/proxy/fake"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

func ptr[T any](v T) *T { return &v }

func service(name string, change ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.96.0.10", ClusterIPs: []string{"10.96.0.10"},
		Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}},
	}}
	for _, one := range change {
		one(s)
	}
	return s
}

func nodePort(policy corev1.ServiceExternalTrafficPolicy) func(*corev1.Service) {
	return func(s *corev1.Service) {
		s.Spec.Type, s.Spec.ExternalTrafficPolicy, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, policy, 30080
	}
}

func loadBalancer(policy corev1.ServiceExternalTrafficPolicy) func(*corev1.Service) {
	return func(s *corev1.Service) {
		nodePort(policy)(s)
		s.Spec.Type, s.Spec.HealthCheckNodePort = corev1.ServiceTypeLoadBalancer, 30999
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "198.51.100.2"}}
	}
}

func internalLocal(s *corev1.Service) {
	s.Spec.InternalTrafficPolicy = ptr(corev1.ServiceInternalTrafficPolicyLocal)
}

func sticky(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP }

// endpoint reads "ADDRESS@NODE flags": notready, serving, terminating, zone=Z, node=N.
func endpoint(text string) discoveryv1.Endpoint {
	fields := strings.Fields(text)
	address, node, _ := strings.Cut(fields[0], "@")
	e := discoveryv1.Endpoint{Addresses: []string{address}, NodeName: &node}
	for _, field := range fields[1:] {
		key, value, _ := strings.Cut(field, "=")
		switch key {
		case "notready":
			e.Conditions.Ready, e.Conditions.Serving = ptr(false), ptr(false)
		case "terminating":
			e.Conditions.Ready, e.Conditions.Serving, e.Conditions.Terminating = ptr(false), ptr(true), ptr(true)
		case "dying":
			e.Conditions.Ready, e.Conditions.Serving, e.Conditions.Terminating = ptr(false), ptr(false), ptr(true)
		case "zone", "node":
			if e.Hints == nil {
				e.Hints = &discoveryv1.EndpointHints{}
			}
			if key == "zone" {
				e.Hints.ForZones = append(e.Hints.ForZones, discoveryv1.ForZone{Name: value})
			} else {
				e.Hints.ForNodes = append(e.Hints.ForNodes, discoveryv1.ForNode{Name: value})
			}
		}
	}
	return e
}

func slice(name, service string, endpoints ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr("http"), Protocol: ptr(corev1.ProtocolTCP), Port: ptr(int32(8080))}},
	}
	for _, text := range endpoints {
		s.Endpoints = append(s.Endpoints, endpoint(text))
	}
	return s
}

var here = proxy.Node{Name: "here", Zone: "z1"}

// Every case is compiled for the node "here" and compared with its file.
func TestCompile(t *testing.T) {
	mixed := []string{"10.244.1.5@here", "10.244.2.5@there", "10.244.2.6@there"}
	for _, test := range []struct {
		name      string
		service   *corev1.Service
		endpoints []string
	}{
		{"cluster-ip", service("web"), mixed},
		{"no-endpoints", service("web", loadBalancer("Cluster")), nil},
		{"none-ready", service("web"), []string{"10.244.1.5@here notready", "10.244.1.6@here dying"}},
		{"terminating-only", service("web"), []string{"10.244.1.5@here terminating", "10.244.1.6@here dying", "10.244.2.5@there notready"}},
		{"terminating-beside-ready", service("web"), []string{"10.244.1.5@here terminating", "10.244.2.5@there"}},
		{"node-port", service("web", nodePort("Cluster")), mixed},
		{"node-port-local", service("web", nodePort("Local")), mixed},
		{"node-port-local-elsewhere", service("web", nodePort("Local")), mixed[1:]},
		// The local share is an endpoint that the cluster share doesn't have.
		{"node-port-local-terminating", service("web", nodePort("Local")), []string{"10.244.1.5@here terminating", "10.244.2.5@there"}},
		{"internal-local", service("web", internalLocal), mixed},
		{"internal-local-elsewhere", service("web", internalLocal), mixed[1:]},
		{"load-balancer", service("web", loadBalancer("Local"), func(s *corev1.Service) {
			s.Spec.ExternalIPs = []string{"198.51.100.1", "2001:db8::1"}
			s.Spec.LoadBalancerSourceRanges = []string{" 192.0.2.0/24", "2001:db8::/32"}
		}), mixed},
		{"sticky", service("web", sticky, nodePort("Local")), mixed},
		{"zones", service("web"), []string{"10.244.1.5@here zone=z1", "10.244.2.5@there zone=z1", "10.244.2.6@there zone=z2"}},
		{"zones-incomplete", service("web"), []string{"10.244.1.5@here zone=z1", "10.244.2.5@there"}},
		{"zones-elsewhere", service("web"), []string{"10.244.1.5@here zone=z2"}},
		{"nodes", service("web"), []string{"10.244.1.5@here zone=z1 node=here", "10.244.2.5@there zone=z1 node=there"}},
		{"headless", service("web", func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "None", []string{"None"} }), mixed},
		{"external-name", service("web", func(s *corev1.Service) {
			s.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "example.com"}
		}), mixed},
		{"other-proxy", service("web", func(s *corev1.Service) {
			s.Labels = map[string]string{"service.kubernetes.io/service-proxy-name": "other"}
		}), mixed},
	} {
		t.Run(test.name, func(t *testing.T) {
			var programmer fake.Programmer
			table := proxy.Compile([]*corev1.Service{test.service}, []*discoveryv1.EndpointSlice{slice("web-1", "web", test.endpoints...)}, here)
			if err := programmer.Reset(table.Elements()); err != nil {
				t.Fatal(err)
			}
			got := programmer.Dump()
			path := filepath.Join("testdata", test.name+".txt")
			if *rewrite {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestProblems(t *testing.T) {
	for _, test := range []struct {
		service *corev1.Service
		want    string
	}{
		{service("web"), "[]"},
		{service("web", func(s *corev1.Service) { s.Spec.Ports[0].Protocol = corev1.ProtocolSCTP }),
			"[{UnsupportedProtocol port 80: protocol SCTP is not supported by this node's proxy}]"},
		{service("web", func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "fd00::1", []string{"fd00::1"} }),
			"[{UnsupportedIPFamily cluster addresses fd00::1: only IPv4 is supported by this node's proxy}]"},
	} {
		if _, problems := proxy.CompileService(test.service, nil, here); fmt.Sprint(problems) != test.want {
			t.Errorf("got %v, want %s", problems, test.want)
		}
	}
}

// Two slices may name one endpoint while it moves between them.
func TestEndpointInTwoSlices(t *testing.T) {
	both := []*discoveryv1.EndpointSlice{
		slice("a", "web", "10.244.1.5@here terminating", "10.244.1.6@here"),
		slice("b", "web", "10.244.1.5@here"),
	}
	for range 2 {
		rules, _ := proxy.CompileService(service("web"), both, here)
		for _, rule := range rules {
			if len(rule.Endpoints) != 2 || rule.Default.Count != 2 {
				t.Errorf("%+v", rule)
			}
		}
		both[0], both[1] = both[1], both[0]
	}
}

func TestConflict(t *testing.T) {
	table := proxy.NewTable()
	var programmer fake.Programmer
	name := func(n string) types.NamespacedName { return types.NamespacedName{Namespace: "default", Name: n} }
	set := func(n string, endpoints ...string) {
		t.Helper()
		var rules map[proxy.Frontend]proxy.Rule
		if endpoints != nil {
			rules, _ = proxy.CompileService(service(n), []*discoveryv1.EndpointSlice{slice(n, n, endpoints...)}, here)
		}
		if err := programmer.Apply(table.Set(name(n), rules)); err != nil {
			t.Fatal(err)
		}
	}
	set("b", "10.244.1.2@there")
	set("a", "10.244.1.1@there")
	if dump := programmer.Dump(); !strings.Contains(dump, "10.244.1.1") || strings.Contains(dump, "10.244.1.2") {
		t.Errorf("the first by name should win:\n%s", dump)
	}
	if lost := table.Conflicts(name("b")); len(lost) != 1 {
		t.Errorf("conflicts of b: %v", lost)
	}
	set("a")
	if dump := programmer.Dump(); !strings.Contains(dump, "10.244.1.2") || strings.Contains(dump, "10.244.1.1") {
		t.Errorf("the other should have it now:\n%s", dump)
	}
	set("b")
	if dump := programmer.Dump(); dump != "" {
		t.Errorf("left over:\n%s", dump)
	}
}

// One endpoint more or less of many is a handful of elements, not all of them.
func TestCostOfAChange(t *testing.T) {
	var endpoints []string
	for i := range 250 {
		endpoints = append(endpoints, fmt.Sprintf("10.244.%d.%d@%s", i%7, i+1, []string{"here", "there"}[i%2]))
	}
	table := proxy.NewTable()
	set := func(endpoints []string) proxy.Changes {
		rules, _ := proxy.CompileService(service("web", nodePort("Local"), sticky), []*discoveryv1.EndpointSlice{slice("a", "web", endpoints...)}, here)
		return table.Set(types.NamespacedName{Namespace: "default", Name: "web"}, rules)
	}
	set(endpoints)
	for _, change := range []struct {
		what string
		next []string
	}{{"one leaves", append(append([]string{}, endpoints[:100]...), endpoints[101:]...)}, {"it comes back", endpoints}} {
		changes := set(change.next)
		if n := len(changes.Add) + len(changes.Delete); n > 24 {
			t.Errorf("%s: %d elements", change.what, n)
		}
	}
}

// cluster draws services and slices from a small world, so that they meet.
func cluster(t *rapid.T, label string) ([]*corev1.Service, []*discoveryv1.EndpointSlice) {
	var services []*corev1.Service
	var all []*discoveryv1.EndpointSlice
	flags := []string{"", " notready", " terminating", " dying", " zone=z1", " node=here"}
	for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c"}), 0, 3, rapid.ID).Draw(t, label) {
		s := service(name)
		s.Spec.ClusterIP = rapid.SampledFrom([]string{"10.96.0.1", "10.96.0.2", "None"}).Draw(t, "ip")
		s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
		policy := rapid.SampledFrom([]corev1.ServiceExternalTrafficPolicy{"Cluster", "Local"}).Draw(t, "policy")
		switch rapid.IntRange(0, 3).Draw(t, "type") {
		case 1:
			nodePort(policy)(s)
		case 2:
			loadBalancer(policy)(s)
		case 3:
			s.Spec.ExternalIPs = []string{"198.51.100.2"}
		}
		if rapid.Bool().Draw(t, "sticky") {
			sticky(s)
		}
		if rapid.Bool().Draw(t, "local") {
			internalLocal(s)
		}
		s.Spec.Ports[0].Protocol = rapid.SampledFrom([]corev1.Protocol{"TCP", "UDP"}).Draw(t, "protocol")
		services = append(services, s)
		var endpoints []string
		for _, i := range rapid.SliceOfN(rapid.IntRange(1, 6), 0, 5).Draw(t, "endpoints") {
			node := []string{"here", "there"}[i%2]
			endpoints = append(endpoints, fmt.Sprintf("10.244.0.%d@%s%s", i, node, rapid.SampledFrom(flags).Draw(t, "flags")))
		}
		one := slice(name, name, endpoints...)
		one.Ports[0].Protocol = &s.Spec.Ports[0].Protocol
		all = append(all, one)
	}
	return services, all
}

// Applying a difference gives what programming the new table gives, by Diff
// and by setting one service after the other alike.
func TestDiff(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before, beforeSlices := cluster(t, "before")
		after, afterSlices := cluster(t, "after")
		old, next := proxy.Compile(before, beforeSlices, here), proxy.Compile(after, afterSlices, here)
		var programmer, fresh fake.Programmer
		check := func(err error) {
			if err != nil {
				t.Fatal(err)
			}
		}
		check(programmer.Reset(old.Elements()))
		check(fresh.Reset(next.Elements()))
		check(programmer.Apply(proxy.Diff(old, next)))
		if got, want := programmer.Dump(), fresh.Dump(); got != want {
			t.Fatalf("after a diff\n%s\nwant\n%s", got, want)
		}

		check(programmer.Reset(old.Elements()))
		for _, name := range []string{"a", "b", "c"} {
			var rules map[proxy.Frontend]proxy.Rule
			for i, s := range after {
				if s.Name == name {
					rules, _ = proxy.CompileService(s, afterSlices[i:i+1], here)
				}
			}
			check(programmer.Apply(old.Set(types.NamespacedName{Namespace: "default", Name: name}, rules)))
		}
		check(fresh.Reset(old.Elements()))
		if got, want := programmer.Dump(), fresh.Dump(); got != want {
			t.Fatalf("the programmer holds\n%s\nthe table says\n%s", got, want)
		}
		if got, want := unplaced(old), unplaced(next); got != want {
			t.Fatalf("step by step\n%s\nat once\n%s", got, want)
		}
	})
}

// unplaced is a table's text without the indices of endpoints, which depend on
// what was there before; that they are complete and in their ranges is checked.
func unplaced(table *proxy.Table) string {
	var lines []string
	indices := map[proxy.Frontend]map[int]bool{}
	for _, element := range table.Elements() {
		if element.Map == proxy.Endpoints {
			f := element.Key.Frontend
			if indices[f] == nil {
				indices[f] = map[int]bool{}
			}
			indices[f][element.Key.Index] = true
			element.Key.Index = 0
		}
		lines = append(lines, string(element.Map)+" "+element.String())
	}
	for f, all := range indices {
		for i := range len(all) {
			if !all[i] {
				lines = append(lines, fmt.Sprintf("%s: no endpoint %d of %d", f, i, len(all)))
			}
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
