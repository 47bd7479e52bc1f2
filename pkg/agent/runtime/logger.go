package runtime

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// spawnLogger starts a logger in a session of its own, reading the pipes of a
// container with stdin and no terminal. It outlives the agent; the pipes' other
// ends are the shim's, and their closing ends it.
func (r *Runtime) spawnLogger(n *NewContainer) error {
	dir := r.containerIO(n.ID)
	var pipes []*os.File
	for _, name := range []string{"stdout", "stderr"} {
		// Without O_NONBLOCK this would wait for the shim, which isn't there yet.
		fd, err := unix.Open(filepath.Join(dir, name), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("logger: open %s: %w", name, err)
		}
		f := os.NewFile(uintptr(fd), name)
		defer f.Close()
		pipes = append(pipes, f)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	cmd := exec.Command(r.config.InitPath, "logger", loggerConfig(dir, n.LogPath))
	cmd.Dir = "/"
	cmd.ExtraFiles = append(pipes, null) // 3, 4, and 5 where readiness goes
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("logger: %w", err)
	}
	go func() { _ = cmd.Wait() }()
	return nil
}
