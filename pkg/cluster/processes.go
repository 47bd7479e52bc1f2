package cluster

import (
	"net/netip"
	"path/filepath"

	"skiff/pkg/cluster/supervise"
)

// nodeConfig is what a node's init is told: a pure function of the cluster.
func nodeConfig(s *Spec, l layout, n Node) *supervise.Config {
	c := &supervise.Config{
		Hostname: n.Name,
		Dir:      l.node(n.Name),
		Bin:      s.Bin,
		Mounts:   []supervise.Mount{{Source: l.nodeFile(n.Name, "etc", "resolv.conf"), Target: "/etc/resolv.conf"}},
		Sockets: []supervise.Socket{
			{Name: "dns-udp", Network: "udp4", Address: netip.AddrPortFrom(s.DNS(), 53).String()},
			{Name: "dns-tcp", Network: "tcp4", Address: netip.AddrPortFrom(s.DNS(), 53).String()},
		},
	}
	if n.Role == Master {
		c.Processes = append(c.Processes, apiserver(s, n), scheduler(), controller(s))
	}
	c.Processes = append(c.Processes, containerdProcess(), agent(s, l, n))
	return withPorts(c, n)
}

func bin(name string) string { return filepath.Join(supervise.BinDir, name) }
func etc(name string) string { return filepath.Join(nodeEtc, name) }

func apiserver(s *Spec, n Node) supervise.Process {
	return supervise.Process{Name: "apiserver", Args: []string{bin("apiserver"),
		"--advertise-address=" + n.IP.String(),
		"--data-dir=/var/lib/etcd",
		"--client-ca-file=" + etc("ca.crt"),
		"--tls-cert-file=" + etc("apiserver.crt"),
		"--tls-private-key-file=" + etc("apiserver.key"),
		"--service-account-issuer=https://kubernetes.default.svc." + ClusterDomain,
		"--service-account-key-file=" + etc("sa.pub"),
		"--service-account-signing-key-file=" + etc("sa.key"),
		"--service-cluster-ip-range=" + s.ServiceRange.String(),
		"--kubelet-client-certificate=" + etc("apiserver-kubelet-client.crt"),
		"--kubelet-client-key=" + etc("apiserver-kubelet-client.key"),
		"--kubelet-certificate-authority=" + etc("ca.crt"),
	}}
}

func scheduler() supervise.Process {
	return supervise.Process{Name: "scheduler", Args: []string{bin("scheduler"),
		"--kubeconfig=" + etc("scheduler.conf"),
		"--client-ca-file=" + etc("ca.crt"),
	}}
}

func controller(s *Spec) supervise.Process {
	return supervise.Process{Name: "controller", Args: []string{bin("controller"),
		"--kubeconfig=" + etc("controller.conf"),
		"--client-ca-file=" + etc("ca.crt"),
		"--use-service-account-credentials",
		"--allocate-node-cidrs",
		"--cluster-cidr=" + s.PodRange.String(),
		"--service-cluster-ip-range=" + s.ServiceRange.String(),
		"--root-ca-file=" + etc("ca.crt"),
		"--cluster-signing-cert-file=" + etc("ca.crt"),
		"--cluster-signing-key-file=" + etc("ca.key"),
	}}
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

func containerdProcess() supervise.Process {
	return supervise.Process{Name: "containerd", Args: []string{"/usr/bin/containerd", "--config=" + etc("containerd.toml"), "--log-level=warn"}}
}

func agent(s *Spec, l layout, n Node) supervise.Process {
	args := []string{bin("agent"),
		"--kubeconfig=" + etc("agent.conf"),
		"--proxy-kubeconfig=" + etc("proxy.conf"),
		"--hostname-override=" + n.Name,
		"--node-ip=" + n.IP.String(),
		"--root-dir=/var/lib/kubelet",
		"--run-dir=/run/skiff-agent",
		"--registry-hosts-dir=" + etc("certs.d"),
		"--cgroup-root=" + l.cgroup(n.Name),
		"--container-runtime-endpoint=/run/containerd/containerd.sock",
		"--init-path=" + bin("init"),
		"--client-ca-file=" + etc("ca.crt"),
		"--tls-cert-file=" + etc("agent.crt"),
		"--tls-private-key-file=" + etc("agent.key"),
		"--cluster-dns=" + s.DNS().String(),
		"--cluster-domain=" + ClusterDomain,
		"--cluster-cidr=" + s.PodRange.String(),
		"--service-cluster-ip-range=" + s.ServiceRange.String(),
	}
	if n.Role == Master && len(s.Workers()) > 0 {
		args = append(args, "--register-with-taints=node-role.kubernetes.io/control-plane:NoSchedule")
	}
	return supervise.Process{Name: "agent", Args: args, Sockets: []string{"dns-udp", "dns-tcp"}}
}
