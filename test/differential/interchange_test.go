package differential

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"testing"
)

// record is what one server has written down for another: how it lists what it has written.
type record struct {
	Run   string
	Lists map[string][]any // by the path of the list
}

// server is the one that the environment names.
func server(t *testing.T) *side {
	t.Helper()
	for _, name := range []string{"DIFFERENTIAL_SKIFF", "DIFFERENTIAL_KUBERNETES"} {
		if file := os.Getenv(name); file != "" {
			return connect(t, name, file)
		}
	}
	t.Fatal("no server: ", howTo)
	return nil
}

// TestWrite makes an object of every kind, and writes down how the server lists them.
func TestWrite(t *testing.T) {
	file := os.Getenv("DIFFERENTIAL_WRITE")
	if file == "" {
		t.Skip("DIFFERENTIAL_WRITE names no file to write to; " + howTo)
	}
	const run = "interchange"
	s := server(t)
	begin(s, run)
	for _, sub := range subjects(t, run) {
		if sub.kind == nil {
			s.eventually(call{name: "served", method: http.MethodGet, path: sub.collection}, func(e exchange) bool { return e.Status == http.StatusOK })
		}
		if e := s.send(call{name: sub.path(), method: http.MethodPost, path: sub.collection, body: sub.object}); e.Status != http.StatusCreated {
			t.Errorf("%s: %s", sub.path(), answer(&normaliser{}, e))
		}
		sub.settle(s)
	}
	data, err := json.Marshal(record{run, lists(s, run)})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestRead compares how this server lists what another has written, and writes over it.
func TestRead(t *testing.T) {
	file := os.Getenv("DIFFERENTIAL_READ")
	if file == "" {
		t.Skip("DIFFERENTIAL_READ names no file to compare with; " + howTo)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var before record
	if err := json.Unmarshal(data, &before); err != nil {
		t.Fatal(err)
	}
	s := server(t)
	// The custom resource is served once its definition has been read.
	for _, sub := range subjects(t, before.Run) {
		s.eventually(call{name: sub.path(), method: http.MethodGet, path: sub.path()}, func(e exchange) bool { return e.Status == http.StatusOK })
	}
	now := lists(s, before.Run)
	objects, kinds := 0, 0
	for _, path := range slices.Sorted(maps.Keys(before.Lists)) {
		kinds++
		for i, old := range before.Lists[path] {
			objects++
			name := fmt.Sprint(path, " ", at(old, "metadata", "namespace"), "/", at(old, "metadata", "name"))
			here := slices.IndexFunc(now[path], func(o any) bool {
				return at(o, "metadata", "uid") == at(old, "metadata", "uid")
			})
			if labels, _ := at(old, "metadata", "labels").(map[string]any); here < 0 && labels["apiserver.kubernetes.io/identity"] != nil {
				continue // a kube-apiserver's own lease goes when it stops
			}
			if here < 0 {
				t.Errorf("%s: number %d is gone", name, i)
				continue
			}
			if at(old, "metadata", "resourceVersion") != at(now[path][here], "metadata", "resourceVersion") {
				t.Logf("%s has been written by the server itself", name)
				continue
			}
			for _, d := range between("", old, now[path][here]) {
				t.Errorf("%s%s\n    written by one: %.600s\n    read by another: %.600s", name, d.path, d.skiff, d.kubernetes)
			}
		}
	}
	for _, sub := range subjects(t, before.Run) {
		e := s.send(call{name: "change " + sub.path(), method: http.MethodPatch, path: sub.path(), contentType: mergeType, body: `{"metadata":{"labels":{"by":"another"}}}`})
		if e.Status != http.StatusOK {
			t.Errorf("changing %s: %s", sub.path(), answer(&normaliser{}, e))
		}
	}
	t.Logf("%d objects of %d kinds compared", objects, kinds)
}

// lists are all objects of all kinds as a server has them.
func lists(s *side, run string) map[string][]any {
	all := map[string][]any{}
	for _, sub := range subjects(s.t, run) {
		e := s.send(call{name: "list " + sub.everywhere, method: http.MethodGet, path: sub.everywhere})
		items, ok := at(e.Body, "items").([]any)
		if !ok {
			s.t.Errorf("list %s: %s", sub.everywhere, answer(&normaliser{}, e))
		}
		all[sub.everywhere] = items
	}
	return all
}
