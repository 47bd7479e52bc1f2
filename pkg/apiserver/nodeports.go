package apiserver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// nodePorts checks the node ports that a service asks for, and finds the others.
func (a *allocator) nodePorts(ctx context.Context, s, old *corev1.Service) error {
	first, final := a.server.cfg.NodePorts[0], a.server.cfg.NodePorts[1]
	had := map[int32]bool{}
	if old != nil {
		for _, p := range portsOf(old) {
			had[p] = true
		}
	}
	outside := func(p int32) bool { return p != 0 && !had[p] && (int(p) < first || int(p) > final) }
	wantsPorts := s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer
	if wantsPorts {
		automatic := s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.AllocateLoadBalancerNodePorts == nil || *s.Spec.AllocateLoadBalancerNodePorts
		for i := range s.Spec.Ports {
			p := &s.Spec.Ports[i]
			if outside(p.NodePort) {
				return refusePort(s, i, fmt.Sprintf("provided port is not in the valid range. The range of valid ports is %d-%d", first, final))
			}
			if p.NodePort != 0 || !automatic {
				continue
			}
			if p.NodePort = sameNumber(s, i); p.NodePort != 0 {
				continue
			}
			port, err := a.freePort(ctx, s)
			if err != nil {
				return err
			}
			p.NodePort = port
		}
	}
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer || s.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
		return nil
	}
	if outside(s.Spec.HealthCheckNodePort) {
		return apierrors.NewInternalError(fmt.Errorf("failed to allocate requested HealthCheck NodePort %d: provided port is not in the valid range. The range of valid ports is %d-%d", s.Spec.HealthCheckNodePort, first, final))
	}
	if s.Spec.HealthCheckNodePort == 0 {
		port, err := a.freePort(ctx, s)
		if err != nil {
			return err
		}
		s.Spec.HealthCheckNodePort = port
	}
	return nil
}

// sameNumber is the node port of another port with the same number, which they can share if they have another
// protocol (DNS by UDP and TCP), as validation will see.
func sameNumber(s *corev1.Service, i int) int32 {
	for j := range s.Spec.Ports {
		other := &s.Spec.Ports[j]
		if other.Port == s.Spec.Ports[i].Port && other.NodePort != 0 {
			return other.NodePort
		}
	}
	return 0
}

// freePort picks a node port, by chance from the upper band of the range (KEP-3668), then any.
func (a *allocator) freePort(ctx context.Context, s *corev1.Service) (int32, error) {
	first, size := a.server.cfg.NodePorts[0], a.server.cfg.NodePorts[1]-a.server.cfg.NodePorts[0]+1
	answer, err := a.server.cfg.Etcd.Get(ctx, nodePortPrefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return 0, fmt.Errorf("list node ports: %w", err)
	}
	used := map[int32]bool{}
	for _, kv := range answer.Kvs {
		if port, err := strconv.Atoi(string(kv.Key[len(nodePortPrefix):])); err == nil {
			used[int32(port)] = true
		}
	}
	for _, p := range portsOf(s) {
		used[p] = true
	}
	band := 0
	if size > 16 {
		band = min(max(size/32, 16), 128)
	}
	start := rand.IntN(size - band)
	for i := range size - band {
		if port := int32(first + band + (start+i)%(size-band)); !used[port] {
			return port, nil
		}
	}
	for i := range band {
		if port := int32(first + i); !used[port] {
			return port, nil
		}
	}
	return 0, apierrors.NewInternalError(errors.New("failed to allocate a nodePort: range is full"))
}

// portsOf are the node ports of a service, the health check's included, each once.
func portsOf(s *corev1.Service) []int32 {
	var ports []int32
	for i := range s.Spec.Ports {
		if p := s.Spec.Ports[i].NodePort; p != 0 {
			ports = append(ports, p)
		}
	}
	if s.Spec.HealthCheckNodePort != 0 {
		ports = append(ports, s.Spec.HealthCheckNodePort)
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}
