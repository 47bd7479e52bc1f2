package batch

import (
	"fmt"
	"slices"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api"
	"skiff/pkg/api/check"
	"skiff/pkg/api/core"
)

var specPath = field.NewPath("spec")

func validateJob(obj api.Object) field.ErrorList {
	j := obj.(*batchv1.Job)
	errs := slices.Concat(generatedSelector(j), jobSpec(specPath, &j.Spec, nil), jobSelector(&j.Spec))
	if n := j.Spec.Completions; isIndexed(&j.Spec) && n != nil && *n > 0 {
		longest := fmt.Sprintf("%s-%d", j.Name, *n-1)
		if len(utilvalidation.IsDNS1123Label(longest)) > 0 {
			errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), j.Name, "will not able to create pod with invalid DNS label: "+longest))
		}
	}
	return errs
}

func isIndexed(s *batchv1.JobSpec) bool {
	return s.CompletionMode != nil && *s.CompletionMode == batchv1.IndexedCompletion
}

// generatedSelector: unless its author took charge of it, a job's selector is made of its uid.
func generatedSelector(j *batchv1.Job) check.Errors {
	if j.Spec.ManualSelector != nil && *j.Spec.ManualSelector || j.Spec.Selector == nil {
		return nil
	}
	want := labels.Set{"controller-uid": string(j.UID), "job-name": j.Name, batchv1.ControllerUidLabel: string(j.UID), batchv1.JobNameLabel: j.Name}
	at := specPath.Child("template", "metadata", "labels")
	var errs check.Errors
	for _, key := range []string{"controller-uid", "job-name", batchv1.ControllerUidLabel, batchv1.JobNameLabel} {
		if v, ok := j.Spec.Template.Labels[key]; !ok {
			errs = append(errs, field.Required(at.Key(key), fmt.Sprintf("must be '%s'", want[key])))
		} else if v != want[key] {
			errs = append(errs, field.Invalid(at.Key(key), j.Spec.Template.Labels, fmt.Sprintf("must be '%s'", want[key])))
		}
	}
	if s, err := metav1.LabelSelectorAsSelector(j.Spec.Selector); err == nil && !s.Matches(want) {
		errs = append(errs, field.Invalid(specPath.Child("selector"), j.Spec.Selector, "`selector` not auto-generated"))
	}
	return errs
}

func jobSelector(s *batchv1.JobSpec) check.Errors {
	var errs check.Errors
	if s.Selector == nil {
		errs = append(errs, field.Required(specPath.Child("selector"), ""))
	} else {
		errs = check.Selector(specPath.Child("selector"), s.Selector, false)
	}
	if selector, err := metav1.LabelSelectorAsSelector(s.Selector); err == nil && !selector.Matches(labels.Set(s.Template.Labels)) {
		errs = append(errs, field.Invalid(specPath.Child("template", "metadata", "labels"), s.Template.Labels, "`selector` does not match template `labels`"))
	}
	return errs
}

