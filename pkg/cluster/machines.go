package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"skiff/manifests"
	"skiff/pkg/pki/bootstrap"
)

// MachinesKind is the kind of a file that describes a cluster on real machines.
const MachinesKind = "Machines"

// machines is a cluster on real machines, as its operator writes it down.
type machines struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Name       string `json:"name"`
	// VIP is the virtual address of several masters, with the prefix length of their link.
	VIP netip.Prefix `json:"vip,omitzero"`
	// Router is the VRRP router id, 1 to 255: one per cluster on a link.
	Router       int       `json:"virtualRouterID,omitempty"`
	LoadBalancer string    `json:"loadBalancer,omitempty"`
	ExtraArgs    ExtraArgs `json:"extraArgs,omitempty"`
	Networking   struct {
		PodSubnet     netip.Prefix `json:"podSubnet,omitzero"`
		ServiceSubnet netip.Prefix `json:"serviceSubnet,omitzero"`
	} `json:"networking,omitempty"`
	Nodes []struct {
		Name      string     `json:"name"`
		Role      Role       `json:"role"`
		Address   netip.Addr `json:"address"`
		Interface string     `json:"interface,omitempty"` // the link that has the address
	} `json:"nodes"`
}

// realSite is where things are on a real machine.
func realSite() site {
	return site{bin: "/usr/local/bin", init: "/usr/local/libexec/skiff/init", etc: "/etc/skiff", etcdData: "/var/lib/skiff/etcd"}
}

// Prepare reads the description of a cluster on real machines and writes, below dir/NODE,
// what each of them is to have in its /etc: certificates, kubeconfigs, the flags
// of its processes, load balancing and systemd units. dir itself gets the authorities' keys and the
// administrator's kubeconfig. What is there already is kept, so that it
// may be called again after a node was added to the description. replace names a master whose disk is
// lost: it is prepared anew, to join the others. The names of prepared nodes are returned.
func Prepare(config, dir, replace string) ([]string, error) {
	data, err := os.ReadFile(config)
	if err != nil {
		return nil, err
	}
	s, described, err := parseMachines(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", config, err)
	}
	if replace != "" {
		if err := s.replaceMachine(replace, dir); err != nil {
			return nil, err
		}
	}
	a, err := loadAuthorities(s, dir)
	if errors.Is(err, os.ErrNotExist) {
		if a, err = writeAuthorities(s, dir); err == nil {
			err = os.WriteFile(filepath.Join(dir, "cluster.yaml"), firstObjects(s), 0o644)
		}
	}
	if err == nil {
		err = a.renewAdmin(dir)
	}
	if err != nil {
		return nil, err
	}
	var prepared []string
	for i, n := range s.Nodes {
		if _, err := os.Stat(filepath.Join(dir, n.Name)); err == nil {
			continue
		}
		b := manifests.LoadBalancing{Interface: described.Nodes[i].Interface, VIP: described.VIP.String(), Router: described.Router}
		if err := prepareMachine(s, n, a, b, dir); err != nil {
			return prepared, fmt.Errorf("%s: %w", n.Name, err)
		}
		prepared = append(prepared, n.Name)
	}
	return prepared, nil
}

// replaceMachine makes a master one that joins, and forgets what it was given before.
func (s *Spec) replaceMachine(name, dir string) error {
	for i := range s.Nodes {
		if n := &s.Nodes[i]; n.Name == name && n.Role == Master && s.VIP.IsValid() {
			n.Etcd = Joiner
			return os.RemoveAll(filepath.Join(dir, name))
		}
	}
	return fmt.Errorf("%s is none of several masters: only such a one can be replaced from the others", name)
}

func prepareMachine(s *Spec, n Node, a authorities, b manifests.LoadBalancing, dir string) error {
	at := realSite()
	root := filepath.Join(dir, n.Name+".new") // renamed when it is complete
	if err := os.RemoveAll(root); err != nil {
		return err
	}
	etc := filepath.Join(root, at.etc)
	if err := writeNodeCertificates(s, n, a, dir, etc); err != nil {
		return err
	}
	if n.Role == Master && s.VIP.IsValid() {
		b.Name, b.Address, b.Masters, b.Port, b.APIPort, b.Etc = n.Name, n.IP.String(), mastersOf(s), balancePort, apiPort, at.etc
		if err := writeBalancing(filepath.Join(etc, "ha"), b); err != nil {
			return err
		}
	}
	var names []string
	for _, p := range processes(s, n, at) {
		names = append(names, p.Name)
		first := 1 // what the unit itself says of the command
		if p.Name == "etcd" {
			first = 2
		}
		if !strings.HasPrefix(p.Args[0], at.bin) {
			continue // Debian's own
		}
		text := "FLAGS=\"" + strings.Join(p.Args[first:], " ") + "\"\n"
		if err := os.WriteFile(filepath.Join(etc, p.Name+".env"), []byte(text), 0o644); err != nil {
			return err
		}
	}
	if err := manifests.WriteUnits(filepath.Join(root, "etc/systemd/system"), names, s.DNS()); err != nil {
		return err
	}
	return os.Rename(root, filepath.Join(dir, n.Name))
}

