package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// handedOver is the forwarder's side of a socket.
func handedOver(t *testing.T, s interface{ File() (*os.File, error) }) *socket {
	t.Helper()
	file, err := s.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	fd, err := unix.Dup(int(file.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	out, err := newSocket(fd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	return out
}

func addressOf(a net.Addr) netip.AddrPort { return netip.MustParseAddrPort(a.String()) }

func listenTCP(t *testing.T) *net.TCPListener {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener)
}

// through starts a forwarder to target and connects to it.
func through(t *testing.T, target netip.AddrPort) (*net.TCPConn, error) {
	t.Helper()
	l := listenTCP(t)
	go forwardTCP(handedOver(t, l), target)
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.TCPConn), nil
}

// joined is a client's and the target's end of a forwarded connection.
func joined(t *testing.T, target *net.TCPListener) (client, server *net.TCPConn) {
	t.Helper()
	client, err := through(t, addressOf(target.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	return client, accept(t, target)
}

func accept(t *testing.T, l *net.TCPListener) *net.TCPConn {
	t.Helper()
	l.SetDeadline(time.Now().Add(20 * time.Second))
	c, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

func TestForwardTCP(t *testing.T) {
	target := listenTCP(t)
	client, server := joined(t, target)
	// The client has said all; the server hears that, and answers at length.
	if _, err := client.Write([]byte("question")); err != nil {
		t.Fatal(err)
	}
	client.CloseWrite()
	if got, err := io.ReadAll(server); err != nil || string(got) != "question" {
		t.Fatalf("the server got %q, %v", got, err)
	}
	answer := strings.Repeat("answer", 1<<20)
	go func() {
		io.WriteString(server, answer)
		server.Close()
	}()
	if got, err := io.ReadAll(client); err != nil || string(got) != answer {
		t.Errorf("the client got %d bytes, %v, want %d", len(got), err, len(answer))
	}
}

func TestForwardTCPPassesOnAReset(t *testing.T) {
	target := listenTCP(t)
	client, server := joined(t, target)
	server.SetLinger(0)
	server.Close()
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after a reset by the server the client sees %v", err)
	}

	client, server = joined(t, target)
	client.SetLinger(0)
	client.Close()
	if _, err := server.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after a reset by the client the server sees %v", err)
	}

	target.Close()
	client, err := through(t, addressOf(target.Addr()))
	if err == nil {
		_, err = client.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("without a server the client sees %v", err)
	}
}

func listenUDP(t *testing.T, address string) *net.UDPConn {
	t.Helper()
	c, err := net.ListenPacket("udp4", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.UDPConn)
}

// udpThrough starts a forwarder to a server that answers with what it got and the
// address that it got it from.
func udpThrough(t *testing.T, idle time.Duration) (*udpForwarder, uint16) {
	t.Helper()
	target, front := listenUDP(t, "127.0.0.1:0"), listenUDP(t, "0.0.0.0:0")
	f, err := newUDPForwarder(handedOver(t, front), addressOf(target.LocalAddr()), idle)
	if err != nil {
		t.Fatal(err)
	}
	go f.run()
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := target.ReadFrom(buf)
			if err != nil {
				return
			}
			target.WriteTo(fmt.Appendf(buf[:n], " %s", from), from)
		}
	}()
	return f, addressOf(front.LocalAddr()).Port()
}

// dialUDP makes a client that doesn't see answers from another address than it sends to.
func dialUDP(t *testing.T, ip string, port uint16) net.Conn {
	t.Helper()
	c, err := net.Dial("udp4", netip.AddrPortFrom(netip.MustParseAddr(ip), port).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestForwardUDP(t *testing.T) {
	f, port := udpThrough(t, time.Hour)
	clients := []net.Conn{dialUDP(t, "127.0.0.1", port), dialUDP(t, "127.0.0.2", port), dialUDP(t, "127.0.0.2", port)}
	seen := map[string]bool{}
	for i, c := range clients {
		c.SetDeadline(time.Now().Add(20 * time.Second))
		for _, text := range []string{fmt.Sprint(i), strings.Repeat("x", 8000)} {
			if _, err := c.Write([]byte(text)); err != nil {
				t.Fatal(err)
			}
			answer := make([]byte, 1<<16)
			n, err := c.Read(answer)
			if err != nil {
				t.Fatalf("client %d: %v", i, err)
			}
			said, from, _ := strings.Cut(string(answer[:n]), " ")
			if said != text {
				t.Errorf("client %d got an answer of %d bytes, want %d", i, len(said), len(text))
			}
			seen[from] = true
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(seen) != len(clients) || len(f.clients) != len(clients) {
		t.Errorf("the target sees %d senders, there are %d associations, want one per client: %v", len(seen), len(f.clients), seen)
	}
}

func TestForwardUDPForgets(t *testing.T) {
	f, port := udpThrough(t, 20*time.Millisecond)
	c := dialUDP(t, "127.0.0.1", port)
	for round := range 2 { // and who was forgotten may come back
		for attempt := 0; ; attempt++ { // on a busy machine it may be idle before its answer
			c.Write([]byte("?"))
			c.SetDeadline(time.Now().Add(100 * time.Millisecond))
			if _, err := c.Read(make([]byte, 100)); err == nil {
				break
			} else if attempt == 200 {
				t.Fatalf("round %d: %v", round, err)
			}
		}
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
			f.mu.Lock()
			left := len(f.clients)
			f.mu.Unlock()
			if left == 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d associations are never forgotten", left)
			}
		}
	}
}

func TestParseRule(t *testing.T) {
	r, err := parseRule("web=10.0.0.1:80/TCP")
	if err != nil || r != (rule{"web", netip.MustParseAddrPort("10.0.0.1:80"), unix.SOCK_STREAM}) {
		t.Errorf("%+v %v", r, err)
	}
	if r, err = parseRule("dns=[fd00::1]:53/UDP"); err != nil || r.kind != unix.SOCK_DGRAM || !r.target.Addr().Is6() {
		t.Errorf("%+v %v", r, err)
	}
	for _, bad := range []string{"", "web", "=10.0.0.1:80/TCP", "web=10.0.0.1/TCP", "web=10.0.0.1:0/TCP", "web=10.0.0.1:80", "web=10.0.0.1:80/SCTP", "web=host:80/TCP"} {
		if _, err := parseRule(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestForwardRefuses(t *testing.T) {
	t.Setenv("LISTEN_FDNAMES", "web")
	t.Setenv("LISTEN_PID", "1")
	if err := runForward([]string{"web=10.0.0.1:80/TCP"}); err == nil || !strings.Contains(err.Error(), `no socket "web"`) {
		t.Errorf("sockets of another process: %v", err)
	}
	t.Setenv("LISTEN_PID", fmt.Sprint(os.Getpid()))
	if err := runForward([]string{"dns=10.0.0.1:80/TCP"}); err == nil || !strings.Contains(err.Error(), `no socket "dns"`) {
		t.Errorf("a socket that was not handed over: %v", err)
	}
}
