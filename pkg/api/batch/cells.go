package batch

import (
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"skiff/pkg/api"
	"skiff/pkg/api/core"
)

var jobColumns = api.Columns("Name, Status, Completions, Duration, Age, +Containers, +Images, +Selector")

func jobCells(obj api.Object) []any {
	j := obj.(*batchv1.Job)
	names, images := core.ContainerCells(j.Spec.Template.Spec.Containers)
	return []any{j.Name, jobStatus(j), completions(j), took(j), api.Age(j), names, images, metav1.FormatLabelSelector(j.Spec.Selector)}
}

func jobStatus(j *batchv1.Job) string {
	is := func(t batchv1.JobConditionType) bool {
		for i := range j.Status.Conditions {
			if j.Status.Conditions[i].Type == t {
				return j.Status.Conditions[i].Status == corev1.ConditionTrue
			}
		}
		return false
	}
	switch {
	case is(batchv1.JobComplete):
		return "Complete"
	case is(batchv1.JobFailed):
		return "Failed"
	case j.DeletionTimestamp != nil:
		return "Terminating"
	case is(batchv1.JobSuspended):
		return "Suspended"
	case is(batchv1.JobFailureTarget):
		return "FailureTarget"
	case is(batchv1.JobSuccessCriteriaMet):
		return "SuccessCriteriaMet"
	}
	return "Running"
}

func completions(j *batchv1.Job) string {
	switch {
	case j.Spec.Completions != nil:
		return fmt.Sprintf("%d/%d", j.Status.Succeeded, *j.Spec.Completions)
	case j.Spec.Parallelism != nil && *j.Spec.Parallelism > 1:
		return fmt.Sprintf("%d/1 of %d", j.Status.Succeeded, *j.Spec.Parallelism)
	}
	return fmt.Sprintf("%d/1", j.Status.Succeeded)
}

func took(j *batchv1.Job) string {
	switch {
	case j.Status.StartTime == nil:
		return ""
	case j.Status.CompletionTime == nil:
		return duration.HumanDuration(time.Since(j.Status.StartTime.Time))
	}
	return duration.HumanDuration(j.Status.CompletionTime.Sub(j.Status.StartTime.Time))
}

var cronJobColumns = api.Columns("Name, Schedule, Timezone, Suspend?, Active#, Last Schedule, Age, +Containers, +Images, +Selector")

func cronJobCells(obj api.Object) []any {
	c := obj.(*batchv1.CronJob)
	template := &c.Spec.JobTemplate.Spec
	names, images := core.ContainerCells(template.Template.Spec.Containers)
	zone, last, suspend := "<none>", "<none>", "<unset>"
	if c.Spec.TimeZone != nil {
		zone = *c.Spec.TimeZone
	}
	if c.Status.LastScheduleTime != nil {
		last = api.Since(c.Status.LastScheduleTime.Time)
	}
	if c.Spec.Suspend != nil {
		suspend = "False"
		if *c.Spec.Suspend {
			suspend = "True"
		}
	}
	return []any{c.Name, c.Spec.Schedule, zone, suspend, int64(len(c.Status.Active)), last, api.Age(c),
		names, images, metav1.FormatLabelSelector(template.Selector)}
}