func parseMachines(data []byte) (*Spec, *machines, error) {
	m := &machines{Router: 51}
	if err := yaml.UnmarshalStrict(data, m); err != nil {
		return nil, nil, err
	}
	if m.APIVersion != ConfigAPIVersion || m.Kind != MachinesKind {
		return nil, nil, fmt.Errorf("apiVersion %q and kind %q: want %s and %s", m.APIVersion, m.Kind, ConfigAPIVersion, MachinesKind)
	}
	if err := m.ExtraArgs.check(); err != nil {
		return nil, nil, err
	}
	s := &Spec{Name: m.Name, LoadBalancer: m.LoadBalancer, ExtraArgs: m.ExtraArgs}
	if !nameForm.MatchString(m.Name) {
		return nil, nil, fmt.Errorf("name %q: want lower case letters, digits and dashes", m.Name)
	}
	if s.LoadBalancer == "" {
		s.LoadBalancer = HAProxy
	}
	if s.LoadBalancer != HAProxy && s.LoadBalancer != Nginx {
		return nil, nil, fmt.Errorf("loadBalancer %q is neither %s nor %s", s.LoadBalancer, HAProxy, Nginx)
	}
	if m.Router < 1 || m.Router > 255 {
		return nil, nil, fmt.Errorf("virtualRouterID %d is not between 1 and 255", m.Router)
	}
	taken := map[netip.Addr]string{m.VIP.Addr(): "vip"}
	names := map[string]bool{}
	for i, n := range m.Nodes {
		field := fmt.Sprintf("nodes[%d]", i)
		switch {
		case n.Role == Worker:
			return nil, nil, fmt.Errorf("%s: workers are not described; they join (ctl token create)", field)
		case n.Role != Master:
			return nil, nil, fmt.Errorf("%s.role %q is not %s", field, n.Role, Master)
		case len(validation.IsDNS1123Subdomain(n.Name)) > 0 || names[n.Name]:
			return nil, nil, fmt.Errorf("%s.name %q: want a name of its own, the machine's host name in lower case", field, n.Name)
		case !n.Address.Is4() || taken[n.Address] != "":
			return nil, nil, fmt.Errorf("%s.address: want an IPv4 address of its own", field)
		}
		taken[n.Address], names[n.Name] = n.Name, true
		if n.Interface == "" {
			m.Nodes[i].Interface = nodeLink
		}
		s.Nodes = append(s.Nodes, Node{Name: n.Name, Role: n.Role, IP: n.Address})
	}
	return s, m, s.completeMachines(m)
}

// completeMachines takes the addresses of the description.
func (s *Spec) completeMachines(m *machines) error {
	masters := s.Masters()
	switch {
	case len(masters) == 0:
		return errors.New("nodes: there is no master")
	case len(masters) > 1 && !m.VIP.IsValid():
		return errors.New("vip: several masters need a virtual address, written with its prefix length: 10.0.0.100/24")
	case len(masters) > 1:
		s.VIP = m.VIP.Addr()
		for _, n := range masters {
			if !m.VIP.Contains(n.IP) {
				return fmt.Errorf("vip: %s of %s is not on the link of %s", n.IP, n.Name, m.VIP)
			}
		}
	case m.VIP.IsValid():
		return errors.New("vip: one master needs none")
	}
	// The machine's own ranges say nothing about other machines'; what is known is the nodes' addresses.
	var taken []netip.Prefix
	for _, n := range s.Nodes {
		taken = append(taken, netip.PrefixFrom(n.IP, 32))
	}
	o := Options{PodRange: m.Networking.PodSubnet, ServiceRange: m.Networking.ServiceSubnet}
	return s.chooseRanges(o, taken)
}

// firstObjects are those to be applied once the API answers: the cluster's DNS service, and what
// machines that join later have to know.
func firstObjects(s *Spec) []byte {
	settings := &v1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Name: bootstrap.NodeConfig, Namespace: metav1.NamespaceSystem},
		Data: bootstrap.Settings{"cluster-dns": s.DNS().String(), "cluster-domain": ClusterDomain,
			"cluster-cidr": s.PodRange.String(), "service-cluster-ip-range": s.ServiceRange.String()},
	}
	service, err := yaml.Marshal(dnsService(s))
	if err != nil {
		panic(err) // of our own types
	}
	config, err := yaml.Marshal(settings)
	if err != nil {
		panic(err)
	}
	// The status is the server's business.
	service, _, _ = bytes.Cut(service, []byte("status:"))
	return slices.Concat(service, []byte("---\n"), config)
}
