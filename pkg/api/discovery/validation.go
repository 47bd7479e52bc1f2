package discovery

import (
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"skiff/pkg/api"
	"skiff/pkg/api/check"
)

const (
	maxTopologyLabels = 16
	maxAddresses      = 100
	maxPorts          = 20000
	maxEndpoints      = 1000
	maxHints          = 8
)

func validateSlice(obj api.Object) field.ErrorList {
	s := obj.(*discoveryv1.EndpointSlice)
	return slices.Concat(sliceHead(s), endpoints(s))
}

// validateSliceUpdate: endpoints that didn't change may be what an earlier version let pass.
func validateSliceUpdate(obj, old api.Object) field.ErrorList {
	s, was := obj.(*discoveryv1.EndpointSlice), old.(*discoveryv1.EndpointSlice)
	errs := slices.Concat(sliceHead(s), check.Immutable(field.NewPath("addressType"), s.AddressType, was.AddressType))
	if wrong := endpoints(s); len(wrong) > 0 && !reflect.DeepEqual(s.Endpoints, was.Endpoints) {
		errs = append(errs, wrong...)
	}
	return errs
}

func sliceHead(s *discoveryv1.EndpointSlice) check.Errors {
	errs := check.Choice(field.NewPath("addressType"), s.AddressType, discoveryv1.AddressTypeFQDN, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6)
	list := field.NewPath("ports")
	if len(s.Ports) > maxPorts {
		return append(errs, field.TooMany(list, len(s.Ports), maxPorts))
	}
	names := map[string]bool{}
	for i := range s.Ports {
		p, at, name := &s.Ports[i], list.Index(i), ""
		if p.Name != nil {
			name = *p.Name
		}
		if name != "" {
			errs = append(errs, check.Label(at.Child("name"), name)...)
		}
		if names[name] {
			errs = append(errs, field.Duplicate(at.Child("name"), name))
		}
		names[name] = true
		if p.Protocol == nil {
			errs = append(errs, field.Required(at.Child("protocol"), ""))
		} else {
			errs = append(errs, check.OneOf(at.Child("protocol"), *p.Protocol, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
		}
		if p.AppProtocol != nil {
			errs = append(errs, check.QualifiedName(at.Child("appProtocol"), *p.AppProtocol)...)
		}
	}
	return errs
}

func endpoints(s *discoveryv1.EndpointSlice) check.Errors {
	list := field.NewPath("endpoints")
	if len(s.Endpoints) > maxEndpoints {
		return check.Errors{field.TooMany(list, len(s.Endpoints), maxEndpoints)}
	}
	var errs check.Errors
	for i := range s.Endpoints {
		e, at := &s.Endpoints[i], list.Index(i)
		errs = append(errs, addresses(at.Child("addresses"), e.Addresses, s.AddressType)...)
		if e.NodeName != nil {
			errs = append(errs, check.Subdomain(at.Child("nodeName"), *e.NodeName)...)
		}
		topology := at.Child("deprecatedTopology")
		if n := len(e.DeprecatedTopology); n > maxTopologyLabels {
			errs = append(errs, field.TooMany(topology, n, maxTopologyLabels))
		}
		errs = append(errs, metavalidation.ValidateLabels(e.DeprecatedTopology, topology)...)
		if e.Hostname != nil {
			errs = append(errs, check.Label(at.Child("hostname"), *e.Hostname)...)
		}
		if e.Hints != nil {
			errs = append(errs, hints(at.Child("hints"), e.Hints)...)
		}
	}
	return errs
}

func addresses(at *field.Path, list []string, kind discoveryv1.AddressType) check.Errors {
	var errs check.Errors
	if len(list) == 0 {
		errs = append(errs, field.Required(at, "must contain at least 1 address"))
	} else if len(list) > maxAddresses {
		errs = append(errs, field.TooMany(at, len(list), maxAddresses))
	}
	for i, a := range list {
		idx := at.Index(i)
		if kind == discoveryv1.AddressTypeFQDN {
			errs = append(errs, utilvalidation.IsFullyQualifiedDomainName(idx, a)...)
			continue
		}
		if kind != discoveryv1.AddressTypeIPv4 && kind != discoveryv1.AddressTypeIPv6 {
			continue
		}
		if wrong := check.IP(idx, a); len(wrong) > 0 {
			errs = append(errs, wrong...)
			continue
		}
		if is4 := netutils.IsIPv4String(a); is4 != (kind == discoveryv1.AddressTypeIPv4) {
			errs = append(errs, field.Invalid(at, a, "must be an "+string(kind)+" address"))
		}
		errs = append(errs, check.EndpointIP(idx, a)...)
	}
	return errs
}

func hints(at *field.Path, h *discoveryv1.EndpointHints) check.Errors {
	var zones, nodes []string
	for _, z := range h.ForZones {
		zones = append(zones, z.Name)
	}
	for _, n := range h.ForNodes {
		nodes = append(nodes, n.Name)
	}
	label := func(at *field.Path, v string) check.Errors {
		return check.Messages(at, v, utilvalidation.IsValidLabelValue(v))
	}
	return slices.Concat(named(at.Child("forZones"), zones, label), named(at.Child("forNodes"), nodes, check.Subdomain))
}

func named(list *field.Path, names []string, rule func(*field.Path, string) check.Errors) check.Errors {
	if len(names) > maxHints {
		return check.Errors{field.TooMany(list, len(names), maxHints)}
	}
	var errs check.Errors
	for i, name := range names {
		at := list.Index(i).Child("name")
		if slices.Contains(names[:i], name) {
			errs = append(errs, field.Duplicate(at, name))
		}
		errs = append(errs, rule(at, name)...)
	}
	return errs
}

func sliceWarnings(obj, old api.Object) []string {
	s := obj.(*discoveryv1.EndpointSlice)
	var list []string
	if old == nil && s.AddressType == discoveryv1.AddressTypeFQDN {
		list = append(list, "spec.addressType: FQDN endpoints are deprecated")
	}
	switch s.Labels[discoveryv1.LabelManagedBy] {
	case "endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io":
		return list // they write canonical addresses only
	}
	for i := range s.Endpoints {
		for j, a := range s.Endpoints[i].Addresses {
			if s.AddressType != discoveryv1.AddressTypeFQDN {
				list = append(list, utilvalidation.GetWarningsForIP(field.NewPath("endpoints").Index(i).Child("addresses").Index(j), a)...)
			}
		}
	}
	return list
}
