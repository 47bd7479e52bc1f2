package election

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/record"
)

// Kinds of lock, by the names that the flag takes.
const (
	EndpointsLeases = "endpointsleases"
	Leases          = "leases" // for clusters whose rights don't extend to Endpoints
)

// Config says what is elected, and how.
type Config struct {
	// Enabled false means that Run leads at once, unfenced.
	Enabled         bool
	Namespace, Name string // of the lock
	ResourceLock    string
	// A candidate takes over when nobody has renewed for LeaseDuration (whole seconds). The leader renews
	// each RetryPeriod, and gives up after failing to for RenewDeadline.
	LeaseDuration, RenewDeadline, RetryPeriod time.Duration

	Client *rest.Config
	Logger *slog.Logger
	// Metrics gets leader_election_master_status; nil: none.
	Metrics prometheus.Registerer
}

// Defaults returns the configuration for a component's lock, with which
// another process leads at most four seconds after the leader was killed: a
// leader that renewed just before leaves three seconds to wait.
func Defaults(name string) Config {
	return Config{Enabled: true, Namespace: metav1.NamespaceSystem, Name: name, ResourceLock: EndpointsLeases,
		LeaseDuration: 3 * time.Second, RenewDeadline: 2 * time.Second, RetryPeriod: 750 * time.Millisecond}
}

// AddFlags registers the --leader-elect flags, under Kubernetes' names.
func (c *Config) AddFlags(flags *pflag.FlagSet) {
	flags.BoolVar(&c.Enabled, "leader-elect", c.Enabled, "start working only after being elected")
	flags.DurationVar(&c.LeaseDuration, "leader-elect-lease-duration", c.LeaseDuration, "how long a lease that nobody renews is respected, in whole seconds")
	flags.DurationVar(&c.RenewDeadline, "leader-elect-renew-deadline", c.RenewDeadline, "how long a leader tries to renew before it stops leading")
	flags.DurationVar(&c.RetryPeriod, "leader-elect-retry-period", c.RetryPeriod, "how long to wait between tries to acquire and to renew")
	flags.StringVar(&c.ResourceLock, "leader-elect-resource-lock", c.ResourceLock, "what is locked: endpointsleases or leases")
	flags.StringVar(&c.Name, "leader-elect-resource-name", c.Name, "name of the lock's objects")
	flags.StringVar(&c.Namespace, "leader-elect-resource-namespace", c.Namespace, "namespace of the lock's objects")
}

// Election is one process' candidacy.
type Election struct {
	config   Config
	identity string
	status   prometheus.Gauge
	health   *leaderelection.HealthzAdaptor
}

// Won is what a new leader is given.
type Won struct {
	// Config is for the leader's clients: writes are fenced, and refused once leading is over.
	Config   *rest.Config
	Identity string
	// Revision at which the lock was won; 0 when elections are off.
	Revision int64
}

// New checks the configuration.
func New(c Config) (*Election, error) {
	if c.Enabled {
		switch {
		case c.ResourceLock != EndpointsLeases && c.ResourceLock != Leases:
			return nil, fmt.Errorf("leader election: unknown lock %q", c.ResourceLock)
		case c.LeaseDuration < time.Second || c.LeaseDuration%time.Second != 0:
			return nil, fmt.Errorf("leader election: lease duration %v is not in whole seconds", c.LeaseDuration)
		case c.RenewDeadline+c.RetryPeriod > c.LeaseDuration:
			return nil, fmt.Errorf("leader election: renew deadline %v and retry period %v don't fit into the lease duration %v", c.RenewDeadline, c.RetryPeriod, c.LeaseDuration)
		case c.RetryPeriod <= 0 || c.RenewDeadline <= time.Duration(leaderelection.JitterFactor*float64(c.RetryPeriod)):
			return nil, fmt.Errorf("leader election: renew deadline %v is too short for a retry period of %v", c.RenewDeadline, c.RetryPeriod)
		}
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("leader election: %w", err)
	}
	e := &Election{config: c, identity: host + "_" + string(uuid.NewUUID()), health: leaderelection.NewLeaderHealthzAdaptor(20 * time.Second)}
	e.status = prometheus.NewGauge(prometheus.GaugeOpts{Name: "leader_election_master_status", ConstLabels: prometheus.Labels{"name": c.Name},
		Help: "Gauge of if the reporting system is master of the relevant lease, 0 indicates backup, 1 indicates master. 'name' is the string used to identify the lease."})
	if c.Metrics != nil && c.Enabled {
		c.Metrics.MustRegister(e.status)
	}
	return e, nil
}

// Healthy is the health check "leaderElection": it fails for a leader that
// has not renewed for long and still runs.
func (e *Election) Healthy() error { return e.health.Check(nil) }

