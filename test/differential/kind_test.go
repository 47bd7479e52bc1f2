package differential

import (
	"fmt"
	"net/http"
	"strings"
)

const (
	tableAccept   = "application/json;as=Table;v=v1;g=meta.k8s.io"
	partialAccept = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
	partialsList  = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"

	applyType, mergeType, jsonType, strategicType = "application/apply-patch+yaml", "application/merge-patch+json", "application/json-patch+json", "application/strategic-merge-patch+json"
)

// life is what one object can go through, for every kind alike.
func life(sub subject) func(*side) {
	return func(s *side) {
		start := at(s.do(call{name: "list of none", method: http.MethodGet, path: sub.collection + "?labelSelector=app=" + sub.label()}), "metadata", "resourceVersion")
		s.do(call{name: "get before it is there", method: http.MethodGet, path: sub.path()})
		s.do(call{name: "delete before it is there", method: http.MethodDelete, path: sub.path()})
		s.do(call{name: "merge patch before it is there", method: http.MethodPatch, path: sub.path(), contentType: mergeType, body: `{"metadata":{"labels":{"x":"y"}}}`})
		s.do(call{name: "update before it is there", method: http.MethodPut, path: sub.path() + "?dryRun=All", body: sub.object})
		sub.strictness(s)
		s.do(call{name: "create for nothing", method: http.MethodPost, path: sub.collection + "?dryRun=All", body: sub.object})
		s.do(call{name: "create", method: http.MethodPost, path: sub.collection + "?fieldManager=creator", body: sub.object})
		sub.settle(s)
		sub.unprotect(s)
		s.do(call{name: "create again", method: http.MethodPost, path: sub.collection, body: sub.object})
		sub.reads(s)
		changed(sub)(s)
		sub.updates(s)
		sub.patches(s)
		sub.applies(s)
		sub.subresources(s)
		sub.deletes(s)
		sub.watch(s, fmt.Sprint(start))
	}
}

func (sub subject) label() string { return at(sub.object, "metadata", "labels", "app").(string) }

func (sub subject) selector() string { return "labelSelector=app%3D" + sub.label() }

// settle waits for the conditions that servers add to objects by themselves.
func (sub subject) settle(s *side) {
	condition := map[string]string{"customresourcedefinitions.apiextensions.k8s.io": "Established", "flowschemas.flowcontrol.apiserver.k8s.io": "Dangling", "apiservices.apiregistration.k8s.io": "Available"}[sub.resource]
	if condition != "" {
		s.eventually(call{name: condition, method: http.MethodGet, path: sub.path()}, func(e exchange) bool {
			conditions, _ := at(e.Body, "status", "conditions").([]any)
			return strings.Contains(fmt.Sprint(conditions...), condition)
		})
	}
}

// unprotect takes the finalizers of volumes and classes away, which would hold them for ever: no controller does.
func (sub subject) unprotect(s *side) {
	switch sub.resource {
	case "persistentvolumes", "persistentvolumeclaims", "volumeattributesclasses.storage.k8s.io":
		s.send(call{method: http.MethodPatch, path: sub.path(), contentType: mergeType, body: `{"metadata":{"finalizers":null}}`})
	}
}

func (sub subject) strictness(s *side) {
	data := short(sub.object)
	unknown := strings.Replace(data, `"metadata":{`, `"unknown":1,"metadata":{"odd":true,`, 1)
	twice := strings.Replace(data, `"metadata":{`, `"metadata":{"generateName":"a","generateName":"b",`, 1)
	for _, validation := range []string{"Strict", "Warn", "Ignore", "Wrong"} {
		at := sub.collection + "?dryRun=All&fieldValidation=" + validation
		s.do(call{name: validation + " unknown field", method: http.MethodPost, path: at, body: unknown})
		s.do(call{name: validation + " duplicate field", method: http.MethodPost, path: at, body: twice})
		s.do(call{name: validation + " unknown field in YAML", method: http.MethodPost, path: at, body: unknown, contentType: "application/yaml"})
	}
}

