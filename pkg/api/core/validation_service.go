package core

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"skiff/pkg/api"
	"skiff/pkg/api/check"
)

func validateService(obj api.Object) field.ErrorList {
	return wholeService(obj.(*corev1.Service), &corev1.Service{})
}

func validateServiceUpdate(obj, old api.Object) field.ErrorList {
	s, was := obj.(*corev1.Service), old.(*corev1.Service)
	errs := slices.Concat(addressesKept(s, was), familiesKept(s, was))
	if isLoadBalancer(s) && isLoadBalancer(was) && !sameString(s.Spec.LoadBalancerClass, was.Spec.LoadBalancerClass) {
		errs = append(errs, field.Invalid(specPath.Child("loadBalancerClass"), s.Spec.LoadBalancerClass, "may not change once set"))
	}
	if needsHealthPort(&s.Spec) && needsHealthPort(&was.Spec) && s.Spec.HealthCheckNodePort != was.Spec.HealthCheckNodePort {
		errs = append(errs, field.Forbidden(specPath.Child("healthCheckNodePort"), "field is immutable"))
	}
	return append(errs, wholeService(s, was)...)
}

func sameString(a, b *string) bool { return a == b || a != nil && b != nil && *a == *b }

func isLoadBalancer(s *corev1.Service) bool { return s.Spec.Type == corev1.ServiceTypeLoadBalancer }

func isHeadless(s *corev1.Service) bool {
	return len(s.Spec.ClusterIPs) == 1 && s.Spec.ClusterIPs[0] == corev1.ClusterIPNone
}

// wholeService checks s; addresses that old has may stay as they are written. old is empty on create.
func wholeService(s, old *corev1.Service) check.Errors {
	spec, at := &s.Spec, specPath
	var errs check.Errors
	hints, hinted := s.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]
	if mode, ok := s.Annotations[corev1.AnnotationTopologyMode]; ok && hinted && mode != hints {
		errs = append(errs, field.Invalid(annotationPath.Key(corev1.AnnotationTopologyMode), mode, fmt.Sprintf("must match annotations[%s] when both are specified", corev1.DeprecatedAnnotationTopologyAwareHints)))
	}
	if len(spec.Ports) == 0 && !isHeadless(s) && spec.Type != corev1.ServiceTypeExternalName {
		errs = append(errs, field.Required(at.Child("ports"), ""))
	}
	switch {
	case needsNodePorts(spec) && isHeadless(s):
		errs = append(errs, field.Invalid(at.Child("clusterIPs").Index(0), spec.ClusterIPs[0], fmt.Sprintf("may not be set to 'None' for %s services", spec.Type)))
	case spec.Type == corev1.ServiceTypeExternalName:
		errs = append(errs, externalName(at, spec)...)
	}
	errs = slices.Concat(errs, servicePorts(at.Child("ports"), spec), metavalidation.ValidateLabels(spec.Selector, at.Child("selector")),
		check.Choice(at.Child("sessionAffinity"), spec.SessionAffinity, corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone),
		sessionAffinity(at.Child("sessionAffinityConfig"), spec))
	if spec.Type != corev1.ServiceTypeExternalName {
		errs = append(errs, clusterIPs(at, s, old)...)
	}
	for i, ip := range spec.ExternalIPs {
		at := at.Child("externalIPs").Index(i)
		wrong := check.IP(at, ip, old.Spec.ExternalIPs...)
		if len(wrong) == 0 {
			wrong = check.EndpointIP(at, ip)
		}
		errs = append(errs, wrong...)
	}
	errs = append(errs, check.Choice(at.Child("type"), spec.Type, corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort)...)
	errs = slices.Concat(errs, portConflicts(at.Child("ports"), spec), sourceRanges(at, s, old), loadBalancerOnly(at, s), externalTraffic(at, spec))
	switch p := spec.InternalTrafficPolicy; {
	case p != nil:
		errs = append(errs, check.OneOf(at.Child("internalTrafficPolicy"), *p, corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)...)
	case needsNodePorts(spec) || spec.Type == corev1.ServiceTypeClusterIP:
		errs = append(errs, field.Required(at.Child("internalTrafficPolicy"), ""))
	}
	if d := spec.TrafficDistribution; d != nil {
		errs = append(errs, check.OneOf(at.Child("trafficDistribution"), *d, corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode)...)
	}
	return errs
}

