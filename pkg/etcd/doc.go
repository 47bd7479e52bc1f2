// Package etcd runs etcd members inside a process and dials those outside of it.
//
// [Start] brings up one member on a data directory: alone (the default: nobody listens
// anywhere, and [Member.Client] calls straight into the server, without gRPC), or as one of
// several, when [Config.Peers] says where it hears the others. [Dial] connects to an
// etcd that somebody else runs. Both hand out the same client type, so that the store
// doesn't care.
//
// What it takes to keep a cluster of members alive, as functions over a client: [Members] and
// [Diagnose] say how it is; [Join] (or [Config.Join]) and [Leave] change who belongs to it; [Compact],
// [Defragment] and [Disarm] keep its disk in order; [Snapshot] and [Restore] bring
// all data back, [Recover] what one member has when the majority is lost.
//
// A member may be killed at any moment: the write-ahead log is synced before a
// write is acknowledged, and Start on the same directory goes on where it ended.
//
// Heartbeats are every 50 ms and an election begins after 500 ms, half of etcd's defaults: the members of
// one Skiff cluster are on one network. Ten milliseconds held as well on a quiet machine, but
// the leader's loop waits for the disk and for a processor: with both busy, heartbeats were
// late by 230 ms, where 100 would have deposed it; and idle members used twice the CPU. What
// a client sees of a failover is written in [Dial].
//
// Limits: etcd's own authentication is not used; access is by client certificate (or
// a unix socket's directory). Certificates are files, which etcd reads anew for each
// connection, so that they can be renewed in place.
package etcd
