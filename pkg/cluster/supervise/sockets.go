package supervise

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// openSockets returns the sockets of a configuration: those that there are, as far as
// they are what it says, and new ones.
func (s *supervisor) openSockets(c *Config) (map[string]*os.File, error) {
	sockets := map[string]*os.File{}
	for _, socket := range c.Sockets {
		file, err := s.sockets[socket.Name], error(nil)
		if file == nil || s.config.socket(socket.Name) != socket {
			file, err = socket.open()
		}
		if err != nil {
			s.closeUnused(sockets)
			return nil, err
		}
		sockets[socket.Name] = file
	}
	return sockets, nil
}

// closeUnused closes sockets that are not the supervisor's (yet).
func (s *supervisor) closeUnused(sockets map[string]*os.File) {
	for name, file := range sockets {
		if s.sockets[name] != file {
			file.Close()
		}
	}
}

// open makes a socket that is bound and, for TCP, listens.
func (s Socket) open() (*os.File, error) {
	if s.Inherited {
		return nil, fmt.Errorf("socket %s is opened by whoever starts the node: stop the node and start it again", s.Name)
	}
	address, err := netip.ParseAddrPort(s.Address)
	if err != nil || !address.Addr().Is4() {
		return nil, fmt.Errorf("socket %s: %q is not an IPv4 address and port", s.Name, s.Address)
	}
	kind := unix.SOCK_STREAM
	switch s.Network {
	case "tcp4":
	case "udp4":
		kind = unix.SOCK_DGRAM
	default:
		return nil, fmt.Errorf("socket %s: network %q is neither tcp4 nor udp4", s.Name, s.Network)
	}
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", s.Name, err)
	}
	file := os.NewFile(uintptr(fd), s.Name)
	fail := func(what string, err error) (*os.File, error) {
		file.Close()
		return nil, fmt.Errorf("socket %s: %s %s: %w", s.Name, what, s.Address, err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return fail("reuse", err)
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_FREEBIND, 1); err != nil {
		return fail("freebind", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: int(address.Port()), Addr: address.Addr().As4()}); err != nil {
		return fail("bind", err)
	}
	if kind == unix.SOCK_STREAM {
		if err := unix.Listen(fd, unix.SOMAXCONN); err != nil {
			return fail("listen on", err)
		}
	}
	return file, nil
}

// listenEnv is the environment of sd_listen_fds(3) for sockets that start at
// descriptor 3. LISTEN_PID is left to the shim that execs the program, which
// is the only one to know it: see [Exec].
func listenEnv(names []string) []string {
	if len(names) == 0 {
		return nil
	}
	joined := ""
	for i, name := range names {
		if i > 0 {
			joined += ":"
		}
		joined += name
	}
	return []string{"LISTEN_FDS=" + strconv.Itoa(len(names)), "LISTEN_FDNAMES=" + joined}
}

// Exec replaces the process by a program, with LISTEN_PID naming it: the last
// step of handing sockets over. args[0] is the program.
func Exec(args []string) error {
	env := append(os.Environ(), "LISTEN_PID="+strconv.Itoa(os.Getpid()))
	return fmt.Errorf("exec %s: %w", args[0], unix.Exec(args[0], args, env))
}
