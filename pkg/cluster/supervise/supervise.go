// Package supervise is PID 1 of a local node: it lays out the node's file
// system, starts the node's processes, restarts what dies, reaps what is
// orphaned, and passes listening sockets on, so that they outlive the process
// that serves them.
//
// It is linked into cmd/init, of which one runs per node (and, in its other
// roles, per container), so it imports nothing but the standard library and
// x/sys/unix. Its configuration is a file that pkg/cluster writes.
package supervise

import (
	"encoding/json"
	"fmt"
	"os"
	"time"
)

// Config is everything a node's init is told.
type Config struct {
	Hostname string
	// Dir is the node's directory on the machine; it appears as [NodeDir] inside.
	Dir string
	// Bin is the directory of Skiff's binaries; it appears as [BinDir] inside.
	Bin string
	// Mounts are further bind mounts, made in order.
	Mounts []Mount
	// Sockets are opened before the processes start and handed to those that
	// name them.
	Sockets []Socket
	// Processes are started all at once, and stopped in reverse order.
	Processes []Process
}

// Mount binds a path of the machine into the node.
type Mount struct {
	Source, Target string
	ReadOnly       bool
}

// Socket is a listening socket that survives the process it is handed to, by
// the protocol of sd_listen_fds(3). It may be bound to an address that the node
// does not have yet (IP_FREEBIND).
type Socket struct {
	Name    string // LISTEN_FDNAMES
	Network string // "tcp4" or "udp4"
	Address string // host:port
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
)

// Load reads a configuration.
func Load(file string) (*Config, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var c Config
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return &c, nil
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