func jobSpec(at *field.Path, s *batchv1.JobSpec, old *corev1.PodTemplateSpec) check.Errors {
	errs := slices.Concat(
		check.NonNegativeIf(at.Child("parallelism"), s.Parallelism),
		check.NonNegativeIf(at.Child("completions"), s.Completions),
		check.NonNegativeIf(at.Child("activeDeadlineSeconds"), s.ActiveDeadlineSeconds),
		check.NonNegativeIf(at.Child("backoffLimit"), s.BackoffLimit),
		check.NonNegativeIf(at.Child("ttlSecondsAfterFinished"), s.TTLSecondsAfterFinished),
		check.NonNegativeIf(at.Child("backoffLimitPerIndex"), s.BackoffLimitPerIndex),
		check.NonNegativeIf(at.Child("maxFailedIndexes"), s.MaxFailedIndexes),
	)
	if s.MaxFailedIndexes != nil && s.BackoffLimitPerIndex == nil {
		errs = append(errs, field.Required(at.Child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"))
	}
	if n := s.ManagedBy; n != nil {
		errs = append(errs, utilvalidation.IsDomainPrefixedPath(at.Child("managedBy"), *n)...)
		if len(*n) > 63 {
			errs = append(errs, field.TooLong(at.Child("managedBy"), "", 63))
		}
	}
	if m := s.CompletionMode; m != nil {
		errs = append(errs, check.OneOf(at.Child("completionMode"), *m, batchv1.NonIndexedCompletion, batchv1.IndexedCompletion)...)
	}
	if isIndexed(s) {
		errs = append(errs, indexed(at, s)...)
	} else if s.CompletionMode == nil || *s.CompletionMode == batchv1.NonIndexedCompletion {
		const refusal = "requires indexed completion mode"
		if n := s.BackoffLimitPerIndex; n != nil {
			errs = append(errs, field.Invalid(at.Child("backoffLimitPerIndex"), *n, refusal))
		}
		if n := s.MaxFailedIndexes; n != nil {
			errs = append(errs, field.Invalid(at.Child("maxFailedIndexes"), *n, refusal))
		}
		if s.SuccessPolicy != nil {
			errs = append(errs, field.Invalid(at.Child("successPolicy"), *s.SuccessPolicy, refusal))
		}
	}
	if p := s.PodReplacementPolicy; p != nil && s.PodFailurePolicy != nil {
		errs = append(errs, check.OneOf(at.Child("podReplacementPolicy"), *p, batchv1.Failed)...)
	} else if p != nil {
		errs = append(errs, check.OneOf(at.Child("podReplacementPolicy"), *p, batchv1.Failed, batchv1.TerminatingOrFailed)...)
	}
	errs = append(errs, core.ValidatePodTemplate(at.Child("template"), &s.Template, old)...)
	restart := at.Child("template", "spec", "restartPolicy")
	switch p := s.Template.Spec.RestartPolicy; {
	case p == corev1.RestartPolicyAlways || p == "":
		errs = append(errs, field.Required(restart, `valid values: "OnFailure", "Never"`))
	case p != corev1.RestartPolicyOnFailure && p != corev1.RestartPolicyNever:
		errs = append(errs, field.NotSupported(restart, p, []corev1.RestartPolicy{corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever}))
	case s.PodFailurePolicy != nil && p != corev1.RestartPolicyNever:
		errs = append(errs, field.Invalid(restart, p, `only "Never" is supported when podFailurePolicy is specified`))
	}
	return errs
}

func indexed(at *field.Path, s *batchv1.JobSpec) check.Errors {
	const most, many = 100_000, 10_000
	var errs check.Errors
	above := func(child string, n *int32, limit int32, format string, args ...any) {
		if n != nil && *n > limit {
			errs = append(errs, field.Invalid(at.Child(child), *n, fmt.Sprintf(format, args...)))
		}
	}
	above("parallelism", s.Parallelism, most, "must be less than or equal to %d when completion mode is Indexed", most)
	if s.Completions == nil {
		return append(errs, field.Required(at.Child("completions"), "when completion mode is Indexed"))
	}
	above("maxFailedIndexes", s.MaxFailedIndexes, *s.Completions, "must be less than or equal to completions")
	above("maxFailedIndexes", s.MaxFailedIndexes, most, "must be less than or equal to %d", most)
	if *s.Completions > most && s.BackoffLimitPerIndex != nil {
		if s.MaxFailedIndexes == nil {
			errs = append(errs, field.Required(at.Child("maxFailedIndexes"), fmt.Sprintf("must be specified when completions is above %d", most)))
		}
		const format = "must be less than or equal to %d when completions are above %d and used with backoff limit per index"
		above("parallelism", s.Parallelism, many, format, many, most)
		above("maxFailedIndexes", s.MaxFailedIndexes, many, format, many, most)
	}
	return errs
}

func validateJobUpdate(obj, old api.Object) field.ErrorList {
	s, was := &obj.(*batchv1.Job).Spec, &old.(*batchv1.Job).Spec
	errs := slices.Concat(jobSpec(specPath, s, &was.Template), jobSelector(s))
	completions := check.Immutable(specPath.Child("completions"), s.Completions, was.Completions)
	if isIndexed(s) && len(completions) > 0 {
		completions = nil
		if s.Completions != nil && (s.Parallelism == nil || *s.Completions != *s.Parallelism) {
			completions = check.Errors{field.Invalid(specPath.Child("completions"), *s.Completions, "can only be modified in tandem with spec.parallelism")}
		}
	}
	return slices.Concat(errs, completions,
		check.Immutable(specPath.Child("selector"), s.Selector, was.Selector),
		jobTemplateKept(s, was),
		check.Immutable(specPath.Child("completionMode"), s.CompletionMode, was.CompletionMode),
		check.Immutable(specPath.Child("podFailurePolicy"), s.PodFailurePolicy, was.PodFailurePolicy),
		check.Immutable(specPath.Child("backoffLimitPerIndex"), s.BackoffLimitPerIndex, was.BackoffLimitPerIndex),
		check.Immutable(specPath.Child("managedBy"), s.ManagedBy, was.ManagedBy),
		check.Immutable(specPath.Child("successPolicy"), s.SuccessPolicy, was.SuccessPolicy),
	)
}

// jobTemplateKept: as long as a job is suspended, where its pods go and what they get can change.
func jobTemplateKept(s, was *batchv1.JobSpec) check.Errors {
	if was.Suspend == nil || !*was.Suspend {
		return check.Immutable(specPath.Child("template"), s.Template, was.Template)
	}
	now, before := s.Template.DeepCopy(), was.Template.DeepCopy()
	now.Labels, now.Annotations = before.Labels, before.Annotations
	now.Spec.NodeSelector, now.Spec.Tolerations, now.Spec.SchedulingGates = before.Spec.NodeSelector, before.Spec.Tolerations, before.Spec.SchedulingGates
	for _, t := range []*corev1.PodTemplateSpec{now, before} {
		if a := t.Spec.Affinity; a != nil {
			a.NodeAffinity = nil
			if a.PodAffinity == nil && a.PodAntiAffinity == nil {
				t.Spec.Affinity = nil
			}
		}
	}
	for _, lists := range [][2][]corev1.Container{{now.Spec.Containers, before.Spec.Containers}, {now.Spec.InitContainers, before.Spec.InitContainers}} {
		for i := 0; i < len(lists[0]) && len(lists[0]) == len(lists[1]); i++ {
			lists[0][i].Resources = lists[1][i].Resources
		}
	}
	return check.Immutable(specPath.Child("template.spec"), now.Spec, before.Spec)
}

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
	errs := check.Required(specPath.Child("schedule"), s.Schedule)
	if strings.Contains(s.Schedule, "TZ") && (old == nil || !strings.Contains(old.Spec.Schedule, "TZ")) {
		errs = append(errs, field.Invalid(specPath.Child("schedule"), s.Schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"))
	}
	errs = append(errs, check.NonNegativeIf(specPath.Child("startingDeadlineSeconds"), s.StartingDeadlineSeconds)...)
	if z := s.TimeZone; z != nil {
		at := specPath.Child("timeZone")
		if *z == "" {
			errs = append(errs, field.Invalid(at, *z, "timeZone must be nil or non-empty string"))
		} else if strings.EqualFold(*z, "Local") {
			errs = append(errs, field.Invalid(at, *z, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"))
		} else if _, err := time.LoadLocation(*z); err != nil {
			errs = append(errs, field.Invalid(at, *z, err.Error()))
		}
	}
	var before *corev1.PodTemplateSpec
	if old != nil {
		before = &old.Spec.JobTemplate.Spec.Template
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
