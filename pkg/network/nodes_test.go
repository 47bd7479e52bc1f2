package network

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
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
)

// remote describes a node that runs in a process of its own, since a process's
// netlink sockets and /proc/sys belong to one network namespace.
type remote struct {
	Name, Dir string
	Nodes     []*corev1.Node
}

const remoteKey = "SKIFF_TEST_NODE"

// TestRemoteNode is not a test: it is the second node of one.
func TestRemoteNode(t *testing.T) {
	var spec remote
	if text := os.Getenv(remoteKey); text == "" {
		t.Skip("only as a part of other tests")
	} else if err := json.Unmarshal([]byte(text), &spec); err != nil {
		t.Fatal(err)
	}
	r := start(t, Config{NodeName: spec.Name, StateDir: filepath.Join(spec.Dir, "addresses"),
		ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}}, spec.Nodes...)
	pod := Pod{ID: "there", Namespace: "default", Name: "there", NetnsPath: filepath.Join(spec.Dir, "there")}
	must(t, NewNamespace(pod.NetnsPath))
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	addresses, err := r.network.Attach(ctx, pod)
	must(t, err)
	serve(t, pod.NetnsPath, "0.0.0.0:80")
	fmt.Println("pod", addresses[0])
	io.Copy(io.Discard, os.Stdin) // until the test is over
	r.stop()
	must(t, DeleteNamespace(pod.NetnsPath))
}

// runRemote starts a node in a namespace and returns its pod's address.
func runRemote(t *testing.T, path string, spec remote) string {
	t.Helper()
	text, err := json.Marshal(spec)
	must(t, err)
	command := exec.Command(os.Args[0], "-test.run=^TestRemoteNode$")
	command.Env = append(os.Environ(), remoteKey+"="+string(text))
	command.Stderr = os.Stderr
	stdin, err := command.StdinPipe()
	must(t, err)
	stdout, err := command.StdoutPipe()
	must(t, err)
	must(t, within(path, command.Start))
	t.Cleanup(func() { stdin.Close(); command.Wait() })
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		if address, ok := strings.CutPrefix(lines.Text(), "pod "); ok {
			go io.Copy(io.Discard, stdout)
			return address
		}
		t.Log(lines.Text())
	}
	t.Fatal("the other node ended")
	return ""
}

// wire joins two namespaces ("" is the process's own) by a link.
func wire(t *testing.T, name, pathA, addressA, pathB, addressB string) {
	t.Helper()
	ends := [2]*netlink.Handle{}
	for i, path := range []string{pathA, pathB} {
		if path == "" {
			handle, err := netlink.NewHandle()
			must(t, err)
			ends[i] = handle
			continue
		}
		must(t, NewNamespace(path))
		t.Cleanup(func() { DeleteNamespace(path) })
		ns, err := netns.GetFromPath(path)
		must(t, err)
		defer ns.Close()
		ends[i], err = netlink.NewHandleAt(ns)
		must(t, err)
	}
	b, err := netns.GetFromPath(pathB)
	must(t, err)
	defer b.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	must(t, ends[0].LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: name, PeerNamespace: netlink.NsFd(b)}))
	for i, address := range []string{addressA, addressB} {
		for _, device := range []string{"lo", name} {
			link, err := ends[i].LinkByName(device)
			must(t, err)
			if device == name {
				parsed, err := netlink.ParseAddr(address)
				must(t, err)
				must(t, ends[i].AddrAdd(link, parsed))
			}
			must(t, ends[i].LinkSetUp(link))
		}
	}
}

func defaultRoute(t *testing.T, path, via string) {
	t.Helper()
	must(t, within(path, func() error {
		handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		return handle.RouteAdd(&netlink.Route{Gw: netip.MustParseAddr(via).AsSlice()})
	}))
}

// twoNodes tests the way between pods of two nodes, and what is left when one goes.
func twoNodes(t *testing.T, dir, pathB string, a, b *corev1.Node, device string) {
	t.Helper()
	there := runRemote(t, pathB, remote{Name: b.Name, Dir: filepath.Join(dir, "b-state"), Nodes: []*corev1.Node{a, b}})
	r := start(t, Config{NodeName: a.Name, StateDir: filepath.Join(dir, "a-state"),
		ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}}, a, b)
	defer func() { r.stop() }()
	pod := Pod{ID: "here", Namespace: "default", Name: "here", NetnsPath: filepath.Join(dir, "here")}
	must(t, NewNamespace(pod.NetnsPath))
	t.Cleanup(func() { DeleteNamespace(pod.NetnsPath) })
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	addresses, err := r.network.Attach(ctx, pod)
	must(t, err)
	eventually(t, "a pod of the other node answers", func() bool {
		answer, err := ask(pod.NetnsPath, there+":80")
		return err == nil && answer == addresses[0].String()
	})
	if route := routeTo(t, there); route != device {
		t.Errorf("pods of the other node are reached through %q, want %q", route, device)
	}
	// The agent restarts: everything is known, nothing is done twice.
	r.stop()
	r = start(t, Config{NodeName: a.Name, StateDir: filepath.Join(dir, "a-state"),
		ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}}, a, b)
	_, err = r.network.Attach(ctx, pod)
	must(t, err)
	if answer, err := ask(pod.NetnsPath, there+":80"); err != nil || answer != addresses[0].String() {
		t.Errorf("after a restart: %q, %v", answer, err)
	}
	// The other node goes: so do its routes.
	r.nodes.Delete(b)
	eventually(t, "the route is gone", func() bool { return routeTo(t, there) == "" })
}

// routeTo names the device that leads to an address; none if it is unreachable.
func routeTo(t *testing.T, address string) string {
	routes, err := netlink.RouteGet(netip.MustParseAddr(address).AsSlice())
	if err != nil || len(routes) == 0 {
		return ""
	}
	link, err := netlink.LinkByIndex(routes[0].LinkIndex)
	must(t, err)
	return link.Attrs().Name
}

// eventually waits for the state that an asynchronous loop brings about.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not so: %s", what)
		}
	}
}

func TestSameLink(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	dir := t.TempDir()
	b := filepath.Join(dir, "b")
	wire(t, "up0", "", "10.99.0.1/24", b, "10.99.0.2/24")
	twoNodes(t, dir, b, testNode("a", "10.244.1.0/24", "10.99.0.1"), testNode("b", "10.244.2.0/24", "10.99.0.2"), "up0")
}

func TestAcrossLinks(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	dir := t.TempDir()
	router, b := filepath.Join(dir, "router"), filepath.Join(dir, "b")
	wire(t, "up0", "", "10.99.0.1/24", router, "10.99.0.254/24")
	wire(t, "up1", router, "10.98.0.254/24", b, "10.98.0.1/24")
	must(t, within(router, func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) }))
	defaultRoute(t, "", "10.99.0.254")
	defaultRoute(t, b, "10.98.0.254")
	twoNodes(t, dir, b, testNode("a", "10.244.1.0/24", "10.99.0.1"), testNode("b", "10.244.2.0/24", "10.98.0.1"), "skiff.vxlan")
	link, err := netlink.LinkByName("skiff.vxlan")
	must(t, err)
	if mtu := link.Attrs().MTU; mtu != 1450 {
		t.Errorf("the tunnel's MTU is %d", mtu)
	}
	eventually(t, "no neighbour is left", func() bool {
		neighbours, err := netlink.NeighList(link.Attrs().Index, netlink.FAMILY_V4)
		return err == nil && len(neighbours) == 0
	})
}
