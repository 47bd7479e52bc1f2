// Package fake is a proxy programmer that keeps its maps in memory, as strict
// as the kernel: deleting what isn't there, or adding what is there with
// another value, is an error and changes nothing.
package fake

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"skiff/pkg/proxy"
)

// Programmer is a [proxy.Programmer]. The zero value is ready. Its methods may
// be called concurrently, so that a test can look while a proxy works.
type Programmer struct {
	mu       sync.Mutex
	elements map[place]proxy.Element
	flows    []proxy.Flow
	resets   int
	failure  error
}

type place struct {
	in  proxy.Map
	key proxy.Key
}

func placeOf(e proxy.Element) place { return place{e.Map, e.Key} }

// Reset implements [proxy.Programmer].
func (p *Programmer) Reset(elements []proxy.Element) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.fail(); err != nil {
		return err
	}
	next := map[place]proxy.Element{}
	if err := add(next, elements); err != nil {
		return err
	}
	p.elements = next
	p.resets++
	return nil
}

// Apply implements [proxy.Programmer].
func (p *Programmer) Apply(changes proxy.Changes) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.fail(); err != nil {
		return err
	}
	next := maps.Clone(p.elements)
	if next == nil {
		next = map[place]proxy.Element{}
	}
	for _, element := range changes.Delete {
		if _, there := next[placeOf(element)]; !there {
			return fmt.Errorf("fake: delete %s %s: no such element", element.Map, element)
		}
		delete(next, placeOf(element))
	}
	if err := add(next, changes.Add); err != nil {
		return err
	}
	p.elements = next
	p.flows = append(p.flows, changes.Flows...)
	return nil
}

func add(to map[place]proxy.Element, elements []proxy.Element) error {
	for _, element := range elements {
		if old, there := to[placeOf(element)]; there && old != element {
			return fmt.Errorf("fake: add %s %s: exists as %s", element.Map, element, old)
		}
		to[placeOf(element)] = element
	}
	return nil
}

// Check implements [proxy.Programmer].
func (p *Programmer) Check() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.elements == nil {
		return errors.New("fake: no table")
	}
	return nil
}

// Fail lets the next Reset or Apply fail.
func (p *Programmer) Fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failure = err
}

func (p *Programmer) fail() error {
	err := p.failure
	p.failure = nil
	return err
}

// Forget drops everything, as somebody who flushes the ruleset does.
func (p *Programmer) Forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.elements = nil
}

// Resets says how often the table was made anew.
func (p *Programmer) Resets() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.resets
}

// Flows returns the flows to be ended so far.
func (p *Programmer) Flows() []proxy.Flow {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.flows)
}

// Dump returns the maps as text, one element a line, in a fixed order.
func (p *Programmer) Dump() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	lines := map[proxy.Map][]string{}
	for _, element := range p.elements {
		lines[element.Map] = append(lines[element.Map], "\t"+element.String())
	}
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(lines)) {
		slices.Sort(lines[name])
		fmt.Fprintf(&text, "%s\n%s\n", name, strings.Join(lines[name], "\n"))
	}
	return text.String()
}
