package apiserver_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	v1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"skiff/pkg/apiserver"
)

// secured wires a server's security as it is run.
func secured(t testing.TB, c *apiserver.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "sa.key")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := apiserver.Secure(c, apiserver.Security{ClientCAFile: c.CertFile, SigningKeyFile: file, Issuers: []string{"https://kubernetes.default.svc"}}); err != nil {
		t.Fatal(err)
	}
}

// securedForAll is secured, but lets everyone do everything.
func securedForAll(t testing.TB) func(*apiserver.Config) {
	return func(c *apiserver.Config) {
		secured(t, c)
		c.Authenticator, c.Authorizer = everyone{}, everyone{}
	}
}

// hooked is a server whose admission is as it is run, and webhooks for it.
type hooked struct {
	*custom
	client kubernetes.Interface
	hooks  *httptest.Server
	ca     []byte

	mu      sync.Mutex
	answers map[string]func(*admissionv1.AdmissionReview) // by path; they change what was asked into what is answered
	asked   []string                                      // paths
	seen    map[string]*admissionv1.AdmissionRequest      // the last one, by path
}

func startHooked(t testing.TB) *hooked {
	t.Helper()
	h := &hooked{answers: map[string]func(*admissionv1.AdmissionReview){}, seen: map[string]*admissionv1.AdmissionRequest{}}
	h.custom = withClients(t, start(t, securedForAll(t)))
	h.client = typed(t, h.instance, "application/json")
	certificate, err := tls.LoadX509KeyPair(h.certFile, h.keyFile)
	if err != nil {
		t.Fatal(err)
	}
	if h.ca, err = os.ReadFile(h.certFile); err != nil {
		t.Fatal(err)
	}
	h.hooks = httptest.NewUnstartedServer(http.HandlerFunc(h.serve))
	h.hooks.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	h.hooks.StartTLS()
	t.Cleanup(h.hooks.Close)
	h.answer("/marker", deny("marked"))
	ctx := limited(t)
	eventually(t, func(ctx context.Context) (bool, error) {
		_, err := h.client.CoreV1().Namespaces().Get(ctx, "default", metav1.GetOptions{})
		return err == nil, nil
	})
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	if _, err := h.client.CoreV1().ServiceAccounts("default").Create(ctx, account, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *hooked) serve(w http.ResponseWriter, r *http.Request) {
	var review admissionv1.AdmissionReview
	if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	h.mu.Lock()
	answer := h.answers[r.URL.Path]
	if r.URL.Path != "/marker" {
		h.asked = append(h.asked, r.URL.Path)
		h.seen[r.URL.Path] = review.Request
	}
	h.mu.Unlock()
	if answer == nil {
		http.Error(w, "nobody is here", http.StatusNotFound)
		return
	}
	review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: true}
	answer(&review)
	if r.Context().Err() != nil {
		return
	}
	review.Request = nil
	_ = json.NewEncoder(w).Encode(&review)
}

// answer sets what a path answers.
func (h *hooked) answer(path string, answer func(*admissionv1.AdmissionReview)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answers[path] = answer
}

// calls are the paths that were asked since the last time.
func (h *hooked) calls() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := strings.Join(h.asked, " ")
	h.asked = nil
	return all
}

func (h *hooked) last(t testing.TB, path string) *admissionv1.AdmissionRequest {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.seen[path] == nil {
		t.Fatalf("%s was not asked", path)
	}
	return h.seen[path]
}

func allow(*admissionv1.AdmissionReview) {}

func deny(message string) func(*admissionv1.AdmissionReview) {
	return func(r *admissionv1.AdmissionReview) {
		r.Response.Allowed, r.Response.Result = false, &metav1.Status{Message: message}
	}
}

func patch(text string) func(*admissionv1.AdmissionReview) {
	return func(r *admissionv1.AdmissionReview) {
		r.Response.Patch, r.Response.PatchType = []byte(text), ptr.To(admissionv1.PatchTypeJSONPatch)
	}
}

