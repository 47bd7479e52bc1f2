package apiserver_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"skiff/pkg/apiserver"
	"skiff/pkg/apiserver/audit"
	"skiff/pkg/apiserver/request"
)

const auditPolicy = `
apiVersion: audit.k8s.io/v1
kind: Policy
rules:
- {level: None, verbs: [list], resources: [{group: "", resources: [nodes]}]}
- {level: Metadata, resources: [{group: "", resources: [secrets]}]}
- {level: RequestResponse, omitStages: [RequestReceived], omitManagedFields: true}
`

// annotating is an admission that notes something.
type annotating struct{}

func (annotating) Mutate(_ context.Context, a *request.Attributes) error {
	a.Annotate("test.example.com/seen", string(a.Operation))
	return nil
}
func (annotating) Validate(context.Context, *request.Attributes) error { return nil }

// refusing recognizes nobody who names himself "stranger".
type refusing struct{ everyone }

func (refusing) Authenticate(r *http.Request) (*request.User, error) {
	if r.Header.Get("X-Test-User") == "stranger" {
		return nil, os.ErrPermission
	}
	return everyone{}.Authenticate(r)
}

func TestAuditLog(t *testing.T) {
	dir := t.TempDir()
	policy, path := filepath.Join(dir, "policy.yaml"), filepath.Join(dir, "logs", "audit.log")
	if err := os.WriteFile(policy, []byte(auditPolicy), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := audit.Open(audit.Options{PolicyFile: policy, Path: path})
	if err != nil {
		t.Fatal(err)
	}
	i := start(t, func(c *apiserver.Config) {
		c.Audit, c.Admission, c.Authenticator = log, annotating{}, refusing{}
		c.More = map[string]http.Handler{"/panic": http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("oh") })}
	})
	events := func() []auditv1.Event {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var all []auditv1.Event
		for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
			var e auditv1.Event
			if json.Unmarshal(lines.Bytes(), &e) == nil { // the last may be half
				all = append(all, e)
			}
		}
		return all
	}
	// find waits for the event of a request, and returns it.
	find := func(what string, is func(*auditv1.Event) bool) *auditv1.Event {
		t.Helper()
		var found *auditv1.Event
		becomes(t, what, func() bool {
			for _, e := range events() {
				if is(&e) {
					found = &e
				}
			}
			return found != nil
		})
		return found
	}

	config := rest.CopyConfig(i.config)
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.Impersonate.UserName = "jane"
	client := kubernetes.NewForConfigOrDie(config).CoreV1()
	for _, name := range []string{"public", "private"} {
		if _, err := client.ConfigMaps("default").Create(limited(t), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"k": name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	e := find("a create in protobuf", func(e *auditv1.Event) bool { return e.Verb == "create" && e.ObjectRef.Name == "public" })
	if e.Stage != auditv1.StageResponseComplete || e.User.Username != "admin" || e.ImpersonatedUser.Username != "jane" || e.ResponseStatus.Code != 201 ||
		e.Annotations["authorization.k8s.io/decision"] != "allow" || e.Annotations["test.example.com/seen"] != "CREATE" {
		t.Errorf("%+v", e)
	}
	for what, object := range map[string][]byte{"request": e.RequestObject.Raw, "response": e.ResponseObject.Raw} {
		var m corev1.ConfigMap
		if err := json.Unmarshal(object, &m); err != nil || m.Kind != "ConfigMap" || m.APIVersion != "v1" || m.Data["k"] != "public" || m.ManagedFields != nil || (m.UID == "") != (what == "request") {
			t.Errorf("%s: %v, %s", what, err, object)
		}
	}
	if _, err := client.Secrets("default").Create(limited(t), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, StringData: map[string]string{"k": "confidential"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	e = find("a secret", func(e *auditv1.Event) bool {
		return e.ObjectRef != nil && e.ObjectRef.Resource == "secrets" && e.ObjectRef.Name == "s"
	})
	if e.RequestObject != nil || e.ResponseObject != nil {
		t.Errorf("the secret is in the log: %+v", e)
	}
	if _, err := client.ConfigMaps("default").Patch(limited(t), "public", types.ApplyPatchType, []byte("apiVersion: v1\nkind: ConfigMap\ndata: {a: b}\n"), metav1.PatchOptions{FieldManager: "test"}); err != nil {
		t.Fatal(err)
	}
	if e = find("a patch", func(e *auditv1.Event) bool { return e.Verb == "patch" }); !bytes.Contains(e.RequestObject.Raw, []byte(`"data":{"a":"b"}`)) {
		t.Errorf("a patch: %s", e.RequestObject.Raw)
	}
	if _, err := client.ConfigMaps("default").Get(limited(t), "missing", metav1.GetOptions{}); err == nil {
		t.Fatal("found")
	}
	if e = find("a failure", func(e *auditv1.Event) bool { return e.ObjectRef != nil && e.ObjectRef.Name == "missing" }); e.ResponseStatus.Code != 404 || e.ResponseStatus.Reason != metav1.StatusReasonNotFound {
		t.Errorf("%+v", e.ResponseStatus)
	}

	ctx, cancel := context.WithCancel(t.Context())
	answer := as(ctx, t, i, "", "GET", "/api/v1/configmaps?watch=1")
	e = find("a watch that began", func(e *auditv1.Event) bool { return e.Verb == "watch" && e.Stage == auditv1.StageResponseStarted })
	if got := answer.Header.Get("Audit-Id"); got != string(e.AuditID) {
		t.Errorf("the header has %s, the event %s", got, e.AuditID)
	}
	cancel()
	find("its end", func(other *auditv1.Event) bool {
		return other.AuditID == e.AuditID && other.Stage == auditv1.StageResponseComplete
	})

	as(t.Context(), t, i, "nobody", "GET", "/api/v1/pods")
	if e = find("a refusal", func(e *auditv1.Event) bool { return e.User.Username == "nobody" }); e.Annotations["authorization.k8s.io/decision"] != "forbid" || e.ResponseStatus.Code != 403 {
		t.Errorf("%+v", e)
	}
	as(t.Context(), t, i, "stranger", "GET", "/api/v1/pods")
	if e = find("a stranger", func(e *auditv1.Event) bool { return e.ResponseStatus != nil && e.ResponseStatus.Code == 401 }); e.Stage != auditv1.StageResponseStarted || e.ResponseStatus.Message != "Authentication failed, no credentials provided" {
		t.Errorf("%+v", e)
	}
	as(t.Context(), t, i, "", "GET", "/panic")
	if e = find("a panic", func(e *auditv1.Event) bool { return e.Stage == auditv1.StagePanic }); e.ResponseStatus.Message != "APIServer panic'd: oh" {
		t.Errorf("%+v", e.ResponseStatus)
	}
	as(t.Context(), t, i, "", "GET", "/api/v1/nodes")
	as(t.Context(), t, i, "", "GET", "/api/v1/services")
	find("the request after one that isn't written down", func(e *auditv1.Event) bool { return e.ObjectRef != nil && e.ObjectRef.Resource == "services" })
	for _, e := range events() {
		if e.ObjectRef != nil && e.ObjectRef.Resource == "nodes" || e.Stage == auditv1.StageRequestReceived && e.ObjectRef != nil && e.ObjectRef.Resource != "secrets" {
			t.Errorf("the policy omits %+v", e)
		}
	}
}
