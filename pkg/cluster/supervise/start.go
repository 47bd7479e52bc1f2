package supervise

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func (s *supervisor) start(c *child) error {
	log, err := openLog(filepath.Join(NodeDir, LogDir, c.Name+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	args := c.Args
	if len(c.Sockets) > 0 {
		args = append([]string{filepath.Join(BinDir, "init"), "exec"}, args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(append(os.Environ(), c.Env...), listenEnv(c.Sockets)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	for _, name := range c.Sockets {
		cmd.ExtraFiles = append(cmd.ExtraFiles, s.sockets[name])
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	c.Pid, c.Started = cmd.Process.Pid, time.Now()
	cmd.Process.Release() // reap waits for every child, known or adopted
	pid := s.hostPid(c.Pid)
	return os.WriteFile(s.pidFile(c), []byte(strconv.Itoa(pid)+"\n"), 0o644)
}

func (s *supervisor) pidFile(c *child) string { return filepath.Join(NodeDir, PidDir, c.Name+".pid") }

// maxLog is the size from which on a log gets a successor, when its writer is started.
const maxLog = 64 << 20

func openLog(file string) (*os.File, error) {
	if info, err := os.Stat(file); err == nil && info.Size() > maxLog {
		if err := os.Rename(file, file+".1"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
}

// hostPid is the pid by which the machine knows one of the node's processes. A
// procfs shows pids of the namespace it was mounted in, whoever reads it.
func (s *supervisor) hostPid(pid int) int {
	dir := "/proc/self/fd/" + strconv.Itoa(int(s.hostProc.Fd()))
	self, err := os.Readlink(dir + "/self")
	if err != nil {
		return pid
	}
	tasks, _ := os.ReadDir(dir + "/" + self + "/task")
	for _, task := range tasks {
		children, _ := os.ReadFile(dir + "/" + self + "/task/" + task.Name() + "/children")
		for _, host := range strings.Fields(string(children)) {
			status, _ := os.ReadFile(dir + "/" + host + "/status")
			for line := range bytes.Lines(status) {
				if ids, ok := bytes.CutPrefix(line, []byte("NSpid:")); ok {
					fields := bytes.Fields(ids)
					if len(fields) > 0 && string(fields[len(fields)-1]) == strconv.Itoa(pid) {
						if n, err := strconv.Atoi(host); err == nil {
							return n
						}
					}
				}
			}
		}
	}
	return pid
}