// hook is a webhook at a path, asked about what the words say: "CREATE UPDATE /v1/configmaps".
func (h *hooked) hook(path, about string, change ...func(*v1.MutatingWebhook)) v1.MutatingWebhook {
	words := strings.Fields(about)
	where := strings.SplitN(words[len(words)-1], "/", 3)
	var operations []v1.OperationType
	for _, o := range words[:len(words)-1] {
		operations = append(operations, v1.OperationType(o))
	}
	hook := v1.MutatingWebhook{
		Name: strings.Trim(path, "/") + ".hooks.example", AdmissionReviewVersions: []string{"v1"}, SideEffects: ptr.To(v1.SideEffectClassNone),
		ClientConfig: v1.WebhookClientConfig{URL: ptr.To(h.hooks.URL + path), CABundle: h.ca},
		Rules:        []v1.RuleWithOperations{{Operations: operations, Rule: v1.Rule{APIGroups: where[:1], APIVersions: where[1:2], Resources: where[2:]}}},
	}
	for _, c := range change {
		c(&hook)
	}
	return hook
}

// marker is a webhook by which it can be told whether its configuration is in effect.
func (h *hooked) marker(name string) v1.MutatingWebhook {
	return h.hook("/marker", "CREATE /v1/configmaps", func(hook *v1.MutatingWebhook) {
		hook.ObjectSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"marker": name}}
	})
}

func (h *hooked) inEffect(ctx context.Context, name string) bool {
	mark := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "marker-", Labels: map[string]string{"marker": name}}}
	_, err := h.client.CoreV1().ConfigMaps("default").Create(ctx, mark, metav1.CreateOptions{DryRun: []string{"All"}})
	return err != nil && strings.Contains(err.Error(), "marked")
}

// mutating configures mutating webhooks until the test ends.
func (h *hooked) mutating(t testing.TB, name string, hooks ...v1.MutatingWebhook) {
	t.Helper()
	all := h.client.AdmissionregistrationV1().MutatingWebhookConfigurations()
	configuration := &v1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name}, Webhooks: append([]v1.MutatingWebhook{h.marker(name)}, hooks...)}
	if _, err := all.Create(limited(t), configuration, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	h.until(t, name, func(ctx context.Context) error { return all.Delete(ctx, name, metav1.DeleteOptions{}) })
}

// validating is mutating for validating webhooks.
func (h *hooked) validating(t testing.TB, name string, hooks ...v1.MutatingWebhook) {
	t.Helper()
	all := h.client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	configuration := &v1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, m := range append([]v1.MutatingWebhook{h.marker(name)}, hooks...) {
		configuration.Webhooks = append(configuration.Webhooks, v1.ValidatingWebhook{
			Name: m.Name, ClientConfig: m.ClientConfig, Rules: m.Rules, FailurePolicy: m.FailurePolicy, MatchPolicy: m.MatchPolicy,
			NamespaceSelector: m.NamespaceSelector, ObjectSelector: m.ObjectSelector, SideEffects: m.SideEffects, TimeoutSeconds: m.TimeoutSeconds,
			AdmissionReviewVersions: m.AdmissionReviewVersions, MatchConditions: m.MatchConditions,
		})
	}
	if _, err := all.Create(limited(t), configuration, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	h.until(t, name, func(ctx context.Context) error { return all.Delete(ctx, name, metav1.DeleteOptions{}) })
}

// until waits for a configuration to be in effect, and at the end for it to be gone.
func (h *hooked) until(t testing.TB, name string, remove func(context.Context) error) {
	t.Helper()
	eventually(t, func(ctx context.Context) (bool, error) { return h.inEffect(ctx, name), nil })
	h.calls()
	t.Cleanup(func() {
		ctx := context.Background()
		if err := remove(ctx); err != nil && !apierrors.IsNotFound(err) {
			t.Errorf("a webhook configuration can't be deleted: %v", err)
		}
		until(t, "a webhook configuration stays in effect", func() bool { return !h.inEffect(ctx, name) })
	})
}

// configMap creates one.
func (h *hooked) configMap(t testing.TB, name string, data map[string]string) (*corev1.ConfigMap, error) {
	obj := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}
	return h.client.CoreV1().ConfigMaps("default").Create(limited(t), obj, metav1.CreateOptions{})
}
