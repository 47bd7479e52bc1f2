package apiserver_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"context"
	"net/netip"
	"time"

	"skiff/pkg/apiserver"
)

func service(name string, change ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{
		Selector: map[string]string{"a": "b"}, Ports: []corev1.ServicePort{{Name: "http", Port: 80}},
	}}
	for _, c := range change {
		c(s)
	}
	return s
}

func TestServices(t *testing.T) {
	i := start(t, func(c *apiserver.Config) {
		c.ServiceRange = netip.MustParsePrefix("10.1.0.0/28") // 14 addresses
		c.NodePorts = [2]int{30000, 30009}
	})
	client := typed(t, i, "application/vnd.kubernetes.protobuf")
	ctx := limited(t)
	services := client.CoreV1().Services("default")
	eventually(t, func(ctx context.Context) (bool, error) {
		s, err := services.Get(ctx, "kubernetes", metav1.GetOptions{})
		return err == nil && s.Spec.ClusterIP == "10.1.0.1", nil
	})
	must := func(s *corev1.Service, err error) *corev1.Service {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	a := must(services.Create(ctx, service("a"), metav1.CreateOptions{}))
	if a.Spec.ClusterIP == "" || a.Spec.ClusterIPs[0] != a.Spec.ClusterIP || a.Spec.IPFamilies[0] != corev1.IPv4Protocol {
		t.Fatalf("%+v", a.Spec)
	}
	ip, err := client.NetworkingV1().IPAddresses().Get(ctx, a.Spec.ClusterIP, metav1.GetOptions{})
	if err != nil || ip.Spec.ParentRef.Name != "a" {
		t.Fatalf("%v %+v", err, ip)
	}
	_, err = services.Create(ctx, service("b", func(s *corev1.Service) { s.Spec.ClusterIP = a.Spec.ClusterIP }), metav1.CreateOptions{})
	if want := fmt.Sprintf(`Service "b" is invalid: spec.clusterIPs: Invalid value: [%q]: failed to allocate IP %s: provided IP is already allocated`, a.Spec.ClusterIP, a.Spec.ClusterIP); err == nil || err.Error() != want {
		t.Errorf("%v\nwant %s", err, want)
	}
	_, err = services.Create(ctx, service("b", func(s *corev1.Service) { s.Spec.ClusterIP = "10.2.0.1" }), metav1.CreateOptions{})
	if err == nil || !strings.Contains(err.Error(), "the provided network does not match the current range") {
		t.Error(err)
	}
	headless := must(services.Create(ctx, service("headless", func(s *corev1.Service) { s.Spec.ClusterIP = "None" }), metav1.CreateOptions{}))
	if headless.Spec.ClusterIPs[0] != "None" {
		t.Errorf("%+v", headless.Spec)
	}
	node := must(services.Create(ctx, service("node", func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeNodePort
		s.Spec.Ports = []corev1.ServicePort{{Name: "dns", Port: 53, Protocol: "UDP"}, {Name: "dns-tcp", Port: 53, Protocol: "TCP"}, {Name: "web", Port: 80, NodePort: 30005}}
	}), metav1.CreateOptions{}))
	if p := node.Spec.Ports; p[0].NodePort < 30000 || p[0].NodePort != p[1].NodePort || p[2].NodePort != 30005 {
		t.Errorf("%+v", node.Spec.Ports)
	}
	_, err = services.Create(ctx, service("n", func(s *corev1.Service) { s.Spec.Type, s.Spec.Ports[0].NodePort = "NodePort", 30005 }), metav1.CreateOptions{})
	if err == nil || err.Error() != `Service "n" is invalid: spec.ports[0].nodePort: Invalid value: 30005: provided port is already allocated` {
		t.Error(err)
	}
	_, err = services.Create(ctx, service("n", func(s *corev1.Service) { s.Spec.Type, s.Spec.Ports[0].NodePort = "NodePort", 40000 }), metav1.CreateOptions{})
	if err == nil || err.Error() != `Service "n" is invalid: spec.ports[0].nodePort: Invalid value: 40000: provided port is not in the valid range. The range of valid ports is 30000-30009` {
		t.Error(err)
	}

	// A change of type gives back what it doesn't need any more.
	node.Spec.Type, node.Spec.ExternalName = corev1.ServiceTypeExternalName, "example.com"
	freed := node.Spec.ClusterIP
	node = must(services.Update(ctx, node, metav1.UpdateOptions{}))
	if node.Spec.ClusterIP != "" || node.Spec.Ports[2].NodePort != 0 {
		t.Errorf("%+v", node.Spec)
	}
	if _, err := client.NetworkingV1().IPAddresses().Get(ctx, freed, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Error(err)
	}
	again := must(services.Create(ctx, service("again", func(s *corev1.Service) {
		s.Spec.Type, s.Spec.Ports[0].NodePort, s.Spec.ClusterIP = "NodePort", 30005, freed
	}), metav1.CreateOptions{}))
	if err := services.Delete(ctx, again.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}

	// Ten of fourteen addresses are left; all are given out, none twice, however many ask at once.
	var group sync.WaitGroup
	var mu sync.Mutex
	seen := map[string]string{a.Spec.ClusterIP: "a", "10.1.0.1": "kubernetes"}
	for n := range 12 {
		group.Go(func() {
			s, err := services.Create(ctx, service(fmt.Sprintf("s%d", n)), metav1.CreateOptions{})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if other := seen[s.Spec.ClusterIP]; other != "" {
				t.Errorf("%s has the address of %s", s.Name, other)
			}
			seen[s.Spec.ClusterIP] = s.Name
		})
	}
	group.Wait()
	if _, err := services.Create(ctx, service("full"), metav1.CreateOptions{}); err == nil || !strings.Contains(err.Error(), `failed to allocate a serviceIP for Service "full": range is full`) {
		t.Error(err)
	}
	dry := metav1.CreateOptions{DryRun: []string{"All"}}
	if err := services.Delete(ctx, "s0", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	must(services.Create(ctx, service("full"), dry))
	must(services.Create(ctx, service("full"), metav1.CreateOptions{}))
}

func TestKubernetesEndpoints(t *testing.T) {
	i := start(t)
	client := typed(t, i, "application/json")
	eventually(t, func(ctx context.Context) (bool, error) {
		e, err := client.CoreV1().Endpoints("default").Get(ctx, "kubernetes", metav1.GetOptions{}) //nolint:staticcheck // deprecated, and kept
		if err != nil || len(e.Subsets) != 1 || e.Subsets[0].Addresses[0].IP != "127.0.0.1" {
			return false, nil
		}
		s, err := client.DiscoveryV1().EndpointSlices("default").Get(ctx, "kubernetes", metav1.GetOptions{})
		return err == nil && len(s.Endpoints) == 1, nil
	})
	// Another server appears, and goes.
	ctx := limited(t)
	if _, err := i.etcd.Client().Put(ctx, "/registry/masterleases/192.0.2.1", "x"); err != nil {
		t.Fatal(err)
	}
	addresses := func(ctx context.Context, n int) (bool, error) {
		e, err := client.CoreV1().Endpoints("default").Get(ctx, "kubernetes", metav1.GetOptions{}) //nolint:staticcheck // deprecated, and kept
		return err == nil && len(e.Subsets) == 1 && len(e.Subsets[0].Addresses) == n, nil
	}
	eventually(t, func(ctx context.Context) (bool, error) { return addresses(ctx, 2) })
	if _, err := i.etcd.Client().Delete(ctx, "/registry/masterleases/192.0.2.1"); err != nil {
		t.Fatal(err)
	}
	eventually(t, func(ctx context.Context) (bool, error) { return addresses(ctx, 1) })
}

// eventually waits for what happens by itself.
func eventually(t testing.TB, done func(context.Context) (bool, error)) {
	t.Helper()
	if err := wait.PollUntilContextTimeout(t.Context(), 5*time.Millisecond, 20*time.Second, true, done); err != nil {
		t.Fatal(err)
	}
}
