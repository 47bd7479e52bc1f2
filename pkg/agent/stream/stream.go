// Package stream serves the streams of exec, attach and port-forward to a
// client, over SPDY (protocols v1 to v4) or WebSocket (v1 to v5), as the
// kubelet does.
//
// The formats are those of k8s.io/cri-streaming. What it lacks is added here:
// the WebSocket protocol v5, in which a client can close its input (websocket.go),
// and port-forwarding through a WebSocket (tunnel.go).
package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream/wsstream"
	utilexec "k8s.io/utils/exec"
)

const (
	// idleTimeout and creationTimeout are the kubelet's.
	idleTimeout     = 4 * time.Hour
	creationTimeout = 30 * time.Second
)

// Size is a terminal's size in characters.
type Size = remotecommand.TerminalSize

// Streams are the ends of a client's streams; those not asked for are nil.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	TTY            bool
	Resize         <-chan Size
}

// ExitError is a command that ended with a code other than 0.
func ExitError(code int) error {
	return utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", code), Code: code}
}

// Serve upgrades the request and runs f with the streams that its query asks
// for. f's error is told to the client; see ExitError.
func Serve(w http.ResponseWriter, r *http.Request, attach bool, f func(ctx context.Context, s Streams) error) {
	options, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	switch {
	case wsstream.IsWebSocketRequestWithStreamCloseProtocol(r):
		serveWebSocket(w, r, options, f)
	case attach:
		remotecommand.ServeAttach(w, r, runner(f), "", "", "", options, idleTimeout, creationTimeout, remotecommand.SupportedStreamingProtocols)
	default:
		remotecommand.ServeExec(w, r, runner(f), "", "", "", nil, options, idleTimeout, creationTimeout, remotecommand.SupportedStreamingProtocols)
	}
}

// runner makes a function both an Executor and an Attacher.
type runner func(ctx context.Context, s Streams) error

func (f runner) ExecInContainer(ctx context.Context, _, _, _ string, _ []string, in io.Reader, out, err io.WriteCloser, tty bool, resize <-chan Size, _ time.Duration) error {
	return f(ctx, streams(in, out, err, tty, resize))
}

func (f runner) AttachContainer(ctx context.Context, _, _, _ string, in io.Reader, out, err io.WriteCloser, tty bool, resize <-chan Size) error {
	return f(ctx, streams(in, out, err, tty, resize))
}

// streams takes care that what is absent is nil, not an interface around nil.
func streams(in io.Reader, out, err io.WriteCloser, tty bool, resize <-chan Size) Streams {
	s := Streams{TTY: tty, Resize: resize}
	if in != nil {
		s.Stdin = in
	}
	if out != nil {
		s.Stdout = out
	}
	if err != nil {
		s.Stderr = err
	}
	return s
}

// Dial opens a connection to a port of a pod.
type Dial func(ctx context.Context, port int32) (net.Conn, error)

// PortForward upgrades the request and connects each stream that the client
// opens with a port.
func PortForward(w http.ResponseWriter, r *http.Request, dial Dial) {
	if wsstream.IsWebSocketRequestWithTunnelingProtocol(r) {
		servedTunnel(w, r, dial)
		return
	}
	options := &portforward.V4Options{}
	if wsstream.IsWebSocketRequest(r) {
		var err error
		if options, err = portforward.NewV4Options(r); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	portforward.ServePortForward(w, r, forwarder(dial), "", "", options, idleTimeout, creationTimeout, portforward.SupportedProtocols)
}

type forwarder Dial

// PortForward copies between a client's stream and a connection into the pod
// until either side is done.
func (dial forwarder) PortForward(ctx context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	conn, err := dial(ctx, port)
	if err != nil {
		return err
	}
	defer conn.Close()
	sent, received := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := io.Copy(conn, stream)
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
		sent <- err
	}()
	go func() {
		_, err := io.Copy(stream, conn)
		received <- err
	}()
	select {
	case err = <-received: // the pod has said all
	case err = <-sent:
		select {
		case err = <-received:
		case <-ctx.Done():
		}
	case <-ctx.Done():
	}
	if err != nil && !errors.Is(err, net.ErrClosed) && !strings.Contains(err.Error(), "use of closed") {
		return err
	}
	return nil
}
