package scheduler

import (
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/labels"

	"skiff/pkg/placement"
)

// Objects is a cluster as a list would show it. Pods are all pods; those without a node, and those that have
// finished, take no room.
type Objects struct {
	Nodes      []corev1.Node
	Pods       []corev1.Pod
	Namespaces []corev1.Namespace
	Services   []corev1.Service
	Claims     []corev1.PersistentVolumeClaim
	Volumes    []corev1.PersistentVolume
	Classes    []storagev1.StorageClass
	Budgets    []policyv1.PodDisruptionBudget
}

// NodeReport is what a decision found out about one node.
type NodeReport struct {
	Node    string
	Reasons []placement.Reason // nil: the pod fits
	Score   Score              // if it fits
}

// Explain decides where a pod would go, as the scheduler would, and does
// nothing about it. The reports tell about each node, in no order.
func Explain(p *corev1.Pod, o *Objects) (Decision, []NodeReport) {
	c := newCluster()
	for i := range o.Namespaces {
		c.namespaces[o.Namespaces[i].Name] = labels.Set(o.Namespaces[i].Labels)
	}
	for i := range o.Services {
		c.setService(o.Services[i].Namespace, o.Services[i].Name, o.Services[i].Spec.Selector)
	}
	for i := range o.Claims {
		c.claims[keyOf(&o.Claims[i])] = &o.Claims[i]
	}
	for i := range o.Volumes {
		c.volumes[o.Volumes[i].Name] = &o.Volumes[i]
	}
	for i := range o.Classes {
		c.storage[o.Classes[i].Name] = &o.Classes[i]
	}
	for i := range o.Budgets {
		c.budgets[keyOf(&o.Budgets[i])] = &o.Budgets[i]
	}
	for i := range o.Nodes {
		c.setNode(&o.Nodes[i])
	}
	for i := range o.Pods {
		other := &o.Pods[i]
		switch {
		case other.Status.Phase == corev1.PodSucceeded || other.Status.Phase == corev1.PodFailed:
		case other.Namespace == p.Namespace && other.Name == p.Name:
		case other.Spec.NodeName != "":
			c.addPod(newPod(other), other.Spec.NodeName)
		case other.Status.NominatedNodeName != "":
			c.reserve(newPod(other), other.Status.NominatedNodeName)
		}
	}
	unplaced := p.DeepCopy()
	unplaced.Spec.NodeName = ""
	d := newPod(unplaced)
	if p.Status.NominatedNodeName != "" {
		c.reserve(d, p.Status.NominatedNodeName)
	}
	decision := c.decide(d, d.signature())
	var reports []NodeReport
	if k := c.classes[d.signature()]; k != nil && k.broken == "" {
		for slot, n := range c.nodes {
			r := NodeReport{Node: n.name, Reasons: k.reasons(slot)}
			if r.Reasons == nil {
				r.Score = k.score(n)
				shared := k.groupParts(k.verdicts[slot].group)
				r.Score.Spread, r.Score.PodAffinity = r.Score.Spread+shared.Spread, shared.PodAffinity
				decision.Feasible++
			}
			reports = append(reports, r)
		}
	}
	return decision, reports
}
