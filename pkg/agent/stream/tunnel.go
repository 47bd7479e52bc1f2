package stream

import (
	"bufio"
	"net"
	"net/http"
	"strings"

	"github.com/gorilla/websocket"
	clientportforward "k8s.io/client-go/tools/portforward"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
)

// tunnelPrefix marks a WebSocket that carries SPDY as it would a TCP connection (KEP-4006).
const tunnelPrefix = "SPDY/3.1+"

// servedTunnel opens the WebSocket and serves port-forwarding over SPDY within it.
func servedTunnel(w http.ResponseWriter, r *http.Request, dial Dial) {
	var protocols []string
	for _, p := range websocket.Subprotocols(r) {
		if inner, ok := strings.CutPrefix(p, tunnelPrefix); ok && inner == portforward.ProtocolV1Name {
			protocols = append(protocols, p)
		}
	}
	if len(protocols) == 0 {
		http.Error(w, "unable to upgrade: no tunneling spdy protocols provided", http.StatusBadRequest)
		return
	}
	upgrader := websocket.Upgrader{Subprotocols: protocols, CheckOrigin: func(*http.Request) bool { return true }}
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return // the upgrader has answered
	}
	inner := r.Clone(r.Context())
	inner.Header.Del("Sec-Websocket-Protocol")
	inner.Header.Set("Connection", "Upgrade")
	inner.Header.Set("Upgrade", "SPDY/3.1")
	inner.Header["X-Stream-Protocol-Version"] = []string{portforward.ProtocolV1Name}
	tunnel := clientportforward.NewTunnelingConnection("agent", conn)
	defer tunnel.Close()
	portforward.ServePortForward(&tunnelWriter{conn: tunnel, header: http.Header{}}, inner, forwarder(dial), "", "",
		&portforward.V4Options{}, idleTimeout, creationTimeout, portforward.SupportedProtocols)
}

// tunnelWriter hands out the tunnel as if it had been upgraded.
type tunnelWriter struct {
	conn   net.Conn
	header http.Header
}

func (t *tunnelWriter) Header() http.Header         { return t.header }
func (t *tunnelWriter) Write(b []byte) (int, error) { return len(b), nil }
func (t *tunnelWriter) WriteHeader(int)             {}

func (t *tunnelWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return t.conn, bufio.NewReadWriter(bufio.NewReader(t.conn), bufio.NewWriter(t.conn)), nil
}
