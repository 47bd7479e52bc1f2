package runtime

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sys/unix"
)

// AttachConfig connects a client with a container's own streams.
type AttachConfig struct {
	Stdin          io.Reader // nil: none
	Stdout, Stderr io.Writer // nil: left out
	StdinOnce      bool      // the container's input ends with this client's
	Resize         <-chan Size
}

// Attach copies a running container's output, from now on, to the client, and
// the client's input to the container, until the output ends or ctx does.
//
// The output comes from the container's logger, which serves a copy to whoever
// connects to its socket (cmd/init/logger.go has the format). The input goes
// into the pipe from which the shim feeds the container. Any number of clients
// may be attached.
func (r *Runtime) Attach(ctx context.Context, id string, c AttachConfig) error {
	dir := r.containerIO(id)
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", filepath.Join(dir, "attach"))
	if err != nil {
		return fmt.Errorf("attach to container %s: %w", id, errors.Join(ErrNotFound, err))
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer conn.Close()
	done := make(chan struct{})
	defer close(done)
	if c.Resize != nil {
		go r.resizeTask(ctx, id, c.Resize, done)
	}
	if c.Stdin != nil {
		if err := r.attachStdin(ctx, id, c); err != nil {
			return err
		}
	}
	return copyFrames(conn, c.Stdout, c.Stderr)
}

// copyFrames takes the logger's stream apart.
func copyFrames(conn io.Reader, stdout, stderr io.Writer) error {
	header := make([]byte, 5)
	buf := make([]byte, 32<<10)
	for {
		if _, err := io.ReadFull(conn, header); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, unix.ECONNRESET) {
				return nil
			}
			return fmt.Errorf("attach: %w", err)
		}
		n := int(binary.BigEndian.Uint32(header[1:]))
		if n > len(buf) {
			return fmt.Errorf("attach: frame of %d bytes", n)
		}
		if _, err := io.ReadFull(conn, buf[:n]); err != nil {
			return nil // the logger is gone
		}
		w := stdout
		if header[0] == 2 {
			w = stderr
		}
		if w == nil {
			continue
		}
		if _, err := w.Write(buf[:n]); err != nil {
			return nil // the client is gone
		}
	}
}

func (r *Runtime) attachStdin(ctx context.Context, id string, c AttachConfig) error {
	pipe, err := os.OpenFile(filepath.Join(r.containerIO(id), "stdin"), os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("attach to container %s: no stdin: %w", id, err)
	}
	go func() {
		_, copied := io.Copy(pipe, c.Stdin)
		pipe.Close()
		if c.StdinOnce && (copied == nil || ctx.Err() == nil) {
			_ = r.CloseStdin(context.WithoutCancel(ctx), id)
		}
	}()
	return nil
}

// CloseStdin ends a container's input.
func (r *Runtime) CloseStdin(ctx context.Context, id string) error {
	_, err := r.client.TaskService().CloseIO(ctx, &tasks.CloseIORequest{ContainerID: id, Stdin: true})
	return errgrpc.ToNative(err)
}

func (r *Runtime) resizeTask(ctx context.Context, id string, sizes <-chan Size, done <-chan struct{}) {
	for {
		select {
		case size, ok := <-sizes:
			if !ok {
				return
			}
			_, _ = r.client.TaskService().ResizePty(ctx, &tasks.ResizePtyRequest{ContainerID: id, Width: uint32(size.Width), Height: uint32(size.Height)})
		case <-done:
			return
		}
	}
}
