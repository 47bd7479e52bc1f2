package proxy

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// Protocol is an IP protocol number.
type Protocol uint8

// The protocols of services. (SCTP is not forwarded.)
const (
	TCP Protocol = 6
	UDP Protocol = 17
)

func (p Protocol) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	}
	return fmt.Sprint(uint8(p))
}

// Frontend is what clients connect to. The address 0.0.0.0 stands for the
// node's own addresses: a node port.
type Frontend struct {
	Addr     netip.Addr
	Protocol Protocol
	Port     uint16
}

func (f Frontend) compare(g Frontend) int {
	return cmp.Or(f.Addr.Compare(g.Addr), cmp.Compare(f.Protocol, g.Protocol), cmp.Compare(f.Port, g.Port))
}

func (f Frontend) String() string { return fmt.Sprintf("%s . %s . %d", f.Addr, f.Protocol, f.Port) }

// nodePort says whether f stands for the node's own addresses.
func (f Frontend) nodePort() bool { return f.Addr.IsUnspecified() }

// Verdict is what becomes of a new connection.
type Verdict string

// The verdicts.
const (
	Forward Verdict = "forward"
	Reject  Verdict = "reject" // refused at once
	Drop    Verdict = "drop"   // unanswered: another node may have an endpoint
)

// Masquerade says whose source address is replaced by the node's.
type Masquerade string

// The ways to masquerade.
const (
	Never   Masquerade = ""
	NonPods Masquerade = "snat-nonpods"
	Always  Masquerade = "snat"
)

// Action is a verdict with its details. It is comparable, and what is equal
// can share a chain.
type Action struct {
	Verdict    Verdict
	Masquerade Masquerade
	// First and Count are the range of the rule's endpoints to choose from.
	First, Count int
	// Affinity is how long a client stays with its endpoint; 0 is not at all.
	Affinity time.Duration
	// NodePort and Outside tell chains apart that are reached differently:
	// by a node port, and by the map "outside".
	NodePort, Outside bool
}

// Chain is the name of the chain that executes the action.
func (a Action) Chain() string {
	switch a.Verdict { // the verdicts' own names are keywords of nft(8)
	case Reject:
		return "rejected"
	case Drop:
		return "dropped"
	}
	var name strings.Builder
	fmt.Fprintf(&name, "forward-%d", a.Count)
	if a.First > 0 {
		fmt.Fprintf(&name, "-from-%d", a.First)
	}
	if a.Masquerade != Never {
		name.WriteString("-" + string(a.Masquerade))
	}
	if a.Affinity > 0 {
		fmt.Fprintf(&name, "-sticky-%d", int(a.Affinity/time.Second))
	}
	if a.NodePort {
		name.WriteString("-nodeport")
	}
	if a.Outside {
		name.WriteString("-outside")
	}
	return name.String()
}

// Endpoint is one backend of a rule.
type Endpoint struct {
	netip.AddrPort
	// Local says that it runs on this node.
	Local bool
	// ForCluster and ForLocal say which traffic policy may use it.
	ForCluster, ForLocal bool
}

// class orders endpoints so that either policy's are contiguous.
func (e Endpoint) class() int {
	switch {
	case e.ForLocal && !e.ForCluster:
		return 0
	case e.ForLocal:
		return 1
	default:
		return 2
	}
}

// Rule is everything about one frontend.
type Rule struct {
	// Port is the service port's name, for people.
	Port string
	// Endpoints in the order of their indices.
	Endpoints []Endpoint
	// Default is for every client, unless Outside is set and the client comes
	// from outside the cluster.
	Default Action
	Outside *Action
	// Sources, where not empty, are the only clients served (loadBalancerSourceRanges).
	Sources []netip.Prefix
}

// Table is all that a node should hold. The zero value is not usable; see [NewTable].
type Table struct {
	services map[types.NamespacedName]map[Frontend]Rule // as compiled
	claims   map[Frontend][]types.NamespacedName        // who wants a frontend, by name: the first has it
	rules    map[Frontend]Rule                          // the winners', settled
	local    map[netip.Addr]int                         // local endpoints, with the number of rules that hold them
	dropped  map[Map]int                                // rules that drop for want of local endpoints
}

// NewTable returns an empty table.
func NewTable() *Table {
	return &Table{
		services: map[types.NamespacedName]map[Frontend]Rule{},
		claims:   map[Frontend][]types.NamespacedName{},
		rules:    map[Frontend]Rule{},
		local:    map[netip.Addr]int{},
		dropped:  map[Map]int{},
	}
}

// Set replaces the rules of one service (nil removes them) and returns what
// that changes.
func (t *Table) Set(service types.NamespacedName, rules map[Frontend]Rule) Changes {
	old := t.services[service]
	var touched []Frontend
	for frontend := range old {
		touched = append(touched, frontend)
		if _, stays := rules[frontend]; !stays {
			t.claim(frontend, service, false)
		}
	}
	for frontend := range rules {
		if _, was := old[frontend]; !was {
			touched = append(touched, frontend)
			t.claim(frontend, service, true)
		}
	}
	if len(rules) == 0 {
		delete(t.services, service)
	} else {
		t.services[service] = rules
	}
	slices.SortFunc(touched, Frontend.compare)
	var changes Changes
	for _, frontend := range touched {
		var next *Rule
		if owners := t.claims[frontend]; len(owners) > 0 {
			rule := t.services[owners[0]][frontend]
			next = &rule
		}
		t.replace(frontend, next, &changes)
	}
	changes.settle()
	return changes
}

