package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"skiff/pkg/cluster/supervise"
)

// PortMapping makes a port of a node reachable at one of the machine.
type PortMapping struct {
	Port     uint16     `json:"containerPort"`
	HostPort uint16     `json:"hostPort"`
	HostIP   netip.Addr `json:"listenAddress,omitzero"` // 127.0.0.1 where a file leaves it out
	Protocol string     `json:"protocol,omitempty"`     // TCP, also where a file leaves it out, or UDP
}

var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

func (p PortMapping) host() netip.AddrPort { return netip.AddrPortFrom(p.HostIP, p.HostPort) }

func (p PortMapping) String() string { return p.host().String() + "/" + p.Protocol }

// socketName says where the socket is bound: a node that runs can't be given another.
func (p PortMapping) socketName() string { return strings.ReplaceAll(p.String(), ":", "_") }

// openPorts opens the sockets of a node's port mappings on the machine, in their order.
func openPorts(n Node) (files []*os.File, err error) {
	for _, p := range n.Ports {
		file, err := p.open()
		if err != nil {
			closeAll(files)
			if errno, ok := errors.AsType[syscall.Errno](err); ok {
				err = errno
			}
			return nil, fmt.Errorf("host port %s of node %s: %w", p, n.Name, err)
		}
		files = append(files, file)
	}
	return files, nil
}

func (p PortMapping) open() (*os.File, error) {
	var socket interface {
		File() (*os.File, error) // a descriptor of its own
		Close() error
	}
	switch p.Protocol {
	case "TCP":
		l, err := net.Listen("tcp4", p.host().String())
		if err != nil {
			return nil, err
		}
		socket = l.(*net.TCPListener)
	case "UDP":
		c, err := (&net.ListenConfig{}).ListenPacket(context.Background(), "udp4", p.host().String())
		if err != nil {
			return nil, err
		}
		socket = c.(*net.UDPConn)
	default:
		return nil, fmt.Errorf("protocol %q is neither TCP nor UDP", p.Protocol)
	}
	defer socket.Close()
	return socket.File()
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// withPorts adds what serves a node's port mappings: a process that is handed their
// sockets and forwards to the node's own address.
func withPorts(c *supervise.Config, n Node) {
	if len(n.Ports) == 0 {
		return
	}
	p := supervise.Process{Name: "forward", Args: []string{filepath.Join(supervise.BinDir, "init"), "forward"}}
	for _, port := range n.Ports {
		name := port.socketName()
		c.Sockets = append(c.Sockets, supervise.Socket{Name: name, Inherited: true})
		p.Sockets = append(p.Sockets, name)
		p.Args = append(p.Args, fmt.Sprintf("%s=%s/%s", name, netip.AddrPortFrom(n.IP, port.Port), port.Protocol))
	}
	c.Processes = append(c.Processes, p)
}
