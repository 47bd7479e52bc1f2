package core

import (
	"fmt"
	"net"
	"path"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api/check"
)

// source is one of the types that a volume can be of, of which exactly one may be set.
type source struct {
	name  string // the field, as Kubernetes' messages spell it
	set   bool
	check func() check.Errors
}

func oneSource(at *field.Path, what string, sources []source) check.Errors {
	var errs check.Errors
	found := false
	for _, s := range sources {
		switch {
		case !s.set:
		case found:
			errs = append(errs, field.Forbidden(at.Child(s.name), "may not specify more than 1 "+what))
		default:
			found = true
			errs = append(errs, s.check()...)
		}
	}
	if !found {
		errs = append(errs, field.Required(at, "must specify a "+what))
	}
	return errs
}

// need reports which of the fields are empty: pairs of a name and its value.
func need(at *field.Path, pairs ...string) check.Errors {
	var errs check.Errors
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			errs = append(errs, field.Required(at.Child(strings.Split(pairs[i], ".")[0], strings.Split(pairs[i], ".")[1:]...), ""))
		}
	}
	return errs
}

// volumes checks a pod's volumes and returns the valid ones by name. podName is empty in templates.
func (c podCheck) volumes(at *field.Path, volumes []corev1.Volume, podName string) (map[string]*corev1.VolumeSource, check.Errors) {
	var errs check.Errors
	valid := make(map[string]*corev1.VolumeSource, len(volumes))
	for i := range volumes {
		v, at := &volumes[i], at.Index(i)
		e := slices.Concat(c.volumeSource(at, v, podName), check.RequiredLabel(at.Child("name"), v.Name))
		if valid[v.Name] != nil {
			e = append(e, field.Duplicate(at.Child("name"), v.Name))
		}
		if len(e) == 0 {
			valid[v.Name] = &v.VolumeSource
		}
		errs = append(errs, e...)
		if claim := v.PersistentVolumeClaim; claim != nil && podName != "" && createsClaim(volumes, podName, claim.ClaimName) {
			errs = append(errs, field.Invalid(at.Child("persistentVolumeClaim", "claimName"), claim.ClaimName, "must not reference a PVC that gets created for an ephemeral volume"))
		}
	}
	return valid, errs
}

func createsClaim(volumes []corev1.Volume, podName, claim string) bool {
	return slices.ContainsFunc(volumes, func(v corev1.Volume) bool { return v.Ephemeral != nil && podName+"-"+v.Name == claim })
}

