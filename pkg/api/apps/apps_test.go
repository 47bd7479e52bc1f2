package apps

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/api"
)

var ctx = context.Background()

func deployment() *appsv1.Deployment {
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "d", Labels: map[string]string{"a": "b"}}}
	d.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "d"}}
	d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "a", Image: "i:1"}, {Name: "b", Image: "j:2"}}
	defaultDeployment(d)
	return d
}

func TestDeploymentGeneration(t *testing.T) {
	kind := deploymentKind()
	old := deployment()
	old.Status.Replicas = 9
	kind.PrepareCreate(ctx, old)
	if old.Generation != 1 || old.Status.Replicas != 0 {
		t.Fatalf("created as %+v", old)
	}
	for _, c := range []struct {
		name   string
		change func(*appsv1.Deployment)
		want   int64
	}{
		{"nothing", func(*appsv1.Deployment) {}, 1},
		{"a label", func(d *appsv1.Deployment) { d.Labels = nil }, 1},
		{"an annotation", func(d *appsv1.Deployment) { d.Annotations = map[string]string{"a": "b"} }, 2},
		{"spec", func(d *appsv1.Deployment) { d.Spec.Paused = true }, 2},
		{"both", func(d *appsv1.Deployment) { d.Spec.Paused, d.Annotations = true, map[string]string{"a": "b"} }, 2},
		{"status", func(d *appsv1.Deployment) { d.Status.Replicas = 5 }, 1},
		{"the generation itself", func(d *appsv1.Deployment) { d.Generation = 77 }, 1},
	} {
		d := old.DeepCopy()
		c.change(d)
		kind.PrepareUpdate(ctx, d, old)
		if d.Generation != c.want || d.Status.Replicas != 0 {
			t.Errorf("%s: generation %d, want %d; status %+v", c.name, d.Generation, c.want, d.Status)
		}
	}
	d := old.DeepCopy()
	d.Spec.Paused, d.Status.Replicas, d.Labels = true, 3, nil
	kind.Subresources["status"].PrepareForUpdate(ctx, d, old)
	if d.Spec.Paused || d.Status.Replicas != 3 || d.Labels["a"] != "b" || d.Generation != 1 {
		t.Errorf("status written as %+v", d)
	}
}

func TestDaemonSetTemplateGeneration(t *testing.T) {
	kind := daemonSetKind()
	template := func(d *appsv1.DaemonSet) string { return d.Annotations[appsv1.DeprecatedTemplateGeneration] }
	old := &appsv1.DaemonSet{}
	kind.Default(old)
	kind.PrepareCreate(ctx, old)
	if template(old) != "1" {
		t.Fatalf("annotations %v", old.Annotations)
	}
	image := old.DeepCopy()
	image.Spec.Template.Spec.Containers = []corev1.Container{{Name: "a"}}
	image.Annotations = nil // a client that knows nothing of it
	kind.PrepareUpdate(ctx, image, old)
	if template(image) != "2" || image.Generation != 2 {
		t.Errorf("template generation %s, generation %d", template(image), image.Generation)
	}
	if template(old) != "1" {
		t.Error("the stored object was changed")
	}
	history := old.DeepCopy()
	history.Spec.MinReadySeconds = 5
	history.Annotations[appsv1.DeprecatedTemplateGeneration] = "99"
	kind.PrepareUpdate(ctx, history, old)
	if template(history) != "1" || history.Generation != 2 {
		t.Errorf("template generation %s, generation %d", template(history), history.Generation)
	}
}

func TestScales(t *testing.T) {
	for _, k := range []*api.Kind{deploymentKind(), replicaSetKind(), statefulSetKind()} {
		obj := k.New()
		scale := k.Subresources["scale"].Scale
		if n, _, selector := scale.Get(obj); n != 1 || selector != "" {
			t.Errorf("%s: %d replicas of an empty object, selector %q", k.Kind, n, selector)
		}
		scale.Set(obj, 0)
		if n, _, _ := scale.Get(obj); n != 0 {
			t.Errorf("%s: set 0, got %d", k.Kind, n)
		}
	}
	if _, _, selector := deploymentScale.Get(deployment()); selector != "app=d" {
		t.Errorf("selector %q", selector)
	}
}

func TestCells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := deployment()
		d.CreationTimestamp = metav1.Now()
		d.Status = appsv1.DeploymentStatus{ReadyReplicas: 1, UpdatedReplicas: 2, AvailableReplicas: 3}
		if got, want := fmt.Sprint(deploymentCells(d)), "[d 1/1 2 3 0s a,b i:1,j:2 app=d]"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		set := &appsv1.DaemonSet{Status: appsv1.DaemonSetStatus{DesiredNumberScheduled: 1, CurrentNumberScheduled: 2, NumberReady: 3, UpdatedNumberScheduled: 4, NumberAvailable: 5}}
		if got, want := fmt.Sprint(daemonSetCells(set)), "[ 1 2 3 4 5 <none> <unknown>   <none>]"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		yes := true
		r := &appsv1.ControllerRevision{Revision: 3, ObjectMeta: metav1.ObjectMeta{Name: "r", OwnerReferences: []metav1.OwnerReference{
			{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "s", Controller: &yes}}}}
		if got, want := fmt.Sprint(controllerRevisionCells(r)), "[r statefulset.apps/s 3 <unknown>]"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}
