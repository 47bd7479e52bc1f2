package component

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/pflag"
)

// Serving holds the flags of a component's own HTTPS endpoint, where it
// answers /healthz, /livez, /readyz to anybody, and /metrics and /debug/pprof to
// whom the apiserver says may read them.
type Serving struct {
	BindAddress string
	Port        int // 0: don't serve
	CertFile    string
	KeyFile     string
}

// AddFlags registers --bind-address, --secure-port, --tls-cert-file and --tls-private-key-file.
func (s *Serving) AddFlags(flags *pflag.FlagSet) {
	flags.StringVar(&s.BindAddress, "bind-address", s.BindAddress, "address to serve HTTPS on")
	flags.IntVar(&s.Port, "secure-port", s.Port, "port to serve HTTPS on; 0 serves nothing")
	flags.StringVar(&s.CertFile, "tls-cert-file", s.CertFile, "file with the serving certificate; without it a self-signed one is made in memory")
	flags.StringVar(&s.KeyFile, "tls-private-key-file", s.KeyFile, "file with the serving certificate's key")
}

// Metrics returns a registry with the Go runtime's and the process' collectors.
func Metrics() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return registry
}

// Endpoint is what Serving serves.
type Endpoint struct {
	Health  *Health
	Metrics *prometheus.Registry
	// Access decides about everything but health; nil refuses it all.
	Access Access
	Logger *slog.Logger
	// More adds handlers of the component's own, behind Access.
	More map[string]http.Handler
}

// Run serves until ctx ends. With Port 0 it only waits for ctx.
func (s *Serving) Run(ctx context.Context, e Endpoint) error {
	if s.Port == 0 {
		<-ctx.Done()
		return nil
	}
	certificate, err := s.certificate()
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	e.Health.Handle(mux.Handle)
	if e.Metrics != nil {
		mux.Handle("/metrics", guarded(e.Access, promhttp.HandlerFor(e.Metrics, promhttp.HandlerOpts{})))
	}
	mux.Handle("/debug/pprof/", guarded(e.Access, Profiles()))
	for pattern, handler := range e.More {
		mux.Handle(pattern, guarded(e.Access, handler))
	}
	server := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 10 * time.Second,
		TLSConfig: &tls.Config{
			MinVersion:     tls.VersionTLS12,
			GetCertificate: certificate,
			ClientAuth:     tls.RequestClientCert,
		},
		ErrorLog: slog.NewLogLogger(e.Logger.Handler(), slog.LevelDebug),
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(s.BindAddress, strconv.Itoa(s.Port)))
	if err != nil {
		return fmt.Errorf("serve health and metrics: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve health and metrics: %w", err)
	}
	return nil
}

func guarded(access Access, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if access == nil {
			http.Error(w, "Forbidden", http.StatusForbidden)
			return
		}
		if code, reason := access.Check(r); code != http.StatusOK {
			http.Error(w, reason, code)
			return
		}
		next.ServeHTTP(w, r)
	})
}
