package authz

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Reference is an object of a pod's namespace that the pod needs on its node.
type Reference struct {
	Resource  string // secrets, configmaps, persistentvolumeclaims, serviceaccounts, resourceclaims
	Namespace string
	Name      string
}

// PodReferences lists the objects that a pod refers to, each once, in a fixed order.
func PodReferences(pod *corev1.Pod) []Reference {
	var refs []Reference
	add := func(resource, name string) {
		if name != "" {
			refs = append(refs, Reference{resource, pod.Namespace, name})
		}
	}
	add("serviceaccounts", pod.Spec.ServiceAccountName)
	for _, secret := range pod.Spec.ImagePullSecrets {
		add("secrets", secret.Name)
	}
	for i := range pod.Spec.InitContainers {
		containerReferences(&pod.Spec.InitContainers[i], add)
	}
	for i := range pod.Spec.Containers {
		containerReferences(&pod.Spec.Containers[i], add)
	}
	for i := range pod.Spec.EphemeralContainers {
		container := corev1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		containerReferences(&container, add)
	}
	for i := range pod.Spec.Volumes {
		podVolumeReferences(pod, &pod.Spec.Volumes[i], add)
	}
	for i := range pod.Spec.ResourceClaims {
		add("resourceclaims", claimName(pod, &pod.Spec.ResourceClaims[i]))
	}
	if extended := pod.Status.ExtendedResourceClaimStatus; extended != nil {
		add("resourceclaims", extended.ResourceClaimName)
	}
	slices.SortFunc(refs, func(a, b Reference) int {
		return cmp.Or(cmp.Compare(a.Resource, b.Resource), cmp.Compare(a.Name, b.Name))
	})
	return slices.Compact(refs)
}

func containerReferences(container *corev1.Container, add func(resource, name string)) {
	for _, from := range container.EnvFrom {
		if from.SecretRef != nil {
			add("secrets", from.SecretRef.Name)
		}
		if from.ConfigMapRef != nil {
			add("configmaps", from.ConfigMapRef.Name)
		}
	}
	for _, env := range container.Env {
		if env.ValueFrom == nil {
			continue
		}
		if env.ValueFrom.SecretKeyRef != nil {
			add("secrets", env.ValueFrom.SecretKeyRef.Name)
		}
		if env.ValueFrom.ConfigMapKeyRef != nil {
			add("configmaps", env.ValueFrom.ConfigMapKeyRef.Name)
		}
	}
}

func podVolumeReferences(pod *corev1.Pod, volume *corev1.Volume, add func(resource, name string)) {
	local := func(ref *corev1.LocalObjectReference) {
		if ref != nil {
			add("secrets", ref.Name)
		}
	}
	switch {
	case volume.Secret != nil:
		add("secrets", volume.Secret.SecretName)
	case volume.ConfigMap != nil:
		add("configmaps", volume.ConfigMap.Name)
	case volume.Projected != nil:
		for _, source := range volume.Projected.Sources {
			if source.Secret != nil {
				add("secrets", source.Secret.Name)
			}
			if source.ConfigMap != nil {
				add("configmaps", source.ConfigMap.Name)
			}
		}
	case volume.PersistentVolumeClaim != nil:
		add("persistentvolumeclaims", volume.PersistentVolumeClaim.ClaimName)
	case volume.Ephemeral != nil:
		add("persistentvolumeclaims", pod.Name+"-"+volume.Name)
	case volume.AzureFile != nil:
		add("secrets", volume.AzureFile.SecretName)
	case volume.CephFS != nil:
		local(volume.CephFS.SecretRef)
	case volume.Cinder != nil:
		local(volume.Cinder.SecretRef)
	case volume.FlexVolume != nil:
		local(volume.FlexVolume.SecretRef)
	case volume.RBD != nil:
		local(volume.RBD.SecretRef)
	case volume.ScaleIO != nil:
		local(volume.ScaleIO.SecretRef)
	case volume.ISCSI != nil:
		local(volume.ISCSI.SecretRef)
	case volume.StorageOS != nil:
		local(volume.StorageOS.SecretRef)
	case volume.CSI != nil:
		local(volume.CSI.NodePublishSecretRef)
	}
}

// claimName is the resource claim that stands for one entry of a pod; empty while it
// has not been created.
func claimName(pod *corev1.Pod, claim *corev1.PodResourceClaim) string {
	if claim.ResourceClaimName != nil {
		return *claim.ResourceClaimName
	}
	for _, status := range pod.Status.ResourceClaimStatuses {
		if status.Name == claim.Name && status.ResourceClaimName != nil {
			return *status.ResourceClaimName
		}
	}
	return ""
}

// volumeSecrets lists the secrets that a node needs to mount a bound volume. Where the
// older sources don't name a namespace, it is the claim's.
func volumeSecrets(volume *corev1.PersistentVolume) []objectName {
	var out []objectName
	add := func(namespace, name string) {
		if name != "" {
			out = append(out, objectName{namespace, name})
		}
	}
	exact := func(secret *corev1.SecretReference) {
		if secret != nil {
			add(secret.Namespace, secret.Name)
		}
	}
	ref := func(secret *corev1.SecretReference) {
		if secret != nil {
			add(cmp.Or(secret.Namespace, volume.Spec.ClaimRef.Namespace), secret.Name)
		}
	}
	source := &volume.Spec.PersistentVolumeSource
	switch {
	case source.AzureFile != nil:
		namespace := ""
		if source.AzureFile.SecretNamespace != nil {
			namespace = *source.AzureFile.SecretNamespace
		}
		add(cmp.Or(namespace, volume.Spec.ClaimRef.Namespace), source.AzureFile.SecretName)
	case source.CephFS != nil:
		ref(source.CephFS.SecretRef)
	case source.Cinder != nil:
		exact(source.Cinder.SecretRef)
	case source.FlexVolume != nil:
		ref(source.FlexVolume.SecretRef)
	case source.RBD != nil:
		ref(source.RBD.SecretRef)
	case source.ScaleIO != nil:
		ref(source.ScaleIO.SecretRef)
	case source.ISCSI != nil:
		ref(source.ISCSI.SecretRef)
	case source.StorageOS != nil && source.StorageOS.SecretRef != nil:
		add(source.StorageOS.SecretRef.Namespace, source.StorageOS.SecretRef.Name)
	case source.CSI != nil:
		exact(source.CSI.NodePublishSecretRef)
		exact(source.CSI.NodeStageSecretRef)
		exact(source.CSI.NodeExpandSecretRef)
	}
	return out
}
