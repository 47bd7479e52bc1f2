package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream/wsstream"
	utilexec "k8s.io/utils/exec"
)

// serveWebSocket speaks v5.channel.k8s.io: the first byte of a message is its
// channel, as in v4, and a message on channel 255 closes the channel it names (KEP-4006).
func serveWebSocket(w http.ResponseWriter, r *http.Request, o *remotecommand.Options, f func(context.Context, Streams) error) {
	channel := func(on bool, kind wsstream.ChannelType) wsstream.ChannelType {
		if on {
			return kind
		}
		return wsstream.IgnoreChannel
	}
	conn := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{
		remotecommand.StreamProtocolV5Name: {Binary: true, Channels: []wsstream.ChannelType{
			remotecommand.StreamStdIn:  channel(o.Stdin, wsstream.ReadChannel),
			remotecommand.StreamStdOut: channel(o.Stdout, wsstream.WriteChannel),
			remotecommand.StreamStdErr: channel(o.Stderr, wsstream.WriteChannel),
			remotecommand.StreamErr:    wsstream.WriteChannel,
			remotecommand.StreamResize: wsstream.ReadChannel,
		}},
	})
	conn.SetIdleTimeout(idleTimeout)
	_, ends, err := conn.Open(w, r)
	if err != nil {
		slog.Debug("websocket upgrade", "err", err)
		return
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	s := Streams{TTY: o.TTY}
	if o.Stdin {
		s.Stdin = ends[remotecommand.StreamStdIn]
	}
	if o.Stdout {
		s.Stdout = ends[remotecommand.StreamStdOut]
		_, _ = ends[remotecommand.StreamStdOut].Write(nil) // tells the client that it is connected
	}
	if o.Stderr {
		s.Stderr = ends[remotecommand.StreamStdErr]
	}
	sizes := make(chan Size)
	s.Resize = sizes
	go readSizes(ctx, ends[remotecommand.StreamResize], sizes)
	status := json.NewEncoder(ends[remotecommand.StreamErr])
	_ = status.Encode(outcome(f(ctx, s)))
}

func readSizes(ctx context.Context, r io.Reader, sizes chan<- Size) {
	defer close(sizes)
	decoder := json.NewDecoder(r)
	for {
		var size Size
		if err := decoder.Decode(&size); err != nil {
			return
		}
		select {
		case sizes <- size:
		case <-ctx.Done():
			return
		}
	}
}

// outcome is how a command ended, as v4 and v5 tell it.
func outcome(err error) metav1.Status {
	var exit utilexec.ExitError
	switch {
	case err == nil:
		return metav1.Status{Status: metav1.StatusSuccess}
	case errors.As(err, &exit) && exit.Exited():
		return metav1.Status{
			Status:  metav1.StatusFailure,
			Reason:  remotecommand.NonZeroExitCodeReason,
			Message: fmt.Sprintf("command terminated with non-zero exit code: %v", exit),
			Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{
				{Type: remotecommand.ExitCodeCauseType, Message: strconv.Itoa(exit.ExitStatus())}}},
		}
	}
	return metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonInternalError, Code: http.StatusInternalServerError,
		Message: fmt.Sprintf("Internal error occurred: error executing command in container: %v", err)}
}
