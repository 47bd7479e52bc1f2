package apiserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"skiff/pkg/apiserver/aggregate"
	"skiff/pkg/apiserver/crd"
	"skiff/pkg/apiserver/fair"
	"skiff/pkg/apiserver/hookclient"
	"skiff/pkg/apiserver/lookup"
	"skiff/pkg/apiserver/openapi"
	"skiff/pkg/apiserver/patch"
	"skiff/pkg/apiserver/stream"
	"skiff/pkg/component"
	"skiff/pkg/store"
)

// server is one apiserver: the wiring of its parts, all of them ready to use.
type server struct {
	cfg       Config
	logger    *slog.Logger
	store     store.Interface
	codec     *codec
	managers  *patch.Managers
	metrics   *metrics
	flow      *fair.Keeper
	discovery *discovery
	openapi   *openapi.Service
	services  *allocator
	quotas    *quotas
	nodes     *stream.Nodes
	crds      *crd.Controller
	// serviceAddress is where this server reaches a port of a service.
	serviceAddress func(ctx context.Context, namespace, name string, port int32) (string, error)
	// aggregator knows which versions of groups other servers answer.
	aggregator *aggregate.Aggregator
	// customReady: all custom resources that were defined when the server started are served. servicesReady: all APIServices
	// that there were are known.
	customReady, servicesReady atomic.Bool
	// leaving ends when the server is told to stop, stopping when it does: long-running requests end with it.
	leaving, stopping context.Context
	// left is closed when this server is no longer among the kubernetes service's endpoints.
	left    chan struct{}
	running atomic.Int64 // requests
}

// Run serves until ctx ends or something fails, then lets running requests finish. What
// the server itself has to keep in order (its own service, the namespaces that always exist) is
// done beside that.
func Run(ctx context.Context, cfg Config) error {
	cfg.complete()
	if err := cfg.check(); err != nil {
		return err
	}
	s := newServer(cfg)
	s.leaving = ctx
	listener := cfg.Listener
	if listener == nil {
		address := net.JoinHostPort(cfg.BindAddress, strconv.Itoa(cfg.Port))
		var err error
		if listener, err = net.Listen("tcp", address); err != nil {
			return fmt.Errorf("serve the API: %w", err)
		}
	}
	if s.cfg.AdvertisePort == 0 {
		if tcp, ok := listener.Addr().(*net.TCPAddr); ok {
			s.cfg.AdvertisePort = tcp.Port
		}
	}
	var group component.Group
	group.Add("serve the API", func(ctx context.Context) error { return s.serve(ctx, listener) })
	group.Add("keep what always exists", s.bootstrap)
	group.Add("serve custom resources", s.runCustom)
	group.Add("aggregate", func(ctx context.Context) error {
		return s.aggregator.Run(ctx, func() { s.servicesReady.Store(true) })
	})
	group.Add("check policies", s.checkPolicies)
	group.Add("keep priorities", s.flow.Run)
	for name, run := range cfg.Parts {
		group.Add(name, run)
	}
	group.Add("prepare schemas", func(ctx context.Context) error {
		s.managers.Warm()
		<-ctx.Done()
		return nil
	})
	return group.Run(ctx)
}

func (c *Config) complete() {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Health == nil {
		c.Health = &component.Health{}
	}
	if c.managers == nil {
		c.managers = patch.NewManagers()
	}
	defaultTo(&c.RequestTimeout, 60*time.Second)
	defaultTo(&c.MinWatch, 30*time.Minute)
	defaultTo(&c.DrainTimeout, 10*time.Second)
	defaultTo(&c.Seats, 600)
}

func defaultTo[T comparable](v *T, value T) {
	var zero T
	if *v == zero {
		*v = value
	}
}

func newServer(cfg Config) *server {
	s := &server{
		cfg:      cfg,
		logger:   cfg.Logger,
		store:    cfg.Store,
		codec:    newCodec(),
		managers: cfg.managers,
		metrics:  newMetrics(),
		left:     make(chan struct{}),
	}
	if collector, ok := cfg.Store.(prometheus.Collector); ok {
		s.metrics.registry.MustRegister(collector)
	}
	s.flow = fair.NewKeeper(cfg.Seats, lookup.NewStore(cfg.Store, byResource(cfg.Catalogue)), s.applyStatus)
	s.metrics.registry.MustRegister(s.flow)
	s.discovery = &discovery{server: s}
	s.serviceAddress = hookclient.Services(lookup.NewStore(cfg.Store, byResource(cfg.Catalogue)))
	s.aggregator = newAggregator(s)
	s.openapi = openapi.New(openapi.Config{Catalogue: cfg.Catalogue, Types: s.managers.Types, Version: component.GitVersion, Others: s.aggregator})
	s.services = newAllocator(s)
	s.quotas = newQuotas(s)
	s.nodes = stream.NewNodes(cfg.Kubelet)
	s.crds = newCustom(s)
	s.addChecks(cfg.Health)
	return s
}

// serve answers on the listener until ctx ends.
func (s *server) serve(ctx context.Context, listener net.Listener) error {
	tlsConfig := &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		// The authenticator verifies: a certificate of somebody else is no reason to refuse
		// a connection that carries a token.
		ClientAuth: tls.RequestClientCert,
	}
	certificate, err := component.ReloadingCertificate(s.cfg.CertFile, s.cfg.KeyFile)
	if err != nil {
		return err
	}
	tlsConfig.GetCertificate = certificate

	stopping, stopLong := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLong()
	s.stopping = stopping
	server := &http.Server{
		Handler:           s.filters(s.router()),
		TLSConfig:         tlsConfig,
		ReadHeaderTimeout: 32 * time.Second,
		IdleTimeout:       90 * time.Second,
		MaxHeaderBytes:    1 << 20,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          100, // as Kubernetes since the rapid-reset attack
			MaxReceiveBufferPerStream:     256 << 10,
			MaxReceiveBufferPerConnection: 4<<20 - 1, // the most that net/http takes
		},
		ErrorLog: slog.NewLogLogger(s.logger.Handler(), slog.LevelDebug),
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		s.leave()
		s.drain(server, stopLong)
	})
	if s.cfg.Ready != nil {
		s.cfg.Ready(listener.Addr())
	}
	err = server.ServeTLS(listener, "", "")
	if stop() { // nobody asked for it
		return err
	}
	<-stopped
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// quiet is how long a stopping server must have had nothing to do before it closes its
// connections. Waiting for the connections themselves costs a second or more with HTTP/2.
const quiet = 100 * time.Millisecond

// leave waits until nobody should come here any more, and serves as ever meanwhile: /readyz fails, the endpoints lack this server, and whoever looks
// at one of them has had the time to.
func (s *server) leave() {
	delay := time.After(s.cfg.ShutdownDelay)
	select {
	case <-s.left:
	case <-time.After(goodbye):
	}
	<-delay
}

// drain waits for running requests. The long-running ones are ended: their clients
// come back elsewhere.
func (s *server) drain(server *http.Server, stopLong func()) {
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.DrainTimeout)
	defer cancel()
	go func() { _ = server.Shutdown(ctx) }() // no new connections, and clients are told to leave
	stopLong()
	since := time.Now()
	for time.Since(since) < quiet && ctx.Err() == nil {
		if s.running.Load() > 0 {
			since = time.Now()
		}
		time.Sleep(quiet / 20)
	}
	if n := s.running.Load(); n > 0 {
		s.logger.Warn("requests were cut off", "count", n)
	}
	_ = server.Close()
}
