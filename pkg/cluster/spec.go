package cluster

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// Role is what a node is there for.
type Role string

// The roles. A master runs the control plane; it takes pods as well when there is no worker.
const (
	Master Role = "master"
	Worker Role = "worker"
)

// Spec is what a cluster is made of. Its shape is fixed when the cluster is
// created; it is kept in the cluster's directory.
type Spec struct {
	Name     string `json:"name"`
	Isolated bool   `json:"isolated"`
	Nodes    []Node `json:"nodes"`
	// NodeRange is the link that joins the nodes and the machine, which has its first address.
	NodeRange    netip.Prefix `json:"nodeRange"`
	PodRange     netip.Prefix `json:"podRange"`
	ServiceRange netip.Prefix `json:"serviceRange"`
	// VIP is the address that one of several masters has; not valid with one master.
	VIP netip.Addr `json:"vip,omitzero"`
	// LoadBalancer spreads what arrives at the VIP: [HAProxy] or [Nginx].
	LoadBalancer string `json:"loadBalancer,omitempty"`
	// Registry is the port of the machine's loopback where the cluster's image registry is found; 0: it has none.
	Registry  uint16    `json:"registry,omitempty"`
	ExtraArgs ExtraArgs `json:"extraArgs,omitempty"`
	// Bin is the directory of the binaries that the nodes run.
	Bin string `json:"bin"`
}

// Node is one member of a cluster.
type Node struct {
	Name string     `json:"name"`
	Role Role       `json:"role"`
	IP   netip.Addr `json:"ip"`
	NodeOptions
	// Bin is the directory of this node's binaries after an upgrade, Build says which ones lay
	// there; empty: the cluster's.
	Bin   string `json:"bin,omitempty"`
	Build string `json:"build,omitempty"`
	// Etcd is how a master's etcd member comes to its cluster.
	Etcd Membership `json:"etcd,omitempty"`
}

// Membership is the relation of a master's etcd member to the others.
type Membership string

// The memberships.
const (
	Founder Membership = ""     // it was there from the beginning
	Joiner  Membership = "join" // it joins those that are there
	Outside Membership = "none" // it has left: no etcd, and no apiserver on top of it
)

// The load balancers.
const (
	HAProxy = "haproxy"
	Nginx   = "nginx"
)

// Ports: Kubernetes' and etcd's own, and that of the load balancers beside the apiservers.
const (
	apiPort     = 6443
	balancePort = 8443
	clientPort  = 2379
	peerPort    = 2380
)

// ClusterDomain is the DNS domain of services and pods.
const ClusterDomain = "cluster.local"

// DefaultName is the cluster that a command without a name means.
const DefaultName = "skiff"

var nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

// Options are what a user says about a new cluster.
type Options struct {
	Name string
	// Masters and Workers are how many there are, beside those that Nodes describes.
	Masters, Workers int
	Nodes            []NodeGroup
	Isolated         bool
	LoadBalancer     string // of several masters; empty is HAProxy
	Registry         uint16 // see [Spec]
	ExtraArgs        ExtraArgs
	// PodRange and ServiceRange may be left out: free ones are chosen.
	PodRange, ServiceRange netip.Prefix
	Bin                    string
}

// NodeGroup is a number of like nodes.
type NodeGroup struct {
	Role  Role
	Count int
	NodeOptions
}

// NewSpec lays out a cluster. taken are the ranges that it must stay clear of:
// the machine's own and those of other clusters.
func NewSpec(o Options, taken []netip.Prefix) (*Spec, error) {
	if !nameForm.MatchString(o.Name) {
		return nil, fmt.Errorf("cluster name %q: want at most 32 lower case letters, digits and dashes, with a letter or digit at both ends", o.Name)
	}
	if err := o.ExtraArgs.check(); err != nil {
		return nil, err
	}
	s := &Spec{Name: o.Name, Isolated: o.Isolated, Registry: o.Registry, ExtraArgs: o.ExtraArgs, Bin: o.Bin}
	if err := s.chooseRanges(o, taken); err != nil {
		return nil, err
	}
	groups := append([]NodeGroup{{Role: Master, Count: o.Masters}, {Role: Worker, Count: o.Workers}}, o.Nodes...)
	if err := s.addNodes(groups); err != nil {
		return nil, err
	}
	if len(s.Masters()) == 1 {
		if o.LoadBalancer != "" {
			return nil, fmt.Errorf("load balancer %s: a cluster with one master has none", o.LoadBalancer)
		}
		return s, nil
	}
	s.VIP = nth(s.NodeRange, 2)
	s.LoadBalancer = cmp.Or(o.LoadBalancer, HAProxy)
	if s.LoadBalancer != HAProxy && s.LoadBalancer != Nginx {
		return nil, fmt.Errorf("load balancer %q is neither %s nor %s", s.LoadBalancer, HAProxy, Nginx)
	}
	return s, nil
}

