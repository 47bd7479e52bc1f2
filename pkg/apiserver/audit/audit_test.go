package audit

import (
	"encoding/json"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"skiff/pkg/apiserver/request"
)

func TestBadOptions(t *testing.T) {
	dir := t.TempDir()
	policy := func(text string) string {
		file := filepath.Join(dir, "policy.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	const head = "apiVersion: audit.k8s.io/v1\nkind: Policy\n"
	log := filepath.Join(dir, "log")
	for what, row := range map[string]struct {
		policy, want string
		change       func(*Options)
	}{
		"no rules":      {head, "0 rules", nil},
		"no level":      {head + "rules: [{level: Some}]", "level", nil},
		"no stage":      {head + "omitStages: [Never]\nrules: [{level: None}]", "Never", nil},
		"a typo":        {head + "rules: [{level: None, user: [a]}]", "user", nil},
		"another kind":  {"apiVersion: v1\nkind: Policy\nrules: [{level: None}]", "v1", nil},
		"no path":       {head + "rules: [{level: None}]", "together", func(o *Options) { o.Path = "" }},
		"legacy format": {head + "rules: [{level: None}]", "legacy", func(o *Options) { o.Format = "legacy" }},
		"no file":       {"", "no such file", func(o *Options) { o.PolicyFile = dir + "/none" }},
		"a directory":   {head + "rules: [{level: None}]", "is a directory", func(o *Options) { o.Path = dir }},
		"negative":      {head + "rules: [{level: None}]", "negative", func(o *Options) { o.MaxAge = -1 }},
	} {
		o := Options{PolicyFile: policy(row.policy), Path: log}
		if row.change != nil {
			row.change(&o)
		}
		if _, err := Open(o); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if l, err := Open(Options{}); l != nil || err != nil {
		t.Errorf("nothing asked for: %v, %v", l, err)
	}
}

// line is a request's event, after what do did to it, as it is in the log.
func line(t *testing.T, rules string, method, url string, who *request.User, do func(*Record)) *auditv1.Event {
	t.Helper()
	policy, err := parsePolicy([]byte("apiVersion: audit.k8s.io/v1\nkind: Policy\n" + rules))
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	log := &Log{policy: policy, out: &out}
	r := httptest.NewRequest(method, url, nil)
	r.Header.Set("X-Forwarded-For", "192.0.2.9")
	r.Header.Set("User-Agent", strings.Repeat("x", 2000))
	info, err := request.Parse(r)
	if err != nil {
		t.Fatal(err)
	}
	record := log.Begin(r.WithContext(request.WithAuditID(request.WithInfo(t.Context(), info), "id-1")), who)
	if record == nil {
		return nil
	}
	if do != nil {
		do(record)
	}
	record.Stage(auditv1.StageResponseComplete)
	if out.Len() == 0 {
		return nil
	}
	e := &auditv1.Event{}
	if err := json.Unmarshal([]byte(out.String()), e); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	return e
}

func TestPolicy(t *testing.T) {
	jane := &request.User{Name: "jane", Groups: []string{"dev"}}
	const rules = `
omitStages: [RequestReceived]
rules:
- {level: None, users: [joe]}
- {level: None, nonResourceURLs: ["/healthz*"]}
- {level: Metadata, resources: [{group: "", resources: [secrets, pods/log]}]}
- {level: Request, verbs: [create], namespaces: [a], userGroups: [dev]}
- {level: None, verbs: [watch]}
- {level: RequestResponse, omitStages: [ResponseComplete], verbs: [delete]}
- {level: RequestResponse}
`
	for url, want := range map[string]auditv1.Level{
		"GET /healthz/etcd": "", "GET /version": auditv1.LevelRequestResponse,
		"GET /api/v1/namespaces/a/secrets/s": auditv1.LevelMetadata, "GET /api/v1/namespaces/a/pods/p/log": auditv1.LevelMetadata,
		"GET /api/v1/namespaces/a/pods/p":    auditv1.LevelRequestResponse,
		"POST /api/v1/namespaces/a/pods":     auditv1.LevelRequest,
		"POST /api/v1/namespaces/b/pods":     auditv1.LevelRequestResponse,
		"GET /api/v1/pods?watch=1":           "",
		"DELETE /api/v1/namespaces/a/pods/p": "", // its one stage is omitted
	} {
		method, path, _ := strings.Cut(url, " ")
		e := line(t, rules, method, path, jane, nil)
		if e == nil && want != "" || e != nil && e.Level != want {
			t.Errorf("%s: %v, want %q", url, e, want)
		}
		if e := line(t, rules, method, path, &request.User{Name: "joe"}, nil); e != nil {
			t.Errorf("%s by joe: %+v", url, e)
		}
	}
	if e := line(t, rules, "GET", "/version", nil, nil); e == nil {
		t.Error("somebody unknown is not written down")
	}
}

func TestRecord(t *testing.T) {
	jane := &request.User{Name: "jane", UID: "7", Groups: []string{"dev"}, Extra: map[string][]string{"k": {"v"}}}
	const all = "rules: [{level: RequestResponse, omitManagedFields: true}]"
	e := line(t, all, "POST", "/apis/apps/v1/namespaces/a/deployments?dryRun=All", jane, func(r *Record) {
		if !r.WantsRequest() || !r.WantsResponse() {
			t.Error("bodies are not wanted")
		}
		r.Request([]byte(`{"metadata":{"name":"d","uid":"u","managedFields":[{}]}}`))
		r.Response([]byte(`{"items":[{"metadata":{"name":"d","managedFields":[{}]}}],"rows":[{"object":{"metadata":{"managedFields":[{}]}}}]}`))
		r.Impersonated(&request.User{Name: "joe"})
		r.annotate("k", "first")
		r.annotate("k", "second")
		r.Code(201)
	})
	switch {
	case e.Kind != "Event" || e.APIVersion != "audit.k8s.io/v1" || e.AuditID != "id-1" || e.Stage != auditv1.StageResponseComplete || e.Verb != "create":
		t.Errorf("head: %+v", e)
	case e.RequestURI != "/apis/apps/v1/namespaces/a/deployments?dryRun=All" || len(e.SourceIPs) != 2 || e.SourceIPs[0] != "192.0.2.9":
		t.Errorf("where from: %+v", e)
	case e.User.Username != "jane" || e.User.UID != "7" || e.User.Extra["k"][0] != "v" || e.ImpersonatedUser.Username != "joe":
		t.Errorf("who: %+v, %+v", e.User, e.ImpersonatedUser)
	case len(e.UserAgent) != 1024+len("...TRUNCATED"):
		t.Errorf("user agent of %d bytes", len(e.UserAgent))
	case *e.ObjectRef != auditv1.ObjectReference{Namespace: "a", Name: "d", UID: "u", Resource: "deployments", APIGroup: "apps", APIVersion: "v1"}:
		t.Errorf("object: %+v", e.ObjectRef)
	case e.Annotations["k"] != "first" || e.ResponseStatus.Code != 201:
		t.Errorf("%v, %v", e.Annotations, e.ResponseStatus)
	}
	if got := string(e.RequestObject.Raw); got != `{"metadata":{"name":"d","uid":"u"}}` {
		t.Errorf("request: %s", got)
	}
	if got := string(e.ResponseObject.Raw); got != `{"items":[{"metadata":{"name":"d"}}],"rows":[{"object":{"metadata":{}}}]}` {
		t.Errorf("response: %s", got)
	}

	e = line(t, "rules: [{level: Metadata}]", "POST", "/api/v1/namespaces/a/secrets", jane, func(r *Record) {
		if r.WantsRequest() || r.WantsResponse() {
			t.Error("bodies are wanted of a secret")
		}
		r.Named("s")
		r.Status(&metav1.Status{Code: 403, Reason: metav1.StatusReasonForbidden, Message: "no"})
	})
	if e.ObjectRef.Name != "s" || e.RequestObject != nil || e.ResponseStatus.Message != "no" {
		t.Errorf("%+v", e)
	}
	if e := line(t, all, "GET", "/version", jane, func(r *Record) {
		if r.WantsRequest() || r.WantsResponse() {
			t.Error("bodies of what is no object are wanted")
		}
	}); e.ObjectRef != nil {
		t.Errorf("%+v", e)
	}
}
