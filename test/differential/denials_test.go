package differential

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// denials are what webhooks and policies say to writes. The webhooks are this process: both servers have to be on its machine.
func denials(t *testing.T, run string) map[string]func(*side) {
	hooks := httptest.NewUnstartedServer(http.HandlerFunc(hook))
	hooks.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that shall fail
	hooks.StartTLS()
	t.Cleanup(hooks.Close)
	return map[string]func(*side){
		"denials by webhooks":             func(s *side) { webhooks(s, run, hooks, "Validating", validatingHooks) },
		"changes by webhooks":             func(s *side) { webhooks(s, run, hooks, "Mutating", mutatingHooks) },
		"conversions by webhooks":         func(s *side) { conversions(s, run, hooks) },
		"denials by policies":             func(s *side) { policies(s, run, "Validating", validatingPolicies) },
		"changes by policies":             func(s *side) { policies(s, run, "Mutating", mutatingPolicies) },
		"denials of custom resources":     func(s *side) { policiesOfCustom(s, run, "Validating") },
		"changes of custom resources":     func(s *side) { policiesOfCustom(s, run, "Mutating") },
		"policies that are no policies":   func(s *side) { malformed(s, run, "Validating", malformedValidating) },
		"mutations that are no mutations": func(s *side) { malformed(s, run, "Mutating", malformedMutating) },
	}
}

// hookCase is a webhook that is asked about objects with its name as a label.
type hookCase struct {
	name  string
	reply string         // fields of the response, or what is sent instead of a review
	more  map[string]any // fields of the webhook
}

// hook answers for the webhook that the path names.
func hook(w http.ResponseWriter, r *http.Request) {
	var review map[string]any
	if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if review["kind"] == "ConversionReview" {
		convert(w, review)
		return
	}
	for _, c := range slices.Concat(validatingHooks, mutatingHooks) {
		if c.name != strings.Trim(r.URL.Path, "/") {
			continue
		}
		if c.reply == "" { // the answer never comes
			<-r.Context().Done()
			return
		}
		send(w, c.reply, "admission.k8s.io/v1", "AdmissionReview", fmt.Sprint(at(review, "request", "uid")))
		return
	}
	http.NotFound(w, r)
}

func patched(patch string) string {
	return fmt.Sprintf(`"allowed":true,"patchType":"JSONPatch","patch":%q`, base64.StdEncoding.EncodeToString([]byte(patch)))
}

func only(operation string) []any {
	return []any{map[string]any{"operations": []any{operation}, "apiGroups": []any{""}, "apiVersions": []any{"v1"}, "resources": []any{"configmaps"}}}
}

var (
	ignored  = map[string]any{"failurePolicy": "Ignore"}
	oneWhile = map[string]any{"timeoutSeconds": 1}
)

func condition(expression, failures string) map[string]any {
	return map[string]any{"failurePolicy": failures, "matchConditions": []any{map[string]any{"name": "c", "expression": expression}}}
}

