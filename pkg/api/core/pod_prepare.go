package core

import (
	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/api"
)

func preparePodCreate(_ context.Context, obj api.Object) {
	p := obj.(*corev1.Pod)
	p.Status = corev1.PodStatus{Phase: corev1.PodPending, QOSClass: QOSClass(p)}
	if len(p.Spec.SchedulingGates) > 0 {
		p.Status.Conditions = []corev1.PodCondition{{
			Type:               corev1.PodScheduled,
			Status:             corev1.ConditionFalse,
			Reason:             corev1.PodReasonSchedulingGated,
			Message:            "Scheduling is blocked due to non-empty scheduling gates",
			LastTransitionTime: metav1.Now(),
		}}
	}
	mergeLabelKeys(p)
	appArmorFromAnnotations(p)
}

// preparePodStatus: the status endpoint can't detach a pod from its owner or start its deletion,
// and writers that don't know newer fields don't clear them.
func preparePodStatus(_ context.Context, obj, old api.Object) {
	p, was := obj.(*corev1.Pod), old.(*corev1.Pod)
	p.DeletionTimestamp = was.DeletionTimestamp
	p.OwnerReferences = was.OwnerReferences
	if p.Status.QOSClass == "" {
		p.Status.QOSClass = was.Status.QOSClass
	}
	if p.Status.ObservedGeneration == 0 {
		p.Status.ObservedGeneration = was.Status.ObservedGeneration
	}
	// A type may stand in several conditions: the n-th continues the n-th.
	for i := range p.Status.Conditions {
		if c := &p.Status.Conditions[i]; c.ObservedGeneration == 0 {
			c.ObservedGeneration = nthGeneration(was.Status.Conditions, c.Type, count(p.Status.Conditions[:i], c.Type))
		}
	}
}

func count(conditions []corev1.PodCondition, t corev1.PodConditionType) int {
	n := 0
	for i := range conditions {
		if conditions[i].Type == t {
			n++
		}
	}
	return n
}

func nthGeneration(conditions []corev1.PodCondition, t corev1.PodConditionType, n int) int64 {
	for i := range conditions {
		if conditions[i].Type != t {
			continue
		}
		if n == 0 {
			return conditions[i].ObservedGeneration
		}
		n--
	}
	return 0
}

// prepareEphemeralContainers keeps everything but the ephemeral containers.
func prepareEphemeralContainers(_ context.Context, obj, old api.Object) {
	p, was := obj.(*corev1.Pod), old.(*corev1.Pod)
	added := p.Spec.EphemeralContainers
	p.Spec = was.Spec
	p.Spec.EphemeralContainers = added
	keepRest(p, was)
}

// prepareResize keeps everything but resources and resize policies. When containers are added, removed or
// renamed, all is left as it came, for validation to refuse.
func prepareResize(_ context.Context, obj, old api.Object) {
	p, was := obj.(*corev1.Pod), old.(*corev1.Pod)
	if !sameNames(p.Spec.Containers, was.Spec.Containers) || !sameNames(p.Spec.InitContainers, was.Spec.InitContainers) {
		return
	}
	resized := p.Spec
	p.Spec = was.Spec
	p.Spec.Resources = resized.Resources
	p.Spec.Containers = withResources(was.Spec.Containers, resized.Containers)
	p.Spec.InitContainers = withResources(was.Spec.InitContainers, resized.InitContainers)
	keepRest(p, was)
}

func sameNames(a, b []corev1.Container) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Name != b[i].Name {
			return false
		}
	}
	return true
}

func withResources(containers, from []corev1.Container) []corev1.Container {
	if containers == nil {
		return nil
	}
	out := make([]corev1.Container, len(containers))
	copy(out, containers)
	for i := range out {
		out[i].Resources, out[i].ResizePolicy = from[i].Resources, from[i].ResizePolicy
	}
	return out
}

func keepRest(p, was *corev1.Pod) {
	p.Status = was.Status
	metav1.ResetObjectMetaForStatus(&p.ObjectMeta, &was.ObjectMeta)
	if !equality.Semantic.DeepEqual(&p.Spec, &was.Spec) {
		p.Generation = was.Generation + 1
	}
}

