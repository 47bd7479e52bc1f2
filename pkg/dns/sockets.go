package dns

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// firstInherited is SD_LISTEN_FDS_START of sd_listen_fds(3).
const firstInherited = 3

// Inherited returns the sockets of these names that the process's supervisor has
// opened, by the protocol of sd_listen_fds(3): LISTEN_PID (if set) is this
// process, LISTEN_FDS counts descriptors from 3 on, LISTEN_FDNAMES names them,
// separated by colons. It may be called once for each name; there may be none.
func Inherited(names ...string) ([]net.PacketConn, []net.Listener, error) {
	if pid := os.Getenv("LISTEN_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return nil, nil, nil
	}
	count, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil || count < 1 {
		return nil, nil, nil
	}
	return inherited(names, strings.Split(os.Getenv("LISTEN_FDNAMES"), ":"), firstInherited, count)
}

func inherited(wanted, names []string, first, count int) (packets []net.PacketConn, listeners []net.Listener, err error) {
	for i := range count {
		if i >= len(names) || !slices.Contains(wanted, names[i]) {
			continue
		}
		fd := first + i
		kind, failed := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
		if failed != nil {
			err = errors.Join(err, fmt.Errorf("dns: inherited descriptor %d: %w", fd, failed))
			continue
		}
		unix.CloseOnExec(fd)
		// The net package makes a descriptor of its own; the inherited one is
		// closed, the socket lives on in the supervisor.
		file := os.NewFile(uintptr(fd), names[i])
		if kind == unix.SOCK_DGRAM {
			packet, failed := net.FilePacketConn(file)
			if failed == nil {
				packets = append(packets, packet)
			}
			err = errors.Join(err, failed)
		} else {
			listener, failed := net.FileListener(file)
			if failed == nil {
				listeners = append(listeners, listener)
			}
			err = errors.Join(err, failed)
		}
		file.Close()
	}
	if err != nil {
		closeAll(packets, listeners)
		return nil, nil, err
	}
	return packets, listeners, nil
}
