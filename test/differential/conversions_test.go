package differential

import (
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
)

// conversionCase is what the webhook answers that shall convert the object of its name.
type conversionCase struct {
	name  string
	reply string // the response, with UID, CONVERTED (the object) and INPUT; or what is sent instead of a review
	spoil func(object map[string]any) map[string]any
}

const converts = `"result":{"status":"Success"},"convertedObjects":[CONVERTED]`

func puts(value any, path ...any) func(map[string]any) map[string]any {
	return func(object map[string]any) map[string]any { return with(object, value, path...) }
}

var conversionCases = []conversionCase{
	{"fine", converts, nil},
	{"changed", converts, puts("changed", "spec", "a")},
	{"failed", `"result":{"status":"Failure","message":"no way"}`, nil},
	{"silent", `"result":{"status":"Failure"}`, nil},
	{"no-status", `"result":{},"convertedObjects":[CONVERTED]`, nil},
	{"wrong-uid", `{"apiVersion":"apiextensions.k8s.io/v1","kind":"ConversionReview","response":{"uid":"other",` + converts + `}}`, nil},
	{"no-response", `{"apiVersion":"apiextensions.k8s.io/v1","kind":"ConversionReview"}`, nil},
	{"wrong-version", `{"apiVersion":"apiextensions.k8s.io/v1beta1","kind":"ConversionReview","response":{"uid":"UID",` + converts + `}}`, nil},
	{"wrong-kind", `{"apiVersion":"apiextensions.k8s.io/v1","kind":"Other","response":{"uid":"UID",` + converts + `}}`, nil},
	{"rubbish", `rubbish`, nil},
	{"empty-object", `{}`, nil},
	{"error", `500 broken`, nil},
	{"absent", `404 none`, nil},
	{"none", strings.Replace(converts, "CONVERTED", "", 1), nil},
	{"two", strings.Replace(converts, "CONVERTED", "CONVERTED,CONVERTED", 1), nil},
	{"unconverted", strings.Replace(converts, "CONVERTED", "INPUT", 1), nil},
	{"number", strings.Replace(converts, "CONVERTED", "5", 1), nil},
	{"other-kind", converts, puts("Other", "kind")},
	{"no-kind", converts, puts(nil, "kind")},
	{"other-name", converts, puts("other", "metadata", "name")},
	{"other-namespace", converts, puts("other", "metadata", "namespace")},
	{"other-uid", converts, puts("00000000-0000-4000-8000-000000000000", "metadata", "uid")},
	{"other-labels", converts, puts("y", "metadata", "labels", "new")},
	{"bad-labels", converts, puts("bad value!", "metadata", "labels", "new")},
	{"number-label", converts, puts(5, "metadata", "labels", "new")},
	{"text-labels", converts, puts("x", "metadata", "labels")},
	{"bad-annotations", converts, puts(map[string]any{"bad key!": "x"}, "metadata", "annotations")},
	{"finalizers", converts, puts([]any{"example.com/f"}, "metadata", "finalizers")},
	{"no-metadata", converts, puts(nil, "metadata")},
	{"text-metadata", converts, puts("x", "metadata")},
	{"text-spec", converts, puts("x", "spec")},
	{"pruned", converts, puts("x", "spec", "nonsense")},
	{"invalid", converts, puts(5, "spec", "a")},
}

// convert answers a conversion review.
func convert(w http.ResponseWriter, review map[string]any) {
	input := at(review, "request", "objects", 0).(map[string]any)
	object := with(input, at(review, "request", "desiredAPIVersion"), "apiVersion")
	for _, c := range conversionCases {
		if c.name != at(input, "metadata", "name") {
			continue
		}
		if c.spoil != nil {
			object = c.spoil(object)
		}
		c.reply = strings.NewReplacer("CONVERTED", short(object), "INPUT", short(input)).Replace(c.reply)
		send(w, c.reply, "apiextensions.k8s.io/v1", "ConversionReview", fmt.Sprint(at(review, "request", "uid")))
		return
	}
	http.Error(w, "nothing to be converted", http.StatusNotFound)
}

