// Package reconcile is the one loop behind every controller, the scheduler's
// side work and the agent's: keys go into a queue, workers take them out and
// reconcile each until it is as it should be.
//
// The loop supplies what each of them would otherwise write again: a key is
// never worked on twice at once, a failure is logged once and tried again with
// growing delay, a panic costs one turn of one key, and a key whose own last
// writes the caches haven't seen waits (see [Loop.Wrote]), so that a reconcile
// never decides on a state that it has itself already changed.
//
// What a reconcile decides is a pure function of a snapshot, kept in a package
// of its own; this package knows nothing about it.
package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/util/workqueue"
)

// Config describes a loop.
type Config[K comparable] struct {
	// Name is the queue's name in logs and metrics: "deployment".
	Name string
	// Workers is how many keys are worked on at once; 0 is 1.
	Workers int
	// Reconcile brings what key names one step, or all the way, to what it should be.
	// A positive duration asks for another turn after that time; an error asks for
	// one after the back-off. The context ends when the loop stops.
	Reconcile func(ctx context.Context, key K) (again time.Duration, err error)
	// MinDelay and MaxDelay bound the back-off after errors; 0 is 5 ms and 1,000 s,
	// which are the delays of Kubernetes' controllers.
	MinDelay, MaxDelay time.Duration
	Logger             *slog.Logger
	// Metrics, when set, counts turns by result under workqueue's upstream names.
	Metrics *Metrics
}

// Loop is a queue of keys and its workers. Add may be called from anywhere,
// also before Run.
type Loop[K comparable] struct {
	config Config[K]
	queue  workqueue.TypedRateLimitingInterface[K]

	mu     sync.Mutex
	writes map[K][]write
	waits  map[K]int
}

// New makes a loop. It starts nothing.
func New[K comparable](config Config[K]) *Loop[K] {
	if config.Workers == 0 {
		config.Workers = 1
	}
	if config.MinDelay == 0 {
		config.MinDelay = 5 * time.Millisecond
	}
	if config.MaxDelay == 0 {
		config.MaxDelay = 1000 * time.Second
	}
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	return &Loop[K]{
		config: config,
		queue: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[K](config.MinDelay, config.MaxDelay)),
		writes: map[K][]write{},
		waits:  map[K]int{},
	}
}

// Add asks for a turn of key soon. Keys already waiting are not added twice;
// one that is being worked on gets another turn afterwards.
func (l *Loop[K]) Add(key K) { l.queue.Add(key) }

// AddAfter asks for a turn of key after a delay.
func (l *Loop[K]) AddAfter(key K, delay time.Duration) { l.queue.AddAfter(key, delay) }

// Len is the number of keys waiting.
func (l *Loop[K]) Len() int { return l.queue.Len() }

// Run works until ctx ends and the turns under way have returned. A loop runs once.
func (l *Loop[K]) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, l.queue.ShutDown)
	defer stop()
	var workers sync.WaitGroup
	for range l.config.Workers {
		workers.Go(func() {
			for l.turn(ctx) {
			}
		})
	}
	workers.Wait()
	return nil
}

func (l *Loop[K]) turn(ctx context.Context) bool {
	key, shutdown := l.queue.Get()
	if shutdown {
		return false
	}
	defer l.queue.Done(key)
	if ctx.Err() != nil {
		return true
	}
	if delay, wait := l.unseen(key); wait {
		l.queue.AddAfter(key, delay)
		return true
	}
	start := time.Now()
	again, err := l.guarded(ctx, key)
	l.config.Metrics.observe(l.config.Name, time.Since(start), err)
	switch {
	case err == nil:
		l.queue.Forget(key)
		if again > 0 {
			l.queue.AddAfter(key, again)
		}
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		// stopping
	default:
		level := slog.LevelWarn
		if apierrors.IsConflict(err) {
			level = slog.LevelDebug // somebody else wrote first: what the next turn is for
		}
		l.config.Logger.Log(ctx, level, "reconcile failed, trying again", "loop", l.config.Name,
			"key", fmt.Sprint(key), "failures", l.queue.NumRequeues(key)+1, "err", err)
		l.queue.AddRateLimited(key)
	}
	return true
}

// guarded turns a panic into an error of this turn.
func (l *Loop[K]) guarded(ctx context.Context, key K) (again time.Duration, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	return l.config.Reconcile(ctx, key)
}

// Metrics are the workqueue metrics that Kubernetes' components export.
type Metrics struct {
	duration *prometheus.HistogramVec
	retries  *prometheus.CounterVec
}

// NewMetrics registers the metrics.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	m := &Metrics{
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "workqueue_work_duration_seconds", Help: "How long in seconds processing an item from workqueue takes.",
			Buckets: prometheus.ExponentialBuckets(1e-5, 10, 8)}, []string{"name"}),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "workqueue_retries_total", Help: "Total number of retries handled by workqueue"}, []string{"name"}),
	}
	registry.MustRegister(m.duration, m.retries)
	return m
}

func (m *Metrics) observe(name string, took time.Duration, err error) {
	if m == nil {
		return
	}
	m.duration.WithLabelValues(name).Observe(took.Seconds())
	if err != nil {
		m.retries.WithLabelValues(name).Inc()
	}
}
