package batch

import (
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api"
	"skiff/pkg/api/check"
	"skiff/pkg/api/core"
)

var specPath = field.NewPath("spec")

func validateJob(obj api.Object) field.ErrorList {
	return wholeJob(obj.(*batchv1.Job), nil)
}

func wholeJob(j, old *batchv1.Job) check.Errors {
	var before *corev1.PodTemplateSpec
	if old != nil {
		before = &old.Spec.Template
	}
	errs := slices.Concat(generatedSelector(j, before), jobSpec(specPath, &j.Spec, before), jobSelector(&j.Spec, old))
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

// generatedSelector: unless its author took charge of it, a job's selector is made of its uid. A job from before 1.27
// has the labels of that time only.
func generatedSelector(j *batchv1.Job, old *corev1.PodTemplateSpec) check.Errors {
	if j.Spec.ManualSelector != nil && *j.Spec.ManualSelector || j.Spec.Selector == nil {
		return nil
	}
	want := labels.Set{legacyControllerUID: string(j.UID), legacyJobName: j.Name}
	keys := []string{legacyControllerUID, legacyJobName}
	if old == nil || labels.Set(old.Labels).Has(batchv1.ControllerUidLabel) && labels.Set(old.Labels).Has(batchv1.JobNameLabel) {
		want[batchv1.ControllerUidLabel], want[batchv1.JobNameLabel] = string(j.UID), j.Name
		keys = append(keys, batchv1.ControllerUidLabel, batchv1.JobNameLabel)
	}
	at := specPath.Child("template", "metadata", "labels")
	var errs check.Errors
	for _, key := range keys {
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

func jobSelector(s *batchv1.JobSpec, old *batchv1.Job) check.Errors {
	var errs check.Errors
	if s.Selector == nil {
		errs = append(errs, field.Required(specPath.Child("selector"), ""))
	} else {
		lax := old != nil && metavalidation.LabelSelectorHasInvalidLabelValue(old.Spec.Selector)
		errs = check.Selector(specPath.Child("selector"), s.Selector, lax)
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
	}
	errs = slices.Concat(errs, podFailurePolicy(at.Child("podFailurePolicy"), s), successPolicy(at.Child("successPolicy"), s))
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

// How many indexes a job can keep books of, and how many pods at once when it has more.
const maxIndexed, maxParallel = 100_000, 10_000

func indexed(at *field.Path, s *batchv1.JobSpec) check.Errors {
	const most, many = maxIndexed, maxParallel
	var errs check.Errors
	above := func(child string, n *int32, limit int32, format string, args ...any) {
		if n != nil && *n > limit {
			errs = append(errs, field.Invalid(at.Child(child), *n, fmt.Sprintf(format, args...)))
		}
	}
	if s.Completions == nil {
		errs = append(errs, field.Required(at.Child("completions"), "when completion mode is Indexed"))
	}
	above("parallelism", s.Parallelism, most, "must be less than or equal to %d when completion mode is Indexed", most)
	if s.Completions != nil {
		above("maxFailedIndexes", s.MaxFailedIndexes, *s.Completions, "must be less than or equal to completions")
	}
	above("maxFailedIndexes", s.MaxFailedIndexes, most, "must be less than or equal to %d", most)
	if s.Completions != nil && *s.Completions > most && s.BackoffLimitPerIndex != nil {
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
	j, before := obj.(*batchv1.Job), old.(*batchv1.Job)
	s, was := &j.Spec, &before.Spec
	completions := check.Immutable(specPath.Child("completions"), s.Completions, was.Completions)
	if isIndexed(s) && len(completions) > 0 {
		completions = nil
		if s.Completions != nil && (s.Parallelism == nil || *s.Completions != *s.Parallelism) {
			completions = check.Errors{field.Invalid(specPath.Child("completions"), *s.Completions, "can only be modified in tandem with spec.parallelism")}
		}
	}
	return slices.Concat(wholeJob(j, before), completions,
		check.Immutable(specPath.Child("selector"), s.Selector, was.Selector),
		jobTemplateKept(s, before),
		check.Immutable(specPath.Child("completionMode"), s.CompletionMode, was.CompletionMode),
		check.Immutable(specPath.Child("podFailurePolicy"), s.PodFailurePolicy, was.PodFailurePolicy),
		check.Immutable(specPath.Child("backoffLimitPerIndex"), s.BackoffLimitPerIndex, was.BackoffLimitPerIndex),
		check.Immutable(specPath.Child("managedBy"), s.ManagedBy, was.ManagedBy),
		check.Immutable(specPath.Child("successPolicy"), s.SuccessPolicy, was.SuccessPolicy),
	)
}

// jobTemplateKept: as long as a job is suspended and has no pods, where its pods go and what they get can change.
func jobTemplateKept(s *batchv1.JobSpec, old *batchv1.Job) check.Errors {
	at, was := specPath.Child("template"), &old.Spec
	if was.Suspend == nil || !*was.Suspend || old.Status.Active > 0 || old.Status.StartTime != nil && !isTrue(&old.Status, batchv1.JobSuspended) {
		return check.Immutable(at, s.Template, was.Template)
	}
	now, before := &s.Template.Spec, was.Template.Spec.DeepCopy()
	before.NodeSelector, before.Tolerations, before.SchedulingGates = now.NodeSelector, now.Tolerations, now.SchedulingGates
	switch {
	case now.Affinity != nil:
		if before.Affinity == nil {
			before.Affinity = &corev1.Affinity{}
		}
		before.Affinity.NodeAffinity = now.Affinity.NodeAffinity
	case before.Affinity != nil && before.Affinity.PodAffinity == nil && before.Affinity.PodAntiAffinity == nil:
		before.Affinity = nil
	case before.Affinity != nil:
		before.Affinity.NodeAffinity = nil
	}
	for _, lists := range [][2][]corev1.Container{{now.Containers, before.Containers}, {now.InitContainers, before.InitContainers}} {
		for i := 0; i < len(lists[0]) && len(lists[0]) == len(lists[1]); i++ {
			if lists[0][i].Name == lists[1][i].Name {
				lists[1][i].Resources = lists[0][i].Resources
			}
		}
	}
	return check.Immutable(specPath.Child("template.spec"), *now, *before)
}
