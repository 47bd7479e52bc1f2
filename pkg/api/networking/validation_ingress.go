package networking

import (
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"skiff/pkg/api"
	"skiff/pkg/api/check"
	"skiff/pkg/api/core"
)

func backend(at *field.Path, b *networkingv1.IngressBackend) check.Errors {
	switch {
	case b.Resource != nil && b.Service != nil:
		return check.Errors{field.Invalid(at, "", "cannot set both resource and service backends")}
	case b.Resource != nil:
		return reference(at.Child("resource"), b.Resource.APIGroup, b.Resource.Kind, b.Resource.Name)
	case b.Service == nil:
		return check.Errors{field.Invalid(at, "", "resource or service backend is required")}
	}
	errs := check.RequiredLabel(at.Child("service", "name"), b.Service.Name)
	switch port := at.Child("service", "port"); {
	case b.Service.Port.Name != "" && b.Service.Port.Number != 0:
		errs = append(errs, field.Invalid(at, "", "cannot set both port name & port number"))
	case b.Service.Port.Name != "":
		errs = append(errs, check.Messages(port.Child("name"), b.Service.Port.Name, utilvalidation.IsValidPortName(b.Service.Port.Name))...)
	case b.Service.Port.Number != 0:
		errs = append(errs, check.Port(port.Child("number"), b.Service.Port.Number)...)
	default:
		errs = append(errs, field.Required(at, "port name or number is required"))
	}
	return errs
}

func host(at *field.Path, name string) check.Errors {
	if strings.Contains(name, "*") {
		return check.Messages(at, name, utilvalidation.IsWildcardDNS1123Subdomain(name))
	}
	return check.Subdomain(at, name)
}

func validateIngress(obj api.Object) field.ErrorList {
	const annotation = "kubernetes.io/ingress.class"
	in := obj.(*networkingv1.Ingress)
	errs := ingress(in, nil)
	if v, ok := in.Annotations[annotation]; ok && in.Spec.IngressClassName != nil && v != *in.Spec.IngressClassName {
		errs = append(errs, field.Invalid(field.NewPath("annotations", annotation), v, "must match `ingressClassName` when both are specified"))
	}
	return errs
}

func validateIngressUpdate(obj, old api.Object) field.ErrorList {
	return ingress(obj.(*networkingv1.Ingress), old.(*networkingv1.Ingress))
}

func ingress(in, old *networkingv1.Ingress) check.Errors {
	s := &in.Spec
	var errs check.Errors
	if len(s.Rules) == 0 && s.DefaultBackend == nil {
		errs = append(errs, field.Invalid(specPath, s.Rules, "either `defaultBackend` or `rules` must be specified"))
	}
	if s.DefaultBackend != nil {
		errs = append(errs, backend(specPath.Child("defaultBackend"), s.DefaultBackend)...)
	}
	for i := range s.Rules {
		errs = append(errs, ingressRule(specPath.Child("rules").Index(i), &s.Rules[i], old)...)
	}
	for i := range s.TLS {
		at := specPath.Child("tls").Index(i)
		for j, name := range s.TLS[i].Hosts {
			errs = append(errs, host(at.Child("hosts").Index(j), name)...)
		}
		if name := s.TLS[i].SecretName; name != "" && (old == nil || !slices.ContainsFunc(old.Spec.TLS, badSecret)) {
			errs = append(errs, check.Subdomain(at.Child("secretName"), name)...)
		}
	}
	if s.IngressClassName != nil {
		errs = append(errs, check.Subdomain(specPath.Child("ingressClassName"), *s.IngressClassName)...)
	}
	return errs
}

func badSecret(t networkingv1.IngressTLS) bool {
	return t.SecretName != "" && len(check.Subdomain(nil, t.SecretName)) > 0
}

func ingressRule(at *field.Path, r *networkingv1.IngressRule, old *networkingv1.Ingress) check.Errors {
	var errs check.Errors
	if r.Host != "" {
		if netutils.ParseIPSloppy(r.Host) != nil {
			errs = append(errs, field.Invalid(at.Child("host"), r.Host, "must be a DNS name, not an IP address"))
		}
		errs = append(errs, host(at.Child("host"), r.Host)...)
	}
	// An earlier version didn't look into rules for wildcard hosts.
	bad := func(r networkingv1.IngressRule) bool { return strings.Contains(r.Host, "*") && len(paths(nil, &r)) > 0 }
	if strings.Contains(r.Host, "*") && old != nil && slices.ContainsFunc(old.Spec.Rules, bad) {
		return errs
	}
	return append(errs, paths(at, r)...)
}

func paths(at *field.Path, r *networkingv1.IngressRule) check.Errors {
	if r.HTTP == nil {
		return nil
	}
	at = at.Child("http", "paths")
	var errs check.Errors
	if len(r.HTTP.Paths) == 0 {
		errs = append(errs, field.Required(at, ""))
	}
	for i := range r.HTTP.Paths {
		errs = append(errs, ingressPath(at.Index(i), &r.HTTP.Paths[i])...)
	}
	return errs
}

func validateIngressStatus(obj, old api.Object) field.ErrorList {
	var before []string
	for _, p := range old.(*networkingv1.Ingress).Status.LoadBalancer.Ingress {
		before = append(before, p.IP)
	}
	var errs check.Errors
	for i, p := range obj.(*networkingv1.Ingress).Status.LoadBalancer.Ingress {
		errs = append(errs, core.IngressPoint(field.NewPath("status", "loadBalancer", "ingress").Index(i), p.IP, p.Hostname, before)...)
	}
	return errs
}
