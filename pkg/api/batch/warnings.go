package batch

import (
	"fmt"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api"
	"skiff/pkg/api/core"
)

func jobWarnings(obj, old api.Object) []string {
	return warnings(specPath, &obj.(*batchv1.Job).Spec, obj, old)
}

func cronJobWarnings(obj, old api.Object) []string {
	s := &obj.(*batchv1.CronJob).Spec
	list := warnings(specPath.Child("jobTemplate", "spec"), &s.JobTemplate.Spec, obj, old)
	if old != nil && strings.Contains(s.Schedule, "TZ") {
		list = append(list, "cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details")
	}
	return list
}

// warnings are those of a job's name, when it is new, and of its spec, when that is.
func warnings(at *field.Path, s *batchv1.JobSpec, obj, old api.Object) []string {
	var list []string
	switch {
	case old == nil:
		list = core.PodNameWarning(obj.GetName())
	case obj.GetGeneration() == old.GetGeneration():
		return nil
	}
	if isIndexed(s) && s.Completions != nil && *s.Completions > maxIndexed && s.Parallelism != nil && *s.Parallelism > maxParallel {
		list = append(list, fmt.Sprintf("%s: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail", at))
	}
	return append(list, core.TemplateWarnings(at.Child("template"), &s.Template)...)
}

func jobDeletionWarnings(o *metav1.DeleteOptions) []string {
	if o.PropagationPolicy != nil || o.OrphanDependents != nil {
		return nil
	}
	return []string{"child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning"}
}
