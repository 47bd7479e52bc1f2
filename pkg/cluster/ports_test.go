package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"skiff/pkg/cluster/supervise"
)

func TestOpenPorts(t *testing.T) {
	taken, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := netip.MustParseAddrPort(taken.Addr().String()).Port()

	// UDP has ports of its own.
	free := PortMapping{HostIP: loopback, HostPort: port, Port: 53, Protocol: "UDP"}
	files, err := openPorts(Node{Name: "x", NodeOptions: NodeOptions{Ports: []PortMapping{free}}})
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	defer closeAll(files)

	for want, p := range map[string]PortMapping{
		fmt.Sprintf("host port 127.0.0.1:%d/TCP of node x: address already in use", port): {HostIP: loopback, HostPort: port, Port: 80, Protocol: "TCP"},
		fmt.Sprintf("host port 127.0.0.1:%d/UDP of node x: address already in use", port): free,
		fmt.Sprintf("host port 0.0.0.0:%d/TCP of node x: address already in use", port):   {HostIP: netip.IPv4Unspecified(), HostPort: port, Port: 80, Protocol: "TCP"},
		"host port 192.0.2.1:8080/TCP of node x: cannot assign requested address":         {HostIP: netip.MustParseAddr("192.0.2.1"), HostPort: 8080, Port: 80, Protocol: "TCP"},
		`host port 127.0.0.1:8080/SCTP of node x: protocol "SCTP" is neither TCP nor UDP`: {HostIP: loopback, HostPort: 8080, Port: 80, Protocol: "SCTP"},
	} {
		if files, err := openPorts(Node{Name: "x", NodeOptions: NodeOptions{Ports: []PortMapping{p}}}); err == nil || err.Error() != want {
			closeAll(files)
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// A port of the machine's leads into a node, also when the node's binaries, its init
// among them, are replaced while it runs.
func TestPortsAndReload(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	t.Setenv("SKIFF_HOME", t.TempDir())
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "config"))
	const name = "unit-ports"
	remove := func() {
		if err := Delete(name, nil); err != nil {
			t.Fatal(err)
		}
	}
	remove() // what a killed run left
	t.Cleanup(remove)
	bin, newer := testBinaries(t), testBinaries(t)
	free, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host := netip.MustParseAddrPort(free.Addr().String())
	free.Close()
	s, err := Create(context.Background(), CreateOptions{Options: Options{Name: name, Isolated: true, Bin: bin,
		Nodes: []NodeGroup{{Role: Master, Count: 1, NodeOptions: NodeOptions{Ports: []PortMapping{
			{HostIP: host.Addr(), HostPort: host.Port(), Port: 7777, Protocol: "TCP"},
			{HostIP: netip.IPv4Unspecified(), HostPort: host.Port(), Port: 7778, Protocol: "UDP"},
		}}}}}})
	if err != nil {
		t.Fatal(err)
	}
	l, n := newLayout(name), &s.Nodes[0]
	pid := InitPid(name, n.Name)
	server := exec.Command("nsenter", "-t", fmt.Sprint(pid), "-n", "-u", "busybox", "nc", "-ll", "-p", "7777", "-e", "hostname")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { server.Process.Kill(); server.Wait() }()
	ask := func() string {
		c, err := net.DialTimeout("tcp", host.String(), 5*time.Second)
		if err != nil {
			return err.Error()
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(5 * time.Second))
		answer, _ := io.ReadAll(c)
		return strings.TrimSpace(string(answer))
	}
	eventually(t, "the node answers at the machine's port", func() bool { return ask() == n.Name })

	packets := listenIn(t, pid, netip.AddrPortFrom(n.IP, 7778))
	go func() {
		buf := make([]byte, 100)
		for {
			length, from, err := packets.ReadFrom(buf)
			if err != nil {
				return
			}
			packets.WriteTo(append([]byte("you said "), buf[:length]...), from)
		}
	}()
	// The second of the machine's addresses, from which the answer has to come.
	client, err := net.Dial("udp4", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), host.Port()).String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	eventually(t, "the node answers a packet", func() bool {
		client.SetDeadline(time.Now().Add(200 * time.Millisecond))
		client.Write([]byte("hello"))
		answer := make([]byte, 100)
		length, _ := client.Read(answer)
		return string(answer[:length]) == "you said hello"
	})

	var components []string
	for _, p := range nodeConfig(s, l, *n).Processes {
		components = append(components, p.Name)
	}
	eventually(t, "all of it runs", func() bool {
		return !slices.ContainsFunc(components, func(c string) bool { return ProcessPid(name, n.Name, c) == 0 })
	})
	pids := func() (out []int) {
		for _, c := range components {
			out = append(out, ProcessPid(name, n.Name, c))
		}
		return out
	}
	before := pids()
	n.Bin = newer
	c := nodeConfig(s, l, *n)
	c.Generation = "2"
	c.Processes[slices.Index(components, "scheduler")].Generation = "2"
	if err := writeJSON(l.nodeFile(n.Name, supervise.ConfigFile), c); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := reloadNode(ctx, l, *n, "2"); err != nil {
		t.Fatal(err)
	}
	for i, now := range pids() {
		if (now == before[i]) == (components[i] == "scheduler") || now == 0 {
			t.Errorf("pids of %v were %v, are %v: want another scheduler", components, before, pids())
		}
	}
	running, err := os.Stat(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.Stat(filepath.Join(newer, "init"))
	if err != nil || !os.SameFile(running, want) {
		t.Errorf("PID 1 is not the newer init (%v)", err)
	}
	if got := ask(); got != n.Name {
		t.Errorf("after the reload the machine's port answers %q", got)
	}

	c.Bin, c.Generation = "/nowhere", "3"
	if err := writeJSON(l.nodeFile(n.Name, supervise.ConfigFile), c); err != nil {
		t.Fatal(err)
	}
	if err := reloadNode(ctx, l, *n, "3"); err == nil || !strings.Contains(err.Error(), "refuses its configuration: mount the machine's /nowhere on ") {
		t.Errorf("a configuration that is no good: %v", err)
	}

	if err := stopNode(l, n.Name, 15*time.Second); err != nil {
		t.Fatal(err)
	}
	if _, err := net.DialTimeout("tcp", host.String(), 5*time.Second); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the port of a stopped node: %v", err)
	}
	if err := reloadNode(ctx, l, *n, "4"); err == nil || !strings.Contains(err.Error(), "is not running") {
		t.Errorf("reloading a stopped node: %v", err)
	}
}

// listenIn opens a UDP socket in a process's network namespace.
func listenIn(t *testing.T, pid int, address netip.AddrPort) net.PacketConn {
	t.Helper()
	space, err := netns.GetFromPid(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer space.Close()
	var socket net.PacketConn
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		if err = netns.Set(space); err == nil {
			socket, err = net.ListenPacket("udp4", address.String())
		}
	}()
	<-done
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	return socket
}
