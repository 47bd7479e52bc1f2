package core

import (
	"fmt"
	"iter"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/component-helpers/node/util/sysctl"

	"skiff/pkg/api/check"
)

// containersOf walks over all of a pod's containers.
func containersOf(s *corev1.PodSpec) iter.Seq[*corev1.Container] {
	return func(yield func(*corev1.Container) bool) {
		for ctr := range containersAt(s, nil) {
			if !yield(ctr) {
				return
			}
		}
	}
}

// containersAt walks over all of a pod's containers with their paths below at, in Kubernetes' order.
func containersAt(s *corev1.PodSpec, at *field.Path) iter.Seq2[*corev1.Container, *field.Path] {
	return func(yield func(*corev1.Container, *field.Path) bool) {
		for i := range s.InitContainers {
			if !yield(&s.InitContainers[i], at.Child("initContainers").Index(i)) {
				return
			}
		}
		for i := range s.Containers {
			if !yield(&s.Containers[i], at.Child("containers").Index(i)) {
				return
			}
		}
		for i := range s.EphemeralContainers {
			if !yield((*corev1.Container)(&s.EphemeralContainers[i].EphemeralContainerCommon), at.Child("ephemeralContainers").Index(i)) {
				return
			}
		}
	}
}

func hostUsers(s *corev1.PodSpec) bool { return s.HostUsers == nil || *s.HostUsers }

func isPrivileged(sc *corev1.SecurityContext) bool {
	return sc != nil && sc.Privileged != nil && *sc.Privileged
}

func userID(at *field.Path, id *int64) check.Errors {
	if id == nil {
		return nil
	}
	return check.Messages(at, *id, utilvalidation.IsValidUserID(*id))
}

func groupID(at *field.Path, id *int64) check.Errors {
	if id == nil {
		return nil
	}
	return check.Messages(at, *id, utilvalidation.IsValidGroupID(*id))
}

func groupIDs(at *field.Path, ids []int64) check.Errors {
	var errs check.Errors
	for i := range ids {
		errs = append(errs, groupID(at.Index(i), &ids[i])...)
	}
	return errs
}

// podSecurity checks the security context of a pod and what is next to it in the spec.
func (c podCheck) podSecurity(at *field.Path, s *corev1.PodSpec) check.Errors {
	sc := s.SecurityContext
	var errs check.Errors
	if s.ShareProcessNamespace != nil && *s.ShareProcessNamespace && s.HostPID {
		errs = append(errs, field.Invalid(at.Child("shareProcessNamespace"), true, "ShareProcessNamespace and HostPID cannot both be enabled"))
	}
	if sc == nil {
		return errs
	}
	errs = slices.Concat(errs,
		groupID(at.Child("fsGroup"), sc.FSGroup),
		userID(at.Child("runAsUser"), sc.RunAsUser),
		groupID(at.Child("runAsGroup"), sc.RunAsGroup),
		groupIDs(at.Child("supplementalGroups"), sc.SupplementalGroups),
		c.sysctls(at.Child("sysctls"), s),
	)
	if p := sc.FSGroupChangePolicy; p != nil {
		errs = append(errs, check.OneOf(at.Child("fsGroupChangePolicy"), *p, corev1.FSGroupChangeAlways, corev1.FSGroupChangeOnRootMismatch)...)
	}
	errs = slices.Concat(errs, seccomp(at.Child("seccompProfile"), sc.SeccompProfile), windowsOptions(at.Child("windowsOptions"), sc.WindowsOptions), appArmor(at.Child("appArmorProfile"), sc.AppArmorProfile))
	if p := sc.SupplementalGroupsPolicy; p != nil {
		errs = append(errs, check.OneOf(at.Child("supplementalGroupsPolicy"), *p, corev1.SupplementalGroupsPolicyMerge, corev1.SupplementalGroupsPolicyStrict)...)
	}
	if p := sc.SELinuxChangePolicy; p != nil {
		errs = append(errs, check.OneOf(at.Child("seLinuxChangePolicy"), *p, corev1.SELinuxChangePolicyMountOption, corev1.SELinuxChangePolicyRecursive)...)
	}
	return errs
}

