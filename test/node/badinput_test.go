package node

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// TestBadInput sends what nobody should, as it comes over the wire, and wants
// Kubernetes' own answers.
func TestBadInput(t *testing.T) {
	ns := newNamespace(t)
	admin, err := rest.HTTPClientFor(restConfig)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().ConfigMaps(ns).Create(t.Context(), &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "there"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	configMaps := "/api/v1/namespaces/" + ns + "/configmaps"
	pods := "/api/v1/namespaces/" + ns + "/pods"
	for name, c := range map[string]struct {
		method, path, kind, body string
		code                     int
		reason                   metav1.StatusReason
		message                  string
	}{
		"malformed JSON": {"POST", configMaps, "application/json", `{"metadata":`,
			400, "BadRequest", "unexpected end of JSON input"},
		"malformed YAML": {"POST", configMaps, "application/yaml", "a: [b",
			400, "BadRequest", "yaml"},
		"another kind": {"POST", configMaps, "application/json", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"x"}}`,
			400, "BadRequest", "Secret in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Secret) to (core.ConfigMap): unknown conversion"},
		"unknown field": {"POST", configMaps + "?fieldValidation=Strict", "application/json", `{"metadata":{"name":"x"},"dada":{}}`,
			400, "BadRequest", `strict decoding error: unknown field "dada"`},
		"invalid name": {"POST", configMaps, "application/json", `{"metadata":{"name":"Not_A_Name"}}`,
			422, "Invalid", `ConfigMap "Not_A_Name" is invalid: metadata.name: Invalid value: "Not_A_Name": a lowercase RFC 1123 subdomain must consist of`},
		"no name": {"POST", configMaps, "application/json", `{}`,
			422, "Invalid", `ConfigMap "" is invalid: metadata.name: Required value: name or generateName is required`},
		"exists": {"POST", configMaps, "application/json", `{"metadata":{"name":"there"}}`,
			409, "AlreadyExists", `configmaps "there" already exists`},
		"missing": {"GET", configMaps + "/nobody", "", "",
			404, "NotFound", `configmaps "nobody" not found`},
		"wrong namespace": {"POST", configMaps, "application/json", `{"metadata":{"name":"x","namespace":"other"}}`,
			400, "BadRequest", "the namespace of the provided object does not match the namespace sent on the request"},
		"wrong name": {"PUT", configMaps + "/there", "application/json", `{"metadata":{"name":"other"}}`,
			400, "BadRequest", "the name of the object (other) does not match the name on the URL (there)"},
		"stale version": {"PUT", configMaps + "/there", "application/json", `{"metadata":{"name":"there","resourceVersion":"1"}}`,
			409, "Conflict", `Operation cannot be fulfilled on configmaps "there": the object has been modified; please apply your changes to the latest version and try again`},
		"too large": {"POST", configMaps, "application/json", `{"metadata":{"name":"x"},"data":{"a":"` + strings.Repeat("x", 4<<20) + `"}}`,
			413, "RequestEntityTooLarge", "Request entity too large: limit is 3145728"},
		"unknown resource": {"GET", "/api/v1/namespaces/" + ns + "/gizmos", "", "",
			404, "NotFound", "the server could not find the requested resource"},
		"no such method": {"PATCH", configMaps, "application/merge-patch+json", "{}",
			405, "MethodNotAllowed", "the server does not allow this method on the requested resource"},
		"unknown media type": {"POST", configMaps, "text/csv", "a,b",
			415, "UnsupportedMediaType", "the body of the request was in an unknown format - accepted media types include:"},
		"no container": {"POST", pods, "application/json", `{"metadata":{"name":"p"},"spec":{}}`,
			422, "Invalid", `Pod "p" is invalid: spec.containers: Required value`},
		"no image": {"POST", pods, "application/json", `{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c"}]}}`,
			422, "Invalid", `Pod "p" is invalid: spec.containers[0].image: Required value`},
		"terminated namespace": {"POST", "/api/v1/namespaces/nobody/pods", "application/json", `{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}]}}`,
			404, "NotFound", `namespaces "nobody" not found`},
		"bad selector": {"GET", pods + "?labelSelector=a%20b", "", "",
			400, "BadRequest", "unable to parse requirement"},
		"unknown field selector": {"GET", pods + "?fieldSelector=spec.color=red", "", "",
			400, "BadRequest", `field label not supported: spec.color`},
		"bad continue": {"GET", pods + "?continue=x", "", "",
			400, "BadRequest", "continue key is not valid"},
	} {
		t.Run(name, func(t *testing.T) {
			code, status := send(t, admin, c.method, c.path, c.kind, c.body)
			if code != c.code || status.Reason != c.reason || !strings.Contains(status.Message, c.message) {
				t.Errorf("%s %s: %d %s %q\nwant %d %s %q", c.method, c.path, code, status.Reason, status.Message, c.code, c.reason, c.message)
			}
			if int(status.Code) != code || status.Status != metav1.StatusFailure {
				t.Errorf("the body says status %q, code %d", status.Status, status.Code)
			}
		})
	}
}

