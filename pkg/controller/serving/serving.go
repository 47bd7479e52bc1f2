// Package serving says which pods stand behind a service, at which ports: what the
// reconcilers of Endpoints and EndpointSlices share.
package serving

import (
	"fmt"
	"maps"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	corelisters "k8s.io/client-go/listers/core/v1"
	netutils "k8s.io/utils/net"

	"skiff/pkg/controller/reconciler"
	"skiff/pkg/controller/workload"
)

// Batch is how long changes of one service's pods are gathered after a write. The first change is
// written at once; a hundred pods that become ready together don't make a hundred writes of all.
const Batch = 25 * time.Millisecond

// HasEndpoints says whether a service's endpoints are made from pods. Those of a
// service without a selector are made by somebody else, an ExternalName has none.
func HasEndpoints(service *v1.Service) bool {
	return service.Spec.Type != v1.ServiceTypeExternalName && service.Spec.Selector != nil
}

// Pods returns the pods that the service selects, whatever their state.
func Pods(pods corelisters.PodLister, service *v1.Service) []*v1.Pod {
	found, err := pods.Pods(service.Namespace).List(labels.SelectorFromSet(service.Spec.Selector))
	if err != nil { // a cache's lister never fails
		return nil
	}
	return found
}

// Include says whether a pod can be an endpoint: it has an address and hasn't ended.
func Include(pod *v1.Pod, terminatingToo bool) bool {
	return !workload.Ended(pod) && (pod.Status.PodIP != "" || len(pod.Status.PodIPs) > 0) &&
		(terminatingToo || pod.DeletionTimestamp == nil)
}

// Addresses returns the pod's addresses of one family.
func Addresses(pod *v1.Pod, ipv6 bool) []string {
	var addresses []string
	for _, ip := range pod.Status.PodIPs {
		if netutils.IsIPv6String(ip.IP) == ipv6 {
			addresses = append(addresses, ip.IP)
		}
	}
	if len(pod.Status.PodIPs) == 0 && pod.Status.PodIP != "" && netutils.IsIPv6String(pod.Status.PodIP) == ipv6 {
		addresses = append(addresses, pod.Status.PodIP)
	}
	return addresses
}

// Hostname is the name that DNS gives the endpoint below the service's own, empty for none.
func Hostname(pod *v1.Pod, service *v1.Service) string {
	if pod.Spec.Subdomain == service.Name && pod.Namespace == service.Namespace {
		return pod.Spec.Hostname
	}
	return ""
}

// Port finds the number of the pod's port that a service port goes to. A named
// target port may be another number in each pod, or missing.
func Port(pod *v1.Pod, port *v1.ServicePort) (int32, error) {
	if port.TargetPort.Type == intstr.Int {
		return port.TargetPort.IntVal, nil
	}
	name := port.TargetPort.StrVal
	named := func(containers []v1.Container, sidecarsOnly bool) (int32, bool) {
		for _, container := range containers {
			if sidecarsOnly && (container.RestartPolicy == nil || *container.RestartPolicy != v1.ContainerRestartPolicyAlways) {
				continue
			}
			for _, p := range container.Ports {
				if p.Name == name && p.Protocol == port.Protocol {
					return p.ContainerPort, true
				}
			}
		}
		return 0, false
	}
	if number, ok := named(pod.Spec.Containers, false); ok {
		return number, nil
	}
	if number, ok := named(pod.Spec.InitContainers, true); ok {
		return number, nil
	}
	return 0, fmt.Errorf("no suitable port for manifest: %s", pod.UID)
}

// Headless says whether the service has no cluster IP of its own.
func Headless(service *v1.Service) bool {
	return service.Spec.ClusterIP == v1.ClusterIPNone || service.Spec.ClusterIP == ""
}

// OnPods calls wake for each service whose endpoints an event of a pod may change.
func OnPods(c reconciler.Config, wake func(reconciler.Key)) {
	services := c.Informers.Core().V1().Services().Lister()
	reconciler.OnChange(c.Informers.Core().V1().Pods().Informer(), func(old, current *v1.Pod) {
		if old != nil && current != nil && !changed(old, current) {
			return
		}
		keys := map[reconciler.Key]bool{}
		for _, pod := range []*v1.Pod{old, current} {
			if pod != nil {
				selecting(services, pod, keys)
			}
		}
		for key := range keys {
			wake(key)
		}
	})
}

func selecting(services corelisters.ServiceLister, pod *v1.Pod, keys map[reconciler.Key]bool) {
	all, err := services.Services(pod.Namespace).List(labels.Everything())
	if err != nil {
		return
	}
	for _, service := range all {
		if service.Spec.Selector != nil && labels.SelectorFromSet(service.Spec.Selector).Matches(labels.Set(pod.Labels)) {
			keys[reconciler.KeyOf(service)] = true
		}
	}
}

// changed says whether two states of a pod can differ as endpoints.
func changed(old, current *v1.Pod) bool {
	return (old.DeletionTimestamp == nil) != (current.DeletionTimestamp == nil) ||
		old.UID != current.UID ||
		workload.Ready(old) != workload.Ready(current) ||
		workload.Ended(old) != workload.Ended(current) ||
		old.Spec.NodeName != current.Spec.NodeName ||
		old.Spec.Hostname != current.Spec.Hostname || old.Spec.Subdomain != current.Spec.Subdomain ||
		old.Status.PodIP != current.Status.PodIP ||
		!slices.Equal(old.Status.PodIPs, current.Status.PodIPs) ||
		!maps.Equal(old.Labels, current.Labels) ||
		!apiequality.Semantic.DeepEqual(ports(old), ports(current))
}

func ports(pod *v1.Pod) []v1.ContainerPort {
	var all []v1.ContainerPort
	for _, container := range pod.Spec.Containers {
		all = append(all, container.Ports...)
	}
	return all
}
