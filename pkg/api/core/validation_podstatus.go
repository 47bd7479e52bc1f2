package core

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"skiff/pkg/api"
	"skiff/pkg/api/check"
)

// validatePodStatus checks what agents report: above all that nothing which has ended for good runs again.
func validatePodStatus(obj, old api.Object) field.ErrorList {
	p, was := obj.(*corev1.Pod), old.(*corev1.Pod)
	c := podCheck{pod: true, old: &was.Spec}
	errs := slices.Concat(fixedAnnotations(p.Annotations, was.Annotations), c.podAnnotations(annotationPath, p.Annotations, &p.Spec, was.Annotations))
	s, at := &p.Status, statusPath
	errs = append(errs, podConditions(at.Child("conditions"), s.Conditions)...)
	if n := s.NominatedNodeName; n != "" && n != was.Status.NominatedNodeName {
		errs = append(errs, check.Subdomain(at.Child("nominatedNodeName"), n)...)
		if was.Spec.NodeName != "" {
			errs = append(errs, field.Forbidden(at.Child("nominatedNodeName"), "may not be set on pods that are already bound to a node"))
		}
	}
	if s.ObservedGeneration < 0 {
		errs = append(errs, field.Invalid(at.Child("observedGeneration"), s.ObservedGeneration, "must be a non-negative integer"))
	}
	errs = append(errs, check.Immutable(at.Child("qosClass"), s.QOSClass, was.Status.QOSClass)...)
	errs = slices.Concat(errs,
		noRestart(at.Child("containerStatuses"), s.ContainerStatuses, was.Status.ContainerStatuses, restarts(&was.Spec, was.Spec.Containers)),
		noRestart(at.Child("initContainerStatuses"), s.InitContainerStatuses, was.Status.InitContainerStatuses, restarts(&was.Spec, was.Spec.InitContainers)),
		noRestart(at.Child("ephemeralContainerStatuses"), s.EphemeralContainerStatuses, was.Status.EphemeralContainerStatuses, func(string, int32) bool { return false }),
		claimStatuses(at, p),
		statusIPs(at.Child("podIPs"), podIPs(s), podIPs(&was.Status), s.PodIPs),
	)
	if len(s.HostIPs) > 0 && s.HostIP != s.HostIPs[0].IP {
		errs = append(errs, field.Invalid(at.Child("hostIPs").Index(0).Child("ip"), s.HostIPs[0].IP, "must be equal to `hostIP`"))
	}
	errs = append(errs, statusIPs(at.Child("hostIPs"), hostIPs(s), hostIPs(&was.Status), s.HostIPs)...)
	for _, list := range []struct {
		name       string
		statuses   []corev1.ContainerStatus
		containers []corev1.Container
	}{
		{"containerStatuses", s.ContainerStatuses, p.Spec.Containers},
		{"initContainerStatuses", s.InitContainerStatuses, p.Spec.InitContainers},
		{"ephemeralContainerStatuses", s.EphemeralContainerStatuses, nil},
	} {
		for i := range list.statuses {
			errs = append(errs, containerStatus(at.Child(list.name).Index(i), &list.statuses[i], p, list.containers, list.name == "ephemeralContainerStatuses")...)
		}
	}
	return errs
}

func podConditions(at *field.Path, conditions []corev1.PodCondition) check.Errors {
	var errs check.Errors
	for i := range conditions {
		c, at := &conditions[i], at.Index(i)
		if c.ObservedGeneration < 0 {
			errs = append(errs, field.Invalid(at.Child("observedGeneration"), c.ObservedGeneration, "must be a non-negative integer"))
		}
		errs = append(errs, check.QualifiedName(at.Child("Type"), string(c.Type))...)
	}
	return errs
}

// restarts tells by name and exit code whether a container may run again (KEP-5307: its own rules come
// first, then its own policy, then the pod's).
func restarts(s *corev1.PodSpec, containers []corev1.Container) func(name string, code int32) bool {
	for _, list := range [][]corev1.Container{s.InitContainers, s.Containers} {
		for i := range list {
			for _, r := range list[i].RestartPolicyRules {
				if r.Action == corev1.ContainerRestartRuleActionRestartAllContainers {
					return func(string, int32) bool { return true }
				}
			}
		}
	}
	return func(name string, code int32) bool {
		i := slices.IndexFunc(containers, func(c corev1.Container) bool { return c.Name == name })
		return i >= 0 && mayRestart(&containers[i], s.RestartPolicy, code)
	}
}

