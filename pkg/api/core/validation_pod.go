package core

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api"
	"skiff/pkg/api/check"
)

var (
	specPath       = field.NewPath("spec")
	statusPath     = field.NewPath("status")
	annotationPath = field.NewPath("metadata", "annotations")
)

func validatePod(obj api.Object) field.ErrorList {
	p := obj.(*corev1.Pod)
	errs := wholePod(p, nil)
	if len(p.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(specPath.Child("ephemeralContainers"), "cannot be set on create"))
	}
	if p.Spec.NodeName != "" && len(p.Spec.SchedulingGates) > 0 {
		errs = append(errs, field.Forbidden(specPath.Child("nodeName"), "cannot be set until all schedulingGates have been cleared"))
	}
	return append(errs, profileAnnotations(specPath, p.Annotations, &p.Spec)...)
}

// wholePod checks a pod's annotations and spec, however it came to be.
func wholePod(p, old *corev1.Pod) check.Errors {
	c := podCheck{pod: true}
	var oldAnnotations map[string]string
	if old != nil {
		c.old, oldAnnotations = &old.Spec, old.Annotations
	}
	errs := slices.Concat(c.podAnnotations(annotationPath, p.Annotations, &p.Spec, oldAnnotations), c.spec(specPath, &p.Spec, p.Name, p.Annotations))
	if p.Spec.ServiceAccountName == "" {
		for i := range p.Spec.Volumes {
			projected := p.Spec.Volumes[i].Projected
			for j := 0; projected != nil && j < len(projected.Sources); j++ {
				if projected.Sources[j].ServiceAccountToken != nil {
					at := specPath.Child("volumes").Index(i).Child("projected", "sources").Index(j).Child("serviceAccountToken")
					errs = append(errs, field.Forbidden(at, "must not be specified when serviceAccountName is not set"))
				}
			}
		}
	}
	for i := range p.Spec.Containers {
		errs = append(errs, imageTrimmed(specPath.Child("containers").Index(i), &p.Spec.Containers[i])...)
	}
	for i := range p.Spec.InitContainers {
		errs = append(errs, imageTrimmed(specPath.Child("initContainers").Index(i), &p.Spec.InitContainers[i])...)
	}
	return errs
}

