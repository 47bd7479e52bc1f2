package storetest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"pgregory.net/rapid"

	"skiff/pkg/api"
	"skiff/pkg/store"
)

// Compare does random things to a store and to a model of it, and compares every answer. Each round has a namespace of its own.
func Compare(t *testing.T, instance Instance) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	stores := []store.Interface{instance.Interface, instance.Another()}
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		m := &model{T: rt, ctx: ctx, stores: stores, compact: instance.Compact, namespace: fmt.Sprintf("ns%04d", round), now: map[string]state{}}
		if rapid.IntRange(0, 9).Draw(rt, "a new store") == 0 {
			m.late = instance.Another
		}
		var err error
		if m.began, err = stores[0].Revision(ctx); err != nil {
			rt.Fatal(err)
		}
		rt.Repeat(map[string]func(*rapid.T){
			"create":  m.create,
			"update":  m.update,
			"delete":  m.delete,
			"get":     m.get,
			"list":    m.list,
			"page":    m.page,
			"exact":   m.exact,
			"watch":   m.watch,
			"compact": m.compactSome,
			"late":    m.startLate,
		})
		for _, w := range m.watches {
			w.compare(m)
		}
		stores = m.stores
	})
}

// state is what the model knows of a pod.
type state struct {
	revision  int64
	node, app string
}

// step is one write; state.node is "-" where the pod was deleted.
type step struct {
	name  string
	state state
	gone  bool
}

type model struct {
	*rapid.T
	ctx       context.Context
	stores    []store.Interface
	compact   func(int64) error
	late      func() store.Interface // nil: not in this round, or done
	namespace string
	began     int64
	compacted int64

	now     map[string]state
	history []step
	watches []*observed
}

var (
	podNames = rapid.SampledFrom([]string{"a", "b", "c", "d", "e"})
	nodes    = rapid.SampledFrom([]string{"", "n1", "n2"})
	apps     = rapid.SampledFrom([]string{"", "web", "db"})
)

func (m *model) any(t *rapid.T) store.Interface { return rapid.SampledFrom(m.stores).Draw(t, "store") }

func (m *model) pod(t *rapid.T, name string) *corev1.Pod {
	p := Pod(m.namespace, name, OnNode(nodes.Draw(t, "node")))
	if app := apps.Draw(t, "app"); app != "" {
		Labelled("app", app)(p)
	}
	return p
}

func (m *model) record(name string, e *store.Entry, gone bool) {
	s := state{e.Revision, e.Fields["spec.nodeName"], e.Labels["app"]}
	m.history = append(m.history, step{name, s, gone})
	if gone {
		delete(m.now, name)
	} else {
		m.now[name] = s
	}
}

