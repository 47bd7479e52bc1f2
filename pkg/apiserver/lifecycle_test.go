package apiserver_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"
)

func makePod(t testing.TB, client kubernetes.Interface, name string, change ...func(*corev1.Pod)) *corev1.Pod {
	t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
	for _, c := range change {
		c(pod)
	}
	pod, err := client.CoreV1().Pods("default").Create(limited(t), pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

func makeNode(t testing.TB, client kubernetes.Interface, name string) *corev1.Node {
	t.Helper()
	node, err := client.CoreV1().Nodes().Create(limited(t), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return node
}

func TestDeletion(t *testing.T) {
	i := start(t)
	client := typed(t, i, "application/vnd.kubernetes.protobuf")
	ctx := limited(t)
	pods := client.CoreV1().Pods("default")

	t.Run("a pod without a node goes at once", func(t *testing.T) {
		makePod(t, client, "loose")
		if err := pods.Delete(ctx, "loose", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := pods.Get(ctx, "loose", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	})
	t.Run("a pod on a node is marked", func(t *testing.T) {
		makePod(t, client, "bound", func(p *corev1.Pod) { p.Spec.NodeName = "n" })
		if err := pods.Delete(ctx, "bound", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		pod, err := pods.Get(ctx, "bound", metav1.GetOptions{})
		if err != nil || pod.DeletionTimestamp == nil || *pod.DeletionGracePeriodSeconds != 30 || pod.Generation != 2 {
			t.Fatalf("%v %+v", err, pod.ObjectMeta)
		}
		// A later deletion brings the end nearer, never farther.
		if err := pods.Delete(ctx, "bound", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](60)}); err != nil {
			t.Fatal(err)
		}
		if pod, _ = pods.Get(ctx, "bound", metav1.GetOptions{}); *pod.DeletionGracePeriodSeconds != 30 {
			t.Errorf("longer: %d", *pod.DeletionGracePeriodSeconds)
		}
		if err := pods.Delete(ctx, "bound", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](5)}); err != nil {
			t.Fatal(err)
		}
		if pod, _ = pods.Get(ctx, "bound", metav1.GetOptions{}); *pod.DeletionGracePeriodSeconds != 5 {
			t.Errorf("shorter: %d", *pod.DeletionGracePeriodSeconds)
		}
		if err := pods.Delete(ctx, "bound", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}); err != nil {
			t.Fatal(err)
		}
		if _, err := pods.Get(ctx, "bound", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	})
	maps := client.CoreV1().ConfigMaps("default")
	t.Run("finalizers hold an object", func(t *testing.T) {
		created, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "held", Finalizers: []string{"example.com/hold"}}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := maps.Delete(ctx, "held", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		held, err := maps.Get(ctx, "held", metav1.GetOptions{})
		if err != nil || held.DeletionTimestamp == nil || *held.DeletionGracePeriodSeconds != 0 {
			t.Fatalf("%v %+v", err, held.ObjectMeta)
		}
		if _, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "held"}}, metav1.CreateOptions{}); err == nil || !strings.HasPrefix(err.Error(), "object is being deleted: ") {
			t.Error(err)
		}
		held.Finalizers = append(held.Finalizers, "example.com/late")
		if _, err := maps.Update(ctx, held, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
			t.Errorf("a finalizer was added to a deleted object: %v", err)
		}
		last, err := maps.Patch(ctx, "held", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
		if err != nil || last.UID != created.UID || len(last.Finalizers) > 0 {
			t.Fatalf("%v %+v", err, last)
		}
		if _, err := maps.Get(ctx, "held", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	})
	for policy, finalizer := range map[metav1.DeletionPropagation]string{
		metav1.DeletePropagationOrphan: "orphan", metav1.DeletePropagationForeground: "foregroundDeletion",
	} {
		t.Run(string(policy), func(t *testing.T) {
			name := strings.ToLower(string(policy))
			if _, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			if err := maps.Delete(ctx, name, metav1.DeleteOptions{PropagationPolicy: &policy}); err != nil {
				t.Fatal(err)
			}
			marked, err := maps.Get(ctx, name, metav1.GetOptions{})
			if err != nil || !slices.Equal(marked.Finalizers, []string{finalizer}) || marked.DeletionTimestamp == nil {
				t.Fatalf("%v %+v", err, marked)
			}
		})
	}
	t.Run("a collection", func(t *testing.T) {
		for _, name := range []string{"one", "two", "three"} {
			if _, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"in": "it"}}}, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		if err := maps.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "in=it", FieldSelector: "metadata.name!=two"}); err != nil {
			t.Fatal(err)
		}
		list, err := maps.List(ctx, metav1.ListOptions{LabelSelector: "in=it"})
		if err != nil || len(list.Items) != 1 || list.Items[0].Name != "two" {
			t.Errorf("%v %+v", err, list)
		}
	})
	t.Run("a namespace", func(t *testing.T) {
		namespaces := client.CoreV1().Namespaces()
		if _, err := namespaces.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "gone"}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := namespaces.Delete(ctx, "gone", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		ns, err := namespaces.Get(ctx, "gone", metav1.GetOptions{})
		if err != nil || ns.Status.Phase != corev1.NamespaceTerminating || ns.DeletionTimestamp == nil {
			t.Fatalf("%v %+v", err, ns)
		}
		ns.Spec.Finalizers = nil
		if _, err := namespaces.Finalize(ctx, ns, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := namespaces.Get(ctx, "gone", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	})
}

func TestWrites(t *testing.T) {
	i := start(t)
	client := typed(t, i, "application/vnd.kubernetes.protobuf")
	ctx := limited(t)
	maps := client.CoreV1().ConfigMaps("default")

	t.Run("generated names", func(t *testing.T) {
		created, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "some-"}}, metav1.CreateOptions{})
		if err != nil || !strings.HasPrefix(created.Name, "some-") || len(created.Name) != len("some-")+5 {
			t.Fatalf("%v %q", err, created.Name)
		}
	})
	t.Run("dry run", func(t *testing.T) {
		dry := metav1.CreateOptions{DryRun: []string{"All"}}
		created, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "dry"}}, dry)
		if err != nil || created.UID == "" || created.ResourceVersion != "" {
			t.Fatalf("%v %+v", err, created)
		}
		if _, err := maps.Get(ctx, "dry", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Error(err)
		}
		if _, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "wet"}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		patched, err := maps.Patch(ctx, "wet", types.MergePatchType, []byte(`{"data":{"a":"b"}}`), metav1.PatchOptions{DryRun: []string{"All"}})
		if err != nil || patched.Data["a"] != "b" {
			t.Fatalf("%v %+v", err, patched)
		}
		if err := maps.Delete(ctx, "wet", metav1.DeleteOptions{DryRun: []string{"All"}}); err != nil {
			t.Fatal(err)
		}
		if got, err := maps.Get(ctx, "wet", metav1.GetOptions{}); err != nil || got.Data != nil {
			t.Errorf("%v %+v", err, got)
		}
	})
	t.Run("status and scale", func(t *testing.T) {
		deployments := client.AppsV1().Deployments("default")
		labels := map[string]string{"a": "b"}
		created, err := deployments.Create(ctx, &appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Name: "d"},
			Spec: appsv1.DeploymentSpec{
				Replicas: ptr.To[int32](2), Selector: &metav1.LabelSelector{MatchLabels: labels},
				Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}},
			},
			Status: appsv1.DeploymentStatus{Replicas: 7},
		}, metav1.CreateOptions{})
		if err != nil || created.Generation != 1 || created.Status.Replicas != 0 || created.Spec.Strategy.Type == "" {
			t.Fatalf("%v %+v", err, created)
		}
		created.Status.Replicas, created.Spec.Replicas = 2, ptr.To[int32](9)
		after, err := deployments.UpdateStatus(ctx, created, metav1.UpdateOptions{})
		if err != nil || after.Status.Replicas != 2 || *after.Spec.Replicas != 2 || after.Generation != 1 {
			t.Fatalf("%v %+v", err, after)
		}
		if entry := after.ManagedFields[len(after.ManagedFields)-1]; entry.Subresource != "status" || strings.Contains(entry.FieldsV1.String(), "f:spec") {
			t.Errorf("%+v", entry)
		}
		scale, err := deployments.GetScale(ctx, "d", metav1.GetOptions{})
		if err != nil || scale.Spec.Replicas != 2 || scale.Status.Replicas != 2 || scale.Status.Selector != "a=b" {
			t.Fatalf("%v %+v", err, scale)
		}
		scale.Spec.Replicas = 5
		if scale, err = deployments.UpdateScale(ctx, "d", scale, metav1.UpdateOptions{}); err != nil || scale.Spec.Replicas != 5 {
			t.Fatalf("%v %+v", err, scale)
		}
		if _, err = deployments.UpdateScale(ctx, "d", &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: "d"}, Spec: autoscalingv1.ScaleSpec{Replicas: -1}}, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
			t.Error(err)
		}
		got, err := deployments.Get(ctx, "d", metav1.GetOptions{})
		if err != nil || *got.Spec.Replicas != 5 || got.Generation != 2 {
			t.Errorf("%v %+v", err, got)
		}
	})
	t.Run("nothing to write", func(t *testing.T) {
		before, err := maps.Patch(ctx, "wet", types.MergePatchType, []byte(`{"data":{"a":"b"}}`), metav1.PatchOptions{})
		if err != nil {
			t.Fatal(err)
		}
		after, err := maps.Patch(ctx, "wet", types.MergePatchType, []byte(`{"data":{"a":"b"}}`), metav1.PatchOptions{})
		if err != nil || after.ResourceVersion != before.ResourceVersion {
			t.Errorf("%v: %s became %s", err, before.ResourceVersion, after.ResourceVersion)
		}
	})
	t.Run("put creates where it may", func(t *testing.T) {
		code, _, body := raw(t, i, "PUT", "/apis/coordination.k8s.io/v1/namespaces/default/leases/new", asJSON, `{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{"name":"new"}}`)
		if code != http.StatusCreated {
			t.Errorf("%d %s", code, body)
		}
	})
}
