// Package scheduler gives each pod a node.
//
// What it knows is a [cluster]: nodes with the pods on them, and a log of what
// changed. What it decides with is a [class]: pods of one template are equally
// at home everywhere, so a class keeps for each node whether they fit and how well, in
// tournament trees, and after each placement looks again only at the nodes that
// changed. A decision costs O(log nodes), or O(domains) for pods with spread
// constraints or affinity to other pods, and never O(nodes) save for the first pod of a template.
//
//	pod.go      a pod, digested; the signature that makes a class
//	cluster.go  what is known
//	tally.go    counters per topology domain: spread, affinity between pods
//	class.go    where pods of one template may be, and which node is best
//	score.go    how good a node is
//	volumes.go  what volumes demand
//	decision.go the answer, with its reasons in Kubernetes' words
//	preempt.go  making room by priority
//	queue.go    pods without a node: active, backoff, unschedulable, gated
//	hints.go    which of them to try again after something happened
//	scheduler.go, act.go, watch.go  the loop: watch, decide, assume, bind
//
// Decisions are pure: [Explain] makes one from a list of objects.
// Everything that acts is in scheduler.go and act.go.
//
// The predicates, their order and their messages are those of Kubernetes' default
// profile. Scores measure the same things, but absolutely instead of relative
// to the other nodes, and ties go to the first name: the same cluster gets the same answer.
//
// Limits: one profile, without configuration file, extenders or plugins. Image
// locality isn't scored. Claims whose volume is to be chosen with the node
// (WaitForFirstConsumer) are not bound here: their pods wait. Devices (resource claims) and
// pod groups are refused with a reason. Nodes count for at most 64 spread constraints of a pod.
package scheduler
