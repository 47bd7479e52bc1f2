package garbagecollector

import (
	"fmt"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

var (
	pods  = schema.GroupVersionResource{Version: "v1", Resource: "pods"}
	pod   = schema.GroupVersionKind{Version: "v1", Kind: "Pod"}
	nodes = schema.GroupVersionResource{Version: "v1", Resource: "nodes"}
	node  = schema.GroupVersionKind{Version: "v1", Kind: "Node"}
)

// named makes a pod whose UID is its name, owned by others like it. "!b" blocks b's deletion.
func named(name string, owners ...string) *object {
	o := &object{resource: pods, kind: pod, namespace: "shop", name: name, uid: types.UID(name)}
	for _, owner := range owners {
		blocks := owner[0] == '!'
		if blocks {
			owner = owner[1:]
		}
		o.owners = append(o.owners, metav1.OwnerReference{APIVersion: "v1", Kind: "Pod", Name: owner, UID: types.UID(owner), BlockOwnerDeletion: &blocks})
	}
	return o
}

func waitingFor(o *object) *object {
	o.deleting, o.waits = true, true
	return o
}

func show(w work) string {
	slices.Sort(w.check)
	slices.Sort(w.orphan)
	return fmt.Sprint(slices.Compact(w.check), w.orphan)
}

func TestGraph(t *testing.T) {
	g := newGraph()
	step := func(got work, want string) {
		t.Helper()
		if show(got) != want {
			t.Errorf("%s, want %s", show(got), want)
		}
	}
	step(g.put(named("owner")), "[] []")
	step(g.put(named("child", "owner")), "[] []")
	step(g.put(named("child", "owner")), "[] []") // an update that changes nothing here
	step(g.put(named("stray", "nobody")), "[stray] []")
	step(g.put(named("child", "owner", "nobody")), "[child] []")
	step(g.put(named("child", "!owner")), "[] []")
	step(g.put(waitingFor(named("owner"))), "[child owner] []")
	step(g.put(waitingFor(named("owner"))), "[] []")
	step(g.put(named("late", "!owner")), "[late] []") // it has to go as well
	step(g.put(named("late", "owner")), "[owner] []") // it blocks no longer
	step(g.remove("child"), "[owner] []")
	step(g.remove("owner"), "[late] []")
	step(g.remove("unheard of"), "[] []")

	step(g.put(named("leaver")), "[] []")
	leaver := named("leaver")
	leaver.deleting, leaver.orphans = true, true
	step(g.put(leaver), "[] [leaver]")
	step(g.put(leaver), "[] []")
	if got := show(g.replace(pods, pod.GroupKind(), []*object{named("x"), named("y", "leaver")})); got != "[late y] []" && got != "[y] []" {
		t.Errorf("replaced: %s", got)
	}
}

func TestOwnersElsewhere(t *testing.T) {
	g := newGraph()
	there := named("owner")
	there.namespace = "elsewhere"
	g.put(there)
	cluster := &object{resource: nodes, kind: node, name: "n1", uid: "n1"}
	g.put(cluster)
	child := named("child", "owner")
	child.owners = append(child.owners, metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: "n1", UID: "n1"})
	if got := show(g.put(child)); got != "[child] []" {
		t.Errorf("an owner in another namespace is taken for one: %s", got)
	}
	v := g.look("child")
	if v.settled || !v.elsewhere["owner"] || v.solid["owner"] || !v.solid["n1"] {
		t.Errorf("%+v", v)
	}
	// Another version of the kind's group is the same object, another kind isn't.
	if ref := (metav1.OwnerReference{APIVersion: "v2", Kind: "Node", Name: "n1", UID: "n1"}); !cluster.refers(ref, "shop") {
		t.Error("another version")
	}
	if ref := (metav1.OwnerReference{APIVersion: "x.io/v1", Kind: "Node", Name: "n1", UID: "n1"}); cluster.refers(ref, "shop") {
		t.Error("another group")
	}
}

