package fair

import (
	"testing"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/utils/ptr"

	"skiff/pkg/apiserver/request"
)

func TestClassify(t *testing.T) {
	c := compile(600, suggestedSchemas, bootstrap.SuggestedPriorityLevelConfigurations)
	user := func(name string, groups ...string) *request.User {
		return &request.User{Name: name, Groups: append(groups, request.Authenticated)}
	}
	resource := func(verb, group, namespace, resource string) *request.Info {
		return &request.Info{IsResourceRequest: true, Verb: verb, APIGroup: group, Namespace: namespace, Resource: resource}
	}
	status := resource("patch", "", "", "nodes")
	status.Subresource = "status"
	account := user("system:serviceaccount:kube-system:deployment-controller", "system:serviceaccounts", "system:serviceaccounts:kube-system")
	node := user("system:node:n", "system:nodes")
	for _, row := range []struct {
		what          string
		user          *request.User
		info          *request.Info
		schema, level string
	}{
		{"an administrator", user("root", request.Masters), resource("list", "", "", "pods"), "exempt", "exempt"},
		{"a probe", request.AnonymousUser(), &request.Info{Verb: "get", Path: "/readyz/etcd"}, "probes", "exempt"},
		{"metrics", request.AnonymousUser(), &request.Info{Verb: "get", Path: "/metrics"}, "global-default", "global-default"},
		{"a lease of a leader", user("system:kube-scheduler"), resource("update", "coordination.k8s.io", "kube-system", "leases"), "system-leader-election", "leader-election"},
		{"the other half of its lock", user("system:kube-scheduler"), resource("update", "", "kube-system", "endpoints"), "skiff-leader-election", "leader-election"},
		{"a watch of leases", user("system:kube-scheduler"), resource("watch", "coordination.k8s.io", "kube-system", "leases"), "kube-scheduler", "workload-high"},
		{"a node's lease", node, resource("update", "coordination.k8s.io", "kube-node-lease", "leases"), "system-node-high", "node-high"},
		{"a node's status", node, status, "system-node-high", "node-high"},
		{"a node's pods", node, resource("list", "", "", "pods"), "system-nodes", "system"},
		{"a reconciler", account, resource("create", "apps", "a", "replicasets"), "kube-system-service-accounts", "workload-high"},
		{"a pod", user("system:serviceaccount:a:b", "system:serviceaccounts"), resource("list", "", "a", "pods"), "service-accounts", "workload-low"},
		{"a person", user("jane"), resource("list", "", "a", "pods"), "global-default", "global-default"},
		{"nobody", &request.User{Name: "odd"}, resource("list", "", "a", "pods"), "catch-all", "catch-all"},
	} {
		if m := c.Classify(row.user, row.info); m.Schema != row.schema || m.Level != row.level {
			t.Errorf("%s: %s of %s, want %s of %s", row.what, m.Schema, m.Level, row.schema, row.level)
		}
	}
	pods := resource("list", "", "a", "pods")
	if c.Classify(user("jane"), pods).Flow == c.Classify(user("joe"), pods).Flow {
		t.Error("two people are one flow")
	}
	other := resource("list", "", "b", "pods")
	if c.Classify(user("jane"), pods).Flow != c.Classify(user("jane"), other).Flow || c.Classify(account, pods).Flow == c.Classify(account, other).Flow {
		t.Error("flows are told apart by what their schema doesn't name")
	}
}

func TestCompile(t *testing.T) {
	own := &flowcontrolv1.PriorityLevelConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "own"}, Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
		Type: flowcontrolv1.PriorityLevelEnablementLimited, Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
			NominalConcurrencyShares: ptr.To[int32](15), LendablePercent: ptr.To[int32](40), BorrowingLimitPercent: ptr.To[int32](50),
			LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeQueue, Queuing: &flowcontrolv1.QueuingConfiguration{Queues: 1e7, HandSize: 2, QueueLengthLimit: 9}},
		}}}
	lost := &flowcontrolv1.FlowSchema{ObjectMeta: metav1.ObjectMeta{Name: "lost"}, Spec: flowcontrolv1.FlowSchemaSpec{
		MatchingPrecedence: 2, PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: "nowhere"}}}
	c := compile(200, []*flowcontrolv1.FlowSchema{lost}, []*flowcontrolv1.PriorityLevelConfiguration{own})
	want := []Level{ // catch-all has 5 of 20 shares
		{Name: "exempt", Exempt: true, Limit: 200},
		{Name: "own", Nominal: 150, Reserved: 90, Limit: 225, Queues: maxQueues, QueueLength: 9, HandSize: 2},
		{Name: "catch-all", Nominal: 50, Reserved: 50, Limit: 200},
	}
	if len(c.Levels) != len(want) {
		t.Fatalf("levels: %+v", c.Levels)
	}
	for i := range want {
		if c.Levels[i] != want[i] {
			t.Errorf("level %+v, want %+v", c.Levels[i], want[i])
		}
	}
	if len(c.schemas) != 2 || c.schemas[0].Name != "exempt" || c.schemas[1].Name != "catch-all" {
		t.Errorf("schemas: %v", c.schemas)
	}
}

func TestListWidth(t *testing.T) {
	for _, row := range []struct {
		watch, selective bool
		query            map[string][]string
		objects, want    int
	}{
		{objects: 0, want: 1}, {objects: 100, want: 1}, {objects: 101, want: 2}, {objects: 1 << 30, want: widest},
		{objects: 5000, query: map[string][]string{"limit": {"500"}}, want: 5},
		{objects: 5000, query: map[string][]string{"limit": {"500"}}, selective: true, want: 50},
		{watch: true, objects: 5000, want: 50},
		{watch: true, objects: 5000, query: map[string][]string{"resourceVersion": {"7"}}, want: 1},
		{watch: true, objects: 5000, query: map[string][]string{"resourceVersion": {"7"}, "sendInitialEvents": {"true"}}, want: 50},
	} {
		if got := ListWidth(row.watch, row.selective, row.query, func(limit int) int { return min(limit, row.objects) }); got != row.want {
			t.Errorf("%+v: %d", row, got)
		}
	}
}

func BenchmarkClassify(b *testing.B) {
	c := compile(600, suggestedSchemas, bootstrap.SuggestedPriorityLevelConfigurations)
	user := &request.User{Name: "jane", Groups: []string{"dev", request.Authenticated}}
	info := &request.Info{IsResourceRequest: true, Verb: "list", Namespace: "a", Resource: "pods"}
	b.ReportAllocs()
	for b.Loop() {
		c.Classify(user, info) // passes all schemas but the last
	}
}
