// Package reconciler is what every reconciler of the controller is given, and
// the few lines that each would otherwise repeat: typed informer handlers, waiting
// for caches, running loops until the context ends.
//
// A reconciler's New registers handlers and indexes and does no I/O; its Run
// waits until the caches have synced, works, and returns when all has stopped.
package reconciler

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"skiff/pkg/component"
	"skiff/pkg/reconcile"
)

// Config is what every reconciler is given.
type Config struct {
	// Client acts with the reconciler's own identity.
	Client kubernetes.Interface
	// Reader may list and watch everything: for informers that aren't shared.
	Reader kubernetes.Interface
	// Informers is shared by all reconcilers; whoever assembles them starts it.
	Informers informers.SharedInformerFactory
	Events    record.EventRecorder
	Logger    *slog.Logger
	Metrics   *reconcile.Metrics // may be nil
}

// Key names a namespaced object.
type Key = types.NamespacedName

// KeyOf returns an object's key.
func KeyOf(object metav1.Object) Key {
	return Key{Namespace: object.GetNamespace(), Name: object.GetName()}
}

// Loop makes a reconcile loop with the configuration's logger and metrics.
func Loop[K comparable](c Config, name string, workers int, turn reconcile.Config[K]) *reconcile.Loop[K] {
	turn.Name, turn.Workers, turn.Logger, turn.Metrics = name, workers, c.Logger, c.Metrics
	return reconcile.New(turn)
}

// Run waits for the informers' caches and then runs the loops until ctx ends.
func Run(ctx context.Context, synced []cache.InformerSynced, loops ...func(context.Context) error) error {
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return ctx.Err()
	}
	var group component.Group
	for i, loop := range loops {
		group.Add(fmt.Sprintf("loop %d", i), loop)
	}
	return group.Run(ctx)
}

// OnChange calls handle for each event of an informer: with old nil for an added
// object, with current nil for a deleted one.
func OnChange[T metav1.Object](informer cache.SharedIndexInformer, handle func(old, current T)) {
	var none T
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(object any) {
			if current, ok := object.(T); ok {
				handle(none, current)
			}
		},
		UpdateFunc: func(before, after any) {
			old, okOld := before.(T)
			current, okCurrent := after.(T)
			if okOld && okCurrent {
				handle(old, current)
			}
		},
		DeleteFunc: func(object any) {
			if missed, ok := object.(cache.DeletedFinalStateUnknown); ok {
				object = missed.Obj
			}
			if old, ok := object.(T); ok {
				handle(old, none)
			}
		},
	})
	if err != nil { // only an informer that has been stopped refuses
		panic(fmt.Sprintf("event handler for a stopped informer: %v", err))
	}
}

// OnEach calls handle with the newest state of each object that an informer reports,
// the last one for a deleted object.
func OnEach[T metav1.Object](informer cache.SharedIndexInformer, handle func(T)) {
	var none T
	OnChange(informer, func(old, current T) {
		if any(current) == any(none) {
			current = old
		}
		handle(current)
	})
}

// Index adds an index to an informer, unless another reconciler already has.
func Index[T any](informer cache.SharedIndexInformer, name string, values func(T) []string) {
	if _, exists := informer.GetIndexer().GetIndexers()[name]; exists {
		return
	}
	err := informer.AddIndexers(cache.Indexers{name: func(object any) ([]string, error) {
		typed, ok := object.(T)
		if !ok {
			return nil, nil
		}
		return values(typed), nil
	}})
	if err != nil { // two reconcilers indexing at once, or a stopped informer: a mistake in assembling
		panic(fmt.Sprintf("index %s: %v", name, err))
	}
}

// Indexed returns the objects that an index has under a value.
func Indexed[T any](indexer cache.Indexer, name, value string) []T {
	objects, err := indexer.ByIndex(name, value)
	if err != nil { // the index was registered by New
		panic(fmt.Sprintf("index %s: %v", name, err))
	}
	typed := make([]T, 0, len(objects))
	for _, object := range objects {
		if t, ok := object.(T); ok {
			typed = append(typed, t)
		}
	}
	return typed
}

// RunWith is [Run] for a reconciler with informers of its own, which it starts and stops.
func RunWith(ctx context.Context, own []cache.SharedIndexInformer, synced []cache.InformerSynced, loops ...func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	var informers sync.WaitGroup
	defer informers.Wait()
	defer cancel()
	for _, informer := range own {
		informers.Go(func() { informer.RunWithContext(ctx) })
		synced = append(synced, informer.HasSynced)
	}
	return Run(ctx, synced, loops...)
}
