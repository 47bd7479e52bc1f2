package clients

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	apply "k8s.io/client-go/applyconfigurations/apps/v1"
	scaleapply "k8s.io/client-go/applyconfigurations/autoscaling/v1"
	coreapply "k8s.io/client-go/applyconfigurations/core/v1"
	metaapply "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/client-go/util/retry"
)

// TestApplyConfigurations lets two managers share a deployment by server-side apply.
func TestApplyConfigurations(t *testing.T) {
	ns := newNamespace(t)
	deployments := client.AppsV1().Deployments(ns)
	labels := map[string]string{"app": "d"}
	desired := func() *apply.DeploymentApplyConfiguration {
		return apply.Deployment("d", ns).WithSpec(apply.DeploymentSpec().WithReplicas(0).
			WithSelector(metaapply.LabelSelector().WithMatchLabels(labels)).
			WithTemplate(coreapply.PodTemplateSpec().WithLabels(labels).WithSpec(coreapply.PodSpec().
				WithContainers(coreapply.Container().WithName("c").WithImage(helloImage).
					WithEnv(coreapply.EnvVar().WithName("A").WithValue("1"), coreapply.EnvVar().WithName("B").WithValue("2"))))))
	}
	first, second := metav1.ApplyOptions{FieldManager: "first"}, metav1.ApplyOptions{FieldManager: "second"}
	if _, err := deployments.Apply(t.Context(), desired(), first); err != nil {
		t.Fatal(err)
	}

	// The second wants another number, and a container of its own.
	theirs := apply.Deployment("d", ns).WithSpec(apply.DeploymentSpec().WithReplicas(2).WithTemplate(coreapply.PodTemplateSpec().
		WithSpec(coreapply.PodSpec().WithContainers(coreapply.Container().WithName("side").WithImage(helloImage)))))
	_, err := deployments.Apply(t.Context(), theirs, second)
	if !apierrors.IsConflict(err) || !apierrors.HasStatusCause(err, metav1.CauseTypeFieldManagerConflict) {
		t.Fatalf("a conflict gave %v", err)
	}
	if status := apierrors.APIStatus(nil); errors.As(err, &status) {
		cause := status.Status().Details.Causes
		if len(cause) != 1 || cause[0].Field != ".spec.replicas" || cause[0].Message != `conflict with "first"` {
			t.Errorf("the conflict's causes are %+v", cause)
		}
	}
	forced := second
	forced.Force = true
	d, err := deployments.Apply(t.Context(), theirs, forced)
	if err != nil {
		t.Fatal(err)
	}
	if *d.Spec.Replicas != 2 || len(d.Spec.Template.Spec.Containers) != 2 {
		t.Errorf("forced: %d replicas, containers %v", *d.Spec.Replicas, d.Spec.Template.Spec.Containers)
	}

	// The first gives up what it doesn't say any more: the number stays the second's, the variable goes.
	less := desired()
	less.Spec.Replicas = nil
	less.Spec.Template.Spec.Containers[0].Env = less.Spec.Template.Spec.Containers[0].Env[:1]
	if d, err = deployments.Apply(t.Context(), less, first); err != nil {
		t.Fatal(err)
	}
	if *d.Spec.Replicas != 2 {
		t.Errorf("%d replicas, want the second manager's 2", *d.Spec.Replicas)
	}
	if env := d.Spec.Template.Spec.Containers[0].Env; len(env) != 1 || env[0].Name != "A" {
		t.Errorf("environment %v, want A alone", env)
	}

	// What a manager owns can be taken out of the object, changed and applied again.
	mine, err := apply.ExtractDeployment(d, "second")
	if err != nil {
		t.Fatal(err)
	}
	if c := mine.Spec.Template.Spec.Containers; *mine.Spec.Replicas != 2 || len(c) != 1 || *c[0].Name != "side" {
		t.Fatalf("extracted %+v", mine.Spec)
	}
	if d, err = deployments.Apply(t.Context(), mine.WithAnnotations(map[string]string{"seen": "yes"}), second); err != nil {
		t.Fatal(err)
	}
	if d.Annotations["seen"] != "yes" {
		t.Errorf("annotations %v", d.Annotations)
	}
	// The scale subresource is applied by a third.
	scale := scaleapply.Scale().WithName("d").WithNamespace(ns).WithSpec(scaleapply.ScaleSpec().WithReplicas(1))
	scaled, err := deployments.ApplyScale(t.Context(), "d", scale, metav1.ApplyOptions{FieldManager: "third", Force: true})
	if err != nil || scaled.Spec.Replicas != 1 {
		t.Fatalf("scale: %v %v", scaled, err)
	}
	if d, err = deployments.Get(t.Context(), "d", metav1.GetOptions{}); err != nil {
		t.Fatal(err)
	}
	var owners []string
	for _, m := range d.ManagedFields {
		if m.Operation == metav1.ManagedFieldsOperationApply {
			owners = append(owners, strings.TrimSuffix(m.Manager+"/"+m.Subresource, "/"))
		}
	}
	slices.Sort(owners)
	if got := strings.Join(owners, " "); got != "first second third/scale" {
		t.Errorf("managers by apply are %q", got)
	}
	checkStatusApply(t, ns)
}

