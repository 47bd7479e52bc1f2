package differential

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// normaliser makes equal what two servers can't have in common. Uids become the order in
// which they were seen, and revisions how they stand to those before: it still shows whether two are the same.
type normaliser struct {
	seen     map[string]string
	versions map[string][]string // of each object, in order
}

var (
	uuids     = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	times     = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`)
	addresses = regexp.MustCompile(`\b10\.96\.\d+\.\d+\b`)
	generated = regexp.MustCompile(`\b(generated-|kube-api-access-)[a-z0-9]{5}\b`)
	ports     = regexp.MustCompile(`\b3[0-2]\d\d\d\b`)
	tokens    = regexp.MustCompile(`eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+`)
	ages      = regexp.MustCompile(`^(\d+[smhdy])+$`)
	records   = regexp.MustCompile(`(in record \(|in object meta: |, current: )\d+`)
)

func (n *normaliser) ordinal(kind, value string) string {
	if n.seen == nil {
		n.seen = map[string]string{}
	}
	key := kind + "/" + value
	if n.seen[key] == "" {
		n.seen[key] = fmt.Sprintf("<%s %d>", kind, len(n.seen)+1)
	}
	return n.seen[key]
}

// version says how an object's revision stands to the one that was seen before.
func (n *normaliser) version(uid, version string) string {
	if n.versions == nil {
		n.versions = map[string][]string{}
	}
	before := n.versions[uid]
	switch i := slices.Index(before, version); {
	case i < 0:
		n.versions[uid] = append(before, version)
		return "<a new version>"
	case i < len(before)-1:
		return "<an old version>"
	}
	return "<the same version>"
}

func (n *normaliser) text(s string) string {
	s = uuids.ReplaceAllStringFunc(s, func(id string) string { return n.ordinal("uid", id) })
	s = times.ReplaceAllString(s, "<time>")
	s = addresses.ReplaceAllString(s, "<address>")
	s = generated.ReplaceAllString(s, "$1<random>")
	s = ports.ReplaceAllString(s, "<port>")
	s = tokens.ReplaceAllString(s, "<token>")
	s = records.ReplaceAllString(s, "$1<version>")
	for _, w := range wordings {
		s = w.text.ReplaceAllString(s, w.instead)
	}
	return s
}

func (n *normaliser) value(v any) any {
	switch v := v.(type) {
	case string:
		return n.text(v)
	case []any:
		all := make([]any, len(v))
		for i := range v {
			all[i] = n.value(v[i])
		}
		return all
	case map[string]any:
		all := map[string]any{}
		for _, key := range slices.Sorted(maps.Keys(v)) { // ordinals are given in this order
			all[n.text(key)] = n.field(key, v, v[key])
		}
		return all
	}
	return v
}

func (n *normaliser) field(key string, in map[string]any, v any) any {
	text, isText := v.(string)
	if _, isList := v.([]any); !isList && (key == "managedFields" || key == "causes" || key == "cells" || strings.HasSuffix(key, "esourceRules")) {
		return n.value(v) // a schema's property of that name
	}
	switch key {
	case "resourceVersion":
		if isText && text != "" && text != "0" {
			if _, list := in["continue"]; list || len(in) <= 2 && in["name"] == nil {
				return "<list's version>"
			}
			return n.version(fmt.Sprint(in["uid"]), text)
		}
	case "continue":
		if isText && text != "" {
			return "<continue>"
		}
	case "nodePort", "healthCheckNodePort":
		return "<port>"
	case "managedFields":
		// Ordered by time, and two within a second by name.
		entries, _ := n.value(v).([]any)
		slices.SortStableFunc(entries, func(a, b any) int { return cmp.Compare(order(a), order(b)) })
		return entries
	case "causes":
		// Kubernetes says some of them twice.
		var once []any
		for _, cause := range n.value(v).([]any) {
			if !slices.ContainsFunc(once, func(other any) bool { return short(other) == short(cause) }) {
				once = append(once, cause)
			}
		}
		return once
	case "resourceRules", "nonResourceRules": // in the order of a Go map
		rules, _ := n.value(v).([]any)
		rules = slices.DeleteFunc(rules, func(rule any) bool { return strings.Contains(short(rule), `"/.well-known"`) }) // OpenShift's
		slices.SortFunc(rules, func(a, b any) int { return cmp.Compare(short(a), short(b)) })
		return rules
	case "cells":
		cells, _ := n.value(v).([]any)
		for i := range cells {
			if s, ok := cells[i].(string); ok && ages.MatchString(s) {
				cells[i] = "<age>"
			}
		}
		return cells
	}
	return n.value(v)
}

func order(entry any) string {
	e, _ := entry.(map[string]any)
	fields, _ := json.Marshal(e["fieldsV1"])
	return fmt.Sprint(e["subresource"], e["manager"], e["operation"], e["apiVersion"], string(fields))
}

// difference is where two answers are not the same.
type difference struct {
	exchange, path    string
	skiff, kubernetes string
}

func (d difference) String() string {
	return fmt.Sprintf("%s: %s\n      skiff:      %.1500s\n      kubernetes: %.1500s", d.exchange, d.path, d.skiff, d.kubernetes)
}

// compare reports how two sides answered differently to the same calls.
func compare(prefix string, skiff, kubernetes []exchange) []difference {
	var all []difference
	var a, b normaliser
	for i := range min(len(skiff), len(kubernetes)) {
		x, y := skiff[i], kubernetes[i]
		name := prefix + ": " + x.name
		at := len(all)
		if x.name != y.name {
			return append(all, difference{name, "the sequence itself", x.name, y.name})
		}
		if x.Status != y.Status {
			// The bodies have nothing in common then.
			all = append(all, difference{name, "status", answer(&a, x), answer(&b, y)})
			continue
		}
		all = append(all, between("type", x.Type, y.Type)...)
		all = append(all, between("warnings", texts(&a, x.Warnings), texts(&b, y.Warnings))...)
		all = append(all, between("body", a.value(x.Body), b.value(y.Body))...)
		for j := range all[at:] {
			all[at+j].exchange = name
		}
	}
	if len(skiff) != len(kubernetes) {
		all = append(all, difference{prefix, "number of answers", fmt.Sprint(len(skiff)), fmt.Sprint(len(kubernetes))})
	}
	return all
}

// answer is a reply in one line.
func answer(n *normaliser, e exchange) string {
	if message, ok := at(e.Body, "message").(string); ok {
		return fmt.Sprintf("%d %s", e.Status, n.text(message))
	}
	return fmt.Sprint(e.Status)
}

func texts(n *normaliser, all []string) []any {
	out := make([]any, len(all))
	for i, s := range all {
		out[i] = n.text(s)
	}
	return out
}

// between finds the differences of two values, as deep down as they can be named.
func between(path string, a, b any) []difference {
	switch x := a.(type) {
	case map[string]any:
		if y, ok := b.(map[string]any); ok {
			return betweenMaps(path, x, y)
		}
	case []any:
		if y, ok := b.([]any); ok && len(x) == len(y) {
			var all []difference
			for i := range x {
				all = append(all, between(fmt.Sprintf("%s[%d]", path, i), x[i], y[i])...)
			}
			return all
		}
	}
	left, right := short(a), short(b)
	if left == right {
		return nil
	}
	return []difference{{path: path, skiff: left, kubernetes: right}}
}

func betweenMaps(path string, a, b map[string]any) []difference {
	both := maps.Clone(a)
	maps.Copy(both, b)
	var all []difference
	for _, key := range slices.Sorted(maps.Keys(both)) {
		x, inA := a[key]
		y, inB := b[key]
		switch below := path + "." + key; {
		case !inA:
			all = append(all, difference{path: below, skiff: "absent", kubernetes: short(y)})
		case !inB:
			all = append(all, difference{path: below, skiff: short(x), kubernetes: "absent"})
		default:
			all = append(all, between(below, x, y)...)
		}
	}
	return all
}

func short(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(data)
}
