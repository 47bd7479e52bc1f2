package cluster

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"skiff/manifests"
	"skiff/pkg/cluster/supervise"
)

// balancing is what the templates of manifests/ha are told for one master.
func balancing(s *Spec, n Node, etc string) manifests.LoadBalancing {
	return manifests.LoadBalancing{Name: n.Name, Address: n.IP.String(), Interface: nodeLink, Masters: mastersOf(s),
		VIP: netip.PrefixFrom(s.VIP, s.NodeRange.Bits()).String(), Router: 1 + int(s.NodeRange.Addr().As4()[2])%255,
		Port: balancePort, APIPort: apiPort, Etc: etc}
}

func mastersOf(s *Spec) []manifests.Master {
	var list []manifests.Master
	for _, m := range s.Masters() {
		list = append(list, manifests.Master{Name: m.Name, Address: m.IP.String()})
	}
	return list
}

// writeBalancing fills in the templates of manifests/ha below a directory.
func writeBalancing(dir string, b manifests.LoadBalancing) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, mode := range map[string]os.FileMode{"haproxy.cfg": 0o644, "nginx.conf": 0o644, "keepalived.conf": 0o644, "check": 0o755} {
		t, err := manifests.HA(name)
		if err != nil {
			return err
		}
		var text bytes.Buffer
		if err := t.Execute(&text, b); err != nil {
			return fmt.Errorf("template %s: %w", name, err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text.Bytes(), mode); err != nil {
			return err
		}
	}
	return nil
}

// balancer is the process that spreads what arrives at the VIP.
func balancer(s *Spec, etc string) supervise.Process {
	if s.LoadBalancer == Nginx {
		return supervise.Process{Name: Nginx, Args: []string{"/usr/sbin/nginx", "-c", filepath.Join(etc, "ha/nginx.conf"), "-e", "stderr"}}
	}
	return supervise.Process{Name: HAProxy, Args: []string{"/usr/sbin/haproxy", "-db", "-f", filepath.Join(etc, "ha/haproxy.cfg")}}
}

// keepalived is the process that holds the VIP, or waits to.
func keepalived(etc string) supervise.Process {
	return supervise.Process{Name: "keepalived", Args: []string{"/usr/sbin/keepalived", "--dont-fork", "--log-console", "--vrrp",
		"--use-file=" + filepath.Join(etc, "ha/keepalived.conf"), "--pid=/run/skiff-keepalived.pid", "--vrrp_pid=/run/skiff-vrrp.pid"}}
}
