package nodeipam

import (
	"errors"
	"fmt"
	"math/big"
	"net"

	v1 "k8s.io/api/core/v1"
	netutils "k8s.io/utils/net"
)

// Range is a cluster range and the size of the pieces that nodes get.
type Range struct {
	Cluster  *net.IPNet
	NodeBits int // prefix length of a node's piece
}

// Ranges checks cluster ranges (one, or one per address family) and the prefix
// lengths of the nodes' pieces.
func Ranges(clusterCIDRs []string, bitsIPv4, bitsIPv6 int) ([]Range, error) {
	cidrs, err := netutils.ParseCIDRs(clusterCIDRs)
	if err != nil {
		return nil, err
	}
	if len(cidrs) == 0 {
		return nil, errors.New("nodes can't be given pod ranges without --cluster-cidr")
	}
	if len(cidrs) > 2 {
		return nil, fmt.Errorf("expected at most 2 cluster CIDRs, got %d", len(cidrs))
	}
	if dual, _ := netutils.IsDualStackCIDRs(cidrs); len(cidrs) == 2 && !dual {
		return nil, errors.New("two cluster CIDRs must be of both address families")
	}
	var ranges []Range
	for _, cidr := range cidrs {
		bits := bitsIPv4
		if netutils.IsIPv6CIDR(cidr) {
			bits = bitsIPv6
		}
		ones, size := cidr.Mask.Size()
		if bits < ones || bits > size {
			return nil, fmt.Errorf("node mask size /%d doesn't fit cluster CIDR %s", bits, cidr)
		}
		if bits-ones > 16 {
			return nil, fmt.Errorf("node mask size /%d of cluster CIDR %s makes more than 65536 ranges", bits, cidr)
		}
		ranges = append(ranges, Range{Cluster: cidr, NodeBits: bits})
	}
	return ranges, nil
}

// count is the number of pieces.
func (r Range) count() int {
	ones, _ := r.Cluster.Mask.Size()
	return 1 << (r.NodeBits - ones)
}

// piece is the index-th part of the range.
func (r Range) piece(index int) *net.IPNet {
	_, size := r.Cluster.Mask.Size()
	ip := netutils.BigForIP(r.Cluster.IP)
	ip.Add(ip, new(big.Int).Lsh(big.NewInt(int64(index)), uint(size-r.NodeBits)))
	bytes := make([]byte, size/8)
	// BigForIP counts IPv4 in its 16-byte form: the last bytes are the address.
	full := ip.Bytes()
	copy(bytes[max(0, len(bytes)-len(full)):], full[max(0, len(full)-len(bytes)):])
	return &net.IPNet{IP: bytes, Mask: net.CIDRMask(r.NodeBits, size)}
}

func overlap(a, b *net.IPNet) bool { return a.Contains(b.IP) || b.Contains(a.IP) }

// Assignment gives a node its ranges, one per cluster range.
type Assignment struct {
	Node  *v1.Node
	CIDRs []string
}

// Plan is what one turn assigns.
type Plan struct {
	Assign []Assignment
	// Without are nodes for which no range is left.
	Without []*v1.Node
	// Next is where the search goes on, one per range.
	Next []int
}

// Decide gives each node that has no ranges free ones. What is used is read off the nodes
// themselves, so nothing has to be remembered or released: a range is free when no
// node has it. The search starts at next (nil: at the beginning) and not at the first free
// range, so that the range of a node just deleted rests as long as possible. reserved (the service
// ranges) are never given out.
func Decide(ranges []Range, nodes []*v1.Node, reserved []*net.IPNet, next []int) Plan {
	p := Plan{Next: make([]int, len(ranges))}
	copy(p.Next, next)
	used := append([]*net.IPNet(nil), reserved...)
	for _, node := range nodes {
		for _, text := range nodeCIDRs(node) {
			if _, cidr, err := netutils.ParseCIDRSloppy(text); err == nil {
				used = append(used, cidr)
			}
		}
	}
	taken := make([][]bool, len(ranges))
	for i, r := range ranges {
		taken[i] = occupied(r, used)
	}
	for _, node := range nodes {
		if len(nodeCIDRs(node)) > 0 || node.DeletionTimestamp != nil {
			continue
		}
		picks, ok := pick(taken, p.Next)
		if !ok {
			p.Without = append(p.Without, node)
			continue
		}
		assignment := Assignment{Node: node}
		for i, index := range picks {
			taken[i][index] = true
			p.Next[i] = (index + 1) % len(taken[i])
			assignment.CIDRs = append(assignment.CIDRs, ranges[i].piece(index).String())
		}
		p.Assign = append(p.Assign, assignment)
	}
	return p
}

func nodeCIDRs(node *v1.Node) []string {
	if len(node.Spec.PodCIDRs) == 0 && node.Spec.PodCIDR != "" {
		return []string{node.Spec.PodCIDR}
	}
	return node.Spec.PodCIDRs
}

// occupied marks the pieces of a range that overlap something used.
func occupied(r Range, used []*net.IPNet) []bool {
	taken := make([]bool, r.count())
	_, size := r.Cluster.Mask.Size()
	base := netutils.BigForIP(r.Cluster.IP)
	for _, cidr := range used {
		if !overlap(r.Cluster, cidr) {
			continue
		}
		ones, _ := cidr.Mask.Size()
		first, count := 0, len(taken)
		if r.Cluster.Contains(cidr.IP) && ones > 0 {
			offset := new(big.Int).Sub(netutils.BigForIP(cidr.IP), base)
			first = int(offset.Rsh(offset, uint(size-r.NodeBits)).Int64())
			count = 1
			if ones < r.NodeBits {
				count = 1 << (r.NodeBits - ones)
			}
		}
		for i := first; i < min(first+count, len(taken)); i++ {
			taken[i] = true
		}
	}
	return taken
}

// pick finds a free piece in each range.
func pick(taken [][]bool, next []int) ([]int, bool) {
	picks := make([]int, len(taken))
	for i := range taken {
		found := false
		for k := range taken[i] {
			index := (next[i] + k) % len(taken[i])
			if !taken[i][index] {
				picks[i], found = index, true
				break
			}
		}
		if !found {
			return nil, false
		}
	}
	return picks, true
}
