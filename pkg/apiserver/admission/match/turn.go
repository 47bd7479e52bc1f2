package match

import (
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
)

// Turn is one plugin's part in the mutation of a request. There are two rounds of turns at most: a second one follows,
// of all plugins, if a member of a plugin (a webhook, a policy) has changed the object in the first. In the second
// only those members are called that asked for it, and after whose own call the object changed.
type Turn struct {
	r       *Request
	invoked map[string]bool // may be called again
	due     map[string]bool // shall be called again
	last    runtime.Object  // the object when the plugin was done with it
}

// Begin begins a plugin's turn.
func (r *Request) Begin(plugin string) *Turn {
	t := r.turns[plugin]
	if t == nil {
		t = &Turn{r: r, invoked: map[string]bool{}, due: map[string]bool{}}
		if r.turns == nil {
			r.turns = map[string]*Turn{}
		}
		r.turns[plugin] = t
	}
	if r.again && !equality.Semantic.DeepEqual(t.last, r.Object) {
		t.changed()
	}
	return t
}

// End ends a turn.
func (t *Turn) End() {
	if t.last = nil; t.r.Object != nil {
		t.last = t.r.Object.DeepCopyObject()
	}
}

// Runs says whether a member that matches is to be called in this round.
func (t *Turn) Runs(member string) bool { return !t.r.again || t.due[member] }

// Ran notes that a member was called, whether it changed the object, and whether it wants to be called
// again if others change it afterwards.
func (t *Turn) Ran(member string, changed, reinvocable bool) {
	if changed {
		t.changed()
		t.r.dirty = true
	}
	if reinvocable {
		t.invoked[member] = true
	}
}

// changed makes all due that were invoked before.
func (t *Turn) changed() {
	for member := range t.invoked {
		t.due[member] = true
	}
	clear(t.invoked)
}

// Again says, after the first round, whether there is a second, and begins it.
func (r *Request) Again() bool {
	if r.again || !r.dirty {
		return false
	}
	r.again = true
	return true
}

// Round is 0 in the first round of mutation and 1 in the second.
func (r *Request) Round() int {
	if r.again {
		return 1
	}
	return 0
}
