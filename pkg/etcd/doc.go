// Package etcd runs etcd members inside a process and dials those outside of it.
//
// [Start] brings up one member on a data directory: alone (the default: nobody listens
// anywhere, and [Member.Client] calls straight into the server, without gRPC), or as one of
// several, when [Config.Peers] says where it hears the others. [Dial] connects to an
// etcd that somebody else runs. Both hand out the same client type, so that the store
// doesn't care. [Join] and [Leave] change the membership of a running cluster.
//
// A member may be killed at any moment: the write-ahead log is synced before a
// write is acknowledged, and Start on the same directory goes on where it ended.
//
// Heartbeats are 10 ms and elections 100 ms, a tenth of etcd's defaults: the members of
// one Skiff cluster are on one network, and a failover should cost less than a second.
//
// Limits: etcd's own authentication is not used; access is by client certificate (or
// a unix socket's directory). Certificates are files, which etcd reads anew for each
// connection, so that they can be renewed in place.
package etcd
