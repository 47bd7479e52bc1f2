package cluster

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"

	"skiff/pkg/cluster/supervise"
)

// site says where a node's processes find what they need, and how they are called.
type site struct {
	bin, etc string
	init     string // the helper: on a real machine not in the path, where the machine's own is
	etcdData string
	cgroup   string // below which the node's pods get theirs
}

// localSite is a local node, as its processes see it.
func localSite(l layout, n Node) site {
	return site{bin: supervise.BinDir, init: supervise.BinDir + "/init", etc: nodeEtc, etcdData: "/var/lib/etcd", cgroup: l.cgroup(n.Name)}
}

func (at site) pki(name string) string  { return path.Join(at.etc, "pki", name) }
func (at site) conf(name string) string { return path.Join(at.etc, name) }
func (at site) program(name string) string {
	return path.Join(at.bin, name)
}

// nodeConfig is what a node's init is told: a pure function of the cluster.
func nodeConfig(s *Spec, l layout, n Node) *supervise.Config {
	c := &supervise.Config{
		Hostname: n.Name,
		Dir:      l.node(n.Name),
		Bin:      s.binOf(n),
		Mounts:   []supervise.Mount{{Source: l.nodeFile(n.Name, "etc", "resolv.conf"), Target: "/etc/resolv.conf"}},
		Sockets: []supervise.Socket{
			{Name: "dns-udp", Network: "udp4", Address: netip.AddrPortFrom(s.DNS(), 53).String()},
			{Name: "dns-tcp", Network: "tcp4", Address: netip.AddrPortFrom(s.DNS(), 53).String()},
		},
		Processes: processes(s, n, localSite(l, n)),
	}
	for _, m := range n.Mounts {
		c.Mounts = append(c.Mounts, supervise.Mount{Source: m.HostPath, Target: m.Path, ReadOnly: m.ReadOnly})
	}
	withPorts(c, n)
	for i := range c.Processes {
		if p := &c.Processes[i]; strings.HasPrefix(p.Args[0], supervise.BinDir) {
			p.Generation = n.Build // other binaries under the same names: it is restarted
		}
	}
	c.Generation = generation(c)
	return c
}

