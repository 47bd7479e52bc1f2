package core

import (
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/pkg/api"
)

var gv = corev1.SchemeGroupVersion

// Kinds returns the group's rows.
func Kinds() []*api.Kind {
	return []*api.Kind{
		podKind(), podTemplateKind(), replicationControllerKind(),
		serviceKind(), endpointsKind(),
		nodeKind(), namespaceKind(),
		configMapKind(), secretKind(), serviceAccountKind(),
		persistentVolumeKind(), persistentVolumeClaimKind(),
		limitRangeKind(), resourceQuotaKind(),
		eventKind(), bindingKind(), componentStatusKind(),
	}
}

func podKind() *api.Kind {
	stream := []string{"create", "get"}
	return api.Define[corev1.Pod, corev1.PodList](gv, "pods", api.Kind{
		ShortNames:          []string{"po"},
		Categories:          []string{"all"},
		Validate:            validatePod,
		ValidateUpdate:      validatePodUpdate,
		Warnings:            podWarnings,
		Namespaced:          true,
		UnconditionalUpdate: true,
		HasGeneration:       true,
		Default:             defaultPod,
		PrepareForCreate:    preparePodCreate,
		ReturnsDeleted:      true,
		NameValidation:      validation.NameIsDNSSubdomain,
		SelectableFields:    podFields,
		FieldAliases:        map[string]string{"spec.host": "spec.nodeName", "status.podIPs": "status.podIP"},
		GraceSeconds:        podGraceSeconds,
		Subresources: map[string]*api.Subresource{
			"status":              {PrepareForUpdate: preparePodStatus, ValidateUpdate: validatePodStatus, Kept: []string{"spec", "metadata.deletionTimestamp", "metadata.ownerReferences"}},
			"ephemeralcontainers": {PrepareForUpdate: prepareEphemeralContainers, ValidateUpdate: validateEphemeralContainers},
			"resize":              {PrepareForUpdate: prepareResize, ValidateUpdate: validateResize},
			"binding":             api.Action(gv.WithKind("Binding"), func() runtime.Object { return &corev1.Binding{} }, "create"),
			"eviction":            api.Action(policyv1.SchemeGroupVersion.WithKind("Eviction"), func() runtime.Object { return &policyv1.Eviction{} }, "create"),
			"log":                 api.Action(gv.WithKind("Pod"), nil, "get"),
			"exec":                api.Action(gv.WithKind("PodExecOptions"), nil, stream...),
			"attach":              api.Action(gv.WithKind("PodAttachOptions"), nil, stream...),
			"portforward":         api.Action(gv.WithKind("PodPortForwardOptions"), nil, stream...),
			"proxy":               api.Action(gv.WithKind("PodProxyOptions"), nil, proxyVerbs...),
		},
		Columns:       podColumns,
		Cells:         podCells,
		RowConditions: podRowConditions,
	})
}

var proxyVerbs = []string{"create", "delete", "get", "patch", "update"}

func podTemplateKind() *api.Kind {
	return api.Define[corev1.PodTemplate, corev1.PodTemplateList](gv, "podtemplates", api.Kind{
		Validate:            validatePodTemplate,
		ValidateUpdate:      validatePodTemplateUpdate,
		Warnings:            podTemplateWarnings,
		Namespaced:          true,
		UnconditionalUpdate: true,
		HasGeneration:       true,
		Default:             defaultPodTemplate,
		ReturnsDeleted:      true,
		NameValidation:      validation.NameIsDNSSubdomain,
		Columns:             podTemplateColumns,
		Cells:               podTemplateCells,
	})
}

func replicationControllerKind() *api.Kind {
	return api.Define[corev1.ReplicationController, corev1.ReplicationControllerList](gv, "replicationcontrollers", api.Kind{
		ShortNames:          []string{"rc"},
		Categories:          []string{"all"},
		Validate:            validateReplicationController,
		ValidateUpdate:      validateReplicationControllerUpdate,
		Warnings:            replicationControllerWarnings,
		Namespaced:          true,
		StoragePath:         "controllers",
		UnconditionalUpdate: true,
		HasGeneration:       true,
		// v1 predates garbage collection: its pods stay unless asked otherwise.
		DefaultGarbageCollection: metav1.DeletePropagationOrphan,
		Default:                  defaultReplicationController,
		NameValidation:           api.LongName,
		SelectableFields:         replicationControllerFields,
		Subresources: map[string]*api.Subresource{
			"status": {ValidateUpdate: validateReplicationControllerStatus},
			"scale":  api.ScaleView(replicationControllerScale),
		},
		Columns: replicationControllerColumns,
		Cells:   replicationControllerCells,
	})
}