// conversions are made whenever an object is read in the version that isn't stored.
func conversions(s *side, run string, hooks *httptest.Server) {
	group := "conversion." + run + ".example.com"
	version := func(name string, stored bool) map[string]any {
		return map[string]any{"name": name, "served": true, "storage": stored, "schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "properties": map[string]any{
			"spec": map[string]any{"type": "object", "properties": map[string]any{"a": map[string]any{"type": "string"}}}}}}}
	}
	definition := "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: hooks.Certificate().Raw})
	s.send(call{method: http.MethodPost, path: definition, body: map[string]any{"metadata": map[string]any{"name": "gizmos." + group}, "spec": map[string]any{
		"group": group, "scope": "Namespaced", "names": map[string]any{"plural": "gizmos", "singular": "gizmo", "kind": "Gizmo"}, "versions": []any{version("v1", true), version("v2", false)},
		"conversion": map[string]any{"strategy": "Webhook", "webhook": map[string]any{"conversionReviewVersions": []any{"v1"}, "clientConfig": map[string]any{"url": hooks.URL + "/convert", "caBundle": authority}}},
	}}})
	defer s.send(call{method: http.MethodDelete, path: definition + "/gizmos." + group})
	paths := func(version string) string {
		return "/apis/" + group + "/" + version + "/namespaces/" + run + "/gizmos"
	}
	s.eventually(call{name: "served", method: http.MethodGet, path: paths("v2")}, func(e exchange) bool { return e.Status == http.StatusOK })
	for i, c := range conversionCases {
		gizmo := map[string]any{"apiVersion": group + "/v1", "kind": "Gizmo", "metadata": map[string]any{"name": c.name, "labels": map[string]any{"case": c.name}}, "spec": map[string]any{"a": "x"}}
		s.do(call{name: "create " + c.name + " in v2", method: http.MethodPost, path: paths("v2") + "?dryRun=All", body: with(gizmo, group+"/v2", "apiVersion")})
		s.do(call{name: "create " + c.name, method: http.MethodPost, path: paths("v1"), body: gizmo})
		get(s, paths("v2")+"/"+c.name)
		if i < 2 { // Kubernetes has no list of anything as long as one object can't be converted
			get(s, paths("v2")+"?labelSelector=case%3D"+c.name)
		}
		s.do(call{name: "table of " + c.name, method: http.MethodGet, path: paths("v2") + "/" + c.name, accept: tableAccept})
		s.do(call{name: "patch " + c.name + " in v2", method: http.MethodPatch, path: paths("v2") + "/" + c.name, contentType: mergeType, body: `{"spec":{"a":"z"}}`})
		s.do(call{name: "apply " + c.name + " in v2", method: http.MethodPatch, path: paths("v2") + "/" + c.name + "?fieldManager=a&force=true", contentType: applyType, body: with(gizmo, group+"/v2", "apiVersion")})
		s.do(call{name: "delete " + c.name + " in v2", method: http.MethodDelete, path: paths("v2") + "/" + c.name})
		s.send(call{method: http.MethodDelete, path: paths("v1") + "/" + c.name})
	}
}

// send answers with a review; a reply that is none may begin with a status: "500 text".
func send(w http.ResponseWriter, reply, apiVersion, kind, uid string) {
	var status int
	var text string
	reply = strings.ReplaceAll(reply, "UID", uid)
	if n, _ := fmt.Sscanf(reply, "%d %s", &status, &text); n == 2 {
		w.Header().Set("Location", "/ready")
		w.WriteHeader(status)
		reply = strings.TrimPrefix(reply, fmt.Sprint(status)+" ")
	} else if strings.HasPrefix(reply, `"`) {
		reply = fmt.Sprintf(`{"apiVersion":%q,"kind":%q,"response":{"uid":%q,%s}}`, apiVersion, kind, uid, reply)
	}
	_, _ = io.WriteString(w, reply)
}
