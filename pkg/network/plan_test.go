package network

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"
)

func testLocal() Local {
	return Local{NodeName: "a", NodeIP: netip.MustParseAddr("10.0.0.1"), PodCIDR: netip.MustParsePrefix("10.244.1.0/24"),
		OnLink:       []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")},
		ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}}
}

func nothing() State {
	return State{Routes: map[netip.Prefix]Route{}, Peers: map[netip.Addr]Peer{}, Nodes: map[netip.Addr]bool{}}
}

func lines(steps []Step) string {
	var all []string
	for _, step := range steps {
		all = append(all, step.String())
	}
	return strings.Join(all, "\n")
}

func TestPlan(t *testing.T) {
	a := testNode("a", "10.244.1.0/24", "10.0.0.1")
	base := `add node 10.0.0.1: a node's address
%sadd route 10.96.0.0/16 service: service addresses
add route 10.244.0.0/16 unreachable: nothing of the cluster's ranges strays
add route 10.244.1.0/24 unreachable: nothing of the cluster's ranges strays%s`
	for _, test := range []struct {
		name    string
		nodes   []*corev1.Node
		want    string
		refused string
	}{
		{"alone", []*corev1.Node{a}, fmt.Sprintf(base, "", ""), ""},
		{"neighbour", []*corev1.Node{a, testNode("b", "10.244.2.0/24", "10.0.0.2")}, fmt.Sprintf(base,
			"add node 10.0.0.2: a node's address\n", "\nadd route 10.244.2.0/24 direct via 10.0.0.2: a node on this link"), ""},
		{"far", []*corev1.Node{testNode("b", "10.244.2.0/24", "10.1.0.2"), a}, fmt.Sprintf(base,
			"add node 10.1.0.2: a node's address\nadd peer 10.244.2.0 0a:59:0a:f4:02:00 at 10.1.0.2: a node on another link\n",
			"\nadd route 10.244.2.0/24 vxlan via 10.244.2.0: a node on another link"), ""},
		{"new", []*corev1.Node{a, testNode("b", "", "10.0.0.2")}, fmt.Sprintf(base, "add node 10.0.0.2: a node's address\n", ""), ""},
		{"the same range", []*corev1.Node{a, testNode("b", "10.244.1.0/25", "10.0.0.2")}, fmt.Sprintf(base, "add node 10.0.0.2: a node's address\n", ""),
			`network: node "b" has pod range 10.244.1.0/25, which overlaps this node's 10.244.1.0/24`},
		{"IPv6", []*corev1.Node{a, testNode("b", "fd00::/64", "10.0.0.2")}, fmt.Sprintf(base, "add node 10.0.0.2: a node's address\n", ""),
			`network: node "b" has pod ranges [fd00::/64], but only IPv4 is supported`},
		{"nonsense", []*corev1.Node{a, testNode("b", "10.244.2.0", "10.0.0.2")}, fmt.Sprintf(base, "add node 10.0.0.2: a node's address\n", ""),
			`network: node "b": pod range: netip.ParsePrefix("10.244.2.0"): no '/'`},
	} {
		t.Run(test.name, func(t *testing.T) {
			want, refused := Plan(testLocal(), test.nodes)
			if got := lines(Steps(nothing(), want)); got != test.want {
				t.Errorf("got\n%s\nwant\n%s", got, test.want)
			}
			var text string
			for _, err := range refused {
				text += err.Error()
			}
			if text != test.refused {
				t.Errorf("refused %q, want %q", text, test.refused)
			}
			if steps := Steps(want, want); len(steps) > 0 {
				t.Errorf("nothing has changed, and yet: %s", lines(steps))
			}
		})
	}
}

func TestStepsOnMove(t *testing.T) {
	a := testNode("a", "10.244.1.0/24", "10.0.0.1")
	before, _ := Plan(testLocal(), []*corev1.Node{a, testNode("b", "10.244.2.0/24", "10.1.0.2")})
	after, _ := Plan(testLocal(), []*corev1.Node{a, testNode("b", "10.244.2.0/24", "10.0.0.2")})
	want := `add node 10.0.0.2: a node's address
add route 10.244.2.0/24 direct via 10.0.0.2: a node on this link
remove peer 10.244.2.0 0a:59:0a:f4:02:00 at 10.1.0.2: the node is gone, or on this link now
remove node 10.1.0.2: no node has this address`
	if got := lines(Steps(before, after)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// Whatever nodes come and go, steps lead from one plan to the next, and the
// order of nodes doesn't matter.
func TestStepsLead(t *testing.T) {
	nodes := rapid.Custom(func(t *rapid.T) []*corev1.Node {
		var all []*corev1.Node
		for _, i := range rapid.SliceOfNDistinct(rapid.IntRange(1, 6), 0, 6, rapid.ID).Draw(t, "nodes") {
			all = append(all, testNode(fmt.Sprint("n", i), fmt.Sprintf("10.244.%d.0/24", rapid.IntRange(1, 6).Draw(t, "range")),
				fmt.Sprintf("10.%d.0.%d", rapid.IntRange(0, 1).Draw(t, "link"), i)))
		}
		return all
	})
	rapid.Check(t, func(t *rapid.T) {
		before, after := nodes.Draw(t, "before"), nodes.Draw(t, "after")
		have, _ := Plan(testLocal(), before)
		want, _ := Plan(testLocal(), after)
		for _, step := range Steps(have, want) {
			have.with(step)
		}
		slices.Reverse(after)
		again, _ := Plan(testLocal(), after)
		if fmt.Sprint(have) != fmt.Sprint(want) || fmt.Sprint(again) != fmt.Sprint(want) {
			t.Fatalf("got %v, want %v, reversed %v", have, want, again)
		}
	})
}
