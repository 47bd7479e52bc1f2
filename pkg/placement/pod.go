package placement

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

var unrequestedQuantities = corev1.ResourceList{
	corev1.ResourceCPU:    *resource.NewMilliQuantity(unrequestedMilliCPU, resource.DecimalSI),
	corev1.ResourceMemory: *resource.NewQuantity(unrequestedMemory, resource.BinarySI),
}

// Pod is a pod digested for checks. It holds on to the pod it was made from,
// and neither may change afterwards; one Pod may be used by many goroutines.
type Pod struct {
	*corev1.Pod
	Requests Resources
	// ScoredCPU (milli) and ScoredMemory are what scores count: the requests, or a
	// small default for each container that has none.
	ScoredCPU, ScoredMemory int64

	ports    []hostPort
	affinity nodeaffinity.RequiredNodeAffinity
	anyNode  bool // neither selector nor required affinity
}

// hostPort is one port taken on the node. All addresses are "".
type hostPort struct {
	ip       string
	protocol corev1.Protocol
	port     int32
}

// Prepare digests a pod.
func Prepare(pod *corev1.Pod) *Pod {
	p := &Pod{Pod: pod, ports: hostPorts(pod)}
	p.Requests, p.ScoredCPU, p.ScoredMemory = requests(pod)
	p.affinity = nodeaffinity.GetRequiredNodeAffinity(pod)
	affinity := pod.Spec.Affinity
	p.anyNode = len(pod.Spec.NodeSelector) == 0 &&
		(affinity == nil || affinity.NodeAffinity == nil || affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil)
	return p
}

// MatchesNode reports whether the pod's node selector and required node
// affinity admit the node. Terms that can't be parsed admit none.
func (p *Pod) MatchesNode(node *corev1.Node) bool {
	if p.anyNode {
		return true
	}
	match, _ := p.affinity.Match(node)
	return match
}

// Untolerated returns the first of the node's taints with one of the effects that the pod doesn't tolerate.
func (p *Pod) Untolerated(taints []corev1.Taint, effects ...corev1.TaintEffect) (corev1.Taint, bool) {
	for i := range taints {
		for _, effect := range effects {
			if taints[i].Effect == effect && !p.Tolerates(&taints[i]) {
				return taints[i], true
			}
		}
	}
	return corev1.Taint{}, false
}

// Tolerates reports whether one of the pod's tolerations tolerates the taint.
func (p *Pod) Tolerates(taint *corev1.Taint) bool {
	for i := range p.Spec.Tolerations {
		if tolerates(&p.Spec.Tolerations[i], taint) {
			return true
		}
	}
	return false
}

// tolerates is the rule of the API: an empty effect means all effects, an empty
// key with operator Exists all taints.
func tolerates(t *corev1.Toleration, taint *corev1.Taint) bool {
	if t.Effect != "" && t.Effect != taint.Effect || t.Key != "" && t.Key != taint.Key {
		return false
	}
	switch t.Operator {
	case "", corev1.TolerationOpEqual:
		return t.Value == taint.Value
	case corev1.TolerationOpExists:
		return true
	}
	return false
}

// hostPorts collects the ports of containers that live as long as the pod.
func hostPorts(pod *corev1.Pod) []hostPort {
	var ports []hostPort
	collect := func(containers []corev1.Container, sidecarsOnly bool) {
		for i := range containers {
			c := &containers[i]
			if sidecarsOnly && (c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways) {
				continue
			}
			for _, port := range c.Ports {
				if port.HostPort > 0 {
					ports = append(ports, newHostPort(port))
				}
			}
		}
	}
	collect(pod.Spec.InitContainers, true)
	collect(pod.Spec.Containers, false)
	return ports
}

func newHostPort(port corev1.ContainerPort) hostPort {
	h := hostPort{ip: port.HostIP, protocol: port.Protocol, port: port.HostPort}
	if h.ip == "0.0.0.0" {
		h.ip = ""
	}
	if h.protocol == "" {
		h.protocol = corev1.ProtocolTCP
	}
	return h
}

// conflicts reports whether two pods can't both have their port on one node.
func (h hostPort) conflicts(o hostPort) bool {
	return h.port == o.port && h.protocol == o.protocol && (h.ip == o.ip || h.ip == "" || o.ip == "")
}

// HostPorts returns the ports that the pod takes on its node, as "address:port/protocol".
func (p *Pod) HostPorts() []string {
	var ports []string
	for _, h := range p.ports {
		ports = append(ports, fmt.Sprintf("%s:%d/%s", h.ip, h.port, h.protocol))
	}
	return ports
}
