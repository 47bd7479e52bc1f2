package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

// Config is what a [Server] is made from.
type Config struct {
	// Domain is the cluster's, "cluster.local" by default.
	Domain string
	// Addresses are listened on, each over UDP and TCP ("10.96.0.10:53"). They
	// may not be assigned to an interface yet.
	Addresses []netip.AddrPort
	// PacketConns and Listeners are sockets made by others (see [Inherited]);
	// the server closes them when it stops.
	PacketConns []net.PacketConn
	Listeners   []net.Listener

	// Services and EndpointSlices watch all namespaces, headless services
	// included. Whoever made them starts them.
	Services, EndpointSlices cache.SharedIndexInformer
	// Namespaces, where given, says which namespaces exist; else those with a service do.
	Namespaces cache.SharedIndexInformer

	// Upstreams are asked for all other names, in turn; where nil,
	// the nameservers of ResolvConf, which is read again when it changes.
	Upstreams []netip.AddrPort
	// ResolvConf is "/etc/resolv.conf" by default.
	ResolvConf string

	Registerer prometheus.Registerer
	Logger     *slog.Logger
}

// Server is a name server.
type Server struct {
	config   Config
	log      *slog.Logger
	zone     *Zone
	upstream *upstream
	metrics  *metrics
	ready    chan struct{}
}

// New makes a server. It does nothing until [Server.Run].
func New(config Config) *Server {
	if config.Domain == "" {
		config.Domain = "cluster.local"
	}
	if config.ResolvConf == "" {
		config.ResolvConf = "/etc/resolv.conf"
	}
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	return &Server{
		config: config, log: config.Logger,
		zone:     &Zone{Domain: dns.Fqdn(strings.ToLower(config.Domain)), Index: NewIndex()},
		upstream: newUpstream(config.Upstreams, config.ResolvConf),
		metrics:  newMetrics(config.Registerer),
		ready:    make(chan struct{}),
	}
}

// Ready returns nil once the server answers, and otherwise why it doesn't.
func (s *Server) Ready() error {
	select {
	case <-s.ready:
		return nil
	default:
		return errors.New("dns: waiting for services and endpoint slices")
	}
}

// Run answers until ctx ends; what it has taken in by then it still answers,
// within a second. Sockets are closed when it returns.
func (s *Server) Run(ctx context.Context) error {
	packets, listeners, err := s.sockets()
	if err != nil {
		return err
	}
	defer closeAll(packets, listeners)
	synced, stop, err := s.watch()
	defer stop()
	if err != nil {
		return err
	}
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return nil
	}
	s.learnOwnAddresses(packets)

	var servers []*dns.Server
	for _, conn := range packets {
		servers = append(servers, &dns.Server{PacketConn: conn, Handler: s, UDPSize: dns.DefaultMsgSize})
	}
	for _, listener := range listeners {
		servers = append(servers, &dns.Server{Listener: listener, Handler: s, ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second,
			IdleTimeout: func() time.Duration { return 10 * time.Second }})
	}
	failed := make(chan error, len(servers))
	var running sync.WaitGroup
	for _, server := range servers {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		stopped := make(chan struct{})
		running.Go(func() {
			defer close(stopped)
			if err := server.ActivateAndServe(); err != nil && ctx.Err() == nil {
				failed <- fmt.Errorf("dns: %w", err)
			}
		})
		select { // a server that hasn't started can't be shut down
		case <-started:
		case <-stopped:
		}
	}
	close(s.ready)
	s.log.Info("cluster names are served", "domain", s.zone.Domain, "addresses", s.zone.Server)
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	for _, server := range servers {
		server.ShutdownContext(grace)
	}
	running.Wait()
	return err
}

