package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
)

// Config is what a [Proxy] is made from.
type Config struct {
	// NodeName is the node this proxy works on.
	NodeName string
	// Programmer puts tables into effect; see proxy/nft.
	Programmer Programmer
	// Services and EndpointSlices watch all namespaces. They may be shared with
	// others; whoever made them starts them. What isn't for this proxy (see
	// [ServiceSelector]) may be among it.
	Services, EndpointSlices cache.SharedIndexInformer
	// Nodes, where given, holds at least this node, for its zone.
	Nodes cache.SharedIndexInformer

	// OwnAddresses are cluster addresses that this node serves itself, with a
	// local address and a socket, as the name server does: they are left alone.
	OwnAddresses []netip.Addr

	// CheckInterval is how often the programmer looks whether its table is
	// still there; 30 seconds by default.
	CheckInterval time.Duration
	// Recorder, where given, gets events about what can't be honoured.
	Recorder record.EventRecorder
	// Registerer, where given, gets the metrics.
	Registerer prometheus.Registerer
	Logger     *slog.Logger
}

// ServiceSelector and SliceSelector are what a watch for this proxy alone can
// select by. A watch shared with DNS needs headless services, too: use
// SliceSelector without its first part, or nothing.
const (
	ServiceSelector = "!" + serviceProxyName
	SliceSelector   = "!service.kubernetes.io/headless,!" + serviceProxyName
)

// Proxy keeps a node's service addresses in step with the API.
type Proxy struct {
	config  Config
	log     *slog.Logger
	metrics *metrics
	health  *healthServer

	mu      sync.Mutex
	pending pending       // what informers have brought
	wake    chan struct{} // capacity 1

	appliedMu sync.Mutex
	live      map[target]int // endpoints that take new connections, as applied
	changed   chan struct{}  // closed and replaced when live changes
	synced    bool
	problem   error

	// The loop's own.
	services map[types.NamespacedName]*corev1.Service
	slices   map[types.NamespacedName]map[string]*discoveryv1.EndpointSlice
	ownerOf  map[types.NamespacedName]types.NamespacedName // a slice's service
	liveOf   map[types.NamespacedName][]target
	warned   map[types.NamespacedName]string
	node     Node
	table    *Table
	broken   bool // the kernel may hold anything: reset
}

// pending is what the loop has not seen yet; a nil object is a deletion.
type pending struct {
	services map[types.NamespacedName]*corev1.Service
	slices   map[types.NamespacedName]*discoveryv1.EndpointSlice
	zone     bool
}

func newPending() pending {
	return pending{
		services: map[types.NamespacedName]*corev1.Service{},
		slices:   map[types.NamespacedName]*discoveryv1.EndpointSlice{},
	}
}

// New makes a proxy. It does nothing until [Proxy.Run].
func New(config Config) *Proxy {
	config.CheckInterval = cmp.Or(config.CheckInterval, 30*time.Second)
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	p := &Proxy{
		config: config, log: config.Logger, metrics: newMetrics(config.Registerer),
		pending: newPending(), wake: make(chan struct{}, 1),
		live: map[target]int{}, changed: make(chan struct{}),
		services: map[types.NamespacedName]*corev1.Service{},
		slices:   map[types.NamespacedName]map[string]*discoveryv1.EndpointSlice{},
		ownerOf:  map[types.NamespacedName]types.NamespacedName{},
		liveOf:   map[types.NamespacedName][]target{},
		warned:   map[types.NamespacedName]string{},
		node:     Node{Name: config.NodeName}, table: NewTable(), broken: true,
		problem: errors.New("proxy: waiting for services and endpoint slices"),
	}
	p.health = newHealthServer(p.log, p.Ready)
	return p
}

// Ready returns nil once the kernel holds what the API says, and otherwise why
// it doesn't. It never blocks.
func (p *Proxy) Ready() error {
	p.appliedMu.Lock()
	defer p.appliedMu.Unlock()
	return p.problem
}

