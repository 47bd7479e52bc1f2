package runtime

import (
	"context"
	"fmt"
	"net"
	"strconv"

	"golang.org/x/sys/unix"
)

// Dial connects to a port of the loopback interface of a network namespace
// (empty: the host's), by IPv4 or else IPv6.
func (r *Runtime) Dial(ctx context.Context, netns string, port int32) (net.Conn, error) {
	var conn net.Conn
	dial := func() error {
		var err error
		for _, host := range []string{"127.0.0.1", "::1"} {
			var d net.Dialer
			var failed error
			if conn, failed = d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(port)))); failed == nil {
				return nil
			}
			if err == nil {
				err = failed
			}
		}
		return err
	}
	var err error
	if netns == "" {
		err = dial()
	} else {
		// A socket belongs to the namespace in which it was made, not to those who use it.
		err = Within(netns, unix.CLONE_NEWNET, dial)
	}
	if err != nil {
		return nil, fmt.Errorf("failed to connect to localhost:%d inside namespace: %w", port, err)
	}
	return conn, nil
}
