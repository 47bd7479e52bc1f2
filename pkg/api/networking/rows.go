// Package networking holds the catalogue's rows of the group networking.k8s.io (ingresses, network policies, service address ranges).
package networking

import (
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validation"

	"skiff/pkg/api"
)

var gv = networkingv1.SchemeGroupVersion

// Kinds returns the group's rows.
func Kinds() []*api.Kind {
	return []*api.Kind{
		ingressKind(),
		ingressClassKind(),
		networkPolicyKind(),
		ipAddressKind(),
		serviceCIDRKind(),
	}
}

func ingressKind() *api.Kind {
	return api.Define[networkingv1.Ingress, networkingv1.IngressList](gv, "ingresses", api.Kind{
		ShortNames:          []string{"ing"},
		Validate:            validateIngress,
		ValidateUpdate:      validateIngressUpdate,
		Namespaced:          true,
		StoragePath:         "ingress",
		UnconditionalUpdate: true,
		HasGeneration:       true,
		NameValidation:      validation.NameIsDNSSubdomain,
		Subresources:        map[string]*api.Subresource{"status": {ValidateUpdate: validateIngressStatus}},
		Columns:             ingressColumns,
		Cells:               ingressCells,
	})
}

func ingressClassKind() *api.Kind {
	return api.Define[networkingv1.IngressClass, networkingv1.IngressClassList](gv, "ingressclasses", api.Kind{
		Validate:            validateIngressClass,
		ValidateUpdate:      validateIngressClassUpdate,
		UnconditionalUpdate: true,
		HasGeneration:       true,
		Default:             defaultIngressClass,
		NameValidation:      validation.NameIsDNSSubdomain,
		Columns:             ingressClassColumns,
		Cells:               ingressClassCells,
	})
}

func networkPolicyKind() *api.Kind {
	return api.Define[networkingv1.NetworkPolicy, networkingv1.NetworkPolicyList](gv, "networkpolicies", api.Kind{
		ShortNames:          []string{"netpol"},
		Validate:            validatePolicy,
		ValidateUpdate:      validatePolicyUpdate,
		Namespaced:          true,
		UnconditionalUpdate: true,
		HasGeneration:       true,
		Default:             defaultNetworkPolicy,
		NameValidation:      validation.NameIsDNSSubdomain,
		Columns:             networkPolicyColumns,
		Cells:               networkPolicyCells,
	})
}

func ipAddressKind() *api.Kind {
	return api.Define[networkingv1.IPAddress, networkingv1.IPAddressList](gv, "ipaddresses", api.Kind{
		ShortNames:          []string{"ip"},
		Validate:            validateAddress,
		ValidateUpdate:      validateAddressUpdate,
		UnconditionalUpdate: true,
		NameValidation:      ipAddressName,
		Columns:             ipAddressColumns,
		Cells:               ipAddressCells,
	})
}

func serviceCIDRKind() *api.Kind {
	return api.Define[networkingv1.ServiceCIDR, networkingv1.ServiceCIDRList](gv, "servicecidrs", api.Kind{
		Validate:            validateServiceCIDR,
		ValidateUpdate:      validateServiceCIDRUpdate,
		UnconditionalUpdate: true,
		NameValidation:      validation.NameIsDNSSubdomain,
		Subresources:        map[string]*api.Subresource{"status": {KeepsMeta: true}},
		Columns:             serviceCIDRColumns,
		Cells:               serviceCIDRCells,
	})
}
