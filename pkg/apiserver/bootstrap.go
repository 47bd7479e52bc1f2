package apiserver

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/uuid"

	"skiff/pkg/api"
	"skiff/pkg/store"
)

// bootstrap keeps what every cluster has: the namespaces of the system, the default
// service range, and the kubernetes service with this server among its endpoints.
func (s *server) bootstrap(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.again(ctx, time.Minute, "keep system objects", s.systemObjects) })
	group.Go(func() error { return s.again(ctx, repairEvery, "repair service allocations", s.services.repair) })
	group.Go(func() error { return s.endpoints(ctx) })
	return group.Wait()
}

// again calls do at an interval until ctx ends; after a failure it comes back sooner.
func (s *server) again(ctx context.Context, every time.Duration, what string, do func(context.Context) error) error {
	retry := 100 * time.Millisecond
	for {
		wait := every
		if err := do(ctx); err != nil && ctx.Err() == nil {
			s.logger.Warn(what, "error", err)
			wait = min(retry, every)
			retry = min(retry*2, 10*time.Second)
		} else {
			retry = 100 * time.Millisecond
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// ensure writes an object of the server's own, past authorization and admission. change gets the current
// object, or nil; returning it unchanged writes nothing.
func (s *server) ensure(ctx context.Context, gvk schema.GroupVersionKind, namespace, name string, change func(current api.Object) (api.Object, error)) error {
	kind := s.kind(gvk)
	if kind == nil {
		return fmt.Errorf("ensure %s %s: the kind is not served", gvk.Kind, name)
	}
	key := store.Key{Path: kind.StoragePath, Namespace: namespace, Name: name}
	w, err := s.newWrite(ctx, &call{kind: kind}, nil)
	if err != nil {
		return err
	}
	w.CreateMissing = true
	_, err = s.store.Update(ctx, kind, key, w, func(current api.Object) (api.Object, error) {
		next, err := change(current)
		if err != nil || current != nil {
			return next, err
		}
		next.SetName(name)
		next.SetNamespace(namespace)
		next.SetUID(uuid.NewUUID())
		next.SetCreationTimestamp(metav1.NewTime(time.Now().Truncate(time.Second)))
		return next, nil
	})
	if err != nil {
		return fmt.Errorf("ensure %s %s: %w", gvk.Kind, key, err)
	}
	return nil
}

// missing is a change that only creates.
func missing(obj api.Object) func(api.Object) (api.Object, error) {
	return func(current api.Object) (api.Object, error) {
		if current != nil {
			return current, nil
		}
		return obj.DeepCopyObject().(api.Object), nil
	}
}

var systemNamespaces = []string{metav1.NamespaceSystem, metav1.NamespacePublic, metav1.NamespaceDefault, corev1.NamespaceNodeLease}

func (s *server) systemObjects(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, name := range systemNamespaces {
		group.Go(func() error {
			return s.ensure(ctx, corev1.SchemeGroupVersion.WithKind("Namespace"), "", name, missing(&corev1.Namespace{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{corev1.LabelMetadataName: name}},
				Spec:       corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{corev1.FinalizerKubernetes}},
				Status:     corev1.NamespaceStatus{Phase: corev1.NamespaceActive},
			}))
		})
	}
	group.Go(func() error {
		return s.ensure(ctx, networkingv1.SchemeGroupVersion.WithKind("ServiceCIDR"), "", "kubernetes", missing(&networkingv1.ServiceCIDR{
			Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{s.cfg.ServiceRange.String()}},
			Status: networkingv1.ServiceCIDRStatus{Conditions: []metav1.Condition{{
				Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue, Reason: "",
				Message: "Kubernetes default Service CIDR is ready", LastTransitionTime: metav1.Now(),
			}}},
		}))
	})
	group.Go(func() error { return s.kubernetesService(ctx) })
	group.Go(func() error { return s.publishTrust(ctx) })
	return group.Wait()
}

// kubernetesService is how pods reach this server: the first address of the service range.
func (s *server) kubernetesService(ctx context.Context) error {
	ip := nth(s.cfg.ServiceRange, 1).String()
	ports := []corev1.ServicePort{{Name: "https", Protocol: corev1.ProtocolTCP, Port: 443, TargetPort: intstr.FromInt32(int32(s.cfg.AdvertisePort))}}
	single, cluster := corev1.IPFamilyPolicySingleStack, corev1.ServiceInternalTrafficPolicyCluster
	return s.ensure(ctx, corev1.SchemeGroupVersion.WithKind("Service"), metav1.NamespaceDefault, "kubernetes", missing(&corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"provider": "kubernetes", "component": "apiserver"}},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: ip, ClusterIPs: []string{ip}, Ports: ports,
			SessionAffinity: corev1.ServiceAffinityNone, IPFamilyPolicy: &single,
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, InternalTrafficPolicy: &cluster,
		},
	}))
}

// Ranges that can't hold the kubernetes service are refused at start.
func (c *Config) check() error {
	if !c.ServiceRange.IsValid() || !c.ServiceRange.Addr().Is4() || hosts(c.ServiceRange) < 2 {
		return fmt.Errorf("the service range %s is no IPv4 range of at least four addresses", c.ServiceRange)
	}
	if c.NodePorts[0] < 1 || c.NodePorts[1] > 65535 || c.NodePorts[0] > c.NodePorts[1] {
		return fmt.Errorf("the node port range %d-%d is none", c.NodePorts[0], c.NodePorts[1])
	}
	if c.AdvertiseAddress == (netip.Addr{}) {
		return fmt.Errorf("no address to advertise")
	}
	return nil
}
