package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"

	"skiff/pkg/cluster/supervise"
)

// PortMapping makes a port of a node reachable at one of the machine.
type PortMapping struct {
	// HostIP is the machine's address; the zero value is all of its IPv4 addresses.
	HostIP   netip.Addr `json:"hostIP"`
	HostPort uint16     `json:"hostPort"`
	Port     uint16     `json:"port"`
	// Protocol is "TCP" or "UDP".
	Protocol string `json:"protocol"`
}

func (p PortMapping) host() netip.AddrPort {
	if !p.HostIP.IsValid() {
		return netip.AddrPortFrom(netip.IPv4Unspecified(), p.HostPort)
	}
	return netip.AddrPortFrom(p.HostIP, p.HostPort)
}

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
	family := "4"
	if p.host().Addr().Is6() {
		family = "6"
	}
	if p.HostPort == 0 || p.Port == 0 {
		return nil, errors.New("want ports from 1 to 65535")
	}
	var socket interface {
		File() (*os.File, error) // a descriptor of its own
		Close() error
	}
	switch p.Protocol {
	case "TCP":
		l, err := net.Listen("tcp"+family, p.host().String())
		if err != nil {
			return nil, err
		}
		socket = l.(*net.TCPListener)
	case "UDP":
		c, err := (&net.ListenConfig{}).ListenPacket(context.Background(), "udp"+family, p.host().String())
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
func withPorts(c *supervise.Config, n Node) *supervise.Config {
	if len(n.Ports) == 0 {
		return c
	}
	p := supervise.Process{Name: "forward", Args: []string{bin("init"), "forward"}}
	for _, port := range n.Ports {
		name := port.socketName()
		c.Sockets = append(c.Sockets, supervise.Socket{Name: name, Inherited: true})
		p.Sockets = append(p.Sockets, name)
		p.Args = append(p.Args, fmt.Sprintf("%s=%s/%s", name, netip.AddrPortFrom(n.IP, port.Port), port.Protocol))
	}
	c.Processes = append(slices.Clip(c.Processes), p)
	return c
}
