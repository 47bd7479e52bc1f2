package supervise

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Run is the life of a node's PID 1. maker is an inherited socket to whoever
// makes the node. A byte from there says that the network is plugged in; one back
// says that the node has its own file system, so that others may enter it. Run
// returns when the node has been told to stop and all processes have.
func Run(configFile string, maker *os.File) error {
	defer maker.Close()
	if _, err := maker.Read(make([]byte, 1)); err != nil {
		return fmt.Errorf("whoever makes this node has given up: %w", err)
	}
	c, err := Load(configFile)
	if err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(c.Hostname)); err != nil {
		return fmt.Errorf("set hostname: %w", err)
	}
	hostProc, err := layOut(c)
	if err != nil {
		return err
	}
	if _, err := maker.Write([]byte{1}); err != nil {
		return fmt.Errorf("whoever makes this node has given up: %w", err)
	}
	maker.Close()
	s := &supervisor{config: c, hostProc: hostProc, sockets: map[string]*os.File{}}
	for _, socket := range c.Sockets {
		if s.sockets[socket.Name], err = socket.open(); err != nil {
			return err
		}
	}
	return s.run()
}

// supervisor is owned by the goroutine that runs it.
type supervisor struct {
	config   *Config
	hostProc *os.File
	sockets  map[string]*os.File
	children []*child
	stopping bool
}

type child struct {
	Process
	pid     int // 0: not running
	started time.Time
	delay   time.Duration
	startAt time.Time
}

func (s *supervisor) run() error {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGCHLD, unix.SIGTERM, unix.SIGINT)
	for _, p := range s.config.Processes {
		s.children = append(s.children, &child{Process: p})
	}
	for {
		next := s.startDue(time.Now())
		var wake <-chan time.Time
		if !next.IsZero() {
			wake = time.After(time.Until(next))
		}
		select {
		case <-wake:
		case sig := <-signals:
			if sig != unix.SIGCHLD {
				return s.stop(signals)
			}
			s.reap()
		}
	}
}

// startDue starts what isn't running and is due, and returns when the next one is.
func (s *supervisor) startDue(now time.Time) (next time.Time) {
	for _, c := range s.children {
		if c.pid != 0 {
			continue
		}
		if c.startAt.After(now) {
			if next.IsZero() || c.startAt.Before(next) {
				next = c.startAt
			}
			continue
		}
		if err := s.start(c); err != nil {
			fmt.Fprintf(os.Stderr, "start %s: %v\n", c.Name, err)
			c.delay = nextDelay(c.delay, 0)
			c.startAt = now.Add(c.delay)
			if next.IsZero() || c.startAt.Before(next) {
				next = c.startAt
			}
		}
	}
	return next
}

func (s *supervisor) start(c *child) error {
	log, err := os.OpenFile(filepath.Join(NodeDir, LogDir, c.Name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
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
	c.pid, c.started = cmd.Process.Pid, time.Now()
	cmd.Process.Release() // reap waits for every child, known or adopted
	pid := s.hostPid(c.pid)
	return os.WriteFile(s.pidFile(c), []byte(strconv.Itoa(pid)+"\n"), 0o644)
}

func (s *supervisor) pidFile(c *child) string { return filepath.Join(NodeDir, PidDir, c.Name+".pid") }

// reap collects whatever has exited: processes of the node's, and orphans.
func (s *supervisor) reap() {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		for _, c := range s.children {
			if c.pid != pid {
				continue
			}
			now := time.Now()
			c.pid = 0
			c.delay = nextDelay(c.delay, now.Sub(c.started))
			c.startAt = now.Add(c.delay)
			os.Remove(s.pidFile(c))
			if s.stopping {
				continue
			}
			fmt.Fprintf(os.Stderr, "%s %s ended (%s), starting it again in %v\n", now.Format(time.RFC3339), c.Name, describe(status), c.delay)
		}
	}
}

func describe(status unix.WaitStatus) string {
	if status.Signaled() {
		return "signal " + strconv.Itoa(int(status.Signal()))
	}
	return "exit code " + strconv.Itoa(status.ExitStatus())
}

// stop ends the processes one after the other, the last to be named first.
func (s *supervisor) stop(signals <-chan os.Signal) error {
	s.stopping = true
	for i := len(s.children) - 1; i >= 0; i-- {
		c := s.children[i]
		if c.pid == 0 {
			continue
		}
		patience := c.StopAfter
		if patience == 0 {
			patience = 5 * time.Second
		}
		unix.Kill(c.pid, unix.SIGTERM)
		deadline := time.After(patience)
		for c.pid != 0 {
			select {
			case <-signals:
				s.reap()
			case <-deadline:
				unix.Kill(c.pid, unix.SIGKILL)
				deadline = nil
			}
		}
	}
	return nil
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
