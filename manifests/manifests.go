// Package manifests holds the files in this directory that commands write out:
// `ctl cluster` fills in the templates below ha/ for local nodes and for real
// machines alike. The rest of the directory is examples to apply.
package manifests

import (
	"bytes"
	"embed"
	"net/netip"
	"os"
	"path/filepath"
	"text/template"
)

//go:embed ha systemd
var files embed.FS

// HA returns a template of ha/, by its file name. Templates are given a
// [LoadBalancing].
func HA(name string) (*template.Template, error) {
	return template.New(name).Option("missingkey=error").ParseFS(files, "ha/"+name)
}

// WriteUnits writes the systemd units of some processes, by their names ("etcd",
// "agent" …), into a directory, and the sockets of the agent's name server at its address.
// containerd has Debian's own unit.
func WriteUnits(dir string, processes []string, dns netip.Addr) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var names []string
	for _, process := range processes {
		switch process {
		case "containerd":
			continue
		case "agent":
			names = append(names, "skiff-dns-udp.socket", "skiff-dns-tcp.socket")
		}
		names = append(names, "skiff-"+process+".service")
	}
	for _, name := range names {
		text, err := files.ReadFile("systemd/" + name)
		if err != nil {
			return err
		}
		text = bytes.ReplaceAll(text, []byte("=10.96.0.10:53"), []byte("="+netip.AddrPortFrom(dns, 53).String()))
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// LoadBalancing is what the templates of ha/ are filled with: one master's view.
type LoadBalancing struct {
	// Name is this master's.
	Name string
	// Address is this master's own, Interface the link that has it.
	Address, Interface string
	// Masters are all of them, this one included.
	Masters []Master
	// VIP is the virtual address with its prefix length.
	VIP string
	// Router tells the masters of one cluster from those of others on the same link: 1 to 255.
	Router int
	// Port is where the load balancers listen, APIPort where the apiservers do.
	Port, APIPort int
	// Etc is the directory of configuration, with pki/ca.crt below it.
	Etc string
}

// Master is one of the masters as the templates see it.
type Master struct{ Name, Address string }