func externalName(at *field.Path, s *corev1.ServiceSpec) check.Errors {
	var errs check.Errors
	forbid := func(set bool, child string) {
		if set {
			errs = append(errs, field.Forbidden(at.Child(child), "may not be set for ExternalName services"))
		}
	}
	forbid(len(s.ClusterIPs) > 0, "clusterIPs")
	forbid(len(s.IPFamilies) > 0, "ipFamilies")
	forbid(s.IPFamilyPolicy != nil, "ipFamilyPolicy")
	if name := strings.TrimSuffix(s.ExternalName, "."); name != "" { // a dot marks it as complete
		return append(errs, check.Subdomain(at.Child("externalName"), name)...)
	}
	return append(errs, field.Required(at.Child("externalName"), ""))
}

func servicePorts(at *field.Path, s *corev1.ServiceSpec) check.Errors {
	var errs check.Errors
	names := map[string]bool{}
	for i := range s.Ports {
		p, at := &s.Ports[i], at.Index(i)
		if p.Name != "" || len(s.Ports) > 1 {
			errs = append(errs, check.RequiredLabel(at.Child("name"), p.Name)...)
		}
		if p.Name != "" && names[p.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), p.Name))
		}
		names[p.Name] = true
		errs = slices.Concat(errs, check.Port(at.Child("port"), p.Port), check.Choice(at.Child("protocol"), p.Protocol, protocols...), check.PortOrName(at.Child("targetPort"), p.TargetPort))
		if p.AppProtocol != nil {
			errs = append(errs, check.QualifiedName(at.Child("appProtocol"), *p.AppProtocol)...)
		}
	}
	return errs
}

func portConflicts(at *field.Path, s *corev1.ServiceSpec) check.Errors {
	var nodePorts, ports check.Errors
	type key struct {
		protocol corev1.Protocol
		port     int32
	}
	seen, seenNode := map[key]bool{}, map[key]bool{}
	for i, p := range s.Ports {
		if n := (key{p.Protocol, p.NodePort}); p.NodePort != 0 {
			if s.Type == corev1.ServiceTypeClusterIP {
				nodePorts = append(nodePorts, field.Forbidden(at.Index(i).Child("nodePort"), "may not be used when `type` is 'ClusterIP'"))
			}
			if seenNode[n] {
				nodePorts = append(nodePorts, field.Duplicate(at.Index(i).Child("nodePort"), p.NodePort))
			}
			seenNode[n] = true
		}
		if k := (key{p.Protocol, p.Port}); seen[k] {
			ports = append(ports, field.Duplicate(at.Index(i), corev1.ServicePort{Protocol: p.Protocol, Port: p.Port}))
		} else {
			seen[k] = true
		}
	}
	return append(nodePorts, ports...)
}

func sessionAffinity(at *field.Path, s *corev1.ServiceSpec) check.Errors {
	c := s.SessionAffinityConfig
	if s.SessionAffinity == corev1.ServiceAffinityNone && c != nil {
		return check.Errors{field.Forbidden(at, "must not be set when session affinity is None")}
	}
	if s.SessionAffinity != corev1.ServiceAffinityClientIP {
		return nil
	}
	const reason = "when session affinity type is ClientIP"
	switch {
	case c == nil:
		return check.Errors{field.Required(at, reason)}
	case c.ClientIP == nil:
		return check.Errors{field.Required(at.Child("clientIP"), reason)}
	case c.ClientIP.TimeoutSeconds == nil:
		return check.Errors{field.Required(at.Child("clientIP", "timeoutSeconds"), reason)}
	}
	const longest = 86400
	if t := *c.ClientIP.TimeoutSeconds; t <= 0 || t > longest {
		return check.Errors{field.Invalid(at.Child("clientIP", "timeoutSeconds"), t, fmt.Sprintf("must be greater than 0 and less than %d", longest))}
	}
	return nil
}

