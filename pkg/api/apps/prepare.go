package apps

import (
	"context"
	"maps"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"skiff/pkg/api"
)

// prepareDeploymentUpdate: annotations go down to replica sets, so they count as spec.
func prepareDeploymentUpdate(_ context.Context, obj, old api.Object) {
	if !equality.Semantic.DeepEqual(obj.GetAnnotations(), old.GetAnnotations()) {
		obj.SetGeneration(old.GetGeneration() + 1)
	}
}

func prepareDeploymentStatus(_ context.Context, obj, old api.Object) {
	obj.SetLabels(old.GetLabels())
}

// The template generation predates controller revisions. It lives on in an annotation.

func prepareDaemonSetCreate(_ context.Context, obj api.Object) {
	d := obj.(*appsv1.DaemonSet)
	setTemplateGeneration(d, max(1, templateGeneration(d)))
}

func prepareDaemonSetUpdate(_ context.Context, obj, old api.Object) {
	d, was := obj.(*appsv1.DaemonSet), old.(*appsv1.DaemonSet)
	n := templateGeneration(was)
	if !equality.Semantic.DeepEqual(&d.Spec.Template, &was.Spec.Template) {
		n++
	}
	setTemplateGeneration(d, n)
}

func templateGeneration(d *appsv1.DaemonSet) int64 {
	n, err := strconv.ParseInt(d.Annotations[appsv1.DeprecatedTemplateGeneration], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func setTemplateGeneration(d *appsv1.DaemonSet, n int64) {
	annotations := maps.Clone(d.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[appsv1.DeprecatedTemplateGeneration] = strconv.FormatInt(n, 10)
	d.Annotations = annotations
}
