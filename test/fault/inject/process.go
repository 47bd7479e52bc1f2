// Package inject breaks local clusters: it kills and freezes processes, cuts
// power, cuts networks, fills disks. All of it works from outside on what runs, and all of it
// can be taken back.
package inject

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"skiff/pkg/cluster"
)

// Process is one process of a node.
type Process struct {
	Cluster, Node, Name string
}

func (p Process) String() string { return p.Name + " on " + p.Node }

// Pid is the process' pid, or 0 when it doesn't run.
func (p Process) Pid() int { return cluster.ProcessPid(p.Cluster, p.Node, p.Name) }

// Signal sends a signal to the process.
func (p Process) Signal(s unix.Signal) error {
	pid := p.Pid()
	if pid == 0 {
		return fmt.Errorf("%v doesn't run", p)
	}
	if err := unix.Kill(pid, s); err != nil {
		return fmt.Errorf("signal to %v: %w", p, err)
	}
	return nil
}

// Kill ends the process with SIGKILL. Its supervisor starts it again.
func (p Process) Kill() error { return p.Signal(unix.SIGKILL) }

// Replaced waits until the process has ended that had a pid, and another runs.
func (p Process) Replaced(ctx context.Context, pid int) error {
	return poll(ctx, func() error {
		if now := p.Pid(); now == 0 || now == pid {
			return fmt.Errorf("%v has pid %d, it had %d", p, now, pid)
		}
		return nil
	})
}

// Freeze stops the process where it is, and returns what lets it go on.
func (p Process) Freeze() (thaw func() error, err error) {
	pid := p.Pid()
	if err := p.Signal(unix.SIGSTOP); err != nil {
		return nil, err
	}
	return func() error {
		if p.Pid() != pid {
			return fmt.Errorf("%v was frozen with pid %d, and is not that any more", p, pid)
		}
		return p.Signal(unix.SIGCONT)
	}, nil
}

// Processes are the names of what a node runs, by its pid files.
func Processes(name, node string) ([]Process, error) {
	entries, err := os.ReadDir(pidDir(name, node))
	if err != nil {
		return nil, err
	}
	var list []Process
	for _, e := range entries {
		if process, ok := strings.CutSuffix(e.Name(), ".pid"); ok && process != "init" {
			list = append(list, Process{name, node, process})
		}
	}
	return list, nil
}

// PowerCut kills a node's PID 1, and with it everything on the node. It returns
// when the node is dead. cluster.Start brings it back.
func PowerCut(name, node string) error {
	pid := cluster.InitPid(name, node)
	if pid == 0 {
		return fmt.Errorf("node %s doesn't run", node)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("node %s: %w", node, err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		return fmt.Errorf("node %s: %w", node, err)
	}
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 20_000)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return fmt.Errorf("node %s: %w", node, err)
		case n == 0:
			return fmt.Errorf("node %s doesn't die", node)
		default:
			return nil
		}
	}
}

// poll asks again and again until check has no objection, or ctx ends.
func poll(ctx context.Context, check func() error) error {
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(10 * time.Millisecond):
		}
	}
}
