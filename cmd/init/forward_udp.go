package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// udpIdle is how long an association lives without a packet in either direction.
	udpIdle = time.Minute
	// udpMost bounds the associations of one socket: each has a descriptor.
	udpMost = 4096
)

// udpForwarder gives each client a socket of its own towards the target, by which
// answers are told apart.
type udpForwarder struct {
	socket *socket
	target netip.AddrPort
	idle   time.Duration

	mu      sync.Mutex
	clients map[clientKey]*association
	answer  [1 << 16]byte // one for all: there may be thousands that wait for one
}

// clientKey is who has sent a packet, and to which of the machine's addresses.
type clientKey struct{ from, to any }

type association struct {
	socket *socket
	client unix.Sockaddr
	// control makes answers leave from the address that the client has sent to.
	control []byte
	used    time.Time
}

func newUDPForwarder(s *socket, target netip.AddrPort, idle time.Duration) (*udpForwarder, error) {
	f := &udpForwarder{socket: s, target: target, idle: idle, clients: map[clientKey]*association{}}
	return f, s.control(wantDestinations)
}

// run forwards packets until the socket is closed.
func (f *udpForwarder) run() {
	packet, control := make([]byte, 1<<16), make([]byte, 128)
	for {
		var n, m int
		var client unix.Sockaddr
		err := f.socket.wait(func(fd int) (err error) {
			n, m, _, client, err = unix.Recvmsg(fd, packet, control, 0)
			return err
		})
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil {
			continue // of a packet that could not be delivered
		}
		if a := f.associate(client, source(control[:m])); a != nil {
			a.socket.control(func(fd int) error { // may be lost, as any packet
				return unix.Sendto(fd, packet[:n], unix.MSG_DONTWAIT, nil)
			})
		}
	}
}

// wantDestinations asks for each packet's destination: see ip(7).
func wantDestinations(fd int) error {
	address, err := unix.Getsockname(fd)
	if _, six := address.(*unix.SockaddrInet6); six {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	}
	return errors.Join(err, unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1))
}

// associate finds or makes a client's association; nil when there are too many.
func (f *udpForwarder) associate(client unix.Sockaddr, control []byte) *association {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := clientKey{to: string(control)}
	switch c := client.(type) {
	case *unix.SockaddrInet4:
		key.from = *c
	case *unix.SockaddrInet6:
		key.from = *c
	}
	a := f.clients[key]
	if a == nil {
		if len(f.clients) >= udpMost {
			return nil
		}
		s, err := dial(f.target, unix.SOCK_DGRAM)
		if err != nil {
			fmt.Fprintf(os.Stderr, "forward to %s: %v\n", f.target, err)
			return nil
		}
		a = &association{socket: s, client: client, control: control}
		f.clients[key] = a
		go f.answers(key, a)
	}
	a.used = time.Now()
	return a
}

// source makes of what came with a packet what goes with the answer: the one's
// destination is the other's source, on whichever interface the route says.
func source(control []byte) []byte {
	out := slices.Clone(control)
	messages, err := unix.ParseSocketControlMessage(out)
	if err == nil && len(messages) == 1 && messages[0].Header.Level == unix.IPPROTO_IP && len(messages[0].Data) >= unix.SizeofInet4Pktinfo {
		clear(messages[0].Data[:4]) // the interface's index
	}
	return out
}

// answers passes on what the target sends to one client, until its association has
// been idle.
func (f *udpForwarder) answers(key clientKey, a *association) {
	defer a.socket.Close()
	for f.alive(key, a) {
		a.socket.wait(func(fd int) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			n, _, err := unix.Recvfrom(fd, f.answer[:], 0)
			if err != nil {
				return err // a target that isn't there may come back
			}
			a.used = time.Now()
			return f.socket.control(func(fd int) error {
				_, err := unix.SendmsgN(fd, f.answer[:n], a.control, a.client, unix.MSG_DONTWAIT)
				if err == unix.EAGAIN {
					err = nil // lost
				}
				return err
			})
		})
	}
}

// alive sets an association's next deadline, or forgets the association.
func (f *udpForwarder) alive(key clientKey, a *association) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	end := a.used.Add(f.idle)
	if !time.Now().Before(end) {
		delete(f.clients, key)
		return false
	}
	a.socket.SetReadDeadline(end)
	return true
}
