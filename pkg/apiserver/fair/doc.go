// Package fair shares a server among those who ask: Kubernetes' API priority and fairness.
//
// Every request is of a flow (a [Match] says which): a flow schema, and within it a user or a namespace. The schema names
// a priority level, and each level has a part of the server's seats. A request takes one seat, a large list more, from
// its dispatch to its end; where none is free it waits in a short queue of its level, and where that is full, or the wait
// too long, it is refused. So nobody fills the server alone, and what keeps a cluster alive (nodes' leases, elections) has
// seats that nobody else gets.
//
//   - scheduler.go: who runs next, among levels. A level keeps some of its seats for itself and lends the rest, for as
//     long as one request takes; whoever uses the least of its share comes first.
//   - level.go: who runs next, within a level: start-time fair queuing (Goyal, Vin, Cheng 1996) over queues, by seats
//     times seconds; shuffle sharding finds a flow its queue.
//   - classify.go: which flow a request is of. configuration.go: what the stored objects come to.
//   - keeper.go: follows FlowSchemas and PriorityLevelConfigurations, keeps those that must exist, and says in their status
//     which schemas dangle.
//
// Differences from Kubernetes: seats are lent and returned with every request, not by a forecast every ten seconds;
// writes weigh one seat, however many watch; Retry-After is always a second.
//
// Source: https://kubernetes.io/docs/concepts/cluster-administration/flow-control/.
package fair
