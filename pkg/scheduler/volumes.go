package scheduler

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/component-helpers/storage/ephemeral"

	"skiff/pkg/placement"
)

// volumeRequirement is what one of a pod's claims demands of a node.
type volumeRequirement struct {
	nodes  *nodeaffinity.NodeSelector // nil: no node will do
	reason []placement.Reason
}

const (
	messageUnboundClaims   = "pod has unbound immediate PersistentVolumeClaims"
	messageVolumeNode      = "node(s) didn't match PersistentVolume's node affinity"
	messageVolumeGone      = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"
	messageNoVolumes       = "node(s) didn't find available persistent volumes to bind"
	messageVolumeInUse     = "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod"
	annotationBindComplete = "pv.kubernetes.io/bind-completed"
)

var (
	reasonVolumeNode  = []placement.Reason{{Message: messageVolumeNode, Unresolvable: true}}
	reasonVolumeGone  = []placement.Reason{{Message: messageVolumeGone, Unresolvable: true}}
	reasonVolumeInUse = []placement.Reason{{Message: messageVolumeInUse}}
	reasonNoVolumes   = []placement.Reason{{Message: messageNoVolumes, Unresolvable: true}}
)

// volumeRequirements returns what the pod's claims demand of nodes, or why
// the pod can't be placed at all.
func (c *cluster) volumeRequirements(p *pod) (all []volumeRequirement, broken string) {
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		var name string
		switch {
		case v.PersistentVolumeClaim != nil:
			name = v.PersistentVolumeClaim.ClaimName
		case v.Ephemeral != nil:
			name = ephemeral.VolumeClaimName(p.Pod.Pod, v)
		default:
			continue
		}
		claim := c.claims[p.Namespace+"/"+name]
		switch {
		case claim == nil && v.Ephemeral != nil:
			return nil, fmt.Sprintf("waiting for ephemeral volume controller to create the persistentvolumeclaim %q", name)
		case claim == nil:
			return nil, fmt.Sprintf("persistentvolumeclaim %q not found", name)
		case claim.Status.Phase == corev1.ClaimLost:
			return nil, fmt.Sprintf("persistentvolumeclaim %q bound to non-existent persistentvolume %q", name, claim.Spec.VolumeName)
		case claim.DeletionTimestamp != nil:
			return nil, fmt.Sprintf("persistentvolumeclaim %q is being deleted", name)
		}
		if v.Ephemeral != nil {
			if err := ephemeral.VolumeIsForPod(p.Pod.Pod, claim); err != nil {
				return nil, err.Error()
			}
		}
		if slices.Contains(claim.Spec.AccessModes, corev1.ReadWriteOncePod) && len(c.claimUsers[p.Namespace+"/"+name]) > 0 {
			all = append(all, volumeRequirement{reason: reasonVolumeInUse})
		}
		r, broken := c.volumeRequirement(claim)
		if broken != "" {
			return nil, broken
		}
		if r != nil {
			all = append(all, *r)
		}
	}
	return all, ""
}

// volumeRequirement is what one claim demands; nil is nothing.
func (c *cluster) volumeRequirement(claim *corev1.PersistentVolumeClaim) (r *volumeRequirement, broken string) {
	if _, complete := claim.Annotations[annotationBindComplete]; claim.Spec.VolumeName == "" || !complete {
		if c.waitsForConsumer(claim) {
			return &volumeRequirement{reason: reasonNoVolumes}, ""
		}
		return nil, messageUnboundClaims
	}
	volume := c.volumes[claim.Spec.VolumeName]
	if volume == nil {
		return &volumeRequirement{reason: reasonVolumeGone}, ""
	}
	if volume.Spec.NodeAffinity == nil || volume.Spec.NodeAffinity.Required == nil {
		return nil, ""
	}
	nodes, err := nodeaffinity.NewNodeSelector(volume.Spec.NodeAffinity.Required)
	if err != nil {
		return nil, fmt.Sprintf("persistentvolume %q: %v", volume.Name, err)
	}
	return &volumeRequirement{nodes: nodes, reason: reasonVolumeNode}, ""
}

// waitsForConsumer reports whether a claim's volume is chosen only when a pod that uses it has a node.
func (c *cluster) waitsForConsumer(claim *corev1.PersistentVolumeClaim) bool {
	if claim.Spec.StorageClassName == nil {
		return false
	}
	class := c.storage[*claim.Spec.StorageClassName]
	return class != nil && class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
}

func (k *class) checkVolumes(n *corev1.Node) []placement.Reason {
	for i := range k.volumes {
		if v := &k.volumes[i]; v.nodes == nil || !v.nodes.Match(n) {
			return v.reason
		}
	}
	return nil
}
