package machines

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// manager is the stand-in for systemd: what of it a machine needs.
type manager struct {
	mu       sync.Mutex
	units    map[string]unit // as they were when they were read: until daemon-reload
	services map[string]*service
	sockets  map[string]*os.File
	waiting  map[int]chan unix.WaitStatus
}

// service is one that has been started and not stopped.
type service struct {
	pid  int           // 0: between two lives
	stop chan struct{} // closed: it isn't started again
	over chan struct{} // closed: it isn't there any more
}

func newManager() *manager {
	m := &manager{units: map[string]unit{}, services: map[string]*service{}, sockets: map[string]*os.File{}, waiting: map[int]chan unix.WaitStatus{}}
	died := make(chan os.Signal, 1)
	signal.Notify(died, unix.SIGCHLD)
	go func() {
		for range died {
			m.reap()
		}
	}()
	return m
}

// reap collects who has exited: services, and orphans of the whole machine.
func (m *manager) reap() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if waiter, ok := m.waiting[pid]; ok {
			delete(m.waiting, pid)
			waiter <- status
		}
	}
}

// serve answers systemctl.
func (m *manager) serve(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			request, err := io.ReadAll(conn)
			if err != nil {
				return
			}
			out, err := m.command(strings.Split(string(request), "\x00"))
			if err != nil {
				fmt.Fprintf(conn, "1%s%v\n", out, err)
				return
			}
			fmt.Fprint(conn, "0"+out)
		}()
	}
}

// systemctl is the command of that name, in a machine.
func systemctl(args []string) int {
	conn, err := net.Dial("unix", control)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Fprint(conn, strings.Join(args, "\x00"))
	conn.(*net.UnixConn).CloseWrite()
	answer, err := io.ReadAll(conn)
	if err != nil || len(answer) == 0 {
		fmt.Fprintln(os.Stderr, "no answer:", err)
		return 1
	}
	if answer[0] != '0' {
		fmt.Fprint(os.Stderr, string(answer[1:]))
		return 1
	}
	fmt.Print(string(answer[1:]))
	return 0
}

func (m *manager) command(args []string) (out string, err error) {
	verb, names := args[0], args[1:]
	now := verb == "start" || verb == "stop" || verb == "restart"
	if i := slices.Index(names, "--now"); i >= 0 {
		names, now = slices.Delete(names, i, i+1), true
	}
	if verb == "daemon-reload" {
		m.mu.Lock()
		clear(m.units)
		m.mu.Unlock()
		return "", nil
	}
	for _, name := range names {
		name = fullName(name)
		u, e := m.unit(name)
		switch {
		case e != nil:
		case verb == "cat":
			_, text, _ := readUnit(name)
			out += text
		case verb == "enable" && len(u["Install.WantedBy"]) == 0:
			e = fmt.Errorf("%s has no [Install] section", name)
		case verb != "enable" && verb != "disable" && !now: // being enabled has no effect: machines boot once
			e = fmt.Errorf("systemctl %s isn't known here", verb)
		}
		if e == nil && now && (verb == "stop" || verb == "disable" || verb == "restart") {
			e = m.stop(name, u)
		}
		if e == nil && now && (verb == "start" || verb == "enable" || verb == "restart") {
			e = m.start(name, u)
		}
		err = errors.Join(err, e)
	}
	return out, err
}

func (m *manager) unit(name string) (unit, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if u, ok := m.units[name]; ok {
		return u, nil
	}
	u, _, err := readUnit(name)
	if err == nil {
		m.units[name] = u
	}
	return u, err
}

func (m *manager) start(name string, u unit) error {
	if err := u.check(name); err != nil {
		return err
	}
	if strings.HasSuffix(name, ".socket") {
		return m.listen(name, u)
	}
	m.mu.Lock()
	running := m.services[name] != nil
	m.mu.Unlock()
	if running {
		return nil
	}
	// systemd.service(5): sockets are wanted, and come first. What else is wanted may be missing.
	for _, other := range append(u.words("Service.Sockets"), u.words("Unit.Wants")...) {
		if wanted, err := m.unit(other); err == nil && other == fullName(other) { // no target
			if err := m.start(other, wanted); err != nil {
				return err
			}
		}
	}
	s := &service{stop: make(chan struct{}), over: make(chan struct{})}
	exited, err := m.launch(name, u, s)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	m.mu.Lock()
	m.services[name] = s
	m.mu.Unlock()
	go m.keep(name, u, s, exited)
	return nil
}

// listen opens a socket unit's socket.
func (m *manager) listen(name string, u unit) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sockets[name] != nil {
		return nil
	}
	if m.services[u.one("Socket.Service")] != nil {
		return fmt.Errorf("%s: socket service %s already active, refusing", name, u.one("Socket.Service"))
	}
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		if u.one("Socket.FreeBind") != "yes" {
			return nil
		}
		return errors.Join(c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1) }), err)
	}}
	var file interface{ File() (*os.File, error) }
	var err error
	if address := u.one("Socket.ListenStream"); address != "" {
		var l net.Listener
		if l, err = config.Listen(context.Background(), "tcp4", address); err == nil {
			file = l.(*net.TCPListener)
		}
	} else {
		var c net.PacketConn
		if c, err = config.ListenPacket(context.Background(), "udp4", u.one("Socket.ListenDatagram")); err == nil {
			file = c.(*net.UDPConn)
		}
	}
	if err == nil {
		m.sockets[name], err = file.File()
	}
	return err
}

