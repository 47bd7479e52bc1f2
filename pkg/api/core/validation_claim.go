package core

import (
	"fmt"
	"maps"
	"path"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/diff"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api"
	"skiff/pkg/api/check"
)

// TemplateMeta is the rule for metadata of which nothing else would be used.
func TemplateMeta(at *field.Path, m *metav1.ObjectMeta) check.Errors {
	return slices.Concat(
		validation.ValidateAnnotations(m.Annotations, at.Child("annotations")),
		metavalidation.ValidateLabels(m.Labels, at.Child("labels")),
		onlyFields(at, reflect.ValueOf(*m), map[string]bool{"Annotations": true, "Labels": true}, "cannot be set"),
	)
}

func modesKnown(at *field.Path, modes []corev1.PersistentVolumeAccessMode) check.Errors {
	var errs check.Errors
	for _, m := range modes {
		errs = append(errs, check.OneOf(at, m, corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod)...)
	}
	if slices.Contains(modes, corev1.ReadWriteOncePod) && slices.ContainsFunc(modes, func(m corev1.PersistentVolumeAccessMode) bool {
		return m == corev1.ReadOnlyMany || m == corev1.ReadWriteMany || m == corev1.ReadWriteOnce
	}) {
		errs = append(errs, field.Forbidden(at, "may not use ReadWriteOncePod with other access modes"))
	}
	return errs
}

func volumeMode(at *field.Path, m *corev1.PersistentVolumeMode) check.Errors {
	if m == nil {
		return nil
	}
	return check.OneOf(at, *m, corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)
}

// ValidateClaimSpec checks the spec of a claim or of a template for claims. old is nil on create.
func ValidateClaimSpec(at *field.Path, s, old *corev1.PersistentVolumeClaimSpec) check.Errors {
	var errs check.Errors
	if len(s.AccessModes) == 0 {
		errs = append(errs, field.Required(at.Child("accessModes"), "at least 1 access mode is required"))
	}
	if s.Selector != nil {
		lax := old != nil && len(check.Selector(nil, old.Selector, false)) > 0
		errs = append(errs, check.Selector(at.Child("selector"), s.Selector, lax)...)
	}
	errs = append(errs, modesKnown(at.Child("accessModes"), s.AccessModes)...)
	storage := at.Child("resources").Key(string(corev1.ResourceStorage))
	if q, ok := s.Resources.Requests[corev1.ResourceStorage]; ok {
		errs = append(errs, check.PositiveQuantity(storage, q)...)
	} else {
		errs = append(errs, field.Required(storage, ""))
	}
	if n := s.StorageClassName; n != nil && *n != "" {
		errs = append(errs, check.Subdomain(at.Child("storageClassName"), *n)...)
	}
	errs = append(errs, volumeMode(at.Child("volumeMode"), s.VolumeMode)...)
	errs = append(errs, dataSources(at, s, old)...)
	if n := s.VolumeAttributesClassName; n != nil && *n != "" {
		errs = append(errs, check.Subdomain(at.Child("volumeAttributesClassName"), *n)...)
	}
	return errs
}

