package networking

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"skiff/pkg/api"
	"skiff/pkg/api/check"
)

var specPath = field.NewPath("spec")

func validatePolicy(obj api.Object) field.ErrorList {
	return policy(obj.(*networkingv1.NetworkPolicy), false, nil)
}

// validatePolicyUpdate: ranges and selector values that were there before may stay.
func validatePolicyUpdate(obj, old api.Object) field.ErrorList {
	was := &old.(*networkingv1.NetworkPolicy).Spec
	var ranges []string
	keep := func(peers []networkingv1.NetworkPolicyPeer) {
		for _, p := range peers {
			if p.IPBlock != nil {
				ranges = append(append(ranges, p.IPBlock.CIDR), p.IPBlock.Except...)
			}
		}
	}
	for i := range was.Ingress {
		keep(was.Ingress[i].From)
	}
	for i := range was.Egress {
		keep(was.Egress[i].To)
	}
	return policy(obj.(*networkingv1.NetworkPolicy), metavalidation.LabelSelectorHasInvalidLabelValue(&was.PodSelector), ranges)
}

func policy(p *networkingv1.NetworkPolicy, lax bool, ranges []string) check.Errors {
	s := &p.Spec
	errs := check.Selector(specPath.Child("podSelector"), &s.PodSelector, lax)
	rule := func(at *field.Path, ports []networkingv1.NetworkPolicyPort, side string, peers []networkingv1.NetworkPolicyPeer) {
		for i := range ports {
			errs = append(errs, policyPort(at.Child("ports").Index(i), &ports[i])...)
		}
		for i := range peers {
			errs = append(errs, peer(at.Child(side).Index(i), &peers[i], lax, ranges)...)
		}
	}
	for i := range s.Ingress {
		rule(specPath.Child("ingress").Index(i), s.Ingress[i].Ports, "from", s.Ingress[i].From)
	}
	for i := range s.Egress {
		rule(specPath.Child("egress").Index(i), s.Egress[i].Ports, "to", s.Egress[i].To)
	}
	types := specPath.Child("policyTypes")
	if len(s.PolicyTypes) > 2 {
		return append(errs, field.Invalid(types, s.PolicyTypes, "may not specify more than two policyTypes"))
	}
	for i, t := range s.PolicyTypes {
		errs = append(errs, check.OneOf(types.Index(i), t, networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress)...)
	}
	return errs
}

func policyPort(at *field.Path, p *networkingv1.NetworkPolicyPort) check.Errors {
	var errs check.Errors
	if p.Protocol != nil {
		errs = append(errs, check.OneOf(at.Child("protocol"), *p.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)...)
	}
	end := at.Child("endPort")
	switch {
	case p.Port == nil:
		if p.EndPort != nil {
			errs = append(errs, field.Invalid(end, *p.EndPort, "may not be specified when `port` is not specified"))
		}
		return errs
	case p.Port.Type == intstr.String && p.EndPort != nil:
		errs = append(errs, field.Invalid(end, *p.EndPort, "may not be specified when `port` is non-numeric"))
	case p.EndPort != nil:
		if *p.EndPort < p.Port.IntVal {
			errs = append(errs, field.Invalid(end, p.Port.IntVal, "must be greater than or equal to `port`"))
		}
		errs = append(errs, check.Port(end, *p.EndPort)...)
	}
	return append(errs, check.PortOrName(at.Child("port"), *p.Port)...)
}

func peer(at *field.Path, p *networkingv1.NetworkPolicyPeer, lax bool, ranges []string) check.Errors {
	if p.PodSelector == nil && p.NamespaceSelector == nil && p.IPBlock == nil {
		return check.Errors{field.Required(at, "must specify a peer")}
	}
	errs := slices.Concat(check.Selector(at.Child("podSelector"), p.PodSelector, lax), check.Selector(at.Child("namespaceSelector"), p.NamespaceSelector, lax))
	if p.IPBlock == nil {
		return errs
	}
	errs = append(errs, ipBlock(at.Child("ipBlock"), p.IPBlock, ranges)...)
	if p.PodSelector != nil || p.NamespaceSelector != nil {
		errs = append(errs, field.Forbidden(at, "may not specify both ipBlock and another peer"))
	}
	return errs
}

