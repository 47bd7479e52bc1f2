package batch

import (
	"maps"
	"math"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"skiff/pkg/api"
	"skiff/pkg/api/core"
)

func defaultJob(obj api.Object) {
	j := obj.(*batchv1.Job)
	s := &j.Spec
	// A job that says neither how often nor how wide runs once.
	if s.Completions == nil && s.Parallelism == nil {
		setIfNil(&s.Completions, 1)
	}
	setIfNil(&s.Parallelism, 1)
	if s.BackoffLimitPerIndex != nil {
		setIfNil(&s.BackoffLimit, math.MaxInt32)
	}
	setIfNil(&s.BackoffLimit, 6)
	labelLikePods(j)
	setIfNil(&s.CompletionMode, batchv1.NonIndexedCompletion)
	setIfNil(&s.Suspend, false)
	if s.PodFailurePolicy != nil {
		setIfNil(&s.PodReplacementPolicy, batchv1.Failed)
	}
	setIfNil(&s.PodReplacementPolicy, batchv1.TerminatingOrFailed)
	setIfNil(&s.ManualSelector, false)
	defaultJobSpec(s)
}

// labelLikePods: a job without labels has those of its pods. Kubernetes doesn't store them, but adds them to what it reads.
func labelLikePods(obj api.Object) {
	if j := obj.(*batchv1.Job); len(j.Labels) == 0 && len(j.Spec.Template.Labels) > 0 {
		j.Labels = maps.Clone(j.Spec.Template.Labels)
	}
}

// defaultJobSpec is what jobs and cron jobs' templates have in common.
func defaultJobSpec(s *batchv1.JobSpec) {
	if p := s.PodFailurePolicy; p != nil {
		for i := range p.Rules {
			for j := range p.Rules[i].OnPodConditions {
				if c := &p.Rules[i].OnPodConditions[j]; c.Status == "" {
					c.Status = corev1.ConditionTrue
				}
			}
		}
	}
	core.DefaultPodTemplate(&s.Template)
}

func defaultCronJob(obj api.Object) {
	s := &obj.(*batchv1.CronJob).Spec
	if s.ConcurrencyPolicy == "" {
		s.ConcurrencyPolicy = batchv1.AllowConcurrent
	}
	setIfNil(&s.Suspend, false)
	setIfNil(&s.SuccessfulJobsHistoryLimit, 3)
	setIfNil(&s.FailedJobsHistoryLimit, 1)
	defaultJobSpec(&s.JobTemplate.Spec)
}

func setIfNil[T any](field **T, v T) {
	if *field == nil {
		*field = &v
	}
}
