package proxy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// Map names one of the kernel's maps and sets.
type Map string

// The maps, as the package comment describes them.
const (
	Services   Map = "services"
	Outside    Map = "outside"
	Endpoints  Map = "endpoints"
	Members    Map = "members"
	Hairpin    Map = "hairpin"
	Restricted Map = "restricted"
	Allowed    Map = "allowed"
)

// Key is the key of an element; which fields count depends on the map.
type Key struct {
	Frontend
	Index    int            // endpoints
	Endpoint netip.AddrPort // members, hairpin (port 0)
	Source   netip.Prefix   // allowed
}

// Element is one entry of a map. It is comparable.
type Element struct {
	Map      Map
	Key      Key
	Action   Action         // the value in services and outside
	Endpoint netip.AddrPort // the value in endpoints
}

// String is the element as in a dump.
func (e Element) String() string {
	switch e.Map {
	case Services, Outside:
		return fmt.Sprintf("%s : goto %s", e.Key.Frontend, e.Action.Chain())
	case Endpoints:
		return fmt.Sprintf("%s . %d : %s . %d", e.Key.Frontend, e.Key.Index, e.Endpoint.Addr(), e.Endpoint.Port())
	case Members:
		return fmt.Sprintf("%s . %s . %d", e.Key.Frontend, e.Key.Endpoint.Addr(), e.Key.Endpoint.Port())
	case Hairpin:
		return fmt.Sprintf("%s . %s", e.Key.Endpoint.Addr(), e.Key.Endpoint.Addr())
	case Allowed:
		return fmt.Sprintf("%s . %s", e.Key.Frontend, e.Key.Source)
	}
	return e.Key.Frontend.String()
}

// elements lists what a rule is made of.
func elements(frontend Frontend, rule Rule, yield func(Element)) {
	key := Key{Frontend: frontend}
	sticky := false
	action := func(to Map, a Action) {
		a.NodePort, a.Outside = frontend.nodePort(), to == Outside
		sticky = sticky || a.Verdict == Forward && a.Affinity > 0
		yield(Element{Map: to, Key: key, Action: a})
	}
	action(Services, rule.Default)
	if rule.Outside != nil {
		action(Outside, *rule.Outside)
	}
	for i, endpoint := range rule.Endpoints {
		indexed := key
		indexed.Index = i
		yield(Element{Map: Endpoints, Key: indexed, Endpoint: endpoint.AddrPort})
		if sticky {
			member := key
			member.Endpoint = endpoint.AddrPort
			yield(Element{Map: Members, Key: member})
		}
	}
	if len(rule.Sources) > 0 {
		yield(Element{Map: Restricted, Key: key})
	}
	for _, source := range rule.Sources {
		allowed := key
		allowed.Source = source
		yield(Element{Map: Allowed, Key: allowed})
	}
}

// Changes is what a programmer executes at once: deletions first. An element
// whose value changes is in both lists.
type Changes struct {
	Delete, Add []Element
	// Flows are connections of UDP, which has no end, that may not go on.
	Flows []Flow
}

// Flow selects tracked connections to a frontend whose answers come from
// anywhere but the addresses to keep.
type Flow struct {
	Frontend Frontend
	Keep     []netip.AddrPort
}

// Empty says whether there is nothing to do.
func (c Changes) Empty() bool { return len(c.Delete) == 0 && len(c.Add) == 0 && len(c.Flows) == 0 }

// join makes one of several changes that follow one another.
func join(all []Changes) Changes {
	if len(all) == 1 {
		return all[0]
	}
	var joined Changes
	for _, c := range all {
		joined.Delete = append(joined.Delete, c.Delete...)
		joined.Add = append(joined.Add, c.Add...)
		joined.Flows = append(joined.Flows, c.Flows...)
	}
	joined.settle()
	return joined
}

func (c *Changes) add(e Element)    { c.Add = append(c.Add, e) }
func (c *Changes) remove(e Element) { c.Delete = append(c.Delete, e) }

// forget records that flows of a UDP frontend must end where endpoints left.
func (c *Changes) forget(frontend Frontend, old Rule, next *Rule) {
	if frontend.Protocol != UDP {
		return
	}
	keep := addresses(next)
	for _, was := range old.Endpoints {
		if !slices.Contains(keep, was.AddrPort) {
			c.Flows = append(c.Flows, Flow{Frontend: frontend, Keep: keep})
			return
		}
	}
	if len(old.Endpoints) == 0 && len(keep) > 0 {
		c.Flows = append(c.Flows, Flow{Frontend: frontend, Keep: keep})
	}
}

func addresses(rule *Rule) []netip.AddrPort {
	if rule == nil {
		return nil
	}
	all := make([]netip.AddrPort, 0, len(rule.Endpoints))
	for _, endpoint := range rule.Endpoints {
		all = append(all, endpoint.AddrPort)
	}
	return all
}

// settle takes out what is both deleted and added with the same value, and
// sorts what remains.
func (c *Changes) settle() {
	count := make(map[Element]int, len(c.Add)+len(c.Delete))
	for _, element := range c.Add {
		count[element]++
	}
	for _, element := range c.Delete {
		count[element]--
	}
	c.Add, c.Delete = c.Add[:0], c.Delete[:0]
	for element, n := range count {
		if n > 0 {
			c.Add = append(c.Add, element)
		} else if n < 0 {
			c.Delete = append(c.Delete, element)
		}
	}
	slices.SortFunc(c.Add, Element.compare)
	slices.SortFunc(c.Delete, Element.compare)
}

func (e Element) compare(o Element) int {
	return cmp.Or(
		cmp.Compare(e.Map, o.Map), e.Key.Frontend.compare(o.Key.Frontend), cmp.Compare(e.Key.Index, o.Key.Index),
		e.Key.Endpoint.Compare(o.Key.Endpoint), e.Key.Source.Compare(o.Key.Source),
	)
}

// Programmer puts tables into effect. It is used by one goroutine at a time.
type Programmer interface {
	// Reset makes the kernel hold exactly these elements, whatever was there,
	// in one transaction.
	Reset(elements []Element) error
	// Apply executes changes in one transaction: all or none. After an error
	// the caller resets.
	Apply(changes Changes) error
	// Check returns an error if the table isn't there any more (somebody
	// flushed the ruleset). It is cheap.
	Check() error
}
