// Package dns is the cluster's name server: a small one, in every agent, so
// that a pod's query never leaves its node.
//
// It implements the Kubernetes DNS-Based Service Discovery specification 1.1.0
// and answers as CoreDNS's kubernetes plugin does where that leaves room:
//
//	SERVICE.NS.svc.DOMAIN               A/AAAA: the cluster addresses, or every ready endpoint's of a headless service
//	_PORT._PROTO.SERVICE.NS.svc.DOMAIN  SRV
//	HOST.SERVICE.NS.svc.DOMAIN          A/AAAA of one endpoint; HOST is its hostname, or its address with dashes
//	A-B-C-D.NS.pod.DOMAIN               A a.b.c.d
//	SERVICE.NS.svc.DOMAIN               CNAME for an ExternalName
//	D.C.B.A.in-addr.arpa, ….ip6.arpa    PTR of cluster addresses and endpoints
//	dns-version.DOMAIN                  TXT "1.1.0"
//
// An [Index] holds records, one immutable value per service, changed by the
// informers that the proxy shares; a query reads it without a lock. [Zone]
// answers a question from it, purely. [Server] speaks the protocol (UDP, TCP,
// EDNS, truncation) and forwards all other names to the node's resolvers; with
// none it refuses them at once, so that clients in an isolated cluster don't
// wait. A query that comes back to its sender is a loop, and ends.
//
// The sockets can come from the process's supervisor ([Inherited], the protocol
// of systemd's socket activation): while the agent restarts, queries wait in
// them. Nothing is read before the informers have synced, for the same reason.
//
// Answers live for 30 seconds, denials for 5.
//
// # Limits
//
// No cache of forwarded answers, no zone transfers, no DNSSEC (forwarded
// answers keep theirs). Wildcard names aren't in the specification any more,
// and not here.
package dns
