package batch

import (
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"skiff/pkg/api"
	"skiff/pkg/api/check"
)

var statusPath = field.NewPath("status")

func isTrue(s *batchv1.JobStatus, condition batchv1.JobConditionType) bool {
	return slices.ContainsFunc(s.Conditions, func(c batchv1.JobCondition) bool { return c.Type == condition && c.Status == corev1.ConditionTrue })
}

func isFinished(s *batchv1.JobStatus) bool {
	return isTrue(s, batchv1.JobComplete) || isTrue(s, batchv1.JobFailed)
}

// validateJobStatus holds every controller of jobs to what their clients expect. Most of it is asked of what
// changes only, so that a status which was wrong before doesn't stop all others.
func validateJobStatus(obj, old api.Object) field.ErrorList {
	j, before := obj.(*batchv1.Job), old.(*batchv1.Job)
	c := statusCheck{spec: &j.Spec, now: &j.Status, was: &before.Status, ended: isFinished(&j.Status)}
	c.counts()
	c.endings()
	c.times()
	c.finished()
	c.indexes()
	c.succeeding()
	c.backwards()
	return c.errs
}

// statusCheck collects what is wrong with a job's new status.
type statusCheck struct {
	spec     *batchv1.JobSpec
	now, was *batchv1.JobStatus
	ended    bool // now
	errs     check.Errors
}

// refuse reports a value if it is wrong.
func (c *statusCheck) refuse(is bool, child string, value any, format string, args ...any) {
	if is {
		c.errs = append(c.errs, field.Invalid(statusPath.Child(child), value, fmt.Sprintf(format, args...)))
	}
}

func (c *statusCheck) refuseConditions(is bool, format string, args ...any) {
	c.refuse(is, "conditions", field.OmitValueType{}, format, args...)
}

func (c *statusCheck) require(is bool, child, reason string) {
	if is {
		c.errs = append(c.errs, field.Required(statusPath.Child(child), reason))
	}
}

// turned reports a condition, or the end, that came or went.
func (c *statusCheck) turned(conditions ...batchv1.JobConditionType) bool {
	return slices.ContainsFunc(conditions, func(t batchv1.JobConditionType) bool { return isTrue(c.now, t) != isTrue(c.was, t) })
}

func (c *statusCheck) endTurned() bool { return c.ended != isFinished(c.was) }

func (c *statusCheck) counts() {
	s := c.now
	c.errs = slices.Concat(c.errs,
		check.NonNegative(statusPath.Child("active"), s.Active),
		check.NonNegative(statusPath.Child("succeeded"), s.Succeeded),
		check.NonNegative(statusPath.Child("failed"), s.Failed),
		check.NonNegativeIf(statusPath.Child("ready"), s.Ready),
		check.NonNegativeIf(statusPath.Child("terminating"), s.Terminating))
	if s.UncountedTerminatedPods == nil {
		return
	}
	seen := map[types.UID]bool{}
	list := func(at *field.Path, uids []types.UID) {
		for i, uid := range uids {
			switch {
			case uid == "":
				c.errs = append(c.errs, field.Invalid(at.Index(i), uid, "must not be empty"))
			case seen[uid]:
				c.errs = append(c.errs, field.Duplicate(at.Index(i), uid))
			}
			seen[uid] = true
		}
	}
	at := statusPath.Child("uncountedTerminatedPods")
	list(at.Child("succeeded"), s.UncountedTerminatedPods.Succeeded)
	list(at.Child("failed"), s.UncountedTerminatedPods.Failed)
}

// endings are the conditions that exclude or need one another.
func (c *statusCheck) endings() {
	complete, failed := isTrue(c.now, batchv1.JobComplete), isTrue(c.now, batchv1.JobFailed)
	c.refuseConditions(complete && failed && c.turned(batchv1.JobComplete, batchv1.JobFailed), "cannot set Complete=True and Failed=true conditions")
	c.refuseConditions(complete && isTrue(c.now, batchv1.JobFailureTarget) && c.turned(batchv1.JobComplete, batchv1.JobFailureTarget), "cannot set Complete=True and FailureTarget=true conditions")
}

func (c *statusCheck) times() {
	s, complete := c.now, isTrue(c.now, batchv1.JobComplete)
	moved := !ptr.Equal(s.CompletionTime, c.was.CompletionTime)
	if moved || c.turned(batchv1.JobComplete) {
		c.refuse(s.CompletionTime != nil && !complete, "completionTime", s.CompletionTime, "cannot set completionTime when there is no Complete=True condition")
		c.require(s.CompletionTime == nil && complete, "completionTime", "completionTime is required for Complete jobs")
	}
	if moved || !ptr.Equal(s.StartTime, c.was.StartTime) {
		c.refuse(s.StartTime != nil && s.CompletionTime != nil && s.CompletionTime.Before(s.StartTime), "completionTime", s.CompletionTime, "must be equal to or after `startTime`")
	}
}

