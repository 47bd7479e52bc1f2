package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	cachetesting "k8s.io/client-go/tools/cache/testing"
)

// within runs f on a thread in the network namespace at path.
func within(path string, f func() error) error {
	if path == "" {
		return f() // the process's own
	}
	done := make(chan error, 1)
	go onNewThread(func() {
		ns, err := netns.GetFromPath(path)
		if err == nil {
			err = netns.Set(ns)
			ns.Close()
		}
		if err == nil {
			err = f()
		}
		done <- err
	})
	return <-done
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func testNode(name, podCIDR, ip string) *corev1.Node {
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: ip}}},
	}
	if podCIDR != "" {
		node.Spec = corev1.NodeSpec{PodCIDR: podCIDR, PodCIDRs: []string{podCIDR}}
	}
	return node
}

// uplink gives the process's own namespace an interface to a peer namespace.
func uplink(t testing.TB, address, peerPath, peerAddress string) {
	t.Helper()
	must(t, NewNamespace(peerPath))
	t.Cleanup(func() { DeleteNamespace(peerPath) })
	peer, err := netns.GetFromPath(peerPath)
	must(t, err)
	defer peer.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "up0"
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "up0", PeerNamespace: netlink.NsFd(peer)}))
	configure := func(handle *netlink.Handle, text string) {
		link, err := handle.LinkByName("up0")
		must(t, err)
		parsed, err := netlink.ParseAddr(text)
		must(t, err)
		must(t, handle.AddrAdd(link, parsed))
		must(t, handle.LinkSetUp(link))
		lo, err := handle.LinkByName("lo")
		must(t, err)
		must(t, handle.LinkSetUp(lo))
	}
	own, err := netlink.NewHandle()
	must(t, err)
	t.Cleanup(func() {
		if link, err := own.LinkByName("up0"); err == nil {
			own.LinkDel(link)
		}
	})
	configure(own, address)
	there, err := netlink.NewHandleAt(peer)
	must(t, err)
	configure(there, peerAddress)
}

type rig struct {
	network *Network
	nodes   *cachetesting.FakeControllerSource
	stop    func()
}

func start(t testing.TB, config Config, nodes ...*corev1.Node) *rig {
	t.Helper()
	source := cachetesting.NewFakeControllerSource()
	for _, node := range nodes {
		source.Add(node)
	}
	config.Nodes = cache.NewSharedIndexInformer(source, &corev1.Node{}, 0, nil)
	config.Logger = slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	network := New(config)
	go config.Nodes.Run(ctx.Done())
	go func() { done <- network.Run(ctx) }()
	stop := func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	return &rig{network: network, nodes: source, stop: stop}
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	fmt.Fprint(os.Stderr, string(p))
	return len(p), nil
}

// serve answers every TCP connection within a namespace with the caller's address.
func serve(t *testing.T, path, address string) {
	t.Helper()
	var listener net.Listener
	must(t, within(path, func() (err error) { listener, err = net.Listen("tcp4", address); return err }))
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			io.WriteString(connection, connection.RemoteAddr().(*net.TCPAddr).IP.String())
			connection.Close()
		}
	}()
}

// ask calls such a server from a namespace and returns what it answers.
func ask(path, address string) (string, error) {
	var answer []byte
	err := within(path, func() error {
		connection, err := (&net.Dialer{Timeout: 2 * time.Second}).Dial("tcp4", address)
		if err != nil {
			return err
		}
		defer connection.Close()
		connection.SetDeadline(time.Now().Add(2 * time.Second))
		answer, err = io.ReadAll(connection)
		return err
	})
	return string(answer), err
}

// listable checks that nft, where it is installed, can print what is programmed.
func listable(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		return
	}
	if output, err := exec.Command("nft", "list", "ruleset").CombinedOutput(); err != nil {
		t.Errorf("nft list ruleset: %v\n%s", err, output)
	}
}