func (sub subject) reads(s *side) {
	s.do(call{name: "get", method: http.MethodGet, path: sub.path()})
	s.do(call{name: "get a table", method: http.MethodGet, path: sub.path(), accept: tableAccept})
	s.do(call{name: "get metadata", method: http.MethodGet, path: sub.path(), accept: partialAccept})
	list := sub.collection + "?" + sub.selector()
	s.do(call{name: "list", method: http.MethodGet, path: list})
	s.do(call{name: "list of version 0", method: http.MethodGet, path: list + "&resourceVersion=0"})
	s.do(call{name: "list of an exact version that isn't named", method: http.MethodGet, path: list + "&resourceVersionMatch=Exact"})
	s.do(call{name: "list everywhere", method: http.MethodGet, path: sub.everywhere + "?" + sub.selector()})
	s.do(call{name: "list a table", method: http.MethodGet, path: list, accept: tableAccept})
	s.do(call{name: "list a table with objects", method: http.MethodGet, path: list + "&includeObject=Object", accept: tableAccept})
	s.do(call{name: "list metadata", method: http.MethodGet, path: list, accept: partialsList})
	s.do(call{name: "list metadata of one", method: http.MethodGet, path: list, accept: partialAccept})
	s.do(call{name: "list as what isn't served", method: http.MethodGet, path: list, accept: "application/json;as=Chart;v=v1;g=meta.k8s.io"})
	s.do(call{name: "list as html", method: http.MethodGet, path: list, accept: "text/html"})
	for _, selector := range []string{"metadata.name=" + sub.name(), "metadata.name!=" + sub.name(), "metadata.namespace=" + sub.namespace, "spec.nonsense=x", "status.phase=Active", "spec.mode=a", "type=x", "spec.nodeName="} {
		s.do(call{name: "list by " + selector, method: http.MethodGet, path: list + "&fieldSelector=" + strings.ReplaceAll(selector, "=", "%3D")})
	}
	s.do(call{name: "list by a bad field selector", method: http.MethodGet, path: sub.collection + "?fieldSelector=!!"})
	s.do(call{name: "list by a bad label selector", method: http.MethodGet, path: sub.collection + "?labelSelector=a%20b!"})
	s.do(call{name: "list with a bad limit", method: http.MethodGet, path: list + "&limit=x"})
	s.do(call{name: "list with a bad token", method: http.MethodGet, path: list + "&limit=1&continue=x"})
	s.do(call{name: "list with a bad version", method: http.MethodGet, path: list + "&resourceVersion=x"})
	s.do(call{name: "watch with a bad version", method: http.MethodGet, path: list + "&watch=1&resourceVersion=x"})
	s.do(call{name: "watch that matches versions", method: http.MethodGet, path: list + "&watch=1&resourceVersionMatch=NotOlderThan"})
	s.do(call{name: "watch from the start without bookmarks", method: http.MethodGet, path: list + "&watch=1&sendInitialEvents=true"})
	s.do(call{name: "list with initial events", method: http.MethodGet, path: list + "&sendInitialEvents=true"})
}

func (sub subject) updates(s *side) {
	put := func(name, options string, object map[string]any) map[string]any {
		return s.do(call{name: name, method: http.MethodPut, path: sub.path() + options, body: object})
	}
	current := s.do(call{name: "get for updates", method: http.MethodGet, path: sub.path()})
	if at(current, "metadata", "name") == nil {
		return
	}
	if same := put("update with nothing changed", "", current); at(same, "metadata", "name") != nil {
		current = same
	}
	put("update a label for nothing", "?dryRun=All", with(current, "1", "metadata", "labels", "step"))
	next := put("update a label", "?fieldManager=updater", with(current, "1", "metadata", "labels", "step"))
	put("update of an old version", "", with(current, "2", "metadata", "labels", "step"))
	put("update of another uid", "", with(next, "00000000-0000-4000-8000-000000000000", "metadata", "uid"))
	put("update of another name", "", with(next, "other", "metadata", "name"))
	put("update without a version", "?dryRun=All", with(with(next, nil, "metadata", "resourceVersion"), "3", "metadata", "labels", "step"))
	put("update of a bad version", "", with(next, "x", "metadata", "resourceVersion"))
	put("update of another kind", "", with(next, "Other", "kind"))
	put("update of another group", "", with(next, "other.example.com/v1", "apiVersion"))
	put("update of generated metadata", "?dryRun=All", with(with(next, "2001-01-01T00:00:00Z", "metadata", "creationTimestamp"), 77, "metadata", "generation"))
	put("update strictly", "?dryRun=All&fieldValidation=Strict", with(next, "x", "unknown"))
	put("update with a bad manager", "?fieldManager=%00", next)
	put("update with a bad dry run", "?dryRun=Some", next)
}

