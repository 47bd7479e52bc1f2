package apiserver_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	v1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1apply "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/utils/ptr"
)

func TestMutatingWebhooks(t *testing.T) {
	h := startHooked(t)
	t.Run("one after the other, by name", func(t *testing.T) {
		h.answer("/b-one", patch(`[{"op":"add","path":"/data/b-one","value":"1"}]`))
		h.answer("/b-two", patch(`[{"op":"test","path":"/data/b-one","value":"1"},{"op":"add","path":"/data/b-two","value":"2"}]`))
		h.answer("/a", patch(`[{"op":"add","path":"/data","value":{"a":"0"}}]`))
		h.mutating(t, "b", h.hook("/b-one", "CREATE /v1/configmaps"), h.hook("/b-two", "CREATE /v1/configmaps"))
		h.mutating(t, "a", h.hook("/a", "CREATE /v1/configmaps"))
		made, err := h.configMap(t, "ordered", nil)
		if err != nil || fmt.Sprint(made.Data) != "map[a:0 b-one:1 b-two:2]" {
			t.Fatalf("%v %v", err, made)
		}
		if got := h.calls(); got != "/a /b-one /b-two" {
			t.Error(got)
		}
		if asked := h.last(t, "/b-two"); !strings.Contains(string(asked.Object.Raw), `"b-one":"1"`) {
			t.Errorf("%s", asked.Object.Raw)
		}
	})
	t.Run("again, if another one changes what it has seen", func(t *testing.T) {
		again := func(hook *v1.MutatingWebhook) { hook.ReinvocationPolicy = ptr.To(v1.IfNeededReinvocationPolicy) }
		h.answer("/first", allow)
		h.answer("/once", allow)
		h.answer("/changes", patch(`[{"op":"add","path":"/data","value":{"changed":"yes"}}]`))
		h.answer("/last", allow)
		h.mutating(t, "again", h.hook("/first", "CREATE /v1/configmaps", again), h.hook("/once", "CREATE /v1/configmaps"),
			h.hook("/changes", "CREATE /v1/configmaps"), h.hook("/last", "CREATE /v1/configmaps", again))
		if _, err := h.configMap(t, "again", nil); err != nil {
			t.Fatal(err)
		}
		if got := h.calls(); got != "/first /once /changes /last /first" {
			t.Error(got)
		}
	})
	t.Run("a pod gets defaults and plugins once more", func(t *testing.T) {
		h.answer("/pod", patch(`[{"op":"add","path":"/spec/initContainers","value":[{"name":"added","image":"i"}]}]`))
		h.mutating(t, "pods", h.hook("/pod", "CREATE /v1/pods"))
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
		made, err := h.client.CoreV1().Pods("default").Create(limited(t), pod, metav1.CreateOptions{})
		if err != nil || len(made.Spec.InitContainers) != 1 {
			t.Fatalf("%v %v", err, made)
		}
		if added := made.Spec.InitContainers[0]; added.TerminationMessagePolicy != corev1.TerminationMessageReadFile || len(added.VolumeMounts) != 1 {
			t.Errorf("%+v", added)
		}
	})
	t.Run("what is sent and what is stored", func(t *testing.T) {
		h.answer("/sees", func(r *admissionv1.AdmissionReview) {
			if r.Request.Operation == "CREATE" {
				patch(`[{"op":"add","path":"/data/by","value":"hook"},{"op":"add","path":"/metadata/uid","value":"mine"},{"op":"add","path":"/metadata/deletionTimestamp","value":"2026-01-01T00:00:00Z"}]`)(r)
			}
		})
		h.mutating(t, "sees", h.hook("/sees", "CREATE UPDATE /v1/configmaps"))
		made, err := h.configMap(t, "sees", map[string]string{"k": "v"})
		if err != nil || made.Data["by"] != "hook" || made.UID == "mine" || made.DeletionTimestamp != nil {
			t.Fatalf("%v %+v", err, made)
		}
		asked := h.last(t, "/sees")
		if asked.Kind.Kind != "ConfigMap" || asked.Resource.Resource != "configmaps" || asked.RequestKind.Version != "v1" || asked.Name != "sees" || asked.Namespace != "default" ||
			asked.Operation != "CREATE" || asked.UserInfo.Username != "admin" || *asked.DryRun || !strings.Contains(string(asked.Options.Raw), `"kind":"CreateOptions"`) || asked.OldObject.Raw != nil {
			t.Errorf("%+v", asked)
		}
		var seen corev1.ConfigMap
		if err := json.Unmarshal(asked.Object.Raw, &seen); err != nil || seen.Kind != "ConfigMap" || seen.APIVersion != "v1" {
			t.Errorf("%v %s", err, asked.Object.Raw)
		}
		configuration := corev1apply.ConfigMap("sees", "default").WithData(map[string]string{"k": "w"})
		applied, err := h.client.CoreV1().ConfigMaps("default").Apply(limited(t), configuration, metav1.ApplyOptions{FieldManager: "applier", Force: true})
		if err != nil || applied.Data["by"] != "hook" || applied.Data["k"] != "w" {
			t.Fatalf("%v %+v", err, applied)
		}
		asked = h.last(t, "/sees")
		if asked.Operation != "UPDATE" || !strings.Contains(string(asked.OldObject.Raw), `"k":"v"`) || !strings.Contains(string(asked.Object.Raw), `"k":"w"`) ||
			!strings.Contains(string(asked.Options.Raw), `"kind":"UpdateOptions"`) || asked.Name != "sees" {
			t.Errorf("%+v", asked)
		}
		owners := map[string]string{}
		for _, m := range applied.ManagedFields {
			owners[m.Manager] = m.FieldsV1.String()
		}
		if !strings.Contains(owners["applier"], `"f:k"`) || strings.Contains(owners["applier"], `"f:by"`) {
			t.Errorf("%v", owners)
		}
	})
	t.Run("who owns a field is not a webhook's to destroy", func(t *testing.T) {
		h.answer("/owners", patch(`[{"op":"replace","path":"/metadata/managedFields","value":[{"manager":"x","operation":"nonsense"}]}]`))
		h.mutating(t, "owners", h.hook("/owners", "CREATE /v1/configmaps"))
		made, err := h.configMap(t, "owners", map[string]string{"k": "v"})
		if err != nil || len(made.ManagedFields) != 1 || made.ManagedFields[0].Manager != "tester" {
			t.Errorf("%v %+v", err, made.ManagedFields)
		}
	})
	t.Run("another namespace", func(t *testing.T) {
		h.answer("/moves", patch(`[{"op":"replace","path":"/metadata/namespace","value":"kube-system"}]`))
		h.mutating(t, "moves", h.hook("/moves", "CREATE /v1/configmaps"))
		if made, err := h.configMap(t, "moves", nil); err == nil || !apierrors.IsBadRequest(err) {
			t.Errorf("%v %+v", err, made)
		}
	})
	for name, c := range map[string]struct {
		answer func(*admissionv1.AdmissionReview)
		want   string
	}{
		"no answer":          {func(r *admissionv1.AdmissionReview) { r.Response = nil }, "received invalid webhook response: webhook response was absent"},
		"another's answer":   {func(r *admissionv1.AdmissionReview) { r.Response.UID = "x" }, `received invalid webhook response: expected response.uid="`},
		"another version":    {func(r *admissionv1.AdmissionReview) { r.APIVersion = "admission.k8s.io/v2" }, `failed to call webhook: no kind "AdmissionReview" is registered for version "admission.k8s.io/v2"`},
		"a patch of no type": {func(r *admissionv1.AdmissionReview) { r.Response.Patch = []byte("[]") }, "received invalid webhook response: webhook returned response.patch but not response.patchType"},
		"a type of no patch": {func(r *admissionv1.AdmissionReview) { r.Response.PatchType = ptr.To(admissionv1.PatchTypeJSONPatch) }, "received invalid webhook response: webhook returned response.patchType but not response.patch"},
		"not a patch":        {patch("{"), "received undecodable patch in webhook response: "},
		"nobody there":       {nil, "failed to call webhook: the server could not find the requested resource"},
		"a patch of other type": {func(r *admissionv1.AdmissionReview) {
			patch(`[{"op":"remove","path":"/data"}]`)(r)
			*r.Response.PatchType = "Merge"
		}, `unsupported patch type "Merge"`},
	} {
		t.Run(name, func(t *testing.T) {
			h.answer("/broken", c.answer)
			h.mutating(t, "broken", h.hook("/broken", "CREATE /v1/configmaps"))
			_, err := h.configMap(t, "broken", nil)
			if want := `Internal error occurred: failed calling webhook "broken.hooks.example": ` + c.want; err == nil || !strings.HasPrefix(err.Error(), want) || !apierrors.IsInternalError(err) {
				t.Errorf("%v\nwant %s", err, want)
			}
		})
	}
	t.Run("a patch that doesn't fit", func(t *testing.T) {
		h.answer("/broken", patch(`[{"op":"remove","path":"/nothing/here"}]`))
		h.mutating(t, "broken", h.hook("/broken", "CREATE /v1/configmaps", func(hook *v1.MutatingWebhook) { hook.FailurePolicy = ptr.To(v1.Ignore) }))
		if _, err := h.configMap(t, "broken", nil); !apierrors.IsInternalError(err) {
			t.Error(err)
		}
	})
}

