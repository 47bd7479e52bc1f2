package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// How long a member may be silent: silence bounds how long packets go without the kernel's acknowledgement.
// When bytes wait for an answer for longer than suspicion, the member is asked for any sign of life, and has
// patience's time for it. A healthy one may well take long over a call; nothing happens to that.
const (
	silence   = 2 * time.Second
	suspicion = 500 * time.Millisecond
	patience  = 1500 * time.Millisecond
)

// prober makes connections that end when the other side falls silent. The kernel sees that for a
// machine that is gone, but answers for a process that is stopped; gRPC's pings would see it too, but etcd
// hangs up on clients that send them more often than every five seconds.
type prober struct{ tls *tls.Config }

func (p prober) dial(ctx context.Context, address string) (net.Conn, error) {
	if path, ok := strings.CutPrefix(address, "unix://"); ok {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}
	c, err := tcp.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	w := &watchedConn{Conn: c}
	w.suspect = time.AfterFunc(time.Hour, func() {
		if !p.alive(address) {
			c.Close()
		} else if w.waiting.Load() {
			w.suspect.Reset(silence)
		}
	})
	w.suspect.Stop()
	return w, nil
}

var tcp = &net.Dialer{Control: func(_, _ string, raw syscall.RawConn) (err error) {
	controlErr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(silence.Milliseconds()))
	})
	return errors.Join(controlErr, err)
}}

// alive tells whether a process answers at an address. It begins a connection of its own, by HTTP/2's rules, and
// takes any answer.
func (p prober) alive(address string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := tcp.DialContext(ctx, "tcp", address)
	if err != nil {
		return false
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	if err := c.SetDeadline(deadline); err != nil {
		return false
	}
	if p.tls != nil {
		config := p.tls.Clone()
		config.NextProtos = []string{"h2"}
		config.ServerName, _, _ = net.SplitHostPort(address)
		c = tls.Client(c, config)
	}
	const preface, settings = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	if _, err = c.Write([]byte(preface + settings)); err == nil {
		_, err = c.Read(make([]byte, 1))
	}
	return !errors.Is(err, os.ErrDeadlineExceeded)
}

// watchedConn lets its timer run while something was written and nothing came back.
type watchedConn struct {
	net.Conn
	suspect *time.Timer
	waiting atomic.Bool
}

func (c *watchedConn) Write(b []byte) (int, error) {
	if !c.waiting.Swap(true) {
		c.suspect.Reset(suspicion)
	}
	return c.Conn.Write(b)
}

func (c *watchedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.waiting.Swap(false) || err != nil {
		c.suspect.Stop()
	}
	return n, err
}

func (c *watchedConn) Close() error {
	c.suspect.Stop()
	return c.Conn.Close()
}
