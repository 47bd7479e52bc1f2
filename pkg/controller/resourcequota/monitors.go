package resourcequota

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/tools/cache"

	"skiff/pkg/api/quota"
)

const (
	// rediscover is how often a resource that isn't served is looked for again.
	rediscover = 30 * time.Second
	// remembered is how long what isn't served is known not to be.
	remembered = 5 * time.Second
)

var errNotServed = errors.New("the resource isn't served")

// served finds the version in which the server prefers to serve a namespaced resource.
type served struct {
	client discovery.DiscoveryInterface

	mu    sync.Mutex
	known map[schema.GroupResource]schema.GroupVersionResource
	asked time.Time
}

func (s *served) find(gr schema.GroupResource) (schema.GroupVersionResource, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if gvr, ok := s.known[gr]; ok {
		return gvr, nil
	}
	if time.Since(s.asked) < remembered {
		return schema.GroupVersionResource{}, errNotServed
	}
	lists, err := discovery.ServerPreferredNamespacedResources(s.client)
	if err != nil && len(lists) == 0 {
		return schema.GroupVersionResource{}, fmt.Errorf("discover resources: %w", err)
	}
	s.asked = time.Now()
	if err == nil || s.known == nil { // else some group couldn't be asked, and what is known of it stays
		s.known = map[schema.GroupResource]schema.GroupVersionResource{}
	}
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			continue
		}
		for _, r := range list.APIResources {
			if slices.Contains(r.Verbs, "create") && slices.Contains(r.Verbs, "list") && slices.Contains(r.Verbs, "watch") {
				s.known[schema.GroupResource{Group: gv.Group, Resource: r.Name}] = gv.WithResource(r.Name)
			}
		}
	}
	if gvr, ok := s.known[gr]; ok {
		return gvr, nil
	}
	return schema.GroupVersionResource{}, errNotServed
}

// forget has all resources looked up anew: one of them has gone.
func (s *served) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known, s.asked = nil, time.Time{}
}

// watchContents keeps one watch per resource that a quota tracks, until ctx ends. Pods, services and quotas
// are watched by informers.
func (r *Reconciler) watchContents(ctx context.Context) error {
	running := map[schema.GroupVersionResource]context.CancelFunc{}
	var watches sync.WaitGroup
	defer watches.Wait()
	for {
		wanted := r.wanted()
		for gvr := range wanted {
			if running[gvr] == nil {
				watching, cancel := context.WithCancel(ctx)
				running[gvr] = cancel
				watches.Go(func() { r.follow(watching, gvr) })
			}
		}
		for gvr, cancel := range running {
			if !wanted[gvr] {
				cancel()
				delete(running, gvr)
			}
		}
		select {
		case <-ctx.Done():
			for _, cancel := range running {
				cancel()
			}
			return nil
		case <-r.wake:
		case <-time.After(rediscover):
		}
	}
}

func (r *Reconciler) wanted() map[schema.GroupVersionResource]bool {
	wanted := map[schema.GroupVersionResource]bool{}
	all, err := r.quotas.List(labels.Everything())
	if err != nil {
		return wanted
	}
	for _, q := range all {
		for gr := range tracked(q) {
			if gr == pods || gr == services || gr == quotas {
				continue
			}
			if gvr, err := r.served.find(gr); err == nil {
				wanted[gvr] = true
			} else if !errors.Is(err, errNotServed) {
				r.log.Warn("a resource under quota isn't watched", "resource", gr.String(), "err", err)
			}
		}
	}
	return wanted
}

// follow watches one resource. It keeps nothing.
func (r *Reconciler) follow(ctx context.Context, resource schema.GroupVersionResource) {
	client := r.metadata.Resource(resource)
	source := cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := client.List(ctx, o)
			if apierrors.IsNotFound(err) {
				r.served.forget()
			}
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return client.Watch(ctx, o)
		},
	}, r.metadata)
	sink := &monitor{r, resource.GroupResource()}
	cache.NewReflectorWithOptions(source, &metav1.PartialObjectMetadata{}, sink, cache.ReflectorOptions{Name: "resource quota " + resource.String()}).RunWithContext(ctx)
}

// monitor is the store of a reflector: it passes on where something may have been released.
type monitor struct {
	reconciler *Reconciler
	resource   schema.GroupResource
}

var _ cache.ReflectorStore = (*monitor)(nil)

// Add has nothing to do: the apiserver charges what is created.
func (m *monitor) Add(any) error { return nil }

// Update looks at what can shrink.
func (m *monitor) Update(item any) error {
	if quota.Counted(m.resource) {
		return nil
	}
	return m.Delete(item)
}

// Delete has the quotas of the object's namespace counted.
func (m *monitor) Delete(item any) error {
	object, ok := item.(metav1.Object)
	if !ok {
		return fmt.Errorf("watch of %s sent a %T", m.resource, item)
	}
	m.reconciler.released(m.resource, object.GetNamespace())
	return nil
}

// Replace begins anew: whatever was released meanwhile, nobody has told.
func (m *monitor) Replace([]any, string) error {
	m.reconciler.released(m.resource, metav1.NamespaceAll)
	return nil
}

// Resync has nothing to do.
func (m *monitor) Resync() error { return nil }