func mayRestart(ctr *corev1.Container, pod corev1.RestartPolicy, code int32) bool {
	policy := string(pod)
	if ctr.RestartPolicy != nil {
		for _, r := range ctr.RestartPolicyRules {
			if r.ExitCodes != nil && slices.Contains(r.ExitCodes.Values, code) == (r.ExitCodes.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn) {
				return true
			}
		}
		policy = string(*ctr.RestartPolicy)
	}
	return policy == "Always" || policy == "OnFailure" && code != 0
}

func noRestart(at *field.Path, now, old []corev1.ContainerStatus, may func(name string, code int32) bool) check.Errors {
	var errs check.Errors
	for i := range old {
		ended := old[i].State.Terminated
		if ended == nil {
			continue
		}
		j := slices.IndexFunc(now, func(s corev1.ContainerStatus) bool { return s.Name == old[i].Name })
		if j >= 0 && now[j].State.Terminated == nil && !may(old[i].Name, ended.ExitCode) {
			errs = append(errs, field.Forbidden(at.Index(i).Child("state"), "may not be transitioned to non-terminated state"))
		}
	}
	return errs
}

func podIPs(s *corev1.PodStatus) []string {
	var ips []string
	for _, ip := range s.PodIPs {
		ips = append(ips, ip.IP)
	}
	return ips
}

func hostIPs(s *corev1.PodStatus) []string {
	var ips []string
	for _, ip := range s.HostIPs {
		ips = append(ips, ip.IP)
	}
	return ips
}

// statusIPs: at most one address of each family. value is what the message shows.
func statusIPs(at *field.Path, ips, old []string, value any) check.Errors {
	var errs check.Errors
	for i, ip := range ips {
		errs = append(errs, check.IP(at.Index(i), ip, old...)...)
	}
	if len(ips) > 1 {
		if dual, err := netutils.IsDualStackIPStrings(ips); err != nil {
			errs = append(errs, field.InternalError(at, fmt.Errorf("failed to check for dual stack with error:%v", err)))
		} else if !dual || len(ips) > 2 {
			errs = append(errs, field.Invalid(at, value, "may specify no more than one IP for each IP family"))
		}
	}
	return errs
}

func claimStatuses(at *field.Path, p *corev1.Pod) check.Errors {
	var errs check.Errors
	seen := map[string]bool{}
	for i := range p.Status.ResourceClaimStatuses {
		s, at := &p.Status.ResourceClaimStatuses[i], at.Child("resourceClaimStatuses").Index(i)
		if !slices.ContainsFunc(p.Spec.ResourceClaims, func(c corev1.PodResourceClaim) bool { return c.Name == s.Name }) {
			errs = append(errs, field.Invalid(at.Child("name"), s.Name, "must match the name of an entry in `spec.resourceClaims`"))
		}
		if seen[s.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), s.Name))
		}
		seen[s.Name] = true
		if s.ResourceClaimName != nil {
			errs = append(errs, check.Subdomain(at.Child("resourceClaimName"), *s.ResourceClaimName)...)
		}
	}
	if len(p.Status.NodeAllocatableResourceClaimStatuses) > 0 {
		errs = append(errs, Off(at.Child("nodeAllocatableResourceClaimStatuses"), "DRANodeAllocatableResources"))
	}
	if s := p.Status.ExtendedResourceClaimStatus; s != nil {
		errs = append(errs, extendedClaim(at.Child("extendedResourceClaimStatus"), s, &p.Spec)...)
	}
	return errs
}

