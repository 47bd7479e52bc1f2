package inject

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os/exec"
	"runtime"
	"strconv"
	"strings"

	"github.com/vishvananda/netns"

	"skiff/pkg/cluster"
)

// table is the nftables table of a cut, in the node's network namespace.
const table = "inet test-fault"

// Cut is what a node's link no longer carries.
type Cut string

// The cuts. Each is what comes in (prerouting) and what goes out (postrouting) over the node's link to the others.
const (
	Full Cut = "in and out"
	In   Cut = "in"
	Out  Cut = "out"
	Etcd Cut = "etcd" // from etcd alone: its clients' and its peers' ports
)

func (c Cut) rules() string {
	in, out := `iifname "eth0" `, `oifname "eth0" `
	switch c {
	case In:
		out = ""
	case Out:
		in = ""
	}
	ports := []string{""}
	if c == Etcd {
		ports = []string{"tcp dport { 2379, 2380 } ", "tcp sport { 2379, 2380 } "}
	}
	chain := func(name, match string) string {
		var rules strings.Builder
		if match != "" {
			for _, port := range ports {
				rules.WriteString(match + port + "drop\n")
			}
		}
		return fmt.Sprintf("chain %s { type filter hook %s priority -400; policy accept;\n%s}\n", name, name, rules.String())
	}
	return "table " + table + " {\n" + chain("prerouting", in) + chain("postrouting", out) + "}\n"
}

// Apply cuts a node off. Heal takes it back.
func (c Cut) Apply(name, node string) error {
	return nft(name, node, "table "+table+"\ndelete table "+table+"\n"+c.rules())
}

// Heal takes a cut back; healing what isn't cut succeeds.
func Heal(name, node string) error {
	return nft(name, node, "table "+table+"\ndelete table "+table+"\n")
}

func nft(name, node, script string) error {
	_, err := inside(name, node, script, "--net", "nft", "-f", "-")
	return err
}

// inside runs a command in some of a node's namespaces, by nsenter's flags.
func inside(name, node, stdin, namespaces string, command ...string) (string, error) {
	pid := cluster.InitPid(name, node)
	if pid == 0 {
		return "", fmt.Errorf("node %s doesn't run", node)
	}
	enter := append([]string{"--target", strconv.Itoa(pid)}, strings.Fields(namespaces)...)
	c := exec.Command("nsenter", append(append(enter, "--"), command...)...)
	c.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	if err := c.Run(); err != nil {
		return "", fmt.Errorf("%s on %s: %w: %s", command[0], node, err, out.String())
	}
	return out.String(), nil
}

// Holder is the master that has the virtual address at the moment, "" if none has.
func Holder(spec *cluster.Spec) string {
	for _, m := range spec.Masters() {
		out, err := inside(spec.Name, m.Name, "", "--net", "ip", "-oneline", "-4", "address", "show", "dev", "eth0")
		if err == nil && strings.Contains(out, " "+spec.VIP.String()+"/") {
			return m.Name
		}
	}
	return ""
}

// DialFrom makes connections that begin on a node, whatever is between it and
// this machine: a client that sits there.
func DialFrom(name, node string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		pid := cluster.InitPid(name, node)
		if pid == 0 {
			return nil, fmt.Errorf("node %s doesn't run", node)
		}
		// A socket belongs to the namespace of the thread that makes it, for good. The
		// thread is not unlocked if it can't be brought back: then it ends with the goroutine.
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			return nil, err
		}
		defer home.Close()
		there, err := netns.GetFromPid(pid)
		if err != nil {
			return nil, err
		}
		defer there.Close()
		if err := netns.Set(there); err != nil {
			return nil, err
		}
		c, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if back := netns.Set(home); back == nil {
			runtime.UnlockOSThread()
		}
		return c, err
	}
}