func (c podCheck) volumeSource(at *field.Path, v *corev1.Volume, podName string) check.Errors {
	s := &v.VolumeSource
	errs := oneSource(at, "volume type", []source{
		{"emptyDir", s.EmptyDir != nil, func() check.Errors {
			if q := s.EmptyDir.SizeLimit; q != nil && q.Sign() < 0 {
				return check.Errors{field.Forbidden(at.Child("emptyDir", "sizeLimit"), "SizeLimit field must be a valid resource quantity")}
			}
			return nil
		}},
		{"hostPath", s.HostPath != nil, func() check.Errors { return validateHostPath(at.Child("hostPath"), s.HostPath) }},
		{"gitRepo", s.GitRepo != nil, func() check.Errors {
			at := at.Child("gitRepo")
			return slices.Concat(need(at, "repository", s.GitRepo.Repository), descendingPath(at.Child("directory"), s.GitRepo.Directory))
		}},
		{"gcePersistentDisk", s.GCEPersistentDisk != nil, func() check.Errors { return validateGCEDisk(at.Child("persistentDisk"), s.GCEPersistentDisk) }},
		{"awsElasticBlockStore", s.AWSElasticBlockStore != nil, func() check.Errors {
			return validateAWSDisk(at.Child("awsElasticBlockStore"), s.AWSElasticBlockStore)
		}},
		{"secret", s.Secret != nil, func() check.Errors {
			at := at.Child("secret")
			return slices.Concat(need(at, "secretName", s.Secret.SecretName), fileMode(at.Child("defaultMode"), s.Secret.DefaultMode), keysToPaths(at.Child("items"), s.Secret.Items))
		}},
		{"nfs", s.NFS != nil, func() check.Errors { return validateNFS(at.Child("nfs"), s.NFS) }},
		{"iscsi", s.ISCSI != nil, func() check.Errors {
			return validateISCSI(at.Child("iscsi"), iscsi{s.ISCSI.TargetPortal, s.ISCSI.IQN, s.ISCSI.InitiatorName, s.ISCSI.Lun, needsCHAP(s.ISCSI.DiscoveryCHAPAuth, s.ISCSI.SessionCHAPAuth, s.ISCSI.SecretRef != nil)}, " starting with iqn, eui, or naa")
		}},
		{"glusterfs", s.Glusterfs != nil, func() check.Errors {
			return need(at.Child("glusterfs"), "endpoints", s.Glusterfs.EndpointsName, "path", s.Glusterfs.Path)
		}},
		{"flocker", s.Flocker != nil, func() check.Errors { return validateFlocker(at.Child("flocker"), s.Flocker) }},
		{"persistentVolumeClaim", s.PersistentVolumeClaim != nil, func() check.Errors {
			return need(at.Child("persistentVolumeClaim"), "claimName", s.PersistentVolumeClaim.ClaimName)
		}},
		{"rbd", s.RBD != nil, func() check.Errors { return validateRBD(at.Child("rbd"), s.RBD.CephMonitors, s.RBD.RBDImage) }},
		{"cinder", s.Cinder != nil, func() check.Errors {
			at := at.Child("cinder")
			errs := need(at, "volumeID", s.Cinder.VolumeID)
			if s.Cinder.SecretRef != nil {
				errs = append(errs, need(at, "secretRef.name", s.Cinder.SecretRef.Name)...)
			}
			return errs
		}},
		{"cephFS", s.CephFS != nil, func() check.Errors { return needMonitors(at.Child("cephfs"), s.CephFS.Monitors) }},
		{"quobyte", s.Quobyte != nil, func() check.Errors { return validateQuobyte(at.Child("quobyte"), s.Quobyte) }},
		{"downwarAPI", s.DownwardAPI != nil, func() check.Errors {
			at := at.Child("downwardAPI")
			errs := fileMode(at.Child("defaultMode"), s.DownwardAPI.DefaultMode)
			for i := range s.DownwardAPI.Items {
				errs = append(errs, downwardFile(at, &s.DownwardAPI.Items[i])...)
			}
			return errs
		}},
		{"fc", s.FC != nil, func() check.Errors { return validateFC(at.Child("fc"), s.FC) }},
		{"flexVolume", s.FlexVolume != nil, func() check.Errors {
			return validateFlex(at.Child("flexVolume"), s.FlexVolume.Driver, s.FlexVolume.Options)
		}},
		{"configMap", s.ConfigMap != nil, func() check.Errors {
			at := at.Child("configMap")
			return slices.Concat(need(at, "name", s.ConfigMap.Name), fileMode(at.Child("defaultMode"), s.ConfigMap.DefaultMode), keysToPaths(at.Child("items"), s.ConfigMap.Items))
		}},
		{"azureFile", s.AzureFile != nil, func() check.Errors {
			return need(at.Child("azureFile"), "secretName", s.AzureFile.SecretName, "shareName", s.AzureFile.ShareName)
		}},
		{"vsphereVolume", s.VsphereVolume != nil, func() check.Errors { return need(at.Child("vsphereVolume"), "volumePath", s.VsphereVolume.VolumePath) }},
		{"photonPersistentDisk", s.PhotonPersistentDisk != nil, func() check.Errors {
			return need(at.Child("photonPersistentDisk"), "pdID", s.PhotonPersistentDisk.PdID)
		}},
		{"portworxVolume", s.PortworxVolume != nil, func() check.Errors { return need(at.Child("portworxVolume"), "volumeID", s.PortworxVolume.VolumeID) }},
		{"azureDisk", s.AzureDisk != nil, func() check.Errors { return validateAzureDisk(at.Child("azureDisk"), s.AzureDisk) }},
		{"storageos", s.StorageOS != nil, func() check.Errors {
			at := at.Child("storageos")
			errs := validateStorageOS(at, s.StorageOS.VolumeName, s.StorageOS.VolumeNamespace)
			if s.StorageOS.SecretRef != nil {
				errs = append(errs, need(at, "secretRef.name", s.StorageOS.SecretRef.Name)...)
			}
			return errs
		}},
		{"projected", s.Projected != nil, func() check.Errors { return c.projected(at.Child("projected"), s.Projected) }},
		{"scaleIO", s.ScaleIO != nil, func() check.Errors {
			return need(at.Child("scaleIO"), "gateway", s.ScaleIO.Gateway, "system", s.ScaleIO.System, "volumeName", s.ScaleIO.VolumeName)
		}},
		{"csi", s.CSI != nil, func() check.Errors { return validateCSIVolume(at.Child("csi"), s.CSI) }},
		{"ephemeral", s.Ephemeral != nil, func() check.Errors { return validateEphemeralVolume(at, v, podName) }},
		{"image", s.Image != nil, func() check.Errors {
			at := at.Child("image")
			errs := pullPolicyKnown(at.Child("pullPolicy"), s.Image.PullPolicy)
			if c.pod {
				errs = append(need(at, "reference", s.Image.Reference), errs...)
			}
			return errs
		}},
	})
	if s.ISCSI != nil && s.ISCSI.InitiatorName != nil && len(v.Name+":"+s.ISCSI.TargetPortal) > 64 {
		errs = append(errs, field.Invalid(at.Child("name"), v.Name, iscsiTooLong))
	}
	return errs
}