func (m *model) create(t *rapid.T) {
	name := podNames.Draw(t, "name")
	e, err := m.any(t).Create(m.ctx, Pods, PodKey(m.namespace, name), m.pod(t, name), store.Write{})
	if _, exists := m.now[name]; exists {
		if !apierrors.IsAlreadyExists(err) {
			t.Fatalf("create of what exists: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	m.record(name, e, false)
}

func (m *model) update(t *rapid.T) {
	name := podNames.Draw(t, "name")
	next := m.pod(t, name)
	before, exists := m.now[name]
	e, err := m.any(t).Update(m.ctx, Pods, PodKey(m.namespace, name), store.Write{}, func(current api.Object) (api.Object, error) {
		p := current.(*corev1.Pod)
		p.Spec.NodeName, p.Labels = next.Spec.NodeName, next.Labels
		return p, nil
	})
	switch {
	case !exists && apierrors.IsNotFound(err):
	case !exists || err != nil:
		t.Fatalf("update, exists %v: %v", exists, err)
	case before.node == next.Spec.NodeName && before.app == next.Labels["app"]:
		if e.Revision != before.revision {
			t.Fatalf("an update without a change moved %d to %d", before.revision, e.Revision)
		}
	default:
		m.record(name, e, false)
	}
}

func (m *model) delete(t *rapid.T) {
	name := podNames.Draw(t, "name")
	e, err := m.any(t).Delete(m.ctx, Pods, PodKey(m.namespace, name), store.Write{}, nil)
	if _, exists := m.now[name]; !exists {
		if !apierrors.IsNotFound(err) {
			t.Fatalf("delete of nothing: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	m.record(name, e, true)
}

func (m *model) get(t *rapid.T) {
	name := podNames.Draw(t, "name")
	e, err := m.any(t).Get(m.ctx, Pods, PodKey(m.namespace, name), 0)
	want, exists := m.now[name]
	if !exists {
		if !apierrors.IsNotFound(err) {
			t.Fatalf("get of nothing: %v, %v", e, err)
		}
		return
	}
	if err != nil || toState(e) != want {
		t.Fatalf("get: %+v, %v, want %+v", e, err, want)
	}
}

func toState(e *store.Entry) state {
	return state{e.Revision, e.Fields["spec.nodeName"], e.Labels["app"]}
}

// selection is a random selector.
type selection struct {
	name, node, app string
	notNode         bool
}

func draw(t *rapid.T) selection {
	return selection{
		name:    rapid.OneOf(rapid.Just(""), rapid.Just(""), podNames).Draw(t, "by name"),
		node:    nodes.Draw(t, "by node"),
		app:     apps.Draw(t, "by app"),
		notNode: rapid.Bool().Draw(t, "not that node"),
	}
}

func (s selection) selectors() (labels.Selector, fields.Selector) {
	l, f := labels.Everything(), fields.Everything()
	if s.app != "" {
		l = labels.SelectorFromSet(labels.Set{"app": s.app})
	}
	if s.node != "" {
		f = fields.OneTermEqualSelector("spec.nodeName", s.node)
		if s.notNode {
			f = fields.OneTermNotEqualSelector("spec.nodeName", s.node)
		}
	}
	return l, f
}

func (s selection) matches(name string, st state) bool {
	return (s.name == "" || s.name == name) && (s.app == "" || s.app == st.app) &&
		(s.node == "" || (s.node == st.node) != s.notNode)
}

// render writes down the pods that match, in order.
func render(pods map[string]state, s selection) string {
	var out []string
	for name, st := range pods {
		if s.matches(name, st) {
			out = append(out, fmt.Sprint(name, st))
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func renderEntries(entries []*store.Entry) string {
	var out []string
	for _, e := range entries {
		out = append(out, fmt.Sprint(e.Key.Name, toState(e)))
	}
	return strings.Join(out, " ")
}

// at is the model's state at a revision.
func (m *model) at(revision int64) map[string]state {
	pods := map[string]state{}
	for _, s := range m.history {
		if s.state.revision > revision {
			break
		}
		if s.gone {
			delete(pods, s.name)
		} else {
			pods[s.name] = s.state
		}
	}
	return pods
}

func (m *model) query(s selection) store.Query {
	l, f := s.selectors()
	return store.Query{Namespace: m.namespace, Name: s.name, Labels: l, Fields: f}
}

func (m *model) list(t *rapid.T) {
	s := draw(t)
	page, err := m.any(t).List(m.ctx, Pods, m.query(s))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := renderEntries(page.Entries), render(m.now, s); got != want {
		t.Fatalf("%+v lists %s, want %s", s, got, want)
	}
}

// page lists in pieces, each from any of the stores, while writes go on.
func (m *model) page(t *rapid.T) {
	s := draw(t)
	q := m.query(s)
	q.Limit = rapid.Int64Range(1, 3).Draw(t, "limit")
	want := render(m.now, s)
	var got []*store.Entry
	for {
		page, err := m.any(t).List(m.ctx, Pods, q)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, page.Entries...)
		if q.Continue = page.Continue; q.Continue == "" {
			break
		}
		m.update(t)
	}
	if got := renderEntries(got); got != want {
		t.Fatalf("pages of %+v hold %s, want %s", s, got, want)
	}
}

// past is a revision from which on the model knows everything.
func (m *model) past(t *rapid.T) int64 {
	last := m.began
	if n := len(m.history); n > 0 {
		last = m.history[n-1].state.revision
	}
	return rapid.Int64Range(m.began, last).Draw(t, "revision")
}

func (m *model) exact(t *rapid.T) {
	s, revision := draw(t), m.past(t)
	q := m.query(s)
	q.ResourceVersion, q.Match = fmt.Sprint(revision), "Exact"
	page, err := m.any(t).List(m.ctx, Pods, q)
	if apierrors.IsResourceExpired(err) && revision < m.compacted {
		return
	}
	if err != nil {
		t.Fatalf("at %d, compacted to %d: %v", revision, m.compacted, err)
	}
	if got, want := renderEntries(page.Entries), render(m.at(revision), s); got != want {
		t.Fatalf("%+v at %d lists %s, want %s", s, revision, got, want)
	}
}

func (m *model) compactSome(t *rapid.T) {
	if !rapid.Bool().Draw(t, "really") {
		return
	}
	revision := m.past(t)
	if revision <= m.compacted {
		return
	}
	if err := m.compact(revision); err != nil && !strings.Contains(err.Error(), "compacted") {
		t.Fatal(err)
	}
	m.compacted = revision
}

// startLate replaces a store by one that has seen nothing of this round.
func (m *model) startLate(t *rapid.T) {
	if m.late != nil && len(m.history) > 0 {
		m.stores = []store.Interface{m.stores[0], m.late()}
		m.late = nil
	}
}

// observed is a watch that is being read.
type observed struct {
	selection selection
	from      int64
	until     atomic.Int64 // read to a bookmark of this revision, once that is known
	done      chan struct{}

	got []string
	err error
}

func (o *observed) read(w store.Watch) {
	defer close(o.done)
	for {
		events, err := w.Next(nil)
		if o.err = err; err != nil {
			return
		}
		for _, e := range events {
			if e.Type == store.Bookmark {
				if until := o.until.Load(); until > 0 && e.Revision >= until {
					return
				}
				continue
			}
			o.got = append(o.got, fmt.Sprint(e.Type, " ", e.Entry.Key.Name, toState(e.Entry)))
			if e.Revision != e.Entry.Revision {
				o.err = fmt.Errorf("event of revision %d with an entry of %d", e.Revision, e.Entry.Revision)
				return
			}
		}
	}
}

func (m *model) watch(t *rapid.T) {
	if len(m.watches) > 20 {
		return
	}
	s, revision := draw(t), m.past(t)
	l, f := s.selectors()
	w, err := m.any(t).Watch(m.ctx, Pods, store.WatchQuery{Namespace: m.namespace, Name: s.name, Labels: l, Fields: f,
		ResourceVersion: fmt.Sprint(revision), Bookmarks: true})
	if apierrors.IsResourceExpired(err) && revision < m.compacted {
		return
	}
	if err != nil {
		t.Fatalf("watch from %d, compacted to %d: %v", revision, m.compacted, err)
	}
	o := &observed{selection: s, from: revision, done: make(chan struct{})}
	m.watches = append(m.watches, o)
	go o.read(w)
}

// expected are the events that a watch should see.
func (m *model) expected(o *observed) (events []string) {
	pods := m.at(o.from)
	for _, s := range m.history {
		if s.state.revision <= o.from {
			continue
		}
		old, existed := pods[s.name]
		before, after := existed && o.selection.matches(s.name, old), !s.gone && o.selection.matches(s.name, s.state)
		kind, shown := "", s.state
		switch {
		case before && after:
			kind = "MODIFIED"
		case after:
			kind = "ADDED"
		case before:
			kind = "DELETED"
			shown.node, shown.app = old.node, old.app
		}
		if kind != "" {
			events = append(events, fmt.Sprint(kind, " ", s.name, shown))
		}
		if s.gone {
			delete(pods, s.name)
		} else {
			pods[s.name] = s.state
		}
	}
	return events
}

// compare reads the watch to its end. One that could not keep up may have ended early, but not with a wrong event.
func (o *observed) compare(m *model) {
	last := m.began
	if n := len(m.history); n > 0 {
		last = m.history[n-1].state.revision
	}
	o.until.Store(last)
	<-o.done
	want := m.expected(o)
	if apierrors.IsResourceExpired(o.err) {
		want = want[:min(len(want), len(o.got))]
	} else if o.err != nil {
		m.Fatalf("watch from %d: %v", o.from, o.err)
	}
	if !slices.Equal(o.got, want) {
		m.Fatalf("watch of %+v from %d saw\n%s\nwant\n%s", o.selection, o.from, strings.Join(o.got, "\n"), strings.Join(want, "\n"))
	}
}
