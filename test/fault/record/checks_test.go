package record

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// simulate makes the history and the events that clients of a correct server
// see: operations overlap, and some of them get no answer, whether they happened or not.
func simulate(seed uint64) ([]Operation, []Event) {
	random := rand.New(rand.NewPCG(seed, 0))
	const length, key = 120, "k"
	value, revision := "", int64(100)
	var operations []Operation
	var events []Event
	believed := map[int]string{}
	for i := range length {
		at := time.Duration(i) * time.Millisecond
		o := Operation{Client: 1 + random.IntN(3), Key: key, Kind: Read, Outcome: Done,
			Call: at - time.Duration(random.IntN(900))*time.Microsecond, Return: at + time.Duration(random.IntN(900))*time.Microsecond}
		silent := random.IntN(6) == 0
		if i == length-1 {
			silent = false
		} else if random.IntN(2) == 0 {
			o.Kind, o.From, o.Value = Swap, believed[o.Client], fmt.Sprintf("v%d", i)
		}
		switch {
		case o.Kind == Read:
			o.Value = value
			if !silent {
				believed[o.Client] = value
			}
		case silent && random.IntN(2) == 0: // it doesn't arrive
		case o.From != value:
			o.Outcome = Refused
		default:
			revision++
			value, o.Revision = o.Value, revision
			events = append(events, configMap(key, value, revision))
			if !silent { // or the client has to look
				believed[o.Client] = value
			}
		}
		if silent {
			o.Outcome, o.Revision = Unknown, 0
		}
		operations = append(operations, o)
	}
	return operations, events
}

func configMap(name, value string, revision int64) Event {
	o := &unstructured.Unstructured{Object: map[string]any{"data": map[string]any{field: value}}}
	o.SetName(name)
	return Event{Type: watch.Modified, Object: o, Revision: revision}
}

func TestCorrectHistories(t *testing.T) {
	for seed := range uint64(200) {
		operations, events := simulate(seed)
		if err := CheckHistory(operations); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if err := CheckWatch(operations, events); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

// pick is the index of an operation that is as it should be, from the middle on.
func pick(t *testing.T, operations []Operation, is func(Operation) bool) int {
	for i := len(operations) / 3; i < len(operations); i++ {
		if is(operations[i]) {
			return i
		}
	}
	t.Skip("this history has none")
	return 0
}

func isDone(kind Kind) func(Operation) bool {
	return func(o Operation) bool { return o.Kind == kind && o.Outcome == Done }
}

// spoil does to a history what a broken server would.
var spoil = map[string]func(t *testing.T, operations []Operation) []Operation{
	"an acknowledged write is lost": func(t *testing.T, list []Operation) []Operation {
		// As if it had not happened: who read it read what was there before.
		i := pick(t, list, isDone(Swap))
		for j := i + 1; j < len(list); j++ {
			if list[j].Kind == Read && list[j].Outcome == Done && list[j].Value == list[i].Value && list[j].Call > list[i].Return {
				list[j].Value = list[i].From
				return list
			}
		}
		t.Skip("nobody read it afterwards")
		return nil
	},
	"the last write is lost": func(t *testing.T, list []Operation) []Operation {
		end := list[len(list)-1].Return + time.Millisecond
		list = append(list, Operation{Client: 1, Key: "k", Kind: Swap, From: list[len(list)-1].Value, Value: "last", Outcome: Done, Call: end, Return: end + 1})
		return append(list, Operation{Client: 1, Key: "k", Kind: Read, Value: list[len(list)-2].Value, Outcome: Done, Call: end + 2, Return: end + 3})
	},
	"a read is out of date": func(t *testing.T, list []Operation) []Operation {
		i := pick(t, list, isDone(Swap))
		o := list[i]
		return append(list, Operation{Client: 9, Key: "k", Kind: Read, Value: o.From, Outcome: Done, Call: o.Return + 1, Return: o.Return + 2})
	},
	"two swaps of the same value succeed": func(t *testing.T, list []Operation) []Operation {
		o := list[pick(t, list, isDone(Swap))]
		o.Client, o.Value = 9, "another"
		return append(list, o)
	},
	"a refused write happened": func(t *testing.T, list []Operation) []Operation {
		i := pick(t, list, isDone(Swap))
		list[i].Outcome = Refused
		for _, o := range list {
			if o.Kind == Read && o.Outcome == Done && o.Value == list[i].Value {
				return list
			}
		}
		t.Skip("nobody saw it")
		return nil
	},
	"a write that nobody made": func(t *testing.T, list []Operation) []Operation {
		list[pick(t, list, isDone(Read))].Value = "phantom"
		return list
	},
	"an object is gone": func(t *testing.T, list []Operation) []Operation {
		list[len(list)-1].Value = ""
		return list
	},
}

func TestSpoiltHistories(t *testing.T) {
	for what, f := range spoil {
		t.Run(what, func(t *testing.T) {
			found := false
			for seed := range uint64(20) {
				t.Run(fmt.Sprint(seed), func(t *testing.T) {
					operations, _ := simulate(seed)
					operations = f(t, operations)
					found = true
					err := CheckHistory(operations)
					if err == nil {
						t.Fatal("it was not found")
					}
					if !strings.Contains(err.Error(), "k: not linearizable") {
						t.Errorf("the error is %v", err)
					}
				})
			}
			if !found {
				t.Error("no history could be spoilt like that")
			}
		})
	}
}

func TestHistoryWithoutALastLook(t *testing.T) {
	operations, _ := simulate(1)
	last := operations[len(operations)-1]
	last.Kind, last.Outcome, last.Value, last.Call = Swap, Unknown, "late", last.Call+time.Second
	if err := CheckHistory(append(operations, last)); err == nil {
		t.Error("a history that ends with a write was accepted")
	}
}

func TestSpoiltWatches(t *testing.T) {
	for what, f := range map[string]func([]Event) []Event{
		"missed":      func(e []Event) []Event { return slices.Delete(e, 3, 4) },
		"twice":       func(e []Event) []Event { return slices.Insert(e, 4, e[3]) },
		"wrong":       func(e []Event) []Event { e[3] = configMap("k", "wrong", e[3].Revision); return e },
		"at another":  func(e []Event) []Event { e[3].Revision += 1000; return e },
		"from nobody": func(e []Event) []Event { return append(e, configMap("k", "phantom", 9999)) },
	} {
		operations, events := simulate(3)
		// Each event of an acknowledged write counts; those of others may be there or not.
		events = slices.DeleteFunc(events, func(e Event) bool {
			return !slices.ContainsFunc(operations, func(o Operation) bool { return o.Revision == e.Revision })
		})
		if err := CheckWatch(operations, events); err != nil {
			t.Fatal(err)
		}
		if CheckWatch(operations, f(events)) == nil {
			t.Errorf("%s: not found", what)
		}
	}
}

func pod(kind watch.EventType, name, owner, node string, revision int64) Event {
	o := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{}}}
	if node != "" {
		o.Object["spec"] = map[string]any{"nodeName": node}
	}
	o.SetName(name)
	o.SetUID(types.UID("uid-" + name))
	o.SetOwnerReferences([]metav1.OwnerReference{{Name: owner}})
	return Event{Type: kind, Object: o, Revision: revision}
}