// Drained blocks until this node leads no new connections to a pod by choice:
// its endpoints are marked terminating or not ready, or
// are gone, and the kernel knows. (While a service has nothing better, a
// terminating endpoint goes on serving.) A pod that is in no service is drained.
// Endpoints that name their pod are told by it, others by its addresses.
func (p *Proxy) Drained(ctx context.Context, pod types.UID, addresses ...netip.Addr) error {
	for {
		p.appliedMu.Lock()
		changed, busy := p.changed, !p.synced || p.live[target{pod: pod}] > 0
		for _, address := range addresses {
			busy = busy || p.live[target{address: address}] > 0
		}
		p.appliedMu.Unlock()
		if !busy {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("proxy: waiting for pod %s to drain: %w", pod, context.Cause(ctx))
		}
	}
}

// Run programs until ctx ends. What is programmed stays, and goes on working.
func (p *Proxy) Run(ctx context.Context) error {
	synced, stop, err := p.watch()
	defer stop()
	if err != nil {
		return err
	}
	defer p.health.close()
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return nil
	}
	p.poke()
	check := time.NewTicker(p.config.CheckInterval)
	defer check.Stop()
	retry := time.NewTimer(time.Hour)
	defer retry.Stop()
	delay := 100 * time.Millisecond
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
		case <-retry.C:
		case <-check.C:
			if err := p.config.Programmer.Check(); err == nil {
				continue
			} else if !p.broken {
				p.log.Warn("the proxy's table is gone: programming it anew", "error", err)
				p.broken = true
			}
		}
		if err := p.sync(); err != nil {
			p.log.Error("programming service addresses", "error", err, "retryIn", delay)
			retry.Reset(delay)
			delay = min(2*delay, 10*time.Second)
			continue
		}
		delay = 100 * time.Millisecond
	}
}

// sync takes what is pending and puts it into effect.
func (p *Proxy) sync() error {
	began := time.Now()
	p.mu.Lock()
	work := p.pending
	p.pending = newPending()
	p.mu.Unlock()

	touched := p.absorb(work)
	changes := make([]Changes, 0, len(touched))
	for name := range touched {
		changes = append(changes, p.table.Set(name, p.compile(name)))
	}
	all := join(changes)
	var err error
	switch {
	case p.broken:
		p.metrics.fullSyncs.Inc()
		if err = p.config.Programmer.Reset(p.table.Elements()); err == nil && len(all.Flows) > 0 {
			err = p.config.Programmer.Apply(Changes{Flows: all.Flows})
		}
	case !all.Empty():
		err = p.config.Programmer.Apply(all)
	}
	p.broken = err != nil
	p.health.set(p.healthChecks())
	p.metrics.observe(began, len(work.services), endpointChanges(work), p.table, err)
	if err == nil {
		p.metrics.observeLatency(work.slices)
	}
	p.publish(touched, err)
	return err
}

// absorb enters pending objects into the loop's state and returns the services to compile.
func (p *Proxy) absorb(work pending) map[types.NamespacedName]bool {
	touched := map[types.NamespacedName]bool{}
	for name, service := range work.services {
		touched[name] = true
		if service == nil {
			delete(p.services, name)
		} else {
			p.services[name] = service
		}
	}
	for name, slice := range work.slices {
		if service, had := p.ownerOf[name]; had {
			touched[service] = true
			delete(p.ownerOf, name)
			if delete(p.slices[service], name.Name); len(p.slices[service]) == 0 {
				delete(p.slices, service)
			}
		}
		if slice == nil {
			continue
		}
		service := serviceOf(slice)
		touched[service] = true
		p.ownerOf[name] = service
		if p.slices[service] == nil {
			p.slices[service] = map[string]*discoveryv1.EndpointSlice{}
		}
		p.slices[service][name.Name] = slice
	}
	if work.zone {
		if zone := p.zone(); zone != p.node.Zone {
			p.node.Zone = zone
			for name := range p.services {
				touched[name] = true
			}
		}
	}
	return touched
}

