// Package batch holds the catalogue's rows of the group batch (jobs and cron jobs).
package batch

import (
	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/api"
)

var gv = batchv1.SchemeGroupVersion

// Kinds returns the group's rows.
func Kinds() []*api.Kind {
	return []*api.Kind{jobKind(), cronJobKind()}
}

func jobKind() *api.Kind {
	return api.Define[batchv1.Job, batchv1.JobList](gv, "jobs", api.Kind{
		Categories:          []string{"all"},
		Validate:            validateJob,
		ValidateUpdate:      validateJobUpdate,
		Warnings:            jobWarnings,
		DeletionWarnings:    jobDeletionWarnings,
		Namespaced:          true,
		UnconditionalUpdate: true,
		HasGeneration:       true,
		// batch/v1 predates garbage collection: a job's pods stay unless asked otherwise.
		DefaultGarbageCollection: metav1.DeletePropagationOrphan,
		Default:                  defaultJob,
		Decoded:                  labelLikePods,
		PrepareForCreate:         prepareJobCreate,
		NameValidation:           validation.NameIsDNSSubdomain,
		SelectableFields:         jobFields,
		UnknownField:             "field label %q not supported for Job",
		Subresources:             map[string]*api.Subresource{"status": {ValidateUpdate: validateJobStatus}},
		Columns:                  jobColumns,
		Cells:                    jobCells,
	})
}

func cronJobKind() *api.Kind {
	return api.Define[batchv1.CronJob, batchv1.CronJobList](gv, "cronjobs", api.Kind{
		ShortNames:          []string{"cj"},
		Categories:          []string{"all"},
		Validate:            validateCronJob,
		ValidateUpdate:      validateCronJobUpdate,
		Warnings:            cronJobWarnings,
		Namespaced:          true,
		UnconditionalUpdate: true,
		HasGeneration:       true,
		Default:             defaultCronJob,
		NameValidation:      validation.NameIsDNSSubdomain,
		Subresources:        map[string]*api.Subresource{"status": api.StatusView()},
		Columns:             cronJobColumns,
		Cells:               cronJobCells,
	})
}