func dataSources(at *field.Path, s, old *corev1.PersistentVolumeClaimSpec) check.Errors {
	lax := old != nil && (old.DataSource != nil && old.DataSource.APIGroup != nil || old.DataSourceRef != nil && old.DataSourceRef.APIGroup != nil)
	source := func(at *field.Path, apiGroup *string, kind, name string) check.Errors {
		errs := need(at, "name", name, "kind", kind)
		group := ""
		if apiGroup != nil {
			group = *apiGroup
		}
		if group == "" && kind != "PersistentVolumeClaim" {
			errs = append(errs, field.Invalid(at, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup"))
		}
		if group != "" && !lax {
			errs = append(errs, check.Subdomain(at.Child("apiGroup"), group)...)
		}
		return errs
	}
	var errs check.Errors
	d, ref := s.DataSource, s.DataSourceRef
	if d != nil {
		errs = append(errs, source(at.Child("dataSource"), d.APIGroup, d.Kind, d.Name)...)
	}
	if ref == nil {
		return errs
	}
	errs = append(errs, source(at.Child("dataSourceRef"), ref.APIGroup, ref.Kind, ref.Name)...)
	switch foreign := ref.Namespace != nil && *ref.Namespace != ""; {
	case foreign && (old == nil || old.DataSourceRef == nil || old.DataSourceRef.Namespace == nil):
		errs = append(errs, Off(at.Child("dataSourceRef", "namespace"), "CrossNamespaceVolumeDataSource"))
	case foreign && d != nil:
		errs = append(errs, field.Invalid(at, at.Child("dataSource"), "may not be specified when dataSourceRef.namespace is specified"))
	case !foreign && d != nil && (!reflect.DeepEqual(d.APIGroup, ref.APIGroup) || d.Kind != ref.Kind || d.Name != ref.Name):
		errs = append(errs, field.Invalid(at, at.Child("dataSource"), "must match dataSourceRef"))
	}
	return errs
}

func validateClaim(obj api.Object) field.ErrorList {
	return ValidateClaimSpec(field.NewPath("spec"), &obj.(*corev1.PersistentVolumeClaim).Spec, nil)
}

// validateClaimUpdate: what a claim asks for can't change once it is there, but for its size and class of
// attributes when it is bound. It gets its volume's name once, and its storage class once.
func validateClaimUpdate(obj, old api.Object) field.ErrorList {
	c, was := obj.(*corev1.PersistentVolumeClaim), old.(*corev1.PersistentVolumeClaim)
	at := field.NewPath("spec")
	errs := ValidateClaimSpec(at, &c.Spec, &was.Spec)
	spec, before := c.Spec.DeepCopy(), was.Spec.DeepCopy()
	if before.VolumeName == "" {
		before.VolumeName = spec.VolumeName
	}
	annotation, annotated := was.Annotations[corev1.BetaStorageClassAnnotation]
	now, stillAnnotated := c.Annotations[corev1.BetaStorageClassAnnotation]
	classGiven := before.StorageClassName == nil && spec.StorageClassName != nil && (!annotated || *spec.StorageClassName == annotation)
	if classGiven {
		before.StorageClassName = spec.StorageClassName
	}
	if now != annotation && !(classGiven && annotated && !stillAnnotated) {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "annotations", corev1.BetaStorageClassAnnotation), now, validation.FieldImmutableErrorMsg))
	}
	size, sizeBefore := c.Spec.Resources.Requests[corev1.ResourceStorage], was.Spec.Resources.Requests[corev1.ResourceStorage]
	if c.Status.Phase == corev1.ClaimBound {
		if spec.Resources.Requests != nil {
			spec.Resources.Requests[corev1.ResourceStorage] = sizeBefore
		}
		spec.VolumeAttributesClassName = before.VolumeAttributesClassName
	}
	if !equality.Semantic.DeepEqual(spec, before) {
		errs = append(errs, field.Forbidden(at, fmt.Sprintf("spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n%v", diff.Diff(before, spec))))
	}
	// A claim whose volume couldn't be expanded may ask for less, but never for less than it has.
	if capacity := was.Status.Capacity[corev1.ResourceStorage]; size.Cmp(sizeBefore) < 0 && size.Cmp(capacity) <= 0 {
		errs = append(errs, field.Forbidden(at.Child("resources", "requests", "storage"), "field can not be less than status.capacity"))
	}
	errs = append(errs, check.Immutable(field.NewPath("volumeMode"), c.Spec.VolumeMode, was.Spec.VolumeMode)...)
	if was.Status.CurrentVolumeAttributesClassName != nil && was.Spec.VolumeAttributesClassName != nil {
		switch n := c.Spec.VolumeAttributesClassName; {
		case n == nil:
			errs = append(errs, field.Forbidden(at.Child("volumeAttributesClassName"), "update to nil is forbidden when status.currentVolumeAttributesClassName is not nil"))
		case *n == "" && *was.Spec.VolumeAttributesClassName != "":
			errs = append(errs, field.Forbidden(at.Child("volumeAttributesClassName"), "update to empty string is forbidden when status.currentVolumeAttributesClassName is not nil"))
		}
	}
	return errs
}