func TestAttach(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	dir := t.TempDir()
	outside := filepath.Join(dir, "outside")
	uplink(t, "10.99.0.1/24", outside, "10.99.0.2/24")
	config := Config{
		NodeName: "a", StateDir: filepath.Join(dir, "addresses"),
		ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")},

		LocalAddresses: []netip.Addr{netip.MustParseAddr("10.96.0.10")},
	}
	r := start(t, config, testNode("a", "10.244.1.0/24", "10.99.0.1"))
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	pods := make([]Pod, 2)
	addresses := make([]netip.Addr, 2)
	for i := range pods {
		pods[i] = Pod{ID: fmt.Sprint("pod-", i), Namespace: "default", Name: fmt.Sprint("p", i), NetnsPath: filepath.Join(dir, fmt.Sprint("pod-", i))}
		must(t, NewNamespace(pods[i].NetnsPath))
		t.Cleanup(func() { DeleteNamespace(pods[i].NetnsPath) })
		got, err := r.network.Attach(ctx, pods[i])
		must(t, err)
		addresses[i] = got[0]
	}
	again, err := r.network.Attach(ctx, pods[0])
	must(t, err)
	if again[0] != addresses[0] || addresses[0] == addresses[1] {
		t.Fatalf("addresses %v, then %v", addresses, again)
	}
	serve(t, pods[0].NetnsPath, "0.0.0.0:80")
	serve(t, outside, "0.0.0.0:80")

	want := func(from, to, answer string) {
		t.Helper()
		if got, err := ask(from, to); err != nil || got != answer {
			t.Errorf("asking %s: %q, %v; want %q", to, got, err, answer)
		}
	}
	// Pod to pod and node to pod, addresses unchanged.
	want(pods[1].NetnsPath, addresses[0].String()+":80", addresses[1].String())
	want("", addresses[0].String()+":80", "10.244.1.1")
	// A service address that is the node's own.
	serve(t, "", "10.96.0.10:53")
	want(pods[1].NetnsPath, "10.96.0.10:53", addresses[1].String())
	want("", "10.96.0.10:53", "10.96.0.10")
	// Out of the cluster: the node's address.
	want(pods[1].NetnsPath, "10.99.0.2:80", "10.99.0.1")
	// Ranges without anybody refuse at once.
	for _, address := range []string{"10.244.9.9:80", "10.96.0.77:80", "10.244.1.250:80"} {
		var late net.Error
		if _, err := ask(pods[1].NetnsPath, address); err == nil || errors.As(err, &late) && late.Timeout() {
			t.Errorf("asking %s: %v; want a refusal at once", address, err)
		}
		if _, err := ask("", address); err == nil {
			t.Errorf("asking %s from the node succeeded", address)
		}
	}

	// Host ports: from outside, from the node, on 127.0.0.1, from the pod itself.
	web := Pod{ID: "pod-web", Namespace: "default", Name: "web", NetnsPath: filepath.Join(dir, "pod-web"), HostPorts: []HostPort{
		{Port: 8080, PodPort: 80, Protocol: corev1.ProtocolTCP},
		{HostIP: netip.MustParseAddr("127.0.0.1"), Port: 8081, PodPort: 80, Protocol: corev1.ProtocolTCP},
		{HostIP: netip.MustParseAddr("10.99.0.1"), Port: 8081, PodPort: 80, Protocol: corev1.ProtocolUDP},
	}}
	must(t, NewNamespace(web.NetnsPath))
	t.Cleanup(func() { DeleteNamespace(web.NetnsPath) })
	_, err = r.network.Attach(ctx, web)
	must(t, err)
	serve(t, web.NetnsPath, "0.0.0.0:80")
	hostPorts := func() {
		t.Helper()
		want(outside, "10.99.0.1:8080", "10.99.0.2")
		want("", "127.0.0.1:8081", "10.244.1.1")
		want("", "10.99.0.1:8080", "10.99.0.1")
		want(web.NetnsPath, "10.99.0.1:8080", "10.244.1.1")
		want(pods[1].NetnsPath, "10.99.0.1:8080", addresses[1].String())
		if _, err := ask(outside, "10.99.0.1:8081"); err == nil {
			t.Error("a host port of 127.0.0.1 answers the world")
		}
	}
	hostPorts()
	listable(t)
	rival := Pod{ID: "rival", Namespace: "default", Name: "rival", NetnsPath: pods[1].NetnsPath,
		HostPorts: []HostPort{{HostIP: netip.MustParseAddr("10.99.0.1"), Port: 8080, PodPort: 1, Protocol: corev1.ProtocolTCP}}}
	if _, err := r.network.Attach(ctx, rival); err == nil || !strings.Contains(err.Error(), "host port 10.99.0.1:8080/TCP is held by pod default/web") &&
		!strings.Contains(err.Error(), "host port 8080/TCP is held by pod default/web") {
		t.Errorf("a host port twice: %v", err)
	}

	// Another process takes over.
	r.stop()
	r = start(t, config, testNode("a", "10.244.1.0/24", "10.99.0.1"))
	again, err = r.network.Attach(ctx, pods[0])
	must(t, err)
	if again[0] != addresses[0] {
		t.Fatalf("after a restart the address is %s, was %s", again[0], addresses[0])
	}
	want(pods[1].NetnsPath, addresses[0].String()+":80", addresses[1].String())
	hostPorts()
	must(t, r.network.Reclaim(ctx, []string{"pod-1"}))
	if _, err := ask(outside, "10.99.0.1:8080"); err == nil {
		t.Error("the host port of a detached pod answers")
	}
	if _, held := r.network.Address("pod-0"); held {
		t.Error("a pod that is gone keeps its address")
	}
	// Refused by a reset, and so at once however often: ICMP can be lost within one machine.
	for range 20 {
		if _, err := ask(pods[1].NetnsPath, addresses[0].String()+":80"); !errors.Is(err, unix.ECONNREFUSED) {
			t.Fatalf("a detached pod: %v", err)
		}
	}
	must(t, r.network.Detach(ctx, "pod-1"))
	must(t, r.network.Detach(ctx, "pod-1"))
	entries, err := os.ReadDir(config.StateDir)
	must(t, err)
	if len(entries) != 0 {
		t.Errorf("addresses left: %v", entries)
	}
	r.stop()
}

