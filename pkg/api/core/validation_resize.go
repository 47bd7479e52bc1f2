package core

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api"
	"skiff/pkg/api/check"
)

// validateResize: CPU and memory of a running pod can change, and nothing else through this subresource (KEP-1287).
func validateResize(obj, old api.Object) field.ErrorList {
	p, was := obj.(*corev1.Pod), old.(*corev1.Pod)
	if _, mirror := was.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return check.Errors{field.Forbidden(field.NewPath(""), "static pods cannot be resized")}
	}
	if isWindows(&was.Spec) {
		return check.Errors{field.Forbidden(field.NewPath(""), "windows pods cannot be resized")}
	}
	errs := wholePod(p, was)
	class := was.Status.QOSClass
	if class == "" {
		class = QOSClass(was)
	}
	if class != QOSClass(p) {
		errs = append(errs, field.Invalid(specPath, p.Status.QOSClass, "Pod QOS Class may not change as a result of resizing"))
	}
	if !nodeCanResize(was) {
		errs = append(errs, field.Forbidden(specPath, "Pod running on node without support for resize"))
	}
	spec := p.Spec.DeepCopy()
	errs = append(errs, podResized(spec, &was.Spec)...)
	if len(was.Status.NodeAllocatableResourceClaimStatuses) > 0 {
		errs = append(errs, field.Forbidden(specPath, "pods with node allocatable resource claims cannot be resized"))
	}
	if order := slices.Concat(sameOrder("containers", p.Spec.Containers, was.Spec.Containers), sameOrder("initContainers", p.Spec.InitContainers, was.Spec.InitContainers)); len(order) > 0 {
		return append(errs, order...)
	}
	for i := range was.Spec.InitContainers {
		errs = append(errs, keepsResources(specPath.Child("initContainers").Index(i).Child("resources"), "resource", &p.Spec.InitContainers[i].Resources, &was.Spec.InitContainers[i].Resources)...)
	}
	for i := range was.Spec.Containers {
		errs = append(errs, keepsResources(specPath.Child("containers").Index(i).Child("resources"), "resource", &p.Spec.Containers[i].Resources, &was.Spec.Containers[i].Resources)...)
	}
	for i := range spec.Containers {
		setBack(&spec.Containers[i].Resources, &was.Spec.Containers[i].Resources)
		if !equality.Semantic.DeepEqual(&spec.Containers[i], &was.Spec.Containers[i]) {
			errs = append(errs, field.Forbidden(specPath, "only cpu and memory resources are mutable"))
		}
	}
	for i := range spec.InitContainers {
		errs = append(errs, initResized(specPath.Child("initContainers").Index(i), &spec.InitContainers[i], &was.Spec.InitContainers[i])...)
	}
	if len(errs) == 0 && !equality.Semantic.DeepEqual(spec, &was.Spec) {
		errs = append(errs, field.Forbidden(specPath, "only cpu and memory resources are mutable"))
	}
	return errs
}

// nodeCanResize: only nodes that can report what their running containers have.
func nodeCanResize(p *corev1.Pod) bool {
	for i := range p.Status.ContainerStatuses {
		if s := &p.Status.ContainerStatuses[i]; s.State.Running != nil {
			return s.Resources != nil
		}
	}
	return true
}

func podResized(spec, was *corev1.PodSpec) check.Errors {
	set := func(r *corev1.ResourceRequirements) bool { return r != nil && len(r.Requests)+len(r.Limits) > 0 }
	if !set(spec.Resources) && !set(was.Resources) {
		return nil
	}
	at := specPath.Child("resources")
	if spec.Resources == nil {
		return check.Errors{field.Forbidden(at, "pod-level resources cannot be removed")}
	}
	var errs check.Errors
	before := was.Resources
	if before == nil {
		before = &corev1.ResourceRequirements{}
	}
	errs = append(errs, keepsResources(at, "pod-level resource", spec.Resources, before)...)
	setBack(spec.Resources, before)
	if was.Resources == nil && len(spec.Resources.Requests)+len(spec.Resources.Limits)+len(spec.Resources.Claims) == 0 {
		spec.Resources = nil
	}
	if !equality.Semantic.DeepEqual(spec.Resources, was.Resources) {
		errs = append(errs, field.Forbidden(specPath, "only cpu and memory resources are mutable at pod-level"))
	}
	return errs
}

func initResized(at *field.Path, ctr, was *corev1.Container) check.Errors {
	changed := !equality.Semantic.DeepEqual(ctr, was)
	setBack(&ctr.Resources, &was.Resources)
	var errs check.Errors
	if !equality.Semantic.DeepEqual(ctr, was) {
		errs = append(errs, field.Forbidden(at, "only cpu and memory resources for init or sidecar containers are mutable"))
	}
	for _, p := range ctr.ResizePolicy {
		if changed && !isSidecar(ctr) && p.RestartPolicy == corev1.RestartContainer {
			errs = append(errs, field.Forbidden(at, "non-sidecar init containers with a resize policy of RestartContainer cannot be resized"))
		}
	}
	return errs
}

func sameOrder(list string, now, old []corev1.Container) check.Errors {
	at := specPath.Child(list)
	if len(now) != len(old) {
		return check.Errors{field.Forbidden(at, list+" may not be added or removed on resize")}
	}
	var errs check.Errors
	for i := range old {
		if now[i].Name != old[i].Name {
			errs = append(errs, field.Forbidden(at.Index(i).Child("name"), list+" may not be renamed or reordered on resize"))
		}
	}
	return errs
}

// keepsResources: an amount can change, not go away.
func keepsResources(at *field.Path, what string, now, old *corev1.ResourceRequirements) check.Errors {
	var errs check.Errors
	compare := func(name string, now, old corev1.ResourceList) {
		for n := range old {
			if _, ok := now[n]; !ok {
				errs = append(errs, field.Forbidden(at.Child(name), what+" "+name+" cannot be removed"))
				return
			}
		}
	}
	compare("requests", now.Requests, old.Requests)
	compare("limits", now.Limits, old.Limits)
	return errs
}

// setBack gives r the CPU and memory of was.
func setBack(r, was *corev1.ResourceRequirements) {
	reset := func(list, was corev1.ResourceList) corev1.ResourceList {
		for _, n := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			delete(list, n)
			if q, ok := was[n]; ok {
				if list == nil {
					list = corev1.ResourceList{}
				}
				list[n] = q
			}
		}
		return list
	}
	r.Requests, r.Limits = reset(r.Requests, was.Requests), reset(r.Limits, was.Limits)
}
