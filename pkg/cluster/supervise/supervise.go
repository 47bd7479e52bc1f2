// Package supervise is PID 1 of a local node: it lays out the node's file
// system, starts the node's processes, restarts what dies, reaps what is
// orphaned, and passes listening sockets on, so that they outlive the process
// that serves them.
//
// Its configuration is a file that pkg/cluster writes. On SIGHUP it is read
// again, and the node goes from what it is to what it should be in steps that
// touch only what differs ([changes]). A newer init beside the other binaries
// takes over first, in place: the pid, the children and the sockets stay
// (replace.go).
//
// It is linked into cmd/init, of which one runs per node (and, in its other
// roles, per container), so it imports nothing but the standard library and
// x/sys/unix.
package supervise

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// Config is everything a node's init is told. Hostname and Dir are fixed while the
// node runs; all else may change.
type Config struct {
	// Generation is what [AppliedFile] says when the node is as this configuration has it.
	Generation string
	Hostname   string
	// Dir is the node's directory on the machine; it appears as [NodeDir] inside.
	Dir string
	// Bin is the directory of Skiff's binaries; it appears as [BinDir] inside.
	Bin string
	// Mounts are further bind mounts, made in order.
	Mounts []Mount
	// Sockets are opened before the processes start and handed to those that
	// name them.
	Sockets []Socket
	// Processes are started all at once, and stopped in reverse order. Those that a
	// new configuration changes are restarted one after the other.
	Processes []Process
}

// Mount binds a path of the machine into the node.
type Mount struct {
	Source, Target string
	ReadOnly       bool
}

// Socket is a listening socket that survives the process it is handed to, by
// the protocol of sd_listen_fds(3).
type Socket struct {
	Name string // LISTEN_FDNAMES
	// Inherited is one that whoever makes the node has opened, outside of it. The
	// others are opened here, by Network and Address, and may be bound to an address
	// that the node does not have yet (IP_FREEBIND).
	Inherited bool
	Network   string // "tcp4" or "udp4"
	Address   string // host:port
}

// Process is one supervised program.
type Process struct {
	Name string
	// Args is the command line; Args[0] is the program.
	Args []string
	Env  []string
	// Sockets are names of Config.Sockets.
	Sockets []string
	// StopAfter is how long a clean stop may take; 0 is five seconds.
	StopAfter time.Duration
	// Generation has no effect but this: when it changes, the process is restarted.
	Generation string
}

func (p *Process) patience() time.Duration {
	if p.StopAfter == 0 {
		return 5 * time.Second
	}
	return p.StopAfter
}

// Where a node finds its own directory, and Skiff's binaries. Both lie on the
// node's fresh /run.
const (
	NodeDir = "/run/skiff"
	BinDir  = "/run/skiff-bin"
)

// Below NodeDir.
const (
	ConfigFile = "init.json"
	LogDir     = "log" // <process>.log
	PidDir     = "pid" // <process>.pid, with the pid that the machine sees

	// AppliedFile holds the Generation of the configuration that was reached last;
	// RefusedFile, when it is there, why the one read last was not taken. A reload
	// ends with writing one of them.
	AppliedFile = PidDir + "/init.applied"
	RefusedFile = PidDir + "/init.refused"
)

// Load reads a configuration, and refuses one that contradicts itself.
func Load(file string) (*Config, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var c Config
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return &c, nil
}

func (c *Config) check() error {
	sockets, processes := map[string]bool{}, map[string]bool{}
	for _, s := range c.Sockets {
		if s.Name == "" || strings.Contains(s.Name, ":") || sockets[s.Name] {
			return fmt.Errorf("socket %q: want a name of its own, without a colon", s.Name)
		}
		if s.Inherited && (s.Network != "" || s.Address != "") {
			return fmt.Errorf("socket %s: an inherited one has the address that its maker gave it", s.Name)
		}
		sockets[s.Name] = true
	}
	for _, p := range c.Processes {
		if p.Name == "" || strings.Contains(p.Name, "/") || processes[p.Name] {
			return fmt.Errorf("process %q: want a name of its own, without a slash", p.Name)
		}
		if len(p.Args) == 0 {
			return fmt.Errorf("process %s has no command line", p.Name)
		}
		for _, name := range p.Sockets {
			if !sockets[name] {
				return fmt.Errorf("process %s: there is no socket %q", p.Name, name)
			}
		}
		processes[p.Name] = true
	}
	return nil
}

func (c *Config) socket(name string) Socket {
	i := slices.IndexFunc(c.Sockets, func(s Socket) bool { return s.Name == name })
	if i < 0 {
		return Socket{}
	}
	return c.Sockets[i]
}

// The delay before a process that died is started again: short at first, so
// that a crash costs little, longer when it keeps dying, short again after it
// has lived for a while.
const (
	firstDelay  = 50 * time.Millisecond
	maxDelay    = 10 * time.Second
	livedEnough = 10 * time.Second
)

func nextDelay(previous, lived time.Duration) time.Duration {
	if lived >= livedEnough || previous == 0 {
		return firstDelay
	}
	return min(2*previous, maxDelay)
}
