package clients

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/cert"
	ctrl "sigs.k8s.io/controller-runtime"
	controller "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
)

// fence is what guards gardens: it fills in notes, and keeps weeds out.
type fence struct{}

func (fence) Default(_ context.Context, g *Garden) error {
	if g.Spec.Note == "" {
		g.Spec.Note = "green"
	}
	return nil
}

func (fence) ValidateCreate(_ context.Context, g *Garden) (admission.Warnings, error) {
	if g.Spec.Size > 5 {
		return admission.Warnings{"that is a large garden"}, nil
	}
	if g.Spec.Note == "weeds" {
		return nil, errors.New("no weeds here")
	}
	return nil, nil
}

func (fence) ValidateUpdate(_ context.Context, old, g *Garden) (admission.Warnings, error) {
	if g.Spec.Size < old.Spec.Size {
		return nil, fmt.Errorf("a garden of %d doesn't shrink to %d", old.Spec.Size, g.Spec.Size)
	}
	return nil, nil
}

func (fence) ValidateDelete(_ context.Context, g *Garden) (admission.Warnings, error) {
	if g.Spec.Note == "evergreen" {
		return nil, errors.New("evergreens stay")
	}
	return nil, nil
}

// listenAddress is an address of this machine at which the cluster's node reaches it.
func listenAddress(t *testing.T) (host string, port int) {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(restConfig.Host, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	host = c.LocalAddr().(*net.TCPAddr).IP.String()
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return host, l.Addr().(*net.TCPAddr).Port
}

// register tells the apiserver of the webhooks at an address, for one namespace.
func register(t *testing.T, ns, group, base string, authority []byte) {
	t.Helper()
	hook := func(verb string) (string, admissionv1.WebhookClientConfig) {
		url := base + "/" + verb + "-" + strings.ReplaceAll(group, ".", "-") + "-v1-garden"
		return verb + "." + group, admissionv1.WebhookClientConfig{URL: &url, CABundle: authority}
	}
	rules := func(operations ...admissionv1.OperationType) []admissionv1.RuleWithOperations {
		return []admissionv1.RuleWithOperations{{Operations: operations,
			Rule: admissionv1.Rule{APIGroups: []string{group}, APIVersions: []string{"v1"}, Resources: []string{"gardens"}}}}
	}
	here := &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": ns}}
	none := admissionv1.SideEffectClassNone
	meta := metav1.ObjectMeta{Name: group}
	configurations := client.AdmissionregistrationV1()
	name, at := hook("mutate")
	mutating := &admissionv1.MutatingWebhookConfiguration{ObjectMeta: meta, Webhooks: []admissionv1.MutatingWebhook{{
		Name: name, ClientConfig: at, Rules: rules(admissionv1.Create, admissionv1.Update), NamespaceSelector: here,
		SideEffects: &none, AdmissionReviewVersions: []string{"v1"}}}}
	name, at = hook("validate")
	validating := &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: meta, Webhooks: []admissionv1.ValidatingWebhook{{
		Name: name, ClientConfig: at, Rules: rules(admissionv1.OperationAll), NamespaceSelector: here,
		SideEffects: &none, AdmissionReviewVersions: []string{"v1"}}}}
	t.Cleanup(func() {
		if err := errors.Join(configurations.MutatingWebhookConfigurations().Delete(context.Background(), group, metav1.DeleteOptions{}),
			configurations.ValidatingWebhookConfigurations().Delete(context.Background(), group, metav1.DeleteOptions{})); err != nil {
			t.Error(err)
		}
	})
	if _, err := configurations.MutatingWebhookConfigurations().Create(t.Context(), mutating, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := configurations.ValidatingWebhookConfigurations().Create(t.Context(), validating, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// warnings collects those that come with answers.
type warnings struct {
	mu    sync.Mutex
	texts []string
}

func (w *warnings) HandleWarningHeader(_ int, _, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.texts = append(w.texts, text)
}

// TestManagerWebhooks lets a manager serve a mutating and a validating webhook.
func TestManagerWebhooks(t *testing.T) {
	ns := newNamespace(t)
	const group = "webhooks.clients.test"
	newCRD(t, group, "gardens", "Garden")
	host, port := listenAddress(t)
	certificate, key, err := cert.GenerateSelfSignedCertKey(host, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "tls.crt"), certificate, 0o600), os.WriteFile(filepath.Join(dir, "tls.key"), key, 0o600)); err != nil {
		t.Fatal(err)
	}
	hooks := webhook.NewServer(webhook.Options{Host: host, Port: port, CertDir: dir})
	manager, err := ctrl.NewManager(restConfig, ctrl.Options{Scheme: gardenScheme(group), Metrics: server.Options{BindAddress: "0"}, WebhookServer: hooks})
	if err != nil {
		t.Fatal(err)
	}
	if err := ctrl.NewWebhookManagedBy(manager, &Garden{}).WithDefaulter(fence{}).WithValidator(fence{}).Complete(); err != nil {
		t.Fatal(err)
	}
	stop := start(t, manager)
	eventually(t, 30*time.Second, "the webhooks are served", func() error { return hooks.StartedChecker()(nil) })
	register(t, ns, group, fmt.Sprintf("https://%s:%d", host, port), certificate)

	w := &warnings{}
	config := rest.CopyConfig(restConfig)
	config.WarningHandler = w
	admin, err := controller.New(config, controller.Options{Scheme: gardenScheme(group)})
	if err != nil {
		t.Fatal(err)
	}
	plant := func(name, note string, size int) (*Garden, error) {
		g := &Garden{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: GardenSpec{Size: size, Note: note}}
		return g, admin.Create(t.Context(), g)
	}
	refused := func(what string, err error, text string) {
		t.Helper()
		if want := fmt.Sprintf("admission webhook %q denied the request: %s", "validate."+group, text); !apierrors.IsForbidden(err) || err.Error() != want {
			t.Errorf("%s: %v, want %s", what, err, want)
		}
	}
	// A configuration acts when the apiserver has seen it: soon, not at once.
	eventually(t, 30*time.Second, "weeds are refused", func() error {
		g, err := plant("weeds", "weeds", 1)
		if err == nil {
			return errors.Join(errors.New("they grow"), admin.Delete(t.Context(), g))
		}
		refused("weeds", err, "no weeds here")
		return nil
	})
	eventually(t, 30*time.Second, "a note is filled in", func() error {
		g, err := plant("g", "", 6)
		if err == nil && g.Spec.Note != "green" {
			return errors.Join(errors.New("it is empty"), admin.Delete(t.Context(), g))
		}
		return err
	})
	if len(w.texts) == 0 || w.texts[0] != "that is a large garden" {
		t.Errorf("the warnings are %q", w.texts)
	}
	g := &Garden{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "g"}}
	patch := func(text string, o ...controller.PatchOption) error {
		return admin.Patch(t.Context(), g, controller.RawPatch("application/merge-patch+json", []byte(text)), o...)
	}
	refused("shrinking", patch(`{"spec":{"size":1}}`), "a garden of 6 doesn't shrink to 1")
	refused("shrinking without effect", patch(`{"spec":{"size":1}}`, controller.DryRunAll), "a garden of 6 doesn't shrink to 1")
	if err := patch(`{"spec":{"note":"evergreen"}}`); err != nil {
		t.Fatal(err)
	}
	refused("its deletion", admin.Delete(t.Context(), g), "evergreens stay")
	refused("the deletion of all", admin.DeleteAllOf(t.Context(), &Garden{}, controller.InNamespace(ns)), "evergreens stay")
	// Elsewhere the webhooks have nothing to say.
	elsewhere := &Garden{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "free"}, Spec: GardenSpec{Note: "weeds"}}
	if err := admin.Create(t.Context(), elsewhere); err != nil {
		t.Error(err)
	}

	stop()
	if _, err := plant("late", "", 1); !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), fmt.Sprintf("failed calling webhook %q: failed to call webhook: Post ", "mutate."+group)) {
		t.Errorf("without the manager: %v", err)
	}
}
