package endpointslice

import (
	"cmp"
	"maps"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/controller/serving"
	"skiff/pkg/controller/workload"
)

// ManagedBy is the value of the label endpointslice.kubernetes.io/managed-by on
// the slices that this reconciler owns.
const ManagedBy = "endpointslice-controller.k8s.io"

// Snapshot is what a plan is made from.
type Snapshot struct {
	Service *v1.Service
	Pods    []*v1.Pod                  // selected by the service, in any state
	Slices  []*discovery.EndpointSlice // of the service, managed by this reconciler, not being deleted
	// Zones by node name, for the nodes that exist; the zone may be empty.
	Zones       map[string]string
	TriggerTime time.Time // zero: unknown
	MaxPerSlice int
}

// Step is one write to a slice.
type Step struct {
	Slice  *discovery.EndpointSlice // as it shall be
	Action Action
	Reason string
}

// Action is what a step does.
type Action string

const (
	Create Action = "create"
	Update Action = "update"
	Delete Action = "delete"
)

// Plan is what one turn does.
type Plan struct {
	Steps []Step
	// Missing are pods left out because their node doesn't exist (yet).
	Missing []string
}

// Decide distributes the service's endpoints over slices: per address family, and
// per set of target ports, since named ports may differ between pods. Slices are changed as little as possible:
// endpoints stay where they are, and new ones fill what has to be written anyway.
func Decide(s Snapshot) Plan {
	var p Plan
	wanted := map[discovery.AddressType]bool{}
	for _, family := range families(s.Service) {
		wanted[family] = true
		p.decideFamily(s, family)
	}
	for _, slice := range s.Slices {
		if !wanted[slice.AddressType] {
			p.add(Delete, slice, "the service has no addresses of this family")
		}
	}
	// What is new first, so that no endpoint is missing in between.
	order := []Action{Create, Update, Delete}
	slices.SortStableFunc(p.Steps, func(a, b Step) int {
		return cmp.Compare(slices.Index(order, a.Action), slices.Index(order, b.Action))
	})
	if s.Service.DeletionTimestamp != nil {
		p.Steps = slices.DeleteFunc(p.Steps, func(step Step) bool { return step.Action == Create })
	}
	return p
}

func (p *Plan) add(action Action, slice *discovery.EndpointSlice, reason string) {
	p.Steps = append(p.Steps, Step{Action: action, Slice: slice, Reason: reason})
}

// group is the slices and endpoints of one set of ports.
type group struct {
	ports    []discovery.EndpointPort
	existing []*discovery.EndpointSlice
	desired  map[string]discovery.Endpoint // by address and target
}

func (p *Plan) decideFamily(s Snapshot, family discovery.AddressType) {
	groups := map[string]*group{}
	at := func(ports []discovery.EndpointPort) *group {
		key := PortsKey(ports)
		if groups[key] == nil {
			groups[key] = &group{ports: ports, desired: map[string]discovery.Endpoint{}}
		}
		return groups[key]
	}
	count := 0
	for _, pod := range s.Pods {
		if !serving.Include(pod, true) {
			continue
		}
		if _, exists := s.Zones[pod.Spec.NodeName]; !exists && !s.Service.Spec.PublishNotReadyAddresses {
			if !slices.Contains(p.Missing, pod.Name) {
				p.Missing = append(p.Missing, pod.Name)
			}
			continue
		}
		if endpoint := endpointOf(s, pod, family); len(endpoint.Addresses) > 0 {
			at(portsOf(s.Service, pod)).desired[EndpointKey(endpoint)] = endpoint
			count++
		}
	}
	for _, slice := range s.Slices {
		if slice.AddressType == family {
			g := at(slice.Ports)
			g.existing = append(g.existing, slice)
		}
	}
	before := len(p.Steps)
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		p.decideGroup(s, family, groups[key])
	}
	if count == 0 {
		p.keepPlaceholder(s, family, before)
	}
}

// keepPlaceholder leaves one empty slice of a family without endpoints, so that watchers can tell
// "none" from "not yet known".
func (p *Plan) keepPlaceholder(s Snapshot, family discovery.AddressType, before int) {
	placeholder := newSlice(s, family, nil)
	for i, step := range p.Steps[before:] {
		if step.Action == Delete && len(step.Slice.Ports) == 0 {
			p.Steps = slices.Delete(p.Steps, before+i, before+i+1)
			if kept := step.Slice.DeepCopy(); refresh(s, kept, nil) {
				p.add(Update, kept, "labels or endpoints changed")
			}
			return
		}
	}
	p.add(Create, placeholder, "placeholder: the service has no endpoints")
}

