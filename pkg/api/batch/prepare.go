package batch

import (
	"context"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/api"
)

// The labels that tell a job's pods, before and since 1.27.
const (
	legacyJobName       = "job-name"
	legacyControllerUID = "controller-uid"
)

// prepareJobCreate gives a job the selector that no other has: its own uid. What the
// user wrote in these places stays, and is refused by validation when it disagrees.
func prepareJobCreate(_ context.Context, obj api.Object) {
	j := obj.(*batchv1.Job)
	defer labelLikePods(j)
	if j.Spec.ManualSelector != nil && *j.Spec.ManualSelector {
		return
	}
	uid := string(j.UID)
	t := &j.Spec.Template
	if t.Labels == nil {
		t.Labels = map[string]string{}
	}
	setIfMissing(t.Labels, legacyJobName, j.Name)
	setIfMissing(t.Labels, batchv1.JobNameLabel, j.Name)
	setIfMissing(t.Labels, legacyControllerUID, uid)
	setIfMissing(t.Labels, batchv1.ControllerUidLabel, uid)
	if j.Spec.Selector == nil {
		j.Spec.Selector = &metav1.LabelSelector{}
	}
	if j.Spec.Selector.MatchLabels == nil {
		j.Spec.Selector.MatchLabels = map[string]string{}
	}
	setIfMissing(j.Spec.Selector.MatchLabels, batchv1.ControllerUidLabel, uid)
}

func setIfMissing(labels map[string]string, key, value string) {
	if _, ok := labels[key]; !ok {
		labels[key] = value
	}
}