// clusterIPs checks that addresses, families and their policy agree.
func clusterIPs(at *field.Path, s, old *corev1.Service) check.Errors {
	spec, ips := &s.Spec, at.Child("clusterIPs")
	var errs check.Errors
	bad := func(at *field.Path, value any, message string) {
		errs = append(errs, field.Invalid(at, value, message))
	}
	switch {
	case spec.ClusterIP == "" && len(spec.ClusterIPs) > 0:
		bad(ips, spec.ClusterIPs, "must be empty when `clusterIP` is not specified")
	case spec.ClusterIP != "" && len(spec.ClusterIPs) == 0:
		errs = append(errs, field.Required(ips, ""))
	case spec.ClusterIP != "" && spec.ClusterIPs[0] != spec.ClusterIP:
		bad(ips, spec.ClusterIPs, "first value must match `clusterIP`")
	}
	for i, f := range spec.IPFamilies {
		errs = append(errs, check.OneOf(at.Child("ipFamilies").Index(i), f, corev1.IPv4Protocol, corev1.IPv6Protocol)...)
		if slices.Contains(spec.IPFamilies[:i], f) {
			errs = append(errs, field.Duplicate(at.Child("ipFamilies").Index(i), f))
		}
	}
	if p := spec.IPFamilyPolicy; p != nil {
		errs = append(errs, check.OneOf(at.Child("ipFamilyPolicy"), *p, corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack, corev1.IPFamilyPolicySingleStack)...)
	}
	invalid := false
	for i, ip := range spec.ClusterIPs {
		var wrong check.Errors
		if i > 0 || ip != corev1.ClusterIPNone {
			wrong = check.IP(ips.Index(i), ip, old.Spec.ClusterIPs...)
		} else if len(spec.ClusterIPs) > 1 {
			wrong = check.Errors{field.Invalid(ips, spec.ClusterIPs, "'None' must be the first and only value")}
		}
		invalid = invalid || len(wrong) > 0
		errs = append(errs, wrong...)
	}
	if len(spec.ClusterIPs) > 2 {
		bad(ips, spec.ClusterIPs, "may only hold up to 2 values")
	}
	if invalid {
		return errs
	}
	if len(spec.ClusterIPs) > 1 {
		if dual, err := netutils.IsDualStackIPStrings(spec.ClusterIPs); err != nil {
			errs = append(errs, field.InternalError(ips, fmt.Errorf("failed to check for dual stack with error:%v", err)))
		} else if !dual {
			bad(ips, spec.ClusterIPs, "may specify no more than one IP for each IP family")
		}
	}
	for i, ip := range spec.ClusterIPs {
		if isHeadless(s) || i >= len(spec.IPFamilies) {
			break
		}
		if family := spec.IPFamilies[i]; (family == corev1.IPv4Protocol) == netutils.IsIPv6String(ip) && (family == corev1.IPv4Protocol || family == corev1.IPv6Protocol) {
			bad(ips.Index(i), ip, fmt.Sprintf("expected an %s value as indicated by `ipFamilies[%v]`", family, i))
		}
	}
	return errs
}

// A service may gain a second family, or give it up again; the first stays, unless the service has none on
// either side of the update.

func addressesKept(s, was *corev1.Service) check.Errors {
	if s.Spec.Type == corev1.ServiceTypeExternalName || was.Spec.Type == corev1.ServiceTypeExternalName || isHeadless(s) && isHeadless(was) {
		return nil
	}
	at, now, old := specPath.Child("clusterIPs"), s.Spec.ClusterIPs, was.Spec.ClusterIPs
	var errs check.Errors
	for i := range min(len(now), len(old)) {
		if now[i] != old[i] {
			errs = append(errs, field.Invalid(at.Index(i), now, "may not change once set"))
		}
	}
	if len(now) < len(old) && len(now) == 0 {
		errs = append(errs, field.Invalid(at.Index(0), now, "primary clusterIP can not be unset"))
	}
	if len(now) < len(old) && len(now) == 1 {
		errs = append(errs, releasesSecond(s, "clusterIP")...)
	}
	return errs
}

func familiesKept(s, was *corev1.Service) check.Errors {
	if s.Spec.Type == corev1.ServiceTypeExternalName || was.Spec.Type == corev1.ServiceTypeExternalName || isHeadless(s) || isHeadless(was) {
		return nil
	}
	at, now, old := specPath.Child("ipFamilies").Index(0), s.Spec.IPFamilies, was.Spec.IPFamilies
	var errs check.Errors
	if len(now) < len(old) && len(s.Spec.ClusterIPs) == 0 {
		errs = append(errs, field.Invalid(at, now, "primary ipFamily can not be unset"))
	}
	for i := range min(len(now), len(old)) {
		if now[i] != old[i] {
			errs = append(errs, field.Invalid(at, now, "may not change once set"))
		}
	}
	if len(now) < len(old) && len(now) == 1 {
		errs = append(errs, releasesSecond(s, "ipFamily")...)
	}
	return errs
}

func releasesSecond(s *corev1.Service, what string) check.Errors {
	if p := s.Spec.IPFamilyPolicy; p != nil && *p == corev1.IPFamilyPolicySingleStack {
		return nil
	}
	return check.Errors{field.Invalid(specPath.Child("ipFamilyPolicy"), s.Spec.IPFamilyPolicy, "must be set to 'SingleStack' when releasing the secondary "+what)}
}

