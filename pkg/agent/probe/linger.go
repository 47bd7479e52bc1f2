package probe

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// noLinger makes close(2) reset the connection instead of leaving it in TIME_WAIT.
func noLinger(_, _ string, c syscall.RawConn) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		failed = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 1})
	})
	if err != nil {
		return err
	}
	return failed
}