func ipBlock(at *field.Path, b *networkingv1.IPBlock, ranges []string) check.Errors {
	if b.CIDR == "" {
		return check.Errors{field.Required(at.Child("cidr"), "")}
	}
	errs := check.CIDR(at.Child("cidr"), b.CIDR, ranges...)
	_, whole, err := netutils.ParseCIDRSloppy(b.CIDR)
	if err != nil {
		return errs
	}
	for i, text := range b.Except {
		at := at.Child("except").Index(i)
		errs = append(errs, check.CIDR(at, text, ranges...)...)
		_, except, err := netutils.ParseCIDRSloppy(text)
		if err != nil {
			continue
		}
		bits, _ := whole.Mask.Size()
		if n, _ := except.Mask.Size(); !whole.Contains(except.IP) || bits >= n {
			errs = append(errs, field.Invalid(at, text, "must be a strict subset of `cidr`"))
		}
	}
	return errs
}

func validateAddress(obj api.Object) field.ErrorList {
	ref, at := obj.(*networkingv1.IPAddress).Spec.ParentRef, specPath.Child("parentRef")
	if ref == nil {
		return check.Errors{field.Required(at, "")}
	}
	var errs check.Errors
	if ref.Group != "" {
		errs = append(errs, check.Subdomain(at.Child("group"), ref.Group)...)
	}
	errs = slices.Concat(errs, segment(at.Child("resource"), ref.Resource), segment(at.Child("name"), ref.Name))
	if ref.Namespace != "" {
		errs = append(errs, segment(at.Child("namespace"), ref.Namespace)...)
	}
	return errs
}

// segment is a name that must be there, and can stand in a path.
func segment(at *field.Path, v string) check.Errors {
	if v == "" {
		return check.Errors{field.Required(at, "")}
	}
	return check.Messages(at, v, content.IsPathSegmentName(v))
}

func validateAddressUpdate(obj, old api.Object) field.ErrorList {
	changed := check.Immutable(specPath.Child("parentRef"), obj.(*networkingv1.IPAddress).Spec.ParentRef, old.(*networkingv1.IPAddress).Spec.ParentRef)
	return append(validateAddress(obj), changed...)
}

func validateServiceCIDR(obj api.Object) field.ErrorList {
	s, at := &obj.(*networkingv1.ServiceCIDR).Spec, specPath.Child("cidrs")
	switch n := len(s.CIDRs); {
	case n == 0:
		return check.Errors{field.Required(at, "at least one CIDR required")}
	case n > 2:
		return check.Errors{field.Invalid(at, s, "may only hold up to 2 values")}
	}
	var errs check.Errors
	for i, r := range s.CIDRs {
		errs = append(errs, utilvalidation.IsValidCIDR(at.Index(i), r)...)
	}
	if f := netutils.IPFamilyOfCIDRString(s.CIDRs[0]); len(s.CIDRs) == 2 && f != netutils.IPFamilyUnknown && f == netutils.IPFamilyOfCIDRString(s.CIDRs[1]) {
		errs = append(errs, field.Invalid(at, s.CIDRs, "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"))
	}
	return errs
}

// validateServiceCIDRUpdate: a second family may be added.
func validateServiceCIDRUpdate(obj, old api.Object) field.ErrorList {
	now, was, at := obj.(*networkingv1.ServiceCIDR).Spec.CIDRs, old.(*networkingv1.ServiceCIDR).Spec.CIDRs, specPath.Child("cidrs")
	added := len(was) == 1 && len(now) == 2
	if len(now) != len(was) && !added {
		return check.Errors{field.Invalid(at, now, validation.FieldImmutableErrorMsg)}
	}
	var errs check.Errors
	for i := range was {
		if now[i] != was[i] {
			errs = append(errs, field.Invalid(at.Index(i), now[i], validation.FieldImmutableErrorMsg))
		}
	}
	if added {
		errs = append(errs, validateServiceCIDR(obj)...)
	}
	return errs
}

