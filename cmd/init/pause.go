package main

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// runPause is PID 1 of a pod that shares its process namespace: it holds the
// namespace open and reaps what its containers leave behind. It never returns;
// SIGTERM or SIGINT ends it, and with it the namespace.
func runPause() {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGCHLD, unix.SIGTERM, unix.SIGINT)
	for s := range signals {
		if s != unix.SIGCHLD {
			os.Exit(0)
		}
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if err == unix.EINTR {
				continue
			}
			if pid <= 0 || err != nil {
				break
			}
		}
	}
}