// An owner that came and went before its resource was watched leaves no event: the list that
// doesn't hold it has its dependents looked at.
func TestOwnersThatWereNeverSeen(t *testing.T) {
	g := newGraph()
	child := named("child", "owner", "pod")
	child.owners[0].APIVersion, child.owners[0].Kind = "x.io/v1beta1", "Toy"
	g.put(named("pod"))
	g.put(child)
	toys, toy := schema.GroupVersionResource{Group: "x.io", Version: "v1", Resource: "toys"}, schema.GroupVersionKind{Group: "x.io", Version: "v1", Kind: "Toy"}
	for _, c := range []struct {
		resource schema.GroupVersionResource
		kind     schema.GroupVersionKind
		all      []*object
		want     string
	}{
		{nodes, node, nil, "[] []"},
		{toys, toy, nil, "[child] []"},
		{toys, toy, []*object{{resource: toys, kind: toy, namespace: "shop", name: "owner", uid: "owner"}}, "[] []"},
		{toys, toy, nil, "[child] []"},
	} {
		if got := show(g.replace(c.resource, c.kind.GroupKind(), c.all)); got != c.want {
			t.Errorf("%d objects of %s: %s, want %s", len(c.all), c.resource.Resource, got, c.want)
		}
	}
}

func TestForgetConcludesNothing(t *testing.T) {
	g := newGraph()
	g.put(named("owner"))
	child := named("child", "owner")
	child.resource = nodes
	g.put(child)
	g.forget(pods)
	if g.look("owner") != nil || g.look("child") == nil {
		t.Error("wrong objects forgotten")
	}
}

// TestGraphAgainstModel compares the graph's indexes with what a plain scan over all objects finds.
func TestGraphAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := newGraph()
		all := map[types.UID]*object{}
		name := rapid.SampledFrom([]string{"a", "b", "c", "d", "e"})
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			n := name.Draw(t, "name")
			if rapid.IntRange(0, 3).Draw(t, "kind") == 0 {
				g.remove(types.UID(n))
				delete(all, types.UID(n))
				continue
			}
			o := named(n, rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "!b", "c", "!d"}), 0, 3, rapid.ID).Draw(t, "owners")...)
			if rapid.Bool().Draw(t, "waits") {
				waitingFor(o)
			}
			g.put(o)
			all[o.uid] = o
		}
		for _, n := range []string{"a", "b", "c", "d", "e"} {
			v := g.look(types.UID(n))
			if (v == nil) != (all[types.UID(n)] == nil) {
				t.Fatalf("%s: known %t", n, v != nil)
			}
			if v == nil {
				continue
			}
			var want, got []string
			for _, o := range all {
				if slices.ContainsFunc(o.owners, func(r metav1.OwnerReference) bool { return string(r.UID) == n }) {
					want = append(want, o.name)
				}
			}
			for _, o := range v.dependents {
				got = append(got, o.name)
			}
			slices.Sort(want)
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Fatalf("dependents of %s: %v, want %v", n, got, want)
			}
		}
	})
}

func TestDecide(t *testing.T) {
	for name, c := range map[string]struct {
		finalizers []string
		states     map[string]state
		dependents bool
		cycle      bool
		want       string
	}{
		"no owners":                     {want: "keep"},
		"a solid owner":                 {states: map[string]state{"a": solid}, want: "keep"},
		"one of two is gone":            {states: map[string]state{"a": solid, "b": dangling}, want: "owners [a]"},
		"one of two waits":              {states: map[string]state{"a": solid, "b": waiting}, want: "owners [a]"},
		"all are gone":                  {states: map[string]state{"a": dangling, "b": dangling}, want: "Background"},
		"asked to orphan":               {states: map[string]state{"a": dangling}, finalizers: []string{metav1.FinalizerOrphanDependents}, want: "Orphan"},
		"asked to wait":                 {states: map[string]state{"a": dangling}, finalizers: []string{metav1.FinalizerDeleteDependents}, want: "Foreground"},
		"the owner waits":               {states: map[string]state{"a": waiting}, want: "Background"},
		"the owner waits for a subtree": {states: map[string]state{"a": waiting}, dependents: true, want: "Foreground"},
		"a cycle":                       {states: map[string]state{"a": waiting}, dependents: true, cycle: true, want: "unblock Foreground"},
	} {
		f := facts{finalizers: c.finalizers, states: map[types.UID]state{}, dependents: c.dependents, cycle: c.cycle}
		for _, owner := range []string{"a", "b"} {
			if s, ok := c.states[owner]; ok {
				f.owners = append(f.owners, metav1.OwnerReference{UID: types.UID(owner)})
				f.states[types.UID(owner)] = s
			}
		}
		d := decide(f)
		got := "keep"
		switch {
		case d.owners != nil:
			got = "owners ["
			for _, ref := range d.owners {
				got += string(ref.UID)
			}
			got += "]"
		case d.delete != nil:
			got = string(*d.delete)
			if d.unblock {
				got = "unblock " + got
			}
		}
		if got != c.want || d.reason == "" {
			t.Errorf("%s: %s (%s), want %s", name, got, d.reason, c.want)
		}
	}
}
