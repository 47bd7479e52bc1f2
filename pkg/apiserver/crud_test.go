package apiserver_test

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

func typed(t testing.TB, i *instance, contentType string) kubernetes.Interface {
	t.Helper()
	config := rest.CopyConfig(i.config)
	config.ContentType = contentType
	config.UserAgent = "tester/1"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func limited(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestTypedClient(t *testing.T) {
	i := start(t)
	for name, contentType := range map[string]string{"json": "application/json", "protobuf": "application/vnd.kubernetes.protobuf"} {
		t.Run(name, func(t *testing.T) { lifeOfAConfigMap(t, typed(t, i, contentType), "cm-"+name) })
	}
}

func lifeOfAConfigMap(t *testing.T, client kubernetes.Interface, name string) {
	ctx := limited(t)
	maps := client.CoreV1().ConfigMaps("default")
	w, err := maps.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	created, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"a": "b"}}, Data: map[string]string{"k": "1"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if created.UID == "" || created.ResourceVersion == "" || created.CreationTimestamp.IsZero() || len(created.ManagedFields) != 1 || created.ManagedFields[0].Manager != "tester" {
		t.Errorf("created %+v", created.ObjectMeta)
	}
	if _, err := maps.Create(ctx, created.DeepCopy(), metav1.CreateOptions{}); err == nil {
		t.Error("created twice")
	}
	list, err := maps.List(ctx, metav1.ListOptions{LabelSelector: "a=b"})
	if err != nil || len(list.Items) == 0 || list.ResourceVersion == "" {
		t.Fatalf("list %+v, %v", list, err)
	}
	stale := created.DeepCopy()
	created.Data["k"] = "2"
	updated, err := maps.Update(ctx, created, metav1.UpdateOptions{})
	if err != nil || updated.Data["k"] != "2" {
		t.Fatalf("updated %+v, %v", updated, err)
	}
	if _, err := maps.Update(ctx, stale, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("stale update: %v", err)
	}
	patched, err := maps.Patch(ctx, name, types.StrategicMergePatchType, []byte(`{"data":{"j":"3"}}`), metav1.PatchOptions{})
	if err != nil || patched.Data["j"] != "3" || patched.Data["k"] != "2" {
		t.Fatalf("patched %+v, %v", patched, err)
	}
	if err := maps.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := maps.Get(ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("get after deletion: %v", err)
	}
	var got []watch.EventType
	for event := range w.ResultChan() {
		if event.Type == watch.Bookmark {
			continue
		}
		if event.Type == watch.Error {
			t.Fatalf("watch: %+v", event.Object)
		}
		got = append(got, event.Type)
		if event.Type == watch.Deleted {
			break
		}
	}
	want := []watch.EventType{watch.Added, watch.Modified, watch.Modified, watch.Deleted}
	if len(got) != len(want) {
		t.Fatalf("events %v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("events %v, want %v", got, want)
		}
	}
}