func (sub subject) patches(s *side) {
	patch := func(name, contentType, options, body string) {
		s.do(call{name: name, method: http.MethodPatch, path: sub.path() + options, contentType: contentType, body: body})
	}
	patch("merge patch", mergeType, "?fieldManager=merger", `{"metadata":{"labels":{"step":"2","gone":null}}}`)
	patch("merge patch of nothing", mergeType, "", `{}`)
	patch("merge patch of a list", mergeType, "", `[]`)
	patch("merge patch with bad JSON", mergeType, "", `{`)
	patch("merge patch of the wrong type", mergeType, "", `{"metadata":{"labels":{"step":5}}}`)
	patch("merge patch with an unknown field", mergeType, "?dryRun=All&fieldValidation=Strict", `{"unknown":1}`)
	patch("merge patch with an unknown field, warned", mergeType, "?dryRun=All", `{"unknown":1,"metadata":{"odd":1}}`)
	patch("merge patch of an old version", mergeType, "", `{"metadata":{"resourceVersion":"1","labels":{"step":"9"}}}`)
	patch("merge patch of the name", mergeType, "", `{"metadata":{"name":"other"}}`)
	patch("merge patch of the kind", mergeType, "", `{"kind":"Other"}`)
	patch("merge patch with force", mergeType, "?force=true", `{}`)
	patch("strategic patch", strategicType, "?fieldManager=strategist", `{"metadata":{"labels":{"step":"3"},"finalizers":["example.com/f"]}}`)
	patch("strategic patch of the finalizer", strategicType, "", `{"metadata":{"$deleteFromPrimitiveList/finalizers":["example.com/f"]}}`)
	patch("strategic patch with bad JSON", strategicType, "", `{`)
	patch("strategic patch with a bad directive", strategicType, "", `{"metadata":{"$patch":"nonsense"}}`)
	patch("json patch", jsonType, "?fieldManager=jason", `[{"op":"add","path":"/metadata/labels/step","value":"4"},{"op":"test","path":"/metadata/labels/step","value":"4"}]`)
	patch("json patch whose test fails", jsonType, "", `[{"op":"test","path":"/metadata/labels/step","value":"5"}]`)
	patch("json patch of what isn't there", jsonType, "", `[{"op":"remove","path":"/metadata/labels/absent"}]`)
	patch("json patch with a bad operation", jsonType, "", `[{"op":"turn","path":"/metadata"}]`)
	patch("json patch that is an object", jsonType, "", `{}`)
	patch("patch of an unknown type", "application/strange", "", `{}`)
	patch("patch of no type", "application/json", "", `{}`)
}

func (sub subject) applies(s *side) {
	head := fmt.Sprintf(`{"apiVersion":%q,"kind":%q,"metadata":{"name":%q`, sub.object["apiVersion"], sub.object["kind"], sub.name())
	apply := func(name, options, body string) {
		s.do(call{name: name, method: http.MethodPatch, path: sub.path() + options, contentType: applyType, body: body})
	}
	apply("apply without a manager", "", head+`}}`)
	apply("apply a label", "?fieldManager=one", head+`,"labels":{"owned":"one"}}}`)
	apply("apply it again", "?fieldManager=one", head+`,"labels":{"owned":"one"}}}`)
	apply("apply a conflict", "?fieldManager=two", head+`,"labels":{"owned":"two"}}}`)
	apply("apply the conflict for nothing", "?fieldManager=two&force=true&dryRun=All", head+`,"labels":{"owned":"two"}}}`)
	apply("apply by force", "?fieldManager=two&force=true", head+`,"labels":{"owned":"two"},"annotations":{"by":"two"}}}`)
	apply("apply less", "?fieldManager=two", head+`,"labels":{"owned":"two"}}}`)
	apply("apply what others own", "?fieldManager=three", short(sub.object))
	apply("apply with managed fields", "?fieldManager=one", head+`,"managedFields":[{"manager":"x"}]}}`)
	apply("apply another name", "?fieldManager=one", strings.Replace(head, sub.name(), "other", 1)+`}}`)
	apply("apply another kind", "?fieldManager=one", `{"apiVersion":"v1","kind":"Other"}`)
	apply("apply of the wrong type", "?fieldManager=one", head+`,"labels":5}}`)
	apply("apply an unknown field", "?fieldManager=one", head+`},"unknown":1}`)
	apply("apply bad YAML", "?fieldManager=one", "a: [")
	apply("apply an old version", "?fieldManager=one", head+`,"resourceVersion":"1","labels":{"owned":"old"}}}`)
	s.do(call{name: "get what was applied", method: http.MethodGet, path: sub.path()})
}

