package proxy_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	cachetesting "k8s.io/client-go/tools/cache/testing"
	"k8s.io/client-go/tools/record"

	"skiff/pkg/proxy"
	"skiff/pkg/proxy/fake"
)

type running struct {
	t                       *testing.T
	proxy                   *proxy.Proxy
	programmer              *fake.Programmer
	services, slices, nodes *cachetesting.FakeControllerSource
	events                  *record.FakeRecorder
}

func start(t *testing.T, config proxy.Config) *running {
	t.Helper()
	r := &running{t: t, programmer: &fake.Programmer{}, events: record.NewFakeRecorder(10),
		services: cachetesting.NewFakeControllerSource(), slices: cachetesting.NewFakeControllerSource(), nodes: cachetesting.NewFakeControllerSource()}
	r.nodes.Add(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "here", Labels: map[string]string{corev1.LabelTopologyZone: "z1"}}})
	config.NodeName, config.Programmer, config.Recorder = "here", r.programmer, r.events
	config.Services = cache.NewSharedIndexInformer(r.services, &corev1.Service{}, 0, nil)
	config.EndpointSlices = cache.NewSharedIndexInformer(r.slices, &discoveryv1.EndpointSlice{}, 0, nil)
	config.Nodes = cache.NewSharedIndexInformer(r.nodes, &corev1.Node{}, 0, nil)
	config.Registerer = prometheus.NewRegistry()
	config.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	r.proxy = proxy.New(config)
	ctx, cancel := context.WithCancel(context.Background())
	for _, informer := range []cache.SharedIndexInformer{config.Services, config.EndpointSlices, config.Nodes} {
		go informer.Run(ctx.Done())
	}
	done := make(chan error, 1)
	go func() { done <- r.proxy.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	r.eventually("the proxy is ready", func() bool { return r.proxy.Ready() == nil })
	return r
}

// eventually waits for what the loop brings about by itself.
func (r *running) eventually(what string, holds func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("not so: %s\n%s", what, r.programmer.Dump())
		}
	}
}

func (r *running) holds(text string) func() bool {
	return func() bool { return strings.Contains(r.programmer.Dump(), text) }
}

func TestRun(t *testing.T) {
	r := start(t, proxy.Config{OwnAddresses: []netip.Addr{netip.MustParseAddr("10.96.0.53")}, CheckInterval: 20 * time.Millisecond})
	r.services.Add(service("web"))
	r.eventually("the service rejects", r.holds("10.96.0.10 . tcp . 80 : goto rejected"))
	r.slices.Add(slice("web-1", "web", "10.244.1.5@here zone=z1", "10.244.2.5@there zone=z2"))
	r.eventually("the endpoint of this zone serves", r.holds("goto forward-1-"))
	r.nodes.Modify(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "here", Labels: map[string]string{corev1.LabelTopologyZone: "z3"}}})
	r.eventually("another zone: all serve", r.holds("goto forward-2-"))

	// A slice changes hands; its old service is left without.
	r.services.Add(service("other", func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "10.96.0.11", []string{"10.96.0.11"} }))
	r.slices.Modify(slice("web-1", "other", "10.244.1.5@here"))
	r.eventually("the other service has the endpoint", r.holds("10.96.0.11 . tcp . 80 : goto forward-1-"))
	r.eventually("the old one has none", r.holds("10.96.0.10 . tcp . 80 : goto rejected"))

	// The node's own addresses are left alone; what can't be honoured is said.
	r.services.Add(service("dns", func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "10.96.0.53", []string{"10.96.0.53"} }))
	r.services.Add(service("sctp", func(s *corev1.Service) {
		s.Spec.ClusterIP, s.Spec.ClusterIPs, s.Spec.Ports[0].Protocol = "10.96.0.12", []string{"10.96.0.12"}, corev1.ProtocolSCTP
	}))
	if got, want := <-r.events.Events, "Warning UnsupportedProtocol port 80: protocol SCTP is not supported by this node's proxy"; got != want {
		t.Errorf("event %q, want %q", got, want)
	}
	r.eventually("both are through", func() bool { return r.proxy.Ready() == nil })
	if r.holds("10.96.0.53")() || r.holds("10.96.0.12")() {
		t.Errorf("programmed:\n%s", r.programmer.Dump())
	}

	// A failure is made good by programming everything anew; so is a flushed table.
	resets := r.programmer.Resets()
	r.programmer.Fail(errors.New("no"))
	r.services.Delete(service("web"))
	r.eventually("the service is gone in the end", func() bool { return !r.holds("10.96.0.10 ")() })
	if r.programmer.Resets() == resets {
		t.Error("a failed change was not made good by a reset")
	}
	r.programmer.Forget()
	r.eventually("the table is back", r.holds("10.96.0.11 . tcp . 80 : goto forward-1-"))
}

