package core

import (
	"fmt"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api/check"
)

// No agent of ours runs Windows pods, but a cluster may hold nodes of another make.

func isWindows(s *corev1.PodSpec) bool { return s.OS != nil && s.OS.Name == corev1.Windows }

func podOS(at *field.Path, s *corev1.PodSpec) check.Errors {
	if s.OS == nil {
		return nil
	}
	if s.OS.Name == "" {
		return check.Errors{field.Required(at.Child("os", "name"), "")}
	}
	if errs := check.OneOf(at.Child("os"), s.OS.Name, corev1.Linux, corev1.Windows); len(errs) > 0 {
		return errs
	}
	var errs check.Errors
	forbid := func(set bool, at *field.Path, name string) {
		switch {
		case set && isWindows(s):
			errs = append(errs, field.Forbidden(at.Child(name), "cannot be set for a windows pod"))
		case set:
			errs = append(errs, field.Forbidden(at.Child(name), "windows options cannot be set for a linux pod"))
		}
	}
	if isWindows(s) {
		windowsPod(at, s, forbid)
		return errs
	}
	forbid(s.SecurityContext != nil && s.SecurityContext.WindowsOptions != nil, at.Child("securityContext"), "windowsOptions")
	for ctr, at := range containersAt(s, at) {
		forbid(ctr.SecurityContext != nil && ctr.SecurityContext.WindowsOptions != nil, at.Child("securityContext"), "windowsOptions")
	}
	return errs
}

func windowsPod(at *field.Path, s *corev1.PodSpec, forbid func(set bool, at *field.Path, name string)) {
	forbid(s.HostUsers != nil, at, "hostUsers")
	forbid(s.HostPID, at, "hostPID")
	forbid(s.HostIPC, at, "hostIPC")
	forbid(s.ShareProcessNamespace != nil, at, "shareProcessNamespace")
	if sc, at := s.SecurityContext, at.Child("securityContext"); sc != nil {
		forbid(sc.AppArmorProfile != nil, at, "appArmorProfile")
		forbid(sc.SELinuxOptions != nil, at, "seLinuxOptions")
		forbid(sc.SeccompProfile != nil, at, "seccompProfile")
		forbid(sc.FSGroup != nil, at, "fsGroup")
		forbid(sc.FSGroupChangePolicy != nil, at, "fsGroupChangePolicy")
		forbid(len(sc.Sysctls) > 0, at, "sysctls")
		forbid(sc.RunAsUser != nil, at, "runAsUser")
		forbid(sc.RunAsGroup != nil, at, "runAsGroup")
		forbid(sc.SupplementalGroups != nil, at, "supplementalGroups")
		forbid(sc.SupplementalGroupsPolicy != nil, at, "supplementalGroupsPolicy")
		forbid(sc.SELinuxChangePolicy != nil, at, "seLinuxChangePolicy")
	}
	for ctr, at := range containersAt(s, at) {
		sc, at := ctr.SecurityContext, at.Child("securityContext")
		if sc == nil {
			continue
		}
		forbid(sc.AppArmorProfile != nil, at, "appArmorProfile")
		forbid(sc.SELinuxOptions != nil, at, "seLinuxOptions")
		forbid(sc.SeccompProfile != nil, at, "seccompProfile")
		forbid(sc.Capabilities != nil, at, "capabilities")
		forbid(sc.ReadOnlyRootFilesystem != nil, at, "readOnlyRootFilesystem")
		forbid(sc.Privileged != nil, at, "privileged")
		forbid(sc.AllowPrivilegeEscalation != nil, at, "allowPrivilegeEscalation")
		forbid(sc.ProcMount != nil, at, "procMount")
		forbid(sc.RunAsUser != nil, at, "runAsUser")
		forbid(sc.RunAsGroup != nil, at, "runAsGroup")
	}
}

var (
	controlCharacters = regexp.MustCompile(`[[:cntrl:]]+`)
	netBIOSName       = regexp.MustCompile(`^[^\\/:\*\?"<>|\.][^\\/:\*\?"<>|]{0,14}$`)
	windowsDNSName    = regexp.MustCompile(`^[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*$`)
	notInUserName     = regexp.MustCompile(`["/\\:;|=,\+\*\?<>@\[\]]`)
	onlyDotsOrSpaces  = regexp.MustCompile(`^[\. ]+$`)
)