func (sub subject) subresources(s *side) {
	for _, name := range []string{"status", "scale", "approval", "finalize", "ephemeralcontainers", "resize", "token", "nonsense"} {
		path := sub.path() + "/" + name
		view := s.do(call{name: "get " + name, method: http.MethodGet, path: path})
		if sub.has(name) && at(view, "metadata", "name") != nil {
			s.do(call{name: "update " + name, method: http.MethodPut, path: path + "?dryRun=All", body: with(view, "sub", "metadata", "labels", "step")})
		}
		if name != "token" {
			s.do(call{name: "merge patch " + name, method: http.MethodPatch, path: path + "?fieldManager=sub", contentType: mergeType, body: `{"metadata":{"annotations":{"sub":"x"}},"spec":{"replicas":4},"status":{"phase":"x","replicas":7,"conditions":[{"type":"Odd","status":"True","reason":"R","message":"m","lastTransitionTime":"2024-01-01T00:00:00Z"}]}}`})
			s.do(call{name: "merge patch " + name + " wrongly", method: http.MethodPatch, path: path + "?dryRun=All", contentType: mergeType, body: `{"spec":{"replicas":-4},"status":{"replicas":-7,"observedGeneration":-1,"conditions":[{"type":"","status":"Perhaps"}]}}`})
		}
		s.do(call{name: "create " + name, method: http.MethodPost, path: path + "?dryRun=All", body: map[string]any{}})
		s.do(call{name: "delete " + name, method: http.MethodDelete, path: path + "?dryRun=All"})
	}
	if sub.resource != "customresourcedefinitions.apiextensions.k8s.io" { // which doesn't get back the conditions that somebody took away
		sub.settle(s)
	}
	s.do(call{name: "get after subresources", method: http.MethodGet, path: sub.path()})
}

func (sub subject) deletes(s *side) {
	remove := func(name, options string, body any) {
		s.do(call{name: name, method: http.MethodDelete, path: sub.path() + options, body: body})
	}
	remove("delete another uid", "", map[string]any{"preconditions": map[string]any{"uid": "00000000-0000-4000-8000-000000000000"}})
	remove("delete another version", "", map[string]any{"preconditions": map[string]any{"resourceVersion": "1"}})
	remove("delete with a bad policy", "?propagationPolicy=Nonsense", nil)
	remove("delete with two policies", "?propagationPolicy=Orphan&orphanDependents=true", nil)
	remove("delete with a bad body", "", `{"kind":"Pod","apiVersion":"v1"}`)
	remove("delete with broken JSON", "", `{`)
	remove("delete for nothing", "?dryRun=All", nil)
	remove("delete in the foreground", "?propagationPolicy=Foreground&gracePeriodSeconds=0", nil)
	s.do(call{name: "get what is being deleted", method: http.MethodGet, path: sub.path()})
	remove("delete in the foreground again", "?propagationPolicy=Foreground&gracePeriodSeconds=0", nil)
	s.do(call{name: "add a finalizer too late", method: http.MethodPatch, path: sub.path(), contentType: mergeType, body: `{"metadata":{"finalizers":["example.com/late","foregroundDeletion"]}}`})
	s.do(call{name: "take the finalizers away", method: http.MethodPatch, path: sub.path(), contentType: mergeType, body: `{"metadata":{"finalizers":null}}`})
	if sub.resource == "namespaces" {
		s.do(call{name: "finalize", method: http.MethodPut, path: sub.path() + "/finalize", body: map[string]any{"metadata": map[string]any{"name": sub.name()}}})
	}
	s.eventually(call{name: "gone", method: http.MethodGet, path: sub.path()}, func(e exchange) bool { return e.Status == http.StatusNotFound })
	s.do(call{name: "get what is gone", method: http.MethodGet, path: sub.path()})
	if sub.resource == "customresourcedefinitions.apiextensions.k8s.io" {
		return
	}
	s.do(call{name: "create a second time", method: http.MethodPost, path: sub.collection, body: sub.object})
	sub.settle(s)
	sub.unprotect(s)
	s.do(call{name: "delete the collection for nothing", method: http.MethodDelete, path: sub.collection + "?dryRun=All&" + sub.selector()})
	s.do(call{name: "delete the collection", method: http.MethodDelete, path: sub.collection + "?gracePeriodSeconds=0&" + sub.selector()})
	s.do(call{name: "delete the second", method: http.MethodDelete, path: sub.path() + "?gracePeriodSeconds=0&propagationPolicy=Background"})
}

// watch reads what has happened since a version, and what a watch begins with.
func (sub subject) watch(s *side, since string) {
	path := sub.collection + "?watch=1&timeoutSeconds=2&" + sub.selector() + "&resourceVersion="
	deletions := 0
	s.do(call{name: "watch", method: http.MethodGet, path: path + since, until: func(event map[string]any) bool {
		if event["type"] == "DELETED" {
			deletions++
		}
		return deletions == 2
	}})
	one := func(map[string]any) bool { return true }
	s.do(call{name: "watch tables", method: http.MethodGet, path: path + since, accept: tableAccept, until: one})
	s.do(call{name: "watch metadata", method: http.MethodGet, path: path + since, accept: partialAccept, until: one})
	s.do(call{name: "watch from the start", method: http.MethodGet, path: path + "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true", until: func(event map[string]any) bool { return event["type"] == "BOOKMARK" }})
}