func TestDrained(t *testing.T) {
	r := start(t, proxy.Config{})
	pod, stranger := netip.MustParseAddr("10.244.1.5"), netip.MustParseAddr("10.244.9.9")
	r.services.Add(service("web"))
	r.slices.Add(slice("web-1", "web", "10.244.1.5@here", "10.244.2.5@there"))
	r.eventually("it serves", r.holds("10.244.1.5"))
	if err := r.proxy.Drained(context.Background(), "stranger", stranger); err != nil {
		t.Errorf("a pod in no service: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.proxy.Drained(ctx, "p", pod); !errors.Is(err, context.Canceled) {
		t.Errorf("a ready endpoint is drained: %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- r.proxy.Drained(context.Background(), "p", pod) }()
	r.slices.Modify(slice("web-1", "web", "10.244.1.5@here terminating", "10.244.2.5@there"))
	if err := <-done; err != nil {
		t.Error(err)
	}
	// Pods of the host's network share an address, and are told apart.
	shared := slice("web-1", "web", "192.0.2.1@here", "192.0.2.1@here terminating")
	for i, uid := range []types.UID{"stays", "goes"} {
		shared.Endpoints[i].TargetRef = &corev1.ObjectReference{Kind: "Pod", UID: uid}
	}
	r.slices.Modify(shared)
	r.eventually("it is programmed", r.holds("192.0.2.1"))
	if err := r.proxy.Drained(context.Background(), "goes", netip.MustParseAddr("192.0.2.1")); err != nil {
		t.Error(err)
	}
	if err := r.proxy.Drained(ctx, "stays", netip.MustParseAddr("192.0.2.1")); !errors.Is(err, context.Canceled) {
		t.Errorf("a ready endpoint is drained: %v", err)
	}
	if r.holds("10.244.1.5")() {
		t.Errorf("drained, and yet programmed:\n%s", r.programmer.Dump())
	}
}

func TestHealthCheckPort(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	listener.Close()
	r := start(t, proxy.Config{})
	lb := service("web", loadBalancer("Local"), func(s *corev1.Service) { s.Spec.HealthCheckNodePort = int32(port) })
	r.services.Add(lb)
	r.slices.Add(slice("web-1", "web", "10.244.2.5@there"))
	check := func(status, local int) func() bool {
		return func() bool {
			response, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
			if err != nil {
				return false
			}
			defer response.Body.Close()
			var body struct {
				Service             struct{ Namespace, Name string }
				LocalEndpoints      int
				ServiceProxyHealthy bool
			}
			err = json.NewDecoder(response.Body).Decode(&body)
			return err == nil && response.StatusCode == status && body.LocalEndpoints == local && body.Service.Name == "web" &&
				response.Header.Get("X-Load-Balancing-Endpoint-Weight") == fmt.Sprint(local)
		}
	}
	r.eventually("503 without an endpoint here", check(503, 0))
	r.slices.Modify(slice("web-1", "web", "10.244.1.5@here", "10.244.1.6@here", "10.244.2.5@there"))
	r.eventually("200 with two", check(200, 2))
	r.services.Delete(lb)
	r.eventually("closed", func() bool {
		_, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		return err != nil
	})
}
