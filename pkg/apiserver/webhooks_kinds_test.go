package apiserver_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	v1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// What webhooks see on subresources is the body of that subresource.
func TestWebhooksOnSubresources(t *testing.T) {
	h := startHooked(t)
	ctx := limited(t)
	direct := h.direct(t)
	direct(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
	container := []corev1.Container{{Name: "c", Image: "i"}}
	for _, name := range []string{"free", "bound"} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PodSpec{Containers: container}}
		if name == "bound" {
			pod.Spec.NodeName = "n1"
		}
		direct(pod)
	}
	deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "d"}, Spec: appsv1.DeploymentSpec{
		Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: corev1.PodSpec{Containers: container}},
	}}
	if _, err := h.client.AppsV1().Deployments("default").Create(ctx, deployment, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	h.answer("/sub", deny("no"))
	h.validating(t, "sub", h.hook("/sub", "* */*/*/*", func(hook *v1.MutatingWebhook) {
		hook.MatchConditions = []v1.MatchCondition{{Name: "sub", Expression: `has(request.subResource) || request.resource.resource == "bindings"`}}
	}))
	pods := h.client.CoreV1().Pods("default")
	binding := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "free"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n1"}}
	connect := func(path string) func() error {
		return func() error {
			_, _, body := raw(t, h.instance, "POST", "/api/v1/"+path, "", "")
			var status metav1.Status
			if err := json.Unmarshal(body, &status); err != nil {
				return err
			}
			return fmt.Errorf("%s", status.Message)
		}
	}
	for _, c := range []struct {
		name, operation, resource, kind string
		object                          string // a part of it
		do                              func() error
	}{
		{"scale", "UPDATE", "deployments/scale", "autoscaling/v1 Scale", `"replicas":3`, func() error {
			_, err := h.client.AppsV1().Deployments("default").UpdateScale(ctx, "d", &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: "d", Namespace: "default"}, Spec: autoscalingv1.ScaleSpec{Replicas: 3}}, metav1.UpdateOptions{})
			return err
		}},
		{"status", "UPDATE", "pods/status", "/v1 Pod", `"phase":"Failed"`, func() error {
			_, err := pods.Patch(ctx, "bound", types.MergePatchType, []byte(`{"status":{"phase":"Failed"}}`), metav1.PatchOptions{}, "status")
			return err
		}},
		{"binding", "CREATE", "pods/binding", "/v1 Binding", `"name":"n1"`, func() error { return pods.Bind(ctx, binding, metav1.CreateOptions{}) }},
		{"bindings", "CREATE", "bindings/", "/v1 Binding", `"name":"n1"`, func() error {
			return h.client.CoreV1().RESTClient().Post().Namespace("default").Resource("bindings").Body(binding).Do(ctx).Error()
		}},
		{"eviction", "CREATE", "pods/eviction", "policy/v1 Eviction", `"name":"bound"`, func() error {
			return pods.EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "bound"}})
		}},
		{"exec", "CONNECT", "pods/exec", "/v1 PodExecOptions", `"command":["sh"]`, connect("namespaces/default/pods/bound/exec?command=sh&stdout=true")},
		{"attach", "CONNECT", "pods/attach", "/v1 PodAttachOptions", `"stdin":true`, connect("namespaces/default/pods/bound/attach?stdin=true")},
		{"portforward", "CONNECT", "pods/portforward", "/v1 PodPortForwardOptions", `"ports":[80]`, connect("namespaces/default/pods/bound/portforward?ports=80")},
		{"pod proxy", "CONNECT", "pods/proxy", "/v1 PodProxyOptions", `"path":"/x"`, connect("namespaces/default/pods/bound/proxy/x")},
		{"node proxy", "CONNECT", "nodes/proxy", "/v1 NodeProxyOptions", `"path":"/x"`, connect("nodes/n1/proxy/x")},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.do(); err == nil || !strings.HasSuffix(err.Error(), `"sub.hooks.example" denied the request: no`) {
				t.Fatal(err)
			}
			asked := h.last(t, "/sub")
			gvk := asked.Kind.Group + "/" + asked.Kind.Version + " " + asked.Kind.Kind
			if got := asked.Resource.Resource + "/" + asked.SubResource; got != c.resource || gvk != c.kind || string(asked.Operation) != c.operation {
				t.Errorf("%s %s %s", asked.Operation, got, gvk)
			}
			var object metav1.TypeMeta
			if err := json.Unmarshal(asked.Object.Raw, &object); err != nil || object.Kind != asked.Kind.Kind || !strings.Contains(string(asked.Object.Raw), c.object) {
				t.Errorf("%v %s", err, asked.Object.Raw)
			}
			if c.operation == "UPDATE" && !strings.Contains(string(asked.OldObject.Raw), `"kind":"`+object.Kind+`"`) {
				t.Errorf("%s", asked.OldObject.Raw)
			}
		})
	}
	t.Run("a scale is changed", func(t *testing.T) {
		h.answer("/sub", allow)
		h.answer("/scale", patch(`[{"op":"replace","path":"/spec/replicas","value":7}]`))
		h.mutating(t, "scale", h.hook("/scale", "UPDATE apps/v1/deployments/scale"))
		scale, err := h.client.AppsV1().Deployments("default").UpdateScale(ctx, "d", &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: "d", Namespace: "default"}, Spec: autoscalingv1.ScaleSpec{Replicas: 3}}, metav1.UpdateOptions{})
		if err != nil || scale.Spec.Replicas != 7 {
			t.Errorf("%v %+v", err, scale)
		}
	})
}

