package core

import (
	"crypto/tls"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api"
)

// podWarnings are for people: pods are mostly updated by components.
func podWarnings(obj, old api.Object) []string {
	if old != nil {
		return nil
	}
	p := obj.(*corev1.Pod)
	return append(hostnameWarning(p.Name, "the Pod's hostname"), templateWarnings(nil, &p.Spec, p.Annotations)...)
}

// PodNameWarning warns of a name that can't be a hostname, of which names of pods will be made.
func PodNameWarning(name string) []string { return hostnameWarning(name, "Pod names and hostnames") }

func hostnameWarning(name, use string) []string {
	if wrong := utilvalidation.IsDNS1123Label(name); len(wrong) > 0 {
		return []string{fmt.Sprintf("metadata.name: this is used in %s, which can result in surprising behavior; a DNS label is recommended: %v", use, wrong)}
	}
	return nil
}

// TemplateWarnings are what a workload's template deserves.
func TemplateWarnings(at *field.Path, t *corev1.PodTemplateSpec) []string {
	if t == nil {
		return nil
	}
	return templateWarnings(at, &t.Spec, t.Annotations)
}

func podTemplateWarnings(obj, old api.Object) []string {
	if old != nil && obj.GetGeneration() == old.GetGeneration() {
		return nil
	}
	return TemplateWarnings(field.NewPath("template"), &obj.(*corev1.PodTemplate).Template)
}

func replicationControllerWarnings(obj, old api.Object) []string {
	rc := obj.(*corev1.ReplicationController)
	template := TemplateWarnings(field.NewPath("spec", "template"), rc.Spec.Template)
	switch {
	case old == nil:
		return append(PodNameWarning(rc.Name), template...)
	case obj.GetGeneration() != old.GetGeneration():
		return template
	}
	return nil
}

var oldLabels = map[string]string{
	"beta.kubernetes.io/arch":                       `deprecated since v1.14; use "kubernetes.io/arch" instead`,
	"beta.kubernetes.io/os":                         `deprecated since v1.14; use "kubernetes.io/os" instead`,
	"failure-domain.beta.kubernetes.io/region":      `deprecated since v1.17; use "topology.kubernetes.io/region" instead`,
	"failure-domain.beta.kubernetes.io/zone":        `deprecated since v1.17; use "topology.kubernetes.io/zone" instead`,
	"beta.kubernetes.io/instance-type":              `deprecated since v1.17; use "node.kubernetes.io/instance-type" instead`,
	"app.kubernetes.io/created-by":                  `deprecated since v1.9`,
	"scheduler.alpha.kubernetes.io/preferAvoidPods": `deprecated since v1.22; use Taints and Tolerations instead`,
	"node-role.kubernetes.io/master":                `use "node-role.kubernetes.io/control-plane" instead`,
}

var oldAnnotations = map[string]string{
	"scheduler.alpha.kubernetes.io/critical-pod":  `non-functional in v1.16+; use the "priorityClassName" field instead`,
	"security.alpha.kubernetes.io/sysctls":        `non-functional in v1.11+; use the "sysctls" field instead`,
	"security.alpha.kubernetes.io/unsafe-sysctls": `non-functional in v1.11+; use the "sysctls" field instead`,
}

// warner collects warnings about fields. at is nil for pods, whose fields start at the root.
type warner struct{ list []string }

func (w *warner) warn(at *field.Path, format string, args ...any) {
	w.list = append(w.list, at.String()+": "+fmt.Sprintf(format, args...))
}