func serviceKind() *api.Kind {
	return api.Define[corev1.Service, corev1.ServiceList](gv, "services", api.Kind{
		ShortNames:          []string{"svc"},
		Categories:          []string{"all"},
		Validate:            validateService,
		ValidateUpdate:      validateServiceUpdate,
		Warnings:            serviceWarnings,
		Namespaced:          true,
		StoragePath:         "services/specs",
		UnconditionalUpdate: true,
		CreateOnUpdate:      true,
		Default:             defaultService,
		PrepareForCreate:    prepareServiceCreate,
		PrepareForUpdate:    prepareServiceUpdate,
		ReturnsDeleted:      true,
		NameValidation:      validation.NameIsDNSLabel,
		SelectableFields:    serviceFields,
		Subresources: map[string]*api.Subresource{
			"status": {ValidateUpdate: validateServiceStatus},
			"proxy":  api.Action(gv.WithKind("ServiceProxyOptions"), nil, proxyVerbs...),
		},
		Columns: serviceColumns,
		Cells:   serviceCells,
	})
}

func endpointsKind() *api.Kind {
	return api.Define[corev1.Endpoints, corev1.EndpointsList](gv, "endpoints", api.Kind{
		Singular:            "endpoints",
		ShortNames:          []string{"ep"},
		Validate:            validateEndpoints,
		ValidateUpdate:      validateEndpointsUpdate,
		Warnings:            endpointsWarnings,
		Namespaced:          true,
		StoragePath:         "services/endpoints",
		UnconditionalUpdate: true,
		CreateOnUpdate:      true,
		Default:             defaultEndpoints,
		NameValidation:      validation.NameIsDNSSubdomain,
		Columns:             endpointsColumns,
		Cells:               endpointsCells,
	})
}

func nodeKind() *api.Kind {
	return api.Define[corev1.Node, corev1.NodeList](gv, "nodes", api.Kind{
		ShortNames:          []string{"no"},
		StoragePath:         "minions",
		Validate:            validateNode,
		ValidateUpdate:      validateNodeUpdate,
		Warnings:            nodeWarnings,
		UnconditionalUpdate: true,
		KeepsStatusOnCreate: true,
		Default:             defaultNode,
		PrepareForCreate:    prepareNodeCreate,
		PrepareForUpdate:    prepareNodeUpdate,
		NameValidation:      validation.NameIsDNSSubdomain,
		SelectableFields:    nodeFields,
		Subresources: map[string]*api.Subresource{
			"status": {PrepareForUpdate: prepareNodeStatus, ValidateUpdate: validateNodeStatus},
			"proxy":  api.Action(gv.WithKind("NodeProxyOptions"), nil, proxyVerbs...),
		},
		Columns: nodeColumns,
		Cells:   nodeCells,
	})
}

func namespaceKind() *api.Kind {
	return api.Define[corev1.Namespace, corev1.NamespaceList](gv, "namespaces", api.Kind{
		ShortNames:          []string{"ns"},
		Verbs:               []string{"create", "delete", "get", "list", "patch", "update", "watch"},
		Validate:            validateNamespace,
		ValidateUpdate:      validateNamespaceUpdate,
		UnconditionalUpdate: true,
		Default:             defaultNamespace,
		PrepareForCreate:    prepareNamespaceCreate,
		PrepareForUpdate:    prepareNamespaceUpdate,
		ReturnsDeleted:      true,
		NameValidation:      validation.ValidateNamespaceName,
		SelectableFields:    namespaceFields,
		Subresources: map[string]*api.Subresource{
			"status":   {ValidateUpdate: validateNamespaceStatus},
			"finalize": {Verbs: []string{"update"}, PrepareForUpdate: prepareNamespaceFinalize, ValidateUpdate: validateNamespaceFinalize},
		},
		Columns: namespaceColumns,
		Cells:   namespaceCells,
	})
}

func configMapKind() *api.Kind {
	return api.Define[corev1.ConfigMap, corev1.ConfigMapList](gv, "configmaps", api.Kind{
		ShortNames:          []string{"cm"},
		Validate:            validateConfigMap,
		ValidateUpdate:      validateConfigMapUpdate,
		Namespaced:          true,
		UnconditionalUpdate: true,
		NameValidation:      validation.NameIsDNSSubdomain,
		Columns:             configMapColumns,
		Cells:               configMapCells,
	})
}

func secretKind() *api.Kind {
	return api.Define[corev1.Secret, corev1.SecretList](gv, "secrets", api.Kind{
		Validate:            validateSecret,
		ValidateUpdate:      validateSecretUpdate,
		Warnings:            secretWarnings,
		Namespaced:          true,
		UnconditionalUpdate: true,
		Default:             defaultSecret,
		PrepareForUpdate:    prepareSecretUpdate,
		NameValidation:      validation.NameIsDNSSubdomain,
		SelectableFields:    secretFields,
		Columns:             secretColumns,
		Cells:               secretCells,
	})
}

