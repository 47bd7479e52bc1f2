package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The forwarder of a node's host ports. Its listening sockets belong to the
// machine's network namespace and are handed to it by the protocol of
// sd_listen_fds(3); what it dials lies in its own, the node's. So nothing has to be
// routed or rewritten, and the machine's loopback works. It does without package
// net, which each container's logger would pay for.

// rule says where to forward what arrives at a socket: NAME=address:port/PROTOCOL.
type rule struct {
	name   string
	target netip.AddrPort
	kind   int
}

func parseRule(text string) (rule, error) {
	name, rest, _ := strings.Cut(text, "=")
	address, protocol, _ := strings.Cut(rest, "/")
	target, err := netip.ParseAddrPort(address)
	kind := map[string]int{"TCP": unix.SOCK_STREAM, "UDP": unix.SOCK_DGRAM}[protocol]
	if name == "" || err != nil || target.Port() == 0 || kind == 0 {
		return rule{}, fmt.Errorf("rule %q: want NAME=address:port/TCP or …/UDP", text)
	}
	return rule{name, target, kind}, nil
}

// runForward serves all rules. It ends only when it can't begin.
func runForward(args []string) error {
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		names = nil
	}
	for _, text := range args {
		r, err := parseRule(text)
		if err != nil {
			return err
		}
		i := slices.Index(names, r.name)
		if i < 0 {
			return fmt.Errorf("there is no socket %q among those handed over: %q", r.name, names)
		}
		fd := 3 + i
		if kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || kind != r.kind {
			return fmt.Errorf("socket %s is not one for rule %q (%v)", r.name, text, err)
		}
		socket, err := newSocket(fd)
		if err != nil {
			return fmt.Errorf("socket %s: %w", r.name, err)
		}
		if r.kind == unix.SOCK_STREAM {
			go forwardTCP(socket, r.target)
		} else {
			f, err := newUDPForwarder(socket, r.target, udpIdle)
			if err != nil {
				return fmt.Errorf("socket %s: %w", r.name, err)
			}
			go f.run()
		}
	}
	select {}
}

// socket is one that waits in the runtime's poller.
type socket struct {
	*os.File
	raw syscall.RawConn
}

func newSocket(fd int) (*socket, error) {
	unix.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "socket")
	raw, err := file.SyscallConn()
	return &socket{file, raw}, err
}

// wait calls f whenever the socket may be ready to be read, until f says that it was.
func (s *socket) wait(f func(fd int) error) (err error) {
	if failed := s.raw.Read(func(fd uintptr) bool {
		err = f(int(fd))
		return err != unix.EAGAIN && err != unix.EINTR
	}); failed != nil && !errors.Is(failed, os.ErrDeadlineExceeded) {
		return os.ErrClosed // which the runtime's poller has in words of its own
	} else if failed != nil {
		return failed
	}
	return err
}

func (s *socket) control(f func(fd int) error) (err error) {
	if failed := s.raw.Control(func(fd uintptr) { err = f(int(fd)) }); failed != nil {
		return failed
	}
	return err
}

const dialPatience = 10 * time.Second

func dial(target netip.AddrPort, kind int) (*socket, error) {
	family, address := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(target.Port()), Addr: target.Addr().As16()})
	if target.Addr().Is4() {
		family, address = unix.AF_INET, &unix.SockaddrInet4{Port: int(target.Port()), Addr: target.Addr().As4()}
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	s, err := newSocket(fd)
	if err != nil {
		return nil, err
	}
	if err = unix.Connect(fd, address); err == unix.EINPROGRESS {
		s.SetWriteDeadline(time.Now().Add(dialPatience))
		if err = s.raw.Write(connected); err == nil {
			err = s.control(pendingError)
		}
		s.SetWriteDeadline(time.Time{})
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func connected(fd uintptr) bool {
	n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 0)
	return n > 0
}

func pendingError(fd int) error {
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = unix.Errno(code)
	}
	return err
}

// forwardTCP serves connections until the listener is closed.
func forwardTCP(listener *socket, target netip.AddrPort) {
	for {
		var client *socket
		err := listener.wait(func(fd int) error {
			accepted, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
			if err == nil {
				client, err = newSocket(accepted)
			}
			return err
		})
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil { // the client has gone already, or no descriptors are left
			fmt.Fprintf(os.Stderr, "forward to %s: %v\n", target, err)
			time.Sleep(100 * time.Millisecond)
			continue
		}
		go relay(client, target)
	}
}

// relay joins a connection to one with the target. Each side's end of stream
// reaches the other, which may go on sending; a reset ends both, as a reset.
func relay(client *socket, target netip.AddrPort) {
	defer client.Close()
	server, err := dial(target, unix.SOCK_STREAM)
	if err != nil {
		client.control(reset) // the client learns it the way it would from the target
		return
	}
	defer server.Close()
	client.control(tune)
	server.control(tune)
	var both sync.WaitGroup
	for _, way := range [][2]*socket{{server, client}, {client, server}} {
		both.Go(func() {
			if _, err := io.Copy(way[0], way[1]); err == nil {
				way[0].control(func(fd int) error { return unix.Shutdown(fd, unix.SHUT_WR) })
				return
			}
			for _, s := range way {
				s.control(reset)
				s.Close()
			}
		})
	}
	both.Wait()
}

// reset makes closing a connection a reset.
func reset(fd int) error {
	return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}

// tune has small packets sent at once, and a vanished peer noticed in minutes.
func tune(fd int) error {
	return errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 15),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15))
}
