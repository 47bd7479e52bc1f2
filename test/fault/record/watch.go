package record

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// Event is what a watch delivered.
type Event struct {
	Type     watch.EventType
	Object   *unstructured.Unstructured
	Revision int64
	At       time.Time
}

// Watcher follows one resource in one namespace ("" for all, or for what has none). It lists
// once, and then watches; when a watch ends it goes on from the last revision that
// it saw, so that an apiserver which can't go on from there is noticed.
type Watcher struct {
	resource dynamic.ResourceInterface
	name     string
	stop     context.CancelFunc
	done     chan struct{}

	mu       sync.Mutex
	events   []Event
	revision int64
	resumed  int
	wrong    []error
	news     chan struct{} // closed and replaced with each event
}

// Watch begins to watch, on a connection of its own.
func Watch(ctx context.Context, config *rest.Config, resource schema.GroupVersionResource, namespace string) (*Watcher, error) {
	client, err := dynamic.NewForConfig(Foreign(config))
	if err != nil {
		return nil, err
	}
	w := &Watcher{resource: client.Resource(resource).Namespace(namespace), name: resource.Resource, done: make(chan struct{}), news: make(chan struct{})}
	list, err := w.resource.List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", w.name, err)
	}
	if w.revision, err = strconv.ParseInt(list.GetResourceVersion(), 10, 64); err != nil {
		return nil, fmt.Errorf("list %s: %w", w.name, err)
	}
	for i := range list.Items {
		w.events = append(w.events, Event{Type: watch.Added, Object: &list.Items[i], Revision: revisionOf(&list.Items[i]), At: time.Now()})
	}
	first, err := w.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", w.name, err)
	}
	ctx, w.stop = context.WithCancel(context.Background())
	go func() { defer close(w.done); w.run(ctx, first) }()
	return w, nil
}

func revisionOf(o *unstructured.Unstructured) int64 {
	n, _ := strconv.ParseInt(o.GetResourceVersion(), 10, 64)
	return n
}

func (w *Watcher) open(ctx context.Context) (watch.Interface, error) {
	return w.resource.Watch(ctx, metav1.ListOptions{AllowWatchBookmarks: true, ResourceVersion: strconv.FormatInt(w.Revision(), 10)})
}

func (w *Watcher) run(ctx context.Context, stream watch.Interface) {
	for ctx.Err() == nil {
		if stream != nil {
			for event := range receive(ctx, stream) {
				w.take(event)
			}
			stream.Stop()
		}
		var err error
		if stream, err = w.open(ctx); err != nil {
			w.refused(err)
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			continue
		}
		w.mu.Lock()
		w.resumed++
		w.mu.Unlock()
	}
	if stream != nil {
		stream.Stop()
	}
}

// receive are a stream's events until ctx ends.
func receive(ctx context.Context, stream watch.Interface) func(func(watch.Event) bool) {
	return func(yield func(watch.Event) bool) {
		for {
			select {
			case <-ctx.Done():
				return
			case event, ok := <-stream.ResultChan():
				if !ok || !yield(event) {
					return
				}
			}
		}
	}
}

// refused looks at why a watch was not begun: 410 is what must not be.
func (w *Watcher) refused(err error) {
	var status interface{ Status() metav1.Status }
	if errors.As(err, &status) {
		w.failed(status.Status())
	}
}

func (w *Watcher) failed(s metav1.Status) {
	if s.Code != 410 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.wrong) < 5 { // it will ask again, in vain
		w.wrong = append(w.wrong, fmt.Errorf("%s: watch from %d: %s", w.name, w.revision, s.Message))
	}
}

func (w *Watcher) take(event watch.Event) {
	o, ok := event.Object.(*unstructured.Unstructured)
	if event.Type == watch.Error {
		status, code := metav1.Status{}, int64(0)
		if ok {
			status.Message, _, _ = unstructured.NestedString(o.Object, "message")
			code, _, _ = unstructured.NestedInt64(o.Object, "code")
		} else if s, is := event.Object.(*metav1.Status); is {
			status, code = *s, int64(s.Code)
		}
		status.Code = int32(code)
		w.failed(status)
		return
	}
	if !ok {
		return
	}
	revision := revisionOf(o)
	w.mu.Lock()
	defer w.mu.Unlock()
	if revision < w.revision || revision == w.revision && event.Type != watch.Bookmark {
		w.wrong = append(w.wrong, fmt.Errorf("%s: %s of %s has revision %d, after %d", w.name, event.Type, o.GetName(), revision, w.revision))
	}
	w.revision = max(w.revision, revision)
	if event.Type != watch.Bookmark {
		w.events = append(w.events, Event{event.Type, o, revision, time.Now()})
	}
	close(w.news)
	w.news = make(chan struct{})
}

// Revision is the last that the watch has told of.
func (w *Watcher) Revision() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.revision
}

// Resumed is how often the watch was begun anew where the last one ended.
func (w *Watcher) Resumed() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.resumed
}

// Events are those so far; the objects of the first list come first, as Added.
func (w *Watcher) Events() []Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]Event(nil), w.events...)
}

// Wait waits until the events so far, which each call is given, are as they should be.
func (w *Watcher) Wait(ctx context.Context, what string, condition func([]Event) bool) error {
	for {
		w.mu.Lock()
		events, news := w.events[:len(w.events):len(w.events)], w.news
		w.mu.Unlock()
		if condition(events) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("watch of %s: %s: %w", w.name, what, ctx.Err())
		case <-news:
		}
	}
}

// Stop ends watching, and says what was wrong with it: a watch that could not be resumed
// without a list, or revisions that went back.
func (w *Watcher) Stop() error {
	w.stop()
	<-w.done
	return errors.Join(w.wrong...)
}
