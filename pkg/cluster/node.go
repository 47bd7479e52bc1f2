package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"skiff/pkg/cluster/supervise"
)

// prepareNode writes what a node finds on its disk.
func prepareNode(s *Spec, l layout, n Node, a authorities) error {
	for _, dir := range []string{"etc", "var/lib", "var/log", "log", "pid"} {
		if err := os.MkdirAll(l.nodeFile(n.Name, dir), 0o755); err != nil {
			return err
		}
	}
	etc := l.nodeFile(n.Name, "etc")
	if err := writeNodeCertificates(s, n, a, l.root, etc); err != nil {
		return fmt.Errorf("certificates of %s: %w", n.Name, err)
	}
	if n.Role == Master && s.VIP.IsValid() {
		if err := writeBalancing(filepath.Join(etc, "ha"), balancing(s, n, nodeEtc)); err != nil {
			return fmt.Errorf("load balancing of %s: %w", n.Name, err)
		}
	}
	if err := writeRegistry(s, n, etc); err != nil {
		return fmt.Errorf("registry of %s: %w", n.Name, err)
	}
	for name, text := range map[string]string{
		"containerd.toml": containerdConfig,
		"resolv.conf":     resolvConf(s.Isolated),
	} {
		if err := os.WriteFile(filepath.Join(etc, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return writeJSON(l.nodeFile(n.Name, supervise.ConfigFile), nodeConfig(s, l, n))
}

// resolvConf is the machine's name servers, as far as a node can reach them:
// none when it is isolated, and not those on the machine's own loopback.
func resolvConf(isolated bool) string {
	if isolated {
		return "# isolated: there is nobody to ask\n"
	}
	for _, file := range []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"} {
		data, err := os.ReadFile(file)
		if err == nil && !strings.Contains(string(data), "nameserver 127.") {
			return string(data)
		}
	}
	return "# the machine's name servers listen on its loopback only\n"
}

// startNode starts a node's PID 1 in namespaces of its own, plugs it in, and
// waits until it has a file system of its own: from then on it can be entered.
func startNode(s *Spec, l layout, n Node) (err error) {
	if pid := runningInit(l, n.Name); pid != 0 {
		return nil
	}
	// What a power cut has left: the processes are gone with their PID 1.
	if err := killCgroup(l.cgroup(n.Name)); err != nil {
		return err
	}
	log, err := os.OpenFile(l.nodeFile(n.Name, "log", "init.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "init"), os.NewFile(uintptr(pair[1]), "maker")
	defer ours.Close()
	defer theirs.Close()
	machine, err := os.Open("/proc/self/ns/mnt")
	if err != nil {
		return err
	}
	defer machine.Close()
	ports, err := openPorts(n)
	if err != nil {
		return err
	}
	defer closeAll(ports)
	cmd := exec.Command(filepath.Join(s.binOf(n), "init"), "supervise", l.nodeFile(n.Name, supervise.ConfigFile))
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = append([]*os.File{theirs, machine}, ports...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", n.Name, err)
	}
	theirs.Close()
	pid := cmd.Process.Pid
	defer func() {
		if err != nil {
			unix.Kill(pid, unix.SIGKILL)
			cmd.Wait()
		}
	}()
	if err := os.WriteFile(l.initPid(n.Name), []byte(strconv.Itoa(pid)+"\n"), 0o644); err != nil {
		return err
	}
	if err := enterCgroup(l.cgroup(n.Name), pid); err != nil {
		return err
	}
	if err := limitCgroup(l.cgroup(n.Name), n.Resources); err != nil {
		return fmt.Errorf("node %s: %w", n.Name, err)
	}
	if err := connect(s, l, n, pid); err != nil {
		return fmt.Errorf("connect %s: %w", n.Name, err)
	}
	if _, err = ours.Write([]byte{1}); err == nil {
		_, err = ours.Read(make([]byte, 1))
	}
	if err != nil {
		return diagnose(l, n.Name, "init", fmt.Errorf("node %s did not come up: %w", n.Name, err))
	}
	go cmd.Wait() // if it dies while this process lives
	return nil
}

// reloadNode has a running node take the configuration that has been written for it, and
// waits until it has: until all processes that differ have been restarted. generation is
// the configuration's, and another than that of the last one.
func reloadNode(ctx context.Context, l layout, n Node, generation string) error {
	refused := l.nodeFile(n.Name, supervise.RefusedFile)
	if err := os.Remove(refused); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for turn := 0; ; turn++ {
		pid := runningInit(l, n.Name)
		if pid == 0 {
			return fmt.Errorf("node %s is not running", n.Name)
		}
		if turn%100 == 0 { // more than once: an init that is being replaced by a newer one hears nothing
			unix.Kill(pid, unix.SIGHUP)
		}
		if applied, err := os.ReadFile(l.nodeFile(n.Name, supervise.AppliedFile)); err == nil && string(applied) == generation {
			return nil
		}
		if why, err := os.ReadFile(refused); err == nil {
			return fmt.Errorf("node %s refuses its configuration: %s", n.Name, why)
		}
		select {
		case <-ctx.Done():
			return diagnose(l, n.Name, "init", fmt.Errorf("node %s has not taken its configuration yet: %w", n.Name, ctx.Err()))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// stopNode ends a node: cleanly within patience, or as if its power were cut.
func stopNode(l layout, node string, patience time.Duration) error {
	if pid := runningInit(l, node); pid != 0 {
		fd, err := unix.PidfdOpen(pid, 0)
		if err == nil {
			poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			// More than once: an init that is being replaced by a newer one hears nothing.
			for left := patience; left > 0; left -= time.Second {
				unix.Kill(pid, unix.SIGTERM)
				if n, _ := unix.Poll(poll, int(min(left, time.Second).Milliseconds())); n > 0 {
					break
				}
			}
			unix.Close(fd)
		}
		if pid := runningInit(l, node); pid != 0 {
			unix.Kill(pid, unix.SIGKILL)
		}
	}
	if err := killCgroup(l.cgroup(node)); err != nil {
		return err
	}
	if err := os.Remove(l.initPid(node)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// runningInit returns the pid of a node's PID 1, or 0. A pid file may outlive
// its process and the number be somebody else's by now, so what counts is that
// the process lives in the node's cgroup. One that has been killed counts no more,
// whether it has yet to notice or waits for the end of its namespace's other processes.
func runningInit(l layout, node string) int {
	pid := readPid(l.initPid(node))
	if pid == 0 {
		return 0
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil || !strings.Contains(string(data), ":"+l.cgroup(node)+"/") {
		return 0
	}
	// In this order: the signal stops being pending when the exit begins.
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil || killed(string(status)) {
		return 0
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil || ending(string(stat)) {
		return 0
	}
	return pid
}

// killed reads /proc/PID/status (see proc_pid_status(5)): is a SIGKILL on its way?
func killed(status string) bool {
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(line, ":")
		if name != "SigPnd" && name != "ShdPnd" {
			continue
		}
		pending, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		if err != nil || pending&(1<<(unix.SIGKILL-1)) != 0 {
			return true
		}
	}
	return false
}

// ending reads a line of /proc/PID/stat (see proc_pid_stat(5)): has the process
// exited, or begun to?
func ending(stat string) bool {
	const exiting = 0x4 | 0x400 // PF_EXITING, PF_SIGNALED of the kernel's linux/sched.h
	fields := fromState(stat)
	if len(fields) < 7 || fields[0] == "Z" || fields[0] == "X" {
		return true
	}
	flags, err := strconv.ParseUint(fields[6], 10, 64)
	return err != nil || flags&exiting != 0
}

// frozen reads the same line: has SIGSTOP, or a debugger, stopped the process?
func frozen(stat string) bool {
	fields := fromState(stat)
	return len(fields) > 0 && (fields[0] == "T" || fields[0] == "t")
}

// fromState are the fields of /proc/PID/stat from the third on: state, ppid, pgrp, session, tty, tpgid, flags.
func fromState(stat string) []string {
	_, fields, _ := strings.Cut(stat[strings.LastIndexByte(stat, ')')+1:], " ")
	return strings.Fields(fields)
}

func readPid(file string) int {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 1 {
		return 0
	}
	return pid
}

func writeJSON(file string, value any) error {
	data, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	temporary := file + ".new"
	if err := os.WriteFile(temporary, append(data, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(temporary, file)
}