var validatingHooks = []hookCase{
	{"ready", `"allowed":false`, nil},
	{"allow", `"allowed":true`, nil},
	{"message", `"allowed":false,"status":{"message":"no way"}`, nil},
	{"reason", `"allowed":false,"status":{"reason":"Forbidden"}`, nil},
	{"forbidden", `"allowed":false,"status":{"message":"no way","reason":"Forbidden","code":403}`, nil},
	{"teapot", `"allowed":false,"status":{"message":"I'm one","code":418}`, nil},
	{"success", `"allowed":false,"status":{"status":"Success","message":"m","code":200}`, nil},
	{"details", `"allowed":false,"status":{"message":"m","code":422,"reason":"Invalid","details":{"name":"n","causes":[{"field":"data","message":"bad","reason":"FieldValueInvalid"}]}}`, nil},
	{"warnings", `"allowed":true,"warnings":["first","second with \"quotes\"","with a\nnew line","` + strings.Repeat("long ", 80) + `"]`, nil},
	{"warned-denial", `"allowed":false,"warnings":["first"],"status":{"message":"no"}`, nil},
	{"annotations", `"allowed":true,"auditAnnotations":{"k":"v","bad key!":"v"}`, nil},
	{"no-response", `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}`, nil},
	{"wrong-uid", `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{"uid":"other","allowed":true}}`, nil},
	{"wrong-kind", `{"apiVersion":"admission.k8s.io/v1","kind":"Other","response":{"uid":"UID","allowed":true}}`, nil},
	{"wrong-version", `{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview","response":{"uid":"UID","allowed":true}}`, nil},
	{"unknown-version", `{"apiVersion":"admission.k8s.io/v9","kind":"AdmissionReview","response":{"uid":"UID","allowed":true}}`, nil},
	{"no-kind", `{"response":{"uid":"UID","allowed":true}}`, nil},
	{"wrong-type", `"allowed":"yes"`, nil},
	{"unknown-field", `"allowed":true,"nonsense":1`, nil},
	{"a-list", `[]`, nil},
	{"rubbish", `rubbish`, nil},
	{"rubbish-ignored", `rubbish`, ignored},
	{"empty-object", `{}`, nil},
	{"error", `500 broken`, nil},
	{"error-ignored", `500 broken`, ignored},
	{"absent", `404 none`, nil},
	{"teapots", `418 short`, nil},
	{"redirect", `302 elsewhere`, nil},
	{"no-content", `204 x`, nil},
	{"a-status", `403 {"kind":"Status","apiVersion":"v1","status":"Failure","message":"not you","reason":"Forbidden","code":403}`, nil},
	{"validating-patch", patched(`[]`), nil},
	{"validating-type", `"allowed":true,"patchType":"JSONPatch"`, nil},
	{"hang", "", oneWhile},
	{"hang-ignored", "", map[string]any{"timeoutSeconds": 1, "failurePolicy": "Ignore"}},
	{"unreachable", "x", map[string]any{"clientConfig": map[string]any{"url": "https://127.0.0.1:1/x"}}},
	{"unreachable-ignored", "x", map[string]any{"clientConfig": map[string]any{"url": "https://127.0.0.1:1/x"}, "failurePolicy": "Ignore"}},
	{"unknown-service", "x", map[string]any{"clientConfig": map[string]any{"service": map[string]any{"namespace": "nowhere", "name": "s", "path": "/p"}}}},
	{"without-authority", `"allowed":true`, map[string]any{"clientConfig": "without authority"}},
	{"another-host", `"allowed":true`, map[string]any{"clientConfig": "another host"}},
	{"old-reviews", `{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview","response":{"allowed":false}}`, map[string]any{"admissionReviewVersions": []any{"v1beta1"}}},
	{"condition-false", `"allowed":false`, condition("false", "Fail")},
	{"condition-true", `"allowed":false`, condition("object.metadata.labels['case'] == 'condition-true'", "Fail")},
	{"condition-fails", `"allowed":true`, condition("object.data.absent == 'x'", "Fail")},
	{"condition-ignored", `"allowed":false`, condition("object.data.absent == 'x'", "Ignore")},
	{"side-effects", `"allowed":true`, map[string]any{"sideEffects": "NoneOnDryRun"}},
	{"deletion", `"allowed":false,"status":{"message":"it stays"}`, map[string]any{"rules": only("DELETE")}},
	{"change", `"allowed":false,"status":{"message":"as it is"}`, map[string]any{"rules": only("UPDATE")}},
}

var mutatingHooks = []hookCase{
	{"ready", `"allowed":false`, nil},
	{"m-allow", `"allowed":true`, nil},
	{"m-deny", `"allowed":false,"warnings":["careful"],"status":{"message":"no","code":403}`, nil},
	{"m-label", patched(`[{"op":"add","path":"/metadata/labels/new","value":"y"}]`), nil},
	{"m-warned-label", patched(`[{"op":"add","path":"/metadata/labels/new","value":"y"}]`) + `,"warnings":["changed"]`, nil},
	{"m-nothing", patched(`[]`), nil},
	{"m-null", patched(`null`), nil},
	{"m-object", patched(`{}`), nil},
	{"m-rubbish", patched(`rubbish`), nil},
	{"m-rubbish-ignored", patched(`rubbish`), ignored},
	{"m-not-base64", `"allowed":true,"patchType":"JSONPatch","patch":"%%%"`, nil},
	{"m-no-type", strings.Replace(patched(`[]`), `"patchType":"JSONPatch",`, "", 1), nil},
	{"m-type-only", `"allowed":true,"patchType":"JSONPatch"`, nil},
	{"m-empty-type", strings.Replace(patched(`[]`), "JSONPatch", "", 1), nil},
	{"m-merge-type", strings.Replace(patched(`[{"op":"remove","path":"/data"}]`), "JSONPatch", "MergePatch", 1), nil},
	{"m-absent", patched(`[{"op":"remove","path":"/data/absent"}]`), nil},
	{"m-absent-ignored", patched(`[{"op":"remove","path":"/data/absent"}]`), ignored},
	{"m-test", patched(`[{"op":"test","path":"/data/a","value":"other"}]`), nil},
	{"m-operation", patched(`[{"op":"turn","path":"/data/a"}]`), nil},
	{"m-wrong-type", patched(`[{"op":"replace","path":"/data/a","value":5}]`), nil},
	{"m-unknown-field", patched(`[{"op":"add","path":"/nonsense","value":5}]`), nil},
	{"m-invalid", patched(`[{"op":"add","path":"/metadata/labels/new","value":"bad value!"}]`), nil},
	{"m-name", patched(`[{"op":"replace","path":"/metadata/name","value":"other"}]`), nil},
	{"m-namespace", patched(`[{"op":"replace","path":"/metadata/namespace","value":"other"}]`), nil},
	{"m-kind", patched(`[{"op":"replace","path":"/kind","value":"Secret"}]`), nil},
	{"m-no-kind", patched(`[{"op":"remove","path":"/kind"}]`), nil},
	{"m-uid", patched(`[{"op":"add","path":"/metadata/uid","value":"00000000-0000-4000-8000-000000000000"}]`), nil},
	{"m-error", `500 broken`, nil},
	{"m-hang", "", oneWhile},
	{"m-condition-fails", `"allowed":true`, condition("object.data.absent == 'x'", "Fail")},
	{"m-deletion", patched(`[{"op":"add","path":"/metadata/labels/new","value":"y"}]`), map[string]any{"rules": only("DELETE")}},
	{"m-change", patched(`[{"op":"add","path":"/metadata/labels/new","value":"y"}]`), map[string]any{"rules": only("UPDATE")}},
}