const iscsiTooLong = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified."

func validateEphemeralVolume(at *field.Path, v *corev1.Volume, podName string) check.Errors {
	var errs check.Errors
	template := at.Child("ephemeral", "volumeClaimTemplate")
	if t := v.Ephemeral.VolumeClaimTemplate; t == nil {
		errs = append(errs, field.Required(template, ""))
	} else {
		errs = slices.Concat(errs, TemplateMeta(template.Child("metadata"), &t.ObjectMeta), ValidateClaimSpec(template.Child("spec"), &t.Spec, nil))
	}
	if podName == "" || v.Name == "" {
		return errs
	}
	claim := podName + "-" + v.Name
	for _, m := range validation.NameIsDNSSubdomain(claim, false) {
		errs = append(errs, field.Invalid(at.Child("name"), v.Name, fmt.Sprintf("PVC name %q: %v", claim, m)))
	}
	return errs
}

func validateHostPath(at *field.Path, s *corev1.HostPathVolumeSource) check.Errors {
	if s.Path == "" {
		return check.Errors{field.Required(at.Child("path"), "")}
	}
	errs := noBacksteps(at.Child("path"), s.Path)
	if s.Type != nil {
		errs = append(errs, check.OneOf(at.Child("type"), *s.Type, corev1.HostPathUnset, corev1.HostPathBlockDev, corev1.HostPathCharDev, corev1.HostPathDirectory,
			corev1.HostPathDirectoryOrCreate, corev1.HostPathFile, corev1.HostPathFileOrCreate, corev1.HostPathSocket)...)
	}
	return errs
}

func validateNFS(at *field.Path, s *corev1.NFSVolumeSource) check.Errors {
	errs := need(at, "server", s.Server, "path", s.Path)
	if !path.IsAbs(s.Path) {
		errs = append(errs, field.Invalid(at.Child("path"), s.Path, "must be an absolute path"))
	}
	return errs
}