func BenchmarkAttach(b *testing.B) {
	if os.Getenv("SKIFF_BENCH_NAMESPACED") == "" {
		b.Skip("run it within unshare --net --mount, with SKIFF_BENCH_NAMESPACED=1")
	}
	dir := b.TempDir()
	uplink(b, "10.99.0.1/24", filepath.Join(dir, "outside"), "10.99.0.2/24")
	r := start(b, Config{NodeName: "a", StateDir: filepath.Join(dir, "addresses")}, testNode("a", "10.240.0.0/12", "10.99.0.1"))
	defer r.stop()
	var pin, attach, detach time.Duration
	for i := range b.N {
		pod := Pod{ID: fmt.Sprint("pod-", i), NetnsPath: filepath.Join(dir, fmt.Sprint("pod-", i))}
		began := time.Now()
		if err := NewNamespace(pod.NetnsPath); err != nil {
			b.Fatal(err)
		}
		pin += time.Since(began)
		began = time.Now()
		if _, err := r.network.Attach(context.Background(), pod); err != nil {
			b.Fatal(err)
		}
		if i > 0 {
			attach += time.Since(began)
		}
		began = time.Now()
		if err := r.network.Detach(context.Background(), pod.ID); err != nil {
			b.Fatal(err)
		}
		detach += time.Since(began)
		DeleteNamespace(pod.NetnsPath)
	}
	b.ReportMetric(float64(pin.Microseconds())/float64(b.N), "µs/namespace")
	b.ReportMetric(float64(attach.Microseconds())/float64(b.N), "µs/attach")
	b.ReportMetric(float64(detach.Microseconds())/float64(b.N), "µs/detach")
}