func extendedClaim(at *field.Path, s *corev1.PodExtendedResourceClaimStatus, spec *corev1.PodSpec) check.Errors {
	var errs check.Errors
	mappings := at.Child("requestMappings")
	if len(s.RequestMappings) == 0 {
		errs = append(errs, field.Required(mappings, "at least one request mapping is required"))
	}
	containers := slices.Concat(spec.InitContainers, spec.Containers)
	for i, m := range s.RequestMappings {
		idx := mappings.Index(i)
		if j := slices.IndexFunc(containers, func(c corev1.Container) bool { return c.Name == m.ContainerName }); j < 0 {
			errs = append(errs, field.Invalid(idx.Child("containerName"), m.ContainerName, "must match the name of an entry in spec.initContainers.name or spec.containers.name"))
		} else if _, ok := containers[j].Resources.Requests[corev1.ResourceName(m.ResourceName)]; !ok {
			errs = append(errs, field.Invalid(idx.Child("resourceName"), m.ResourceName, "must match the extended resource name of an entry in spec.initContainers.resources.requests or spec.containers.resources.requests"))
		}
		errs = append(errs, check.Label(at.Child("requestName"), m.RequestName)...)
		if slices.Contains(s.RequestMappings[:i], m) {
			errs = append(errs, field.Duplicate(idx.Child("containerName"), m.ContainerName), field.Duplicate(idx.Child("resourceName"), m.ResourceName), field.Duplicate(idx.Child("requestName"), m.RequestName))
		}
	}
	if s.ResourceClaimName == "" {
		return append(errs, field.Required(at.Child("resourceClaimName"), ""))
	}
	return append(errs, check.Subdomain(at.Child("resourceClaimName"), s.ResourceClaimName)...)
}

// containerStatus checks what a status says beside its state.
func containerStatus(at *field.Path, s *corev1.ContainerStatus, p *corev1.Pod, containers []corev1.Container, ephemeral bool) check.Errors {
	var errs check.Errors
	if s.User != nil && s.User.Linux != nil {
		at, u := at.Child("user", "linux"), s.User.Linux
		if isWindows(&p.Spec) {
			errs = append(errs, field.Forbidden(at, "cannot be set for a windows pod"))
		} else {
			errs = slices.Concat(errs, userID(at.Child("uid"), &u.UID), groupID(at.Child("gid"), &u.GID), groupIDs(at.Child("supplementalGroups"), u.SupplementalGroups))
		}
	}
	for i := range s.VolumeMounts {
		if v := s.VolumeMounts[i].VolumeStatus; v != nil && v.Image != nil {
			errs = append(errs, Off(at.Child("volumeMounts").Index(i).Child("volumeStatus", "image"), "ImageVolumeWithDigest"))
		}
	}
	at = at.Child("allocatedResourcesStatus")
	if ephemeral && len(s.AllocatedResourcesStatus) > 0 {
		return append(errs, field.Forbidden(at, "must not be specified in container status"))
	}
	j := slices.IndexFunc(containers, func(c corev1.Container) bool { return c.Name == s.Name })
	for i := range s.AllocatedResourcesStatus {
		a, at := &s.AllocatedResourcesStatus[i], at.Index(i)
		if j >= 0 {
			errs = append(errs, allocatedName(at.Child("name"), a.Name, &containers[j].Resources)...)
		}
		errs = append(errs, resourceHealth(at.Child("resources"), a.Resources)...)
	}
	return errs
}

func allocatedName(at *field.Path, name corev1.ResourceName, r *corev1.ResourceRequirements) check.Errors {
	claim, isClaim := strings.CutPrefix(string(name), "claim:")
	message := "must match one of the container's resource requests"
	found := false
	if isClaim {
		message = "must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or 'claim:<claimName>' if request is empty"
		claimName, request, _ := strings.Cut(claim, "/")
		found = slices.Contains(r.Claims, corev1.ResourceClaim{Name: claimName, Request: request})
	} else {
		found = slices.Contains(slices.Collect(maps.Keys(r.Requests)), name)
	}
	if found {
		return nil
	}
	return check.Errors{field.Invalid(at, name, message)}
}

func resourceHealth(at *field.Path, list []corev1.ResourceHealth) check.Errors {
	var errs check.Errors
	for i, r := range list {
		at := at.Index(i)
		errs = append(errs, check.OneOf(at.Child("health"), r.Health, corev1.ResourceHealthStatusHealthy, corev1.ResourceHealthStatusUnhealthy, corev1.ResourceHealthStatusUnknown)...)
		if m := r.Message; m != nil && *m == "" {
			errs = append(errs, field.Required(at.Child("message"), "must be non-empty if specified"))
		} else if m != nil && len(*m) > corev1.ResourceHealthMessageMaxLength {
			errs = append(errs, field.TooLong(at.Child("message"), *m, corev1.ResourceHealthMessageMaxLength))
		}
		if slices.ContainsFunc(list[:i], func(o corev1.ResourceHealth) bool { return o.ResourceID == r.ResourceID }) {
			errs = append(errs, field.Duplicate(at.Child("resourceID"), r.ResourceID))
		}
	}
	return errs
}