func (c *statusCheck) finished() {
	s := c.now
	if c.turned(batchv1.JobFailed) || !ptr.Equal(s.FailedIndexes, c.was.FailedIndexes) {
		c.refuseConditions(isTrue(s, batchv1.JobFailed) && !isTrue(s, batchv1.JobFailureTarget), "cannot set Failed=True condition without the FailureTarget=true condition")
	}
	c.refuseConditions(isTrue(s, batchv1.JobComplete) && !isTrue(s, batchv1.JobSuccessCriteriaMet) && c.turned(batchv1.JobComplete, batchv1.JobSuccessCriteriaMet),
		"cannot set Complete=True condition without the SuccessCriteriaMet=true condition")
	if c.endTurned() || s.Active != c.was.Active {
		c.refuse(c.ended && s.Active > 0, "active", s.Active, "active>0 is invalid for finished job")
	}
	// A suspended job of nothing to do ends without a start.
	nothing := ptr.Deref(c.spec.Suspend, false) && c.spec.Completions != nil && *c.spec.Completions == 0
	if !nothing && (c.endTurned() || !ptr.Equal(s.StartTime, c.was.StartTime)) {
		c.require(c.ended && s.StartTime == nil, "startTime", "startTime is required for finished job")
	}
	if u := s.UncountedTerminatedPods; c.endTurned() || !equality.Semantic.DeepEqual(u, c.was.UncountedTerminatedPods) {
		c.refuse(c.ended && u != nil && len(u.Failed)+len(u.Succeeded) > 0, "uncountedTerminatedPods", u, "must be empty for finished job")
	}
}

func (c *statusCheck) indexes() {
	s, failed := c.now, ptr.Deref(c.now.FailedIndexes, "")
	completedMoved, failedMoved := s.CompletedIndexes != c.was.CompletedIndexes, !ptr.Equal(s.FailedIndexes, c.was.FailedIndexes)
	readable := func(child, list string) {
		if c.spec.Completions != nil {
			_, err := indexes(list, *c.spec.Completions)
			c.refuse(err != nil, child, list, "error parsing %s: %v", child, err)
		}
	}
	if completedMoved {
		readable("completedIndexes", s.CompletedIndexes)
	}
	if failedMoved && c.spec.BackoffLimitPerIndex != nil {
		readable("failedIndexes", failed)
	}
	c.refuse(completedMoved && s.CompletedIndexes != "" && !isIndexed(c.spec), "completedIndexes", s.CompletedIndexes, "cannot set non-empty completedIndexes when non-indexed completion mode")
	c.refuse(failedMoved && s.FailedIndexes != nil && c.spec.BackoffLimitPerIndex == nil, "failedIndexes", failed, "cannot set non-null failedIndexes when backoffLimitPerIndex is null")
	if (completedMoved || failedMoved) && c.spec.Completions != nil {
		if err := overlap(s.CompletedIndexes, failed, *c.spec.Completions); err != nil {
			c.refuse(true, "failedIndexes", failed, "%v", err)
		}
	}
	if c.endTurned() || !ptr.Equal(s.Terminating, c.was.Terminating) {
		c.refuse(c.ended && ptr.Deref(s.Terminating, 0) > 0, "terminating", s.Terminating, "terminating>0 is invalid for finished job")
	}
	if s.Active != c.was.Active || !ptr.Equal(s.Ready, c.was.Ready) {
		c.refuse(s.Ready != nil && *s.Ready > s.Active, "ready", s.Ready, "cannot set more ready pods than active")
	}
}

func (c *statusCheck) succeeding() {
	met := isTrue(c.now, batchv1.JobSuccessCriteriaMet)
	c.refuseConditions(met && isTrue(c.now, batchv1.JobFailed), "cannot set SuccessCriteriaMet=True and Failed=true conditions")
	c.refuseConditions(met && isTrue(c.now, batchv1.JobFailureTarget), "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions")
	c.refuseConditions(c.spec.SuccessPolicy != nil && !met && isTrue(c.now, batchv1.JobComplete), "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True")
}

// backwards reports what went back: an end that is none any more, counters, times.
func (c *statusCheck) backwards() {
	s, was := c.now, c.was
	for _, t := range []batchv1.JobConditionType{batchv1.JobFailed, batchv1.JobComplete, batchv1.JobFailureTarget} {
		c.refuseConditions(isTrue(was, t) && !isTrue(s, t), "cannot disable the terminal %s=True condition", t)
	}
	c.refuse(s.Failed < was.Failed, "failed", s.Failed, "cannot decrease the failed counter")
	// An indexed job as wide as it is long can be made smaller.
	elastic := isIndexed(c.spec) && ptr.Equal(c.spec.Completions, c.spec.Parallelism)
	c.refuse(s.Succeeded < was.Succeeded && !elastic, "succeeded", s.Succeeded, "cannot decrease the succeeded counter")
	c.refuse(s.CompletionTime != nil && was.CompletionTime != nil && !ptr.Equal(s.CompletionTime, was.CompletionTime), "completionTime", s.CompletionTime, "field is immutable")
	resumed := isTrue(was, batchv1.JobSuspended) && slices.ContainsFunc(s.Conditions, func(c batchv1.JobCondition) bool {
		return c.Type == batchv1.JobSuspended && c.Status == corev1.ConditionFalse
	})
	c.refuse(was.StartTime != nil && !ptr.Equal(s.StartTime, was.StartTime) && !ptr.Deref(c.spec.Suspend, false) && !resumed,
		"startTime", s.StartTime, "field is immutable for unsuspended job once set")
	met, wasMet := isTrue(s, batchv1.JobSuccessCriteriaMet), isTrue(was, batchv1.JobSuccessCriteriaMet)
	c.refuseConditions(wasMet && !met, "cannot disable the SuccessCriteriaMet=True condition")
	c.refuseConditions(isTrue(was, batchv1.JobComplete) && !wasMet && met, "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions")
}
