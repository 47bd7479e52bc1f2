// Package cluster makes local clusters: several nodes on one machine, each with
// namespaces, a PID 1, a cgroup parent, a containerd and a disk of its own, on
// a bridge that no firewall of the machine's touches. It needs root, containerd
// and runc, and no Docker.
//
// Reading order: [Spec] says what a cluster is made of and which addresses it
// uses; layout.go where its files lie; certificates.go and processes.go turn a
// Spec into what its nodes run; fabric.go plugs them together; node.go starts
// and stops one; cluster.go is what a user asks for: [Create], [Delete],
// [Start], [Stop], [List], [Status], [Load].
//
// Everything that lasts is in the cluster's directory. What doesn't (processes,
// links, mounts, cgroups) is named after the cluster, found by that name, and
// taken away by Delete even if creation was interrupted.
package cluster
