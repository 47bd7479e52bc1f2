package api

import (
	"bytes"
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// A custom resource goes through the same lifecycle as a Go type.
func TestCustomResources(t *testing.T) {
	k := DefineCustom(schema.GroupVersionKind{Group: "x", Version: "v1", Kind: "X"}, "xs", Kind{
		HasGeneration: true,
		Subresources:  map[string]*Subresource{"status": StatusView()},
		Custom:        &Custom{},
	})
	if k.StoragePath != "x/xs" || k.Singular != "x" || k.NewList().GetObjectKind().GroupVersionKind().Kind != "XList" {
		t.Errorf("%+v", k)
	}
	load := func(text string) *unstructured.Unstructured {
		obj, err := DecodeStored(k, []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return obj.(*unstructured.Unstructured)
	}
	ctx := context.Background()
	const head = `{"apiVersion":"x/v1","kind":"X","metadata":{"name":"a"},`
	obj := load(head + `"spec":{"n":1},"status":{"ok":true}}`)
	k.PrepareCreate(ctx, obj)
	if obj.Object["status"] != nil || obj.GetGeneration() != 1 {
		t.Errorf("created as %v", obj.Object)
	}

	next := load(head + `"spec":{"n":2},"data":5,"status":{"ok":true}}`)
	k.PrepareUpdate(ctx, next, obj)
	if next.Object["status"] != nil || next.GetGeneration() != 2 {
		t.Errorf("updated to %v", next.Object)
	}
	same := next.DeepCopy()
	same.SetLabels(map[string]string{"a": "b"})
	k.PrepareUpdate(ctx, same, next)
	if same.GetGeneration() != 2 {
		t.Errorf("a label raised the generation: %v", same.Object)
	}
	fewer := next.DeepCopy()
	delete(fewer.Object, "data")
	k.PrepareUpdate(ctx, fewer, next)
	if fewer.GetGeneration() != 3 {
		t.Errorf("a field that went didn't raise the generation: %v", fewer.Object)
	}

	status := load(head + `"spec":{"n":9},"status":{"ok":false}}`)
	k.Subresources["status"].PrepareForUpdate(ctx, status, next)
	n, _, _ := unstructured.NestedInt64(status.Object, "spec", "n")
	if n != 2 || status.Object["data"] == nil || status.Object["status"] == nil || status.GetGeneration() != 2 {
		t.Errorf("status written as %v", status.Object)
	}
	value, err := EncodeStored(k, status)
	if err != nil {
		t.Fatal(err)
	}
	if again := load(string(value)); again.GetName() != "a" || again.Object["data"] != int64(5) {
		t.Errorf("stored %s", value)
	}

	// The definition stores another version by now.
	status.SetAPIVersion("x/v0")
	if value, err := EncodeStored(k, status); err != nil || !bytes.Contains(value, []byte(`"apiVersion":"x/v0"`)) {
		t.Errorf("an object of v0 is stored as %s, %v", value, err)
	}
}

func TestStatusIsNobodysButItsOwn(t *testing.T) {
	k := Define[corev1.Service, corev1.ServiceList](corev1.SchemeGroupVersion, "services",
		Kind{Subresources: map[string]*Subresource{"status": StatusView()}})
	ctx := context.Background()
	old := &corev1.Service{Spec: corev1.ServiceSpec{ClusterIP: "10.0.0.1"}}
	old.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "1.1.1.1"}}

	created := old.DeepCopy()
	k.PrepareCreate(ctx, created)
	if len(created.Status.LoadBalancer.Ingress) != 0 || created.Generation != 0 {
		t.Errorf("created with %+v", created)
	}
	updated := &corev1.Service{Spec: corev1.ServiceSpec{ClusterIP: "10.0.0.2"}}
	k.PrepareUpdate(ctx, updated, old)
	if len(updated.Status.LoadBalancer.Ingress) != 1 || updated.Spec.ClusterIP != "10.0.0.2" {
		t.Errorf("updated to %+v", updated)
	}
	k.Subresources["status"].PrepareForUpdate(ctx, updated, old)
	if updated.Spec.ClusterIP != "10.0.0.1" {
		t.Errorf("status changed the spec: %+v", updated.Spec)
	}

	k.KeepsStatusOnCreate = true
	kept := old.DeepCopy()
	k.PrepareCreate(ctx, kept)
	if len(kept.Status.LoadBalancer.Ingress) != 1 {
		t.Error("the status went, though the kind keeps it")
	}
}

// Encoding an object leaves it as it was, even when it fails.
func TestEncodingRestoresTheObject(t *testing.T) {
	k := Define[corev1.ConfigMap, corev1.ConfigMapList](corev1.SchemeGroupVersion, "configmaps", Kind{})
	obj := &corev1.ConfigMap{}
	obj.ResourceVersion, obj.SelfLink = "7", "/x"
	value, err := EncodeStored(k, obj)
	if err != nil {
		t.Fatal(err)
	}
	if obj.ResourceVersion != "7" || obj.SelfLink != "/x" || obj.Kind != "" {
		t.Errorf("the object is %+v now", obj)
	}
	var unknown runtime.Unknown
	if err := unknown.Unmarshal(value[len(envelope):]); err != nil || unknown.Kind != "ConfigMap" || unknown.APIVersion != "v1" {
		t.Errorf("envelope %+v, %v", unknown.TypeMeta, err)
	}
}
