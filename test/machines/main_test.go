// Package machines follows docs/operations.md to the letter: its command blocks are taken
// out of the document and run on three masters and a worker.
//
// The machines are the test's own: each has network, mount, process, UTS, IPC and cgroup
// namespaces, and a root that is the host's with a disk of memory above. No systemd runs in
// them. A stand-in, this program again as PID 1, reads the unit files and does what they say
// (manager_test.go); what only systemd can do is named in units_test.go. ssh, scp and apt-get
// have stand-ins, too. The operator sits in the network namespace of the switch.
//
// The test uses the binaries in bin/, which `make machines` builds first. A run that is
// killed takes its machines with it; what it leaves of names the next one takes away.
package machines

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestMain(m *testing.M) {
	switch os.Getenv(stageVariable) {
	case stageBoot:
		fail(boot())
	case stageInit:
		fail(live())
	case stageExec:
		var s settings
		if err := json.Unmarshal([]byte(os.Args[1]), &s); err != nil {
			fail(err)
		}
		fail(s.become())
	}
	switch filepath.Base(os.Args[0]) {
	case "systemctl":
		os.Exit(systemctl(os.Args[1:]))
	case "apt-get":
		os.Exit(aptGet(os.Args[1:]))
	}
	if os.Geteuid() != 0 {
		fmt.Println("these tests need root")
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}