// Run waits for its turn, and calls lead with a context that ends with the
// leadership. It returns after lead has: lead's error, nil when ctx ended, or a
// [*Deposed] error when somebody else leads; then it doesn't wait for lead for long. When ctx ends the lock is released as soon as lead
// has returned, so that another process can go on at once.
func (e *Election) Run(ctx context.Context, lead func(context.Context, Won) error) error {
	if !e.config.Enabled {
		return lead(ctx, Won{Config: e.config.Client, Identity: e.identity})
	}
	work, stopWork := context.WithCancelCause(ctx)
	defer stopWork(nil)
	gone := make(chan struct{})
	f := &fence{lock: e.config.Namespace + "/" + e.config.Name, deposed: func(d *Deposed) { stopWork(d); close(gone) }}

	l, stopEvents, err := e.newLock(f)
	if err != nil {
		return err
	}
	defer stopEvents()

	won := make(chan struct{})
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: l, Name: e.config.Name, ReleaseOnCancel: true, WatchDog: e.health,
		LeaseDuration: e.config.LeaseDuration, RenewDeadline: e.config.RenewDeadline, RetryPeriod: e.config.RetryPeriod,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) { close(won) },
			OnStoppedLeading: func() {},
			OnNewLeader: func(id string) {
				if id != "" && id != e.identity {
					e.config.Logger.Info("leader is another", "lock", f.lock, "leader", id)
				}
			},
		}})
	if err != nil {
		return fmt.Errorf("leader election: %w", err)
	}
	e.health.SetLeaderElection(elector)

	candidate, stopCandidate := context.WithCancel(ctx) // ends when won
	defer stopCandidate()
	watching := make(chan struct{})
	go func() { defer close(watching); e.watch(candidate, l) }()
	defer func() { stopCandidate(); <-watching }()

	electing, stopElecting := context.WithCancel(context.WithoutCancel(ctx))
	over := make(chan struct{})
	go func() { defer close(over); elector.Run(electing) }()
	defer func() { stopElecting(); <-over }() // releases the lock, if it is ours

	e.config.Logger.Info("waiting for leadership", "lock", f.lock, "identity", e.identity)
	select {
	case <-ctx.Done():
		return nil
	case <-won:
	}
	stopCandidate()
	revision := l.revision.Load()
	e.config.Logger.Info("leading", "lock", f.lock, "identity", e.identity, "revision", revision)
	e.status.Set(1)
	defer e.status.Set(0)

	config := rest.CopyConfig(e.config.Client)
	config.Wrap(f.guard)
	done := make(chan error, 1)
	go func() {
		defer close(done)
		done <- lead(work, Won{Config: config, Identity: e.identity, Revision: revision})
	}()
	select {
	case err = <-done:
	case <-over:
		f.depose(false, "the lease could not be renewed")
	case <-gone:
	}
	if deposed := f.err(); deposed != nil {
		e.config.Logger.Error("stopping", "error", deposed)
		select {
		case <-done:
		case <-time.After(lastWords):
			e.config.Logger.Warn("not waiting for the work to end", "lock", f.lock)
		}
		return deposed
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// lastWords is how long the work may take to end when another process leads. None of its writes goes out
// any more, and only a process that has ended is started anew.
const lastWords = 3 * time.Second

// newLock makes the lock with clients of its own, and the recorder of its
// events. The returned function stops the recorder.
func (e *Election) newLock(f *fence) (*lock, func(), error) {
	config := rest.CopyConfig(e.config.Client)
	config.Wrap(f.learn)
	config.WarningHandlerWithContext = rest.NoWarnings{} // Endpoints are deprecated, we know
	config.UserAgent += " leader-election"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, nil, fmt.Errorf("leader election: client: %w", err)
	}
	patient := rest.CopyConfig(config) // the lock's client has deadlines of its own, and a watch
	patient.Timeout = 10 * time.Second
	events, err := coreclient.NewForConfig(patient)
	if err != nil {
		return nil, nil, fmt.Errorf("leader election: client: %w", err)
	}
	broadcaster := record.NewBroadcaster()
	broadcaster.StartRecordingToSink(&coreclient.EventSinkImpl{Interface: events.Events(e.config.Namespace)})
	l := &lock{namespace: e.config.Namespace, name: e.config.Name, identity: e.identity,
		leases:   client.CoordinationV1().Leases(e.config.Namespace),
		recorder: broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: e.config.Name}),
		fence:    f, duration: e.config.LeaseDuration, callTimeout: max(time.Second, e.config.RenewDeadline/2),
		jitter: e.config.RetryPeriod / 3, watched: make(chan *coordinationv1.Lease, 1)}
	if e.config.ResourceLock == EndpointsLeases {
		l.endpoints = client.CoreV1().Endpoints(e.config.Namespace)
	}
	return l, broadcaster.Shutdown, nil
}

// watch tells the lock about changes of the Lease, until ctx ends.
func (e *Election) watch(ctx context.Context, l *lock) {
	tell := func(lease *coordinationv1.Lease) {
		select {
		case <-l.watched: // only the latest counts
		default:
		}
		l.watched <- lease
	}
	informer := cache.NewSharedInformer(leaseSource(l.leases, l.name), &coordinationv1.Lease{}, 0)
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { tell(object.(*coordinationv1.Lease)) },
		UpdateFunc: func(_, object any) { tell(object.(*coordinationv1.Lease)) },
		DeleteFunc: func(any) { tell(nil) },
	})
	if err == nil {
		informer.RunWithContext(ctx)
	}
}

func leaseSource(leases coordinationclient.LeaseInterface, name string) cache.ListerWatcher {
	one := fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = one
			return leases.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = one
			return leases.Watch(ctx, o)
		},
	}
}

// FreshList makes an informer's first list a consistent read, so that the
// cache starts at the present and not at whatever an apiserver remembers. It is
// made for informers.WithTweakListOptions.
func FreshList(o *metav1.ListOptions) {
	if o.ResourceVersion == "0" {
		o.ResourceVersion = ""
	}
}

// CaughtUp waits until each informer has seen the revision at which the
// lock was won. Informers that watch a quiet resource learn of it by bookmarks, so this takes
// as long as the apiserver takes to send one.
func (w Won) CaughtUp(ctx context.Context, informers ...interface{ LastSyncResourceVersion() string }) error {
	const look = 10 * time.Millisecond // memory only; informers don't tell
	for _, informer := range informers {
		for {
			if revisionOf(informer.LastSyncResourceVersion()) >= w.Revision {
				break
			}
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(look):
			}
		}
	}
	return nil
}