func serviceAccountKind() *api.Kind {
	return api.Define[corev1.ServiceAccount, corev1.ServiceAccountList](gv, "serviceaccounts", api.Kind{
		ShortNames:          []string{"sa"},
		Warnings:            serviceAccountWarnings,
		Namespaced:          true,
		UnconditionalUpdate: true,
		PrepareForCreate:    prepareServiceAccountCreate,
		PrepareForUpdate:    prepareServiceAccountUpdate,
		ReturnsDeleted:      true,
		NameValidation:      validation.ValidateServiceAccountName,
		Subresources: map[string]*api.Subresource{
			"token": api.Action(authenticationv1.SchemeGroupVersion.WithKind("TokenRequest"),
				func() runtime.Object { return &authenticationv1.TokenRequest{} }, "create"),
		},
		Columns: serviceAccountColumns,
		Cells:   serviceAccountCells,
	})
}

func persistentVolumeKind() *api.Kind {
	return api.Define[corev1.PersistentVolume, corev1.PersistentVolumeList](gv, "persistentvolumes", api.Kind{
		ShortNames:          []string{"pv"},
		Validate:            validateVolume,
		ValidateUpdate:      validateVolumeUpdate,
		Warnings:            volumeWarnings,
		UnconditionalUpdate: true,
		Default:             defaultPersistentVolume,
		PrepareForCreate:    prepareVolumeCreate,
		ReturnsDeleted:      true,
		NameValidation:      validation.NameIsDNSSubdomain,
		Subresources:        map[string]*api.Subresource{"status": api.StatusViewWith(prepareVolumeStatus)},
		Columns:             volumeColumns,
		Cells:               volumeCells,
	})
}

func persistentVolumeClaimKind() *api.Kind {
	return api.Define[corev1.PersistentVolumeClaim, corev1.PersistentVolumeClaimList](gv, "persistentvolumeclaims", api.Kind{
		ShortNames:          []string{"pvc"},
		Validate:            validateClaim,
		ValidateUpdate:      validateClaimUpdate,
		Warnings:            claimWarnings,
		Namespaced:          true,
		UnconditionalUpdate: true,
		Default:             defaultPersistentVolumeClaim,
		Decoded:             defaultPersistentVolumeClaim, // Kubernetes stores new claims without their phase
		PrepareForCreate:    prepareClaimCreate,
		PrepareForUpdate:    prepareClaimUpdate,
		ReturnsDeleted:      true,
		NameValidation:      validation.NameIsDNSSubdomain,
		Subresources:        map[string]*api.Subresource{"status": {ValidateUpdate: validateClaimStatus}},
		Columns:             claimColumns,
		Cells:               claimCells,
	})
}

func limitRangeKind() *api.Kind {
	return api.Define[corev1.LimitRange, corev1.LimitRangeList](gv, "limitranges", api.Kind{
		ShortNames:          []string{"limits"},
		Validate:            validateLimitRange,
		ValidateUpdate:      validateLimitRangeUpdate,
		Namespaced:          true,
		UnconditionalUpdate: true,
		CreateOnUpdate:      true,
		Default:             defaultLimitRange,
		PrepareForCreate:    prepareLimitRangeCreate,
		NameValidation:      validation.NameIsDNSSubdomain,
	})
}

func resourceQuotaKind() *api.Kind {
	return api.Define[corev1.ResourceQuota, corev1.ResourceQuotaList](gv, "resourcequotas", api.Kind{
		ShortNames:          []string{"quota"},
		Validate:            validateQuota,
		ValidateUpdate:      validateQuotaUpdate,
		Namespaced:          true,
		UnconditionalUpdate: true,
		Default:             defaultResourceQuota,
		ReturnsDeleted:      true,
		NameValidation:      validation.NameIsDNSSubdomain,
		Subresources:        map[string]*api.Subresource{"status": {ValidateUpdate: validateQuotaStatus}},
		Columns:             resourceQuotaColumns,
		Cells:               resourceQuotaCells,
	})
}

func eventKind() *api.Kind {
	return api.Define[corev1.Event, corev1.EventList](gv, "events", api.Kind{
		ShortNames:          []string{"ev"},
		Validate:            validateEvent,
		ValidateUpdate:      validateEventUpdate,
		Namespaced:          true,
		UnconditionalUpdate: true,
		CreateOnUpdate:      true,
		AnyFinalizer:        true,
		NameValidation:      api.PathSegment,
		TTL:                 EventTTL,
		SelectableFields:    EventFields,
		Columns:             EventColumns,
		Cells:               EventCells,
	})
}

func bindingKind() *api.Kind {
	return api.DefineVirtual[corev1.Binding](gv, "bindings", api.Kind{Namespaced: true, Validate: ValidateBinding})
}

// Component statuses were computed by asking etcd, scheduler and controllers; deprecated
// since 1.19, they are still listed.
func componentStatusKind() *api.Kind {
	k := api.DefineVirtual[corev1.ComponentStatus](gv, "componentstatuses", api.Kind{
		ShortNames: []string{"cs"},
		Verbs:      []string{"get", "list"},
		Columns:    componentStatusColumns,
		Cells:      componentStatusCells,
	})
	k.NewList = func() runtime.Object { return &corev1.ComponentStatusList{} }
	return k
}