// generation tells a configuration from any other.
func generation(c *supervise.Config) string {
	data, err := json.Marshal(c)
	if err != nil {
		panic(err) // of our own types
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}

// processes are what runs on a node, in the order in which they are best started.
func processes(s *Spec, n Node, at site) []supervise.Process {
	var list []supervise.Process
	if n.Role == Master && n.Etcd != Outside {
		if s.VIP.IsValid() {
			list = append(list, etcdMember(s, n, at))
		}
		list = append(list, apiserver(s, n, at), scheduler(s, at), controller(s, at))
	}
	if n.Role == Master && s.VIP.IsValid() {
		list = append(list, balancer(s, at.etc), keepalived(at.etc))
	}
	if home, enabled := s.registryNode(); enabled && home.Name == n.Name {
		list = append(list, registryProcess(at))
	}
	list = append(list, containerdProcess(at), agent(s, n, at))
	for i := range list {
		list[i].Args = append(list[i].Args, s.ExtraArgs.of(list[i].Name)...)
	}
	return list
}

func urlOf(ip netip.Addr, port uint16) string {
	return "https://" + netip.AddrPortFrom(ip, port).String()
}

// etcdURLs are where the members but one answer their clients. All masters are named, whether or not they
// have a member at the moment: what changes on one is no reason to restart anything on the others.
func etcdURLs(s *Spec, but string) string {
	var urls []string
	for _, m := range s.Masters() {
		if m.Name != but {
			urls = append(urls, urlOf(m.IP, clientPort))
		}
	}
	return strings.Join(urls, ",")
}

// etcdClientFlags say how a master shows itself to etcd.
func etcdClientFlags(at site) []string {
	return []string{
		"--etcd-cafile=" + at.pki("etcd/ca.crt"),
		"--etcd-certfile=" + at.pki("apiserver-etcd-client.crt"),
		"--etcd-keyfile=" + at.pki("apiserver-etcd-client.key"),
	}
}

func etcdMember(s *Spec, n Node, at site) supervise.Process {
	args := []string{at.program("apiserver"), "etcd",
		"--etcd-name=" + n.Name,
		"--data-dir=" + at.etcdData,
		"--listen-peer-urls=" + urlOf(n.IP, peerPort),
		"--listen-client-urls=" + urlOf(n.IP, clientPort) + "," + urlOf(loopback, clientPort),
		"--advertise-client-urls=" + urlOf(n.IP, clientPort),
		"--peer-cert-file=" + at.pki("etcd/peer.crt"),
		"--peer-key-file=" + at.pki("etcd/peer.key"),
		"--peer-trusted-ca-file=" + at.pki("etcd/ca.crt"),
		"--member-cert-file=" + at.pki("etcd/server.crt"),
		"--member-key-file=" + at.pki("etcd/server.key"),
		"--member-trusted-ca-file=" + at.pki("etcd/ca.crt"),
		"--initial-cluster-token=" + s.Name,
	}
	if n.Etcd == Joiner {
		args = append(append(args, "--join="+etcdURLs(s, n.Name)), etcdClientFlags(at)...)
	} else {
		var founders []string
		for _, m := range s.Masters() {
			founders = append(founders, m.Name+"="+urlOf(m.IP, peerPort))
		}
		args = append(args, "--initial-cluster="+strings.Join(founders, ","))
	}
	return supervise.Process{Name: "etcd", Args: args}
}

// embeddedSocket is where the embedded etcd member of a lone master can be reached for its upkeep.
const embeddedSocket = "unix:///run/skiff-etcd.sock"

func apiserver(s *Spec, n Node, at site) supervise.Process {
	args := []string{at.program("apiserver"),
		"--advertise-address=" + n.IP.String(),
		"--client-ca-file=" + at.pki("ca.crt"),
		"--tls-cert-file=" + at.pki("apiserver.crt"),
		"--tls-private-key-file=" + at.pki("apiserver.key"),
		"--service-account-issuer=https://kubernetes.default.svc." + ClusterDomain,
		"--service-account-key-file=" + at.pki("sa.pub"),
		"--service-account-signing-key-file=" + at.pki("sa.key"),
		"--service-cluster-ip-range=" + s.ServiceRange.String(),
		"--kubelet-client-certificate=" + at.pki("apiserver-kubelet-client.crt"),
		"--kubelet-client-key=" + at.pki("apiserver-kubelet-client.key"),
		"--kubelet-certificate-authority=" + at.pki("ca.crt"),
		"--proxy-client-cert-file=" + at.pki(frontProxy().file+".crt"),
		"--proxy-client-key-file=" + at.pki(frontProxy().file+".key"),
		"--requestheader-client-ca-file=" + at.pki(frontProxyCA+".crt"),
		"--requestheader-allowed-names=" + frontProxy().CommonName,
		"--requestheader-username-headers=X-Remote-User",
		"--requestheader-uid-headers=X-Remote-Uid",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
	}
	if s.VIP.IsValid() {
		args = append(args, "--shutdown-delay-duration=1s", "--etcd-servers="+etcdURLs(s, ""))
		args = append(args, etcdClientFlags(at)...)
	} else {
		args = append(args, "--data-dir="+at.etcdData, "--listen-client-urls="+embeddedSocket)
	}
	return supervise.Process{Name: "apiserver", Args: args}
}

// clientFlags are the way of a component to the API: its kubeconfig, and with several masters
// their own apiservers for when nobody answers at the virtual address.
func clientFlags(s *Spec, at site, kubeconfig string) []string {
	flags := []string{"--kubeconfig=" + at.conf(kubeconfig)}
	if s.VIP.IsValid() {
		var servers []string
		for _, m := range s.Masters() {
			servers = append(servers, netip.AddrPortFrom(m.IP, apiPort).String())
		}
		flags = append(flags, "--fallback-servers="+strings.Join(servers, ","))
	}
	return flags
}

func scheduler(s *Spec, at site) supervise.Process {
	args := append([]string{at.program("scheduler")}, clientFlags(s, at, "scheduler.conf")...)
	return supervise.Process{Name: "scheduler", Args: append(args, "--client-ca-file="+at.pki("ca.crt"))}
}

func controller(s *Spec, at site) supervise.Process {
	args := append([]string{at.program("controller")}, clientFlags(s, at, "controller.conf")...)
	args = append(args,
		"--client-ca-file="+at.pki("ca.crt"),
		"--use-service-account-credentials",
		"--allocate-node-cidrs",
		"--cluster-cidr="+s.PodRange.String(),
		"--service-cluster-ip-range="+s.ServiceRange.String(),
		"--root-ca-file="+at.pki("ca.crt"),
		"--cluster-signing-cert-file="+at.pki("ca.crt"),
		"--cluster-signing-key-file="+at.pki("ca.key"),
		// A master has the authorities' keys, and renews what is in its own directory.
		"--renew-certificates-in="+at.etc,
		"--renew-authority="+at.pki("ca.crt")+","+at.pki("ca.key"),
		"--renew-authority="+at.pki(frontProxyCA+".crt")+","+at.pki(frontProxyCA+".key"))
	if s.VIP.IsValid() {
		args = append(args, "--renew-authority="+at.pki("etcd/ca.crt")+","+at.pki("etcd/ca.key"))
	}
	return supervise.Process{Name: "controller", Args: args}
}

// containerdConfig is a containerd without the parts that Skiff doesn't use,
// which start noticeably slower than the rest.
const containerdConfig = `version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.opt",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
oom_score = 0
[grpc]
  address = "/run/containerd/containerd.sock"
`

func containerdProcess(at site) supervise.Process {
	return supervise.Process{Name: "containerd", Args: []string{"/usr/bin/containerd", "--config=" + at.conf("containerd.toml"), "--log-level=warn"}}
}

func agent(s *Spec, n Node, at site) supervise.Process {
	args := append([]string{at.program("agent")}, clientFlags(s, at, "agent.conf")...)
	args = append(args,
		"--hostname-override="+n.Name,
		"--node-ip="+n.IP.String(),
		"--root-dir=/var/lib/kubelet",
		"--run-dir=/run/skiff-agent",
		"--registry-hosts-dir="+at.conf("certs.d"),
		"--container-runtime-endpoint=/run/containerd/containerd.sock",
		"--init-path="+at.init,
		"--client-ca-file="+at.pki("ca.crt"),
		"--tls-cert-file="+at.pki("agent.crt"),
		"--tls-private-key-file="+at.pki("agent.key"),
		"--cluster-dns="+s.DNS().String(),
		"--cluster-domain="+ClusterDomain,
		"--cluster-cidr="+s.PodRange.String(),
		"--service-cluster-ip-range="+s.ServiceRange.String(),
		// The nodes share the host's disk, which is often nearly full of other things.
		"--eviction-hard=memory.available<100Mi,nodefs.available<100Mi")
	if n.Role == Master {
		args = append(args, "--proxy-kubeconfig="+at.conf("proxy.conf"))
	} else {
		// A worker's agent is one identity, which it renews through the apiserver.
		args = append(args, "--rotate-certificates", "--rotate-server-certificates")
	}
	if at.cgroup != "" {
		args = append(args, "--cgroup-root="+at.cgroup)
	}
	taints := slices.Clone(n.Taints)
	if n.Role == Master && len(s.Workers()) > 0 {
		taints = append(taints, "node-role.kubernetes.io/control-plane:NoSchedule")
	}
	if len(taints) > 0 {
		args = append(args, "--register-with-taints="+strings.Join(taints, ","))
	}
	if labels := ownLabels(n); len(labels) > 0 {
		args = append(args, "--node-labels="+strings.Join(labels, ","))
	}
	if pods, limited := n.Resources["pods"]; limited {
		args = append(args, fmt.Sprintf("--max-pods=%d", pods.Value()))
	}
	return supervise.Process{Name: "agent", Args: args, Sockets: []string{"dns-udp", "dns-tcp"}}
}

// ownLabels are those that a node may give itself; NodeRestriction keeps it
// from labels of Kubernetes' own domains, which the administrator sets (see [api.label]).
func ownLabels(n Node) []string {
	var labels []string
	for key, value := range n.Labels {
		if !reserved(key) {
			labels = append(labels, key+"="+value)
		}
	}
	slices.Sort(labels)
	return labels
}

func reserved(label string) bool {
	domain, _, found := strings.Cut(label, "/")
	return found && (domain == "kubernetes.io" || domain == "k8s.io" || strings.HasSuffix(domain, ".kubernetes.io") || strings.HasSuffix(domain, ".k8s.io"))
}