func validateClaimStatus(obj, _ api.Object) field.ErrorList {
	s := &obj.(*corev1.PersistentVolumeClaim).Status
	at := field.NewPath("status")
	errs := capacity(at.Child("capacity"), s.Capacity)
	key := func(at *field.Path, n corev1.ResourceName) check.Errors {
		if errs := check.Messages(at, string(n), utilvalidation.IsQualifiedName(string(n))); len(errs) > 0 {
			return errs
		}
		if IsNativeResource(n) {
			return check.OneOf(at, n, corev1.ResourceStorage)
		}
		return nil
	}
	statuses := at.Child("allocatedResourceStatuses")
	for n, v := range s.AllocatedResourceStatuses {
		errs = append(errs, key(statuses, n)...)
		known := []corev1.ClaimResourceStatus{corev1.PersistentVolumeClaimControllerResizeInfeasible, corev1.PersistentVolumeClaimControllerResizeInProgress,
			corev1.PersistentVolumeClaimNodeResizeInfeasible, corev1.PersistentVolumeClaimNodeResizeInProgress, corev1.PersistentVolumeClaimNodeResizePending}
		if !slices.Contains(known, v) {
			errs = append(errs, field.NotSupported(statuses, string(n), known))
		}
	}
	allocated := at.Child("allocatedResources")
	for n, q := range s.AllocatedResources {
		errs = slices.Concat(errs, key(allocated, n), capacity(allocated, corev1.ResourceList{n: q}))
	}
	return errs
}

func capacity(at *field.Path, list corev1.ResourceList) check.Errors {
	var errs check.Errors
	for _, n := range slices.Sorted(maps.Keys(list)) {
		if q := list[n]; q.Value() < 0 {
			errs = append(errs, field.Invalid(at.Key(string(n)), q.Value(), "must be a valid resource quantity"))
		}
	}
	return errs
}

func validateVolume(obj api.Object) field.ErrorList {
	v := obj.(*corev1.PersistentVolume)
	return ValidateVolumeSpec(field.NewPath("spec"), &v.Spec, nil, v.Name)
}

