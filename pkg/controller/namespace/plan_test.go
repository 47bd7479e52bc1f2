package namespace

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func show(conditions []v1.NamespaceCondition) string {
	var lines []string
	for _, c := range conditions {
		lines = append(lines, fmt.Sprintf("%s=%s %s: %s", c.Type, c.Status, c.Reason, c.Message))
	}
	return strings.Join(lines, "\n")
}

func TestConditions(t *testing.T) {
	ok, changed := Conditions(nil, Outcome{}, now)
	want := `NamespaceDeletionDiscoveryFailure=False ResourcesDiscovered: All resources successfully discovered
NamespaceDeletionGroupVersionParsingFailure=False ParsedGroupVersions: All legacy kube types successfully parsed
NamespaceDeletionContentFailure=False ContentDeleted: All content successfully deleted, may be waiting on finalization
NamespaceContentRemaining=False ContentRemoved: All content successfully removed
NamespaceFinalizersRemaining=False ContentHasNoFinalizers: All content-preserving finalizers finished`
	if got := show(ok); got != want || !changed {
		t.Fatalf("changed %t:\n%s", changed, got)
	}
	if _, changed := Conditions(ok, Outcome{}, now.Add(time.Hour)); changed {
		t.Error("the same again is a change")
	}
	bad, changed := Conditions(ok, Outcome{
		Discovery:  &discovery.ErrGroupDiscoveryFailed{Groups: map[schema.GroupVersion]error{{Group: "g", Version: "v1"}: errors.New("down")}},
		Content:    []error{errors.New("b"), errors.New("a")},
		Remaining:  map[schema.GroupResource]int{{Resource: "pods"}: 2, {Group: "x.io", Resource: "toys"}: 1},
		Finalizers: map[string]int{"x.io/keep": 3},
	}, now.Add(time.Hour))
	want = `NamespaceDeletionDiscoveryFailure=True DiscoveryFailed: Discovery failed for some groups, 1 failing: unable to retrieve the complete list of server APIs: g/v1: down
NamespaceDeletionGroupVersionParsingFailure=False ParsedGroupVersions: All legacy kube types successfully parsed
NamespaceDeletionContentFailure=True ContentDeletionFailed: Failed to delete all resource types, 2 remaining: a, b
NamespaceContentRemaining=True SomeResourcesRemain: Some resources are remaining: pods. has 2 resource instances, toys.x.io has 1 resource instances
NamespaceFinalizersRemaining=True SomeFinalizersRemain: Some content in the namespace has finalizers remaining: x.io/keep in 3 resource instances`
	if got := show(bad); got != want || !changed {
		t.Fatalf("changed %t:\n%s", changed, got)
	}
	if bad[0].LastTransitionTime.Equal(&ok[0].LastTransitionTime) || !bad[1].LastTransitionTime.Equal(&ok[1].LastTransitionTime) {
		t.Errorf("transition times: %v, %v", bad[0].LastTransitionTime, bad[1].LastTransitionTime)
	}
}

func TestDone(t *testing.T) {
	for _, c := range []struct {
		o    Outcome
		want bool
	}{
		{Outcome{}, true},
		{Outcome{Discovery: errors.New("x")}, false},
		{Outcome{Content: []error{errors.New("x")}}, false},
		{Outcome{Remaining: map[schema.GroupResource]int{podResource: 1}}, false},
	} {
		if c.o.Done() != c.want {
			t.Errorf("%+v", c.o)
		}
	}
}
