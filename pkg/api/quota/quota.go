// Package quota knows what objects use of a ResourceQuota, and decides whether another one fits in.
//
// It is pure, and serves two: the apiserver charges what a write uses to the quotas of the
// namespace ([Plan]), in the write's own transaction; the controller adds up what is there ([Sum]).
// A quota's resources are names; [Resources] says whose objects count towards one, and [Usage] how
// much of which a single object uses.
//
// Not here: the limit of resources that need a covering quota, which is configuration of
// Kubernetes' plugin; and devices that pods ask for as extended resources while
// a claim stands for them (KEP-5004): they count as the pod asks for them.
//
// Source: https://kubernetes.io/docs/concepts/policy/resource-quotas/.
package quota

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/pkg/api"
)

const countPrefix = "count/"

// Count is the name under which a quota limits the number of a resource's objects.
func Count(gr schema.GroupResource) corev1.ResourceName {
	return corev1.ResourceName(countPrefix + gr.String())
}

var (
	pods     = schema.GroupResource{Resource: "pods"}
	services = schema.GroupResource{Resource: "services"}
	claims   = schema.GroupResource{Resource: "persistentvolumeclaims"}
	devices  = schema.GroupResource{Group: "resource.k8s.io", Resource: "resourceclaims"}
)

// ignored resources are under no quota.
var ignored = []schema.GroupResource{{Resource: "events"}, {Group: "events.k8s.io", Resource: "events"}}

// named are the resources with a name of their own beside [Count].
var named = map[corev1.ResourceName]schema.GroupResource{
	corev1.ResourceConfigMaps:             {Resource: "configmaps"},
	corev1.ResourceQuotas:                 {Resource: "resourcequotas"},
	corev1.ResourceReplicationControllers: {Resource: "replicationcontrollers"},
	corev1.ResourceSecrets:                {Resource: "secrets"},

	corev1.ResourceServices: services, corev1.ResourceServicesNodePorts: services, corev1.ResourceServicesLoadBalancers: services,

	corev1.ResourcePersistentVolumeClaims: claims, corev1.ResourceRequestsStorage: claims,

	corev1.ResourcePods: pods,
	corev1.ResourceCPU:  pods, corev1.ResourceRequestsCPU: pods, corev1.ResourceLimitsCPU: pods,
	corev1.ResourceMemory: pods, corev1.ResourceRequestsMemory: pods, corev1.ResourceLimitsMemory: pods,
	corev1.ResourceEphemeralStorage: pods, corev1.ResourceRequestsEphemeralStorage: pods, corev1.ResourceLimitsEphemeralStorage: pods,
}

// Resource is the resource whose objects count towards a name; false for a name that nothing counts towards.
func Resource(name corev1.ResourceName) (schema.GroupResource, bool) {
	if gr, ok := named[name]; ok {
		return gr, true
	}
	text := string(name)
	if counted, ok := strings.CutPrefix(text, countPrefix); ok {
		gr := schema.ParseGroupResource(counted)
		return gr, !slices.Contains(ignored, gr)
	}
	switch {
	case strings.HasSuffix(text, storageClassSuffix+string(corev1.ResourcePersistentVolumeClaims)),
		strings.HasSuffix(text, storageClassSuffix+string(corev1.ResourceRequestsStorage)):
		return claims, true
	case strings.HasSuffix(text, corev1.ResourceClaimsPerClass):
		return devices, true
	case strings.HasPrefix(text, corev1.ResourceHugePagesPrefix), strings.HasPrefix(text, corev1.ResourceRequestsHugePagesPrefix):
		return pods, true
	}
	asked, ok := strings.CutPrefix(text, corev1.DefaultResourceRequestsPrefix)
	return pods, ok && extended(corev1.ResourceName(asked))
}

// tracked are those of names that objects of a resource count towards.
func tracked(gr schema.GroupResource, list corev1.ResourceList) []corev1.ResourceName {
	var names []corev1.ResourceName
	for _, name := range slices.Sorted(maps.Keys(list)) {
		if of, ok := Resource(name); ok && of == gr {
			names = append(names, name)
		}
	}
	return names
}

// Counted says that all that matters of a resource's objects is how many there are: no scope ever
// matches them.
func Counted(gr schema.GroupResource) bool {
	return gr != pods && gr != services && gr != claims && gr != devices
}

// Usage is what one object uses, under all names.
func Usage(gr schema.GroupResource, obj api.Object, now time.Time) corev1.ResourceList {
	used := corev1.ResourceList{Count(gr): whole(1)}
	switch gr {
	case pods:
		podUsage(used, obj.(*corev1.Pod), now)
	case services:
		serviceUsage(used, obj.(*corev1.Service))
	case claims:
		claimUsage(used, obj.(*corev1.PersistentVolumeClaim))
	case devices:
		deviceUsage(used, obj)
	default:
		for name, of := range named {
			if of == gr {
				used[name] = whole(1)
			}
		}
	}
	return used
}

// Content is what there is of one resource in a quota's namespace.
type Content struct {
	Resource schema.GroupResource
	Objects  []api.Object // may be left out if the resource is [Counted]
	Number   int64        // of objects
}

