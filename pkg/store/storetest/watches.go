package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"skiff/pkg/store"
)

func init() {
	cases = append(cases,
		testCase{"WatchEvents", watchEvents},
		testCase{"WatchSelects", watchSelects},
		testCase{"WatchSyntheticStart", watchSyntheticStart},
		testCase{"WatchList", watchList},
		testCase{"WatchFromBeforeTheCache", watchFromBeforeTheCache},
		testCase{"WatchCompacted", watchCompacted},
		testCase{"WatchTooSlow", watchTooSlow},
		testCase{"WatchSleepsThroughTheLog", watchSleepsThroughTheLog},
		testCase{"WatchBookmarks", watchBookmarks},
		testCase{"WatchEnds", watchEnds},
		testCase{"ThousandWatchersOneEncoding", thousandWatchersOneEncoding},
	)
}

func watchEvents(s *suite) {
	first := s.create(Pod("a", "x"))
	w := s.watch(store.WatchQuery{ResourceVersion: fmt.Sprint(first.Revision)})
	updated := s.update("a", "x", func(p *corev1.Pod) { p.Spec.NodeName = "n" })
	created := s.create(Pod("b", "y"))
	gone := s.delete("a", "x")
	events := w.expect("MODIFIED a/x", "ADDED b/y", "DELETED a/x")
	for i, want := range []*store.Entry{updated, created, gone} {
		if events[i].Revision != want.Revision || events[i].Entry.Revision != want.Revision {
			s.Errorf("event %d has revision %d, its entry %d, the write was %d", i, events[i].Revision, events[i].Entry.Revision, want.Revision)
		}
	}
	last, err := events[2].Entry.Object()
	s.must(err)
	if p := last.(*corev1.Pod); p.Spec.NodeName != "n" || p.ResourceVersion != fmt.Sprint(gone.Revision) {
		s.Errorf("the deletion shows %v", p)
	}
}

func watchSelects(s *suite) {
	e := s.create(Pod("a", "x", OnNode("n1"), Labelled("app", "web")))
	from := fmt.Sprint(e.Revision)
	node := s.watch(store.WatchQuery{ResourceVersion: from, Fields: fields.OneTermEqualSelector("spec.nodeName", "n2")})
	web := s.watch(store.WatchQuery{ResourceVersion: from, Labels: labels.SelectorFromSet(labels.Set{"app": "web"})})
	name := s.watch(store.WatchQuery{ResourceVersion: from, Namespace: "b", Name: "x"})
	namespace := s.watch(store.WatchQuery{ResourceVersion: from, Namespace: "b"})
	s.create(Pod("b", "x", OnNode("n2")))
	moved := s.update("a", "x", func(p *corev1.Pod) { p.Spec.NodeName = "n2"; p.Labels["app"] = "db" })
	s.update("a", "x", func(p *corev1.Pod) { p.Labels["app"] = "web" })
	left := s.update("a", "x", func(p *corev1.Pod) { p.Spec.NodeName = "n3" })
	s.delete("b", "x")
	events := node.expect("ADDED b/x", "ADDED a/x", "MODIFIED a/x", "DELETED a/x", "DELETED b/x")
	if events[1].Revision != moved.Revision || events[3].Revision != left.Revision {
		s.Errorf("revisions %d and %d, want %d and %d", events[1].Revision, events[3].Revision, moved.Revision, left.Revision)
	}
	if got := events[3].Entry; got.Fields["spec.nodeName"] != "n2" || got.Revision != left.Revision {
		s.Errorf("what left the selection shows %v at %d, want its last state that matched, at %d", got.Fields, got.Revision, left.Revision)
	}
	web.expect("DELETED a/x", "ADDED a/x", "MODIFIED a/x")
	name.expect("ADDED b/x", "DELETED b/x")
	namespace.expect("ADDED b/x", "DELETED b/x")
}

func watchSyntheticStart(s *suite) {
	s.create(Pod("a", "x"))
	s.create(Pod("b", "y"))
	s.list(store.Query{})
	for _, from := range []string{"", "0"} {
		w := s.watch(store.WatchQuery{ResourceVersion: from})
		w.expect("ADDED a/x", "ADDED b/y")
		s.update("a", "x", func(p *corev1.Pod) { p.Spec.NodeName += from + "n" })
		w.expect("MODIFIED a/x")
	}
	no := false
	w := s.watch(store.WatchQuery{SendInitialEvents: &no})
	s.delete("a", "x")
	w.expect("DELETED a/x")
}

func watchList(s *suite) {
	s.create(Pod("a", "x"))
	e := s.create(Pod("b", "y"))
	yes := true
	for _, from := range []string{"", "0", fmt.Sprint(e.Revision)} {
		w := s.watch(store.WatchQuery{ResourceVersion: from, Match: "NotOlderThan", SendInitialEvents: &yes, Bookmarks: true})
		events := w.expect("ADDED a/x", "ADDED b/y", "BOOKMARK end")
		if got := events[2].Revision; from != "0" && got < e.Revision {
			s.Errorf("from %q: the initial events end at %d, before %d", from, got, e.Revision)
		}
		s.update("b", "y", func(p *corev1.Pod) { p.Spec.NodeName += "n" })
		w.expect("MODIFIED b/y")
	}
	empty := s.watch(store.WatchQuery{Namespace: "none", SendInitialEvents: &yes, Bookmarks: true})
	empty.expect("BOOKMARK end")
}

