package stream

import (
	"context"
	"encoding/base64"
	"io"
	"net/http"
	"time"

	"github.com/gorilla/websocket"
)

// The protocols in which Kubernetes sends bytes over a WebSocket. Without one it is the first.
const (
	binaryProtocol = "binary.k8s.io"
	base64Protocol = "base64." + binaryProtocol
)

var upgrader = websocket.Upgrader{
	Subprotocols: []string{binaryProtocol, base64Protocol},
	CheckOrigin:  func(*http.Request) bool { return true }, // who asks is known by what it authenticates with
}

// copyToSocket sends what comes from the reader as messages, the first of them empty, which
// tells that the stream has begun. gone is called when the client has left.
func copyToSocket(w http.ResponseWriter, r *http.Request, from io.Reader, gone context.CancelFunc) {
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return // the upgrader has answered
	}
	defer conn.Close()
	go func() {
		defer gone()
		for {
			if _, _, err := conn.NextReader(); err != nil {
				return
			}
		}
	}()
	send := func(p []byte) error { return conn.WriteMessage(websocket.BinaryMessage, p) }
	if conn.Subprotocol() == base64Protocol {
		send = func(p []byte) error {
			return conn.WriteMessage(websocket.TextMessage, []byte(base64.StdEncoding.EncodeToString(p)))
		}
	}
	buffer := make([]byte, 32<<10)
	for n := 0; ; {
		if send(buffer[:n]) != nil {
			return
		}
		if n, err = from.Read(buffer); n == 0 && err != nil {
			break
		}
	}
	_ = conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Second))
}
