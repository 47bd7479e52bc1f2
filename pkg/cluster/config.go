package cluster

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"
)

// NodeOptions are what may be said about one node.
type NodeOptions struct {
	Labels map[string]string `json:"labels,omitempty"`
	// Taints are written key=value:effect, as for kubectl.
	Taints []string `json:"taints,omitempty"`
	// Resources limit what the node has: cpu, memory, pods. Without, it has what the machine has.
	Resources map[string]resource.Quantity `json:"resources,omitempty"`
	// Ports are ports of the machine that lead to ports of the node.
	Ports []PortMapping `json:"extraPortMappings,omitempty"`
	// Mounts are directories and files of the machine that the node has as well.
	Mounts []Mount `json:"extraMounts,omitempty"`
}

// Mount shows a path of the machine in a node.
type Mount struct {
	HostPath string `json:"hostPath"`
	Path     string `json:"containerPath"`
	ReadOnly bool   `json:"readOnly,omitempty"`
}

// ExtraArgs are flags by process (apiserver, etcd, scheduler, controller, agent): names without dashes, as kubeadm's
// extraArgs. They come after Skiff's own and so override them; a process that doesn't know one doesn't start, and says so.
type ExtraArgs map[string]map[string]string

var (
	configurable = []string{"apiserver", "etcd", "scheduler", "controller", "agent"}
	flagForm     = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)
)

func (e ExtraArgs) check() error {
	for process, flags := range e {
		if !slices.Contains(configurable, process) {
			return fmt.Errorf("extraArgs: %q is none of %s", process, strings.Join(configurable, ", "))
		}
		for name, value := range flags {
			if !flagForm.MatchString(name) {
				return fmt.Errorf("extraArgs.%s: %q is no name of a flag, which is written without dashes in front", process, name)
			}
			if strings.ContainsAny(value, "\"'\\$` \t\n") { // a real machine's are in a file of systemd's
				return fmt.Errorf("extraArgs.%s.%s: %q: blanks, quotes, $ and backslashes are not allowed", process, name, value)
			}
		}
	}
	return nil
}

// of are the flags of a process, in an order of their own.
func (e ExtraArgs) of(process string) []string {
	var args []string
	for _, name := range slices.Sorted(maps.Keys(e[process])) {
		args = append(args, "--"+name+"="+e[process][name])
	}
	return args
}

// file is a cluster's description on disk. The fields that kind's
// configuration has, too, are named as there.
type file struct {
	APIVersion   string `json:"apiVersion"`
	Kind         string `json:"kind"`
	Name         string `json:"name,omitempty"`
	Isolated     bool   `json:"isolated,omitempty"`
	LoadBalancer string `json:"loadBalancer,omitempty"`
	Registry     struct {
		HostPort uint16 `json:"hostPort"`
	} `json:"registry,omitempty"`
	ExtraArgs  ExtraArgs `json:"extraArgs,omitempty"`
	Networking struct {
		PodSubnet     netip.Prefix `json:"podSubnet,omitzero"`
		ServiceSubnet netip.Prefix `json:"serviceSubnet,omitzero"`
	} `json:"networking,omitempty"`
	Nodes []struct {
		Role  Role `json:"role"`
		Count *int `json:"count,omitempty"`
		NodeOptions
	} `json:"nodes,omitempty"`
}

// The version of the configuration file that this package reads.
const (
	ConfigAPIVersion = "skiff/v1"
	ConfigKind       = "Cluster"
)

// ReadConfig reads a configuration file into options. Unknown fields are errors.
func ReadConfig(path string) (Options, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Options{}, err
	}
	o, err := parseConfig(data)
	if err != nil {
		return o, fmt.Errorf("%s: %w", path, err)
	}
	return o, nil
}

func parseConfig(data []byte) (Options, error) {
	var f file
	if err := yaml.UnmarshalStrict(data, &f); err != nil {
		return Options{}, err
	}
	if f.APIVersion != ConfigAPIVersion || f.Kind != ConfigKind {
		return Options{}, fmt.Errorf("apiVersion %q and kind %q: want %s and %s", f.APIVersion, f.Kind, ConfigAPIVersion, ConfigKind)
	}
	o := Options{Name: f.Name, Isolated: f.Isolated, LoadBalancer: f.LoadBalancer, Registry: f.Registry.HostPort, ExtraArgs: f.ExtraArgs,
		PodRange: f.Networking.PodSubnet, ServiceRange: f.Networking.ServiceSubnet}
	masters := 0
	for i, n := range f.Nodes {
		group := NodeGroup{Role: n.Role, Count: 1, NodeOptions: n.NodeOptions}
		if n.Count != nil {
			group.Count = *n.Count
		}
		switch n.Role {
		case Master:
			masters += group.Count
		case Worker:
		default:
			return o, fmt.Errorf("nodes[%d].role %q is neither %s nor %s", i, n.Role, Master, Worker)
		}
		if err := group.NodeOptions.complete(); err != nil {
			return o, fmt.Errorf("nodes[%d]%w", i, err)
		}
		o.Nodes = append(o.Nodes, group)
	}
	if masters == 0 {
		o.Masters = 1
	}
	return o, nil
}

// complete checks the options and fills in defaults. Errors begin with the field.
func (o *NodeOptions) complete() error {
	for key, value := range o.Labels {
		if problems := append(validation.IsQualifiedName(key), validation.IsValidLabelValue(value)...); len(problems) > 0 {
			return fmt.Errorf(".labels[%s]: %s", key, strings.Join(problems, "; "))
		}
	}
	for i, taint := range o.Taints {
		if !strings.Contains(taint, ":") {
			return fmt.Errorf(".taints[%d]: %q is not key=value:effect", i, taint)
		}
	}
	for name, quantity := range o.Resources {
		if name != "cpu" && name != "memory" && name != "pods" || quantity.Sign() <= 0 {
			return fmt.Errorf(".resources[%s]: %s: only cpu, memory and pods can be limited, to more than nothing", name, quantity.String())
		}
	}
	for i := range o.Ports {
		p := &o.Ports[i]
		if !p.HostIP.IsValid() {
			p.HostIP = loopback
		}
		if p.Protocol == "" {
			p.Protocol = "TCP"
		}
		if p.Port == 0 || p.HostPort == 0 || !p.HostIP.Is4() || p.Protocol != "TCP" && p.Protocol != "UDP" {
			return fmt.Errorf(".extraPortMappings[%d]: want containerPort and hostPort, an IPv4 listenAddress, and TCP or UDP", i)
		}
	}
	for i, m := range o.Mounts {
		if !filepath.IsAbs(m.HostPath) || !filepath.IsAbs(m.Path) || filepath.Clean(m.Path) == "/" {
			return fmt.Errorf(".extraMounts[%d]: want absolute paths, and containerPath not to be /", i)
		}
		if _, err := os.Stat(m.HostPath); err != nil {
			return fmt.Errorf(".extraMounts[%d].hostPath: %w", i, err)
		}
	}
	return nil
}

// checkPorts finds ports of the machine that two mappings want.
func (s *Spec) checkPorts() error {
	users := map[string]string{}
	for _, n := range s.Nodes {
		for _, p := range n.Ports {
			key := p.String()
			if other, taken := users[key]; taken {
				return fmt.Errorf("extraPortMappings: %s and %s both want %s of this machine", other, n.Name, key)
			}
			users[key] = n.Name
		}
	}
	return nil
}
