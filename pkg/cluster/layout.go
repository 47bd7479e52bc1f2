package cluster

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
)

// Home is the directory below which clusters live: $SKIFF_HOME, or /var/lib/skiff.
func Home() string {
	if home := os.Getenv("SKIFF_HOME"); home != "" {
		return home
	}
	return "/var/lib/skiff"
}

// layout says where a cluster's files lie.
type layout struct {
	name string
	root string
}

func newLayout(name string) layout {
	return layout{name: name, root: filepath.Join(Home(), "clusters", name)}
}

func (l layout) specFile() string        { return filepath.Join(l.root, "cluster.json") }
func (l layout) lockFile() string        { return filepath.Join(Home(), "clusters", "."+l.name+".lock") }
func (l layout) adminConfig() string     { return filepath.Join(l.root, "pki", "admin.conf") }
func (l layout) node(name string) string { return filepath.Join(l.root, "nodes", name) }

func (l layout) nodeFile(node string, parts ...string) string {
	return filepath.Join(append([]string{l.node(node)}, parts...)...)
}

// initPid holds the pid of a node's PID 1, as the machine sees it.
func (l layout) initPid(node string) string { return l.nodeFile(node, "pid", "init.pid") }

// switchNamespace is where the network namespace of the nodes' bridge is pinned.
func (l layout) switchNamespace() string { return filepath.Join("/run/skiff", l.name+".switch") }

// cgroup is the path of the cluster's, or a node's, cgroup below each hierarchy.
func (l layout) cgroup(node string) string { return filepath.Join("/skiff", l.name, node) }

// link is the machine's end of the link to the nodes: interface names have at most 15 characters.
func (l layout) link() string { return "skiff-" + l.hash() }

// table is the machine's nftables table for a cluster that isn't isolated.
func (l layout) table() string { return "skiff-" + l.hash() }

func (l layout) hash() string {
	sum := sha256.Sum256([]byte(l.name))
	return hex.EncodeToString(sum[:4])
}
