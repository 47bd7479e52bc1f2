package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
)

// CheckWatch compares the events of a watch of ConfigMaps with what was written
// meanwhile: it has told of each acknowledged write, with the revision of
// the acknowledgement, once, and of nothing that nobody wrote.
func CheckWatch(operations []Operation, events []Event) error {
	type version struct {
		key      string
		revision int64
	}
	told := map[version]string{}
	seen := map[string]int64{} // by value, which is written once
	var wrong []error
	for _, e := range events {
		value, found, _ := unstructured.NestedString(e.Object.Object, "data", field)
		if !found || e.Type == watch.Deleted {
			continue
		}
		if at, twice := seen[e.Object.GetName()+value]; twice {
			wrong = append(wrong, fmt.Errorf("%s: %q was told of at revisions %d and %d", e.Object.GetName(), value, at, e.Revision))
		}
		seen[e.Object.GetName()+value] = e.Revision
		told[version{e.Object.GetName(), e.Revision}] = value
	}
	for _, o := range operations {
		if o.Kind != Swap || o.Outcome == Refused {
			continue
		}
		if o.Outcome == Done {
			if value, ok := told[version{o.Key, o.Revision}]; !ok || value != o.Value {
				wrong = append(wrong, fmt.Errorf("%s: revision %d is %q, the watch told of %q", o.Key, o.Revision, o.Value, value))
			}
		}
		delete(seen, o.Key+o.Value)
	}
	for value, revision := range seen {
		wrong = append(wrong, fmt.Errorf("the watch told of %s at revision %d, which nobody wrote", value, revision))
	}
	return errors.Join(wrong...)
}

// CheckPods looks at the events of a namespace's pods: each is bound once, and no
// replica set is left with more pods than it wants. It never has more, as it would if two controllers worked, where the
// apiservers were undisturbed. Else it may for a moment: a controller that never got the answer to
// a creation creates another pod, in Kubernetes as well, and takes one away when it sees both.
func CheckPods(events []Event, wanted int, undisturbed bool) error {
	nodes := map[string]string{}            // by uid
	living := map[string]map[string]Event{} // by owner and uid
	var wrong []error
	for _, e := range events {
		uid, owner := string(e.Object.GetUID()), ownerOf(e.Object)
		node := nodeOf(e.Object)
		if before := nodes[uid]; before != "" && node != before {
			wrong = append(wrong, fmt.Errorf("pod %s was bound to %s, then to %q", e.Object.GetName(), before, node))
		}
		nodes[uid] = node
		if living[owner] == nil {
			living[owner] = map[string]Event{}
		}
		if e.Type == watch.Deleted || e.Object.GetDeletionTimestamp() != nil {
			delete(living[owner], uid)
			continue
		}
		living[owner][uid] = e
		if undisturbed && e.Type == watch.Added {
			wrong = append(wrong, tooMany(owner, living[owner], wanted))
		}
	}
	for owner, pods := range living {
		wrong = append(wrong, tooMany(owner, pods, wanted))
	}
	return errors.Join(wrong...)
}

func tooMany(owner string, pods map[string]Event, wanted int) error {
	if owner == "" || len(pods) <= wanted {
		return nil
	}
	return fmt.Errorf("replica set %s has %d pods, wanted are %d: %s", owner, len(pods), wanted, summary(pods))
}

func summary(pods map[string]Event) string {
	var list []string
	for _, e := range pods {
		phase, _, _ := unstructured.NestedString(e.Object.Object, "status", "phase")
		list = append(list, fmt.Sprintf("%s (%s on %q, of %s, seen at %s, revision %d)", e.Object.GetName(), phase, nodeOf(e.Object),
			e.Object.GetCreationTimestamp().Format(time.TimeOnly), e.At.Format(time.StampMilli), e.Revision))
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

func nodeOf(pod *unstructured.Unstructured) string {
	node, _, _ := unstructured.NestedString(pod.Object, "spec", "nodeName")
	return node
}

func ownerOf(o *unstructured.Unstructured) string {
	for _, owner := range o.GetOwnerReferences() {
		return owner.Name
	}
	return ""
}

// Lock is a leader's record at a revision.
type Lock struct {
	Holder            string
	Transitions       int64
	Duration          time.Duration
	Acquired, Renewed time.Time
}

// Node is where the holder runs: its identity begins with the host's name.
func (l Lock) Node() string {
	node, _, _ := strings.Cut(l.Holder, "_")
	return node
}

// Locks reads the records of one lock from a watch of Leases, or of Endpoints with the
// record in their annotation.
func Locks(events []Event, name string) []Lock {
	var locks []Lock
	for _, e := range events {
		if e.Object.GetName() != name || e.Type == watch.Deleted {
			continue
		}
		var spec struct {
			HolderIdentity       string    `json:"holderIdentity"`
			LeaseDurationSeconds int       `json:"leaseDurationSeconds"`
			AcquireTime          time.Time `json:"acquireTime"`
			RenewTime            time.Time `json:"renewTime"`
			LeaseTransitions     int64     `json:"leaseTransitions"`
			LeaderTransitions    int64     `json:"leaderTransitions"`
		}
		text, annotated := e.Object.GetAnnotations()["control-plane.alpha.kubernetes.io/leader"]
		if !annotated {
			inner, _, _ := unstructured.NestedMap(e.Object.Object, "spec")
			data, _ := json.Marshal(inner)
			text = string(data)
		}
		if json.Unmarshal([]byte(text), &spec) != nil {
			continue
		}
		locks = append(locks, Lock{Holder: spec.HolderIdentity, Transitions: spec.LeaseTransitions + spec.LeaderTransitions,
			Duration: time.Duration(spec.LeaseDurationSeconds) * time.Second, Acquired: spec.AcquireTime, Renewed: spec.RenewTime})
	}
	return locks
}

// CheckLock says whether the records of one lock are those of one leader after
// another: who takes it counts one transition more, and has left the one before as
// long as that one's lease allowed, unless it was given back. precision is that of the record's times.
func CheckLock(locks []Lock, precision time.Duration) error {
	var wrong []error
	var held Lock // the last record with a holder
	free := true
	for _, l := range locks {
		switch {
		case l.Transitions < held.Transitions:
			wrong = append(wrong, fmt.Errorf("%d transitions after %d", l.Transitions, held.Transitions))
		case l.Holder == "":
			free = true
			continue
		case l.Holder == held.Holder:
		case held.Holder != "" && l.Transitions == held.Transitions:
			wrong = append(wrong, fmt.Errorf("%s follows %s without a transition", l.Holder, held.Holder))
		case held.Holder != "" && !free && l.Acquired.Before(held.Renewed.Add(held.Duration-precision)):
			wrong = append(wrong, fmt.Errorf("%s leads from %v on, but %s renewed for %v at %v", l.Holder, l.Acquired, held.Holder, held.Duration, held.Renewed))
		}
		held, free = l, false
	}
	return errors.Join(wrong...)
}
