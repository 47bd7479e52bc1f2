// Command init is Skiff's one small helper, kept to about two megabytes
// resident because many of it run. Its first argument says which part it plays:
//
//	supervise CONFIG   PID 1 of a local node: starts and restarts its processes
//	exec PROGRAM…      becomes a program that inherits listening sockets
//	pause              PID 1 of a pod whose containers share a process namespace
//	logger             writes one container's output to its log file
//
// It links nothing but the standard library and x/sys/unix.
package main

import (
	"fmt"
	"os"
	"runtime/debug"

	"skiff/pkg/cluster/supervise"
)

func main() {
	debug.SetGCPercent(20) // little garbage is made, and memory is what counts
	role := ""
	if len(os.Args) > 1 {
		role = os.Args[1]
	}
	var err error
	switch {
	case role == "supervise" && len(os.Args) == 3:
		err = supervise.Run(os.Args[2], os.NewFile(3, "maker"))
	case role == "exec" && len(os.Args) > 2:
		err = supervise.Exec(os.Args[2:])
	case role == "pause":
		runPause()
	case role == "logger":
		runLogger()
	default:
		err = fmt.Errorf("usage: init supervise CONFIG | exec PROGRAM… | pause | logger")
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "init %s: %v\n", role, err)
		os.Exit(1)
	}
}
