// Package apps holds the catalogue's rows of the group apps (deployments, replica sets, stateful sets, daemon sets, controller revisions).
package apps

import (
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/validation"

	"skiff/pkg/api"
)

var gv = appsv1.SchemeGroupVersion

// Kinds returns the group's rows.
func Kinds() []*api.Kind {
	return []*api.Kind{
		deploymentKind(),
		replicaSetKind(),
		statefulSetKind(),
		daemonSetKind(),
		controllerRevisionKind(),
	}
}

func deploymentKind() *api.Kind {
	return api.Define[appsv1.Deployment, appsv1.DeploymentList](gv, "deployments", api.Kind{
		ShortNames:          []string{"deploy"},
		Categories:          []string{"all"},
		Validate:            validateDeployment,
		ValidateUpdate:      validateDeploymentUpdate,
		Warnings:            deploymentWarnings,
		Namespaced:          true,
		UnconditionalUpdate: true,
		HasGeneration:       true,
		Default:             defaultDeployment,
		PrepareForUpdate:    prepareDeploymentUpdate,
		NameValidation:      validation.NameIsDNSSubdomain,
		Subresources: map[string]*api.Subresource{
			"status": {PrepareForUpdate: prepareDeploymentStatus, ValidateUpdate: validateDeploymentStatus, Kept: []string{"spec", "metadata.labels"}},
			"scale":  api.ScaleView(deploymentScale),
		},
		Columns: deploymentColumns,
		Cells:   deploymentCells,
	})
}

func replicaSetKind() *api.Kind {
	return api.Define[appsv1.ReplicaSet, appsv1.ReplicaSetList](gv, "replicasets", api.Kind{
		ShortNames:          []string{"rs"},
		Categories:          []string{"all"},
		Validate:            validateReplicaSet,
		ValidateUpdate:      validateReplicaSetUpdate,
		Warnings:            replicaSetWarnings,
		Namespaced:          true,
		UnconditionalUpdate: true,
		HasGeneration:       true,
		Default:             defaultReplicaSet,
		NameValidation:      validation.NameIsDNSSubdomain,
		Subresources: map[string]*api.Subresource{
			"status": {ValidateUpdate: validateReplicaSetStatus},
			"scale":  api.ScaleView(replicaSetScale),
		},
		Columns: replicaSetColumns,
		Cells:   replicaSetCells,
	})
}

func statefulSetKind() *api.Kind {
	return api.Define[appsv1.StatefulSet, appsv1.StatefulSetList](gv, "statefulsets", api.Kind{
		ShortNames:          []string{"sts"},
		Categories:          []string{"all"},
		Validate:            validateStatefulSet,
		ValidateUpdate:      validateStatefulSetUpdate,
		Warnings:            statefulSetWarnings,
		Namespaced:          true,
		UnconditionalUpdate: true,
		HasGeneration:       true,
		Default:             defaultStatefulSet,
		Decoded:             nameClaims,
		NameValidation:      validation.NameIsDNSLabel,
		Subresources: map[string]*api.Subresource{
			"status": {ValidateUpdate: validateStatefulSetStatus},
			"scale":  api.ScaleView(statefulSetScale),
		},
		Columns: statefulSetColumns,
		Cells:   statefulSetCells,
	})
}

func daemonSetKind() *api.Kind {
	return api.Define[appsv1.DaemonSet, appsv1.DaemonSetList](gv, "daemonsets", api.Kind{
		ShortNames:          []string{"ds"},
		Categories:          []string{"all"},
		Validate:            validateDaemonSet,
		ValidateUpdate:      validateDaemonSetUpdate,
		Warnings:            daemonSetWarnings,
		Namespaced:          true,
		UnconditionalUpdate: true,
		HasGeneration:       true,
		Default:             defaultDaemonSet,
		PrepareForCreate:    prepareDaemonSetCreate,
		PrepareForUpdate:    prepareDaemonSetUpdate,
		NameValidation:      validation.NameIsDNSSubdomain,
		Subresources:        map[string]*api.Subresource{"status": {ValidateUpdate: validateDaemonSetStatus}},
		Columns:             daemonSetColumns,
		Cells:               daemonSetCells,
	})
}

func controllerRevisionKind() *api.Kind {
	return api.Define[appsv1.ControllerRevision, appsv1.ControllerRevisionList](gv, "controllerrevisions", api.Kind{
		Validate:            validateRevision,
		ValidateUpdate:      validateRevisionUpdate,
		Namespaced:          true,
		UnconditionalUpdate: true,
		NameValidation:      validation.NameIsDNSSubdomain,
		Columns:             controllerRevisionColumns,
		Cells:               controllerRevisionCells,
	})
}
