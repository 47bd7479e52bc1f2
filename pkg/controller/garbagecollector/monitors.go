package garbagecollector

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/tools/cache"
)

// rediscover is how often the resources of the server are looked up anew. A custom resource
// definition or API service that comes or goes has it done at once.
const rediscover = 30 * time.Second

// ignored resources have no owners worth following, and are many.
var ignored = map[schema.GroupResource]bool{
	{Group: "", Resource: "events"}:              true,
	{Group: "events.k8s.io", Resource: "events"}: true,
}

// definitions are the resources whose objects bring other resources with them.
var definitions = map[schema.GroupResource]bool{
	{Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions"}: true,
	{Group: "apiregistration.k8s.io", Resource: "apiservices"}:             true,
}

// mapping is where the objects of a kind are.
type mapping struct {
	resource   schema.GroupVersionResource
	namespaced bool
}

// discovered is what the server offers.
type discovered struct {
	// watchable resources in their preferred versions, with their kinds.
	watchable map[schema.GroupVersionResource]schema.GroupVersionKind
	kinds     map[schema.GroupVersionKind]mapping // in all versions
	failed    map[schema.GroupVersion]bool        // group versions that couldn't be asked
}

// discover asks the server. What it learned is worth something also with an error.
func discover(client discovery.DiscoveryInterface) (discovered, error) {
	d := discovered{
		watchable: map[schema.GroupVersionResource]schema.GroupVersionKind{},
		kinds:     map[schema.GroupVersionKind]mapping{},
		failed:    map[schema.GroupVersion]bool{},
	}
	groups, lists, err := client.ServerGroupsAndResources()
	if failed, ok := err.(*discovery.ErrGroupDiscoveryFailed); ok {
		for gv := range failed.Groups {
			d.failed[gv] = true
		}
	} else if err != nil {
		return d, err
	}
	rank := versionRanks(groups)
	best := map[schema.GroupResource]schema.GroupVersionResource{}
	for _, list := range lists {
		gv, parseErr := schema.ParseGroupVersion(list.GroupVersion)
		if parseErr != nil {
			continue
		}
		for _, r := range list.APIResources {
			if strings.Contains(r.Name, "/") {
				continue
			}
			resource, kind := gv.WithResource(r.Name), gv.WithKind(r.Kind)
			d.kinds[kind] = mapping{resource, r.Namespaced}
			if ignored[resource.GroupResource()] || !supports(r.Verbs, "delete", "list", "watch") {
				continue
			}
			known, exists := best[resource.GroupResource()]
			if exists && rank[known.GroupVersion()] <= rank[gv] {
				continue
			}
			delete(d.watchable, known)
			best[resource.GroupResource()] = resource
			d.watchable[resource] = kind
		}
	}
	return d, err
}

// versionRanks orders the versions of each group by the server's preference.
func versionRanks(groups []*metav1.APIGroup) map[schema.GroupVersion]int {
	ranks := map[schema.GroupVersion]int{}
	for _, group := range groups {
		for i, version := range group.Versions {
			rank := i + 1
			if version.Version == group.PreferredVersion.Version {
				rank = 0
			}
			ranks[schema.GroupVersion{Group: group.Name, Version: version.Version}] = rank
		}
	}
	return ranks
}

func supports(verbs []string, needed ...string) bool {
	return !slices.ContainsFunc(needed, func(verb string) bool { return !slices.Contains(verbs, verb) })
}

// monitor feeds the objects of one resource into the graph. It is the store of a
// reflector and keeps nothing itself.
type monitor struct {
	collector *Collector
	resource  schema.GroupVersionResource
	kind      schema.GroupVersionKind
	cancel    context.CancelFunc
	done      chan struct{}
	synced    chan struct{}
	once      sync.Once
}

var _ cache.ReflectorStore = (*monitor)(nil)

func (m *monitor) put(item any) error {
	meta, ok := item.(*metav1.PartialObjectMetadata)
	if !ok {
		return fmt.Errorf("watch of %s sent a %T", m.resource, item)
	}
	m.collector.enqueue(m.collector.graph.put(objectOf(m.resource, m.kind, meta)))
	return nil
}

// Add takes in an object.
func (m *monitor) Add(item any) error {
	m.definitionChanged()
	return m.put(item)
}

// Update takes in an object.
func (m *monitor) Update(item any) error { return m.put(item) }

// Delete takes out an object.
func (m *monitor) Delete(item any) error {
	meta, ok := item.(*metav1.PartialObjectMetadata)
	if !ok {
		return fmt.Errorf("watch of %s sent a %T", m.resource, item)
	}
	m.definitionChanged()
	m.collector.enqueue(m.collector.graph.remove(meta.UID))
	return nil
}

// Replace takes in a list.
func (m *monitor) Replace(items []any, _ string) error {
	all := make([]*object, 0, len(items))
	for _, item := range items {
		if meta, ok := item.(*metav1.PartialObjectMetadata); ok {
			all = append(all, objectOf(m.resource, m.kind, meta))
		}
	}
	m.collector.enqueue(m.collector.graph.replace(m.resource, m.kind.GroupKind(), all))
	m.once.Do(func() { close(m.synced) })
	return nil
}

// Resync has nothing to do.
func (m *monitor) Resync() error { return nil }

func (m *monitor) definitionChanged() {
	if definitions[m.resource.GroupResource()] {
		m.collector.rediscoverSoon()
	}
}

func (c *Collector) startMonitor(ctx context.Context, resource schema.GroupVersionResource, kind schema.GroupVersionKind) *monitor {
	ctx, cancel := context.WithCancel(ctx)
	m := &monitor{collector: c, resource: resource, kind: kind, cancel: cancel, done: make(chan struct{}), synced: make(chan struct{})}
	client := c.metadata.Resource(resource)
	source := cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			if o.ResourceVersion == "0" { // a new leader must not begin in the past
				o.ResourceVersion = ""
			}
			return client.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return client.Watch(ctx, o)
		},
	}, c.metadata)
	reflector := cache.NewReflectorWithOptions(source, &metav1.PartialObjectMetadata{}, m, cache.ReflectorOptions{Name: "garbage collector " + resource.String()})
	go func() {
		defer close(m.done)
		reflector.RunWithContext(ctx)
	}()
	return m
}

