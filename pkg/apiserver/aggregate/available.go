package aggregate

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// defaultPort is a service's where an APIService says none, which only one that etcd has held since long can.
const defaultPort = 443

func portOf(s *v1.APIService) int32 {
	if s.Spec.Service.Port == nil {
		return defaultPort
	}
	return *s.Spec.Service.Port
}

func verdict(status v1.ConditionStatus, reason, format string, args ...any) *v1.APIServiceCondition {
	return &v1.APIServiceCondition{Type: v1.Available, Status: status, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// judge says what makes an APIService unavailable as far as its service (nil: there is none) and that one's endpoints
// tell; nil: the server has to be asked.
func judge(s *v1.APIService, service *corev1.Service, endpoints []*discoveryv1.EndpointSlice) *v1.APIServiceCondition {
	namespace, name := s.Spec.Service.Namespace, s.Spec.Service.Name
	if service == nil {
		return verdict(v1.ConditionFalse, "ServiceNotFound", "service/%s in %q is not present", name, namespace)
	}
	if service.Spec.Type != corev1.ServiceTypeClusterIP {
		return nil
	}
	at := slices.IndexFunc(service.Spec.Ports, func(p corev1.ServicePort) bool { return p.Port == portOf(s) })
	if at < 0 {
		return verdict(v1.ConditionFalse, "ServicePortError", "service/%s in %q is not listening on port %d", name, namespace, portOf(s))
	}
	if len(endpoints) == 0 {
		return verdict(v1.ConditionFalse, "EndpointsNotFound", "cannot find endpointslices for service/%s in %q", name, namespace)
	}
	port := service.Spec.Ports[at].Name
	if !slices.ContainsFunc(endpoints, func(e *discoveryv1.EndpointSlice) bool { return ready(e, port) }) {
		return verdict(v1.ConditionFalse, "MissingEndpoints", "endpointslices for service/%s in %q have no addresses with port name %q", name, namespace, port)
	}
	return nil
}

// ready says that a slice has a ready endpoint with that port.
func ready(slice *discoveryv1.EndpointSlice, port string) bool {
	return slices.ContainsFunc(slice.Endpoints, func(e discoveryv1.Endpoint) bool { return e.Conditions.Ready == nil || *e.Conditions.Ready }) &&
		slices.ContainsFunc(slice.Ports, func(p discoveryv1.EndpointPort) bool { return p.Name != nil && *p.Name == port && p.Port != nil })
}
