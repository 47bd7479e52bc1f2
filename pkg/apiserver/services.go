package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api"
	"skiff/pkg/store"
)

// allocator gives services their addresses and node ports. What is taken is recorded in the
// transaction that writes the service, so nothing leaks and nothing is given out twice: an
// address by its IPAddress object (KEP-1880), a node port by a key of its own.
// Kubernetes keeps node ports in one bitmap object; it makes that anew from the
// services when it starts, as this server makes the keys.
type allocator struct {
	server *server
}

func newAllocator(s *server) *allocator { return &allocator{server: s} }

const nodePortPrefix = "/registry/skiff/nodeports/"

func nodePortKey(port int32) string { return nodePortPrefix + strconv.Itoa(int(port)) }

// taken ends a write that wanted what another service has.
type taken struct {
	address string
	port    int32
}

func (t *taken) Error() string {
	if t.address != "" {
		return "service address " + t.address + " is taken"
	}
	return fmt.Sprintf("node port %d is taken", t.port)
}

// allocationTries is how often a write is tried again with other free addresses and ports.
const allocationTries = 16

// errRetry says that a write lost a race for something it didn't insist on.
var errRetry = errors.New("allocate anew")

// retry calls write until it neither fails nor loses a race for what wanted doesn't insist on.
func (a *allocator) retry(wanted api.Object, write func() error) error {
	service, _ := wanted.(*corev1.Service)
	var err error
	for range allocationTries {
		err = write()
		var t *taken
		if !errors.As(err, &t) {
			return err
		}
		if err := a.lost(t, service); !errors.Is(err, errRetry) {
			return err
		}
	}
	return apierrors.NewServerTimeout(corev1.Resource("services"), "allocate", 1)
}

// lost decides about a write that ended with taken: what the client asked for by name is
// refused, anything else is worth another try.
func (a *allocator) lost(t *taken, wanted *corev1.Service) error {
	if wanted == nil {
		return errRetry
	}
	if t.address != "" && slices.Contains(append(wanted.Spec.ClusterIPs, wanted.Spec.ClusterIP), t.address) {
		return refuseAddress(wanted, t.address, "provided IP is already allocated")
	}
	for i, p := range wanted.Spec.Ports {
		if t.port != 0 && p.NodePort == t.port {
			return refusePort(wanted, i, "provided port is already allocated")
		}
	}
	if t.port != 0 && wanted.Spec.HealthCheckNodePort == t.port {
		return apierrors.NewInternalError(fmt.Errorf("failed to allocate requested HealthCheck NodePort %d: provided port is already allocated", t.port))
	}
	return errRetry
}

func refuseAddress(s *corev1.Service, address, why string) error {
	if len(s.Spec.ClusterIPs) == 0 {
		s.Spec.ClusterIPs = []string{address}
	}
	return invalidService(s, field.Invalid(field.NewPath("spec", "clusterIPs"), s.Spec.ClusterIPs, fmt.Sprintf("failed to allocate IP %s: %s", address, why)))
}

func refusePort(s *corev1.Service, i int, why string) error {
	return invalidService(s, field.Invalid(field.NewPath("spec", "ports").Index(i).Child("nodePort"), s.Spec.Ports[i].NodePort, why))
}

func invalidService(s *corev1.Service, errs ...*field.Error) error {
	return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), s.Name, errs)
}

// allocate completes a service: families, address, ports. old is nil on create. Nothing is
// reserved yet; the write's effect does that.
func (a *allocator) allocate(ctx context.Context, s, old *corev1.Service) error {
	if s.Spec.Type != corev1.ServiceTypeExternalName {
		if err := families(s, old); err != nil {
			return err
		}
		if err := a.address(ctx, s, old); err != nil {
			return err
		}
	}
	return a.nodePorts(ctx, s, old)
}