// fixedAnnotations: those that mirror a file of the node or chose a profile can't change.
func fixedAnnotations(now, old map[string]string) check.Errors {
	name := func(key string) string {
		switch {
		case strings.HasPrefix(key, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix):
			return "AppArmor annotations"
		case key == corev1.MirrorPodAnnotationKey:
			return "mirror pod annotation"
		}
		return ""
	}
	var errs check.Errors
	for _, key := range slices.Sorted(maps.Keys(old)) {
		if v, ok := now[key]; (!ok || v != old[key]) && name(key) != "" {
			errs = append(errs, field.Forbidden(annotationPath.Key(key), "may not remove or update "+name(key)))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(now)) {
		if _, ok := old[key]; !ok && name(key) != "" {
			errs = append(errs, field.Forbidden(annotationPath.Key(key), "may not add "+name(key)))
		}
	}
	return errs
}

var changeable = strings.Join([]string{
	"`spec.containers[*].image`", "`spec.initContainers[*].image`", "`spec.activeDeadlineSeconds`",
	"`spec.tolerations` (only additions to existing tolerations)",
	"`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
}, ",")

// validatePodUpdate: a pod's spec is what its node was told to run, so little of it can change.
// What may is checked field by field and then set back, so that the rest must be equal.
func validatePodUpdate(obj, old api.Object) field.ErrorList {
	p, was := obj.(*corev1.Pod), old.(*corev1.Pod)
	errs := slices.Concat(wholePod(p, was), fixedAnnotations(p.Annotations, was.Annotations))
	const refusal = "pod updates may not add or remove containers"
	switch {
	case len(p.Spec.Containers) != len(was.Spec.Containers):
		return append(errs, field.Forbidden(specPath.Child("containers"), refusal))
	case len(p.Spec.InitContainers) != len(was.Spec.InitContainers):
		return append(errs, field.Forbidden(specPath.Child("initContainers"), refusal))
	}
	deadline, stop := deadlineUpdate(specPath.Child("activeDeadlineSeconds"), p.Spec.ActiveDeadlineSeconds, was.Spec.ActiveDeadlineSeconds)
	errs = append(errs, deadline...)
	if stop {
		return errs
	}
	errs = slices.Concat(errs, tolerationsAdded(p.Spec.Tolerations, was.Spec.Tolerations), gatesRemoved(p.Spec.SchedulingGates, was.Spec.SchedulingGates))
	if equality.Semantic.DeepEqual(&p.Spec, &was.Spec) {
		return errs
	}
	spec := p.Spec.DeepCopy()
	for i := range spec.Containers {
		spec.Containers[i].Image = was.Spec.Containers[i].Image
	}
	for i := range spec.InitContainers {
		spec.InitContainers[i].Image = was.Spec.InitContainers[i].Image
	}
	spec.ActiveDeadlineSeconds = was.Spec.ActiveDeadlineSeconds
	spec.SchedulingGates, spec.Tolerations = was.Spec.SchedulingGates, was.Spec.Tolerations
	if g := was.Spec.TerminationGracePeriodSeconds; g != nil && *g < 0 && spec.TerminationGracePeriodSeconds != nil && *spec.TerminationGracePeriodSeconds == 1 {
		spec.TerminationGracePeriodSeconds = g
	}
	if len(was.Spec.SchedulingGates) > 0 {
		errs = append(errs, narrowed(spec, &was.Spec)...)
	}
	if !equality.Semantic.DeepEqual(spec, &was.Spec) {
		errs = append(errs, field.Forbidden(specPath, fmt.Sprintf("pod updates may not change fields other than %s\n%v", changeable, diff.Diff(&was.Spec, spec))))
	}
	return errs
}

// deadlineUpdate: a deadline can be set, and come nearer. stop is what keeps Kubernetes from looking further.
func deadlineUpdate(at *field.Path, now, old *int64) (errs check.Errors, stop bool) {
	switch {
	case now == nil && old != nil:
		return check.Errors{field.Invalid(at, now, "must not update from a positive integer to nil value")}, false
	case now == nil:
		return nil, false
	case *now < 0 || *now > math.MaxInt32:
		return check.InRange(at, *now, 0, math.MaxInt32), true
	case old != nil && *old < *now:
		return check.Errors{field.Invalid(at, *now, "must be less than or equal to previous value")}, true
	}
	return nil, false
}

func tolerationsAdded(now, old []corev1.Toleration) check.Errors {
	for _, t := range old {
		if !slices.ContainsFunc(now, func(n corev1.Toleration) bool {
			t.TolerationSeconds = n.TolerationSeconds
			return equality.Semantic.DeepEqual(t, n)
		}) {
			return check.Errors{field.Forbidden(specPath.Child("tolerations"), "existing toleration can not be modified except its tolerationSeconds")}
		}
	}
	return nil
}

func gatesRemoved(now, old []corev1.PodSchedulingGate) check.Errors {
	var errs check.Errors
	for i, g := range now {
		if !slices.Contains(old, g) {
			errs = append(errs, field.Forbidden(specPath.Child("schedulingGates").Index(i).Child("name"), fmt.Sprintf("only deletion is allowed, but found new scheduling gate '%s'", g.Name)))
		}
	}
	return errs
}

// narrowed: as long as a pod is gated, the set of nodes it may go to can shrink (KEP-3838). What
// was checked is set back in spec.
func narrowed(spec, was *corev1.PodSpec) check.Errors {
	var errs check.Errors
	for key, v := range was.NodeSelector {
		if now, ok := spec.NodeSelector[key]; !ok || now != v {
			errs = append(errs, field.Invalid(specPath.Child("nodeSelector"), spec.NodeSelector, "only additions to spec.nodeSelector are allowed (no mutations or deletions)"))
			break
		}
	}
	spec.NodeSelector = was.NodeSelector
	var before, now *corev1.NodeAffinity
	if was.Affinity != nil {
		before = was.Affinity.NodeAffinity
	}
	if spec.Affinity != nil {
		now = spec.Affinity.NodeAffinity
	}
	if equality.Semantic.DeepEqual(before, now) {
		return errs
	}
	errs = append(errs, affinityNarrowed(specPath.Child("affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"), now, before)...)
	switch a := spec.Affinity; {
	case a == nil && before != nil:
		spec.Affinity = &corev1.Affinity{NodeAffinity: before}
	case a != nil && was.Affinity == nil && a.PodAffinity == nil && a.PodAntiAffinity == nil:
		spec.Affinity = nil
	case a != nil:
		a.NodeAffinity = before
	}
	return errs
}

func affinityNarrowed(at *field.Path, now, old *corev1.NodeAffinity) check.Errors {
	if old == nil || old.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil
	}
	before := old.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	var terms []corev1.NodeSelectorTerm
	if now != nil && now.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		terms = now.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	}
	if len(before) > 0 && len(terms) != len(before) {
		return check.Errors{field.Invalid(at, terms, "no additions/deletions to non-empty NodeSelectorTerms list are allowed")}
	}
	extends := func(now, old []corev1.NodeSelectorRequirement) bool {
		return len(now) >= len(old) && equality.Semantic.DeepEqual(now[:len(old)], old)
	}
	var errs check.Errors
	for i := range before {
		n, o := &terms[i], &before[i]
		empty := len(o.MatchExpressions) == 0 && len(o.MatchFields) == 0 // matches nothing: more terms would widen it
		if empty && len(n.MatchExpressions)+len(n.MatchFields) > 0 || !extends(n.MatchExpressions, o.MatchExpressions) || !extends(n.MatchFields, o.MatchFields) {
			errs = append(errs, field.Invalid(at.Index(i), *n, "only additions are allowed (no mutations or deletions)"))
		}
	}
	return errs
}

func validateEphemeralContainers(obj, old api.Object) field.ErrorList {
	p, was := obj.(*corev1.Pod), old.(*corev1.Pod)
	if _, mirror := was.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return check.Errors{field.Forbidden(field.NewPath(""), "static pods do not support ephemeral containers")}
	}
	errs := slices.Concat(wholePod(p, was), fixedAnnotations(p.Annotations, was.Annotations))
	at := specPath.Child("ephemeralContainers")
	for i := range was.Spec.EphemeralContainers {
		before := &was.Spec.EphemeralContainers[i]
		j := slices.IndexFunc(p.Spec.EphemeralContainers, func(e corev1.EphemeralContainer) bool { return e.Name == before.Name })
		if j < 0 {
			errs = append(errs, field.Forbidden(at, fmt.Sprintf("existing ephemeral containers %q may not be removed\n", before.Name)))
		} else if now := &p.Spec.EphemeralContainers[j]; !equality.Semantic.DeepEqual(before, now) {
			errs = append(errs, field.Forbidden(at, fmt.Sprintf("existing ephemeral containers %q may not be changed\n%v", before.Name, diff.Diff(before, now))))
		}
	}
	return errs
}
