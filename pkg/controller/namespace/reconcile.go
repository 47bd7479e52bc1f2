// Package namespace empties a namespace that is being deleted, and lets it go.
//
// What is in it is found through discovery, so that custom and aggregated
// resources are deleted as well. Pods go first and alone: what they use (secrets,
// network policies) stays until the last of them has stopped. The finalizer
// "kubernetes" in the namespace's spec is taken away when a pass over all resources
// has found nothing, at least two seconds after the deletion was first seen: by then no
// apiserver still takes the namespace for active and lets something new in.
package namespace

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"

	"skiff/pkg/controller/reconciler"
	"skiff/pkg/reconcile"
)

const (
	// settle is how long after the deletion was seen a namespace may be let go at the earliest.
	settle = 2 * time.Second
	// again is when to look whether what remained has gone. The end of a pod is noticed at once.
	again = time.Second
)

var podResource = schema.GroupResource{Resource: "pods"}

// Reconciler deletes namespaces. Its keys are their names.
type Reconciler struct {
	client     kubernetes.Interface
	metadata   metadata.Interface
	namespaces corelisters.NamespaceLister
	synced     []cache.InformerSynced
	loop       *reconcile.Loop[string]
	log        *slog.Logger

	mu        sync.Mutex
	firstSeen map[string]time.Time // when a deletion was noticed, by namespace
}

// New makes the reconciler.
func New(c reconciler.Config, metadata metadata.Interface) *Reconciler {
	namespaces, pods := c.Informers.Core().V1().Namespaces(), c.Informers.Core().V1().Pods()
	r := &Reconciler{
		client: c.Client, metadata: metadata, namespaces: namespaces.Lister(), log: c.Logger,
		synced:    []cache.InformerSynced{namespaces.Informer().HasSynced, pods.Informer().HasSynced},
		firstSeen: map[string]time.Time{},
	}
	r.loop = reconciler.Loop(c, "namespace", 10, reconcile.Config[string]{Reconcile: r.reconcile, MaxDelay: time.Minute})
	reconciler.OnChange(namespaces.Informer(), func(old, current *v1.Namespace) {
		if current == nil {
			r.forget(old.Name)
		} else if current.DeletionTimestamp != nil {
			r.see(current.Name)
			r.loop.Add(current.Name)
		}
	})
	reconciler.OnChange(pods.Informer(), func(old, current *v1.Pod) {
		if current == nil && r.seen(old.Namespace) {
			r.loop.Add(old.Namespace)
		}
	})
	return r
}

// Run works until ctx ends.
func (r *Reconciler) Run(ctx context.Context) error { return reconciler.Run(ctx, r.synced, r.loop.Run) }

func (r *Reconciler) see(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.firstSeen[name]; !known {
		r.firstSeen[name] = time.Now()
	}
}

func (r *Reconciler) seen(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, known := r.firstSeen[name]
	return known
}

func (r *Reconciler) forget(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.firstSeen, name)
}

// settling is how long the namespace must still be kept.
func (r *Reconciler) settling(name string) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return settle - time.Since(r.firstSeen[name])
}

func (r *Reconciler) reconcile(ctx context.Context, name string) (time.Duration, error) {
	if _, err := r.namespaces.Get(name); apierrors.IsNotFound(err) {
		return 0, nil
	}
	// Past all caches: deletion can't be taken back, but a name can be used again.
	namespace, err := r.client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("get namespace %s: %w", name, err)
	}
	if namespace.DeletionTimestamp == nil || !slices.Contains(namespace.Spec.Finalizers, v1.FinalizerKubernetes) {
		return 0, nil
	}
	r.see(name)
	outcome := r.empty(ctx, name)
	namespace, err = r.report(ctx, namespace, outcome)
	if err != nil {
		return 0, err
	}
	if err := outcome.Err(); err != nil {
		return 0, fmt.Errorf("delete the content of namespace %s: %w", name, err)
	}
	if !outcome.Done() {
		return again, nil
	}
	if wait := r.settling(name); wait > 0 {
		return wait, nil
	}
	return 0, r.finalize(ctx, namespace)
}