// watchResources keeps one monitor per resource of the server until ctx ends.
func (c *Collector) watchResources(ctx context.Context) error {
	monitors := map[schema.GroupVersionResource]*monitor{}
	defer func() {
		for _, m := range monitors {
			m.cancel()
			<-m.done
		}
	}()
	announced := false
	for {
		found, err := discover(c.client.Discovery())
		if err != nil {
			c.log.Warn("not all resources could be discovered", "err", err)
		}
		c.setKinds(found.kinds, len(found.failed) > 0 || err != nil)
		c.adjust(ctx, monitors, found, err)
		if !announced && len(monitors) > 0 {
			announced = true
			go c.announceSynced(ctx, slices.Collect(maps.Values(monitors)))
		}
		wait := rediscover
		if len(monitors) == 0 {
			wait = time.Second
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		case <-c.wake:
			// Definitions often come in numbers, and take a moment to be served.
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(time.Second):
			}
		}
	}
}

// adjust starts monitors of resources that are new and stops those of resources that
// are certain to be gone.
func (c *Collector) adjust(ctx context.Context, monitors map[schema.GroupVersionResource]*monitor, found discovered, err error) {
	for resource, kind := range found.watchable {
		if monitors[resource] == nil {
			monitors[resource] = c.startMonitor(ctx, resource, kind)
		}
	}
	if err != nil && len(found.failed) == 0 {
		return // nothing was learned
	}
	for resource, m := range monitors {
		if _, still := found.watchable[resource]; still || found.failed[resource.GroupVersion()] {
			continue
		}
		m.cancel()
		<-m.done
		delete(monitors, resource)
		c.graph.forget(resource)
	}
}

// announceSynced lets decisions begin when the graph is complete; what can't be listed
// (a broken aggregated API) is not waited for longer than half a minute.
func (c *Collector) announceSynced(ctx context.Context, monitors []*monitor) {
	timeout := time.After(rediscover)
	for _, m := range monitors {
		select {
		case <-m.synced:
		case <-timeout:
			c.log.Warn("resource isn't synced, going on without it", "resource", m.resource.String())
			timeout = time.After(0)
		case <-ctx.Done():
			return
		}
	}
	close(c.synced)
}
