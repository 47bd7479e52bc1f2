package apiserver

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"

	"skiff/pkg/api"
)

// plan is what a deletion does to an object.
type plan struct {
	next      api.Object // the object, marked if need be
	unchanged bool       // it is marked already
	markFirst bool       // write next before removing it, for others to see
	remove    bool
}

// planDeletion decides about obj, which it may change. These are the rules of Kubernetes' BeforeDelete and of
// its store: a graceful kind gets a deadline, which later deletions can only bring nearer;
// finalizers hold the object; the propagation policy is kept as a finalizer for the
// garbage collector.
func planDeletion(kind *api.Kind, obj api.Object, options *metav1.DeleteOptions, now time.Time) plan {
	p := plan{next: obj}
	if kind.PrepareForDelete != nil && obj.GetDeletionTimestamp() == nil {
		kind.PrepareForDelete(obj, now)
		return p
	}
	graceful, pending := false, false
	var period int64
	if kind.GraceSeconds != nil {
		period, graceful, pending = markGraceful(kind, obj, options, now)
	}
	if pending {
		p.unchanged = true
		return p
	}
	changed := propagate(kind, obj, options)
	held := len(obj.GetFinalizers()) > 0 || namespaceHeld(obj)
	switch {
	case graceful:
		p.markFirst = true
		p.remove = period == 0 && !held
	case held:
		changed = markDeleting(obj, now) || changed
		p.unchanged = !changed
	default:
		p.remove = true
	}
	return p
}

// markGraceful sets the deadline of a graceful deletion. pending says that an earlier
// deletion's deadline stands.
func markGraceful(kind *api.Kind, obj api.Object, options *metav1.DeleteOptions, now time.Time) (period int64, graceful, pending bool) {
	if options.GracePeriodSeconds != nil && *options.GracePeriodSeconds < 0 {
		options.GracePeriodSeconds = ptr.To[int64](1)
	}
	current := obj.GetDeletionGracePeriodSeconds()
	if obj.GetDeletionTimestamp() == nil {
		period = kind.GraceSeconds(obj, options)
		deadline := metav1.NewTime(now.Add(time.Duration(period) * time.Second).Truncate(time.Second))
		obj.SetDeletionTimestamp(&deadline)
		obj.SetDeletionGracePeriodSeconds(&period)
		if obj.GetGeneration() > 0 {
			obj.SetGeneration(obj.GetGeneration() + 1)
		}
		return period, true, false
	}
	if current == nil || *current == 0 {
		return 0, false, false
	}
	if options.GracePeriodSeconds == nil || *options.GracePeriodSeconds >= *current {
		return *current, false, true
	}
	period = *options.GracePeriodSeconds
	begun := obj.GetDeletionTimestamp().Add(-time.Duration(*current) * time.Second)
	deadline := begun.Add(time.Duration(period) * time.Second)
	if deadline.Before(now) {
		deadline = now
		if period != 0 {
			period = 1 // still graceful: somebody else removes the object
		}
	}
	obj.SetDeletionTimestamp(&metav1.Time{Time: deadline.Truncate(time.Second)})
	obj.SetDeletionGracePeriodSeconds(&period)
	return period, true, false
}

// markDeleting marks an object that only its finalizers hold; it reports whether that was new.
func markDeleting(obj api.Object, now time.Time) bool {
	changed := false
	stamp := obj.GetDeletionTimestamp()
	if stamp == nil && obj.GetGeneration() > 0 {
		obj.SetGeneration(obj.GetGeneration() + 1)
	}
	if stamp == nil || stamp.After(now) {
		t := metav1.NewTime(now.Truncate(time.Second))
		obj.SetDeletionTimestamp(&t)
		changed = true
	}
	if namespace, ok := obj.(*corev1.Namespace); ok {
		changed = changed || namespace.Status.Phase != corev1.NamespaceTerminating
		namespace.Status.Phase = corev1.NamespaceTerminating
		return changed
	}
	if grace := obj.GetDeletionGracePeriodSeconds(); grace == nil || *grace != 0 {
		obj.SetDeletionGracePeriodSeconds(ptr.To[int64](0))
		changed = true
	}
	return changed
}

// namespaceHeld says that a namespace still has contents: finalizers of its own kind, that
// whoever empties it takes away.
func namespaceHeld(obj api.Object) bool {
	namespace, ok := obj.(*corev1.Namespace)
	return ok && len(namespace.Spec.Finalizers) > 0
}

// propagate sets the garbage collector's finalizers after the propagation policy; it
// reports whether they changed.
func propagate(kind *api.Kind, obj api.Object, options *metav1.DeleteOptions) bool {
	if ungarbaged[kind.GroupResource()] {
		return false
	}
	before := obj.GetFinalizers()
	orphan := shallOrphan(kind, before, options)
	foreground := shallForeground(before, options)
	after := slices.DeleteFunc(slices.Clone(before), func(f string) bool {
		return f == metav1.FinalizerOrphanDependents && !orphan || f == metav1.FinalizerDeleteDependents && !foreground
	})
	if orphan && !slices.Contains(after, metav1.FinalizerOrphanDependents) {
		after = append(after, metav1.FinalizerOrphanDependents)
	}
	if foreground && !slices.Contains(after, metav1.FinalizerDeleteDependents) {
		after = append(after, metav1.FinalizerDeleteDependents)
	}
	if slices.Equal(before, after) {
		return false
	}
	obj.SetFinalizers(after)
	return true
}

// ungarbaged are the resources that the garbage collector ignores.
var ungarbaged = map[schema.GroupResource]bool{
	{Resource: "events"}:                         true,
	{Group: "events.k8s.io", Resource: "events"}: true,
}

func shallOrphan(kind *api.Kind, finalizers []string, options *metav1.DeleteOptions) bool {
	if options.OrphanDependents != nil {
		return *options.OrphanDependents
	}
	if options.PropagationPolicy != nil {
		return *options.PropagationPolicy == metav1.DeletePropagationOrphan
	}
	for _, f := range finalizers {
		switch f {
		case metav1.FinalizerOrphanDependents:
			return true
		case metav1.FinalizerDeleteDependents:
			return false
		}
	}
	return kind.DefaultGarbageCollection == metav1.DeletePropagationOrphan
}

func shallForeground(finalizers []string, options *metav1.DeleteOptions) bool {
	if options.OrphanDependents != nil {
		return false
	}
	if options.PropagationPolicy != nil {
		return *options.PropagationPolicy == metav1.DeletePropagationForeground
	}
	for _, f := range finalizers {
		switch f {
		case metav1.FinalizerDeleteDependents:
			return true
		case metav1.FinalizerOrphanDependents:
			return false
		}
	}
	return false
}