// families sets ipFamilyPolicy and ipFamilies for a cluster that has IPv4 only.
func families(s, old *corev1.Service) error {
	spec := &s.Spec
	headless := spec.ClusterIP == corev1.ClusterIPNone
	selectorless := headless && len(spec.Selector) == 0
	if spec.IPFamilyPolicy == nil {
		policy := corev1.IPFamilyPolicySingleStack
		if old != nil && old.Spec.IPFamilyPolicy != nil {
			policy = *old.Spec.IPFamilyPolicy
		} else if selectorless {
			policy = corev1.IPFamilyPolicyRequireDualStack
		}
		spec.IPFamilyPolicy = &policy
	}
	single := *spec.IPFamilyPolicy == corev1.IPFamilyPolicySingleStack
	if selectorless {
		// Its endpoints are somebody else's, who may have both families.
		if len(spec.IPFamilies) == 0 {
			spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol}
		}
		if len(spec.IPFamilies) < 2 && !single {
			other := corev1.IPv6Protocol
			if spec.IPFamilies[0] == corev1.IPv6Protocol {
				other = corev1.IPv4Protocol
			}
			spec.IPFamilies = append(slices.Clip(spec.IPFamilies), other)
		}
		return nil
	}
	path := field.NewPath("spec")
	var errs field.ErrorList
	if single && len(spec.ClusterIPs) == 2 {
		errs = append(errs, field.Invalid(path.Child("ipFamilyPolicy"), spec.IPFamilyPolicy, "must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified"))
	}
	if single && len(spec.IPFamilies) == 2 {
		errs = append(errs, field.Invalid(path.Child("ipFamilyPolicy"), spec.IPFamilyPolicy, "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified"))
	}
	if *spec.IPFamilyPolicy == corev1.IPFamilyPolicyRequireDualStack {
		errs = append(errs, field.Invalid(path.Child("ipFamilyPolicy"), spec.IPFamilyPolicy, "this cluster is not configured for dual-stack services"))
	}
	for i, family := range spec.IPFamilies {
		if family != corev1.IPv4Protocol {
			errs = append(errs, field.Invalid(path.Child("ipFamilies").Index(i), family, "not configured on this cluster"))
		}
	}
	for i, text := range spec.ClusterIPs {
		if ip, err := netip.ParseAddr(text); err == nil && ip.Is6() && i >= len(spec.IPFamilies) {
			errs = append(errs, field.Invalid(path.Child("clusterIPs").Index(i), spec.ClusterIPs, "IPv6 is not configured on this cluster"))
		}
	}
	if len(errs) > 0 {
		return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), s.Name, errs)
	}
	if len(spec.IPFamilies) == 0 {
		spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol}
	}
	return nil
}

func addressesOf(s *corev1.Service) []string {
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(s.Spec.ClusterIPs), func(ip string) bool { return ip == "" || ip == corev1.ClusterIPNone })
}

// effect reserves what a service has and its predecessor hadn't, and releases the reverse.
func (a *allocator) effect(obj, old api.Object) (store.Effect, error) {
	var e store.Effect
	var now, was corev1.Service
	if s, ok := obj.(*corev1.Service); ok {
		now = *s
	}
	if s, ok := old.(*corev1.Service); ok {
		was = *s
	}
	var wanted []taken
	for _, ip := range without(addressesOf(&now), addressesOf(&was)) {
		key, value, err := a.ipAddress(&now, ip)
		if err != nil {
			return e, err
		}
		e.Compare = append(e.Compare, clientv3.Compare(clientv3.CreateRevision(key), "=", 0))
		e.Ops = append(e.Ops, clientv3.OpPut(key, string(value)))
		e.Else = append(e.Else, clientv3.OpGet(key, clientv3.WithCountOnly()))
		wanted = append(wanted, taken{address: ip})
	}
	for _, port := range without(portsOf(&now), portsOf(&was)) {
		key := nodePortKey(port)
		e.Compare = append(e.Compare, clientv3.Compare(clientv3.CreateRevision(key), "=", 0))
		e.Ops = append(e.Ops, clientv3.OpPut(key, now.Namespace+"/"+now.Name))
		e.Else = append(e.Else, clientv3.OpGet(key, clientv3.WithCountOnly()))
		wanted = append(wanted, taken{port: port})
	}
	for _, ip := range without(addressesOf(&was), addressesOf(&now)) {
		e.Ops = append(e.Ops, clientv3.OpDelete(a.ipKey(ip)))
	}
	for _, port := range without(portsOf(&was), portsOf(&now)) {
		e.Ops = append(e.Ops, clientv3.OpDelete(nodePortKey(port)))
	}
	e.Failed = func(answer *clientv3.TxnResponse) error {
		for i, r := range answer.Responses {
			if i < len(wanted) && r.GetResponseRange().GetCount() > 0 {
				return &wanted[i]
			}
		}
		return nil
	}
	return e, nil
}

func without[T comparable](all, some []T) []T {
	return slices.DeleteFunc(slices.Clone(all), func(v T) bool { return slices.Contains(some, v) })
}

func (a *allocator) ipKey(ip string) string { return "/registry/ipaddresses/" + ip }

// ipAddress is the object that stands for a service's address.
func (a *allocator) ipAddress(s *corev1.Service, ip string) (key string, value []byte, err error) {
	kind := a.server.kind(networkingv1.SchemeGroupVersion.WithKind("IPAddress"))
	obj := &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{
			Name: ip, UID: uuid.NewUUID(), CreationTimestamp: metav1.NewTime(time.Now().Truncate(time.Second)),
			Labels: map[string]string{
				networkingv1.LabelIPAddressFamily: string(corev1.IPv4Protocol),
				networkingv1.LabelManagedBy:       "ipallocator.k8s.io",
			},
		},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: s.Namespace, Name: s.Name}},
	}
	owned := a.server.managers.Of(kind, "").Update(kind.New(), obj, "kube-apiserver")
	return a.server.store.Encode(kind, store.Key{Path: kind.StoragePath, Name: ip}, owned)
}
