package resource

import (
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/api"
)

func defaultClaim(obj api.Object) {
	c := obj.(*resourcev1.ResourceClaim)
	defaultRequests(c.Spec.Devices.Requests)
	if c.Status.Allocation == nil {
		return
	}
	results := c.Status.Allocation.Devices.Results
	for i := range results {
		defaultTolerations(results[i].Tolerations)
	}
}

func defaultClaimTemplate(obj api.Object) {
	defaultRequests(obj.(*resourcev1.ResourceClaimTemplate).Spec.Spec.Devices.Requests)
}

func defaultRequests(requests []resourcev1.DeviceRequest) {
	for i := range requests {
		if e := requests[i].Exactly; e != nil {
			defaultAllocation(&e.AllocationMode, &e.Count)
			defaultTolerations(e.Tolerations)
		}
		for j := range requests[i].FirstAvailable {
			f := &requests[i].FirstAvailable[j]
			defaultAllocation(&f.AllocationMode, &f.Count)
			defaultTolerations(f.Tolerations)
		}
	}
}

func defaultAllocation(mode *resourcev1.DeviceAllocationMode, count *int64) {
	if *mode == "" {
		*mode = resourcev1.DeviceAllocationModeExactCount
	}
	if *mode == resourcev1.DeviceAllocationModeExactCount && *count == 0 {
		*count = 1
	}
}

func defaultTolerations(tolerations []resourcev1.DeviceToleration) {
	for i := range tolerations {
		if tolerations[i].Operator == "" {
			tolerations[i].Operator = resourcev1.DeviceTolerationOpEqual
		}
	}
}

func defaultSlice(obj api.Object) {
	s := obj.(*resourcev1.ResourceSlice)
	for i := range s.Spec.Devices {
		d := &s.Spec.Devices[i]
		for j := range d.Taints {
			if d.Taints[j].TimeAdded == nil {
				d.Taints[j].TimeAdded = &metav1.Time{Time: time.Now().Truncate(time.Second)}
			}
		}
		for name, m := range d.NodeAllocatableResourceMappings {
			if m.AllocationMultiplier == nil {
				m.AllocationMultiplier = resource.NewQuantity(1, resource.DecimalSI)
				d.NodeAllocatableResourceMappings[name] = m
			}
		}
	}
}