func sourceRanges(at *field.Path, s, old *corev1.Service) check.Errors {
	const refusal = "may only be used when `type` is 'LoadBalancer'"
	var errs check.Errors
	if ranges := s.Spec.LoadBalancerSourceRanges; len(ranges) > 0 {
		at := at.Child("LoadBalancerSourceRanges")
		if !isLoadBalancer(s) {
			errs = append(errs, field.Forbidden(at, refusal))
		}
		var before []string
		for _, r := range old.Spec.LoadBalancerSourceRanges {
			before = append(before, strings.TrimSpace(r))
		}
		for i, r := range ranges {
			errs = append(errs, check.CIDR(at.Index(i), strings.TrimSpace(r), before...)...)
		}
		return errs
	}
	text, ok := s.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey]
	if !ok {
		return nil
	}
	at = annotationPath.Key(corev1.AnnotationLoadBalancerSourceRangesKey)
	if !isLoadBalancer(s) {
		errs = append(errs, field.Forbidden(at, refusal))
	}
	if was, had := old.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey]; had && was == text || strings.TrimSpace(text) == "" {
		return errs
	}
	for r := range strings.SplitSeq(strings.TrimSpace(text), ",") {
		errs = append(errs, check.CIDR(at, strings.TrimSpace(r))...)
	}
	return errs
}

func loadBalancerOnly(at *field.Path, s *corev1.Service) check.Errors {
	const refusal = "may only be used when `type` is 'LoadBalancer'"
	var errs check.Errors
	switch ports := s.Spec.AllocateLoadBalancerNodePorts; {
	case ports != nil && !isLoadBalancer(s):
		errs = append(errs, field.Forbidden(at.Child("allocateLoadBalancerNodePorts"), refusal))
	case ports == nil && isLoadBalancer(s):
		errs = append(errs, field.Required(field.NewPath("allocateLoadBalancerNodePorts"), ""))
	}
	switch class := s.Spec.LoadBalancerClass; {
	case class != nil && isLoadBalancer(s):
		errs = append(errs, check.QualifiedName(at.Child("loadBalancerClass"), *class)...)
	case class != nil:
		errs = append(errs, field.Forbidden(at.Child("loadBalancerClass"), refusal))
	}
	return errs
}

func externalTraffic(at *field.Path, s *corev1.ServiceSpec) check.Errors {
	var errs check.Errors
	if externallyAccessible(s) {
		errs = append(errs, check.Choice(at.Child("externalTrafficPolicy"), s.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)...)
	} else if s.ExternalTrafficPolicy != "" {
		errs = append(errs, field.Invalid(at.Child("externalTrafficPolicy"), s.ExternalTrafficPolicy, "may only be set for externally-accessible services"))
	}
	port, health := s.HealthCheckNodePort, at.Child("healthCheckNodePort")
	switch {
	case !needsHealthPort(s) && port != 0:
		errs = append(errs, field.Invalid(health, port, "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"))
	case needsHealthPort(s) && port == 0:
		errs = append(errs, field.Required(health, ""))
	case needsHealthPort(s):
		errs = append(errs, check.Port(health, port)...)
	}
	return errs
}

func validateServiceStatus(obj, old api.Object) field.ErrorList {
	s, was := obj.(*corev1.Service), old.(*corev1.Service)
	at := statusPath.Child("loadBalancer", "ingress")
	list := s.Status.LoadBalancer.Ingress
	if !isLoadBalancer(s) && len(list) > 0 {
		return check.Errors{field.Forbidden(at, "may only be used when `spec.type` is 'LoadBalancer'")}
	}
	var before []string
	for _, i := range was.Status.LoadBalancer.Ingress {
		before = append(before, i.IP)
	}
	var errs check.Errors
	for i := range list {
		at, in := at.Index(i), &list[i]
		switch mode := at.Child("ipMode"); {
		case in.IP == "" && in.IPMode != nil:
			errs = append(errs, field.Forbidden(mode, "may not be specified when `ip` is not set"))
		case in.IP != "" && in.IPMode == nil:
			errs = append(errs, field.Required(mode, "must be specified when `ip` is set"))
		case in.IPMode != nil:
			errs = append(errs, check.OneOf(mode, *in.IPMode, corev1.LoadBalancerIPModeProxy, corev1.LoadBalancerIPModeVIP)...)
		}
		errs = append(errs, IngressPoint(at, in.IP, in.Hostname, before)...)
	}
	return errs
}

// IngressPoint checks where a load balancer or an ingress can be reached.
func IngressPoint(at *field.Path, ip, hostname string, before []string) check.Errors {
	var errs check.Errors
	if ip != "" {
		errs = append(errs, check.IP(at.Child("ip"), ip, before...)...)
	}
	if hostname == "" {
		return errs
	}
	errs = append(errs, check.Messages(at.Child("hostname"), hostname, utilvalidation.IsDNS1123Subdomain(hostname))...)
	if netutils.ParseIPSloppy(hostname) != nil {
		errs = append(errs, field.Invalid(at.Child("hostname"), hostname, "must be a DNS name, not an IP address"))
	}
	return errs
}