// report writes phase and conditions, and returns the namespace as it is then.
func (r *Reconciler) report(ctx context.Context, namespace *v1.Namespace, outcome Outcome) (*v1.Namespace, error) {
	updated, changed := Conditions(namespace.Status.Conditions, outcome, time.Now())
	if !changed && namespace.Status.Phase == v1.NamespaceTerminating {
		return namespace, nil
	}
	namespace = namespace.DeepCopy()
	namespace.Status.Phase, namespace.Status.Conditions = v1.NamespaceTerminating, updated
	written, err := r.client.CoreV1().Namespaces().UpdateStatus(ctx, namespace, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("update status of namespace %s: %w", namespace.Name, err)
	}
	return written, nil
}

func (r *Reconciler) finalize(ctx context.Context, namespace *v1.Namespace) error {
	namespace = namespace.DeepCopy()
	namespace.Spec.Finalizers = slices.DeleteFunc(namespace.Spec.Finalizers, func(f v1.FinalizerName) bool { return f == v1.FinalizerKubernetes })
	_, err := r.client.CoreV1().Namespaces().Finalize(ctx, namespace, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("finalize namespace %s: %w", namespace.Name, err)
	}
	r.log.Info("namespace emptied", "namespace", namespace.Name)
	return nil
}

// empty deletes what is in a namespace: pods, and when there are none left the rest.
func (r *Reconciler) empty(ctx context.Context, name string) Outcome {
	o := Outcome{Remaining: map[schema.GroupResource]int{}, Finalizers: map[string]int{}}
	resources, err := deletable(r.client.Discovery())
	o.Discovery = err
	isPods := func(res resource) bool { return res.GroupResource() == podResource }
	if i := slices.IndexFunc(resources, isPods); i >= 0 {
		r.emptyOne(ctx, name, resources[i], &o)
	}
	if len(o.Remaining) > 0 || len(o.Content) > 0 {
		return o
	}
	for _, res := range resources {
		if !isPods(res) {
			r.emptyOne(ctx, name, res, &o)
		}
	}
	return o
}

// emptyOne deletes the objects of one resource, and counts those that are still there afterwards.
func (r *Reconciler) emptyOne(ctx context.Context, name string, res resource, o *Outcome) {
	client := r.metadata.Resource(res.GroupVersionResource).Namespace(name)
	failed := func(err error) {
		// A resource can vanish, or answer less than it promised, between discovery and now.
		if !apierrors.IsNotFound(err) && !apierrors.IsMethodNotSupported(err) {
			o.Content = append(o.Content, err)
		}
	}
	found, err := client.List(ctx, metav1.ListOptions{})
	if err != nil {
		failed(err)
		return
	}
	if len(found.Items) == 0 {
		return
	}
	background := metav1.DeletePropagationBackground
	options := metav1.DeleteOptions{PropagationPolicy: &background}
	if res.collection {
		if err := client.DeleteCollection(ctx, options, metav1.ListOptions{}); err != nil {
			failed(err)
		}
	} else {
		for _, item := range found.Items {
			if err := client.Delete(ctx, item.Name, options); err != nil {
				failed(err)
			}
		}
	}
	left, err := client.List(ctx, metav1.ListOptions{})
	if err != nil {
		failed(err)
		return
	}
	if len(left.Items) == 0 {
		return
	}
	o.Remaining[res.GroupResource()] = len(left.Items)
	for _, item := range left.Items {
		for _, finalizer := range item.Finalizers {
			o.Finalizers[finalizer]++
		}
	}
}

// resource is one that can be emptied.
type resource struct {
	schema.GroupVersionResource
	collection bool // deletecollection is served
}

// deletable asks the server for all namespaced resources that can be listed and
// deleted, each in its preferred version. With an error it returns those that it knows nevertheless.
func deletable(client discovery.DiscoveryInterface) ([]resource, error) {
	lists, err := discovery.ServerPreferredNamespacedResources(client)
	var found []resource
	for _, list := range lists {
		gv, parseErr := schema.ParseGroupVersion(list.GroupVersion)
		if parseErr != nil {
			continue
		}
		for _, r := range list.APIResources {
			if slices.Contains(r.Verbs, "delete") && slices.Contains(r.Verbs, "list") {
				found = append(found, resource{gv.WithResource(r.Name), slices.Contains(r.Verbs, "deletecollection")})
			}
		}
	}
	return found, err
}