func templateWarnings(root *field.Path, s *corev1.PodSpec, annotations map[string]string) []string {
	w := &warner{}
	at, notes := root.Child("spec"), root.Child("metadata", "annotations")
	for _, key := range slices.Sorted(maps.Keys(s.NodeSelector)) {
		if m, ok := oldLabels[key]; ok {
			w.warn(at.Child("nodeSelector").Key(key), "%s", m)
		}
	}
	w.affinity(at.Child("affinity"), s.Affinity)
	for i, t := range s.TopologySpreadConstraints {
		at := at.Child("topologySpreadConstraints").Index(i)
		if m, ok := oldLabels[t.TopologyKey]; ok {
			w.warn(at.Child("topologyKey"), "%s is %s", t.TopologyKey, m)
		}
		if t.LabelSelector == nil {
			w.warn(at.Child("labelSelector"), "a null labelSelector results in matching no pod")
		}
	}
	for _, key := range slices.Sorted(maps.Keys(oldAnnotations)) {
		if _, ok := annotations[key]; ok {
			w.warn(notes.Key(key), "%s", oldAnnotations[key])
		}
	}
	w.volumes(at.Child("volumes"), s.Volumes)
	w.overlaps(s.Volumes)
	w.duplicates(at, s)
	w.fractions(at.Child("overhead"), s.Overhead)
	w.profiles(notes, annotations, s, root != nil)
	for ctr, at := range containersAt(s, at) {
		w.fractions(at.Child("resources", "limits"), ctr.Resources.Limits)
		w.fractions(at.Child("resources", "requests"), ctr.Resources.Requests)
		w.env(at.Child("env"), ctr.Env)
	}
	w.ports(at, s)
	if g := s.TerminationGracePeriodSeconds; g != nil && *g < 0 {
		w.warn(at.Child("terminationGracePeriodSeconds"), "must be >= 0; negative values are invalid and will be treated as 1")
	}
	if s.DNSConfig != nil {
		for i, ip := range s.DNSConfig.Nameservers {
			w.list = append(w.list, utilvalidation.GetWarningsForIP(at.Child("dnsConfig", "nameservers").Index(i), ip)...)
		}
	}
	for i, a := range s.HostAliases {
		w.list = append(w.list, utilvalidation.GetWarningsForIP(at.Child("hostAliases").Index(i).Child("ip"), a.IP)...)
	}
	return w.list
}

