// Package proxy makes service addresses work on a node: what kube-proxy does.
//
// # From services to packets
//
// [CompileService] turns one Service and its EndpointSlices into rules: for
// each address and port that clients may use (a [Frontend]), which endpoints
// answer. A [Table] holds the rules of all services; replacing those of one
// service yields [Changes], a list of elements to add and delete. A
// [Programmer] executes them: proxy/nft in the kernel, proxy/fake in memory
// with a text dump. The work of a change is the size of that change, however
// many services there are.
//
// # The kernel's side
//
// Elements live in a handful of maps of one table (ip skiff):
//
//	services   address . protocol . port          → chain      the first look-up
//	outside    address . protocol . port          → chain      looked up before it for clients that are neither pods nor this node
//	endpoints  address . protocol . port . index  → endpoint   one element per endpoint
//	members    address . protocol . port . endpoint            for services with client affinity: is this endpoint still one?
//	hairpin    endpoint . endpoint                             local endpoints, which may call themselves
//	restricted, allowed                                        loadBalancerSourceRanges
//
// A chain serves all services that are alike: "forward-3" picks one of three
// endpoints by a random index. Chains are made when first needed and are few:
// one per number of endpoints and manner of forwarding. Node ports are
// frontends with the address 0.0.0.0.
//
// The order of a rule's endpoints is [those for local policy only | for both |
// for cluster policy only], so that either policy's share is a range of
// indices, and no endpoint is stored twice. An endpoint that stays keeps its
// index where it can; otherwise it takes the place of one that left.
//
// # Semantics
//
// As of Kubernetes 1.36: ClusterIP, NodePort, external and load balancer
// addresses (of IP mode VIP); internal and external traffic policy; session
// affinity by client address; trafficDistribution through the slices' hints;
// terminating endpoints serve while there are no ready ones; a service without
// endpoints rejects, one without local endpoints under policy Local drops;
// what nobody serves within the service ranges is rejected. Clients from
// outside the pod ranges, and pods that reach themselves, are masqueraded.
//
// # Limits
//
// IPv4; IPv6 frontends and slices are left out, and an IPv6-only service is
// reported. SCTP is reported and left out. Node ports don't answer on
// 127.0.0.0/8 (neither do kube-proxy's with nftables). Two services that claim
// one address and port (external addresses can) are decided by name.
package proxy