// ValidateVolumeSpec checks the spec of the volume called name. old is nil on create.
func ValidateVolumeSpec(at *field.Path, s, old *corev1.PersistentVolumeSpec, name string) check.Errors {
	var errs check.Errors
	if len(s.AccessModes) == 0 {
		errs = append(errs, field.Required(at.Child("accessModes"), ""))
	}
	errs = append(errs, modesKnown(at.Child("accessModes"), s.AccessModes)...)
	size := at.Child("capacity")
	if len(s.Capacity) == 0 {
		errs = append(errs, field.Required(size, ""))
	}
	if _, ok := s.Capacity[corev1.ResourceStorage]; !ok || len(s.Capacity) > 1 {
		errs = append(errs, field.NotSupported(size, s.Capacity, []corev1.ResourceName{corev1.ResourceStorage}))
	}
	errs = append(errs, capacity(size, s.Capacity)...)
	for _, n := range slices.Sorted(maps.Keys(s.Capacity)) {
		errs = append(errs, check.PositiveQuantity(size.Key(string(n)), s.Capacity[n])...)
	}
	policy := at.Child("persistentVolumeReclaimPolicy")
	if p := s.PersistentVolumeReclaimPolicy; p != "" {
		errs = append(errs, check.OneOf(policy, p, corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRecycle, corev1.PersistentVolumeReclaimRetain)...)
	}
	if a := s.NodeAffinity; a != nil && a.Required != nil {
		had := old != nil && old.NodeAffinity != nil && old.NodeAffinity.Required != nil &&
			hasInvalidNodeValues(&corev1.PodSpec{Affinity: &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: old.NodeAffinity.Required}}})
		errs = append(errs, ValidateNodeSelector(at.Child("nodeAffinity", "required"), a.Required, had)...)
	} else if a != nil {
		errs = append(errs, field.Required(at.Child("nodeAffinity", "required"), "must specify required node constraints"))
	}
	errs = append(errs, oneSource(at, "volume type", volumeSources(at, s, name))...)
	if s.HostPath != nil && path.Clean(s.HostPath.Path) == "/" && s.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		errs = append(errs, field.Forbidden(policy, "may not be 'recycle' for a hostPath mount of '/'"))
	}
	if s.StorageClassName != "" {
		errs = append(errs, check.Subdomain(at.Child("storageClassName"), s.StorageClassName)...)
	}
	errs = append(errs, volumeMode(at.Child("volumeMode"), s.VolumeMode)...)
	if n := s.VolumeAttributesClassName; n != nil {
		if *n == "" {
			errs = append(errs, field.Required(at.Child("volumeAttributesClassName"), "an empty string is disallowed"))
		} else {
			errs = append(errs, check.Subdomain(at.Child("volumeAttributesClassName"), *n)...)
		}
		if s.CSI == nil {
			errs = append(errs, field.Required(at.Child("csi"), "has to be specified when using volumeAttributesClassName"))
		}
	}
	return errs
}

