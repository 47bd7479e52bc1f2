package proxy

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// healthCheck is what a load balancer asks a node about a service: has it
// endpoints here?
type healthCheck struct {
	service types.NamespacedName
	local   int
}

// healthServer answers health check node ports: 200 with an endpoint on this
// node, 503 without (or while the proxy isn't ready).
type healthServer struct {
	log   *slog.Logger
	ready func() error

	mu      sync.Mutex
	checks  map[uint16]healthCheck
	servers map[uint16]*http.Server
	failed  map[uint16]bool
}

func newHealthServer(log *slog.Logger, ready func() error) *healthServer {
	return &healthServer{log: log, ready: ready, servers: map[uint16]*http.Server{}, failed: map[uint16]bool{}}
}

// set opens and closes ports; one that can't be opened is tried again next time.
func (h *healthServer) set(checks map[uint16]healthCheck) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checks = checks
	for port, server := range h.servers {
		if _, stays := checks[port]; !stays {
			server.Close()
			delete(h.servers, port)
		}
	}
	for port, check := range checks {
		if h.servers[port] != nil {
			continue
		}
		listener, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			if !h.failed[port] {
				h.log.Error("failed to start healthcheck", "service", check.service, "port", port, "error", err)
			}
			h.failed[port] = true
			continue
		}
		delete(h.failed, port)
		server := &http.Server{Handler: h.handler(port), ReadHeaderTimeout: 10 * time.Second}
		h.servers[port] = server
		go server.Serve(listener)
	}
}

func (h *healthServer) close() { h.set(nil) }

func (h *healthServer) handler(port uint16) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h.mu.Lock()
		check := h.checks[port]
		h.mu.Unlock()
		healthy := h.ready() == nil
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(check.local))
		if check.local == 0 || !healthy {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "\t")
		encoder.Encode(struct {
			Service struct {
				Namespace string `json:"namespace"`
				Name      string `json:"name"`
			} `json:"service"`
			LocalEndpoints      int  `json:"localEndpoints"`
			ServiceProxyHealthy bool `json:"serviceProxyHealthy"`
		}{
			Service: struct {
				Namespace string `json:"namespace"`
				Name      string `json:"name"`
			}{check.service.Namespace, check.service.Name},
			LocalEndpoints: check.local, ServiceProxyHealthy: healthy,
		})
	})
}
