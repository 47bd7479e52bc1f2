package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

// Size is a terminal's size in characters.
type Size = remotecommand.TerminalSize

// ExecConfig is a command to run inside a container.
type ExecConfig struct {
	Args           []string
	Terminal       bool
	Stdin          io.Reader // nil: none
	Stdout, Stderr io.Writer // nil: discarded; a terminal has no Stderr
	Resize         <-chan Size
}

// Exec runs a command in a running container, with its user, environment and
// limits, and returns the exit code. When ctx ends first, the command is killed.
func (r *Runtime) Exec(ctx context.Context, id string, c ExecConfig) (int, error) {
	process, err := r.execProcess(ctx, id, c)
	if err != nil {
		return 0, err
	}
	clean := context.WithoutCancel(ctx)
	exited, err := process.Wait(clean)
	if err == nil {
		err = process.Start(ctx)
	}
	if err != nil {
		_, _ = process.Delete(clean)
		return 0, fmt.Errorf("exec in container %s: %w", id, notFound(err))
	}
	stop := make(chan struct{})
	defer close(stop)
	go resize(ctx, process, c.Resize, stop)
	var status containerd.ExitStatus
	select {
	case status = <-exited:
	case <-ctx.Done():
		if err := process.Kill(clean, syscall.SIGKILL); err != nil && !errdefs.IsNotFound(err) {
			r.log.Warn("kill exec", "container", id, "err", err)
		}
		<-exited
		_, _ = process.Delete(clean)
		return 0, ctx.Err()
	}
	// What it has written is still in the pipes: Delete waits until it is read.
	process.IO().Wait()
	if _, err := process.Delete(clean); err != nil && !errdefs.IsNotFound(err) {
		r.log.Debug("delete exec", "container", id, "err", err)
	}
	if err := status.Error(); err != nil {
		return 0, fmt.Errorf("exec in container %s: %w", id, err)
	}
	return int(status.ExitCode()), nil
}

func (r *Runtime) execProcess(ctx context.Context, id string, c ExecConfig) (containerd.Process, error) {
	container, err := r.client.LoadContainer(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("exec: %w", notFound(err))
	}
	spec, err := container.Spec(ctx)
	if err != nil {
		return nil, fmt.Errorf("exec in container %s: %w", id, err)
	}
	task, err := container.Task(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("exec in container %s: %w", id, notFound(err))
	}
	p := *spec.Process
	p.Args, p.Terminal = c.Args, c.Terminal
	if c.Terminal {
		p.Env = append(p.Env, "TERM=xterm")
	}
	// The shim keeps the pipe open until it is told that the input has ended.
	input := &endingReader{Reader: c.Stdin}
	var stdin io.Reader
	if c.Stdin != nil {
		stdin = input
	}
	stdout, stderr := c.Stdout, c.Stderr
	if stdout == nil {
		stdout = io.Discard
	}
	if stderr == nil {
		stderr = io.Discard
	}
	options := []cio.Opt{cio.WithStreams(stdin, stdout, stderr), cio.WithFIFODir(r.ioDir())}
	if c.Terminal {
		options = []cio.Opt{cio.WithStreams(stdin, stdout, nil), cio.WithFIFODir(r.ioDir()), cio.WithTerminal}
	}
	process, err := task.Exec(ctx, "exec-"+newID()[:16], &p, cio.NewCreator(options...))
	if err != nil {
		return nil, fmt.Errorf("exec in container %s: %w", id, notFound(err))
	}
	input.ended = func() { _ = process.CloseIO(context.WithoutCancel(ctx), containerd.WithStdinCloser) }
	return process, nil
}

// endingReader tells when its reader has come to its end.
type endingReader struct {
	io.Reader
	ended func()
}

func (e *endingReader) Read(p []byte) (int, error) {
	n, err := e.Reader.Read(p)
	if err != nil && e.ended != nil {
		e.ended()
	}
	return n, err
}

func notFound(err error) error {
	if errdefs.IsNotFound(err) {
		return errors.Join(ErrNotFound, err)
	}
	return err
}

func resize(ctx context.Context, process interface {
	Resize(context.Context, uint32, uint32) error
}, sizes <-chan Size, stop <-chan struct{}) {
	for {
		select {
		case size, ok := <-sizes:
			if !ok {
				return
			}
			_ = process.Resize(ctx, uint32(size.Width), uint32(size.Height))
		case <-stop:
			return
		case <-ctx.Done():
			return
		}
	}
}

// StopSignal is the signal that asks a container to end.
func StopSignal(name string) syscall.Signal {
	if name == "" {
		return unix.SIGTERM
	}
	if n := unix.SignalNum(name); n != 0 {
		return n
	}
	if n := unix.SignalNum("SIG" + name); n != 0 {
		return n
	}
	var n int
	if _, err := fmt.Sscanf(name, "%d", &n); err == nil && n > 0 && n < 65 {
		return syscall.Signal(n)
	}
	if rt := parseRealtime(name); rt != 0 {
		return rt
	}
	return unix.SIGTERM
}

// parseRealtime reads SIGRTMIN+n and SIGRTMAX-n (signal(7): 34 to 64).
func parseRealtime(name string) syscall.Signal {
	var n int
	if _, err := fmt.Sscanf(name, "SIGRTMIN+%d", &n); err == nil && n <= 30 {
		return syscall.Signal(34 + n)
	}
	if _, err := fmt.Sscanf(name, "SIGRTMAX-%d", &n); err == nil && n <= 30 {
		return syscall.Signal(64 - n)
	}
	return 0
}