// QOSClass is the pod's quality of service: by its own resources if it has some, else by those of its
// containers. https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/
func QOSClass(p *corev1.Pod) corev1.PodQOSClass {
	requests, limits := corev1.ResourceList{}, corev1.ResourceList{}
	guaranteed := true
	if r := p.Spec.Resources; r != nil {
		addCounted(requests, r.Requests)
		n := addCounted(limits, r.Limits)
		guaranteed = len(r.Limits) == 0 || n == 2
	} else {
		for _, list := range [][]corev1.Container{p.Spec.Containers, p.Spec.InitContainers} {
			for i := range list {
				addCounted(requests, list[i].Resources.Requests)
				if addCounted(limits, list[i].Resources.Limits) < 2 {
					guaranteed = false
				}
			}
		}
	}
	switch {
	case len(requests) == 0 && len(limits) == 0:
		return corev1.PodQOSBestEffort
	case guaranteed && equality.Semantic.DeepEqual(requests, limits):
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}

// addCounted sums up CPU and memory, and reports how many of the two were there.
func addCounted(sum, list corev1.ResourceList) int {
	n := 0
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		q, ok := list[name]
		if !ok || q.Sign() <= 0 {
			continue
		}
		n++
		total := sum[name]
		total.Add(q)
		sum[name] = total
	}
	return n
}

// mergeLabelKeys turns the keys of matchLabelKeys and mismatchLabelKeys into expressions with the
// pod's own values, which the scheduler then needs not know about (KEP-3633, KEP-3243).
func mergeLabelKeys(p *corev1.Pod) {
	if a := p.Spec.Affinity; a != nil {
		if a.PodAffinity != nil {
			mergeTerms(p.Labels, a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
		}
		if a.PodAntiAffinity != nil {
			mergeTerms(p.Labels, a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
		}
	}
	for i := range p.Spec.TopologySpreadConstraints {
		c := &p.Spec.TopologySpreadConstraints[i]
		mergeKeys(c.LabelSelector, c.MatchLabelKeys, metav1.LabelSelectorOpIn, p.Labels)
	}
}

func mergeTerms(labels map[string]string, required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) {
	merge := func(t *corev1.PodAffinityTerm) {
		mergeKeys(t.LabelSelector, t.MatchLabelKeys, metav1.LabelSelectorOpIn, labels)
		mergeKeys(t.LabelSelector, t.MismatchLabelKeys, metav1.LabelSelectorOpNotIn, labels)
	}
	for i := range required {
		merge(&required[i])
	}
	for i := range preferred {
		merge(&preferred[i].PodAffinityTerm)
	}
}

// mergeKeys leaves a nil selector alone: it matches nothing.
func mergeKeys(s *metav1.LabelSelector, keys []string, op metav1.LabelSelectorOperator, labels map[string]string) {
	if s == nil {
		return
	}
	for _, key := range keys {
		if value, ok := labels[key]; ok {
			s.MatchExpressions = append(s.MatchExpressions, metav1.LabelSelectorRequirement{Key: key, Operator: op, Values: []string{value}})
		}
	}
}

// appArmorFromAnnotations carries the annotations from before 1.30 into the fields that replaced them.
func appArmorFromAnnotations(p *corev1.Pod) {
	if len(p.Annotations) == 0 || p.Spec.OS != nil && p.Spec.OS.Name == corev1.Windows {
		return
	}
	var whole *corev1.AppArmorProfile
	if p.Spec.SecurityContext != nil {
		whole = p.Spec.SecurityContext.AppArmorProfile
	}
	apply := func(name string, context **corev1.SecurityContext) {
		text, ok := p.Annotations[corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix+name]
		if !ok || *context != nil && (*context).AppArmorProfile != nil {
			return
		}
		profile := appArmorProfile(text)
		if profile == nil || equality.Semantic.DeepEqual(profile, whole) {
			return
		}
		if *context == nil {
			*context = &corev1.SecurityContext{}
		}
		(*context).AppArmorProfile = profile
	}
	for i := range p.Spec.InitContainers {
		apply(p.Spec.InitContainers[i].Name, &p.Spec.InitContainers[i].SecurityContext)
	}
	for i := range p.Spec.Containers {
		apply(p.Spec.Containers[i].Name, &p.Spec.Containers[i].SecurityContext)
	}
	for i := range p.Spec.EphemeralContainers {
		apply(p.Spec.EphemeralContainers[i].Name, &p.Spec.EphemeralContainers[i].SecurityContext)
	}
}

// appArmorProfile reads an annotation's value; nil if it means nothing.
func appArmorProfile(text string) *corev1.AppArmorProfile {
	switch text {
	case corev1.DeprecatedAppArmorBetaProfileNameUnconfined:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}
	case corev1.DeprecatedAppArmorBetaProfileRuntimeDefault:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}
	}
	name, ok := strings.CutPrefix(text, corev1.DeprecatedAppArmorBetaProfileNamePrefix)
	const longest = 4095 // PATH_MAX
	if !ok || name == "" || strings.TrimSpace(name) != name || len(name) > longest {
		return nil
	}
	return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: &name}
}