// checkStatusApply owns the parts of a status, beside the spec's owner. Nothing
// in the cluster writes a claim of a class that nobody serves.
func checkStatusApply(t *testing.T, ns string) {
	t.Helper()
	claims := client.CoreV1().PersistentVolumeClaims(ns)
	claim := coreapply.PersistentVolumeClaim("claim", ns).WithSpec(coreapply.PersistentVolumeClaimSpec().WithStorageClassName("nobodys").
		WithAccessModes(v1.ReadWriteOnce).WithResources(coreapply.VolumeResourceRequirements().
		WithRequests(v1.ResourceList{v1.ResourceStorage: resource.MustParse("1Gi")})))
	if _, err := claims.Apply(t.Context(), claim, metav1.ApplyOptions{FieldManager: "user"}); err != nil {
		t.Fatal(err)
	}
	status := coreapply.PersistentVolumeClaim("claim", ns).WithSpec(coreapply.PersistentVolumeClaimSpec().WithVolumeName("ignored")).
		WithStatus(coreapply.PersistentVolumeClaimStatus().WithConditions(coreapply.PersistentVolumeClaimCondition().
			WithType(v1.PersistentVolumeClaimResizing).WithStatus(v1.ConditionTrue)))
	c, err := claims.ApplyStatus(t.Context(), status, metav1.ApplyOptions{FieldManager: "resizer"})
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Status.Conditions) != 1 || c.Spec.StorageClassName == nil || c.Spec.VolumeName != "" {
		t.Errorf("after the status was applied: spec %v, status %v", c.Spec, c.Status)
	}
}

// TestDynamicPatches patches custom and built-in resources in every format.
func TestDynamicPatches(t *testing.T) {
	ns := newNamespace(t)
	const group = "patches.clients.test"
	newCRD(t, group, "carts", "Cart")
	carts := dynamicClient.Resource(schema.GroupVersionResource{Group: group, Version: "v1", Resource: "carts"}).Namespace(ns)
	cart := func(spec map[string]any) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{"apiVersion": group + "/v1", "kind": "Cart",
			"metadata": map[string]any{"name": "c", "labels": map[string]any{"a": "b"}}, "spec": spec}}
	}
	created, err := carts.Create(t.Context(), cart(map[string]any{"size": int64(1), "note": "n"}), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what  string
		kind  types.PatchType
		patch string
		fails func(error) bool
		size  int64
	}{
		{"a merge patch", types.MergePatchType, `{"spec":{"size":2}}`, nil, 2},
		{"a JSON patch", types.JSONPatchType, `[{"op":"test","path":"/spec/size","value":2},{"op":"replace","path":"/spec/size","value":3}]`, nil, 3},
		{"a JSON patch whose test fails", types.JSONPatchType, `[{"op":"test","path":"/spec/size","value":2},{"op":"remove","path":"/spec"}]`, apierrors.IsInvalid, 3},
		{"a value out of range", types.MergePatchType, `{"spec":{"size":10}}`, apierrors.IsInvalid, 3},
		{"a merge patch of an older version", types.MergePatchType, fmt.Sprintf(`{"metadata":{"resourceVersion":%q},"spec":{"size":4}}`, created.GetResourceVersion()), apierrors.IsConflict, 3},
		{"a strategic merge patch", types.StrategicMergePatchType, `{"spec":{"size":4}}`, apierrors.IsUnsupportedMediaType, 3},
		{"no JSON", types.MergePatchType, `{`, apierrors.IsBadRequest, 3},
	} {
		_, err := carts.Patch(t.Context(), "c", c.kind, []byte(c.patch), metav1.PatchOptions{})
		if (c.fails == nil) != (err == nil) || c.fails != nil && !c.fails(err) {
			t.Errorf("%s: %v", c.what, err)
		}
		now, err := carts.Get(t.Context(), "c", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if size, _, _ := unstructured.NestedInt64(now.Object, "spec", "size"); size != c.size {
			t.Errorf("after %s the size is %d, want %d", c.what, size, c.size)
		}
	}
	unknown := cart(map[string]any{"size": int64(1), "colour": "red"})
	if _, err := carts.Apply(t.Context(), "c", unknown, metav1.ApplyOptions{FieldManager: "m", Force: true}); err == nil || !strings.Contains(err.Error(), "field not declared in schema") {
		t.Errorf("an unknown field was applied: %v", err)
	}
	if _, err := carts.Update(t.Context(), created, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("an update of an older version: %v", err)
	}
	if err := carts.Delete(t.Context(), "c", metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions("another")}); !apierrors.IsConflict(err) {
		t.Errorf("a deletion of another's uid: %v", err)
	}
	if _, err := carts.Patch(t.Context(), "c", types.MergePatchType, []byte(`{"spec":{"size":9}}`), metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
		t.Error(err)
	}
	if now, err := carts.Get(t.Context(), "c", metav1.GetOptions{}); err != nil || now.Object["spec"].(map[string]any)["size"] != int64(3) {
		t.Errorf("after a dry run: %v %v", now, err)
	}
	if err := carts.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "a=b"}); err != nil {
		t.Error(err)
	}
	if _, err := carts.Get(t.Context(), "c", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after the collection was deleted: %v", err)
	}
	checkStrategicMerge(t, ns)
}

