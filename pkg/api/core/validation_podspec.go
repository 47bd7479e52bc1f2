package core

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api/check"
)

// podCheck is one validation of a pod's spec or a template's.
type podCheck struct {
	pod bool // a pod, not a template: some rules are stricter
	// old is the spec that is to be replaced, nil on create. What an earlier version
	// of Kubernetes once let pass may stay, as long as it was there before.
	old *corev1.PodSpec
}

func (c podCheck) had(fault func(*corev1.PodSpec) bool) bool { return c.old != nil && fault(c.old) }

// off refuses a field whose feature Kubernetes 1.36 has switched off by default. Kubernetes
// drops such fields silently; here nothing is taken and then ignored.
func (c podCheck) off(at *field.Path, feature string, used func(*corev1.PodSpec) bool) check.Errors {
	if c.had(used) {
		return nil
	}
	return check.Errors{Off(at, feature)}
}

// Off is the error for a field of a feature that is switched off by default in Kubernetes 1.36.
func Off(at *field.Path, feature string) *field.Error {
	return field.Forbidden(at, fmt.Sprintf("may not be set: the feature %s is not supported (disabled by default in Kubernetes 1.36)", feature))
}

// spec checks what pods and templates have in common. meta is nil for templates.
func (c podCheck) spec(at *field.Path, s *corev1.PodSpec, name string, annotations map[string]string) check.Errors {
	var errs check.Errors
	if s.TerminationGracePeriodSeconds == nil {
		errs = append(errs, field.Required(at.Child("terminationGracePeriodSeconds"), ""))
	}
	valid, wrong := c.volumes(at.Child("volumes"), s.Volumes, name)
	in := surroundings{spec: s, volumes: valid, claims: map[string]bool{}}
	for i := range s.ResourceClaims {
		if n := s.ResourceClaims[i].Name; n != "" {
			in.claims[n] = true
		}
	}
	_, mirror := annotations[corev1.MirrorPodAnnotationKey]
	errs = slices.Concat(errs, wrong,
		podClaims(at.Child("resourceClaims"), s.ResourceClaims, c.pod && mirror),
		c.containers(at.Child("containers"), in),
		c.initContainers(at.Child("initContainers"), in),
		c.ephemeralContainers(at.Child("ephemeralContainers"), in),
		c.podResources(at.Child("resources"), s),
		c.hostNetworkPorts(at.Child("containers"), s),
		check.Choice(at.Child("restartPolicy"), s.RestartPolicy, corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever),
		check.Choice(at.Child("dnsPolicy"), s.DNSPolicy, corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone),
		metavalidation.ValidateLabels(s.NodeSelector, at.Child("nodeSelector")),
		c.podSecurity(at.Child("securityContext"), s),
		c.affinity(at.Child("affinity"), s.Affinity),
		dnsConfig(at.Child("dnsConfig"), s),
		gates(at, s),
		c.spread(at.Child("topologySpreadConstraints"), s.TopologySpreadConstraints),
		hostProcess(at, s),
		c.userNamespace(at, s),
		hostnameOverride(at.Child("hostnameOverride"), s),
		podNames(at, s),
	)
	if d := s.ActiveDeadlineSeconds; d != nil {
		errs = append(errs, check.InRange(at.Child("activeDeadlineSeconds"), *d, 1, math.MaxInt32)...)
	}
	errs = slices.Concat(errs, c.tolerations(at.Child("tolerations"), s.Tolerations), hostAliases(at.Child("hostAliases"), s.HostAliases))
	if p := s.PreemptionPolicy; p != nil {
		errs = append(errs, PreemptionPolicy(at.Child("preemptionPolicy"), *p)...)
	}
	if s.Overhead != nil {
		errs = append(errs, c.resources(at.Child("overhead"), &corev1.ResourceRequirements{Limits: s.Overhead}, ContainerResourceName, nil)...)
	}
	errs = append(errs, podOS(at, s)...)
	if s.SchedulingGroup != nil {
		errs = append(errs, c.off(at.Child("schedulingGroup"), "GenericWorkload", func(s *corev1.PodSpec) bool { return s.SchedulingGroup != nil })...)
	}
	return errs
}

// podNames checks whatever names another object, or the pod in DNS.
func podNames(at *field.Path, s *corev1.PodSpec) check.Errors {
	var errs check.Errors
	named := func(rule func(*field.Path, string) check.Errors, child, name string) {
		if name != "" {
			errs = append(errs, rule(at.Child(child), name)...)
		}
	}
	named(check.Subdomain, "serviceAccountName", s.ServiceAccountName)
	named(check.Subdomain, "nodeName", s.NodeName)
	named(check.Label, "hostname", s.Hostname)
	named(check.Label, "subdomain", s.Subdomain)
	named(check.Subdomain, "priorityClassName", s.PriorityClassName)
	if s.RuntimeClassName != nil {
		errs = append(errs, check.Subdomain(at.Child("runtimeClassName"), *s.RuntimeClassName)...)
	}
	return errs
}