func securityContext(at *field.Path, sc *corev1.SecurityContext, hostUsers bool) check.Errors {
	if sc == nil {
		return nil
	}
	errs := slices.Concat(userID(at.Child("runAsUser"), sc.RunAsUser), groupID(at.Child("runAsGroup"), sc.RunAsGroup))
	if p := sc.ProcMount; p != nil {
		errs = append(errs, check.OneOf(at.Child("procMount"), *p, corev1.DefaultProcMount, corev1.UnmaskedProcMount)...)
		if hostUsers && *p == corev1.UnmaskedProcMount {
			errs = append(errs, field.Invalid(at.Child("procMount"), *p, "`hostUsers` must be false to use `Unmasked`"))
		}
	}
	errs = append(errs, seccomp(at.Child("seccompProfile"), sc.SeccompProfile)...)
	if sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation {
		if isPrivileged(sc) {
			errs = append(errs, field.Invalid(at, sc, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"))
		}
		if sc.Capabilities != nil && slices.Contains(sc.Capabilities.Add, "CAP_SYS_ADMIN") {
			errs = append(errs, field.Invalid(at, sc, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"))
		}
	}
	return slices.Concat(errs, windowsOptions(at.Child("windowsOptions"), sc.WindowsOptions), appArmor(at.Child("appArmorProfile"), sc.AppArmorProfile))
}

func seccomp(at *field.Path, p *corev1.SeccompProfile) check.Errors {
	if p == nil {
		return nil
	}
	var errs check.Errors
	if p.Type == "" {
		errs = append(errs, field.Required(at.Child("type"), "type is required when seccompProfile is set"))
	} else {
		errs = append(errs, check.OneOf(at.Child("type"), p.Type, corev1.SeccompProfileTypeLocalhost, corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined)...)
	}
	local := at.Child("localhostProfile")
	switch isLocal := p.Type == corev1.SeccompProfileTypeLocalhost; {
	case isLocal && p.LocalhostProfile == nil:
		errs = append(errs, field.Required(local, "must be set when seccomp type is Localhost"))
	case isLocal:
		errs = append(errs, descendingPath(local, *p.LocalhostProfile)...)
	case p.LocalhostProfile != nil:
		errs = append(errs, field.Invalid(local, p, "can only be set when seccomp type is Localhost"))
	}
	return errs
}

func appArmor(at *field.Path, p *corev1.AppArmorProfile) check.Errors {
	if p == nil {
		return nil
	}
	local := at.Child("localhostProfile")
	switch p.Type {
	case corev1.AppArmorProfileTypeLocalhost:
		if p.LocalhostProfile == nil || *p.LocalhostProfile == "" {
			return check.Errors{field.Required(local, "must be set when AppArmor type is Localhost")}
		}
		var errs check.Errors
		if name := *p.LocalhostProfile; strings.TrimSpace(name) != name {
			errs = append(errs, field.Invalid(local, name, "must not be padded with whitespace"))
		}
		const longest = 4095 // PATH_MAX - 1
		if len(*p.LocalhostProfile) > longest {
			errs = append(errs, field.TooLong(local, "", longest))
		}
		return errs
	case "":
		return check.Errors{field.Required(at.Child("type"), "type is required when appArmorProfile is set")}
	case corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined:
		if p.LocalhostProfile != nil {
			return check.Errors{field.Invalid(local, *p.LocalhostProfile, "can only be set when AppArmor type is Localhost")}
		}
		return nil
	}
	return check.OneOf(at.Child("type"), p.Type, corev1.AppArmorProfileTypeLocalhost, corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined)
}

var sysctlName = regexp.MustCompile(`^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$`)

func (c podCheck) sysctls(at *field.Path, s *corev1.PodSpec) check.Errors {
	const longest = 253
	var errs check.Errors
	seen := map[string]bool{}
	for i, ctl := range s.SecurityContext.Sysctls {
		at := at.Index(i).Child("name")
		switch {
		case ctl.Name == "":
			errs = append(errs, field.Required(at, ""))
		case len(ctl.Name) > longest || !sysctlName.MatchString(ctl.Name):
			errs = append(errs, field.Invalid(at, ctl.Name, fmt.Sprintf("must have at most %d characters and match regex %s", longest, sysctlName)))
		case seen[ctl.Name]:
			errs = append(errs, field.Duplicate(at, ctl.Name))
		}
		seen[ctl.Name] = true
		if message := hostSysctl(ctl.Name, s); message != "" && !c.had(hasHostSysctl) {
			errs = append(errs, field.Invalid(at, ctl.Name, message))
		}
	}
	return errs
}

// hostSysctl says why a sysctl can't be set: it would be the host's.
func hostSysctl(name string, s *corev1.PodSpec) string {
	switch ns, _, _ := sysctl.GetNamespace(name); {
	case s.HostNetwork && ns == sysctl.NetNamespace:
		return "may not be specified when 'hostNetwork' is true"
	case s.HostIPC && ns == sysctl.IPCNamespace:
		return "may not be specified when 'hostIPC' is true"
	}
	return ""
}

func hasHostSysctl(s *corev1.PodSpec) bool {
	return s.SecurityContext != nil && slices.ContainsFunc(s.SecurityContext.Sysctls, func(ctl corev1.Sysctl) bool { return hostSysctl(ctl.Name, s) != "" })
}

// userNamespace: a pod with users of its own shares none of the host's other namespaces.
func (c podCheck) userNamespace(at *field.Path, s *corev1.PodSpec) check.Errors {
	if hostUsers(s) {
		return nil
	}
	var errs check.Errors
	forbid := func(set bool, at *field.Path) {
		if set {
			errs = append(errs, field.Forbidden(at, "when `hostUsers` is false"))
		}
	}
	forbid(s.HostNetwork, at.Child("hostNetwork"))
	forbid(s.HostPID, at.Child("HostPID"))
	forbid(s.HostIPC, at.Child("HostIPC"))
	devices := func(s *corev1.PodSpec) bool {
		for ctr := range containersOf(s) {
			if len(ctr.VolumeDevices) > 0 {
				return !hostUsers(s)
			}
		}
		return false
	}
	if !c.had(devices) {
		for ctr, at := range containersAt(s, at) {
			forbid(len(ctr.VolumeDevices) > 0, at.Child("volumeDevices"))
		}
	}
	return errs
}

// profileAnnotations compares the annotations that once held profiles with the fields that replaced them.
func profileAnnotations(at *field.Path, annotations map[string]string, s *corev1.PodSpec) check.Errors {
	if len(annotations) == 0 {
		return nil
	}
	var errs check.Errors
	compareSeccomp := func(key string, p *corev1.SeccompProfile, at *field.Path) {
		if a, ok := annotations[key]; ok && p != nil {
			errs = append(errs, compareProfile(at.Child("securityContext", "seccompProfile"), "seccomp", a, string(p.Type), p.LocalhostProfile)...)
		}
	}
	var whole *corev1.AppArmorProfile
	if s.SecurityContext != nil {
		compareSeccomp(corev1.SeccompPodAnnotationKey, s.SecurityContext.SeccompProfile, at)
		whole = s.SecurityContext.AppArmorProfile
	}
	for ctr, at := range containersAt(s, at) {
		armor := whole
		if sc := ctr.SecurityContext; sc != nil {
			compareSeccomp(corev1.SeccompContainerAnnotationKeyPrefix+ctr.Name, sc.SeccompProfile, at)
			if sc.AppArmorProfile != nil {
				armor = sc.AppArmorProfile
			}
		}
		if a, ok := annotations[corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix+ctr.Name]; ok && armor != nil && !isWindows(s) {
			errs = append(errs, compareProfile(at.Child("securityContext", "appArmorProfile"), "apparmor", a, string(armor.Type), armor.LocalhostProfile)...)
		}
	}
	return errs
}

func compareProfile(at *field.Path, what, annotation, profile string, local *string) check.Errors {
	same := true
	switch profile {
	case "Unconfined":
		same = annotation == "unconfined"
	case "RuntimeDefault":
		same = annotation == "runtime/default" || what == "seccomp" && annotation == corev1.DeprecatedSeccompProfileDockerDefault
	case "Localhost":
		name, isLocal := strings.CutPrefix(annotation, "localhost/")
		if isLocal && (local == nil || name != *local) {
			return check.Errors{field.Forbidden(at.Child("localhostProfile"), what+" profile in annotation and field must match")}
		}
		same = isLocal
	}
	if same {
		return nil
	}
	return check.Errors{field.Forbidden(at.Child("type"), what+" type in annotation and field must match")}
}
