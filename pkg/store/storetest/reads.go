package storetest

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"skiff/pkg/store"
)

func init() {
	cases = append(cases,
		testCase{"ListSelects", listSelects},
		testCase{"ListSeesEveryAcknowledgedWrite", listSeesEveryAcknowledgedWrite},
		testCase{"ListPages", listPages},
		testCase{"ListExact", listExact},
		testCase{"ListFuture", listFuture},
		testCase{"ListCompacted", listCompacted},
		testCase{"ListBadTokens", listBadTokens},
		testCase{"ClusterScoped", clusterScoped},
		testCase{"RestartKeepsEverything", restartKeepsEverything},
	)
}

func listSelects(s *suite) {
	s.create(Pod("a", "x", Labelled("app", "web"), OnNode("n1")))
	s.create(Pod("a", "y", Labelled("app", "db"), OnNode("n2")))
	s.create(Pod("aa", "x", Labelled("app", "web"), OnNode("n2")))
	s.create(Pod("b", "z"))
	selector := func(text string) labels.Selector { l, err := labels.Parse(text); s.must(err); return l }
	for _, c := range []struct {
		q    store.Query
		want string
	}{
		{store.Query{}, "a/x a/y aa/x b/z"},
		{store.Query{ResourceVersion: "0"}, "a/x a/y aa/x b/z"},
		{store.Query{Namespace: "a"}, "a/x a/y"},
		{store.Query{Namespace: "c"}, ""},
		{store.Query{Name: "x"}, "a/x aa/x"},
		{store.Query{Namespace: "aa", Name: "x"}, "aa/x"},
		{store.Query{Labels: selector("app=web")}, "a/x aa/x"},
		{store.Query{Labels: selector("!app")}, "b/z"},
		{store.Query{Fields: fields.OneTermEqualSelector("spec.nodeName", "n2")}, "a/y aa/x"},
		{store.Query{Fields: fields.OneTermEqualSelector("metadata.name", "x"), Namespace: "a"}, "a/x"},
		{store.Query{Fields: fields.OneTermNotEqualSelector("metadata.namespace", "a"), Labels: selector("app")}, "aa/x"},
	} {
		if got := strings.Join(names(s.list(c.q).Entries), " "); got != c.want {
			s.Errorf("%+v lists %q, want %q", c.q, got, c.want)
		}
	}
}

// The consistent read: what was acknowledged, here or elsewhere, is in every later list and get.
func listSeesEveryAcknowledgedWrite(s *suite) {
	other := s.Another()
	s.list(store.Query{})
	for i := range 50 {
		name := fmt.Sprintf("p%02d", i)
		e, err := other.Create(s.ctx, Pods, PodKey("a", name), Pod("a", name), store.Write{})
		s.must(err)
		page := s.list(store.Query{})
		if len(page.Entries) != i+1 || page.Revision < e.Revision {
			s.Fatalf("%d objects at %d after %d writes, the last at %d", len(page.Entries), page.Revision, i+1, e.Revision)
		}
		if i%5 == 0 { // a write elsewhere moves the revision without an event here
			name := fmt.Sprint("c", i)
			_, err := other.Create(s.ctx, ConfigMaps, store.Key{Path: "configmaps", Namespace: "a", Name: name},
				&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name}}, store.Write{})
			s.must(err)
		}
	}
}

func listPages(s *suite) {
	for i := range 7 {
		s.create(Pod("a", fmt.Sprintf("p%d", i), Labelled("odd", fmt.Sprint(i%2))))
	}
	s.create(Pod("b", "other"))
	var got []string
	q := store.Query{Namespace: "a", Limit: 3}
	var revision int64
	for pages := 0; ; pages++ {
		page := s.list(q)
		got = append(got, names(page.Entries)...)
		if revision == 0 {
			revision = page.Revision
			if page.Remaining == nil || *page.Remaining != 4 {
				s.Errorf("remaining %v, want 4", page.Remaining)
			}
			// What happens from here on isn't seen by the pages to come.
			s.create(Pod("a", "p33"))
			s.delete("a", "p5")
			s.update("a", "p6", func(p *corev1.Pod) { p.Spec.NodeName = "moved" })
		}
		if page.Revision != revision {
			s.Errorf("page %d is of revision %d, the first was of %d", pages, page.Revision, revision)
		}
		if page.Continue == "" {
			if last := page.Entries[len(page.Entries)-1]; last.Fields["spec.nodeName"] != "" {
				s.Error("the last page shows a later state")
			}
			break
		}
		q.Continue = page.Continue
	}
	if want := "a/p0 a/p1 a/p2 a/p3 a/p4 a/p5 a/p6"; strings.Join(got, " ") != want {
		s.Errorf("pages hold %v, want %s", got, want)
	}
	page := s.list(store.Query{Limit: 2, Labels: labels.SelectorFromSet(labels.Set{"odd": "1"})})
	if got := strings.Join(names(page.Entries), " "); got != "a/p1 a/p3" || page.Remaining != nil || page.Continue == "" {
		s.Errorf("with a selector: %s, remaining %v, continue %q", got, page.Remaining, page.Continue)
	}
	page = s.list(store.Query{Limit: 8, Namespace: "a"})
	if page.Continue != "" {
		s.Errorf("a full last page promises more: %v", names(page.Entries))
	}
}