func volumeSources(at *field.Path, s *corev1.PersistentVolumeSpec, name string) []source {
	return []source{
		{"hostPath", s.HostPath != nil, func() check.Errors { return validateHostPath(at.Child("hostPath"), s.HostPath) }},
		{"gcePersistentDisk", s.GCEPersistentDisk != nil, func() check.Errors { return validateGCEDisk(at.Child("persistentDisk"), s.GCEPersistentDisk) }},
		{"awsElasticBlockStore", s.AWSElasticBlockStore != nil, func() check.Errors {
			return validateAWSDisk(at.Child("awsElasticBlockStore"), s.AWSElasticBlockStore)
		}},
		{"glusterfs", s.Glusterfs != nil, func() check.Errors {
			at := at.Child("glusterfs")
			errs := need(at, "endpoints", s.Glusterfs.EndpointsName, "path", s.Glusterfs.Path)
			if n := s.Glusterfs.EndpointsNamespace; n != nil && *n == "" {
				errs = append(errs, field.Invalid(at.Child("endpointsNamespace"), *n, "if the endpointnamespace is set, it must be a valid namespace name"))
			} else if n != nil {
				errs = append(errs, check.Label(at.Child("endpointsNamespace"), *n)...)
			}
			return errs
		}},
		{"flocker", s.Flocker != nil, func() check.Errors { return validateFlocker(at.Child("flocker"), s.Flocker) }},
		{"nfs", s.NFS != nil, func() check.Errors { return validateNFS(at.Child("nfs"), s.NFS) }},
		{"rbd", s.RBD != nil, func() check.Errors { return validateRBD(at.Child("rbd"), s.RBD.CephMonitors, s.RBD.RBDImage) }},
		{"quobyte", s.Quobyte != nil, func() check.Errors { return validateQuobyte(at.Child("quobyte"), s.Quobyte) }},
		{"cephFS", s.CephFS != nil, func() check.Errors { return needMonitors(at.Child("cephfs"), s.CephFS.Monitors) }},
		{"iscsi", s.ISCSI != nil, func() check.Errors {
			at, v := at.Child("iscsi"), s.ISCSI
			errs := validateISCSI(at, iscsi{v.TargetPortal, v.IQN, v.InitiatorName, v.Lun, needsCHAP(v.DiscoveryCHAPAuth, v.SessionCHAPAuth, v.SecretRef != nil)}, "")
			if v.InitiatorName != nil && len(name+":"+v.TargetPortal) > 64 {
				errs = append(errs, field.Invalid(at.Child("targetportal"), v.TargetPortal, iscsiTooLong))
			}
			return append(errs, secretNamed(at.Child("secretRef"), v.SecretRef, "name")...)
		}},
		{"cinder", s.Cinder != nil, func() check.Errors {
			at := at.Child("cinder")
			return slices.Concat(need(at, "volumeID", s.Cinder.VolumeID), secretNamed(at.Child("secretRef"), s.Cinder.SecretRef, "name", "namespace"))
		}},
		{"fc", s.FC != nil, func() check.Errors { return validateFC(at.Child("fc"), s.FC) }},
		{"flexVolume", s.FlexVolume != nil, func() check.Errors {
			return validateFlex(at.Child("flexVolume"), s.FlexVolume.Driver, s.FlexVolume.Options)
		}},
		{"azureFile", s.AzureFile != nil, func() check.Errors {
			at := at.Child("azureFile")
			errs := need(at, "secretName", s.AzureFile.SecretName, "shareName", s.AzureFile.ShareName)
			if n := s.AzureFile.SecretNamespace; n != nil {
				errs = append(errs, need(at, "secretNamespace", *n)...)
			}
			return errs
		}},
		{"vsphereVolume", s.VsphereVolume != nil, func() check.Errors { return need(at.Child("vsphereVolume"), "volumePath", s.VsphereVolume.VolumePath) }},
		{"photonPersistentDisk", s.PhotonPersistentDisk != nil, func() check.Errors {
			return need(at.Child("photonPersistentDisk"), "pdID", s.PhotonPersistentDisk.PdID)
		}},
		{"portworxVolume", s.PortworxVolume != nil, func() check.Errors { return need(at.Child("portworxVolume"), "volumeID", s.PortworxVolume.VolumeID) }},
		{"azureDisk", s.AzureDisk != nil, func() check.Errors { return validateAzureDisk(at.Child("azureDisk"), s.AzureDisk) }},
		{"scaleIO", s.ScaleIO != nil, func() check.Errors {
			return need(at.Child("scaleIO"), "gateway", s.ScaleIO.Gateway, "system", s.ScaleIO.System, "volumeName", s.ScaleIO.VolumeName)
		}},
		{"local", s.Local != nil, func() check.Errors {
			errs := slices.Concat(need(at.Child("local"), "path", s.Local.Path), noBacksteps(at.Child("local", "path"), s.Local.Path))
			if s.NodeAffinity == nil {
				errs = append(errs, field.Required(at.Child("nodeAffinity"), "Local volume requires node affinity"))
			}
			return errs
		}},
		{"storageos", s.StorageOS != nil, func() check.Errors {
			at := at.Child("storageos")
			errs := validateStorageOS(at, s.StorageOS.VolumeName, s.StorageOS.VolumeNamespace)
			if ref := s.StorageOS.SecretRef; ref != nil {
				errs = append(errs, need(at.Child("secretRef"), "name", ref.Name, "namespace", ref.Namespace)...)
			}
			return errs
		}},
		{"csi", s.CSI != nil, func() check.Errors { return csiVolume(at.Child("csi"), s.CSI) }},
	}
}

func secretNamed(at *field.Path, ref *corev1.SecretReference, fields ...string) check.Errors {
	if ref == nil {
		return nil
	}
	errs := need(at, "name", ref.Name)
	if slices.Contains(fields, "namespace") {
		errs = append(errs, need(at, "namespace", ref.Namespace)...)
	}
	return errs
}