func validateCSIVolume(at *field.Path, s *corev1.CSIVolumeSource) check.Errors {
	errs := ValidateCSIDriverName(at.Child("driver"), s.Driver)
	if ref := s.NodePublishSecretRef; ref != nil && ref.Name == "" {
		errs = append(errs, field.Required(at.Child("nodePublishSecretRef", "name"), ""))
	} else if ref != nil {
		errs = append(errs, check.Subdomain(at.Child("name"), ref.Name)...)
	}
	return errs
}

// ValidateCSIDriverName is the rule for names of CSI drivers, wherever they stand.
func ValidateCSIDriverName(at *field.Path, name string) check.Errors {
	if name == "" {
		return check.Errors{field.Required(at, "")}
	}
	var errs check.Errors
	if len(name) > 63 {
		errs = append(errs, field.TooLong(at, "", 63))
	}
	for _, e := range check.Subdomain(at, strings.ToLower(name)) {
		errs = append(errs, field.Invalid(at, name, e.Detail))
	}
	return errs
}

// The types below belong to drivers that are gone or have moved to CSI. The agent refuses
// them; the API takes them, as Kubernetes' does.

func validateGCEDisk(at *field.Path, s *corev1.GCEPersistentDiskVolumeSource) check.Errors {
	return slices.Concat(need(at, "pdName", s.PDName), partition(at, s.Partition))
}

func validateAWSDisk(at *field.Path, s *corev1.AWSElasticBlockStoreVolumeSource) check.Errors {
	return slices.Concat(need(at, "volumeID", s.VolumeID), partition(at, s.Partition))
}

// partition may be 0, whatever its message says.
func partition(at *field.Path, n int32) check.Errors {
	if n >= 0 && n <= 255 {
		return nil
	}
	return check.InRange(at.Child("partition"), n, 1, 255)
}

type iscsi struct {
	portal, iqn  string
	initiator    *string
	lun          int32
	lacksCHAPRef bool
}

func needsCHAP(discovery, session, hasSecret bool) bool { return (discovery || session) && !hasSecret }

var iscsiNames = map[string]*regexp.Regexp{
	"iqn": regexp.MustCompile(`iqn\.\d{4}-\d{2}\.([[:alnum:]-.]+)(:[^,;*&$|\s]+)$`),
	"eui": regexp.MustCompile(`^eui.[[:alnum:]]{16}$`),
	"naa": regexp.MustCompile(`^naa.[[:alnum:]]{32}$`),
}

func validateISCSI(at *field.Path, s iscsi, hint string) check.Errors {
	errs := need(at, "targetPortal", s.portal, "iqn", s.iqn)
	if s.iqn != "" {
		errs = append(errs, iscsiName(at.Child("iqn"), s.iqn, hint)...)
	}
	errs = append(errs, check.InRange(at.Child("lun"), s.lun, 0, 255)...)
	if s.lacksCHAPRef {
		errs = append(errs, field.Required(at.Child("secretRef"), ""))
	}
	if s.initiator != nil {
		errs = append(errs, iscsiName(at.Child("initiatorname"), *s.initiator, hint)...)
	}
	return errs
}

func iscsiName(at *field.Path, name, hint string) check.Errors {
	for prefix, format := range iscsiNames {
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		if format.MatchString(name) {
			return nil
		}
		return check.Errors{field.Invalid(at, name, "must be valid format")}
	}
	return check.Errors{field.Invalid(at, name, "must be valid format"+hint)}
}

func validateFlocker(at *field.Path, s *corev1.FlockerVolumeSource) check.Errors {
	var errs check.Errors
	if s.DatasetName == "" && s.DatasetUUID == "" {
		errs = append(errs, field.Required(at, "one of datasetName and datasetUUID is required"))
	}
	if s.DatasetName != "" && s.DatasetUUID != "" {
		errs = append(errs, field.Invalid(at, "resource", "datasetName and datasetUUID can not be specified simultaneously"))
	}
	if strings.Contains(s.DatasetName, "/") {
		errs = append(errs, field.Invalid(at.Child("datasetName"), s.DatasetName, "must not contain '/'"))
	}
	return errs
}