func validateIngressClass(obj api.Object) field.ErrorList {
	s := &obj.(*networkingv1.IngressClass).Spec
	const longest = 250
	var errs check.Errors
	if len(s.Controller) > longest {
		errs = append(errs, field.TooLong(specPath.Child("controller"), "", longest))
	}
	errs = append(errs, utilvalidation.IsDomainPrefixedPath(specPath.Child("controller"), s.Controller)...)
	p, at := s.Parameters, specPath.Child("parameters")
	if p == nil {
		return errs
	}
	errs = append(errs, reference(at, p.APIGroup, p.Kind, p.Name)...)
	if p.Scope == nil {
		return append(errs, field.Required(at.Child("scope"), ""))
	}
	switch scope := *p.Scope; {
	case scope != networkingv1.IngressClassParametersReferenceScopeCluster && scope != networkingv1.IngressClassParametersReferenceScopeNamespace:
		errs = append(errs, field.NotSupported(at.Child("scope"), scope, []string{networkingv1.IngressClassParametersReferenceScopeCluster, networkingv1.IngressClassParametersReferenceScopeNamespace}))
	case scope == networkingv1.IngressClassParametersReferenceScopeCluster && p.Namespace != nil:
		errs = append(errs, field.Forbidden(at.Child("namespace"), "`parameters.scope` is set to 'Cluster'"))
	case scope == networkingv1.IngressClassParametersReferenceScopeNamespace && p.Namespace == nil:
		errs = append(errs, field.Required(at.Child("namespace"), "`parameters.scope` is set to 'Namespace'"))
	case p.Namespace != nil:
		errs = append(errs, check.Label(at.Child("namespace"), *p.Namespace)...)
	}
	return errs
}

func reference(at *field.Path, group *string, kind, name string) check.Errors {
	var errs check.Errors
	if group != nil {
		errs = append(errs, check.Subdomain(at.Child("apiGroup"), *group)...)
	}
	return slices.Concat(errs, segment(at.Child("kind"), kind), segment(at.Child("name"), name))
}

func validateIngressClassUpdate(obj, old api.Object) field.ErrorList {
	return slices.Concat(check.Immutable(specPath.Child("controller"), obj.(*networkingv1.IngressClass).Spec.Controller, old.(*networkingv1.IngressClass).Spec.Controller), validateIngressClass(obj))
}

var (
	badSequences = []string{"//", "/./", "/../", "%2f", "%2F"}
	badEndings   = []string{"/..", "/."}
)

func ingressPath(at *field.Path, p *networkingv1.HTTPIngressPath) check.Errors {
	if p.PathType == nil {
		return check.Errors{field.Required(at.Child("pathType"), "pathType must be specified")}
	}
	var errs check.Errors
	path := at.Child("path")
	switch exact := *p.PathType != networkingv1.PathTypeImplementationSpecific; {
	case exact && *p.PathType != networkingv1.PathTypeExact && *p.PathType != networkingv1.PathTypePrefix:
		errs = append(errs, field.NotSupported(at.Child("pathType"), *p.PathType, []networkingv1.PathType{networkingv1.PathTypeExact, networkingv1.PathTypeImplementationSpecific, networkingv1.PathTypePrefix}))
	case !strings.HasPrefix(p.Path, "/") && (exact || p.Path != ""):
		errs = append(errs, field.Invalid(path, p.Path, "must be an absolute path"))
		fallthrough
	case exact:
		for _, bad := range badSequences {
			if exact && strings.Contains(p.Path, bad) {
				errs = append(errs, field.Invalid(path, p.Path, fmt.Sprintf("must not contain '%s'", bad)))
			}
		}
		for _, bad := range badEndings {
			if exact && strings.HasSuffix(p.Path, bad) {
				errs = append(errs, field.Invalid(path, p.Path, fmt.Sprintf("cannot end with '%s'", bad)))
			}
		}
	}
	return append(errs, backend(at.Child("backend"), &p.Backend)...)
}