// PreemptionPolicy is the rule for pods and priority classes.
func PreemptionPolicy(at *field.Path, p corev1.PreemptionPolicy) check.Errors {
	return check.Choice(at, p, corev1.PreemptLowerPriority, corev1.PreemptNever)
}

func gates(at *field.Path, s *corev1.PodSpec) check.Errors {
	var errs check.Errors
	for i, g := range s.ReadinessGates {
		errs = append(errs, check.QualifiedName(at.Child("readinessGates").Index(i).Child("conditionType"), string(g.ConditionType))...)
	}
	seen := map[string]bool{}
	for i, g := range s.SchedulingGates {
		at := at.Child("schedulingGates").Index(i)
		errs = append(errs, check.QualifiedName(at, g.Name)...)
		if seen[g.Name] {
			errs = append(errs, field.Duplicate(at, g.Name))
		}
		seen[g.Name] = true
	}
	return errs
}

// hostNetworkPorts: a pod in the host's network listens on the host's ports. Templates may leave
// them out, as defaults do the rest.
func (c podCheck) hostNetworkPorts(at *field.Path, s *corev1.PodSpec) check.Errors {
	if !s.HostNetwork {
		return nil
	}
	var errs check.Errors
	for i := range s.Containers {
		for j, p := range s.Containers[i].Ports {
			if p.HostPort != p.ContainerPort && (c.pod || p.HostPort != 0) {
				errs = append(errs, field.Invalid(at.Index(i).Child("ports").Index(j).Child("hostPort"), p.HostPort, "must match `containerPort` when `hostNetwork` is true"))
			}
		}
	}
	return errs
}

// The limits of the C library's resolver.
const (
	maxNameservers = 3
	maxSearches    = 32
	maxSearchChars = 2048
)

func dnsConfig(at *field.Path, s *corev1.PodSpec) check.Errors {
	d := s.DNSConfig
	if s.DNSPolicy == corev1.DNSNone {
		if d == nil {
			return check.Errors{field.Required(at, "must provide `dnsConfig` when `dnsPolicy` is None")}
		}
		if len(d.Nameservers) == 0 {
			return check.Errors{field.Required(at.Child("nameservers"), "must provide at least one DNS nameserver when `dnsPolicy` is None")}
		}
	}
	if d == nil {
		return nil
	}
	var errs check.Errors
	if len(d.Nameservers) > maxNameservers {
		errs = append(errs, field.Invalid(at.Child("nameservers"), d.Nameservers, fmt.Sprintf("must not have more than %v nameservers", maxNameservers)))
	}
	for i, ip := range d.Nameservers {
		errs = append(errs, check.IP(at.Child("nameservers").Index(i), ip)...)
	}
	if len(d.Searches) > maxSearches {
		errs = append(errs, field.Invalid(at.Child("searches"), d.Searches, fmt.Sprintf("must not have more than %v search paths", maxSearches)))
	}
	if len(strings.Join(d.Searches, " ")) > maxSearchChars {
		errs = append(errs, field.Invalid(at.Child("searches"), d.Searches, fmt.Sprintf("must not have more than %v characters (including spaces) in the search list", maxSearchChars)))
	}
	for i, domain := range d.Searches {
		if domain != "." {
			domain = strings.TrimSuffix(domain, ".")
			errs = append(errs, check.Messages(at.Child("searches").Index(i), domain, utilvalidation.IsDNS1123SubdomainWithUnderscore(domain))...)
		}
	}
	for i := range d.Options {
		if d.Options[i].Name == "" {
			errs = append(errs, field.Required(at.Child("options").Index(i), "must not be empty"))
		}
	}
	return errs
}

func hostAliases(at *field.Path, list []corev1.HostAlias) check.Errors {
	var errs check.Errors
	for i := range list {
		errs = append(errs, check.IP(at.Index(i).Child("ip"), list[i].IP)...)
		for j, name := range list[i].Hostnames {
			errs = append(errs, check.Subdomain(at.Index(i).Child("hostnames").Index(j), name)...)
		}
	}
	return errs
}