func csiVolume(at *field.Path, s *corev1.CSIPersistentVolumeSource) check.Errors {
	errs := slices.Concat(ValidateCSIDriverName(at.Child("driver"), s.Driver), need(at, "volumeHandle", s.VolumeHandle))
	secret := func(child string, ref *corev1.SecretReference) {
		if ref == nil {
			return
		}
		at := at.Child(child)
		errs = append(errs, check.Required(at.Child("name"), ref.Name)...)
		if ref.Name != "" {
			errs = append(errs, check.Subdomain(at.Child("name"), ref.Name)...)
		}
		errs = append(errs, check.RequiredLabel(at.Child("namespace"), ref.Namespace)...)
	}
	secret("controllerPublishSecretRef", s.ControllerPublishSecretRef)
	secret("controllerExpandSecretRef", s.ControllerExpandSecretRef)
	secret("nodePublishSecretRef", s.NodePublishSecretRef)
	secret("nodeExpandSecretRef", s.NodeExpandSecretRef)
	return errs
}

// stableLabels are the labels that took the place of older ones, which volumes may still name.
var stableLabels = map[string]string{
	corev1.LabelFailureDomainBetaZone: corev1.LabelTopologyZone, corev1.LabelFailureDomainBetaRegion: corev1.LabelTopologyRegion,
	"beta.kubernetes.io/os": corev1.LabelOSStable, "beta.kubernetes.io/arch": corev1.LabelArchStable, corev1.LabelInstanceType: corev1.LabelInstanceTypeStable,
}

func validateVolumeUpdate(obj, old api.Object) field.ErrorList {
	v, was := obj.(*corev1.PersistentVolume), old.(*corev1.PersistentVolume)
	at := field.NewPath("spec")
	errs := ValidateVolumeSpec(at, &v.Spec, &was.Spec, v.Name)
	source, before := v.Spec.PersistentVolumeSource.DeepCopy(), &was.Spec.PersistentVolumeSource
	if source.CSI != nil && before.CSI != nil && before.CSI.ControllerExpandSecretRef == nil {
		source.CSI.ControllerExpandSecretRef = nil // may be added
	}
	if !equality.Semantic.DeepEqual(source, before) {
		errs = append(errs, field.Forbidden(at.Child("persistentvolumesource"), fmt.Sprintf("spec.persistentvolumesource is immutable after creation\n%v", diff.Diff(before, source))))
	}
	errs = append(errs, check.Immutable(field.NewPath("volumeMode"), v.Spec.VolumeMode, was.Spec.VolumeMode)...)
	if was.Spec.NodeAffinity != nil && !sameVolumeAffinity(v.Spec.NodeAffinity, was.Spec.NodeAffinity) {
		errs = append(errs, field.Invalid(field.NewPath("nodeAffinity"), v.Spec.NodeAffinity, validation.FieldImmutableErrorMsg+", except for updating from beta label to GA"))
	}
	if was.Spec.VolumeAttributesClassName != nil && v.Spec.VolumeAttributesClassName == nil {
		errs = append(errs, field.Forbidden(at.Child("volumeAttributesClassName"), "update from non-nil value to nil is forbidden"))
	}
	return errs
}

// sameVolumeAffinity lets a key be replaced by its stable name.
func sameVolumeAffinity(now, old *corev1.VolumeNodeAffinity) bool {
	if now != nil && now.Required != nil && old.Required != nil && len(now.Required.NodeSelectorTerms) == len(old.Required.NodeSelectorTerms) {
		old = old.DeepCopy()
		for i := range old.Required.NodeSelectorTerms {
			terms, before := now.Required.NodeSelectorTerms[i].MatchExpressions, old.Required.NodeSelectorTerms[i].MatchExpressions
			for j := 0; j < len(before) && j < len(terms); j++ {
				if stableLabels[before[j].Key] == terms[j].Key { // an empty key is refused elsewhere
					before[j].Key = terms[j].Key
				}
			}
		}
	}
	return equality.Semantic.DeepEqual(now, old)
}
