// Package election lets one of several processes lead: the scheduler and the
// controller run on every master, and one of each works.
//
// The lock is the `endpointsleases` lock that client-go once had: the leader's
// record stands in an annotation of an Endpoints object and in a Lease of the
// same name, both are changed by compare-and-swap, and only who holds both
// leads. The Lease is what Kubernetes' own scheduler and controller-manager
// compete for, so a mixed cluster excludes as well. client-go's elector runs on
// top of it and decides when to acquire, renew and give up.
//
// Three things are added to what client-go does:
//
//   - A candidate doesn't poll. It watches the Lease and tries when that is
//     released, or when nobody renewed it for its whole duration. Only durations
//     on the own monotonic clock count, so clocks needn't agree.
//   - Writes are fenced. Skiff's apiserver notes, in the transaction that
//     changes the lock's holder, an epoch, and tells it in the header Skiff-Epoch.
//     The leader's client sends it back as Skiff-Fence with each write, and the
//     apiserver refuses a write whose epoch is over (409, reason Fenced). An
//     apiserver that sends no epoch gets no fence.
//   - The leader's client also refuses to write on its own once the lease has run out,
//     which holds on any apiserver. Either way [Election.Run] ends with a [Deposed] error,
//     and the process is expected to stop.
//
// A new leader must not act on what it saw before it won. Caches that start
// with [FreshList] after winning are new enough by construction; for caches that
// were warm before, [Won.CaughtUp] waits.
package election
