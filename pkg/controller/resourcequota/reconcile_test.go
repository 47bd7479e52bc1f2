package resourcequota

import (
	"fmt"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	fakediscovery "k8s.io/client-go/discovery/fake"
	fakemetadata "k8s.io/client-go/metadata/fake"

	"skiff/pkg/api/quota"
	"skiff/pkg/controller/controllertest"
)

func list(pairs ...string) v1.ResourceList {
	l := v1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		l[v1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return l
}

func TestDecide(t *testing.T) {
	secrets := quota.Content{Resource: schema.GroupResource{Resource: "secrets"}, Number: 3}
	q := &v1.ResourceQuota{Spec: v1.ResourceQuotaSpec{Hard: list("secrets", "5", "count/gone.example.com", "2")}}
	p := Decide(Snapshot{Quota: q, Contents: []quota.Content{secrets}})
	if p.Write == nil || !p.Limits || !same(p.Write.Status.Hard, q.Spec.Hard) || !same(p.Write.Status.Used, list("secrets", "3")) {
		t.Fatalf("%+v", p)
	}
	q = p.Write
	q.Status.Used["count/gone.example.com"] = resource.MustParse("1")
	q.Status.Used["cpu"] = resource.MustParse("1") // no longer limited
	secrets.Number = 2
	p = Decide(Snapshot{Quota: q, Contents: []quota.Content{secrets}})
	if p.Write == nil || p.Limits || !same(p.Write.Status.Used, list("secrets", "2", "count/gone.example.com", "1")) {
		t.Errorf("%+v", p)
	}
	if p := Decide(Snapshot{Quota: p.Write, Contents: []quota.Content{secrets}}); p.Write != nil {
		t.Errorf("%+v", p)
	}
}

func widget(name string) *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{
		TypeMeta:   metav1.TypeMeta{APIVersion: "example.com/v1", Kind: "Widget"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
	}
}

// The whole reconciler: what is there is counted, whatever its kind, and again when some of it goes.
func TestReconciler(t *testing.T) {
	client := controllertest.NewClient(
		&v1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "q"}, Spec: v1.ResourceQuotaSpec{Hard: list(
			"pods", "5", "cpu", "9", "count/widgets.example.com", "7", "services", "1")}},
		&v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "a"}, Spec: v1.PodSpec{Containers: []v1.Container{{Resources: v1.ResourceRequirements{Requests: list("cpu", "2")}}}}},
		&v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "b"}},
		&v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "elsewhere", Name: "c"}},
	)
	verbs := metav1.Verbs{"create", "list", "watch"}
	client.Discovery().(*fakediscovery.FakeDiscovery).Resources = []*metav1.APIResourceList{
		{GroupVersion: "v1", APIResources: []metav1.APIResource{{Name: "pods", Kind: "Pod", Namespaced: true, Verbs: verbs}, {Name: "services", Kind: "Service", Namespaced: true, Verbs: verbs}}},
		{GroupVersion: "example.com/v1", APIResources: []metav1.APIResource{{Name: "widgets", Kind: "Widget", Namespaced: true, Verbs: verbs}}},
	}
	scheme := runtime.NewScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	widgets := schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "widgets"}
	partial := fakemetadata.NewSimpleMetadataClient(scheme, widget("w1"), widget("w2"))
	c := controllertest.Config(t, client)
	controllertest.Run(t, c, New(c, partial).Run)
	used := func(want ...string) {
		t.Helper()
		controllertest.Eventually(t, func() error {
			q, err := client.CoreV1().ResourceQuotas("shop").Get(t.Context(), "q", metav1.GetOptions{})
			if err == nil && !same(q.Status.Used, list(want...)) {
				err = fmt.Errorf("used %v, want %v", q.Status.Used, want)
			}
			return err
		})
	}
	used("pods", "2", "cpu", "2", "count/widgets.example.com", "2", "services", "0")
	if err := client.CoreV1().Pods("shop").Delete(t.Context(), "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	used("pods", "1", "cpu", "0", "count/widgets.example.com", "2", "services", "0")
	b, err := client.CoreV1().Pods("shop").Get(t.Context(), "b", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	b.Status.Phase = v1.PodSucceeded
	if _, err := client.CoreV1().Pods("shop").UpdateStatus(t.Context(), b, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	used("pods", "0", "cpu", "0", "count/widgets.example.com", "2", "services", "0")
	if err := partial.Resource(widgets).Namespace("shop").Delete(t.Context(), "w1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	used("pods", "0", "cpu", "0", "count/widgets.example.com", "1", "services", "0")
}
