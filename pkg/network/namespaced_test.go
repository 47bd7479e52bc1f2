package network

import (
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
)

// inNamespace runs the calling test again, alone, in a process of its own with
// fresh network and mount namespaces, and returns true there: whatever it
// programs, the host never sees it, and the kernel cleans up when it ends.
func inNamespace(t *testing.T) bool {
	t.Helper()
	const key = "SKIFF_TEST_NAMESPACED"
	if os.Getenv(key) == t.Name() {
		return true
	}
	if os.Getuid() != 0 {
		t.Skip("needs root: it makes network namespaces")
	}
	command := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	command.Env = append(os.Environ(), key+"="+t.Name())
	command.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	// Pdeathsig is sent when the starting thread ends, so it has to stay.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	output, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("in a namespace: %v\n%s", err, output)
	}
	t.Logf("%s", output)
	return false
}
