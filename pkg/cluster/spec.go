package cluster

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
)

// Role is what a node is there for.
type Role string

// The roles. A master runs the control plane; it takes pods as well when there is no worker.
const (
	Master Role = "master"
	Worker Role = "worker"
)

// Spec is what a cluster is made of. It is fixed when the cluster is created,
// and kept in its directory.
type Spec struct {
	Name     string `json:"name"`
	Isolated bool   `json:"isolated"`
	Nodes    []Node `json:"nodes"`
	// NodeRange is the link that joins the nodes and the machine, which has its first address.
	NodeRange    netip.Prefix `json:"nodeRange"`
	PodRange     netip.Prefix `json:"podRange"`
	ServiceRange netip.Prefix `json:"serviceRange"`
	// Bin is the directory of the binaries that the nodes run.
	Bin string `json:"bin"`
}

// Node is one member of a cluster.
type Node struct {
	Name string     `json:"name"`
	Role Role       `json:"role"`
	IP   netip.Addr `json:"ip"`
	// Ports are ports of the machine that lead to ones of the node.
	Ports []PortMapping `json:"ports,omitempty"`
}

// Ports, as Kubernetes has them.
const (
	apiPort = 6443
)

// ClusterDomain is the DNS domain of services and pods.
const ClusterDomain = "cluster.local"

// DefaultName is the cluster that a command without a name means.
const DefaultName = "skiff"

var nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

// Options are what a user says about a new cluster.
type Options struct {
	Name     string
	Masters  int
	Workers  int
	Isolated bool
	Bin      string
}

// NewSpec lays out a cluster. taken are the ranges that it must stay clear of:
// the machine's own and those of other clusters.
func NewSpec(o Options, taken []netip.Prefix) (*Spec, error) {
	if !nameForm.MatchString(o.Name) {
		return nil, fmt.Errorf("cluster name %q: want at most 32 lower case letters, digits and dashes, with a letter or digit at both ends", o.Name)
	}
	if o.Masters < 1 {
		return nil, fmt.Errorf("a cluster has at least one master")
	}
	if o.Masters > 1 {
		return nil, fmt.Errorf("%d masters: clusters of several masters are not supported yet", o.Masters)
	}
	if o.Workers < 0 || o.Masters+o.Workers > 200 {
		return nil, fmt.Errorf("%d masters and %d workers: want at most 200 nodes", o.Masters, o.Workers)
	}
	s := &Spec{Name: o.Name, Isolated: o.Isolated, Bin: o.Bin}
	var err error
	if s.PodRange, err = firstFree(podRanges, taken); err != nil {
		return nil, fmt.Errorf("pod range: %w", err)
	}
	if s.ServiceRange, err = firstFree(serviceRanges, taken); err != nil {
		return nil, fmt.Errorf("service range: %w", err)
	}
	if s.NodeRange, err = firstFree(nodeRanges, append(taken, s.PodRange, s.ServiceRange)); err != nil {
		return nil, fmt.Errorf("node range: %w", err)
	}
	ip := nth(s.NodeRange, 10)
	add := func(role Role, count int) {
		for i := range count {
			s.Nodes = append(s.Nodes, Node{Name: fmt.Sprintf("%s-%s-%d", o.Name, role, i+1), Role: role, IP: ip})
			ip = ip.Next()
		}
	}
	add(Master, o.Masters)
	add(Worker, o.Workers)
	return s, nil
}

// Candidates, in order of preference: first Kubernetes' customary ranges.
var (
	podRanges     = prefixes("10.244.0.0/16", "10.245.0.0/16", "172.30.0.0/16", "192.168.128.0/17")
	serviceRanges = prefixes("10.96.0.0/16", "10.97.0.0/16", "172.29.0.0/16", "192.168.64.0/18")
	nodeRanges    = nodeCandidates()
)

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range list {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func nodeCandidates() []netip.Prefix {
	var out []netip.Prefix
	for i := range 100 {
		out = append(out, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 89, byte(i), 0}), 24))
	}
	return out
}

func firstFree(candidates, taken []netip.Prefix) (netip.Prefix, error) {
	for _, c := range candidates {
		free := true
		for _, t := range taken {
			free = free && !c.Overlaps(t)
		}
		if free {
			return c, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("all candidates overlap ranges in use on this machine")
}

// nth is the address with number n in a range.
func nth(p netip.Prefix, n int) netip.Addr {
	a := p.Masked().Addr()
	for range n {
		a = a.Next()
	}
	return a
}

// Gateway is the machine's address on the nodes' link.
func (s *Spec) Gateway() netip.Addr { return nth(s.NodeRange, 1) }

// DNS is the address of the cluster's DNS.
func (s *Spec) DNS() netip.Addr { return nth(s.ServiceRange, 10) }

// Masters are the nodes with a control plane.
func (s *Spec) Masters() []Node { return s.withRole(Master) }

// Workers are the nodes without one.
func (s *Spec) Workers() []Node { return s.withRole(Worker) }

func (s *Spec) withRole(role Role) []Node {
	var out []Node
	for _, n := range s.Nodes {
		if n.Role == role {
			out = append(out, n)
		}
	}
	return out
}

// Node finds a node by its name, with or without the cluster's name in front.
func (s *Spec) Node(name string) (Node, error) {
	var known []string
	for _, n := range s.Nodes {
		if n.Name == name || n.Name == s.Name+"-"+name {
			return n, nil
		}
		known = append(known, n.Name)
	}
	return Node{}, fmt.Errorf("cluster %s has no node %q; it has %s", s.Name, name, strings.Join(known, ", "))
}

// Server is the address under which clients find the API.
func (s *Spec) Server() string {
	return fmt.Sprintf("https://%s", netip.AddrPortFrom(s.Masters()[0].IP, apiPort))
}
