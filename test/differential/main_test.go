package differential

import (
	"crypto/rand"
	"fmt"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

const howTo = `needs two servers: their kubeconfigs in DIFFERENTIAL_SKIFF and DIFFERENTIAL_KUBERNETES ("go doc ./test/differential" says more)`

// TestDifferential sends all sequences to both servers. DIFFERENTIAL_ONLY is a pattern of those to run.
func TestDifferential(t *testing.T) {
	skiff, kubernetes := os.Getenv("DIFFERENTIAL_SKIFF"), os.Getenv("DIFFERENTIAL_KUBERNETES")
	if skiff == "" || kubernetes == "" {
		t.Skip(howTo)
	}
	only := regexp.MustCompile(os.Getenv("DIFFERENTIAL_ONLY"))
	run := "d" + strings.ToLower(rand.Text()[:5])
	a, b := connect(t, "skiff", skiff), connect(t, "kubernetes", kubernetes)
	both(a, b, func(s *side) { begin(s, run) })
	t.Cleanup(func() { both(a, b, func(s *side) { end(s, run) }) })
	var calls, left int
	explanations := map[string]int{}
	sequence := func(name string, steps func(*side)) {
		if !only.MatchString(name) {
			return
		}
		a.log, b.log = nil, nil
		both(a, b, steps)
		calls += len(a.log)
		for _, d := range compare(name, a.log, b.log) {
			if k := explained(d); k != nil {
				explanations[k.title]++
				continue
			}
			left++
			t.Errorf("%s", d)
		}
	}
	for _, sub := range subjects(t, run) {
		sequence(sub.resource, func(s *side) {
			if sub.kind == nil {
				s.do(call{name: "define", method: http.MethodPost, path: "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", body: s.definition(run)})
				s.eventually(call{name: "served", method: http.MethodGet, path: sub.collection}, func(e exchange) bool { return e.Status == http.StatusOK })
				defer s.undefine(run)
			}
			invalid(sub)(s)
			life(sub)(s)
		})
	}
	rest := general(run)
	maps.Copy(rest, denials(t, run))
	for _, name := range slices.Sorted(maps.Keys(rest)) {
		sequence(name, rest[name])
	}
	for _, title := range slices.Sorted(maps.Keys(explanations)) {
		t.Logf("explained: %4d %s", explanations[title], title)
	}
	t.Logf("%d requests compared, %d differences without an explanation", calls, left)
}

// both lets two sides do the same at the same time.
func both(a, b *side, do func(*side)) {
	var group sync.WaitGroup
	group.Go(func() { do(a) })
	group.Go(func() { do(b) })
	group.Wait()
}

// begin makes the namespace of a run, with what a controller would add to it.
func begin(s *side, run string) {
	s.send(call{method: http.MethodPost, path: "/api/v1/namespaces", body: map[string]any{"metadata": map[string]any{"name": run}}})
	s.send(call{method: http.MethodPost, path: "/api/v1/namespaces/" + run + "/serviceaccounts", body: map[string]any{"metadata": map[string]any{"name": "default"}}})
	s.eventually(call{name: "the namespace works", method: http.MethodPost, path: "/api/v1/namespaces/" + run + "/configmaps?dryRun=All", body: map[string]any{"metadata": map[string]any{"name": "x"}}}, func(e exchange) bool { return e.Status == http.StatusCreated })
}

// end takes away what a run has left, also what an interrupted sequence didn't.
func end(s *side, run string) {
	for _, sub := range subjects(s.t, run) {
		s.send(call{method: http.MethodPatch, path: sub.path(), contentType: mergeType, body: `{"metadata":{"finalizers":null}}`})
		s.send(call{method: http.MethodDelete, path: sub.path() + "?gracePeriodSeconds=0"})
		if sub.namespace != "" {
			s.send(call{method: http.MethodDelete, path: sub.collection + "?gracePeriodSeconds=0"})
		}
	}
	for _, name := range []string{run, run + "-ns"} {
		s.send(call{method: http.MethodDelete, path: "/api/v1/namespaces/" + name})
		s.send(call{method: http.MethodPut, path: "/api/v1/namespaces/" + name + "/finalize", body: map[string]any{"metadata": map[string]any{"name": name}}})
	}
}

// Replies that differ only where they must are the same; all else shows.
func TestCompare(t *testing.T) {
	reply := func(uid, version, more string) []exchange {
		return []exchange{{call: call{name: "get"}, Status: 200, Body: map[string]any{
			"metadata": map[string]any{"name": "n", "uid": uid, "resourceVersion": version, "creationTimestamp": "2024-01-0" + version + "T00:00:00Z"}, "data": more}}}
	}
	a := reply("11111111-1111-4111-8111-111111111111", "1", "x")
	if found := compare("s", a, reply("21111111-1111-4111-8111-111111111111", "2", "x")); len(found) != 0 {
		t.Error(found)
	}
	found := compare("s", a, reply("21111111-1111-4111-8111-111111111111", "2", "y"))
	if want := (difference{"s: get", "body.data", `"x"`, `"y"`}); len(found) != 1 || found[0] != want {
		t.Errorf("%v, want %v", found, want)
	}
	again := append(slices.Clone(a), reply("11111111-1111-4111-8111-111111111111", "2", "x")...)
	if found := compare("s", again, append(slices.Clone(a), a...)); len(found) != 1 {
		t.Errorf("a revision that has moved on only at one server: %v", found)
	}
	if found := compare("s", a, again); len(found) != 1 {
		t.Errorf("one answer more: %v", found)
	}
	if text := fmt.Sprint(found[0]); !strings.Contains(text, "s: get: body.data") {
		t.Error(text)
	}
}