func TestCheckPods(t *testing.T) {
	good := []Event{
		pod(watch.Added, "a-1", "a", "", 1), pod(watch.Modified, "a-1", "a", "n1", 2), pod(watch.Added, "a-2", "a", "", 3),
		pod(watch.Deleted, "a-1", "a", "n1", 4), pod(watch.Added, "a-3", "a", "", 5), pod(watch.Added, "b-1", "b", "", 6),
		pod(watch.Added, "a-5", "a", "", 6), pod(watch.Deleted, "a-5", "a", "", 6), // one too many for a moment
	}
	if err := CheckPods(good, 2, false); err != nil {
		t.Error(err)
	}
	if CheckPods(good, 2, true) == nil {
		t.Error("one too many for a moment: not found")
	}
	for what, bad := range map[string]Event{
		"one pod too many": pod(watch.Added, "a-4", "a", "", 7),
		"bound elsewhere":  pod(watch.Deleted, "a-1", "a", "n2", 7),
		"unbound":          pod(watch.Modified, "a-1", "a", "", 7),
	} {
		if CheckPods(append(slices.Clone(good), bad), 2, false) == nil {
			t.Errorf("%s: not found", what)
		}
	}
}

func TestCheckLock(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(1000+int64(s), 0) }
	lock := func(holder string, transitions int64, acquired, renewed int) Lock {
		return Lock{holder, transitions, 3 * time.Second, at(acquired), at(renewed)}
	}
	good := []Lock{lock("a", 0, 0, 0), lock("a", 0, 0, 2), lock("b", 1, 5, 5), lock("", 1, 5, 6), lock("a", 2, 6, 6)}
	if err := CheckLock(good, 0); err != nil {
		t.Error(err)
	}
	for what, bad := range map[string]Lock{
		"taken while it is held": lock("b", 3, 8, 8),
		"without a transition":   lock("b", 2, 20, 20),
		"back in time":           lock("a", 1, 6, 8),
	} {
		if CheckLock(append(slices.Clone(good), bad), 0) == nil {
			t.Errorf("%s: not found", what)
		}
	}
}

func TestGaps(t *testing.T) {
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	op := func(client int, kind Kind, outcome Outcome, at int) Operation {
		return Operation{Client: client, Kind: kind, Outcome: outcome, Call: ms(at - 1), Return: ms(at)}
	}
	operations := []Operation{
		op(1, Swap, Done, 10), op(1, Read, Done, 20), op(1, Swap, Unknown, 30), op(1, Swap, Refused, 40), op(1, Swap, Done, 60),
		op(2, Read, Done, 15), op(2, Read, Unknown, 25), op(2, Read, Done, 35), op(0, Read, Done, 500),
	}
	operations = append(operations, Operation{Client: 3, Aside: true, Kind: Read, Outcome: Done, Return: ms(45)})
	got := MeasureGaps(operations, ms(12), ms(70))
	want := Gaps{Write: ms(48), Read: ms(35), All: ms(25), Errors: 2, Writes: 1}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
