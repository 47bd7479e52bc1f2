package request

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Info is what a request's method, path and query ask for, in the words that
// authorization uses.
type Info struct {
	// IsResourceRequest tells /api/<v>/<resource>… and /apis/<g>/<v>/<resource>…
	// from every other path; the fields below Path are empty for those.
	IsResourceRequest bool
	// Path is the URL's path, decoded.
	Path string
	// Verb is get, list, watch, create, update, patch, delete or deletecollection
	// for resources, and the lower-case HTTP method otherwise. The historic
	// "proxy" and "watch" path prefixes give "proxy" and "watch".
	Verb string

	APIPrefix   string // "api" or "apis"
	APIGroup    string
	APIVersion  string
	Namespace   string
	Resource    string
	Subresource string
	Name        string
	// Rest is what follows the subresource, percent-encoded, with its leading slash
	// ("/a%20b/"); empty when nothing follows. Only proxies have a rest.
	Rest string
	// WatchPrefix says that the request came by the historic /watch/ prefix.
	WatchPrefix bool

	// The selectors of list, watch and deletecollection as the query has them, for
	// authorizers that look at them; nil when absent or not parsable.
	Fields fields.Selector
	Labels labels.Selector
	// LabelsRaw and FieldsRaw are the same as text.
	LabelsRaw, FieldsRaw string
}

// GroupVersion returns the API group and version of a resource request.
func (i *Info) GroupVersion() schema.GroupVersion {
	return schema.GroupVersion{Group: i.APIGroup, Version: i.APIVersion}
}

// GroupResource returns the API group and resource of a resource request.
func (i *Info) GroupResource() schema.GroupResource {
	return schema.GroupResource{Group: i.APIGroup, Resource: i.Resource}
}

// LongRunning says that a request may rightly take longer than the request
// timeout: watches and streams.
func (i *Info) LongRunning() bool {
	if !i.IsResourceRequest {
		return strings.HasPrefix(i.Path, "/debug/pprof/")
	}
	switch i.Subresource {
	case "attach", "exec", "proxy", "log", "portforward":
		return true
	}
	return i.Verb == "watch" || i.Verb == "proxy"
}

// Parse reads Info from a request. It fails only on a malformed historic
// /proxy/ or /watch/ path.
func Parse(r *http.Request) (*Info, error) {
	info := &Info{Path: r.URL.Path, Verb: strings.ToLower(r.Method)}
	parts, offsets := split(r.URL.EscapedPath())
	if len(parts) < 3 {
		return info, nil
	}
	at := 1 // the next part to read
	switch parts[0] {
	case "api":
	case "apis":
		if len(parts) < 4 {
			return info, nil
		}
		info.APIGroup = parts[1]
		at = 2
	default:
		return info, nil
	}
	info.IsResourceRequest = true
	info.APIPrefix = parts[0]
	info.APIVersion = parts[at]
	at++

	switch parts[at] {
	case "proxy", "watch":
		if len(parts) < at+2 {
			return info, fmt.Errorf("unable to determine kind and namespace from url, %v", r.URL)
		}
		info.Verb = parts[at]
		info.WatchPrefix = info.Verb == "watch"
		at++
	default:
		info.Verb = verbs[r.Method]
	}

	if parts[at] == "namespaces" && len(parts) > at+1 {
		info.Namespace = parts[at+1]
		// A namespace's own subresources belong to the resource "namespaces".
		if len(parts) > at+2 && parts[at+2] != "status" && parts[at+2] != "finalize" {
			at += 2
		}
	}
	info.Resource = parts[at]
	if len(parts) > at+1 {
		info.Name = parts[at+1]
	}
	if len(parts) > at+2 && info.Verb != "proxy" && !info.WatchPrefix {
		info.Subresource = parts[at+2]
		info.Rest = r.URL.EscapedPath()[offsets[at+2]:]
	}

	query := r.URL.Query()
	if info.Name == "" && info.Verb == "get" {
		info.Verb = "list"
		if truthy(query, "watch") {
			info.Verb = "watch"
		}
	}
	if info.Name == "" && info.Verb == "delete" {
		info.Verb = "deletecollection"
	}
	switch info.Verb {
	case "list", "watch", "deletecollection":
		info.selectors(query)
	}
	return info, nil
}

// selectors reads the selectors of a collection request. A list of exactly one name is
// authorized as a request for that name.
func (i *Info) selectors(query url.Values) {
	i.FieldsRaw, i.LabelsRaw = query.Get("fieldSelector"), query.Get("labelSelector")
	if i.FieldsRaw != "" {
		if s, err := fields.ParseSelector(i.FieldsRaw); err == nil {
			i.Fields = s
			if name, ok := s.RequiresExactMatch("metadata.name"); ok && i.Name == "" && validSegment(name) {
				i.Name = name
			}
		}
	}
	if i.LabelsRaw != "" {
		if s, err := labels.Parse(i.LabelsRaw); err == nil {
			i.Labels = s
		}
	}
}

var verbs = map[string]string{
	http.MethodPost:   "create",
	http.MethodGet:    "get",
	http.MethodHead:   "get",
	http.MethodPut:    "update",
	http.MethodPatch:  "patch",
	http.MethodDelete: "delete",
}

// truthy reads a boolean query parameter as apimachinery's conversion does: present
// and neither "0" nor "false".
func truthy(query url.Values, name string) bool {
	values, ok := query[name]
	if !ok || len(values) == 0 {
		return false
	}
	return values[0] != "0" && !strings.EqualFold(values[0], "false")
}

// validSegment says that a name may be part of a path.
func validSegment(name string) bool {
	return name != "." && name != ".." && !strings.ContainsAny(name, "/%")
}

// split cuts an escaped path at its slashes, unescapes the parts, and returns with each
// the offset in path of its end. Slashes at both ends are ignored.
func split(path string) (parts []string, ends []int) {
	for start := 0; start < len(path); {
		if path[start] == '/' && (len(parts) == 0 || strings.Trim(path[start:], "/") == "") {
			start++
			continue
		}
		end := len(path)
		if i := strings.IndexByte(path[start:], '/'); i >= 0 {
			end = start + i
		}
		part, err := url.PathUnescape(path[start:end])
		if err != nil {
			part = path[start:end]
		}
		parts, ends = append(parts, part), append(ends, end)
		start = end + 1
	}
	return parts, ends
}