// compile makes a service's rules and reports what they leave out.
func (p *Proxy) compile(name types.NamespacedName) map[Frontend]Rule {
	service := p.services[name]
	if service == nil {
		delete(p.warned, name)
		return nil
	}
	rules, problems := CompileService(service, p.slicesOf(name), p.node)
	maps.DeleteFunc(rules, func(frontend Frontend, _ Rule) bool { return slices.Contains(p.config.OwnAddresses, frontend.Addr) })
	text := fmt.Sprint(problems)
	if len(problems) > 0 && p.warned[name] != text {
		for _, problem := range problems {
			p.log.Warn("service is not served completely", "service", name, "reason", problem.Reason, "problem", problem.Message)
			if p.config.Recorder != nil {
				p.config.Recorder.Event(service, corev1.EventTypeWarning, problem.Reason, problem.Message)
			}
		}
	}
	if len(problems) > 0 {
		p.warned[name] = text
	} else {
		delete(p.warned, name)
	}
	return rules
}

func (p *Proxy) slicesOf(name types.NamespacedName) []*discoveryv1.EndpointSlice {
	all := make([]*discoveryv1.EndpointSlice, 0, len(p.slices[name]))
	for _, slice := range p.slices[name] {
		all = append(all, slice)
	}
	return all
}

// publish tells waiters what is in effect now.
func (p *Proxy) publish(touched map[types.NamespacedName]bool, err error) {
	p.appliedMu.Lock()
	defer p.appliedMu.Unlock()
	p.problem = err
	if err != nil {
		// Waiters must not take for applied what wasn't; it is tried again as a whole.
		for name := range touched {
			p.touch(name)
		}
		return
	}
	for name := range touched {
		for _, one := range p.liveOf[name] {
			if p.live[one]--; p.live[one] == 0 {
				delete(p.live, one)
			}
		}
		p.liveOf[name] = liveTargets(p.slices[name])
		if len(p.liveOf[name]) == 0 {
			delete(p.liveOf, name)
		}
		for _, one := range p.liveOf[name] {
			p.live[one]++
		}
	}
	p.synced = true
	close(p.changed)
	p.changed = make(chan struct{})
}

// touch makes a service pending again, as it is.
func (p *Proxy) touch(name types.NamespacedName) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, newer := p.pending.services[name]; !newer {
		p.pending.services[name] = p.services[name]
	}
}

// target is what an endpoint stands for: its pod, or else an address.
type target struct {
	pod     types.UID
	address netip.Addr
}

// liveTargets are the endpoints that are ready and not terminating.
func liveTargets(endpointSlices map[string]*discoveryv1.EndpointSlice) []target {
	var live []target
	for _, slice := range endpointSlices {
		for i := range slice.Endpoints {
			endpoint := &slice.Endpoints[i]
			conditions := endpoint.Conditions
			if conditions.Ready != nil && !*conditions.Ready || conditions.Terminating != nil && *conditions.Terminating {
				continue
			}
			if reference := endpoint.TargetRef; reference != nil && reference.Kind == "Pod" && reference.UID != "" {
				live = append(live, target{pod: reference.UID})
				continue
			}
			for _, text := range endpoint.Addresses {
				if address, err := netip.ParseAddr(text); err == nil {
					live = append(live, target{address: address})
				}
			}
		}
	}
	return live
}

func (p *Proxy) healthChecks() map[uint16]healthCheck {
	checks := map[uint16]healthCheck{}
	for name, service := range p.services {
		if service.Spec.HealthCheckNodePort == 0 {
			continue
		}
		if port, local := HealthCheck(service, p.slicesOf(name), p.node); port != 0 {
			checks[port] = healthCheck{service: name, local: local}
		}
	}
	return checks
}