func hostnameOverride(at *field.Path, s *corev1.PodSpec) check.Errors {
	if s.HostnameOverride == nil {
		return nil
	}
	var errs check.Errors
	if s.SetHostnameAsFQDN != nil && *s.SetHostnameAsFQDN {
		errs = append(errs, field.Forbidden(at, "may not be specified when setHostnameAsFQDN is true"))
	}
	if s.HostNetwork {
		errs = append(errs, field.Forbidden(at, "may not be specified when hostNetwork is true"))
	}
	if len(*s.HostnameOverride) > 64 {
		errs = append(errs, field.TooLong(at, "", 64))
	}
	return append(errs, check.Subdomain(at, *s.HostnameOverride)...)
}

// podAnnotations checks the annotations that mean something for pods and templates. oldAnnotations is nil on create.
func (c podCheck) podAnnotations(at *field.Path, annotations map[string]string, s *corev1.PodSpec, oldAnnotations map[string]string) check.Errors {
	if len(annotations) == 0 {
		return nil
	}
	var errs check.Errors
	if v, mirror := annotations[corev1.MirrorPodAnnotationKey]; mirror && s.NodeName == "" {
		errs = append(errs, field.Invalid(at.Key(corev1.MirrorPodAnnotationKey), v, "must set spec.nodeName if mirror pod annotation is set"))
	}
	if v := annotations[corev1.TolerationsAnnotationKey]; v != "" {
		var list []corev1.Toleration
		if err := json.Unmarshal([]byte(v), &list); err != nil {
			errs = append(errs, field.Invalid(at, corev1.TolerationsAnnotationKey, err.Error()))
		} else {
			errs = append(errs, c.tolerations(at.Child(corev1.TolerationsAnnotationKey), list)...)
		}
	}
	if v, ok := annotations[corev1.PodDeletionCost]; ok && !validCost(v) {
		if was, had := oldAnnotations[corev1.PodDeletionCost]; !had || validCost(was) {
			errs = append(errs, field.Invalid(at.Key(corev1.PodDeletionCost), v, "must be a 32bit integer"))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		v := annotations[key]
		if name, ok := strings.CutPrefix(key, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix); ok {
			errs = append(errs, appArmorAnnotation(at.Key(key), name, v, s)...)
		} else if key == corev1.SeccompPodAnnotationKey || strings.HasPrefix(key, corev1.SeccompContainerAnnotationKeyPrefix) {
			errs = append(errs, seccompAnnotation(at.Child(key), v)...)
		}
	}
	return errs
}

// validCost: 32 bits, without a sign or leading zeros that would have to be normalized.
func validCost(v string) bool {
	if v == "" || v[0] == '+' || len(v) > 1 && v[0] == '0' {
		return false
	}
	_, err := strconv.ParseInt(v, 10, 32)
	return err == nil
}

func seccompAnnotation(at *field.Path, v string) check.Errors {
	switch v {
	case corev1.SeccompProfileRuntimeDefault, corev1.DeprecatedSeccompProfileDockerDefault, corev1.SeccompProfileNameUnconfined:
		return nil
	}
	if name, ok := strings.CutPrefix(v, corev1.SeccompLocalhostProfileNamePrefix); ok {
		return descendingPath(at, name)
	}
	return check.Errors{field.Invalid(at, v, "must be a valid seccomp profile")}
}

func appArmorAnnotation(at *field.Path, container, v string, s *corev1.PodSpec) check.Errors {
	found := false
	for ctr := range containersOf(s) {
		found = found || ctr.Name == container
	}
	var errs check.Errors
	if !found {
		errs = append(errs, field.Invalid(at, container, "container not found"))
	}
	if v != "" && v != corev1.DeprecatedAppArmorBetaProfileRuntimeDefault && v != corev1.DeprecatedAppArmorBetaProfileNameUnconfined &&
		!strings.HasPrefix(v, corev1.DeprecatedAppArmorBetaProfileNamePrefix) {
		errs = append(errs, field.Invalid(at, v, fmt.Sprintf("invalid AppArmor profile name: %q", v)))
	}
	return errs
}

// ValidatePodTemplate checks a workload's template. old is the one it replaces, nil on create.
func ValidatePodTemplate(at *field.Path, t, old *corev1.PodTemplateSpec) check.Errors {
	c, spec := podCheck{}, at.Child("spec")
	var oldAnnotations map[string]string
	if old != nil {
		c.old, oldAnnotations = &old.Spec, old.Annotations
	}
	errs := slices.Concat(
		metavalidation.ValidateLabels(t.Labels, at.Child("labels")),
		validation.ValidateAnnotations(t.Annotations, at.Child("annotations")),
		c.podAnnotations(at.Child("annotations"), t.Annotations, &t.Spec, oldAnnotations),
		c.spec(spec, &t.Spec, "", nil),
		profileAnnotations(spec, t.Annotations, &t.Spec),
	)
	if len(t.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(spec.Child("ephemeralContainers"), "ephemeral containers not allowed in pod template"))
	}
	return errs
}