// keep starts a service again for as long as it isn't stopped.
func (m *manager) keep(name string, u unit, s *service, exited <-chan unix.WaitStatus) {
	defer func() {
		m.mu.Lock()
		delete(m.services, name)
		m.mu.Unlock()
		close(s.over)
	}()
	pause, err := u.span("Service.RestartSec", 100*time.Millisecond)
	if err != nil {
		unitLog(name, "RestartSec: %v", err)
		return
	}
	for {
		if exited != nil {
			status := <-exited
			unitLog(name, "ended: exit code %d, signal %d", status.ExitStatus(), status.Signal())
		}
		m.mu.Lock()
		s.pid = 0
		m.mu.Unlock()
		if u.one("Service.Restart") != "always" {
			return
		}
		select {
		case <-s.stop:
			return
		case <-time.After(pause):
		}
		if exited, err = m.launch(name, u, s); err != nil {
			unitLog(name, "%v", err)
		}
	}
}

// launch starts a service's program once.
func (m *manager) launch(name string, u unit, s *service) (<-chan unix.WaitStatus, error) {
	for _, before := range u["Service.ExecStartPre"] {
		if !strings.HasPrefix(before, "-") {
			return nil, fmt.Errorf("ExecStartPre=%s: that it may fail is all that is known here", before)
		}
	}
	args, env, err := u.command()
	if err != nil {
		return nil, err
	}
	if _, err := exec.LookPath(args[0]); err != nil {
		return nil, err
	}
	set, err := u.settings()
	if err != nil {
		return nil, err
	}
	set.Args = args
	log, err := os.OpenFile(filepath.Join(unitLogs, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	m.mu.Lock()
	defer m.mu.Unlock() // or it would be reaped before anybody waits for it
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	files := []uintptr{null.Fd(), log.Fd(), log.Fd()}
	for _, socket := range u.words("Service.Sockets") {
		file := m.sockets[socket]
		if file == nil {
			return nil, fmt.Errorf("%s doesn't listen", socket)
		}
		files = append(files, file.Fd())
		set.Listen = append(set.Listen, m.units[socket].one("Socket.FileDescriptorName"))
	}
	text, err := json.Marshal(set)
	if err != nil {
		return nil, err
	}
	pid, _, err := syscall.StartProcess(standIns+"/program", []string{args[0], string(text)}, &syscall.ProcAttr{
		Dir: "/", Env: append(env, usualPath, stageVariable+"="+stageExec), Files: files, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return nil, err
	}
	s.pid = pid
	exited := make(chan unix.WaitStatus, 1)
	m.waiting[pid] = exited
	return exited, nil
}

func (m *manager) stop(name string, u unit) error {
	m.mu.Lock()
	if file := m.sockets[name]; file != nil {
		file.Close()
		delete(m.sockets, name)
	}
	s := m.services[name]
	if s == nil {
		m.mu.Unlock()
		return nil
	}
	close(s.stop)
	main := s.pid
	m.mu.Unlock()
	patience, err := u.span("Service.TimeoutStopSec", 90*time.Second)
	if err != nil {
		return err
	}
	for _, signal := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		for _, pid := range m.group(main, u) {
			unix.Kill(pid, signal)
		}
		select {
		case <-s.over:
			return nil
		case <-time.After(patience):
			unitLog(name, "is there after %v", patience)
		}
	}
	return fmt.Errorf("%s can't be killed", name)
}

// group are the processes that a stop is for (systemd.kill(5)); a service's cgroup is its session here.
func (m *manager) group(main int, u unit) []int {
	if main == 0 || u.one("Service.KillMode") == "process" {
		return slices.DeleteFunc([]int{main}, func(pid int) bool { return pid == 0 })
	}
	var pids []int
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(data), ") ")
		fields := strings.Fields(rest) // from the third on: state, ppid, pgrp, session (proc_pid_stat(5))
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err == nil && len(fields) > 3 && fields[3] == strconv.Itoa(main) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func unitLog(name, format string, args ...any) {
	f, err := os.OpenFile(filepath.Join(unitLogs, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err == nil {
		fmt.Fprintf(f, "systemd's stand-in: "+format+"\n", args...)
		f.Close()
	}
}

// aptGet stands in for apt-get: the packages are on the host, and so in the machine. Debian starts
// what a package brings; of these that matters for containerd.
func aptGet(args []string) int {
	if args[0] != "install" {
		fmt.Fprintln(os.Stderr, "apt-get", args[0], "isn't known here")
		return 1
	}
	if slices.Contains(args, "containerd") {
		return systemctl([]string{"enable", "--now", "containerd"})
	}
	return 0
}
