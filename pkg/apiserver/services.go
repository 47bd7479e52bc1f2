package apiserver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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

// address checks the address that a service asks for, or finds a free one.
func (a *allocator) address(ctx context.Context, s, old *corev1.Service) error {
	spec := &s.Spec
	if spec.ClusterIP == corev1.ClusterIPNone || len(spec.ClusterIPs) > 0 && spec.ClusterIPs[0] == corev1.ClusterIPNone {
		return nil
	}
	if old != nil && old.Spec.Type != corev1.ServiceTypeExternalName {
		return nil // it has one, and validation keeps it
	}
	ranges, err := a.ranges(ctx)
	if err != nil {
		return err
	}
	if wanted := spec.ClusterIP; wanted != "" {
		ip, err := netip.ParseAddr(wanted)
		if err != nil || !ip.Is4() {
			return nil // validation says so better
		}
		for _, r := range ranges {
			if r.Contains(ip) && ip != r.Addr() && ip != last(r) {
				return nil
			}
		}
		return refuseAddress(s, wanted, fmt.Sprintf("the provided IP (%s) is not in the valid range. The range of valid IPs is %s", wanted, a.server.cfg.ServiceRange))
	}
	for _, r := range ranges {
		ip, err := a.free(ctx, r)
		if err != nil {
			return err
		}
		if ip.IsValid() {
			spec.ClusterIP, spec.ClusterIPs = ip.String(), []string{ip.String()}
			return nil
		}
	}
	return apierrors.NewInternalError(fmt.Errorf("failed to allocate a serviceIP for Service %q: range is full", s.Name))
}

// ranges are the server's own range and those that ServiceCIDR objects add.
func (a *allocator) ranges(ctx context.Context) ([]netip.Prefix, error) {
	own := a.server.cfg.ServiceRange
	all := []netip.Prefix{own}
	kind := a.server.kind(networkingv1.SchemeGroupVersion.WithKind("ServiceCIDR"))
	if kind == nil {
		return all, nil
	}
	page, err := a.server.store.List(ctx, kind, store.Query{ResourceVersion: "0"})
	if err != nil {
		return nil, fmt.Errorf("list service ranges: %w", err)
	}
	for _, entry := range page.Entries {
		obj, err := entry.Shared()
		if err != nil {
			return nil, err
		}
		cidr := obj.(*networkingv1.ServiceCIDR)
		if cidr.DeletionTimestamp != nil {
			continue
		}
		for _, text := range cidr.Spec.CIDRs {
			if r, err := netip.ParsePrefix(text); err == nil && r.Addr().Is4() && r.Masked() != own {
				all = append(all, r.Masked())
			}
		}
	}
	return all, nil
}

// free picks an address that isn't taken as far as is known: by chance from the upper band of the range,
// which leaves the lower one to those who choose for themselves (KEP-3070), then any.
// It returns the zero address when the range is full.
func (a *allocator) free(ctx context.Context, r netip.Prefix) (netip.Addr, error) {
	kind := a.server.kind(networkingv1.SchemeGroupVersion.WithKind("IPAddress"))
	size := hosts(r)
	band := reserved(size)
	for range allocationTries {
		if size == band {
			break
		}
		ip := nth(r, 1+band+rand.IntN(size-band))
		_, err := a.server.store.Get(ctx, kind, store.Key{Path: kind.StoragePath, Name: ip.String()}, -1)
		if apierrors.IsNotFound(err) {
			return ip, nil
		}
		if err != nil {
			return ip, err
		}
	}
	page, err := a.server.store.List(ctx, kind, store.Query{})
	if err != nil {
		return netip.Addr{}, err
	}
	used := make(map[string]bool, len(page.Entries))
	for _, e := range page.Entries {
		used[e.Key.Name] = true
	}
	for i := range size {
		ip := nth(r, 1+(band+i)%size)
		if !used[ip.String()] {
			return ip, nil
		}
	}
	return netip.Addr{}, nil
}

// hosts is how many addresses a range has to give, without its first and last.
func hosts(r netip.Prefix) int {
	bits := min(32-r.Bits(), 24) // more than anybody has services
	return max(1<<bits-2, 0)
}

// reserved is the size of the lower band.
func reserved(size int) int {
	if size <= 16 {
		return 0
	}
	return min(max(size/16, 16), 256)
}

func nth(r netip.Prefix, n int) netip.Addr {
	b := r.Addr().As4()
	v := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	v += uint32(n)
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
}

func last(r netip.Prefix) netip.Addr { return nth(r, 1<<(32-r.Bits())-1) }

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

// sameNumber is the node port of another port with the same number and another protocol
// (DNS by UDP and TCP), which they can share.
func sameNumber(s *corev1.Service, i int) int32 {
	for j := range s.Spec.Ports {
		other := &s.Spec.Ports[j]
		if other.Port == s.Spec.Ports[i].Port && other.Protocol != s.Spec.Ports[i].Protocol && other.NodePort != 0 {
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
	value, err = api.EncodeStored(kind, obj)
	return a.ipKey(ip), value, err
}
