// Package record watches a cluster from outside while things in it break, as a
// client that knows nothing of Skiff would, and says afterwards whether what it
// saw was right.
//
// There are things that run and things that judge. [Recorder] writes and reads,
// [Watcher] watches, [Churn] keeps scheduler and controller at work. What they saw
// are plain values: operations and events. The checks over these are functions of
// values alone, and have tests of their own that spoil a history and want that to
// be found: [CheckHistory], [CheckWatch], [CheckPods], [CheckLock].
//
// How long something was away is measured too. That is for logs and benchmarks:
// no check depends on it.
package record

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// Kind is what an operation does to the one value of its key.
type Kind string

// The kinds of operations.
const (
	Read Kind = "read" // Value is what was there; "" is no object
	Swap Kind = "swap" // From is compared, Value takes its place; From "" creates
)

// Outcome is what a client was told.
type Outcome string

// The outcomes.
const (
	Done    Outcome = "done"    // acknowledged
	Refused Outcome = "refused" // another value was there
	Unknown Outcome = "unknown" // no answer, or an error: it may have happened, or may yet
)

// Operation is one request about one key. A value is written at most once in a
// history, and From is what its client has read, or written with an acknowledgement.
type Operation struct {
	Client       int
	Aside        bool // see [Recorder.Aside]
	Key          string
	Kind         Kind
	From, Value  string
	Outcome      Outcome
	Call, Return time.Duration // since the recorder began
	// Revision is the resourceVersion that a swap was acknowledged with.
	Revision int64
	// Err is what an unknown outcome looked like.
	Err string
}

func (o Operation) String() string {
	what := fmt.Sprintf("read %q", o.Value)
	if o.Kind == Swap {
		what = fmt.Sprintf("swap %q for %q", o.From, o.Value)
	}
	return fmt.Sprintf("client %d, %v to %v: %s: %s %s", o.Client,
		o.Call.Round(time.Millisecond), o.Return.Round(time.Millisecond), what, o.Outcome, o.Err)
}

// CheckHistory says whether each key's operations could have happened one after
// the other, each at a moment between its call and its return. So no
// acknowledged write is lost or happened twice, and no read is out of date. Every key's last
// operation must be a read that succeeded, or writes at the end could be lost unseen.
func CheckHistory(operations []Operation) error {
	keys := map[string][]Operation{}
	for _, o := range operations {
		keys[o.Key] = append(keys[o.Key], o)
	}
	var wrong []error
	for key, list := range keys {
		if err := checkKey(list); err != nil {
			wrong = append(wrong, fmt.Errorf("%s: %w", key, err))
		}
	}
	return errors.Join(wrong...)
}

func checkKey(operations []Operation) error {
	// With the last read, a write that nobody has seen and nobody built upon did not
	// happen; one that somebody has seen did. That spares the search its guesses.
	seen := map[string]bool{}
	last := slices.MaxFunc(operations, func(a, b Operation) int { return int(a.Call - b.Call) })
	if last.Kind != Read || last.Outcome != Done {
		return fmt.Errorf("the history ends with %v, not with a read", last)
	}
	for _, o := range operations {
		if o.Kind == Read {
			seen[o.Value] = true
		} else if o.Outcome == Done {
			seen[o.From] = true
		}
	}
	var history []porcupine.Operation
	for _, o := range operations {
		p := porcupine.Operation{ClientId: o.Client, Input: o, Call: int64(o.Call), Return: int64(o.Return)}
		if o.Outcome == Unknown {
			if o.Kind == Read || !seen[o.Value] {
				continue
			}
			p.Return = math.MaxInt64
		}
		history = append(history, p)
	}
	const patience = 20 * time.Second
	result, info := porcupine.CheckOperationsVerbose(register, history, patience)
	switch result {
	case porcupine.Ok:
		return nil
	case porcupine.Unknown:
		return fmt.Errorf("%d operations could not be checked in %v", len(history), patience)
	}
	return fmt.Errorf("not linearizable. %s", misfit(history, info))
}

// register is a value that is read and compared-and-swapped.
var register = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, _ any) (bool, any) {
		o := input.(Operation)
		switch {
		case o.Kind == Read:
			return state == o.Value, state
		case o.Outcome == Refused:
			return state != o.From, state
		}
		return state == o.From, o.Value
	},
}

// misfit shows where the longest order that holds comes to an end.
func misfit(history []porcupine.Operation, info porcupine.LinearizationInfo) string {
	var longest []porcupine.Operation
	for _, partition := range info.PartialLinearizationsOperations() {
		for _, order := range partition {
			if len(order) > len(longest) {
				longest = order
			}
		}
	}
	fits := map[any]bool{}
	for _, o := range longest {
		fits[o.Input] = true
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%d of %d operations fit, the last of them:\n", len(longest), len(history))
	for _, o := range longest[max(0, len(longest)-4):] {
		fmt.Fprintf(&text, "  %v\n", o.Input)
	}
	text.WriteString("and then none of:\n")
	shown := 0
	slices.SortFunc(history, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	for _, o := range history {
		if !fits[o.Input] && shown < 6 {
			fmt.Fprintf(&text, "  %v\n", o.Input)
			shown++
		}
	}
	return text.String()
}
