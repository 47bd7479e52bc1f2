package batch

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"skiff/pkg/api"
	"skiff/pkg/api/check"
)

func validateCronJob(obj api.Object) field.ErrorList {
	c := obj.(*batchv1.CronJob)
	errs := cronJob(c, nil)
	if len(c.Name) > 52 { // jobs get a suffix of eleven characters
		errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), c.Name, "must be no more than 52 characters"))
	}
	return errs
}

func validateCronJobUpdate(obj, old api.Object) field.ErrorList {
	return cronJob(obj.(*batchv1.CronJob), old.(*batchv1.CronJob))
}

func cronJob(c, old *batchv1.CronJob) check.Errors {
	s := &c.Spec
	var before *corev1.PodTemplateSpec
	if old != nil {
		before = &old.Spec.JobTemplate.Spec.Template
	}
	errs := slices.Concat(schedule(s, old), check.NonNegativeIf(specPath.Child("startingDeadlineSeconds"), s.StartingDeadlineSeconds))
	if old == nil || !ptr.Equal(s.TimeZone, old.Spec.TimeZone) {
		errs = append(errs, timeZone(s.TimeZone)...)
	}
	job := specPath.Child("jobTemplate", "spec")
	errs = slices.Concat(errs,
		check.Choice(specPath.Child("concurrencyPolicy"), s.ConcurrencyPolicy, batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent),
		jobSpec(job, &s.JobTemplate.Spec, before))
	if t := &s.JobTemplate.Spec; t.Selector != nil {
		errs = append(errs, field.Invalid(job.Child("selector"), t.Selector, "`selector` will be auto-generated"))
	}
	if m := s.JobTemplate.Spec.ManualSelector; m != nil && *m {
		errs = append(errs, field.NotSupported(job.Child("manualSelector"), *m, []string{"nil", "false"}))
	}
	return slices.Concat(errs,
		check.NonNegativeIf(specPath.Child("successfulJobsHistoryLimit"), s.SuccessfulJobsHistoryLimit),
		check.NonNegativeIf(specPath.Child("failedJobsHistoryLimit"), s.FailedJobsHistoryLimit))
}

// schedule checks when a cron job runs. One that names its time zone there, as was once possible, may go on to.
func schedule(s *batchv1.CronJobSpec, old *batchv1.CronJob) check.Errors {
	at := specPath.Child("schedule")
	if s.Schedule == "" {
		return check.Errors{field.Required(at, "")}
	}
	var errs check.Errors
	if err := parseSchedule(s.Schedule); err != nil {
		errs = append(errs, field.Invalid(at, s.Schedule, err.Error()))
	}
	zoned, was := strings.Contains(s.Schedule, "TZ"), old != nil && strings.Contains(old.Spec.Schedule, "TZ")
	switch {
	case zoned && !was:
		errs = append(errs, field.Invalid(at, s.Schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"))
	case zoned && s.TimeZone != nil:
		errs = append(errs, field.Invalid(at, s.Schedule, "cannot use both timeZone field and TZ or CRON_TZ in schedule"))
	}
	return errs
}

// parseSchedule reports what the parser makes of a schedule; on one that ends with its time zone it panics.
func parseSchedule(schedule string) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("invalid schedule format: %v", r)
		}
	}()
	_, err = cron.ParseStandard(schedule)
	return err
}

// zoneParts are what the names of time zones consist of. LoadLocation takes them for names of files.
var zoneParts = regexp.MustCompile(`^[A-Za-z._0-9+][A-Za-z._0-9+-]{0,13}$`)

func timeZone(zone *string) check.Errors {
	at := specPath.Child("timeZone")
	if zone == nil {
		return nil
	}
	if *zone == "" {
		return check.Errors{field.Invalid(at, *zone, "timeZone must be nil or non-empty string")}
	}
	for part := range strings.SplitSeq(*zone, "/") {
		if part == "." || part == ".." || !zoneParts.MatchString(part) {
			return check.Errors{field.Invalid(at, *zone, "unknown time zone "+*zone)}
		}
	}
	var errs check.Errors
	if strings.EqualFold(*zone, "Local") {
		errs = append(errs, field.Invalid(at, *zone, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"))
	}
	if _, err := time.LoadLocation(*zone); err != nil {
		errs = append(errs, field.Invalid(at, *zone, err.Error()))
	}
	return errs
}
