// Package network gives pods their addresses and carries their packets: by
// netlink alone, with no program or plugin run on the way.
//
// # One node
//
// A bridge (skiff0) holds the node's gateway, the first address of the node's
// spec.podCIDR. Every pod has a network namespace with a veth pair into the
// bridge. A pod's address is a /32 whose only neighbour is the gateway: pods of
// one node talk through the node's IP layer, never past it, and so every
// packet meets connection tracking and the service VIPs that live there. (With
// an ordinary on-link prefix the answer of a neighbour pod would cross the
// bridge below NAT, which other designs mend by sending bridged frames through
// netfilter, net.bridge.bridge-nf-call-iptables. Nothing here needs that; where
// it is on for another's sake, hairpin ports keep things working.)
// Neighbour and forwarding entries are static, so that a first packet waits
// for no ARP.
//
// Addresses are handed out from files, one per address, so that they survive
// the agent; [Network.Reclaim] frees those of pods that are gone.
//
// # Between nodes
//
// A node watches all nodes. To a node on its own link it keeps a plain route;
// to any other it sends through VXLAN (skiff.vxlan), whose hardware addresses
// follow from pod ranges, so that a Node object says all there is to know and
// nothing is learnt or flooded. [Plan] decides, purely; a small loop executes.
// What lies in the cluster's range but on no node is unreachable, at once
// instead of after a timeout, and leaves by no default route.
//
// # Out of the cluster
//
// A table of nftables' own (ip skiff-network) masquerades what pods send to
// anything but pods, services and nodes, carries host ports, refuses service
// addresses that no proxy has programmed, and keeps pods out of the node's
// loopback range.
//
// # Limits
//
// IPv4 only: a node without an IPv4 pod range gets a clear error. Packets that
// are longer than VXLAN carries come back as ICMP "fragmentation needed";
// pods made after a tunnel was first needed have the lower MTU from the start.
// The kernel's ICMP redirects are switched off (net.ipv4.conf.all.send_redirects).
// A host firewall that drops forwarded packets (an iptables FORWARD policy) is
// not overridden: an nftables accept can't.
package network