// masters are how many there will be.
func (o Options) masters() int {
	count := o.Masters
	for _, g := range o.Nodes {
		if g.Role == Master {
			count += g.Count
		}
	}
	return count
}

// shapedLike says whether a cluster made with these options would be like this one, but for
// the ranges that are chosen for it and what has been done to it since.
func (s *Spec) shapedLike(o Options) (bool, error) {
	like, err := NewSpec(o, nil)
	if err != nil {
		return false, err
	}
	shape := func(s Spec) any {
		s.Nodes = slices.Clone(s.Nodes)
		for i := range s.Nodes {
			s.Nodes[i].IP, s.Nodes[i].Bin, s.Nodes[i].Build, s.Nodes[i].Etcd = netip.Addr{}, "", "", ""
		}
		s.NodeRange, s.VIP, s.Bin = netip.Prefix{}, netip.Addr{}, ""
		if !o.PodRange.IsValid() {
			s.PodRange = netip.Prefix{}
		}
		if !o.ServiceRange.IsValid() {
			s.ServiceRange = netip.Prefix{}
		}
		return s
	}
	a, err := json.Marshal(shape(*s))
	if err != nil {
		return false, err
	}
	b, err := json.Marshal(shape(*like))
	return bytes.Equal(a, b), err
}

// chooseRanges takes the ranges that were asked for, and free ones for the rest.
func (s *Spec) chooseRanges(o Options, taken []netip.Prefix) error {
	choose := func(what string, wanted netip.Prefix, candidates []netip.Prefix, most int) (netip.Prefix, error) {
		if wanted.IsValid() {
			if !wanted.Addr().Is4() || wanted.Bits() > most || wanted.Bits() < 8 || wanted != wanted.Masked() {
				return wanted, fmt.Errorf("%s range %s: want an IPv4 range from /8 to /%d, without host bits", what, wanted, most)
			}
			candidates = []netip.Prefix{wanted}
		}
		found, err := firstFree(candidates, taken)
		if err != nil {
			return found, fmt.Errorf("%s range: %w", what, err)
		}
		taken = append(taken, found)
		return found, nil
	}
	var err error
	if s.PodRange, err = choose("pod", o.PodRange, podRanges, 22); err != nil {
		return err
	}
	if s.ServiceRange, err = choose("service", o.ServiceRange, serviceRanges, 24); err != nil {
		return err
	}
	s.NodeRange, err = choose("node", netip.Prefix{}, nodeRanges, 24)
	return err
}

func (s *Spec) addNodes(groups []NodeGroup) error {
	count := map[Role]int{}
	for _, role := range []Role{Master, Worker} { // masters come first
		for _, g := range groups {
			if g.Count < 0 {
				return fmt.Errorf("%d %ss: want a number that isn't negative", g.Count, g.Role)
			}
			if g.Role != role {
				continue
			}
			for range g.Count {
				count[role]++
				if len(s.Nodes) == 200 {
					return fmt.Errorf("a local cluster has at most 200 nodes")
				}
				s.Nodes = append(s.Nodes, Node{Name: fmt.Sprintf("%s-%s-%d", s.Name, role, count[role]), Role: role,
					IP: nth(s.NodeRange, 10+len(s.Nodes)), NodeOptions: g.NodeOptions})
			}
		}
	}
	if count[Master] < 1 || count[Master] > 7 {
		return fmt.Errorf("%d masters: want one to seven; three or five are for high availability", count[Master])
	}
	if s.Registry != 0 {
		n := &s.Nodes[0]
		n.Ports = append(slices.Clone(n.Ports), PortMapping{Port: registryPort, HostPort: s.Registry, HostIP: loopback, Protocol: "TCP"})
	}
	return s.checkPorts()
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
	if len(candidates) == 1 {
		return netip.Prefix{}, fmt.Errorf("%s overlaps a range that is in use", candidates[0])
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

// Server is the address under which clients find the API: the virtual one of several masters.
func (s *Spec) Server() string {
	if s.VIP.IsValid() {
		return fmt.Sprintf("https://%s", netip.AddrPortFrom(s.VIP, balancePort))
	}
	return fmt.Sprintf("https://%s", netip.AddrPortFrom(s.Masters()[0].IP, apiPort))
}

// voters are the masters with an etcd member.
func (s *Spec) voters() []Node {
	return slices.DeleteFunc(s.Masters(), func(n Node) bool { return n.Etcd == Outside })
}

// binOf is the directory of a node's binaries.
func (s *Spec) binOf(n Node) string { return cmp.Or(n.Bin, s.Bin) }