func TestValidatingWebhooks(t *testing.T) {
	h := startHooked(t)
	t.Run("denials", func(t *testing.T) {
		h.validating(t, "denies", h.hook("/denies", "CREATE /v1/configmaps"))
		for _, c := range []struct {
			result *metav1.Status
			want   string
			code   int32
		}{
			{&metav1.Status{Message: "you shall not pass"}, `admission webhook "denies.hooks.example" denied the request: you shall not pass`, 400},
			{&metav1.Status{Reason: "Because", Code: 403}, `admission webhook "denies.hooks.example" denied the request: Because`, 403},
			{&metav1.Status{Code: 200, Status: "Success"}, `admission webhook "denies.hooks.example" denied the request without explanation`, 400},
			{nil, `admission webhook "denies.hooks.example" denied the request without explanation`, 400},
		} {
			h.answer("/denies", func(r *admissionv1.AdmissionReview) {
				r.Response.Allowed, r.Response.Result = false, c.result
				r.Response.Warnings = []string{"beware"}
			})
			code, header, body := raw(t, h.instance, "POST", "/api/v1/namespaces/default/configmaps", "application/json", `{"metadata":{"name":"x"}}`)
			var status metav1.Status
			if err := json.Unmarshal(body, &status); err != nil || code != int(c.code) || status.Message != c.want || status.Status != metav1.StatusFailure || status.Code != c.code {
				t.Errorf("%v %d %s, want %s", err, code, body, c.want)
			}
			if got := header.Get("Warning"); got != `299 - "beware"` {
				t.Errorf("%q", got)
			}
		}
	})
	t.Run("all are asked", func(t *testing.T) {
		h.answer("/one", deny("one"))
		h.answer("/two", deny("two"))
		h.validating(t, "both", h.hook("/one", "CREATE /v1/configmaps"), h.hook("/two", "CREATE /v1/configmaps"))
		_, err := h.configMap(t, "both", nil)
		if err == nil || !strings.HasSuffix(err.Error(), "denied the request: one") {
			t.Error(err)
		}
		if got := h.calls(); got != "/one /two" && got != "/two /one" {
			t.Error(got)
		}
	})
	t.Run("it may not change anything", func(t *testing.T) {
		h.answer("/patches", patch(`[{"op":"remove","path":"/data"}]`))
		h.validating(t, "patches", h.hook("/patches", "CREATE /v1/configmaps"))
		if _, err := h.configMap(t, "patches", nil); err == nil || !strings.Contains(err.Error(), "validating webhook may not return response.patch") {
			t.Error(err)
		}
	})
	t.Run("v1beta1", func(t *testing.T) {
		h.answer("/old", func(r *admissionv1.AdmissionReview) {
			if r.APIVersion != "admission.k8s.io/v1beta1" || r.Request.Kind.Kind != "ConfigMap" {
				deny("wrong question")(r)
			}
			r.TypeMeta, r.Response.UID = metav1.TypeMeta{}, "" // which nobody asked for
		})
		h.validating(t, "old", h.hook("/old", "CREATE /v1/configmaps", func(hook *v1.MutatingWebhook) { hook.AdmissionReviewVersions = []string{"v7", "v1beta1", "v1"} }))
		if _, err := h.configMap(t, "old", nil); err != nil {
			t.Error(err)
		}
	})
	t.Run("match conditions", func(t *testing.T) {
		h.answer("/conditional", deny("it matches"))
		h.validating(t, "conditional", h.hook("/conditional", "CREATE /v1/configmaps", func(hook *v1.MutatingWebhook) {
			hook.MatchConditions = []v1.MatchCondition{
				{Name: "not-skipped", Expression: `object.metadata.name != "skip-me"`},
				{Name: "no-error", Expression: `object.metadata.name != "error" || object.nonsense == 1`},
				{Name: "rights", Expression: `authorizer.group("").resource("secrets").check("get").allowed()`},
			}
		}))
		if _, err := h.configMap(t, "skip-me", nil); err != nil {
			t.Error(err)
		}
		if _, err := h.configMap(t, "taken", nil); err == nil || !strings.HasSuffix(err.Error(), "it matches") {
			t.Error(err)
		}
		if _, err := h.configMap(t, "error", nil); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `configmaps "error" is forbidden: expression 'object.metadata.name != "error" || object.nonsense == 1' resulted in error: no such key: nonsense`) {
			t.Error(err)
		}
		if got := h.calls(); got != "/conditional" {
			t.Error(got)
		}
	})
	t.Run("namespaces", func(t *testing.T) {
		for _, name := range []string{"inside", "outside"} {
			namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"where": name}}}
			if _, err := h.client.CoreV1().Namespaces().Create(limited(t), namespace, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		h.answer("/namespaced", deny("inside"))
		h.validating(t, "namespaced", h.hook("/namespaced", "CREATE /v1/secrets", func(hook *v1.MutatingWebhook) {
			hook.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"where": "inside"}}
		}))
		for name, refused := range map[string]bool{"inside": true, "outside": false, "default": false} {
			secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}}
			if _, err := h.client.CoreV1().Secrets(name).Create(limited(t), secret, metav1.CreateOptions{}); (err != nil) != refused {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
	t.Run("deletion, also of many", func(t *testing.T) {
		for _, name := range []string{"keep", "drop"} {
			if _, err := h.configMap(t, name, map[string]string{"name": name}); err != nil {
				t.Fatal(err)
			}
		}
		h.answer("/deletes", func(r *admissionv1.AdmissionReview) {
			if r.Request.Object.Raw != nil || !strings.Contains(string(r.Request.OldObject.Raw), `"name":"drop"`) || !strings.Contains(string(r.Request.Options.Raw), "DeleteOptions") {
				deny("kept")(r)
			}
		})
		h.validating(t, "deletes", h.hook("/deletes", "DELETE /v1/configmaps"))
		configMaps := h.client.CoreV1().ConfigMaps("default")
		if err := configMaps.Delete(limited(t), "keep", metav1.DeleteOptions{}); err == nil || !strings.HasSuffix(err.Error(), "denied the request: kept") {
			t.Error(err)
		}
		if err := configMaps.DeleteCollection(limited(t), metav1.DeleteOptions{}, metav1.ListOptions{FieldSelector: "metadata.name=drop"}); err != nil {
			t.Error(err)
		}
		if err := configMaps.DeleteCollection(limited(t), metav1.DeleteOptions{}, metav1.ListOptions{FieldSelector: "metadata.name=keep"}); err == nil {
			t.Error("deleted as one of many")
		}
	})
	t.Run("nobody can be locked out", func(t *testing.T) {
		h.answer("/greedy", deny("mine"))
		h.validating(t, "greedy", h.hook("/greedy", "* */*/*/*", func(hook *v1.MutatingWebhook) {
			hook.MatchConditions = []v1.MatchCondition{{Name: "mark", Expression: `request.resource.group == "admissionregistration.k8s.io"`}}
		}))
		h.mutating(t, "victim")
		if err := h.client.AdmissionregistrationV1().MutatingWebhookConfigurations().Delete(limited(t), "victim", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
		if got := h.calls(); got != "" {
			t.Error(got)
		}
	})
}

func TestWebhooksThatFail(t *testing.T) {
	h := startHooked(t)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nowhere := "https://" + closed.Addr().String() + "/x"
	closed.Close()
	ignore := func(hook *v1.MutatingWebhook) { hook.FailurePolicy = ptr.To(v1.Ignore) }
	unreachable := func(hook *v1.MutatingWebhook) { hook.ClientConfig.URL = &nowhere }
	hanging := func(hook *v1.MutatingWebhook) { hook.TimeoutSeconds = ptr.To[int32](1) }
	stranger := func(hook *v1.MutatingWebhook) {
		_, _, hook.ClientConfig.CABundle = certificates(t)
	}
	released := make(chan struct{})
	h.answer("/slow", func(*admissionv1.AdmissionReview) { <-released })
	t.Cleanup(func() { close(released) })
	for _, configure := range []func(testing.TB, string, ...v1.MutatingWebhook){h.mutating, h.validating} {
		for _, c := range []struct {
			change func(*v1.MutatingWebhook)
			want   string
		}{
			{unreachable, `failed to call webhook: Post "` + nowhere + `?timeout=10s": dial tcp`},
			{hanging, `failed to call webhook: Post "` + h.hooks.URL + `/slow?timeout=1s": context deadline exceeded`},
			{stranger, `failed to call webhook: Post "` + h.hooks.URL + `/slow?timeout=10s": tls: failed to verify certificate: x509`},
		} {
			t.Run("refused", func(t *testing.T) {
				configure(t, "fails", h.hook("/slow", "CREATE /v1/configmaps", c.change))
				_, err := h.configMap(t, "refused", nil)
				if want := `Internal error occurred: failed calling webhook "slow.hooks.example": ` + c.want; !apierrors.IsInternalError(err) || !strings.HasPrefix(err.Error(), want) {
					t.Errorf("%v\nwant %s", err, want)
				}
			})
			t.Run("ignored", func(t *testing.T) {
				configure(t, "ignored", h.hook("/slow", "CREATE /v1/configmaps", c.change, ignore))
				if _, err := h.client.CoreV1().ConfigMaps("default").Create(limited(t), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "ignored-"}}, metav1.CreateOptions{}); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// A service is reached under its own name, and known by it.
func TestWebhookService(t *testing.T) {
	h := startHooked(t)
	_, text, _ := net.SplitHostPort(h.hooks.Listener.Addr().String())
	port, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "hooks"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "127.0.0.1"}}
	if _, err := h.client.CoreV1().Services("default").Create(limited(t), service, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	h.answer("/service", allow)
	for name, want := range map[string]string{
		"hooks":   fmt.Sprintf(`failed to call webhook: Post "https://hooks.default.svc:%d/service?timeout=10s": tls: failed to verify certificate: x509: certificate is not valid for any names, but wanted to match hooks.default.svc`, port),
		"missing": fmt.Sprintf(`failed to call webhook: Post "https://missing.default.svc:%d/service?timeout=10s": service "missing" not found`, port),
	} {
		t.Run(name, func(t *testing.T) {
			h.validating(t, "by-service", h.hook("/service", "CREATE /v1/configmaps", func(hook *v1.MutatingWebhook) {
				hook.ClientConfig = v1.WebhookClientConfig{CABundle: h.ca, Service: &v1.ServiceReference{
					Namespace: "default", Name: name, Path: ptr.To("/service"), Port: ptr.To(int32(port)),
				}}
			}))
			_, err := h.configMap(t, "by-service", nil)
			if err == nil || !strings.HasSuffix(err.Error(), want) {
				t.Errorf("%v\nwant %s", err, want)
			}
		})
	}
}

// Webhooks with side effects are older than the rule that they may have none, and are not asked on a dry run.
func TestWebhookSideEffects(t *testing.T) {
	h := startHooked(t)
	h.answer("/effects", allow)
	hook := h.hook("/effects", "CREATE /v1/configmaps", func(hook *v1.MutatingWebhook) { hook.SideEffects = ptr.To(v1.SideEffectClassSome) })
	h.direct(t)(&v1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "effects"}, Webhooks: []v1.MutatingWebhook{hook}})
	dry := func() error {
		obj := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "dry"}}
		_, err := h.client.CoreV1().ConfigMaps("default").Create(limited(t), obj, metav1.CreateOptions{DryRun: []string{"All"}})
		return err
	}
	eventually(t, func(context.Context) (bool, error) { return dry() != nil, nil })
	if err := dry(); !apierrors.IsBadRequest(err) || err.Error() != `admission webhook "effects.hooks.example" does not support dry run` {
		t.Error(err)
	}
	if got := h.calls(); got != "" {
		t.Error(got)
	}
	if _, err := h.configMap(t, "wet", nil); err != nil || h.calls() != "/effects" {
		t.Error(err)
	}
	if err := h.client.AdmissionregistrationV1().MutatingWebhookConfigurations().Delete(limited(t), "effects", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	h.answer("/none", func(r *admissionv1.AdmissionReview) {
		if *r.Request.DryRun {
			deny("asked")(r)
		}
	})
	h.validating(t, "none", h.hook("/none", "CREATE /v1/secrets"))
	_, err := h.client.CoreV1().Secrets("default").Create(limited(t), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "dry"}}, metav1.CreateOptions{DryRun: []string{"All"}})
	if err == nil || !strings.HasSuffix(err.Error(), "asked") {
		t.Error(err)
	}
}
