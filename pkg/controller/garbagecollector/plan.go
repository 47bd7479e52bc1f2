package garbagecollector

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// state of an owner, as far as a dependent is concerned.
type state int

const (
	solid    state = iota // it exists, or can't be looked for
	dangling              // it doesn't exist
	waiting               // it is being deleted in the foreground, and waits for its dependents
)

// facts are what a decision about an object with owners is made from.
type facts struct {
	finalizers []string
	owners     []metav1.OwnerReference
	states     map[types.UID]state
	// dependents: others have the object as their owner; cycle: one of them is itself
	// waiting for its dependents, of which the object is one.
	dependents, cycle bool
}

// decision is what is to be done with the object. At most one of delete and owners applies;
// unblock comes first.
type decision struct {
	reason string
	// owners, when not nil, replaces the object's owner references.
	owners []metav1.OwnerReference
	// unblock: take blockOwnerDeletion off all references, to break a cycle.
	unblock bool
	delete  *metav1.DeletionPropagation
}

// decide is the rule of garbage collection: an object lives while one of its owners does.
func decide(f facts) decision {
	var left []metav1.OwnerReference
	anyWaiting := false
	for _, ref := range f.owners {
		switch f.states[ref.UID] {
		case solid:
			left = append(left, ref)
		case waiting:
			anyWaiting = true
		}
	}
	switch {
	case len(f.owners) == 0 || len(left) == len(f.owners):
		return decision{reason: "its owners exist"}
	case len(left) > 0:
		return decision{reason: "an owner exists, others are gone or going", owners: left}
	case anyWaiting && f.dependents:
		// The owner waits for this object, which therefore has to wait for its own dependents.
		policy := metav1.DeletePropagationForeground
		return decision{reason: "all owners are gone or wait for it to go", unblock: f.cycle, delete: &policy}
	}
	policy := policyOf(f.finalizers)
	return decision{reason: "no owner exists", delete: &policy}
}

// policyOf respects what an earlier deletion of the object asked for.
func policyOf(finalizers []string) metav1.DeletionPropagation {
	for _, finalizer := range finalizers {
		switch finalizer {
		case metav1.FinalizerOrphanDependents:
			return metav1.DeletePropagationOrphan
		case metav1.FinalizerDeleteDependents:
			return metav1.DeletePropagationForeground
		}
	}
	return metav1.DeletePropagationBackground
}
