// Package placement answers one question for everyone who asks it: does this
// pod fit this node, and if not, why? The scheduler asks before it binds, the
// agent before it starts a pod, and the daemon set controller before it makes
// one, so that the three never disagree.
//
// [Prepare] digests a pod once (requests, host ports, parsed affinity);
// [Node] is a node with what runs on it, kept up by Add and Remove. Checks are
// pure and cheap:
//
//	node := placement.NewNode(n)
//	node.Add(placement.Prepare(running))
//	reasons := node.Check(placement.Prepare(pod), placement.Scheduling)
//
// The predicates, their order and the texts of their reasons are those of
// Kubernetes' scheduler plugins (NodeUnschedulable, NodeName, TaintToleration,
// NodeAffinity, NodePorts, NodeResourcesFit): scripts match on the texts. As
// there, the first predicate that fails ends the check, and only its reasons
// are told. What takes more than one node to decide (topology spread, affinity
// between pods, volumes) lives in the scheduler.
package placement
