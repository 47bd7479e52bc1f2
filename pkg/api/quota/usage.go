package quota

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"

	"skiff/pkg/api"
)

const (
	storageClassSuffix = ".storageclass.storage.k8s.io/"
	requests           = corev1.DefaultResourceRequestsPrefix
)

func whole(n int64) resource.Quantity { return *resource.NewQuantity(n, resource.DecimalSI) }

// podUsage adds what a pod uses. One that has ended uses nothing but its place in the store,
// and neither does one that should have gone by now: a lost node must not keep others from starting.
func podUsage(used corev1.ResourceList, pod *corev1.Pod, now time.Time) {
	if pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		return
	}
	if at, grace := pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds; at != nil && grace != nil && now.After(at.Add(time.Duration(*grace)*time.Second)) {
		return
	}
	used[corev1.ResourcePods] = whole(1)
	options := resourcehelper.PodResourcesOptions{UseStatusResources: true}
	computeUsage(used, resourcehelper.PodRequests(pod, options), resourcehelper.PodLimits(pod, options))
}

// computeUsage adds requests and limits by the names that quotas have for them.
func computeUsage(used, requested, limits corev1.ResourceList) {
	for name, amount := range requested {
		switch {
		case name == corev1.ResourceCPU, name == corev1.ResourceMemory, name == corev1.ResourceEphemeralStorage,
			strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix):
			used[name], used[requests+name] = amount, amount
		case extended(name):
			used[requests+name] = amount
		}
	}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		if amount, ok := limits[name]; ok {
			used["limits."+name] = amount
		}
	}
}

// extended resources have a domain that isn't Kubernetes', or stand for a class of devices.
func extended(name corev1.ResourceName) bool {
	text := string(name)
	native := !strings.Contains(text, "/") || strings.Contains(text, corev1.ResourceDefaultNamespacePrefix)
	return !native && !strings.HasPrefix(text, requests) || strings.HasPrefix(text, resourcev1.ResourceDeviceClassPrefix)
}

// specified demands that every container says what it needs of CPU and memory where a
// quota limits that, unless the pod says it as a whole.
func specified(pod *corev1.Pod, names []corev1.ResourceName) error {
	if resourcehelper.IsPodLevelResourcesSet(pod) {
		return nil
	}
	missing := map[corev1.ResourceName][]string{}
	for _, container := range slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers) {
		has := corev1.ResourceList{}
		computeUsage(has, container.Resources.Requests, container.Resources.Limits)
		for _, name := range names {
			switch name {
			case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory:
				if _, ok := has[name]; !ok {
					missing[name] = append(missing[name], container.Name)
				}
			}
		}
	}
	if len(missing) == 0 {
		return nil
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(missing)) {
		parts = append(parts, string(name)+" for: "+strings.Join(slices.Compact(slices.Sorted(slices.Values(missing[name]))), ","))
	}
	return errors.New("must specify " + strings.Join(parts, "; "))
}

// serviceUsage counts the node ports that a service will have, allocated or not.
func serviceUsage(used corev1.ResourceList, s *corev1.Service) {
	var ports, balancers int64
	switch s.Spec.Type {
	case corev1.ServiceTypeNodePort:
		ports = int64(len(s.Spec.Ports))
	case corev1.ServiceTypeLoadBalancer:
		balancers = 1
		for _, p := range s.Spec.Ports {
			if allocate := s.Spec.AllocateLoadBalancerNodePorts; allocate == nil || *allocate || p.NodePort != 0 {
				ports++
			}
		}
	}
	used[corev1.ResourceServices], used[corev1.ResourceServicesNodePorts], used[corev1.ResourceServicesLoadBalancers] = whole(1), whole(ports), whole(balancers)
}

// claimUsage counts a claim and its storage, also by storage class.
func claimUsage(used corev1.ResourceList, claim *corev1.PersistentVolumeClaim) {
	of := corev1.ResourceList{corev1.ResourcePersistentVolumeClaims: whole(1)}
	if storage, ok := claim.Spec.Resources.Requests[corev1.ResourceStorage]; ok {
		// What an expansion has allocated stays allocated when it is given up.
		if allocated, ok := claim.Status.AllocatedResources[corev1.ResourceStorage]; ok && allocated.Cmp(storage) > 0 {
			storage = allocated
		}
		storage = storage.DeepCopy()
		storage.RoundUp(0)
		of[corev1.ResourceRequestsStorage] = storage
	}
	class := claim.Annotations[corev1.BetaStorageClassAnnotation]
	if class == "" && claim.Spec.StorageClassName != nil {
		class = *claim.Spec.StorageClassName
	}
	for name, amount := range of {
		used[name] = amount
		if class != "" {
			used[corev1.ResourceName(class+storageClassSuffix)+name] = amount
		}
	}
}

// deviceUsage counts the devices of a claim by class: the most that it may get.
func deviceUsage(used corev1.ResourceList, obj api.Object) {
	claim, ok := obj.(*resourcev1.ResourceClaim)
	if !ok {
		return
	}
	for _, request := range claim.Spec.Devices.Requests {
		most := map[corev1.ResourceName]int64{}
		count := func(class string, mode resourcev1.DeviceAllocationMode, n int64) {
			if mode == resourcev1.DeviceAllocationModeAll {
				n = resourcev1.AllocationResultsMaxSize
			}
			name := corev1.ResourceName(class + corev1.ResourceClaimsPerClass)
			most[name] = max(most[name], n)
		}
		if r := request.Exactly; r != nil {
			count(r.DeviceClassName, r.AllocationMode, r.Count)
		}
		for _, r := range request.FirstAvailable {
			count(r.DeviceClassName, r.AllocationMode, r.Count)
		}
		for name, n := range most {
			total := used[name].DeepCopy()
			total.Add(whole(n))
			used[name] = total
		}
	}
}

// classesOf are the volume attributes classes that a claim has, wants, or is on its way to.
func classesOf(claim *corev1.PersistentVolumeClaim) []string {
	var names []string
	for _, name := range []*string{claim.Spec.VolumeAttributesClassName, claim.Status.CurrentVolumeAttributesClassName} {
		if name != nil {
			names = append(names, *name)
		}
	}
	if modify := claim.Status.ModifyVolumeStatus; modify != nil {
		names = append(names, modify.TargetVolumeAttributesClassName)
	}
	return slices.DeleteFunc(names, func(name string) bool { return name == "" })
}
