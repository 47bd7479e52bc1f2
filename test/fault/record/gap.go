package record

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Gaps are the longest times without a success: of the writes and reads of one client,
// whichever client had it worst, and of all clients together.
type Gaps struct {
	Write, Read, All time.Duration
	Errors           int // requests without an answer
	Writes           int // acknowledged
}

func (g Gaps) String() string {
	round := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
	return fmt.Sprintf("longest without a success: a client that writes %v, one that reads %v, all %v; %d writes, %d errors",
		round(g.Write), round(g.Read), round(g.All), g.Writes, g.Errors)
}

// MeasureGaps looks at the operations that ended between two moments. A client
// without any success between them counts with the whole time.
func MeasureGaps(operations []Operation, from, to time.Duration) Gaps {
	slices.SortFunc(operations, func(a, b Operation) int { return cmp.Compare(a.Return, b.Return) })
	writes := map[int]bool{} // clients, and whether they write
	for _, o := range operations {
		if o.Client != 0 && !o.Aside { // 0 is the last look
			writes[o.Client] = writes[o.Client] || o.Kind == Swap
		}
	}
	g := Gaps{}
	all, last := from, map[int]time.Duration{}
	for client := range writes {
		last[client] = from
	}
	succeeded := func(client int, at time.Duration) {
		gap := &g.Read
		if writes[client] {
			gap = &g.Write
		}
		*gap = max(*gap, at-last[client])
		last[client] = at
	}
	for _, o := range operations {
		switch {
		case o.Client == 0 || o.Aside || o.Return < from || o.Return > to:
		case o.Outcome == Unknown:
			g.Errors++
		case o.Outcome == Done && (o.Kind == Swap) == writes[o.Client]:
			g.All, all = max(g.All, o.Return-all), o.Return
			succeeded(o.Client, o.Return)
			if o.Kind == Swap {
				g.Writes++
			}
		}
	}
	for client := range writes {
		succeeded(client, to)
	}
	g.All = max(g.All, to-all)
	return g
}

// Complaints are the errors of requests that ended between two moments, each with how
// often it came and the longest that a request waited for it.
func Complaints(operations []Operation, from, to time.Duration) []string {
	type complaint struct {
		times   int
		longest time.Duration
	}
	found := map[string]complaint{}
	for _, o := range operations {
		if o.Outcome == Unknown && o.Return >= from && o.Return <= to {
			what := string(o.Kind) + ": " + withoutPorts.ReplaceAllString(o.Err[max(0, strings.LastIndex(o.Err, `": `)):], "")
			c := found[what]
			found[what] = complaint{c.times + 1, max(c.longest, o.Return-o.Call)}
		}
	}
	var list []string
	for _, what := range slices.Sorted(maps.Keys(found)) {
		list = append(list, fmt.Sprintf("%d times after at most %v: %s", found[what].times, found[what].longest.Round(time.Millisecond), what))
	}
	return list
}

// withoutPorts matches what makes errors of one kind differ.
var withoutPorts = regexp.MustCompile(`[0-9.]+:[0-9]+->`)
