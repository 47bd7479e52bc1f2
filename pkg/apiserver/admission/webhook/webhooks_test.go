package webhook

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	admissionv1 "k8s.io/api/admission/v1"
	v1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"skiff/pkg/api/catalogue"
	"skiff/pkg/apiserver/admission/match"
	"skiff/pkg/apiserver/authz"
	"skiff/pkg/apiserver/lookup"
	"skiff/pkg/apiserver/request"
)

var view36 = catalogue.Default().View()

// asked is a request to create a pod; its annotations and warnings are kept.
func asked() (*match.Request, map[string]string, *[]string) {
	annotations, warnings := map[string]string{}, &[]string{}
	a := &request.Attributes{
		Operation: request.Create, Kind: view36.ByKind(corev1.SchemeGroupVersion.WithKind("Pod")), Namespace: "shop", Name: "web",
		Object:   &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}},
		User:     &request.User{Name: "alice"},
		Warn:     func(text string) { *warnings = append(*warnings, text) },
		Annotate: func(key, value string) { annotations[key] = value },
	}
	return match.NewRequest(a, view36, lookup.NewFake()), annotations, warnings
}

type nobody struct{}

func (nobody) Authorize(context.Context, *request.User, *request.Info) authz.Verdict {
	return authz.Verdict{}
}

// server answers every review; it counts connections.
func server(t *testing.T, answer func(path string, r *admissionv1.AdmissionResponse)) (url string, ca []byte, connections *atomic.Int32) {
	t.Helper()
	connections = &atomic.Int32{}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review admissionv1.AdmissionReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			t.Error(err)
		}
		review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: true}
		answer(r.URL.Path, review.Response)
		review.Request = nil
		_ = json.NewEncoder(w).Encode(&review)
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), connections
}

func configuration(name, url string, ca []byte, hooks ...string) *v1.MutatingWebhookConfiguration {
	c := &v1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, h := range hooks {
		c.Webhooks = append(c.Webhooks, v1.MutatingWebhook{
			Name: h, ClientConfig: v1.WebhookClientConfig{URL: ptr.To(url + "/" + h), CABundle: ca},
			SideEffects: ptr.To(v1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"}, FailurePolicy: ptr.To(v1.Ignore),
			Rules: []v1.RuleWithOperations{{Operations: []v1.OperationType{"*"}, Rule: v1.Rule{APIGroups: []string{"*"}, APIVersions: []string{"*"}, Resources: []string{"*"}}}},
		})
	}
	return c
}

// running follows a fake cluster until the test ends.
func running(t *testing.T, cluster *lookup.Fake) *Webhooks {
	t.Helper()
	w := New(Config{Feed: cluster, Authorizer: nobody{}})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = w.Run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-ended })
	<-w.ready
	return w
}

func names(hooks []*hook) string {
	var all []string
	for _, h := range hooks {
		all = append(all, h.Name)
	}
	return strings.Join(all, " ")
}

func TestConfigurationsAreFollowed(t *testing.T) {
	cluster := lookup.NewFake(configuration("b", "https://b", nil, "b1", "b2"), configuration("a", "https://a", nil, "a1"))
	synctest.Test(t, func(t *testing.T) {
		w := running(t, cluster)
		if got := names(w.current.Load().mutating); got != "a1 b1 b2" {
			t.Error(got)
		}
		kept := w.current.Load().mutating[2]
		cluster.Put(configuration("b", "https://b", nil, "b2", "b0"))
		synctest.Wait()
		got := w.current.Load().mutating
		if names(got) != "a1 b2 b0" {
			t.Error(names(got))
		}
		one, err := kept.client()
		if other, _ := got[1].client(); err != nil || one != other {
			t.Errorf("%v, the client is another one", err)
		}
		silent := configuration("a", "https://a", nil, "a1")
		silent.Webhooks[0].Rules = nil
		cluster.Put(silent)
		cluster.Put(configuration("b", "https://b", nil))
		synctest.Wait()
		if w.Active() {
			t.Error("active without a webhook that can match")
		}
	})
}

// A write waits for what it doesn't know, but not for ever.
func TestNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _, _ := asked()
		err := New(Config{Feed: lookup.NewFake(), Authorizer: nobody{}}).Mutate(t.Context(), r)
		if !apierrors.IsForbidden(err) || err.Error() != `pods "web" is forbidden: not yet ready to handle request` {
			t.Error(err)
		}
	})
}

func TestAuditAndConnections(t *testing.T) {
	url, ca, connections := server(t, func(path string, r *admissionv1.AdmissionResponse) {
		r.AuditAnnotations = map[string]string{"saw": path}
		r.Warnings = []string{"from " + path}
		if path == "/changes" {
			r.Patch, r.PatchType = []byte(`[{"op":"add","path":"/metadata/labels","value":{"a":"b"}}]`), ptr.To(admissionv1.PatchTypeJSONPatch)
		}
	})
	cluster := lookup.NewFake(configuration("c", url, ca, "changes", "looks"), configuration("d", "https://127.0.0.1:0", ca, "gone"))
	w := running(t, cluster)
	for range 3 {
		r, annotations, warnings := asked()
		if err := w.Mutate(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		want := map[string]string{
			"mutation.webhook.admission.k8s.io/round_0_index_0":             `{"configuration":"c","webhook":"changes","mutated":true}`,
			"mutation.webhook.admission.k8s.io/round_0_index_1":             `{"configuration":"c","webhook":"looks","mutated":false}`,
			"mutation.webhook.admission.k8s.io/round_0_index_2":             `{"configuration":"d","webhook":"gone","mutated":false}`,
			"failed-open.mutation.webhook.admission.k8s.io/round_0_index_2": "gone",
			"changes/saw": "/changes", "looks/saw": "/looks",
		}
		if fmt.Sprint(annotations) != fmt.Sprint(want) {
			t.Errorf("%v", annotations)
		}
		if fmt.Sprint(*warnings) != "[from /changes from /looks]" || r.Object.(*corev1.Pod).Labels["a"] != "b" {
			t.Errorf("%v %+v", *warnings, r.Object)
		}
	}
	if got := connections.Load(); got != 2 { // one for each webhook
		t.Errorf("%d connections", got)
	}
}

// A request that is over is no failure to be ignored.
func TestRequestIsOver(t *testing.T) {
	url, ca, _ := server(t, func(string, *admissionv1.AdmissionResponse) {})
	w := running(t, lookup.NewFake(configuration("c", url, ca, "any")))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r, _, _ := asked()
	if err := w.Mutate(ctx, r); !apierrors.IsTimeout(err) {
		t.Error(err)
	}
}

func TestBrokenSelector(t *testing.T) {
	c := configuration("c", "https://c", nil, "broken")
	c.Webhooks[0].ObjectSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Is"}}}
	w := running(t, lookup.NewFake(c))
	r, _, _ := asked()
	if err := w.Mutate(t.Context(), r); !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), `"Is" is not a valid label selector operator`) {
		t.Error(err)
	}
}