func needMonitors(at *field.Path, monitors []string) check.Errors {
	if len(monitors) == 0 {
		return check.Errors{field.Required(at.Child("monitors"), "")}
	}
	return nil
}

func validateRBD(at *field.Path, monitors []string, image string) check.Errors {
	return slices.Concat(needMonitors(at, monitors), need(at, "image", image))
}

func validateQuobyte(at *field.Path, s *corev1.QuobyteVolumeSource) check.Errors {
	const pairs = "must be a host:port pair or multiple pairs separated by commas"
	var errs check.Errors
	switch {
	case s.Registry == "":
		errs = append(errs, field.Required(at.Child("registry"), pairs))
	case len(s.Tenant) >= 65:
		errs = append(errs, field.Required(at.Child("tenant"), "must be a UUID and may not exceed a length of 64 characters"))
	default:
		for pair := range strings.SplitSeq(s.Registry, ",") {
			if _, _, err := net.SplitHostPort(pair); err != nil {
				errs = append(errs, field.Invalid(at.Child("registry"), s.Registry, pairs))
			}
		}
	}
	return append(errs, need(at, "volume", s.Volume)...)
}

func validateFC(at *field.Path, s *corev1.FCVolumeSource) check.Errors {
	var errs check.Errors
	if len(s.TargetWWNs) == 0 && len(s.WWIDs) == 0 {
		errs = append(errs, field.Required(at.Child("targetWWNs"), "must specify either targetWWNs or wwids, but not both"))
	}
	if len(s.TargetWWNs) == 0 {
		return errs
	}
	if len(s.WWIDs) > 0 {
		errs = append(errs, field.Invalid(at.Child("targetWWNs"), s.TargetWWNs, "targetWWNs and wwids can not be specified simultaneously"))
	}
	if s.Lun == nil {
		return append(errs, field.Required(at.Child("lun"), "lun is required if targetWWNs is specified"))
	}
	return append(errs, check.InRange(at.Child("lun"), *s.Lun, 0, 255)...)
}

func validateFlex(at *field.Path, driver string, options map[string]string) check.Errors {
	errs := need(at, "driver", driver)
	for key := range options {
		domain, _, _ := strings.Cut(key, "/")
		domain = "." + strings.ToLower(domain)
		if strings.HasSuffix(domain, ".kubernetes.io") || strings.HasSuffix(domain, ".k8s.io") {
			errs = append(errs, field.Invalid(at.Child("options").Key(key), key, "kubernetes.io and k8s.io namespaces are reserved"))
		}
	}
	return errs
}

func validateAzureDisk(at *field.Path, s *corev1.AzureDiskVolumeSource) check.Errors {
	errs := need(at, "diskName", s.DiskName, "diskURI", s.DataDiskURI)
	if s.CachingMode != nil {
		errs = append(errs, check.OneOf(at.Child("cachingMode"), *s.CachingMode, corev1.AzureDataDiskCachingNone, corev1.AzureDataDiskCachingReadOnly, corev1.AzureDataDiskCachingReadWrite)...)
	}
	if s.Kind == nil {
		return errs
	}
	errs = append(errs, check.OneOf(at.Child("kind"), *s.Kind, corev1.AzureDedicatedBlobDisk, corev1.AzureManagedDisk, corev1.AzureSharedBlobDisk)...)
	prefix, example := "https://", "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"
	if *s.Kind == corev1.AzureManagedDisk {
		prefix, example = "/subscriptions/", "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"
	}
	if !strings.HasPrefix(s.DataDiskURI, prefix) {
		errs = append(errs, field.NotSupported(at.Child("diskURI"), s.DataDiskURI, []string{example}))
	}
	return errs
}

func validateStorageOS(at *field.Path, name, namespace string) check.Errors {
	errs := check.RequiredLabel(at.Child("volumeName"), name)
	if namespace != "" {
		errs = append(errs, check.Label(at.Child("volumeNamespace"), namespace)...)
	}
	return errs
}