// Sum is what the content uses of a quota, under each of the names that it limits and this resource's objects count towards.
func Sum(q *corev1.ResourceQuota, c Content, now time.Time) corev1.ResourceList {
	sum := corev1.ResourceList{}
	names := tracked(c.Resource, q.Spec.Hard)
	for _, name := range names {
		sum[name] = whole(0)
		if Counted(c.Resource) && len(selectors(q)) == 0 {
			sum[name] = whole(c.Number)
		}
	}
	if Counted(c.Resource) {
		return sum
	}
	for _, obj := range c.Objects {
		if inScope(q, c.Resource, obj) {
			add(sum, Usage(c.Resource, obj, now), names)
		}
	}
	return sum
}

// add adds those of names that used has.
func add(sum, used corev1.ResourceList, names []corev1.ResourceName) {
	for _, name := range names {
		if more, ok := used[name]; ok {
			total := sum[name].DeepCopy()
			total.Add(more)
			sum[name] = total
		}
	}
}

// Charge is what a write takes of one quota.
type Charge struct {
	Quota *corev1.ResourceQuota // as it is
	Used  corev1.ResourceList   // what status.used becomes
}

// Write is a write that quotas may bear on.
type Write struct {
	Resource    schema.GroupResource
	Subresource string
	Object      api.Object
	Old         api.Object // nil on create
	Now         time.Time
}

// Matters says whether a write of this kind can use more of a quota than was used before.
func (w Write) Matters() bool {
	if slices.Contains(ignored, w.Resource) {
		return false
	}
	if w.Old == nil {
		return w.Subresource == ""
	}
	switch w.Resource {
	case pods:
		return w.Subresource == "resize" || w.Subresource == "" && terminating(w.Object.(*corev1.Pod)) != terminating(w.Old.(*corev1.Pod))
	case services, devices:
		return w.Subresource == ""
	case claims:
		return w.Subresource == "" || w.Subresource == "status"
	}
	return false
}

// Plan is what a write takes of the quotas of its namespace; an error tells why it doesn't fit.
func Plan(quotas []*corev1.ResourceQuota, w Write) ([]Charge, error) {
	usage := Usage(w.Resource, w.Object, w.Now)
	if below := slices.DeleteFunc(slices.Sorted(maps.Keys(usage)), func(n corev1.ResourceName) bool { q := usage[n]; return q.Sign() >= 0 }); len(below) > 0 {
		return nil, fmt.Errorf("quota usage is negative for resource(s): %s", join(below))
	}
	var charges []Charge
	for _, q := range quotas {
		names := tracked(w.Resource, q.Status.Hard)
		if len(names) == 0 || !inScope(q, w.Resource, w.Object) {
			continue
		}
		if pod, ok := w.Object.(*corev1.Pod); ok {
			if err := specified(pod, names); err != nil {
				return nil, fmt.Errorf("failed quota: %s: %w", q.Name, err)
			}
		}
		if slices.ContainsFunc(names, func(n corev1.ResourceName) bool { _, known := q.Status.Used[n]; return !known }) {
			return nil, fmt.Errorf("status unknown for quota: %s, resources: %s", q.Name, join(names))
		}
		requested := w.requested(q, names, usage)
		if len(requested) == 0 {
			continue
		}
		charge := Charge{Quota: q, Used: maps.Clone(q.Status.Used)}
		add(charge.Used, requested, names)
		if w.Subresource != "status" { // what has happened can't be refused
			if err := exceeded(q, requested, charge.Used); err != nil {
				return nil, err
			}
		}
		charges = append(charges, charge)
	}
	return charges, nil
}

// requested is what the write adds to the usage of a quota.
func (w Write) requested(q *corev1.ResourceQuota, names []corev1.ResourceName, usage corev1.ResourceList) corev1.ResourceList {
	var before corev1.ResourceList
	if w.Old != nil && inScope(q, w.Resource, w.Old) {
		before = Usage(w.Resource, w.Old, w.Now)
	}
	requested := corev1.ResourceList{}
	for _, name := range names {
		more := usage[name].DeepCopy()
		more.Sub(before[name])
		if more.Sign() > 0 {
			requested[name] = more
		}
	}
	return requested
}

func exceeded(q *corev1.ResourceQuota, requested, after corev1.ResourceList) error {
	var over []corev1.ResourceName
	for _, name := range slices.Sorted(maps.Keys(requested)) {
		if total := after[name]; total.Cmp(q.Status.Hard[name]) > 0 {
			over = append(over, name)
		}
	}
	if len(over) == 0 {
		return nil
	}
	return fmt.Errorf("exceeded quota: %s, requested: %s, used: %s, limited: %s", q.Name, show(requested, over), show(q.Status.Used, over), show(q.Status.Hard, over))
}

func join(names []corev1.ResourceName) string {
	var parts []string
	for _, name := range names {
		parts = append(parts, string(name))
	}
	return strings.Join(parts, ",")
}

func show(list corev1.ResourceList, names []corev1.ResourceName) string {
	var parts []string
	for _, name := range names {
		amount := list[name]
		parts = append(parts, string(name)+"="+amount.String())
	}
	return strings.Join(parts, ",")
}
