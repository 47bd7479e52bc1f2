package batch

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func TestJobSelector(t *testing.T) {
	kind := jobKind()
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "j", UID: "u"}}
	j.Spec.Template.Labels = map[string]string{"app": "a"}
	kind.Default(j)
	kind.PrepareCreate(context.Background(), j)
	if got := j.Spec.Selector.MatchLabels; len(got) != 1 || got["batch.kubernetes.io/controller-uid"] != "u" {
		t.Errorf("selector %v", got)
	}
	want := map[string]string{"app": "a", "job-name": "j", "batch.kubernetes.io/job-name": "j", "controller-uid": "u", "batch.kubernetes.io/controller-uid": "u"}
	if got := j.Spec.Template.Labels; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("labels %v, want %v", got, want)
	}
	if len(j.Labels) != 1 {
		t.Errorf("the job's own labels share the template's map: %v", j.Labels)
	}

	manual := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "j", UID: "u"}}
	manual.Spec.ManualSelector = ptr.To(true)
	kind.PrepareCreate(context.Background(), manual)
	if manual.Spec.Selector != nil || manual.Spec.Template.Labels != nil {
		t.Errorf("a manual selector was touched: %+v", manual.Spec)
	}
}

func TestJobCells(t *testing.T) {
	condition := func(types ...batchv1.JobConditionType) (all []batchv1.JobCondition) {
		for _, c := range types {
			all = append(all, batchv1.JobCondition{Type: c, Status: corev1.ConditionTrue})
		}
		return all
	}
	for want, j := range map[string]*batchv1.Job{
		"[ Running 0/1  <unknown>   <none>]":      {},
		"[ Running 1/1 of 4  <unknown>   <none>]": {Spec: batchv1.JobSpec{Parallelism: ptr.To[int32](4)}, Status: batchv1.JobStatus{Succeeded: 1}},
		"[ Complete 2/3  <unknown>   <none>]":     {Spec: batchv1.JobSpec{Completions: ptr.To[int32](3)}, Status: batchv1.JobStatus{Succeeded: 2, Conditions: condition(batchv1.JobSuccessCriteriaMet, batchv1.JobComplete)}},
		"[ Suspended 0/1  <unknown>   <none>]":    {Status: batchv1.JobStatus{Conditions: condition(batchv1.JobSuspended)}},
		"[ FailureTarget 0/1  <unknown>   <none>]": {Status: batchv1.JobStatus{Conditions: append(condition(batchv1.JobFailureTarget),
			batchv1.JobCondition{Type: batchv1.JobFailed, Status: corev1.ConditionFalse})}},
	} {
		if got := fmt.Sprint(jobCells(j)); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		j := &batchv1.Job{Status: batchv1.JobStatus{StartTime: &metav1.Time{Time: time.Now().Add(-time.Minute)}}}
		if got := took(j); got != "60s" {
			t.Errorf("running for %s", got)
		}
		j.Status.CompletionTime = &metav1.Time{Time: time.Now().Add(-50 * time.Second)}
		if got := took(j); got != "10s" {
			t.Errorf("took %s", got)
		}
		c := &batchv1.CronJob{Spec: batchv1.CronJobSpec{Schedule: "@daily", Suspend: ptr.To(true)}}
		if got, want := fmt.Sprint(cronJobCells(c)), "[ @daily <none> True 0 <none> <unknown>   <none>]"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}