// A store that has just started serves watches from before its start, as long as etcd remembers.
func watchFromBeforeTheCache(s *suite) {
	first := s.create(Pod("a", "x"))
	s.update("a", "x", func(p *corev1.Pod) { p.Spec.NodeName = "n1" })
	second := s.create(Pod("a", "y", OnNode("n1")))
	s.update("a", "x", func(p *corev1.Pod) { p.Spec.NodeName = "n2" })
	s.delete("a", "y")
	other := s.Another()
	_, err := other.List(s.ctx, Pods, store.Query{})
	s.must(err)
	late := &suite{s.T, s.Instance, s.ctx}
	late.Interface = other
	recent := late.watch(store.WatchQuery{ResourceVersion: fmt.Sprint(second.Revision)})
	old := late.watch(store.WatchQuery{ResourceVersion: fmt.Sprint(first.Revision)})
	node := late.watch(store.WatchQuery{ResourceVersion: fmt.Sprint(first.Revision), Fields: fields.OneTermEqualSelector("spec.nodeName", "n1")})
	s.create(Pod("a", "z"))
	recent.expect("MODIFIED a/x", "DELETED a/y", "ADDED a/z")
	old.expect("MODIFIED a/x", "ADDED a/y", "MODIFIED a/x", "DELETED a/y", "ADDED a/z")
	node.expect("ADDED a/x", "ADDED a/y", "DELETED a/x", "DELETED a/y")
	page, err := other.List(s.ctx, Pods, store.Query{ResourceVersion: fmt.Sprint(second.Revision), Match: "Exact"})
	s.must(err)
	if got := fmt.Sprint(names(page.Entries)); got != "[a/x a/y]" || page.Entries[0].Fields["spec.nodeName"] != "n1" {
		s.Errorf("a list before the cache's start holds %s", got)
	}
}

func watchCompacted(s *suite) {
	first := s.create(Pod("a", "x"))
	for i := range 3 {
		s.update("a", "x", func(p *corev1.Pod) { p.Spec.NodeName = fmt.Sprint(i) })
	}
	now, err := s.Revision(s.ctx)
	s.must(err)
	s.must(s.Compact(now))
	other := s.Another()
	_, err = other.List(s.ctx, Pods, store.Query{})
	s.must(err)
	_, err = other.Watch(s.ctx, Pods, store.WatchQuery{ResourceVersion: fmt.Sprint(first.Revision)})
	s.reason(err, metav1.StatusReasonExpired)
	if want := fmt.Sprintf("too old resource version: %d (", first.Revision); len(err.Error()) < len(want) || err.Error()[:len(want)] != want {
		s.Errorf("message %q, want %q…", err, want)
	}
}

func watchTooSlow(s *suite) {
	first := s.create(Pod("a", "x"))
	w := s.watch(store.WatchQuery{ResourceVersion: fmt.Sprint(first.Revision)})
	for i := range 2*s.History + 2 {
		s.update("a", "x", func(p *corev1.Pod) { p.Spec.NodeName = fmt.Sprint(i) })
	}
	s.list(store.Query{})
	w.expired()
}

// A watcher whom nothing concerns may sleep for longer than the log remembers.
func watchSleepsThroughTheLog(s *suite) {
	s.create(Pod("a", "x"))
	first := s.create(Pod("a", "y"))
	w := s.watch(store.WatchQuery{ResourceVersion: fmt.Sprint(first.Revision), Name: "y"})
	got := make(chan store.Event, 1)
	go func() {
		e, err := w.next()
		if err != nil {
			s.Error(err)
		}
		got <- e
	}()
	for i := range 2*s.History + 2 {
		s.update("a", "x", func(p *corev1.Pod) { p.Spec.NodeName = fmt.Sprint(i) })
	}
	s.delete("a", "y")
	if e := <-got; describe(e) != "DELETED a/y" {
		s.Errorf("got %s", describe(e))
	}
}

// A bookmark is not older than what was acknowledged when the watch was idle, and comes without events, too.
func watchBookmarks(s *suite) {
	s.create(Pod("a", "x"))
	w := s.watch(store.WatchQuery{ResourceVersion: "0", Bookmarks: true, Name: "x"})
	w.expect("ADDED a/x")
	later := s.create(Pod("a", "y"))
	s.list(store.Query{})
	for {
		if e := w.expect("BOOKMARK")[0]; e.Revision >= later.Revision {
			return
		}
	}
}

func watchEnds(s *suite) {
	e := s.create(Pod("a", "x"))
	ctx, cancel := context.WithCancel(s.ctx)
	w, err := s.Watch(ctx, Pods, store.WatchQuery{ResourceVersion: fmt.Sprint(e.Revision)})
	s.must(err)
	ended := make(chan error)
	go func() { _, err := w.Next(nil); ended <- err }()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		s.Errorf("ended with %v", err)
	}
}

func thousandWatchersOneEncoding(s *suite) {
	e := s.create(Pod("a", "x"))
	const watchers, events = 1000, 10
	var encoded atomic.Int64
	var group sync.WaitGroup
	for range watchers {
		w := s.watch(store.WatchQuery{ResourceVersion: fmt.Sprint(e.Revision)})
		group.Go(func() {
			for range events {
				e, err := w.next()
				if err != nil {
					s.Error(err)
					return
				}
				_, err = e.Entry.Encoding("test", func() ([]byte, error) { encoded.Add(1); return nil, nil })
				if err != nil {
					s.Error(err)
				}
			}
		})
	}
	for i := range events {
		s.update("a", "x", func(p *corev1.Pod) { p.Spec.NodeName = fmt.Sprint(i) })
	}
	group.Wait()
	if n := encoded.Load(); n != events {
		s.Errorf("%d events were encoded %d times", events, n)
	}
}