func windowsOptions(at *field.Path, o *corev1.WindowsSecurityContextOptions) check.Errors {
	if o == nil {
		return nil
	}
	var errs check.Errors
	if o.GMSACredentialSpecName != nil {
		errs = append(errs, check.Subdomain(at.Child("gmsaCredentialSpecName"), *o.GMSACredentialSpecName)...)
	}
	if spec := o.GMSACredentialSpec; spec != nil && *spec == "" {
		errs = append(errs, field.Invalid(at.Child("gmsaCredentialSpec"), *spec, "gmsaCredentialSpec cannot be an empty string"))
	} else if spec != nil && len(*spec) > 64<<10 {
		errs = append(errs, field.Invalid(at.Child("gmsaCredentialSpec"), *spec, "gmsaCredentialSpec size must be under 64 KiB"))
	}
	if o.RunAsUserName != nil {
		errs = append(errs, check.Messages(at.Child("runAsUserName"), *o.RunAsUserName, windowsUser(*o.RunAsUserName))...)
	}
	return errs
}

// windowsUser says what is wrong with "DOMAIN\user" or "user".
func windowsUser(name string) []string {
	domain, user, hasDomain := strings.Cut(name, `\`)
	if !hasDomain {
		user = name
	}
	switch {
	case name == "":
		return []string{"runAsUserName cannot be an empty string"}
	case controlCharacters.MatchString(name):
		return []string{"runAsUserName cannot contain control characters"}
	case strings.Contains(user, `\`):
		return []string{"runAsUserName cannot contain more than one backslash"}
	}
	var wrong []string
	if hasDomain && len(domain) >= 256 {
		wrong = append(wrong, "runAsUserName's Domain length must be under 256 characters")
	}
	if hasDomain && !netBIOSName.MatchString(domain) && !windowsDNSName.MatchString(domain) {
		wrong = append(wrong, "runAsUserName's Domain doesn't match the NetBios nor the DNS format")
	}
	if user == "" {
		wrong = append(wrong, "runAsUserName's User cannot be empty")
	} else if len(user) > 104 {
		wrong = append(wrong, "runAsUserName's User length must not be longer than 104 characters")
	}
	if onlyDotsOrSpaces.MatchString(user) {
		wrong = append(wrong, "runAsUserName's User cannot contain only periods or spaces")
	}
	if notInUserName.MatchString(user) {
		wrong = append(wrong, `runAsUserName's User cannot contain the following characters: "/\:;|=,+*?<>@[]`)
	}
	return wrong
}

// hostProcess: either all containers of a pod are processes of the host, or none.
func hostProcess(at *field.Path, s *corev1.PodSpec) check.Errors {
	var whole *bool
	if s.SecurityContext != nil && s.SecurityContext.WindowsOptions != nil {
		whole = s.SecurityContext.WindowsOptions.HostProcess
	}
	var errs check.Errors
	n, all := 0, 0
	for ctr, at := range containersAt(s, at) {
		all++
		own := whole
		if sc := ctr.SecurityContext; sc != nil && sc.WindowsOptions != nil && sc.WindowsOptions.HostProcess != nil {
			own = sc.WindowsOptions.HostProcess
			if whole != nil && *whole != *own {
				errs = append(errs, field.Invalid(at.Child("securityContext", "windowsOptions", "hostProcess"), *own, fmt.Sprintf("pod hostProcess value must be identical if both are specified, was %v", *whole)))
			}
		}
		if own != nil && *own {
			n++
		}
	}
	if n == 0 {
		return errs
	}
	if n != all {
		errs = append(errs, field.Invalid(at, "", "If pod contains any hostProcess containers then all containers must be HostProcess containers"))
	}
	if !s.HostNetwork {
		errs = append(errs, field.Invalid(at.Child("hostNetwork"), false, "hostNetwork must be true if pod contains any hostProcess containers"))
	}
	return errs
}
