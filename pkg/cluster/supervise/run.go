package supervise

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// What whoever makes a node hands to its init.
const (
	makerFD       = 3 // a socket to the maker
	machineFD     = 4 // the mount namespace of the machine
	firstSocketFD = 5 // the inherited sockets, in the order of Config.Sockets
)

// Run is the life of a node's PID 1; it must be called on the process's first
// thread. A byte from the maker says that the network is plugged in; one back says
// that the node has its own file system, so that others may enter it. Run returns
// when the node has been told to stop and all processes have.
func Run(configFile string) error {
	maker := inherit(makerFD, "maker")
	defer maker.Close()
	if _, err := maker.Read(make([]byte, 1)); err != nil {
		return fmt.Errorf("whoever makes this node has given up: %w", err)
	}
	c, err := Load(configFile)
	if err != nil {
		return err
	}
	s := &supervisor{config: c, machine: inherit(machineFD, "machine"), sockets: map[string]*os.File{}}
	if err := s.setUp(); err != nil {
		return fmt.Errorf("node %s: %w", c.Hostname, err)
	}
	if _, err := maker.Write([]byte{1}); err != nil {
		return fmt.Errorf("whoever makes this node has given up: %w", err)
	}
	maker.Close()
	s.plan = changes(&Config{}, c)
	return s.run()
}

func (s *supervisor) setUp() (err error) {
	next := firstSocketFD
	for _, socket := range s.config.Sockets {
		if socket.Inherited {
			if _, err := unix.GetsockoptInt(next, unix.SOL_SOCKET, unix.SO_TYPE); err != nil {
				return fmt.Errorf("socket %s has not been handed over: descriptor %d: %w", socket.Name, next, err)
			}
			s.sockets[socket.Name] = inherit(next, socket.Name)
			next++
		}
	}
	if err := unix.Sethostname([]byte(s.config.Hostname)); err != nil {
		return fmt.Errorf("set hostname: %w", err)
	}
	if s.hostProc, err = layOut(s.config); err != nil {
		return err
	}
	s.mounted = s.config.mounts()
	for _, name := range []string{AppliedFile, RefusedFile} { // of an earlier life
		if err := os.Remove(filepath.Join(NodeDir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	s.sockets, err = s.openSockets(s.config)
	return err
}

// inherit is a descriptor that the process has been started with, and that its
// children are not to have.
func inherit(fd int, name string) *os.File {
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), name)
}

// supervisor is owned by the goroutine that runs it.
type supervisor struct {
	config   *Config // what the node is, once the plan has been carried out
	plan     []step
	settled  bool // it has been, and its end been announced
	reload   bool // the configuration is to be read again after that
	stopping bool

	children []*child
	sockets  map[string]*os.File
	mounted  []Mount

	hostProc *os.File
	machine  *os.File
	resumed  bool // this init has just taken over: see replace
}

// child is a process of the node's. Its fields are exported for the sake of replace.
type child struct {
	Process
	Pid     int // 0: not running
	Started time.Time
	Delay   time.Duration
	StartAt time.Time
	KillAt  time.Time // when it has been told to stop: how long it may take
}

func (s *supervisor) run() error {
	// One place for each: they coalesce, and none is lost behind many of another.
	died, reload, stop := make(chan os.Signal, 1), make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(died, unix.SIGCHLD)
	signal.Notify(reload, unix.SIGHUP)
	signal.Notify(stop, unix.SIGTERM, unix.SIGINT)
	s.reap() // who died when nobody was listening
	for {
		now := time.Now()
		next := earlier(s.advance(now), s.startDue(now))
		if s.stopping && len(s.plan) == 0 {
			return nil
		}
		if s.reload && s.settled && !s.stopping {
			s.reload = false
			s.load()
			continue
		}
		var wake <-chan time.Time
		if !next.IsZero() {
			wake = time.After(time.Until(next))
		}
		select {
		case <-wake:
		case <-died:
			s.reap()
		case <-reload:
			s.reload = true
		case <-stop:
			if !s.stopping {
				s.stopping = true
				s.plan = changes(s.current(), &Config{})
			}
		}
	}
}

// earlier is the first of two moments, of which a zero one never comes.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// current is what the node is at the moment, in terms of a configuration.
func (s *supervisor) current() *Config {
	c := *s.config
	c.Processes = nil
	for _, child := range s.children {
		c.Processes = append(c.Processes, child.Process)
	}
	return &c
}

// advance carries out the plan as far as it goes without waiting, and returns when
// to go on at the latest.
func (s *supervisor) advance(now time.Time) (next time.Time) {
	for len(s.plan) > 0 {
		step := s.plan[0]
		i := slices.IndexFunc(s.children, func(c *child) bool { return c.Name == step.Process.Name })
		if step.Do != startIt && s.children[i].Pid != 0 {
			return s.end(s.children[i], now)
		}
		s.plan = s.plan[1:]
		if !s.stopping {
			report("%s %s: %s", step.Do, step.Process.Name, step.Why)
		}
		switch step.Do {
		case stopIt:
			s.children = slices.Delete(s.children, i, i+1)
		case restartIt:
			s.children[i] = &child{Process: step.Process}
			s.launch(s.children[i], now)
		case startIt:
			s.children = append(s.children, &child{Process: step.Process})
			s.launch(s.children[len(s.children)-1], now)
		}
	}
	if !s.settled && !s.stopping {
		s.settle()
	}
	return time.Time{}
}

// end tells a process to stop, makes it when its patience is over, and returns when that is.
func (s *supervisor) end(c *child, now time.Time) time.Time {
	if c.KillAt.IsZero() {
		c.KillAt = now.Add(c.patience())
		unix.Kill(c.Pid, unix.SIGTERM)
	} else if !now.Before(c.KillAt) {
		c.KillAt = now.Add(time.Second)
		unix.Kill(c.Pid, unix.SIGKILL)
	}
	return c.KillAt
}

// startDue starts what isn't running and is due, and returns when the next one is.
func (s *supervisor) startDue(now time.Time) (next time.Time) {
	if s.stopping {
		return next
	}
	for _, c := range s.children {
		if c.Pid != 0 {
			continue
		}
		if !c.StartAt.After(now) {
			s.launch(c, now)
		}
		if c.Pid == 0 {
			next = earlier(next, c.StartAt)
		}
	}
	return next
}

func (s *supervisor) launch(c *child, now time.Time) {
	if err := s.start(c); err != nil {
		c.Delay = nextDelay(c.Delay, 0)
		c.StartAt = now.Add(c.Delay)
		report("start %s: %v", c.Name, err)
	}
}

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
			if c.Pid == pid {
				s.died(c, describe(status), time.Now())
			}
		}
	}
}

func (s *supervisor) died(c *child, how string, now time.Time) {
	c.Pid = 0
	os.Remove(s.pidFile(c))
	if s.stopping || !c.KillAt.IsZero() {
		report("%s ended (%s)", c.Name, how)
		return
	}
	c.Delay = nextDelay(c.Delay, now.Sub(c.Started))
	c.StartAt = now.Add(c.Delay)
	report("%s ended (%s), starting it again in %v", c.Name, how, c.Delay)
}

func describe(status unix.WaitStatus) string {
	if status.Signaled() {
		return "signal " + strconv.Itoa(int(status.Signal()))
	}
	return "exit code " + strconv.Itoa(status.ExitStatus())
}

// report writes a line to init's own log.
func report(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format(time.RFC3339)+" "+format+"\n", args...)
}