// Custom resources are seen in the version that the webhook's rule names, and what it makes of them stays within the schema.
func TestWebhooksOnCustomResources(t *testing.T) {
	h := startHooked(t)
	ctx := limited(t)
	h.define(t, hosts("{strategy: None}"))
	v2 := h.of("test.example.com", "v2", "hosts", "default")
	h.answer("/crd", patch(`[{"op":"add","path":"/one","value":"hook"},{"op":"add","path":"/unknown","value":"x"},{"op":"add","path":"/metadata/labels","value":{"by":"hook"}}]`))
	h.mutating(t, "crd", h.hook("/crd", "CREATE test.example.com/v1/hosts"))
	made, err := v2.Create(ctx, object(t, `{apiVersion: test.example.com/v2, kind: Host, metadata: {name: a}, host: h}`), metav1.CreateOptions{})
	if err != nil || made.GetAPIVersion() != "test.example.com/v2" || made.GetLabels()["by"] != "hook" || made.Object["unknown"] != nil {
		t.Fatalf("%v %v", err, made)
	}
	asked := h.last(t, "/crd")
	if asked.Kind.Version != "v1" || asked.Resource.Version != "v1" || asked.RequestKind.Version != "v2" || asked.RequestResource.Version != "v2" ||
		!strings.Contains(string(asked.Object.Raw), `"apiVersion":"test.example.com/v1"`) {
		t.Errorf("%+v %s", asked, asked.Object.Raw)
	}
	h.answer("/crd-rules", func(r *admissionv1.AdmissionReview) {
		if strings.Contains(string(r.Request.Object.Raw)+string(r.Request.OldObject.Raw), `"by":"hook"`) {
			deny("kept as it is")(r)
		}
	})
	h.validating(t, "crd-rules", h.hook("/crd-rules", "UPDATE DELETE test.example.com/v2/hosts"))
	if _, err := v2.Patch(ctx, "a", types.MergePatchType, []byte(`{"two":"other"}`), metav1.PatchOptions{}); err == nil || !strings.HasSuffix(err.Error(), "kept as it is") {
		t.Error(err)
	}
	if err := v2.Delete(ctx, "a", metav1.DeleteOptions{}); err == nil || !strings.HasSuffix(err.Error(), "kept as it is") {
		t.Error(err)
	}
	t.Run("exactly", func(t *testing.T) {
		h.answer("/exact", deny("asked"))
		h.validating(t, "exact", h.hook("/exact", "CREATE test.example.com/v1/hosts", func(hook *v1.MutatingWebhook) { hook.MatchPolicy = ptr.To(v1.Exact) }))
		if _, err := v2.Create(ctx, object(t, `{apiVersion: test.example.com/v2, kind: Host, metadata: {name: b}, host: g}`), metav1.CreateOptions{}); err != nil {
			t.Error(err)
		}
	})
	t.Run("definitions themselves", func(t *testing.T) {
		h.answer("/definitions", deny("no more"))
		h.validating(t, "definitions", h.hook("/definitions", "CREATE apiextensions.k8s.io/v1/customresourcedefinitions"))
		_, err := h.crds.ApiextensionsV1().CustomResourceDefinitions().Create(ctx, readCRD(t, simple("Other", "{type: object}")), metav1.CreateOptions{})
		if err == nil || !strings.HasSuffix(err.Error(), "no more") {
			t.Error(err)
		}
	})
}

// A server that has just started knows its webhooks before it lets a write pass.
func TestWebhooksFromTheStart(t *testing.T) {
	h := startHooked(t)
	h.answer("/start", deny("known"))
	h.validating(t, "start", h.hook("/start", "CREATE /v1/configmaps"))
	second := over(t, h.etcd, securedForAll(t))
	_, err := typed(t, second, "application/json").CoreV1().ConfigMaps("default").Create(limited(t), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, metav1.CreateOptions{})
	if err == nil || !strings.HasSuffix(err.Error(), "known") {
		t.Error(err)
	}
}