func configMap(label string) map[string]any {
	return map[string]any{"metadata": map[string]any{"name": label, "labels": map[string]any{"case": label}}, "data": map[string]any{"a": "x", "b": "y"}}
}

// webhooks are all configured at once; objects choose theirs by a label.
func webhooks(s *side, run string, hooks *httptest.Server, class string, cases []hookCase) {
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: hooks.Certificate().Raw})
	all := []any{}
	for _, c := range cases {
		at := hooks.URL + "/" + c.name
		webhook := map[string]any{
			"name": c.name + ".example.com", "sideEffects": "None", "timeoutSeconds": 5, "admissionReviewVersions": []any{"v1"},
			"clientConfig": map[string]any{"url": at, "caBundle": authority}, "rules": only("CREATE"),
			"objectSelector":    map[string]any{"matchLabels": map[string]any{"case": c.name}},
			"namespaceSelector": map[string]any{"matchLabels": map[string]any{"kubernetes.io/metadata.name": run}},
		}
		maps.Copy(webhook, c.more)
		switch webhook["clientConfig"] {
		case "without authority":
			webhook["clientConfig"] = map[string]any{"url": at}
		case "another host":
			webhook["clientConfig"] = map[string]any{"url": strings.Replace(at, "127.0.0.1", "localhost", 1), "caBundle": authority}
		}
		all = append(all, webhook)
	}
	path := "/apis/admissionregistration.k8s.io/v1/" + strings.ToLower(class) + "webhookconfigurations"
	s.send(call{method: http.MethodPost, path: path, body: map[string]any{"metadata": map[string]any{"name": run}, "webhooks": all}})
	defer s.send(call{method: http.MethodDelete, path: path + "/" + run})
	objects := "/api/v1/namespaces/" + run + "/configmaps"
	s.eventually(call{name: "asked", method: http.MethodPost, path: objects + "?dryRun=All", body: configMap("ready")}, func(e exchange) bool { return e.Status == http.StatusBadRequest })
	for _, c := range cases {
		s.do(call{name: "create " + c.name, method: http.MethodPost, path: objects + "?dryRun=All", body: configMap(c.name)})
	}
	for _, c := range cases {
		name := c.name
		if c.more["rules"] == nil && name != "ready" {
			continue
		}
		s.do(call{name: "create " + name + " earnestly", method: http.MethodPost, path: objects, body: configMap(name)})
		s.do(call{name: "patch " + name, method: http.MethodPatch, path: objects + "/" + name, contentType: mergeType, body: `{"data":{"a":"z"}}`})
		s.do(call{name: "apply " + name, method: http.MethodPatch, path: objects + "/" + name + "?fieldManager=a&force=true", contentType: applyType, body: with(with(configMap(name), "v1", "apiVersion"), "ConfigMap", "kind")})
		s.do(call{name: "delete " + name, method: http.MethodDelete, path: objects + "/" + name})
		s.do(call{name: "delete collection of " + name, method: http.MethodDelete, path: objects + "?labelSelector=case%3D" + name})
	}
	s.send(call{method: http.MethodDelete, path: path + "/" + run})
	s.eventually(call{name: "no longer asked", method: http.MethodPost, path: objects + "?dryRun=All", body: configMap("ready")}, func(e exchange) bool { return e.Status == http.StatusCreated })
	s.send(call{method: http.MethodDelete, path: objects})
}