func TestBadCredentials(t *testing.T) {
	anonymous := rest.AnonymousClientConfig(restConfig)
	none, err := rest.HTTPClientFor(anonymous)
	if err != nil {
		t.Fatal(err)
	}
	token := rest.CopyConfig(anonymous)
	token.BearerToken = "forged"
	forged, err := rest.HTTPClientFor(token)
	if err != nil {
		t.Fatal(err)
	}
	if code, status := send(t, none, "GET", "/api/v1/pods", "", ""); code != 403 || status.Reason != metav1.StatusReasonForbidden ||
		status.Message != `pods is forbidden: User "system:anonymous" cannot list resource "pods" in API group "" at the cluster scope` {
		t.Errorf("without credentials: %d %s %q", code, status.Reason, status.Message)
	}
	if code, status := send(t, forged, "GET", "/api/v1/pods", "", ""); code != 401 || status.Reason != metav1.StatusReasonUnauthorized || status.Message != "Unauthorized" {
		t.Errorf("with a forged token: %d %s %q", code, status.Reason, status.Message)
	}
	// Health and version are open, as in Kubernetes.
	for _, path := range []string{"/healthz", "/readyz", "/version"} {
		r, err := none.Get(restConfig.Host + path)
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		if r.StatusCode != 200 {
			t.Errorf("%s: %s", path, r.Status)
		}
	}
	// A certificate of somebody else's authority doesn't count.
	stranger := rest.CopyConfig(anonymous)
	stranger.Insecure, stranger.CAData = true, nil
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{selfSigned(t)}}}
	if code, _ := send(t, &http.Client{Transport: transport}, "GET", "/api/v1/pods", "", ""); code != 401 && code != 403 {
		t.Errorf("with a self-signed certificate: %d", code)
	}
	// A service account may do nothing that it isn't given.
	ns := newNamespace(t)
	eventually(t, waitShort, "the default service account is there", func() error {
		_, err := client.CoreV1().ServiceAccounts(ns).Get(t.Context(), "default", metav1.GetOptions{})
		return err
	})
	own := must(t, "create", "token", "default", "-n", ns)
	token.BearerToken = strings.TrimSpace(own)
	account, err := rest.HTTPClientFor(token)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(`secrets is forbidden: User "system:serviceaccount:%s:default" cannot list resource "secrets" in API group "" in the namespace "%s"`, ns, ns)
	if code, status := send(t, account, "GET", "/api/v1/namespaces/"+ns+"/secrets", "", ""); code != 403 || status.Message != want {
		t.Errorf("a service account without a role: %d %q, want 403 %q", code, status.Message, want)
	}
}

func send(t *testing.T, c *http.Client, method, path, kind, body string) (int, metav1.Status) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, restConfig.Host+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if kind != "" {
		request.Header.Set("Content-Type", kind)
	}
	r, err := c.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	data, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	var status metav1.Status
	if err := unmarshal(data, &status); err != nil {
		t.Fatalf("%s %s: %s, and the body is no status: %s", method, path, r.Status, data)
	}
	return r.StatusCode, status
}

// TestImageThatDoesNotExist goes from ErrImagePull to ImagePullBackOff, and is deleted cleanly.
func TestImageThatDoesNotExist(t *testing.T) {
	ns := newNamespace(t)
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"},
		Spec: v1.PodSpec{Containers: []v1.Container{{Name: "c", Image: registryHost(t) + "/nobody/nothing:1"}}}}
	if _, err := client.CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	waiting := func(reason string) func(*v1.Pod) bool {
		return func(p *v1.Pod) bool {
			return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Waiting != nil &&
				p.Status.ContainerStatuses[0].State.Waiting.Reason == reason
		}
	}
	waitPod(t, ns, "p", "ErrImagePull", waiting("ErrImagePull"))
	p := waitPod(t, ns, "p", "ImagePullBackOff", waiting("ImagePullBackOff"))
	if m := p.Status.ContainerStatuses[0].State.Waiting.Message; !strings.HasPrefix(m, "Back-off pulling image ") {
		t.Errorf("message %q", m)
	}
	if p.Status.Phase != v1.PodPending {
		t.Errorf("phase %s, want Pending", p.Status.Phase)
	}
	if out := must(t, "get", "events", "-n", ns); !strings.Contains(out, "Failed to pull image") || !strings.Contains(out, "BackOff") {
		t.Errorf("events:\n%s", out)
	}
	must(t, "delete", "pod", "-n", ns, "p", "--timeout=40s")
	if _, err := client.CoreV1().Pods(ns).Get(t.Context(), "p", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after delete: %v", err)
	}
}
