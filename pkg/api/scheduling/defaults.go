package scheduling

import (
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/utils/ptr"

	"skiff/pkg/api"
)

func defaultPriorityClass(obj api.Object) {
	if c := obj.(*schedulingv1.PriorityClass); c.PreemptionPolicy == nil {
		c.PreemptionPolicy = ptr.To(corev1.PreemptLowerPriority)
	}
}
