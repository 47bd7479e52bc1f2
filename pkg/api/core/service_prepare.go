package core

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"skiff/pkg/api"
)

// A service shows some things twice (clusterIP and clusterIPs) and has others filled in by the
// server (addresses, node ports). Clients write back what they read, or leave out what they
// don't know; here is guessed what they meant. Allocation and validation come after.

func prepareServiceCreate(_ context.Context, obj api.Object) {
	s := obj.(*corev1.Service)
	if s.Spec.ClusterIP != "" && len(s.Spec.ClusterIPs) == 0 {
		s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
	}
}

func prepareServiceUpdate(_ context.Context, obj, old api.Object) {
	s, was := obj.(*corev1.Service), old.(*corev1.Service)
	dropUnneeded(&s.Spec, &was.Spec)
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		s.Status.LoadBalancer = corev1.LoadBalancerStatus{}
	}
	if p := s.Spec.InternalTrafficPolicy; p != nil && *p == corev1.ServiceInternalTrafficPolicyCluster && s.Spec.Type == corev1.ServiceTypeExternalName {
		s.Spec.InternalTrafficPolicy = nil // the default of the type that the service had
	}
	keepAllocated(&s.Spec, &was.Spec)
	syncClusterIPs(&s.Spec, &was.Spec)
}

func needsClusterIP(s *corev1.ServiceSpec) bool { return s.Type != corev1.ServiceTypeExternalName }

func needsNodePorts(s *corev1.ServiceSpec) bool {
	return s.Type == corev1.ServiceTypeNodePort || s.Type == corev1.ServiceTypeLoadBalancer
}

func needsHealthPort(s *corev1.ServiceSpec) bool {
	return s.Type == corev1.ServiceTypeLoadBalancer && s.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// dropUnneeded takes away what a service of the new type has no use for, if the client just wrote
// it back; what it changed itself stays, for validation to refuse.
func dropUnneeded(s, was *corev1.ServiceSpec) {
	if needsClusterIP(was) && !needsClusterIP(s) {
		if sameClusterIPs(s, was) {
			s.ClusterIP, s.ClusterIPs = "", nil
		}
		if slices.Equal(s.IPFamilies, was.IPFamilies) {
			s.IPFamilies = nil
		}
		if equality.Semantic.DeepEqual(s.IPFamilyPolicy, was.IPFamilyPolicy) {
			s.IPFamilyPolicy = nil
		}
	}
	if needsNodePorts(was) && !needsNodePorts(s) && !hasNewNodePort(s, was) {
		for i := range s.Ports {
			s.Ports[i].NodePort = 0
		}
	}
	if needsHealthPort(was) && !needsHealthPort(s) && s.HealthCheckNodePort == was.HealthCheckNodePort {
		s.HealthCheckNodePort = 0
	}
	if was.Type == corev1.ServiceTypeLoadBalancer && s.Type != corev1.ServiceTypeLoadBalancer {
		if equality.Semantic.DeepEqual(s.AllocateLoadBalancerNodePorts, was.AllocateLoadBalancerNodePorts) {
			s.AllocateLoadBalancerNodePorts = nil
		}
		if equality.Semantic.DeepEqual(s.LoadBalancerClass, was.LoadBalancerClass) {
			s.LoadBalancerClass = nil
		}
	}
	if externallyAccessible(was) && !externallyAccessible(s) && s.ExternalTrafficPolicy == was.ExternalTrafficPolicy {
		s.ExternalTrafficPolicy = ""
	}
}

func sameClusterIPs(s, was *corev1.ServiceSpec) bool {
	return s.ClusterIP == was.ClusterIP && slices.Equal(s.ClusterIPs, was.ClusterIPs)
}

func hasNewNodePort(s, was *corev1.ServiceSpec) bool {
	for i := range s.Ports {
		if p := s.Ports[i].NodePort; p != 0 && !hasNodePort(was, p) {
			return true
		}
	}
	return false
}

func hasNodePort(s *corev1.ServiceSpec, port int32) bool {
	return slices.ContainsFunc(s.Ports, func(p corev1.ServicePort) bool { return p.NodePort == port })
}

// keepAllocated fills in what the server once allocated and the client left out, so that
// the same manifest can be put again and again.
func keepAllocated(s, was *corev1.ServiceSpec) {
	if needsClusterIP(was) && needsClusterIP(s) {
		if s.ClusterIP == "" {
			s.ClusterIP = was.ClusterIP
		}
		if len(s.ClusterIPs) == 0 {
			s.ClusterIPs = was.ClusterIPs
		}
	}
	if wantsNodePorts(was) && wantsNodePorts(s) {
		keepNodePorts(s, was)
	}
	if needsHealthPort(was) && needsHealthPort(s) && s.HealthCheckNodePort == 0 {
		s.HealthCheckNodePort = was.HealthCheckNodePort
	}
}

// wantsNodePorts leaves out load balancers that asked for none.
func wantsNodePorts(s *corev1.ServiceSpec) bool {
	if s.Type == corev1.ServiceTypeLoadBalancer && s.AllocateLoadBalancerNodePorts != nil && !*s.AllocateLoadBalancerNodePorts {
		return false
	}
	return needsNodePorts(s)
}

// keepNodePorts matches ports by name, and never gives one out that the client gave to another port.
func keepNodePorts(s, was *corev1.ServiceSpec) {
	byName := make(map[string]int32, len(was.Ports))
	for i := range was.Ports {
		if port := was.Ports[i].NodePort; !hasNodePort(s, port) {
			byName[was.Ports[i].Name] = port
		}
	}
	for i := range s.Ports {
		if s.Ports[i].NodePort == 0 {
			s.Ports[i].NodePort = byName[s.Ports[i].Name]
		}
	}
}

// syncClusterIPs follows a client that changed clusterIP and wrote clusterIPs back as it was.
func syncClusterIPs(s, was *corev1.ServiceSpec) {
	if s.ClusterIP == was.ClusterIP || !slices.Equal(s.ClusterIPs, was.ClusterIPs) {
		return
	}
	if s.ClusterIP == "" {
		s.ClusterIPs = nil
	} else {
		s.ClusterIPs = []string{s.ClusterIP}
	}
}
