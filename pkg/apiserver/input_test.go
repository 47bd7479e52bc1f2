package apiserver_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// raw sends a request and returns the status code, the headers and the body.
func raw(t testing.TB, i *instance, method, path, contentType, body string, headers ...string) (int, http.Header, []byte) {
	t.Helper()
	rt, err := rest.TransportFor(i.config)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(limited(t), method, i.address+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	for n := 0; n+1 < len(headers); n += 2 {
		req.Header.Set(headers[n], headers[n+1])
	}
	answer, err := (&http.Client{Transport: rt, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, answer.Header, data
}

const (
	asJSON = "application/json"
	asYAML = "application/yaml"
	maps   = "/api/v1/namespaces/default/configmaps"
)

// Where no API begins there is no Status either.
func TestNoAPI(t *testing.T) {
	i := start(t)
	for _, path := range []string{"/nowhere", "/apis/no.such", "/apis/no.such/v1", "/apis/no.such/v1/things", "//api/v1/nodes"} {
		code, headers, body := raw(t, i, "GET", path, "", "")
		if code != 404 || headers.Get("Content-Type") != "text/plain; charset=utf-8" || string(body) != "404 page not found\n" {
			t.Errorf("%s: %d %v %s", path, code, headers, body)
		}
	}
}

// TestBadInput has what clients do wrong, with Kubernetes' answers.
func TestBadInput(t *testing.T) {
	i := start(t)
	if code, _, body := raw(t, i, "POST", maps, asJSON, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"here"}}`); code != http.StatusCreated {
		t.Fatalf("%d %s", code, body)
	}
	for _, c := range []struct {
		name, method, path, contentType, body string
		headers                               []string
		code                                  int
		reason                                metav1.StatusReason
		message                               string // a part of it
	}{
		{name: "malformed JSON", method: "POST", path: maps, contentType: asJSON, body: `{"apiVersion":"v1",`,
			code: 400, reason: metav1.StatusReasonBadRequest, message: "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: unexpected end of JSON input ({\"apiVersion\":\"v1\",)"},
		{name: "malformed YAML", method: "POST", path: maps, contentType: asYAML, body: "a: b\n c: d",
			code: 400, reason: metav1.StatusReasonBadRequest, message: "the object provided is unrecognized (must be of type ConfigMap): yaml: line 2: mapping values are not allowed in this context (613a20620a20633a2064)"},
		{name: "empty body", method: "POST", path: maps, contentType: asJSON,
			code: 400, reason: metav1.StatusReasonBadRequest, message: "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: unexpected end of JSON input (<empty>)"},
		{name: "wrong kind", method: "POST", path: maps, contentType: asJSON, body: `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"x"}}`,
			code: 400, reason: metav1.StatusReasonBadRequest, message: `Secret in version "v1" cannot be handled as a ConfigMap: converting (v1.Secret) to (core.ConfigMap): unknown conversion`},
		{name: "unknown kind", method: "POST", path: maps, contentType: asJSON, body: `{"apiVersion":"v1","kind":"Nonsense","metadata":{"name":"x"}}`,
			code: 400, reason: metav1.StatusReasonBadRequest, message: `Nonsense in version "v1" cannot be handled as a ConfigMap: no kind "Nonsense" is registered for version "v1" in scheme`},
		{name: "wrong type of a field", method: "POST", path: maps, contentType: asJSON, body: `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"data":{"a":1}}`,
			code: 400, reason: metav1.StatusReasonBadRequest, message: `ConfigMap in version "v1" cannot be handled as a ConfigMap: json: cannot unmarshal number into Go struct field ConfigMap.data of type string`},
		{name: "unknown field, strict", method: "POST", path: maps + "?fieldValidation=Strict", contentType: asJSON, body: `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"dat":{}}`,
			code: 400, reason: metav1.StatusReasonBadRequest, message: `ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: unknown field "dat"`},
		{name: "duplicate field in YAML, strict", method: "POST", path: maps + "?fieldValidation=Strict", contentType: asYAML, body: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {a: b}\ndata: {}\n",
			code: 400, reason: metav1.StatusReasonBadRequest, message: `strict decoding error: yaml: unmarshal errors:`},
		{name: "bad directive", method: "POST", path: maps + "?fieldValidation=Maybe", contentType: asJSON, body: `{}`,
			code: 422, reason: metav1.StatusReasonInvalid, message: `fieldValidation: Unsupported value: "Maybe": supported values: "", "Ignore", "Strict", "Warn"`},
		{name: "invalid name", method: "POST", path: maps, contentType: asJSON, body: `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"A_b"}}`,
			code: 422, reason: metav1.StatusReasonInvalid, message: `ConfigMap "A_b" is invalid: metadata.name: Invalid value: "A_b": a lowercase RFC 1123 subdomain must consist of`},
		{name: "no name", method: "POST", path: maps, contentType: asJSON, body: `{"apiVersion":"v1","kind":"ConfigMap"}`,
			code: 422, reason: metav1.StatusReasonInvalid, message: `metadata.name: Required value: name or generateName is required`},
		{name: "exists", method: "POST", path: maps, contentType: asJSON, body: `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"here"}}`,
			code: 409, reason: metav1.StatusReasonAlreadyExists, message: `configmaps "here" already exists`},
		{name: "other namespace in the body", method: "POST", path: maps, contentType: asJSON, body: `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x","namespace":"other"}}`,
			code: 400, reason: metav1.StatusReasonBadRequest, message: "the namespace of the provided object does not match the namespace sent on the request"},
		{name: "other name in the body", method: "PUT", path: maps + "/here", contentType: asJSON, body: `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"}}`,
			code: 400, reason: metav1.StatusReasonBadRequest, message: "the name of the object (x) does not match the name on the URL (here)"},
		{name: "stale resourceVersion", method: "PUT", path: maps + "/here", contentType: asJSON, body: `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"here","resourceVersion":"1"},"data":{"a":"b"}}`,
			code: 409, reason: metav1.StatusReasonConflict, message: `Operation cannot be fulfilled on configmaps "here": the object has been modified; please apply your changes to the latest version and try again`},
		{name: "resourceVersion on create", method: "POST", path: maps, contentType: asJSON, body: `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x","resourceVersion":"1"}}`,
			code: 500, message: "resourceVersion should not be set on objects to be created"},
		{name: "wrong uid", method: "PUT", path: maps + "/here", contentType: asJSON, body: `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"here","uid":"no"},"data":{"a":"b"}}`,
			code: 409, reason: metav1.StatusReasonConflict, message: "Precondition failed: UID in precondition: no, UID in object meta: "},
		{name: "update of what isn't there", method: "PUT", path: maps + "/none", contentType: asJSON, body: `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"none"}}`,
			code: 404, reason: metav1.StatusReasonNotFound, message: `configmaps "none" not found`},
		{name: "body too large", method: "POST", path: maps, contentType: asJSON, body: `{"a":"` + strings.Repeat("x", 3<<20) + `"}`,
			code: 413, reason: metav1.StatusReasonRequestEntityTooLarge, message: "Request entity too large: limit is 3145728"},
		{name: "unknown content type", method: "POST", path: maps, contentType: "text/plain", body: `{}`,
			code: 415, reason: metav1.StatusReasonUnsupportedMediaType, message: "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf"},
		{name: "unknown accept", method: "GET", path: maps, headers: []string{"Accept", "text/html"},
			code: 406, reason: metav1.StatusReasonNotAcceptable, message: "406: Not Acceptable\n\nAvailable representations: application/json, application/yaml, application/vnd.kubernetes.protobuf"},
		{name: "review as a table", method: "POST", path: "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", contentType: asJSON, body: `{}`, headers: []string{"Accept", "application/json;as=Table;v=v1;g=meta.k8s.io"},
			code: 406, reason: metav1.StatusReasonNotAcceptable, message: "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf"},
		{name: "watch in an unknown stream", method: "GET", path: maps + "?watch=1", headers: []string{"Accept", "application/json;stream=other"},
			code: 406, reason: metav1.StatusReasonNotAcceptable, message: "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf"},
		{name: "unknown resource", method: "GET", path: "/api/v1/nonsense", code: 404, reason: metav1.StatusReasonNotFound, message: "the server could not find the requested resource"},
		{name: "unknown version", method: "GET", path: "/apis/apps/v9/things", code: 404, reason: metav1.StatusReasonNotFound, message: "the server could not find the requested resource"},
		{name: "name that is none", method: "GET", path: maps + "/..", code: 400, reason: metav1.StatusReasonBadRequest, message: `Name parameter invalid: "..": may not be '..'`},
		{name: "unknown method of a path", method: "POST", path: "/version", code: 405, reason: metav1.StatusReasonMethodNotAllowed, message: "the server does not allow this method on the requested resource"},
		{name: "delete of all namespaces' objects", method: "DELETE", path: "/api/v1/configmaps", code: 405, reason: metav1.StatusReasonMethodNotAllowed},
		{name: "namespaced resource without namespace", method: "GET", path: "/api/v1/configmaps/here", code: 404, reason: metav1.StatusReasonNotFound},
		{name: "bad label selector", method: "GET", path: maps + "?labelSelector=a%3D%3D%3Db", code: 400, reason: metav1.StatusReasonBadRequest, message: "unable to parse requirement: found '=', expected: identifier"},
		{name: "bad field selector", method: "GET", path: maps + "?fieldSelector=data.a%3Db", code: 400, reason: metav1.StatusReasonBadRequest, message: `"data.a" is not a known field selector: only "metadata.name", "metadata.namespace"`},
		{name: "bad pod field selector", method: "GET", path: "/api/v1/pods?fieldSelector=spec.foo%3Db", code: 400, reason: metav1.StatusReasonBadRequest, message: `field label not supported: spec.foo`},
		{name: "bad limit", method: "GET", path: maps + "?limit=x", code: 400, reason: metav1.StatusReasonBadRequest},
		{name: "sendInitialEvents without match", method: "GET", path: maps + "?watch=1&sendInitialEvents=true", code: 422, reason: metav1.StatusReasonInvalid, message: "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"},
		{name: "sendInitialEvents on a list", method: "GET", path: maps + "?sendInitialEvents=true&resourceVersionMatch=NotOlderThan", code: 422, reason: metav1.StatusReasonInvalid, message: "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list"},
		{name: "bad resourceVersion", method: "GET", path: maps + "/here?resourceVersion=abc", code: 400, reason: metav1.StatusReasonBadRequest},
		{name: "unknown patch type", method: "PATCH", path: maps + "/here", contentType: asJSON, body: `{}`, code: 415, reason: metav1.StatusReasonUnsupportedMediaType,
			message: "415: Unsupported Media Type"},
		{name: "malformed JSON patch", method: "PATCH", path: maps + "/here", contentType: "application/json-patch+json", body: `{"a":1}`, code: 400, reason: metav1.StatusReasonBadRequest},
		{name: "JSON patch of what isn't there", method: "PATCH", path: maps + "/here", contentType: "application/json-patch+json", body: `[{"op":"remove","path":"/data/none"}]`, code: 422, message: "the server rejected our request due to an error in our request"},
		{name: "JSON patch with too many operations", method: "PATCH", path: maps + "/here", contentType: "application/json-patch+json",
			body: "[" + strings.TrimSuffix(strings.Repeat(`{"op":"test","path":"/kind","value":"ConfigMap"},`, 10001), ",") + "]", code: 413, message: "The allowed maximum operations in a JSON patch is 10000, got 10001"},
		{name: "patch of what isn't there", method: "PATCH", path: maps + "/none", contentType: "application/merge-patch+json", body: `{}`, code: 404, reason: metav1.StatusReasonNotFound, message: `configmaps "none" not found`},
		{name: "apply without a manager", method: "PATCH", path: maps + "/here", contentType: "application/apply-patch+yaml", body: `{}`, code: 422, reason: metav1.StatusReasonInvalid, message: "fieldManager: Required value: is required for apply patch"},
		{name: "apply without a kind", method: "PATCH", path: maps + "/here?fieldManager=m", contentType: "application/apply-patch+yaml", body: `{}`, code: 400, reason: metav1.StatusReasonBadRequest, message: `invalid object type: /, Kind=`},
		{name: "forbidden", method: "GET", path: maps, headers: []string{"X-Test-User", "nobody"}, code: 403, reason: metav1.StatusReasonForbidden, message: `configmaps is forbidden: User "nobody" cannot list resource "configmaps" in API group "" in the namespace "default"`},
		{name: "forbidden path", method: "GET", path: "/metrics", headers: []string{"X-Test-User", "nobody"}, code: 403, reason: metav1.StatusReasonForbidden, message: `forbidden: User "nobody" cannot get path "/metrics"`},
		{name: "bad dry run", method: "POST", path: maps + "?dryRun=Some", contentType: asJSON, body: `{}`, code: 422, reason: metav1.StatusReasonInvalid, message: `dryRun: Unsupported value: ["Some"]: supported values: "All"`},
		{name: "delete with a wrong uid", method: "DELETE", path: maps + "/here", contentType: asJSON, body: `{"preconditions":{"uid":"no"}}`, code: 409, reason: metav1.StatusReasonConflict, message: "the UID in the precondition (no) does not match the UID in record ("},
		{name: "delete with two policies", method: "DELETE", path: maps + "/here", contentType: asJSON, body: `{"orphanDependents":true,"propagationPolicy":"Orphan"}`, code: 422, reason: metav1.StatusReasonInvalid, message: "orphanDependents and deletionPropagation cannot be both set"},
		{name: "bad fence", method: "POST", path: maps, contentType: asJSON, body: `{}`, headers: []string{"Skiff-Fence", "x"}, code: 400, reason: metav1.StatusReasonBadRequest, message: "is not <namespace>/<name>=<revision>"},
		{name: "bad continue", method: "GET", path: maps + "?limit=1&continue=xyz", code: 400, reason: metav1.StatusReasonBadRequest},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, headers, body := raw(t, i, c.method, c.path, c.contentType, c.body, c.headers...)
			var st metav1.Status
			if err := json.Unmarshal(body, &st); err != nil {
				t.Fatalf("%d %s: %v", code, body, err)
			}
			if code != c.code || st.Reason != c.reason && c.reason != "" || !strings.Contains(st.Message, c.message) || st.Kind != "Status" || st.Status != "Failure" || int(st.Code) != code {
				t.Errorf("got %d %+v\nwant %d %s %q", code, st, c.code, c.reason, c.message)
			}
			if headers.Get("Audit-Id") == "" {
				t.Error("no audit id")
			}
		})
	}
}

func TestWarnings(t *testing.T) {
	i := start(t)
	code, headers, body := raw(t, i, "POST", maps, asJSON, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"dat":{},"data":{"a":"1"},"data":{"a":"2"}}`)
	if code != http.StatusCreated {
		t.Fatalf("%d %s", code, body)
	}
	got := strings.Join(headers.Values("Warning"), "; ")
	want := `299 - "unknown field \"dat\""; 299 - "duplicate field \"data\""`
	if got != want {
		t.Errorf("warnings %s\nwant %s", got, want)
	}
	if !bytes.Contains(body, []byte(`"data":{"a":"2"}`)) || bytes.Contains(body, []byte(`"dat"`)) {
		t.Errorf("kept %s", body)
	}
}