// Conflicts lists the frontends that service wants and another one has.
func (t *Table) Conflicts(service types.NamespacedName) map[Frontend]types.NamespacedName {
	var lost map[Frontend]types.NamespacedName
	for frontend := range t.services[service] {
		if owner := t.claims[frontend][0]; owner != service {
			if lost == nil {
				lost = map[Frontend]types.NamespacedName{}
			}
			lost[frontend] = owner
		}
	}
	return lost
}

func (t *Table) claim(frontend Frontend, service types.NamespacedName, add bool) {
	owners := t.claims[frontend]
	at, found := slices.BinarySearchFunc(owners, service, func(a, b types.NamespacedName) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	switch {
	case add && !found:
		t.claims[frontend] = slices.Insert(owners, at, service)
	case !add && found && len(owners) == 1:
		delete(t.claims, frontend)
	case !add && found:
		t.claims[frontend] = slices.Delete(owners, at, at+1)
	}
}

// replace puts a rule in the place of another and records the difference.
func (t *Table) replace(frontend Frontend, next *Rule, changes *Changes) {
	old, had := t.rules[frontend]
	if had {
		elements(frontend, old, changes.remove)
	}
	if next == nil {
		delete(t.rules, frontend)
	} else {
		next.Endpoints = keepPlaces(old.Endpoints, next.Endpoints)
		t.rules[frontend] = *next
		elements(frontend, *next, changes.add)
	}
	t.count(next, +1, changes)
	if had {
		t.count(&old, -1, changes)
		changes.forget(frontend, old, next)
	} else if next != nil && frontend.Protocol == UDP {
		changes.Flows = append(changes.Flows, Flow{Frontend: frontend, Keep: addresses(next)})
	}
}

// count keeps track of what several rules share: local endpoints.
func (t *Table) count(rule *Rule, by int, changes *Changes) {
	if rule == nil {
		return
	}
	if rule.Default.Verdict == Drop {
		t.dropped[Services] += by
	}
	if rule.Outside != nil && rule.Outside.Verdict == Drop {
		t.dropped[Outside] += by
	}
	for _, endpoint := range rule.Endpoints {
		if !endpoint.Local {
			continue
		}
		address := endpoint.Addr()
		before := t.local[address]
		element := Element{Map: Hairpin, Key: Key{Endpoint: netip.AddrPortFrom(address, 0)}}
		switch t.local[address] = before + by; {
		case before == 0:
			changes.add(element)
		case before+by == 0:
			delete(t.local, address)
			changes.remove(element)
		}
	}
}

// keepPlaces orders next so that endpoints stay at the index they have in old
// where their class still reaches there; the others fill the gaps.
func keepPlaces(old, next []Endpoint) []Endpoint {
	byClass := [3][]Endpoint{}
	for _, endpoint := range next {
		byClass[endpoint.class()] = append(byClass[endpoint.class()], endpoint)
	}
	place := make(map[netip.AddrPort]int, len(old))
	for i, endpoint := range old {
		place[endpoint.AddrPort] = i
	}
	settled := make([]Endpoint, len(next))
	first := 0
	for _, class := range byClass {
		end := first + len(class)
		slices.SortFunc(class, func(a, b Endpoint) int { return a.AddrPort.Compare(b.AddrPort) })
		var homeless []Endpoint
		for _, endpoint := range class {
			if i, had := place[endpoint.AddrPort]; had && i >= first && i < end {
				settled[i] = endpoint
			} else {
				homeless = append(homeless, endpoint)
			}
		}
		for i := first; len(homeless) > 0; i++ {
			if !settled[i].IsValid() {
				settled[i], homeless = homeless[0], homeless[1:]
			}
		}
		first = end
	}
	return settled
}

// Elements returns all that the table holds, in a fixed order.
func (t *Table) Elements() []Element {
	var all Changes
	for _, frontend := range slices.SortedFunc(maps.Keys(t.rules), Frontend.compare) {
		elements(frontend, t.rules[frontend], all.add)
	}
	for _, address := range slices.SortedFunc(maps.Keys(t.local), netip.Addr.Compare) {
		all.add(Element{Map: Hairpin, Key: Key{Endpoint: netip.AddrPortFrom(address, 0)}})
	}
	return all.Add
}

// Diff returns what leads from one table to another, as different as they may
// be. (The loop has no use for it: [Table.Set] is the same for one service.)
func Diff(old, new *Table) Changes {
	var changes Changes
	for _, element := range old.Elements() {
		changes.remove(element)
	}
	for _, element := range new.Elements() {
		changes.add(element)
	}
	for frontend, rule := range old.rules {
		if next, stays := new.rules[frontend]; stays {
			changes.forget(frontend, rule, &next)
		} else {
			changes.forget(frontend, rule, nil)
		}
	}
	changes.settle()
	return changes
}
