// Command init is Skiff's one small helper, kept to about two megabytes
// resident because many of it run. Its first argument says which part it plays:
//
//	supervise CONFIG   PID 1 of a local node: starts and restarts its processes
//	check FD           says whether this init could resume from a state
//	resume FD          takes over from another version of itself, as PID 1 of a node
//	exec PROGRAM…      becomes a program that inherits listening sockets
//	forward RULE…      passes on what arrives at sockets that it is handed
//	pause              PID 1 of a pod whose containers share a process namespace
//	logger             writes one container's output to its log file
//
// It links nothing but the standard library and x/sys/unix.
package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"

	"skiff/pkg/cluster/supervise"
)

// A node's PID 1 stays on the first thread: it is the one that /proc shows for the
// process, so it must not end in an exec, nor visit other namespaces.
func init() { runtime.LockOSThread() }

func main() {
	debug.SetGCPercent(20) // little garbage is made, and memory is what counts
	role := ""
	if len(os.Args) > 1 {
		role = os.Args[1]
	}
	var err error
	switch {
	case role == "supervise" && len(os.Args) == 3:
		err = supervise.Run(os.Args[2])
	case role == "check" && len(os.Args) == 3:
		err = withDescriptor(supervise.Check)
	case role == "resume" && len(os.Args) == 3:
		err = withDescriptor(supervise.Resume)
	case role == "exec" && len(os.Args) > 2:
		err = supervise.Exec(os.Args[2:])
	case role == "forward" && len(os.Args) > 2:
		runtime.UnlockOSThread()
		err = runForward(os.Args[2:])
	case role == "pause":
		runPause()
	case role == "logger":
		runtime.UnlockOSThread()
		runLogger()
	default:
		err = fmt.Errorf("usage: init supervise CONFIG | check FD | resume FD | exec PROGRAM… | forward RULE… | pause | logger")
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "init %s: %v\n", role, err)
		os.Exit(1)
	}
}

func withDescriptor(f func(fd int) error) error {
	fd, err := strconv.Atoi(os.Args[2])
	if err != nil {
		return fmt.Errorf("descriptor %q: %w", os.Args[2], err)
	}
	return f(fd)
}
