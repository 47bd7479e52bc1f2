package networking

import (
	"fmt"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/pkg/api"
)

var ingressColumns = api.Columns("Name, Class, Hosts, Address, Ports, Age")

func ingressCells(obj api.Object) []any {
	in := obj.(*networkingv1.Ingress)
	class, ports := "<none>", "80"
	if in.Spec.IngressClassName != nil {
		class = *in.Spec.IngressClassName
	}
	if len(in.Spec.TLS) > 0 {
		ports = "80, 443"
	}
	var addresses []string
	for _, a := range in.Status.LoadBalancer.Ingress {
		if at := api.Or(a.IP, a.Hostname); at != "" {
			addresses = append(addresses, at)
		}
	}
	slices.Sort(addresses)
	return []any{in.Name, class, hosts(in.Spec.Rules), strings.Join(slices.Compact(addresses), ","), ports, api.Age(in)}
}

// hosts names three; what is more is counted in rules, whether they name a host or not.
func hosts(rules []networkingv1.IngressRule) string {
	const most = 3
	var named []string
	for _, rule := range rules {
		if len(named) == most {
			return fmt.Sprintf("%s + %d more...", strings.Join(named, ","), len(rules)-most)
		}
		if rule.Host != "" {
			named = append(named, rule.Host)
		}
	}
	return api.Or(strings.Join(named, ","), "*")
}

var ingressClassColumns = api.Columns("Name, Controller, Parameters, Age")

func ingressClassCells(obj api.Object) []any {
	c := obj.(*networkingv1.IngressClass)
	name, parameters := c.Name, "<none>"
	if c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true" {
		name += " (default)"
	}
	if p := c.Spec.Parameters; p != nil {
		parameters = p.Kind
		if p.APIGroup != nil {
			parameters += "." + *p.APIGroup
		}
		parameters += "/" + p.Name
	}
	return []any{name, c.Spec.Controller, parameters, api.Age(c)}
}

var networkPolicyColumns = api.Columns("Name, Pod-Selector, Age")

func networkPolicyCells(obj api.Object) []any {
	p := obj.(*networkingv1.NetworkPolicy)
	return []any{p.Name, metav1.FormatLabelSelector(&p.Spec.PodSelector), api.Age(p)}
}

var serviceCIDRColumns = api.Columns("Name, CIDRs, Age")

func serviceCIDRCells(obj api.Object) []any {
	c := obj.(*networkingv1.ServiceCIDR)
	return []any{c.Name, strings.Join(c.Spec.CIDRs, ","), api.Age(c)}
}

var ipAddressColumns = api.Columns("Name, ParentRef")

func ipAddressCells(obj api.Object) []any {
	a := obj.(*networkingv1.IPAddress)
	parent := "<none>"
	if ref := a.Spec.ParentRef; ref != nil {
		resource := schema.GroupResource{Group: ref.Group, Resource: ref.Resource}
		parent = strings.ToLower(resource.String())
		if ref.Namespace != "" {
			parent += "/" + ref.Namespace
		}
		parent += "/" + ref.Name
	}
	return []any{a.Name, parent}
}
