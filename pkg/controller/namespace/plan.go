package namespace

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
)

// Outcome is what emptying a namespace has come to.
type Outcome struct {
	Discovery error   // not all resources could be discovered
	Content   []error // deletions that failed
	// Remaining counts what is still there by resource, and Finalizers by the
	// finalizers that hold it.
	Remaining  map[schema.GroupResource]int
	Finalizers map[string]int
}

// Done says that nothing is left, for certain.
func (o Outcome) Done() bool {
	return o.Discovery == nil && len(o.Content) == 0 && len(o.Remaining) == 0
}

// Err joins what went wrong.
func (o Outcome) Err() error { return errors.Join(append(slices.Clone(o.Content), o.Discovery)...) }

// conditions that a namespace in deletion has, with what they say when all is well.
var conditions = []struct {
	kind            v1.NamespaceConditionType
	reason, message string
}{
	{v1.NamespaceDeletionDiscoveryFailure, "ResourcesDiscovered", "All resources successfully discovered"},
	{v1.NamespaceDeletionGVParsingFailure, "ParsedGroupVersions", "All legacy kube types successfully parsed"},
	{v1.NamespaceDeletionContentFailure, "ContentDeleted", "All content successfully deleted, may be waiting on finalization"},
	{v1.NamespaceContentRemaining, "ContentRemoved", "All content successfully removed"},
	{v1.NamespaceFinalizersRemaining, "ContentHasNoFinalizers", "All content-preserving finalizers finished"},
}

// Conditions brings a namespace's conditions up to date with an outcome, and
// reports whether that changed anything.
func Conditions(current []v1.NamespaceCondition, o Outcome, now time.Time) ([]v1.NamespaceCondition, bool) {
	result, changed := slices.Clone(current), false
	failures := failed(o)
	for _, ok := range conditions {
		c, isFailure := failures[ok.kind]
		c.Type, c.Status, c.LastTransitionTime = ok.kind, v1.ConditionTrue, metav1.NewTime(now)
		if !isFailure {
			c.Status, c.Reason, c.Message = v1.ConditionFalse, ok.reason, ok.message
		}
		i := slices.IndexFunc(result, func(old v1.NamespaceCondition) bool { return old.Type == ok.kind })
		if i < 0 {
			result, changed = append(result, c), true
			continue
		}
		if old := result[i]; old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
			if old.Reason == c.Reason && old.Message == c.Message {
				continue
			}
		}
		result[i], changed = c, true
	}
	return result, changed
}

func failed(o Outcome) map[v1.NamespaceConditionType]v1.NamespaceCondition {
	failures := map[v1.NamespaceConditionType]v1.NamespaceCondition{}
	if o.Discovery != nil {
		message := o.Discovery.Error()
		if groups, ok := errors.AsType[*discovery.ErrGroupDiscoveryFailed](o.Discovery); ok {
			message = fmt.Sprintf("Discovery failed for some groups, %d failing: %v", len(groups.Groups), o.Discovery)
		}
		failures[v1.NamespaceDeletionDiscoveryFailure] = v1.NamespaceCondition{Reason: "DiscoveryFailed", Message: message}
	}
	if len(o.Content) > 0 {
		messages := make([]string, 0, len(o.Content))
		for _, err := range o.Content {
			messages = append(messages, err.Error())
		}
		failures[v1.NamespaceDeletionContentFailure] = v1.NamespaceCondition{
			Reason:  "ContentDeletionFailed",
			Message: fmt.Sprintf("Failed to delete all resource types, %d remaining: %s", len(messages), list(messages)),
		}
	}
	if len(o.Remaining) > 0 {
		var remaining []string
		for resource, count := range o.Remaining {
			// "pods." for the core group, as it always was.
			remaining = append(remaining, fmt.Sprintf("%s.%s has %d resource instances", resource.Resource, resource.Group, count))
		}
		failures[v1.NamespaceContentRemaining] = v1.NamespaceCondition{
			Reason: "SomeResourcesRemain", Message: "Some resources are remaining: " + list(remaining),
		}
	}
	if len(o.Finalizers) > 0 {
		var remaining []string
		for finalizer, count := range o.Finalizers {
			remaining = append(remaining, fmt.Sprintf("%s in %d resource instances", finalizer, count))
		}
		failures[v1.NamespaceFinalizersRemaining] = v1.NamespaceCondition{
			Reason: "SomeFinalizersRemain", Message: "Some content in the namespace has finalizers remaining: " + list(remaining),
		}
	}
	return failures
}

// list joins in a fixed order.
func list(parts []string) string {
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}
