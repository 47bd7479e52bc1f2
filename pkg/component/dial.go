package component

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// headStart is how long an apiserver may take to connect before the next one is tried beside it.
	headStart = 300 * time.Millisecond
	// firstAnswer is how long a server may take from connecting to its first byte: one whose process
	// stands still is connected to all the same, by its kernel.
	firstAnswer = 1500 * time.Millisecond
	// shunned is how long a server that failed is tried after the others.
	shunned = 5 * time.Second
	// deadAfter is how long a connection lives whose other side doesn't acknowledge.
	deadAfter = 3 * time.Second
)

// Servers are addresses (host:port) of apiservers that were learnt while there was one to
// ask. They are kept in a file, for the next start. They may be used concurrently.
type Servers struct {
	file string

	mu        sync.Mutex
	addresses []string
}

// LoadServers reads the file; one that doesn't exist holds none.
func LoadServers(file string) (*Servers, error) {
	text, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("apiservers learnt before: %w", err)
	}
	return &Servers{file: file, addresses: strings.Fields(string(text))}, nil
}

// Learn replaces the addresses, and the file if they are others. None are not believed: who tells is a server.
func (s *Servers) Learn(addresses []string) error {
	addresses = slices.Sorted(slices.Values(addresses))
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(addresses) == 0 || slices.Equal(addresses, s.addresses) {
		return nil
	}
	s.addresses = addresses
	if err := os.MkdirAll(filepath.Dir(s.file), 0o755); err != nil {
		return fmt.Errorf("keep the apiservers' addresses: %w", err)
	}
	next := s.file + ".new"
	if err := os.WriteFile(next, []byte(strings.Join(addresses, "\n")+"\n"), 0o644); err != nil {
		return fmt.Errorf("keep the apiservers' addresses: %w", err)
	}
	return os.Rename(next, s.file)
}

func (s *Servers) known() []string {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addresses
}

// dialer connects to the apiserver of a kubeconfig or, when that doesn't answer, to another one.
type dialer struct {
	server   string // host:port of the kubeconfig; what is dialled beside it (a proxy) has no stand-in
	fallback []string
	servers  *Servers
	plain    net.Dialer

	mu     sync.Mutex
	failed map[string]time.Time
}

func newDialer(server string, fallback []string, servers *Servers) *dialer {
	return &dialer{server: server, fallback: fallback, servers: servers, failed: map[string]time.Time{}, plain: net.Dialer{
		Timeout: 5 * time.Second,
		// An idle connection is dead after idle + interval, when deadAfter has passed: the count only matters
		// where the kernel knows no TCP_USER_TIMEOUT.
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 2 * time.Second, Interval: time.Second, Count: 3},
		Control: func(_, _ string, conn syscall.RawConn) error {
			var failed error
			err := conn.Control(func(fd uintptr) {
				failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(deadAfter.Milliseconds()))
			})
			return errors.Join(err, failed)
		},
	}}
}

// candidates are the servers in the order in which they are tried: the kubeconfig's, the others by chance,
// and those last that failed a moment ago.
func (d *dialer) candidates() []string {
	others := slices.Concat(d.fallback, d.servers.known())
	rand.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	d.mu.Lock()
	defer d.mu.Unlock()
	maps.DeleteFunc(d.failed, func(_ string, at time.Time) bool { return time.Since(at) > shunned })
	var good, bad []string
	for _, address := range append([]string{d.server}, others...) {
		switch _, failed := d.failed[address]; {
		case slices.Contains(good, address) || slices.Contains(bad, address):
		case failed:
			bad = append(bad, address)
		default:
			good = append(good, address)
		}
	}
	return append(good, bad...)
}

// shun has the other servers tried before this one for a while.
func (d *dialer) shun(address string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failed[address] = time.Now()
}

// DialContext connects to the first server that answers, each with a head start before the next.
func (d *dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if address != d.server {
		return d.plain.DialContext(ctx, network, address)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		conn net.Conn
		err  error
	}
	results := make(chan result)
	try := func(address string) {
		conn, err := d.connect(ctx, network, address)
		select {
		case results <- result{conn, err}:
		case <-ctx.Done(): // another one was faster
			if conn != nil {
				conn.Close()
			}
		}
	}
	var errs []error
	candidates, trying := d.candidates(), 0
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case <-next.C:
			if len(candidates) > 0 {
				go try(candidates[0])
				candidates, trying = candidates[1:], trying+1
				next.Reset(headStart)
			}
		case r := <-results:
			if r.err == nil {
				return r.conn, nil
			}
			errs = append(errs, r.err)
			if trying--; trying == 0 && len(candidates) == 0 {
				return nil, errors.Join(errs...)
			}
			next.Reset(0)
		case <-ctx.Done():
			return nil, errors.Join(append(errs, ctx.Err())...)
		}
	}
}

func (d *dialer) connect(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := d.plain.DialContext(ctx, network, address)
	if err != nil {
		if ctx.Err() == nil {
			d.shun(address)
		}
		return nil, err
	}
	if err := conn.SetReadDeadline(time.Now().Add(firstAnswer)); err != nil {
		conn.Close()
		return nil, err
	}
	return &newConn{Conn: conn, failed: func() { d.shun(address) }}, nil
}

// newConn is a connection that has to answer soon. TLS begins at once, and with it reading.
type newConn struct {
	net.Conn
	failed   func()
	answered bool // belongs to the reader, of which there is one
}

func (c *newConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if !c.answered && n > 0 {
		c.answered = true
		return n, errors.Join(err, c.SetReadDeadline(time.Time{}))
	}
	if !c.answered && !errors.Is(err, net.ErrClosed) {
		c.failed()
	}
	return n, err
}