// checkStrategicMerge merges containers by their names, through a client that knows no types.
func checkStrategicMerge(t *testing.T, ns string) {
	t.Helper()
	deployments := dynamicClient.Resource(appsv1.SchemeGroupVersion.WithResource("deployments")).Namespace(ns)
	_, err := deployments.Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"name": "d"},
		"spec": map[string]any{"replicas": int64(0), "selector": map[string]any{"matchLabels": map[string]any{"app": "d"}},
			"template": map[string]any{"metadata": map[string]any{"labels": map[string]any{"app": "d"}},
				"spec": map[string]any{"containers": []any{
					map[string]any{"name": "a", "image": "a:1"}, map[string]any{"name": "b", "image": "b:1"}}}}},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	patch := `{"spec":{"template":{"spec":{"$setElementOrder/containers":[{"name":"c"},{"name":"a"}],
		"containers":[{"name":"c","image":"c:1"},{"name":"a","image":"a:2"},{"name":"b","$patch":"delete"}]}}}}`
	d, err := deployments.Patch(t.Context(), "d", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	containers, _, _ := unstructured.NestedSlice(d.Object, "spec", "template", "spec", "containers")
	var images []string
	for _, c := range containers {
		images = append(images, c.(map[string]any)["image"].(string))
	}
	if got := strings.Join(images, " "); got != "c:1 a:2" {
		t.Errorf("merged containers have the images %q", got)
	}
}

// TestRetryOnConflict counts with ten writers, none of whom may lose a turn.
func TestRetryOnConflict(t *testing.T) {
	ns := newNamespace(t)
	configMaps := client.CoreV1().ConfigMaps(ns)
	if _, err := configMaps.Create(t.Context(), &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "count"}, Data: map[string]string{"n": "0"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	backoff := wait.Backoff{Steps: 1000, Duration: 2 * time.Millisecond, Jitter: 1}
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			for range 5 {
				if err := retry.RetryOnConflict(backoff, func() error { return increment(t.Context(), ns) }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	c, err := configMaps.Get(t.Context(), "count", metav1.GetOptions{})
	if err != nil || c.Data["n"] != "50" {
		t.Errorf("counted %v: %v", c.Data, err)
	}
}

func increment(ctx context.Context, ns string) error {
	configMaps := client.CoreV1().ConfigMaps(ns)
	c, err := configMaps.Get(ctx, "count", metav1.GetOptions{})
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(c.Data["n"])
	if err != nil {
		return err
	}
	c.Data["n"] = strconv.Itoa(n + 1)
	_, err = configMaps.Update(ctx, c, metav1.UpdateOptions{})
	return err
}
