package nft

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// inNamespace runs the calling test again, alone, in a process of its own with
// a fresh network namespace, and returns true there: whatever it programs, the
// host never sees it, and the kernel cleans up when it ends.
func inNamespace(t testing.TB) bool {
	t.Helper()
	const key = "SKIFF_TEST_NAMESPACED"
	if os.Getenv(key) == t.Name() {
		return true
	}
	if os.Getuid() != 0 {
		t.Skip("needs root: it makes network namespaces")
	}
	which := "-test.run=^" + t.Name() + "$"
	if strings.HasPrefix(t.Name(), "Benchmark") {
		which = "-test.bench=^" + t.Name() + "$"
	}
	command := exec.Command(os.Args[0], which, "-test.v")
	command.Env = append(os.Environ(), key+"="+t.Name())
	command.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	// Pdeathsig is sent when the starting thread ends, so it has to stay.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	output, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("in a namespace: %v\n%s", err, output)
	}
	t.Logf("%s", output)
	return false
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// host is a network namespace with one address: a pod, or a client.
type host struct {
	t       *testing.T
	name    string
	address string
	ns      netns.NsHandle
}

// do runs f on a thread in h's namespace that nobody uses afterwards.
func (h *host) do(f func() error) error {
	if h.ns == 0 {
		return f()
	}
	done := make(chan error, 1)
	onThread(func() {
		if err := netns.Set(h.ns); err != nil {
			done <- err
			return
		}
		done <- f()
	})
	return <-done
}

func onThread(f func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != os.Getpid() {
			f()
			return
		}
		// The first thread can't end: it waits while another one does the work.
		finished := make(chan struct{})
		go func() { defer close(finished); runtime.LockOSThread(); f() }()
		<-finished
		runtime.UnlockOSThread()
	}()
}

// newHost makes a namespace that reaches the node (this process's namespace)
// through a link of its own, with the node as its gateway.
func newHost(t *testing.T, name, address, gateway string) *host {
	t.Helper()
	h := &host{t: t, name: name, address: address}
	made := make(chan error, 1)
	onThread(func() {
		ns, err := netns.New()
		h.ns = ns
		made <- err
	})
	must(t, <-made)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(h.ns)}))
	outer, err := netlink.LinkByName(name)
	must(t, err)
	must(t, netlink.AddrAdd(outer, &netlink.Addr{IPNet: hostNet(gateway)}))
	must(t, netlink.LinkSetUp(outer))
	must(t, netlink.RouteAdd(&netlink.Route{Dst: hostNet(address), LinkIndex: outer.Attrs().Index, Scope: netlink.SCOPE_LINK}))
	inside, err := netlink.NewHandleAt(h.ns)
	must(t, err)
	defer inside.Close()
	lo, err := inside.LinkByName("lo")
	must(t, err)
	must(t, inside.LinkSetUp(lo))
	inner, err := inside.LinkByName("eth0")
	must(t, err)
	must(t, inside.AddrAdd(inner, &netlink.Addr{IPNet: hostNet(address)}))
	must(t, inside.LinkSetUp(inner))
	must(t, inside.RouteAdd(&netlink.Route{Dst: hostNet(gateway), LinkIndex: inner.Attrs().Index, Scope: netlink.SCOPE_LINK}))
	must(t, inside.RouteAdd(&netlink.Route{Gw: net.ParseIP(gateway), LinkIndex: inner.Attrs().Index,
		Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}}))
	return h
}

func hostNet(address string) *net.IPNet {
	return &net.IPNet{IP: net.ParseIP(address).To4(), Mask: net.CIDRMask(32, 32)}
}

// serve answers over TCP and UDP: "<name> <client's address>".
func (h *host) serve(port int) {
	h.t.Helper()
	at := fmt.Sprintf("0.0.0.0:%d", port)
	must(h.t, h.do(func() error {
		listener, err := net.Listen("tcp4", at)
		if err != nil {
			return err
		}
		packets, err := net.ListenPacket("udp4", at)
		if err != nil {
			return err
		}
		answer := func(to net.Addr) []byte {
			host, _, _ := net.SplitHostPort(to.String())
			return []byte(h.name + " " + host)
		}
		go func() {
			for {
				connection, err := listener.Accept()
				if err != nil {
					return
				}
				connection.Write(answer(connection.RemoteAddr()))
				connection.Close()
			}
		}()
		go func() {
			buffer := make([]byte, 1500)
			for {
				_, from, err := packets.ReadFrom(buffer)
				if err != nil {
					return
				}
				packets.WriteTo(answer(from), from)
			}
		}()
		return nil
	}))
}

// ask returns what a server answers h.
func (h *host) ask(network, address string) (string, error) {
	var answer []byte
	err := h.do(func() error {
		connection, err := (&net.Dialer{Timeout: 2 * time.Second}).Dial(network, address)
		if err != nil {
			return err
		}
		defer connection.Close()
		connection.SetDeadline(time.Now().Add(2 * time.Second))
		if network == "tcp" {
			answer, err = io.ReadAll(connection)
			return err
		}
		if _, err := connection.Write([]byte("?")); err != nil {
			return err
		}
		answer = make([]byte, 1500)
		n, err := connection.Read(answer)
		answer = answer[:max(n, 0)]
		return err
	})
	return string(answer), err
}

// tally asks n times and counts the answers; errors count as their kind.
func (h *host) tally(network, address string, n int) map[string]int {
	counts := map[string]int{}
	for range n {
		answer, err := h.ask(network, address)
		if err != nil {
			answer = "error: " + kind(err)
		}
		counts[answer]++
	}
	return counts
}

func kind(err error) string {
	var timeout net.Error
	switch {
	case strings.Contains(err.Error(), "refused"):
		return "refused"
	case strings.Contains(err.Error(), "reset"):
		return "reset"
	case errorsAs(err, &timeout) && timeout.Timeout():
		return "timeout"
	}
	return err.Error()
}

// flow is a UDP socket that keeps its port.
type flow struct {
	t          *testing.T
	connection net.Conn
}

func (h *host) dialUDP(address string) *flow {
	h.t.Helper()
	f := &flow{t: h.t}
	must(h.t, h.do(func() (err error) { f.connection, err = net.Dial("udp4", address); return err }))
	h.t.Cleanup(func() { f.connection.Close() })
	return f
}

func (f *flow) ask() string {
	f.t.Helper()
	f.connection.SetDeadline(time.Now().Add(2 * time.Second))
	f.connection.Write([]byte("?"))
	buffer := make([]byte, 1500)
	n, err := f.connection.Read(buffer)
	if err != nil {
		return "error: " + kind(err)
	}
	return string(buffer[:n])
}

func hostRange(text string) *net.IPNet {
	_, parsed, err := net.ParseCIDR(text)
	if err != nil {
		panic(err)
	}
	return parsed
}
