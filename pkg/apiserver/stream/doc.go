// Package stream carries what flows between a client and something behind the
// apiserver: a container's log, the streams of exec, attach and port-forward,
// and requests that are proxied to pods, services and nodes.
//
// The nodes' agents are reached by the kubelet's own API
// (/containerLogs, /exec, /attach, /portForward) at the address and port that a
// node's status names. Upgrades, SPDY and WebSocket alike, are passed through
// byte by byte once the backend has agreed, so that client and agent negotiate
// the protocol between them; a kubelet that doesn't speak the
// one a client prefers refuses the upgrade, and kubectl falls back to the next.
package stream