func (w *warner) affinity(at *field.Path, a *corev1.Affinity) {
	if a == nil {
		return
	}
	const required, preferred = "requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution"
	if n := a.NodeAffinity; n != nil {
		at := at.Child("nodeAffinity")
		if n.RequiredDuringSchedulingIgnoredDuringExecution != nil {
			for i, t := range n.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
				w.term(at.Child(required, "nodeSelectorTerms").Index(i), &t, false)
			}
		}
		for i, t := range n.PreferredDuringSchedulingIgnoredDuringExecution {
			w.term(at.Child(preferred).Index(i).Child("preference"), &t.Preference, true)
		}
	}
	pods := func(at *field.Path, terms []corev1.PodAffinityTerm, weighted []corev1.WeightedPodAffinityTerm) {
		for i, t := range terms {
			if t.LabelSelector == nil {
				w.warn(at.Child(required).Index(i).Child("labelSelector"), "a null labelSelector results in matching no pod")
			}
		}
		for i, t := range weighted {
			if t.PodAffinityTerm.LabelSelector == nil {
				w.warn(at.Child(preferred).Index(i).Child("podAffinityTerm", "labelSelector"), "a null labelSelector results in matching no pod")
			}
		}
	}
	if p := a.PodAffinity; p != nil {
		pods(at.Child("podAffinity"), p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if p := a.PodAntiAffinity; p != nil {
		pods(at.Child("podAntiAffinity"), p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
}

func (w *warner) term(at *field.Path, t *corev1.NodeSelectorTerm, values bool) {
	for i, r := range t.MatchExpressions {
		at := at.Child("matchExpressions").Index(i)
		if m, ok := oldLabels[r.Key]; ok {
			w.warn(at.Child("key"), "%s is %s", r.Key, m)
		}
		for j, v := range r.Values {
			if !values {
				break
			}
			for _, m := range utilvalidation.IsValidLabelValue(v) {
				w.warn(at.Child("values").Index(j), "%s is invalid, %s", v, m)
			}
		}
	}
}

func (w *warner) volumes(list *field.Path, volumes []corev1.Volume) {
	for i := range volumes {
		v, at := &volumes[i], list.Index(i)
		for _, old := range []struct {
			set           bool
			child, reason string
		}{
			{v.PhotonPersistentDisk != nil, "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"},
			{v.GitRepo != nil, "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"},
			{v.ScaleIO != nil, "scaleIO", "deprecated in v1.16, non-functional in v1.22+"},
			{v.Flocker != nil, "flocker", "deprecated in v1.22, non-functional in v1.25+"},
			{v.StorageOS != nil, "storageOS", "deprecated in v1.22, non-functional in v1.25+"},
			{v.Quobyte != nil, "quobyte", "deprecated in v1.22, non-functional in v1.25+"},
			{v.Glusterfs != nil, "glusterfs", "deprecated in v1.25, non-functional in v1.26+"},
			{v.CephFS != nil, "cephfs", "deprecated in v1.28, non-functional in v1.31+"},
			{v.RBD != nil, "rbd", "deprecated in v1.28, non-functional in v1.31+"},
		} {
			if old.set {
				w.warn(at.Child(old.child), "%s", old.reason)
			}
		}
		if v.Ephemeral != nil && v.Ephemeral.VolumeClaimTemplate != nil {
			w.list = append(w.list, ClaimWarnings(at.Child("ephemeral", "volumeClaimTemplate", "spec"), &v.Ephemeral.VolumeClaimTemplate.Spec)...)
		}
	}
}

func (w *warner) duplicates(at *field.Path, s *corev1.PodSpec) {
	ips, names := map[string]bool{}, map[string]bool{}
	for i, a := range s.HostAliases {
		if ips[a.IP] {
			w.warn(at.Child("hostAliases").Index(i).Child("ip"), "duplicate ip %q", a.IP)
		}
		ips[a.IP] = true
	}
	for i, r := range s.ImagePullSecrets {
		at := at.Child("imagePullSecrets").Index(i).Child("name")
		if names[r.Name] {
			w.warn(at, "duplicate name %q", r.Name)
		}
		if r.Name == "" {
			w.warn(at, "invalid empty name %q", r.Name)
		}
		names[r.Name] = true
	}
}

func (w *warner) fractions(at *field.Path, list corev1.ResourceList) {
	for _, n := range []corev1.ResourceName{corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		if q, ok := list[n]; ok && q.MilliValue()%1000 != 0 {
			w.warn(at.Key(string(n)), "fractional byte value %q is invalid, must be an integer", q.String())
		}
	}
}

func (w *warner) profiles(notes *field.Path, annotations map[string]string, s *corev1.PodSpec, template bool) {
	if len(annotations) == 0 {
		return
	}
	seccomp := func(key string, p *corev1.SeccompProfile) {
		if _, ok := annotations[key]; ok && p == nil {
			w.warn(notes.Key(key), `non-functional in v1.27+; use the "seccompProfile" field instead`)
		}
	}
	whole := s.SecurityContext
	if whole == nil {
		whole = &corev1.PodSecurityContext{}
	}
	seccomp(corev1.SeccompPodAnnotationKey, whole.SeccompProfile)
	for ctr := range containersOf(s) {
		sc := ctr.SecurityContext
		if sc == nil {
			sc = &corev1.SecurityContext{}
		}
		seccomp(corev1.SeccompContainerAnnotationKeyPrefix+ctr.Name, sc.SeccompProfile)
		key := corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix + ctr.Name
		if a, ok := annotations[key]; ok && template && sc.AppArmorProfile == nil && (whole.AppArmorProfile == nil || !equality.Semantic.DeepEqual(whole.AppArmorProfile, appArmorProfile(a))) {
			w.warn(notes.Key(key), `deprecated since v1.30; use the "appArmorProfile" field instead`)
		}
	}
}

func (w *warner) env(at *field.Path, vars []corev1.EnvVar) {
	seen := map[string]bool{}
	for i, v := range vars {
		ref := "$(" + v.Name + ")" // a later value may build on the earlier one
		if seen[v.Name] && (v.ValueFrom != nil || v.Value == ref || !strings.Contains(v.Value, ref)) {
			w.warn(at.Index(i), "hides previous definition of %q, which may be dropped when using apply", v.Name)
		}
		seen[v.Name] = true
	}
}

func (w *warner) ports(at *field.Path, s *corev1.PodSpec) {
	type place struct {
		at   *field.Path
		port corev1.ContainerPort
	}
	same, names := map[string][]place{}, map[string]*field.Path{}
	var byName []func()
	for ctr, at := range containersAt(s, at) {
		for i, p := range ctr.Ports {
			at := at.Child("ports").Index(i)
			if p.HostIP != "" && p.HostPort == 0 {
				w.warn(at, "hostIP set without hostPort: %+v", p)
			}
			key := fmt.Sprintf("%d/%s", p.ContainerPort, p.Protocol)
			for _, o := range same[key] {
				switch {
				case p.HostIP == o.port.HostIP && p.HostPort == o.port.HostPort:
					w.warn(at, "duplicate port definition with %s", o.at)
				case p.HostPort == 0 || o.port.HostPort == 0:
					w.warn(at, "overlapping port definition with %s", o.at)
				case p.HostPort == o.port.HostPort && (p.HostIP == "") != (o.port.HostIP == ""):
					w.warn(at, "dangerously ambiguous port definition with %s", o.at)
				}
			}
			same[key] = append(same[key], place{at, p})
			if first := names[p.Name]; first != nil {
				byName = append(byName, func() {
					w.warn(at, "duplicate port name %q with %s, services and probes that select ports by name will use %s", p.Name, first, first)
				})
			} else if p.Name != "" {
				names[p.Name] = at
			}
		}
	}
	for _, warn := range byName {
		warn()
	}
}

func serviceWarnings(obj, _ api.Object) []string {
	s := obj.(*corev1.Service)
	spec := &s.Spec
	var warnings []string
	say := func(is bool, text string) {
		if is {
			warnings = append(warnings, text)
		}
	}
	_, hints := s.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]
	say(hints, fmt.Sprintf("annotation %s is deprecated, please use %s instead", corev1.DeprecatedAnnotationTopologyAwareHints, corev1.AnnotationTopologyMode))
	for i, ip := range spec.ClusterIPs {
		if spec.ClusterIP != "" && spec.ClusterIP != corev1.ClusterIPNone {
			warnings = append(warnings, utilvalidation.GetWarningsForIP(specPath.Child("clusterIPs").Index(i), ip)...)
		}
	}
	headless, external := spec.Type == corev1.ServiceTypeClusterIP && spec.ClusterIP == corev1.ClusterIPNone, spec.Type == corev1.ServiceTypeExternalName
	say(headless && spec.LoadBalancerIP != "", "spec.loadBalancerIP is ignored for headless services")
	say(headless && len(spec.ExternalIPs) > 0, "spec.externalIPs is ignored for headless services")
	say(headless && spec.SessionAffinity != corev1.ServiceAffinityNone, "spec.SessionAffinity is ignored for headless services")
	for i, ip := range spec.ExternalIPs {
		warnings = append(warnings, utilvalidation.GetWarningsForIP(specPath.Child("externalIPs").Index(i), ip)...)
	}
	say(len(spec.ExternalIPs) > 0 && !headless && !external, "spec.externalIPs is deprecated and may no longer be implemented in some clusters")
	if spec.LoadBalancerIP != "" {
		warnings = append(warnings, utilvalidation.GetWarningsForIP(specPath.Child("loadBalancerIP"), spec.LoadBalancerIP)...)
	}
	for i, r := range spec.LoadBalancerSourceRanges {
		warnings = append(warnings, utilvalidation.GetWarningsForCIDR(specPath.Child("loadBalancerSourceRanges").Index(i), r)...)
	}
	say(external && len(spec.ExternalIPs) > 0, `spec.externalIPs is ignored when spec.type is "ExternalName"`)
	say(!external && spec.ExternalName != "", `spec.externalName is ignored when spec.type is not "ExternalName"`)
	say(spec.TrafficDistribution != nil && *spec.TrafficDistribution == corev1.ServiceTrafficDistributionPreferClose,
		`spec.trafficDistribution: "PreferClose" is deprecated; use "PreferSameZone"`)
	return warnings
}

func endpointsWarnings(obj, _ api.Object) []string {
	e := obj.(*corev1.Endpoints)
	if e.Labels["endpoints.kubernetes.io/managed-by"] == "endpoint-controller" {
		return nil // which writes canonical addresses only
	}
	var warnings []string
	for i := range e.Subsets {
		at := field.NewPath("subsets").Index(i)
		for child, list := range map[string][]corev1.EndpointAddress{"addresses": e.Subsets[i].Addresses, "notReadyAddresses": e.Subsets[i].NotReadyAddresses} {
			for j := range list {
				warnings = append(warnings, utilvalidation.GetWarningsForIP(at.Child(child).Index(j).Child("ip"), list[j].IP)...)
			}
		}
	}
	return warnings
}

func nodeWarnings(obj, _ api.Object) []string {
	n := obj.(*corev1.Node)
	var warnings []string
	if n.Spec.ConfigSource != nil {
		warnings = append(warnings, "spec.configSource: the feature is removed")
	}
	if n.Spec.DoNotUseExternalID != "" {
		warnings = append(warnings, "spec.externalID: this field is deprecated, and is unused by Kubernetes")
	}
	for i, r := range n.Spec.PodCIDRs {
		warnings = append(warnings, utilvalidation.GetWarningsForCIDR(specPath.Child("podCIDRs").Index(i), r)...)
	}
	return warnings
}

func secretWarnings(obj, _ api.Object) []string {
	s := obj.(*corev1.Secret)
	if s.Type != corev1.SecretTypeTLS {
		return nil
	}
	if _, err := tls.X509KeyPair(s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey]); err != nil {
		return []string{err.Error()}
	}
	return nil
}

func serviceAccountWarnings(obj, old api.Object) []string {
	const key = "kubernetes.io/enforce-mountable-secrets"
	if old != nil && old.GetAnnotations()[key] != "" || obj.GetAnnotations()[key] == "" {
		return nil
	}
	return []string{"metadata.annotations[" + key + "]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"}
}

func claimWarnings(obj, _ api.Object) []string {
	return ClaimWarnings(specPath, &obj.(*corev1.PersistentVolumeClaim).Spec)
}

// ClaimWarnings are what the spec of a claim, or of a template of claims, deserves.
func ClaimWarnings(at *field.Path, s *corev1.PersistentVolumeClaimSpec) []string {
	w := &warner{}
	for child, list := range map[string]corev1.ResourceList{"requests": s.Resources.Requests, "limits": s.Resources.Limits} {
		if q := list[corev1.ResourceStorage]; q.MilliValue()%1000 != 0 {
			w.warn(at.Child("resources", child).Key("storage"), "fractional byte value %q is invalid, must be an integer", q.String())
		}
	}
	return w.list
}

func volumeWarnings(obj, _ api.Object) []string {
	v := obj.(*corev1.PersistentVolume)
	w := &warner{}
	if v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		w.warn(specPath.Child("persistentVolumeReclaimPolicy"), "The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.")
	}
	if q := v.Spec.Capacity[corev1.ResourceStorage]; q.MilliValue()%1000 != 0 {
		w.warn(specPath.Child("capacity").Key("storage"), "fractional byte value %q is invalid, must be an integer", q.String())
	}
	return w.list
}
