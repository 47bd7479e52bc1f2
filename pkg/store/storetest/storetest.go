// Package storetest is what every implementation of store.Interface has to pass: one suite of
// cases ([Run]), and random operations compared with a model that fits in the head ([Compare]).
//
// The objects are pods, as small as they get, and config maps.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"skiff/pkg/api"
	"skiff/pkg/store"
)

// Instance is one store under test, empty.
type Instance struct {
	store.Interface
	// Compact discards everything before a revision.
	Compact func(revision int64) error
	// Restart stops what holds the data, starts it again, and returns a new store on it.
	Restart func() store.Interface
	// Another makes a second store on the same data.
	Another func() store.Interface
	// History is how many events per resource the store keeps by itself.
	History int
}

// Pods and ConfigMaps are the rows that the suite uses.
var (
	Pods = api.Define[corev1.Pod, corev1.PodList](corev1.SchemeGroupVersion, "pods", api.Kind{
		Namespaced: true,
		SelectableFields: func(obj api.Object) fields.Set {
			return fields.Set{"spec.nodeName": obj.(*corev1.Pod).Spec.NodeName}
		},
	})
	ConfigMaps = api.Define[corev1.ConfigMap, corev1.ConfigMapList](corev1.SchemeGroupVersion, "configmaps", api.Kind{Namespaced: true})
	Nodes      = api.Define[corev1.Node, corev1.NodeList](corev1.SchemeGroupVersion, "nodes", api.Kind{StoragePath: "minions"})
)

// Pod makes an object to store.
func Pod(namespace, name string, with ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	for _, w := range with {
		w(p)
	}
	return p
}

// OnNode and Labelled vary a pod.
func OnNode(node string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.NodeName = node }
}

func Labelled(pairs ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Labels = map[string]string{}
		for i := 0; i < len(pairs); i += 2 {
			p.Labels[pairs[i]] = pairs[i+1]
		}
	}
}

// PodKey is where a pod is stored.
func PodKey(namespace, name string) store.Key {
	return store.Key{Path: "pods", Namespace: namespace, Name: name}
}

// suite is one case's hands.
type suite struct {
	*testing.T
	Instance
	ctx context.Context
}

// Run runs the suite; open is called for every case.
func Run(t *testing.T, open func(*testing.T) Instance) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			c.run(&suite{t, open(t), ctx})
		})
	}
}

type testCase struct {
	name string
	run  func(*suite)
}

var cases []testCase

func (s *suite) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *suite) create(p *corev1.Pod) *store.Entry {
	s.Helper()
	e, err := s.Create(s.ctx, Pods, PodKey(p.Namespace, p.Name), p, store.Write{})
	s.must(err)
	return e
}

func (s *suite) update(namespace, name string, change func(*corev1.Pod)) *store.Entry {
	s.Helper()
	e, err := s.Update(s.ctx, Pods, PodKey(namespace, name), store.Write{}, func(current api.Object) (api.Object, error) {
		change(current.(*corev1.Pod))
		return current, nil
	})
	s.must(err)
	return e
}

func (s *suite) delete(namespace, name string) *store.Entry {
	s.Helper()
	e, err := s.Delete(s.ctx, Pods, PodKey(namespace, name), store.Write{}, nil)
	s.must(err)
	return e
}

func (s *suite) list(q store.Query) *store.Page {
	s.Helper()
	page, err := s.List(s.ctx, Pods, q)
	s.must(err)
	return page
}

func names(entries []*store.Entry) []string {
	out := []string{}
	for _, e := range entries {
		out = append(out, e.Key.Namespace+"/"+e.Key.Name)
	}
	return out
}

// stream reads a watch event by event.
type stream struct {
	s     *suite
	watch store.Watch
	ready []store.Event
}

func (s *suite) watch(q store.WatchQuery) *stream {
	s.Helper()
	w, err := s.Watch(s.ctx, Pods, q)
	s.must(err)
	return &stream{s: s, watch: w}
}

func (w *stream) next() (store.Event, error) {
	if len(w.ready) == 0 {
		var err error
		if w.ready, err = w.watch.Next(nil); err != nil {
			return store.Event{}, err
		}
	}
	e := w.ready[0]
	w.ready = w.ready[1:]
	return e, nil
}

// expect reads as many events as are wanted and compares their "TYPE namespace/name".
func (w *stream) expect(want ...string) (events []store.Event) {
	w.s.Helper()
	for i := range want {
		e, err := w.next()
		if err != nil {
			w.s.Fatalf("event %d of %q: %v", i, want, err)
		}
		if got := describe(e); got != want[i] {
			w.s.Fatalf("event %d: %s, want %s", i, got, want[i])
		}
		events = append(events, e)
	}
	return events
}

func describe(e store.Event) string {
	if e.Entry == nil {
		if e.InitialEventsEnd {
			return "BOOKMARK end"
		}
		return string(e.Type)
	}
	return fmt.Sprintf("%s %s/%s", e.Type, e.Entry.Key.Namespace, e.Entry.Key.Name)
}

// expired reads on until the watch ends, which it has to do with 410.
func (w *stream) expired() {
	w.s.Helper()
	for {
		if _, err := w.next(); err != nil {
			if !apierrors.IsResourceExpired(err) {
				w.s.Fatalf("the watch ended with %v, want Expired", err)
			}
			return
		}
	}
}

func (s *suite) reason(err error, want metav1.StatusReason) {
	s.Helper()
	if got := apierrors.ReasonForError(err); got != want {
		s.Fatalf("got error %v (%s), want %s", err, got, want)
	}
}

var errRefused = errors.New("refused")
