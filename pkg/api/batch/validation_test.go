package batch

import (
	"fmt"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func TestIndexes(t *testing.T) {
	for list, want := range map[string]string{
		"":        "[] <nil>",
		"1,3-4":   "[{1 1} {3 4}] <nil>",
		"5":       `[] too large index: "5"`,
		"1-5":     `[] too large index: "5"`,
		"1-":      `[] cannot convert string to integer for index: ""`,
		"2,1":     "[] non-increasing order, previous: 2, current: 1",
		"0-2,2":   "[] non-increasing order, previous: 2, current: 2",
		"1-1":     "[] non-increasing order, previous: 1, current: 1",
		"0-1-2,3": `[] the fragment "0-1-2" violates the requirement that an index interval can have at most two parts separated by '-'`,
	} {
		got, err := indexes(list, 5)
		if text := fmt.Sprint(got, " ", err); text != want {
			t.Errorf("%q: %s, want %s", list, text, want)
		}
	}
	for _, c := range []struct{ completed, failed, want string }{
		{"0-1,4", "2-3", "<nil>"},
		{"0-2", "2-3", "failedIndexes and completedIndexes overlap at index: 2"},
		{"x,3", "0,2-3", "failedIndexes and completedIndexes overlap at index: 3"},
		{"", "1", "<nil>"},
	} {
		if got := fmt.Sprint(overlap(c.completed, c.failed, 5)); got != c.want {
			t.Errorf("%s and %s: %s, want %s", c.completed, c.failed, got, c.want)
		}
	}
}

func TestSchedules(t *testing.T) {
	for schedule, want := range map[string]string{
		"*/5 * * * *":         "",
		"@every 1h":           "",
		"1 2 3":               `expected exactly 5 fields, found 3: [1 2 3]`,
		"99 * * * *":          `end of range (99) above maximum (59): 99`,
		"TZ=UTC":              `invalid schedule format: runtime error: slice bounds out of range [:-1]`,
		"TZ=UTC 1 * * * *":    "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
		"CRON_TZ=X 1 * * * *": `provided bad location X: unknown time zone X`,
	} {
		errs := complaints(schedule)
		got := ""
		if len(errs) > 0 {
			got = errs[0]
		}
		if got != want {
			t.Errorf("%q: %q, want %q", schedule, got, want)
		}
	}
	for zone, fine := range map[string]bool{"UTC": true, "Europe/Berlin": true, "": false, "local": false, "../etc/passwd": false, "/UTC": false, "Nowhere": false} {
		if errs := timeZone(&zone); (len(errs) == 0) != fine {
			t.Errorf("%q: %v", zone, errs)
		}
	}
}

func complaints(text string) (all []string) {
	for _, err := range schedule(&batchv1.CronJobSpec{Schedule: text}, nil) {
		all = append(all, err.Detail)
	}
	return all
}

// A status ends once, in an order that clients can rely on, and never goes back.
func TestJobStatus(t *testing.T) {
	status := func(change func(*batchv1.JobStatus), conditions ...batchv1.JobConditionType) batchv1.JobStatus {
		s := batchv1.JobStatus{StartTime: &metav1.Time{}, Succeeded: 1}
		for _, c := range conditions {
			s.Conditions = append(s.Conditions, batchv1.JobCondition{Type: c, Status: corev1.ConditionTrue})
		}
		if change != nil {
			change(&s)
		}
		return s
	}
	complete := func(s *batchv1.JobStatus) { s.CompletionTime = &metav1.Time{} }
	const met, done, target, failed = batchv1.JobSuccessCriteriaMet, batchv1.JobComplete, batchv1.JobFailureTarget, batchv1.JobFailed
	for name, c := range map[string]struct {
		old, now batchv1.JobStatus
		want     string
	}{
		"to its end":          {status(nil, met), status(complete, met, done), "[]"},
		"without a promise":   {status(nil), status(complete, done), "[status.conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true condition]"},
		"without a time":      {status(nil, met), status(nil, met, done), "[status.completionTime: Required value: completionTime is required for Complete jobs]"},
		"failed at once":      {status(nil), status(nil, failed), "[status.conditions: Invalid value: cannot set Failed=True condition without the FailureTarget=true condition]"},
		"back again":          {status(nil, target, failed), status(nil, target), "[status.conditions: Invalid value: cannot disable the terminal Failed=True condition]"},
		"counting backwards":  {status(nil), status(func(s *batchv1.JobStatus) { s.Succeeded = 0 }), "[status.succeeded: Invalid value: 0: cannot decrease the succeeded counter]"},
		"wrong as before":     {status(nil, done), status(func(s *batchv1.JobStatus) { s.Active = 0 }, done), "[]"},
		"with pods after all": {status(nil, target, failed), status(func(s *batchv1.JobStatus) { s.Active = 1 }, target, failed), "[status.active: Invalid value: 1: active>0 is invalid for finished job]"},
	} {
		old := &batchv1.Job{Spec: batchv1.JobSpec{Completions: ptr.To[int32](1)}, Status: c.old}
		now := old.DeepCopy()
		now.Status = c.now
		if got := fmt.Sprint(validateJobStatus(now, old)); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// Only while a job has no pods can its template change.
func TestJobTemplateOfASuspendedJob(t *testing.T) {
	job := func(change func(*batchv1.Job)) *batchv1.Job {
		j := &batchv1.Job{Spec: batchv1.JobSpec{Suspend: ptr.To(true), Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}}}
		if change != nil {
			change(j)
		}
		return j
	}
	placed := job(func(j *batchv1.Job) {
		j.Spec.Template.Labels = map[string]string{"a": "b"}
		j.Spec.Template.Spec.NodeSelector = map[string]string{"a": "b"}
		j.Spec.Template.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{}}
	})
	if errs := jobTemplateKept(&placed.Spec, job(nil)); len(errs) > 0 {
		t.Error(errs)
	}
	for name, old := range map[string]*batchv1.Job{
		"running":          job(func(j *batchv1.Job) { j.Spec.Suspend = nil }),
		"not yet stopped":  job(func(j *batchv1.Job) { j.Status.StartTime = &metav1.Time{} }),
		"with pods":        job(func(j *batchv1.Job) { j.Status.Active = 1 }),
		"of another image": job(func(j *batchv1.Job) { j.Spec.Template.Spec.Containers[0].Image = "j" }),
	} {
		if errs := jobTemplateKept(&placed.Spec, old); len(errs) != 1 {
			t.Errorf("%s: %v", name, errs)
		}
	}
}