// sockets opens what is to be listened on, beside what was handed over.
func (s *Server) sockets() ([]net.PacketConn, []net.Listener, error) {
	packets, listeners := append([]net.PacketConn(nil), s.config.PacketConns...), append([]net.Listener(nil), s.config.Listeners...)
	for _, address := range s.config.Addresses {
		packet, listener, err := Listen(address)
		if err != nil {
			closeAll(packets, listeners)
			return nil, nil, err
		}
		packets, listeners = append(packets, packet), append(listeners, listener)
	}
	if len(packets)+len(listeners) == 0 {
		return nil, nil, errors.New("dns: nothing to listen on")
	}
	return packets, listeners, nil
}

// Listen opens an address over UDP and TCP, whether or not an interface has it yet.
func Listen(address netip.AddrPort) (net.PacketConn, net.Listener, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1) })
		return errors.Join(err, failed)
	}}
	packet, err := config.ListenPacket(context.Background(), "udp", address.String())
	if err != nil {
		return nil, nil, fmt.Errorf("dns: %w", err)
	}
	// With port 0 the kernel has chosen: TCP follows.
	listener, err := config.Listen(context.Background(), "tcp", packet.LocalAddr().String())
	if err != nil {
		packet.Close()
		return nil, nil, fmt.Errorf("dns: %w", err)
	}
	return packet, listener, nil
}

func closeAll(packets []net.PacketConn, listeners []net.Listener) {
	for _, packet := range packets {
		packet.Close()
	}
	for _, listener := range listeners {
		listener.Close()
	}
}

// learnOwnAddresses notes where the server listens: for ns.dns, and so as not
// to forward to itself.
func (s *Server) learnOwnAddresses(packets []net.PacketConn) {
	for _, packet := range packets {
		if address, err := netip.ParseAddrPort(packet.LocalAddr().String()); err == nil {
			s.upstream.own = append(s.upstream.own, address)
			if ip := address.Addr().Unmap(); !ip.IsUnspecified() {
				s.zone.Server = append(s.zone.Server, ip)
			}
		}
	}
}

// watch feeds the index from the informers.
func (s *Server) watch() (synced []cache.InformerSynced, stop func(), err error) {
	var stops []func()
	stop = func() {
		for _, one := range stops {
			one()
		}
	}
	if s.config.Services == nil || s.config.EndpointSlices == nil {
		return nil, stop, errors.New("dns: Services and EndpointSlices must be set")
	}
	subscribe := func(informer cache.SharedIndexInformer, handle func(object any, gone, fresh bool)) {
		if informer == nil || err != nil {
			return
		}
		var registration cache.ResourceEventHandlerRegistration
		registration, err = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(object any) { handle(object, false, true) },
			UpdateFunc: func(_, object any) { handle(object, false, false) },
			DeleteFunc: func(object any) {
				if last, unknown := object.(cache.DeletedFinalStateUnknown); unknown {
					object = last.Obj
				}
				handle(object, true, false)
			},
		})
		if err != nil {
			err = fmt.Errorf("dns: watching: %w", err)
			return
		}
		synced = append(synced, registration.HasSynced)
		stops = append(stops, func() { informer.RemoveEventHandler(registration) })
	}
	subscribe(s.config.Services, func(object any, gone, _ bool) {
		if spec, ok := object.(*corev1.Service); ok {
			name := types.NamespacedName{Namespace: spec.Namespace, Name: spec.Name}
			if gone {
				spec = nil
			}
			s.zone.Index.SetService(name, spec)
		}
	})
	subscribe(s.config.EndpointSlices, func(object any, gone, _ bool) {
		if slice, ok := object.(*discoveryv1.EndpointSlice); ok {
			name := types.NamespacedName{Namespace: slice.Namespace, Name: slice.Name}
			if gone {
				slice = nil
			}
			s.zone.Index.SetSlice(name, slice)
		}
	})
	subscribe(s.config.Namespaces, func(object any, gone, fresh bool) {
		if namespace, ok := object.(*corev1.Namespace); ok && (gone || fresh) {
			s.zone.Index.SetNamespace(namespace.Name, !gone)
		}
	})
	return synced, stop, err
}
