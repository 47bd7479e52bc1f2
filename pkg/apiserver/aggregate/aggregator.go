package aggregate

import (
	"context"
	"crypto/tls"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/lookup"
	"skiff/pkg/component"
	"skiff/pkg/store"
)

var (
	apiServices = schema.GroupResource{Group: v1.GroupName, Resource: "apiservices"}
	services    = schema.GroupResource{Resource: "services"}
	slicesOf    = schema.GroupResource{Group: discoveryv1.GroupName, Resource: "endpointslices"}
)

// Config is what an Aggregator works with.
type Config struct {
	Catalogue *api.Catalogue
	Store     store.Interface
	// Objects is a view of Store.
	Objects *lookup.Store
	// Resolve finds the address (host:port) at which a service's port is reached.
	Resolve func(ctx context.Context, namespace, name string, port int32) (string, error)
	// Track records in next's managedFields what of its status was changed from live.
	Track func(live, next api.Object) api.Object
	// Delete deletes the very APIService that is given, past admission.
	Delete func(context.Context, *v1.APIService) error
	// CertFile and KeyFile are the identity of the front proxy, which servers of others believe; empty: it has none.
	CertFile, KeyFile string
	Logger            *slog.Logger
	Metrics           prometheus.Registerer
}

// Aggregator knows who serves what. Its methods may be called concurrently with [Aggregator.Run].
type Aggregator struct {
	cfg         Config
	metrics     *metrics
	certificate func(*tls.CertificateRequestInfo) (*tls.Certificate, error)
	state       atomic.Pointer[State]

	mu      sync.Mutex // held while the state changes
	workers map[string]*worker
	working sync.WaitGroup

	first  sync.Once
	remote chan struct{} // closed when there is an APIService with a service for the first time
	look   chan struct{} // at the APIServices of what is served here; holds one
}

// State is what is known at one moment: it doesn't change.
type State struct {
	objects map[string]*v1.APIService
	remotes map[schema.GroupVersion]*Remote
}

// worker is the goroutine that keeps one APIService's condition.
type worker struct {
	stop context.CancelFunc
	poke chan struct{} // something has changed; holds one
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// New makes an aggregator that knows of nothing yet.
func New(cfg Config) *Aggregator {
	a := &Aggregator{cfg: cfg, metrics: newMetrics(cfg.Metrics), workers: map[string]*worker{}, remote: make(chan struct{}), look: make(chan struct{}, 1)}
	if cfg.CertFile != "" {
		a.certificate = component.ReloadingClientCertificate(cfg.CertFile, cfg.KeyFile)
	}
	a.state.Store(&State{objects: map[string]*v1.APIService{}})
	return a
}

// State is what is known now.
func (a *Aggregator) State() *State { return a.state.Load() }

// Remote is who serves a version of a group, if it isn't this server.
func (s *State) Remote(gv schema.GroupVersion) *Remote { return s.remotes[gv] }

// Alone says that no other server answers anything.
func (s *State) Alone() bool { return len(s.remotes) == 0 }

// Run follows the APIServices until ctx ends. synced is called when all that there were are known.
func (a *Aggregator) Run(ctx context.Context, synced func()) error {
	if a.cfg.Catalogue.View().ByResource(apiServices.WithVersion("v1")) == nil { // a catalogue without APIServices
		synced()
		<-ctx.Done()
		return ctx.Err()
	}
	var group component.Group
	group.Add("follow APIServices", func(ctx context.Context) error {
		defer a.working.Wait()
		return a.cfg.Objects.Follow(ctx, apiServices, synced, func(changes []lookup.Change) { a.follow(ctx, changes) })
	})
	group.Add("register APIServices", a.register)
	for _, resource := range []schema.GroupResource{services, slicesOf} {
		group.Add("follow "+resource.Resource+" of APIServices", func(ctx context.Context) error {
			select { // most clusters have no use for it
			case <-a.remote:
			case <-ctx.Done():
				return ctx.Err()
			}
			return a.cfg.Objects.Follow(ctx, resource, nil, a.serviceChanged)
		})
	}
	return group.Run(ctx)
}

// follow takes up changes of APIServices.
func (a *Aggregator) follow(ctx context.Context, changes []lookup.Change) {
	a.change(func(s *State) {
		for _, change := range changes {
			object := change.Object.(*v1.APIService)
			delete(s.objects, object.Name)
			if !change.Deleted {
				s.objects[object.Name] = object
			}
		}
		before := s.remotes
		s.remotes = map[schema.GroupVersion]*Remote{}
		for name, object := range s.objects {
			if object.Spec.Service != nil && object.Spec.Group != v1.GroupName { // that one could never be taken back
				s.remotes[versionOf(object)] = a.successor(before[versionOf(object)], object)
				a.employ(ctx, name, before[versionOf(object)], object)
			}
		}
		for gv, r := range before {
			if now := s.remotes[gv]; now == nil || now.transport != r.transport {
				r.transport.CloseIdleConnections()
			}
			if s.remotes[gv] == nil {
				a.workers[r.object.Name].stop()
				delete(a.workers, r.object.Name)
			}
		}
	})
	poke(a.look)
}

// successor is what is known of an APIService's server after a change of the APIService.
func (a *Aggregator) successor(old *Remote, object *v1.APIService) *Remote {
	if old == nil || !sameServer(old.object, object) {
		return &Remote{object: object, transport: newTransport(object, a.certificate)}
	}
	next := *old
	next.object = object
	return &next
}

// employ sees to it that somebody keeps the APIService's condition, and looks anew when there is reason to. Another
// apiserver's opinion is none.
func (a *Aggregator) employ(ctx context.Context, name string, old *Remote, object *v1.APIService) {
	w := a.workers[name]
	if w == nil {
		a.first.Do(func() { close(a.remote) })
		ctx, stop := context.WithCancel(ctx)
		w = &worker{stop: stop, poke: make(chan struct{}, 1)}
		a.workers[name] = w
		a.working.Go(func() { a.keep(ctx, versionOf(object), w.poke) })
	} else if old == nil || helper.GetAPIServiceConditionByType(object, v1.Available) == nil || !equality.Semantic.DeepEqual(old.object.Spec, object.Spec) {
		poke(w.poke)
	}
}

// serviceChanged has the APIServices looked at whose service, or one of its endpoint slices, has changed.
func (a *Aggregator) serviceChanged(changes []lookup.Change) {
	changed := map[string]bool{}
	for _, change := range changes {
		name := change.Object.GetName()
		if slice, ok := change.Object.(*discoveryv1.EndpointSlice); ok {
			name = slice.Labels[discoveryv1.LabelServiceName]
		}
		changed[change.Object.GetNamespace()+"/"+name] = true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.state.Load().remotes {
		if service := r.object.Spec.Service; changed[service.Namespace+"/"+service.Name] {
			poke(a.workers[r.object.Name].poke)
		}
	}
}

// change makes the next state out of a copy of the present one, if it differs.
func (a *Aggregator) change(edit func(*State)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.state.Load()
	next := &State{objects: maps.Clone(now.objects), remotes: maps.Clone(now.remotes)}
	edit(next)
	if !maps.Equal(next.objects, now.objects) || !maps.Equal(next.remotes, now.remotes) {
		a.state.Store(next)
	}
}
