package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"
)

// Config is what a scheduler needs.
type Config struct {
	// Client is the leader's client configuration (election.Won.Config).
	Client *rest.Config
	// Name is the schedulerName of the pods that it is responsible for, "default-scheduler" if empty.
	Name    string
	Logger  *slog.Logger
	Metrics prometheus.Registerer // nil: none
	// Workers is how many bindings and status updates may be under way at once; 0 is 64.
	Workers int
}

// Scheduler binds pods to nodes. One goroutine decides; watches and workers
// only touch what they know under the lock.
type Scheduler struct {
	config   Config
	client   kubernetes.Interface
	events   events.EventRecorder
	metrics  *metrics
	slots    chan struct{} // one for each worker that may run
	woken    chan struct{} // something may have come into the queue
	workers  sync.WaitGroup
	synced   chan struct{}
	watching watches

	mu      sync.Mutex
	cluster *cluster
	queue   *queue
}

// New makes a scheduler; Run starts it.
func New(config Config) (*Scheduler, error) {
	if config.Name == "" {
		config.Name = corev1.DefaultSchedulerName
	}
	if config.Workers == 0 {
		config.Workers = 64
	}
	client, err := kubernetes.NewForConfig(config.Client)
	if err != nil {
		return nil, fmt.Errorf("scheduler client: %w", err)
	}
	return newScheduler(config, client), nil
}

func newScheduler(config Config, client kubernetes.Interface) *Scheduler {
	s := &Scheduler{config: config, client: client, slots: make(chan struct{}, config.Workers), woken: make(chan struct{}, 1),
		synced: make(chan struct{}), cluster: newCluster(), queue: newQueue()}
	s.metrics = newMetrics(config.Metrics, func(p place) float64 {
		s.mu.Lock()
		defer s.mu.Unlock()
		return float64(s.queue.counts[p])
	})
	return s
}

// Ready is a health check: it fails until all caches have been filled.
func (s *Scheduler) Ready() error {
	select {
	case <-s.synced:
		return nil
	default:
		return fmt.Errorf("caches are not filled")
	}
}

// Run schedules until ctx ends, and returns when all it started has stopped.
func (s *Scheduler) Run(ctx context.Context) error {
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: s.client.EventsV1()})
	s.events = broadcaster.NewRecorder(scheme.Scheme, s.config.Name)
	if err := broadcaster.StartRecordingToSinkWithContext(ctx); err != nil {
		return fmt.Errorf("events: %w", err)
	}
	defer broadcaster.Shutdown()
	if err := s.startWatches(ctx); err != nil {
		return err
	}
	defer s.watching.wait()
	defer s.workers.Wait()
	s.config.Logger.Info("scheduling", "name", s.config.Name)
	for s.turn(ctx) {
	}
	return context.Cause(ctx)
}

// turn tries one pod, and reports false when ctx has ended.
func (s *Scheduler) turn(ctx context.Context) bool {
	select {
	case s.slots <- struct{}{}: // for the binding that may follow
	case <-ctx.Done():
		return false
	}
	s.mu.Lock()
	it := s.queue.pop(time.Now())
	if it != nil {
		act := s.try(it)
		s.mu.Unlock()
		s.work(ctx, act)
		return ctx.Err() == nil
	}
	at, ok := s.queue.next()
	s.mu.Unlock()
	<-s.slots
	var timer <-chan time.Time
	if ok {
		t := time.NewTimer(time.Until(at))
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-ctx.Done():
		return false
	case <-s.woken:
	case <-timer:
	}
	return true
}

// work runs act in a worker, whose slot has been taken already.
func (s *Scheduler) work(ctx context.Context, act func(context.Context)) {
	s.workers.Go(func() {
		defer func() { <-s.slots }()
		if act != nil {
			act(ctx)
		}
	})
}

// wake makes the loop look at the queue.
func (s *Scheduler) wake() {
	select {
	case s.woken <- struct{}{}:
	default:
	}
}

// try decides about a pod, takes note of the decision, and returns what is to
// be done about it in a worker. The lock is held.
func (s *Scheduler) try(it *item) func(context.Context) {
	start := time.Now()
	it.tries++
	reserved := s.cluster.reservedFor(it.key)
	d := s.cluster.decide(it.pod, it.class)
	s.metrics.algorithm.Observe(time.Since(start).Seconds())
	if d.Node == "" {
		return s.failed(it, d, reserved, start)
	}
	if reserved != none && s.cluster.nodes[reserved].name != d.Node {
		defer s.roomOn(reserved)
	}
	it.assumed = true
	s.cluster.addPod(it.pod, d.Node)
	s.config.Logger.Debug("decided", "pod", it.key, "node", d.Node, "score", fmt.Sprintf("%+v", d.Score))
	return func(ctx context.Context) { s.bind(ctx, it, d, start) }
}

// failed puts a pod aside that fits nowhere now.
func (s *Scheduler) failed(it *item, d Decision, reserved int, start time.Time) func(context.Context) {
	s.metrics.tried("unschedulable", s.config.Name, start)
	it.failures++
	it.errors = 0
	it.until = time.Now().Add(delay(it.failures))
	s.queue.put(it, waiting)
	s.config.Logger.Debug("no node", "pod", it.key, "why", d.Message)

	if d.Preemption != nil {
		s.metrics.preempted.Inc()
		s.metrics.victims.Observe(float64(len(d.Preemption.victims)))
		s.cluster.reserve(it.pod, d.Preemption.Node)
	}
	nominate := ""
	now := s.cluster.reservedFor(it.key)
	if now != none {
		nominate = s.cluster.nodes[now].name
	}
	if reserved != none && reserved != now {
		s.roomOn(reserved)
	}
	speak := d.Message != it.said || time.Since(it.saidAt) > repeatEvents
	if speak {
		it.said, it.saidAt = d.Message, time.Now()
	}
	p := it.pod
	return func(ctx context.Context) { s.report(ctx, p, d, nominate, speak) }
}

// repeatEvents is how often the same reason is told again by an event.
const repeatEvents = 5 * time.Minute
