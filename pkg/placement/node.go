package placement

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Node is a node with the pods that take room on it. It is owned by one
// goroutine at a time.
type Node struct {
	node        *corev1.Node
	allocatable Resources
	podLimit    int64

	pods      []*Pod
	requested Resources
	// What scores count: see Pod.ScoredCPU.
	scoredCPU, scoredMemory int64
	ports                   []hostPort
}

// NewNode returns a node on which nothing runs.
func NewNode(node *corev1.Node) *Node {
	n := &Node{}
	n.Set(node)
	return n
}

// Set replaces the node object and keeps the pods.
func (n *Node) Set(node *corev1.Node) {
	n.node = node
	n.allocatable = fromList(node.Status.Allocatable)
	n.podLimit = node.Status.Allocatable.Pods().Value()
}

// Object returns the node object.
func (n *Node) Object() *corev1.Node { return n.node }

// Pods returns the pods on the node, in no order. The slice is the node's own.
func (n *Node) Pods() []*Pod { return n.pods }

// Allocatable and Requested are what the node has, and what its pods took.
func (n *Node) Allocatable() *Resources { return &n.allocatable }

// Requested is the sum of the requests of the node's pods.
func (n *Node) Requested() *Resources { return &n.requested }

// Scored is the CPU (milli) and memory that scores count as taken.
func (n *Node) Scored() (cpu, memory int64) { return n.scoredCPU, n.scoredMemory }

// Add puts a pod on the node, whether it fits or not. Pods that have finished take no room: don't add them.
func (n *Node) Add(pod *Pod) {
	n.pods = append(n.pods, pod)
	n.account(pod, 1)
	n.ports = append(n.ports, pod.ports...)
}

// Remove takes away a pod that was added (the same *Pod), and reports whether it was there.
func (n *Node) Remove(pod *Pod) bool {
	i := slices.Index(n.pods, pod)
	if i < 0 {
		return false
	}
	last := len(n.pods) - 1
	n.pods[i], n.pods[last] = n.pods[last], nil
	n.pods = n.pods[:last]
	n.account(pod, -1)
	for _, port := range pod.ports {
		j := slices.Index(n.ports, port)
		n.ports = slices.Delete(n.ports, j, j+1)
	}
	return true
}

func (n *Node) account(pod *Pod, sign int64) {
	n.requested.add(&pod.Requests, sign)
	n.scoredCPU += sign * pod.ScoredCPU
	n.scoredMemory += sign * pod.ScoredMemory
}