func (p *Plan) decideGroup(s Snapshot, family discovery.AddressType, g *group) {
	slices.SortFunc(g.existing, func(a, b *discovery.EndpointSlice) int { return cmp.Compare(a.Name, b.Name) })
	// First what is there: endpoints that are still wanted stay in their slice.
	kept := make([][]discovery.Endpoint, len(g.existing))
	dirty := make([]bool, len(g.existing))
	for i, slice := range g.existing {
		for _, old := range slice.Endpoints {
			key := EndpointKey(old)
			endpoint, wanted := g.desired[key]
			if !wanted {
				dirty[i] = true
				continue
			}
			delete(g.desired, key)
			kept[i] = append(kept[i], endpoint)
			dirty[i] = dirty[i] || !same(old, endpoint)
		}
		dirty[i] = dirty[i] || !labelsCurrent(s, slice)
	}
	// Then what is new: into slices that change anyway, fullest first.
	left := make([]discovery.Endpoint, 0, len(g.desired))
	for _, key := range slices.Sorted(maps.Keys(g.desired)) {
		left = append(left, g.desired[key])
	}
	for _, i := range byFullness(kept) {
		if dirty[i] && len(kept[i]) > 0 {
			left = fill(&kept[i], left, s.MaxPerSlice)
		}
	}
	// What is still left makes new slices; a remainder joins a slice that can take all of it.
	for len(left) > 0 {
		joined := false
		if len(left) < s.MaxPerSlice {
			for _, i := range byFullness(kept) {
				if len(kept[i])+len(left) <= s.MaxPerSlice {
					kept[i] = append(kept[i], left...)
					left, dirty[i], joined = nil, true, true
					break
				}
			}
		}
		if !joined {
			count := min(len(left), s.MaxPerSlice)
			slice := newSlice(s, family, g.ports)
			slice.Endpoints = left[:count:count]
			left = left[count:]
			p.add(Create, slice, "endpoints that no slice has room for")
		}
	}
	for i, slice := range g.existing {
		switch {
		case len(kept[i]) == 0:
			p.add(Delete, slice, "none of its endpoints is left")
		case dirty[i]:
			updated := slice.DeepCopy()
			refresh(s, updated, kept[i])
			p.add(Update, updated, "labels or endpoints changed")
		}
	}
}

func fill(slice *[]discovery.Endpoint, left []discovery.Endpoint, most int) []discovery.Endpoint {
	count := max(0, min(len(left), most-len(*slice)))
	*slice = append(*slice, left[:count]...)
	return left[count:]
}

func byFullness(kept [][]discovery.Endpoint) []int {
	order := make([]int, len(kept))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(len(kept[b]), len(kept[a])) })
	return order
}

func newSlice(s Snapshot, family discovery.AddressType, ports []discovery.EndpointPort) *discovery.EndpointSlice {
	slice := &discovery.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName:    workload.NamePrefix(s.Service.Name),
			Namespace:       s.Service.Namespace,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(s.Service, v1.SchemeGroupVersion.WithKind("Service"))},
		},
		AddressType: family,
		Ports:       ports,
		Endpoints:   []discovery.Endpoint{},
	}
	refresh(s, slice, []discovery.Endpoint{})
	return slice
}

// refresh brings a slice's labels, annotations and endpoints up to date and reports
// whether labels or endpoints changed.
func refresh(s Snapshot, slice *discovery.EndpointSlice, endpoints []discovery.Endpoint) bool {
	changed := !labelsCurrent(s, slice) || !apiequality.Semantic.DeepEqual(slice.Endpoints, endpoints)
	slice.Labels = labelsFor(s.Service)
	slice.Endpoints = endpoints
	if s.TriggerTime.IsZero() {
		delete(slice.Annotations, v1.EndpointsLastChangeTriggerTime)
	} else {
		if slice.Annotations == nil {
			slice.Annotations = map[string]string{}
		}
		slice.Annotations[v1.EndpointsLastChangeTriggerTime] = s.TriggerTime.UTC().Format(time.RFC3339Nano)
	}
	return changed
}

// labelsFor are the service's own labels, but for those that have a meaning on slices.
func labelsFor(service *v1.Service) map[string]string {
	labels := maps.Clone(service.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	delete(labels, v1.IsHeadlessService)
	if serving.Headless(service) {
		labels[v1.IsHeadlessService] = ""
	}
	labels[discovery.LabelServiceName] = service.Name
	labels[discovery.LabelManagedBy] = ManagedBy
	return labels
}

func labelsCurrent(s Snapshot, slice *discovery.EndpointSlice) bool {
	return maps.Equal(slice.Labels, labelsFor(s.Service))
}
