package dns

import (
	"net/netip"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Index holds what names mean. Reading takes no lock; every value in its maps
// is immutable and replaced as a whole. Writers exclude one another.
type Index struct {
	services   sync.Map // types.NamespacedName → *service
	addresses  sync.Map // netip.Addr → *reverse
	namespaces sync.Map // string → struct{}: those with a service, or known to exist

	mu      sync.Mutex
	specs   map[types.NamespacedName]*corev1.Service
	slices  map[types.NamespacedName]map[string]*discoveryv1.EndpointSlice // by service, then name
	ownerOf map[types.NamespacedName]types.NamespacedName                  // a slice's service
	counts  map[string]int                                                 // reasons to know a namespace
}

// NewIndex returns an empty index.
func NewIndex() *Index {
	return &Index{
		specs:   map[types.NamespacedName]*corev1.Service{},
		slices:  map[types.NamespacedName]map[string]*discoveryv1.EndpointSlice{},
		ownerOf: map[types.NamespacedName]types.NamespacedName{},
		counts:  map[string]int{},
	}
}

// service is all that is to be said about one.
type service struct {
	external  string // the name that an ExternalName stands for
	headless  bool
	addresses []netip.Addr // cluster addresses
	ports     []port       // of the service; those of a headless one stand with its endpoints
	endpoints []endpoint   // ready ones
}

type port struct {
	name     string
	protocol string // lower case
	number   uint16
}

type endpoint struct {
	host      string // its label below the service
	addresses []netip.Addr
	ports     []port
}

// reverse is what an address is called. Services come before endpoints.
type reverse struct {
	services  []string // "name.namespace"
	endpoints []string // "host.name.namespace"
}

// SetService enters a service, or removes it if spec is nil.
func (x *Index) SetService(name types.NamespacedName, spec *corev1.Service) {
	x.mu.Lock()
	defer x.mu.Unlock()
	_, had := x.specs[name]
	if spec == nil {
		delete(x.specs, name)
	} else {
		x.specs[name] = spec
	}
	x.rebuild(name)
	if had != (spec != nil) {
		x.know(name.Namespace, spec != nil)
	}
}

// SetSlice enters a slice, or removes it if slice is nil.
func (x *Index) SetSlice(name types.NamespacedName, slice *discoveryv1.EndpointSlice) {
	x.mu.Lock()
	defer x.mu.Unlock()
	old, had := x.ownerOf[name]
	if had {
		delete(x.ownerOf, name)
		if delete(x.slices[old], name.Name); len(x.slices[old]) == 0 {
			delete(x.slices, old)
		}
	}
	var owner types.NamespacedName
	if slice != nil {
		owner = types.NamespacedName{Namespace: slice.Namespace, Name: slice.Labels[discoveryv1.LabelServiceName]}
		if owner.Name != "" {
			x.ownerOf[name] = owner
			if x.slices[owner] == nil {
				x.slices[owner] = map[string]*discoveryv1.EndpointSlice{}
			}
			x.slices[owner][name.Name] = slice
			x.rebuild(owner)
		}
	}
	if had && old != owner {
		x.rebuild(old)
	}
}

// SetNamespace says that a namespace exists, or no longer does. Without any
// such call the namespaces of services are all there are.
func (x *Index) SetNamespace(name string, exists bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.know(name, exists)
}

func (x *Index) know(namespace string, more bool) {
	if more {
		x.counts[namespace]++
		x.namespaces.Store(namespace, struct{}{})
	} else if x.counts[namespace]--; x.counts[namespace] <= 0 {
		delete(x.counts, namespace)
		x.namespaces.Delete(namespace)
	}
}

// rebuild makes a service's records anew and brings the reverse names along.
func (x *Index) rebuild(name types.NamespacedName) {
	var next *service
	if spec := x.specs[name]; spec != nil {
		next = compile(spec, x.slices[name])
	}
	old := x.lookup(name)
	if next == nil {
		x.services.Delete(name)
	} else {
		x.services.Store(name, next)
	}
	was, is := reverseNames(name, old), reverseNames(name, next)
	for address, names := range was {
		if _, stays := is[address]; !stays {
			x.rename(address, name, reverse{}, names)
		}
	}
	for address, names := range is {
		x.rename(address, name, names, was[address])
	}
}

// rename replaces what one service contributes to an address's names.
func (x *Index) rename(address netip.Addr, name types.NamespacedName, next, old reverse) {
	var current reverse
	if held, ok := x.addresses.Load(address); ok {
		current = *held.(*reverse)
	}
	swap := func(all, old, next []string) []string {
		kept := slices.DeleteFunc(slices.Clone(all), func(s string) bool { return slices.Contains(old, s) })
		kept = append(kept, next...)
		slices.Sort(kept)
		return slices.Compact(kept)
	}
	current = reverse{swap(current.services, old.services, next.services), swap(current.endpoints, old.endpoints, next.endpoints)}
	if len(current.services) == 0 && len(current.endpoints) == 0 {
		x.addresses.Delete(address)
		return
	}
	x.addresses.Store(address, &current)
}

func reverseNames(name types.NamespacedName, s *service) map[netip.Addr]reverse {
	names := map[netip.Addr]reverse{}
	if s == nil {
		return names
	}
	base := name.Name + "." + name.Namespace
	for _, address := range s.addresses {
		names[address] = reverse{services: []string{base}}
	}
	for _, endpoint := range s.endpoints {
		for _, address := range endpoint.addresses {
			entry := names[address]
			entry.endpoints = append(entry.endpoints, endpoint.host+"."+base)
			names[address] = entry
		}
	}
	return names
}

func (x *Index) lookup(name types.NamespacedName) *service {
	if found, ok := x.services.Load(name); ok {
		return found.(*service)
	}
	return nil
}

func (x *Index) names(address netip.Addr) *reverse {
	if found, ok := x.addresses.Load(address); ok {
		return found.(*reverse)
	}
	return nil
}

func (x *Index) namespace(name string) bool {
	_, ok := x.namespaces.Load(name)
	return ok
}

// compile makes a service's records from its spec and slices.
func compile(spec *corev1.Service, endpointSlices map[string]*discoveryv1.EndpointSlice) *service {
	s := &service{}
	if spec.Spec.Type == corev1.ServiceTypeExternalName {
		s.external = strings.ToLower(strings.TrimSuffix(spec.Spec.ExternalName, ".")) + "."
		return s
	}
	s.headless = spec.Spec.ClusterIP == corev1.ClusterIPNone
	clusterIPs := spec.Spec.ClusterIPs
	if len(clusterIPs) == 0 {
		clusterIPs = []string{spec.Spec.ClusterIP}
	}
	for _, text := range clusterIPs {
		if address, err := netip.ParseAddr(text); err == nil {
			s.addresses = append(s.addresses, address)
		}
	}
	for _, p := range spec.Spec.Ports {
		s.ports = append(s.ports, port{p.Name, protocolName(&p.Protocol), uint16(p.Port)})
	}
	s.endpoints = endpointsOf(endpointSlices)
	return s
}

// endpointsOf gathers ready endpoints by host name; a dual-stack pod, whose
// addresses come in two slices, is one endpoint if it has a hostname.
func endpointsOf(endpointSlices map[string]*discoveryv1.EndpointSlice) []endpoint {
	var all []endpoint
	at := map[string]int{}
	names := make([]string, 0, len(endpointSlices))
	for name := range endpointSlices {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		slice := endpointSlices[name]
		var ports []port
		for _, p := range slice.Ports {
			if p.Port != nil {
				name := ""
				if p.Name != nil {
					name = *p.Name
				}
				ports = append(ports, port{name, protocolName(p.Protocol), uint16(*p.Port)})
			}
		}
		for i := range slice.Endpoints {
			one := &slice.Endpoints[i]
			if one.Conditions.Ready != nil && !*one.Conditions.Ready {
				continue
			}
			for _, text := range one.Addresses {
				address, err := netip.ParseAddr(text)
				if err != nil {
					continue // a name: slices of type FQDN have no records
				}
				host := dashed(address)
				if one.Hostname != nil && *one.Hostname != "" {
					host = strings.ToLower(*one.Hostname)
				}
				i, known := at[host]
				if !known {
					i = len(all)
					at[host] = i
					all = append(all, endpoint{host: host})
				}
				if !slices.Contains(all[i].addresses, address) {
					all[i].addresses = append(all[i].addresses, address)
				}
				for _, p := range ports {
					if !slices.Contains(all[i].ports, p) {
						all[i].ports = append(all[i].ports, p)
					}
				}
			}
		}
	}
	return all
}

func protocolName(protocol *corev1.Protocol) string {
	if protocol == nil || *protocol == "" {
		return "tcp"
	}
	return strings.ToLower(string(*protocol))
}

// dashed is an address as a label.
func dashed(address netip.Addr) string {
	return strings.NewReplacer(".", "-", ":", "-").Replace(address.String())
}