func listExact(s *suite) {
	first := s.create(Pod("a", "x"))
	s.create(Pod("a", "y"))
	s.update("a", "x", func(p *corev1.Pod) { p.Spec.NodeName = "n" })
	deleted := s.delete("a", "x")
	for i := range s.History + 1 { // until no log knows of it
		s.update("a", "y", func(p *corev1.Pod) { p.Spec.NodeName = fmt.Sprint(i) })
		if i == 5 || i == s.History {
			for revision, want := range map[int64]string{first.Revision: "a/x", first.Revision + 1: "a/x a/y", deleted.Revision: "a/y"} {
				page := s.list(store.Query{ResourceVersion: fmt.Sprint(revision), Match: "Exact"})
				if got := strings.Join(names(page.Entries), " "); got != want || page.Revision != revision {
					s.Errorf("at revision %d, %d events later: %s at %d, want %s", revision, i, got, page.Revision, want)
				}
				legacy := s.list(store.Query{ResourceVersion: fmt.Sprint(revision), Limit: 10})
				if legacy.Revision != revision {
					s.Errorf("with a limit and no match: revision %d, want %d", legacy.Revision, revision)
				}
			}
		}
	}
	page := s.list(store.Query{ResourceVersion: fmt.Sprint(first.Revision), Match: "NotOlderThan"})
	if got := strings.Join(names(page.Entries), " "); got != "a/y" {
		s.Errorf("not older: %s", got)
	}
}

func listFuture(s *suite) {
	e := s.create(Pod("a", "x"))
	var group sync.WaitGroup // each waits for as long as a client is made to wait
	for _, match := range []string{"", "Exact", "NotOlderThan"} {
		group.Go(func() {
			_, err := s.List(s.ctx, Pods, store.Query{ResourceVersion: fmt.Sprint(e.Revision + 1000), Match: match})
			if !apierrors.IsTimeout(err) || !apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge) ||
				!strings.Contains(err.Error(), "Too large resource version") {
				s.Errorf("%q: %v", match, err)
			}
			if seconds, ok := apierrors.SuggestsClientDelay(err); !ok || seconds != 1 {
				s.Errorf("suggests %d %v, want 1 s", seconds, ok)
			}
		})
	}
	group.Wait()
}

func listCompacted(s *suite) {
	var revisions []int64
	for i := range 6 {
		revisions = append(revisions, s.create(Pod("a", fmt.Sprintf("p%d", i))).Revision)
	}
	page := s.list(store.Query{Limit: 2})
	for i := range s.History + 1 {
		s.update("a", "p5", func(p *corev1.Pod) { p.Spec.NodeName = fmt.Sprint(i) })
	}
	s.create(Pod("a", "p25"))
	now, err := s.Revision(s.ctx)
	s.must(err)
	s.must(s.Compact(now))
	s.list(store.Query{}) // the log has seen all that
	_, err = s.List(s.ctx, Pods, store.Query{ResourceVersion: fmt.Sprint(revisions[2]), Match: "Exact"})
	s.reason(err, metav1.StatusReasonExpired)

	_, err = s.List(s.ctx, Pods, store.Query{Limit: 2, Continue: page.Continue})
	s.reason(err, metav1.StatusReasonExpired)
	token := err.(apierrors.APIStatus).Status().Continue
	if token == "" {
		s.Fatalf("%v offers no token to go on with", err)
	}
	rest := s.list(store.Query{Limit: 10, Continue: token})
	if got := strings.Join(names(rest.Entries), " "); got != "a/p2 a/p25 a/p3 a/p4 a/p5" {
		s.Errorf("the inconsistent rest is %s", got)
	}
}

func listBadTokens(s *suite) {
	s.create(Pod("a", "x"))
	page := func(q store.Query) error { _, err := s.List(s.ctx, Pods, q); return err }
	for _, q := range []store.Query{
		{Continue: "???"},
		{Continue: "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiIifQ"},         // empty start
		{Continue: "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiIuLi9iL3gifQ"}, // ../b/x
		{ResourceVersion: "abc"},
		{ResourceVersion: "-1"},
		{Match: "Exact"},
	} {
		if err := page(q); !apierrors.IsBadRequest(err) {
			s.Errorf("%+v: %v, want BadRequest", q, err)
		}
	}
}

func clusterScoped(s *suite) {
	for _, name := range []string{"n2", "n1"} {
		_, err := s.Create(s.ctx, Nodes, store.Key{Path: "minions", Name: name}, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, store.Write{})
		s.must(err)
	}
	page, err := s.List(s.ctx, Nodes, store.Query{})
	s.must(err)
	if got := names(page.Entries); !slices.Equal(got, []string{"/n1", "/n2"}) {
		s.Errorf("nodes %v", got)
	}
	if f := page.Entries[0].Fields; f["metadata.name"] != "n1" || f.Has("metadata.namespace") {
		s.Errorf("fields %v", f)
	}
}

func restartKeepsEverything(s *suite) {
	e := s.create(Pod("a", "x"))
	s.Interface = s.Restart()
	got, err := s.Get(s.ctx, Pods, PodKey("a", "x"), 0)
	s.must(err)
	if got.Revision != e.Revision {
		s.Errorf("revision %d, was %d", got.Revision, e.Revision)
	}
	s.update("a", "x", func(p *corev1.Pod) { p.Spec.NodeName = "n" })
}
