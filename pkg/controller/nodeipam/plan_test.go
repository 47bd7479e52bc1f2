package nodeipam

import (
	"fmt"
	"net"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	netutils "k8s.io/utils/net"
	"pgregory.net/rapid"
)

func node(name string, cidrs ...string) *v1.Node {
	return &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1.NodeSpec{PodCIDRs: cidrs}}
}

func ranges(t testing.TB, cidrs string, four, six int) []Range {
	r, err := Ranges(strings.Split(cidrs, ","), four, six)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func show(p Plan) string {
	var text []string
	for _, a := range p.Assign {
		text = append(text, a.Node.Name+"="+strings.Join(a.CIDRs, "+"))
	}
	for _, n := range p.Without {
		text = append(text, n.Name+"=none")
	}
	return strings.Join(text, " ")
}

func TestDecide(t *testing.T) {
	for name, c := range map[string]struct {
		cidrs string
		nodes []*v1.Node
		next  []int
		want  string
	}{
		"first":            {"10.244.0.0/16", []*v1.Node{node("a"), node("b")}, nil, "a=10.244.0.0/24 b=10.244.1.0/24"},
		"around used ones": {"10.244.0.0/16", []*v1.Node{node("a"), node("b", "10.244.0.0/24"), node("c", "10.244.1.0/25")}, nil, "a=10.244.2.0/24"},
		"a larger one":     {"10.244.0.0/16", []*v1.Node{node("a"), node("b", "10.244.0.0/22")}, nil, "a=10.244.4.0/24"},
		"foreign ones":     {"10.244.0.0/16", []*v1.Node{node("a"), node("b", "192.168.0.0/24"), node("c", "rubbish")}, nil, "a=10.244.0.0/24"},
		"goes on":          {"10.244.0.0/16", []*v1.Node{node("a")}, []int{7}, "a=10.244.7.0/24"},
		"wraps":            {"10.244.0.0/23", []*v1.Node{node("a"), node("b"), node("c")}, []int{1}, "a=10.244.1.0/24 b=10.244.0.0/24 c=none"},
		"dual":             {"10.244.0.0/16,fd00::/56", []*v1.Node{node("a"), node("b")}, nil, "a=10.244.0.0/24+fd00::/64 b=10.244.1.0/24+fd00:0:0:1::/64"},
		"all used":         {"10.244.0.0/24", []*v1.Node{node("a"), node("b", "10.0.0.0/8")}, nil, "a=none"},
	} {
		if got := show(Decide(ranges(t, c.cidrs, 24, 64), c.nodes, nil, c.next)); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
	_, services, _ := net.ParseCIDR("10.244.0.0/20")
	if got := show(Decide(ranges(t, "10.244.0.0/16", 24, 64), []*v1.Node{node("a")}, []*net.IPNet{services}, nil)); got != "a=10.244.16.0/24" {
		t.Errorf("around the services: %s", got)
	}
}

func TestRanges(t *testing.T) {
	for cidrs, want := range map[string]string{
		"10.244.0.0/25":               "node mask size /24 doesn't fit",
		"10.0.0.0/4":                  "more than 65536",
		"10.1.0.0/16,10.2.0.0/16":     "both address families",
		"rubbish":                     "invalid CIDR",
		"10.1.0.0/16,fd00::/56,f::/9": "at most 2",
	} {
		if _, err := Ranges(strings.Split(cidrs, ","), 24, 64); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", cidrs, err)
		}
	}
}

// TestNeverOverlaps adds and removes nodes at random: no two ever share an address, and nobody goes
// without while there is room.
func TestNeverOverlaps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r, err := Ranges([]string{"10.244.0.0/20"}, 24, 64) // 16 pieces
		if err != nil {
			t.Fatal(err)
		}
		var nodes []*v1.Node
		var next []int
		for i := range 30 {
			if len(nodes) > 0 && rapid.Bool().Draw(t, "remove") {
				k := rapid.IntRange(0, len(nodes)-1).Draw(t, "which")
				nodes = append(nodes[:k:k], nodes[k+1:]...)
			} else {
				nodes = append(nodes, node(fmt.Sprint("n", i)))
			}
			p := Decide(r, nodes, nil, next)
			next = p.Next
			for _, a := range p.Assign {
				a.Node.Spec.PodCIDRs = a.CIDRs
			}
			if without := max(0, len(nodes)-16); len(p.Without) != without {
				t.Fatalf("%d of %d nodes go without", len(p.Without), len(nodes))
			}
			var used []*net.IPNet
			for _, n := range nodes {
				for _, text := range n.Spec.PodCIDRs {
					_, cidr, err := netutils.ParseCIDRSloppy(text)
					if err != nil {
						t.Fatal(err)
					}
					for _, other := range used {
						if overlap(cidr, other) {
							t.Fatalf("%s overlaps %s", cidr, other)
						}
					}
					used = append(used, cidr)
				}
			}
		}
	})
}
