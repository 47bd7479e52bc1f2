// Command agent runs the pods of one node through containerd, programs its
// service addresses, and answers its pods' name queries: Skiff's kubelet,
// kube-proxy and cluster DNS in one. Each of the three can be left to another
// program with --roles.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"skiff/pkg/agent"
	"skiff/pkg/agent/rotation"
	"skiff/pkg/component"
)

func main() { component.Main(newCommand()) }

// options is what the flags say; those that the kubelet and kube-proxy have
// are spelled as theirs.
type options struct {
	client  component.Client
	logging component.Logging
	roles   []string

	proxyKubeconfig string
	nodeName        string
	nodeIPs         []string
	rootDir         string
	runDir          string
	logDir          string
	cgroupRoot      string
	containerd      string
	initPath        string
	hostsDir        string
	resolvConf      string

	clusterDNS    []string
	clusterDomain string
	clusterCIDRs  []string
	serviceCIDRs  []string
	dnsUpstreams  []string

	labels     map[string]string
	taints     []string
	maxPods    int64
	podPids    int64
	reserved   map[string]string
	thresholds string
	providerID string
	poolSize   int

	address  string
	port     int
	clientCA string
	certFile string
	keyFile  string

	certDir       string
	rotateClient  bool
	rotateServing bool
}

func newCommand() *cobra.Command {
	o := &options{}
	c := &cobra.Command{Use: "agent", Short: "runs the pods of a node, its service addresses and its name server", Args: cobra.NoArgs,
		Version: component.GitVersion, RunE: func(c *cobra.Command, _ []string) error { return o.run(c.Context()) }}
	o.client.AddFlags(c.Flags())
	o.logging.AddFlags(c.Flags())
	o.addFlags(c.Flags())
	c.AddCommand(newJoinCommand())
	return c
}

func (o *options) addFlags(f *pflag.FlagSet) {
	f.StringSliceVar(&o.roles, "roles", []string{"pods", "proxy", "dns"}, "what to do: pods, proxy, dns")
	f.StringVar(&o.proxyKubeconfig, "proxy-kubeconfig", "", "kubeconfig for watching services, endpoints and nodes; empty uses --kubeconfig")
	f.StringVar(&o.nodeName, "hostname-override", "", "name of the node; empty is the machine's hostname")
	f.StringSliceVar(&o.nodeIPs, "node-ip", nil, "addresses of the node; empty finds the one that leads to the apiserver")
	f.StringVar(&o.rootDir, "root-dir", "/var/lib/kubelet", "directory for pods' files")
	f.StringVar(&o.runDir, "run-dir", "/run/skiff", "directory for namespaces and sockets; need not survive a reboot")
	f.StringVar(&o.logDir, "pod-logs-dir", "/var/log/pods", "directory for containers' logs")
	f.StringVar(&o.cgroupRoot, "cgroup-root", "/", "cgroup below which pods get theirs")
	f.StringVar(&o.cgroupRoot, "cgroup-parent", "/", "the same as --cgroup-root")
	f.StringVar(&o.containerd, "container-runtime-endpoint", "/run/containerd/containerd.sock", "containerd's unix socket")
	f.StringVar(&o.initPath, "init-path", "", "the init binary; empty is the one beside this program, or /usr/local/libexec/skiff/init")
	f.StringVar(&o.hostsDir, "registry-hosts-dir", "/etc/containerd/certs.d", "directory with a hosts.toml per image registry")
	f.StringVar(&o.resolvConf, "resolv-conf", "/etc/resolv.conf", "the node's resolver configuration, from which pods' are made")
	f.StringSliceVar(&o.clusterDNS, "cluster-dns", nil, "addresses of the cluster's name server")
	f.StringVar(&o.clusterDomain, "cluster-domain", "cluster.local", "domain of the cluster")
	f.StringSliceVar(&o.clusterCIDRs, "cluster-cidr", nil, "ranges of all pods' addresses")
	f.StringSliceVar(&o.serviceCIDRs, "service-cluster-ip-range", nil, "ranges of services' addresses")
	f.StringSliceVar(&o.dnsUpstreams, "dns-upstreams", nil, "name servers (address:port) for names outside the cluster; empty uses --resolv-conf")
	f.StringToStringVar(&o.labels, "node-labels", nil, "labels to register the node with")
	f.StringSliceVar(&o.taints, "register-with-taints", nil, "taints to register the node with: key=value:effect")
	f.Int64Var(&o.maxPods, "max-pods", 110, "how many pods the node takes")
	f.Int64Var(&o.podPids, "pod-max-pids", 0, "how many processes a pod may have; 0 sets no limit")
	f.StringToStringVar(&o.reserved, "system-reserved", nil, "resources kept from pods: cpu=200m,memory=500Mi")
	f.StringVar(&o.thresholds, "eviction-hard", agent.DefaultThresholds, "what is left of something when the node says that it is under pressure, and takes no more pods (none is evicted); 0% never does")
	f.StringVar(&o.providerID, "provider-id", "", "identifier of the machine at its provider")
	f.IntVar(&o.poolSize, "namespace-pool", 8, "how many network namespaces are kept ready-made")
	f.StringVar(&o.address, "address", "0.0.0.0", "address to serve the kubelet's API on")
	f.IntVar(&o.port, "port", 10250, "port to serve the kubelet's API on")
	f.StringVar(&o.clientCA, "client-ca-file", "", "certificates of those who may sign clients' certificates")
	f.StringVar(&o.certFile, "tls-cert-file", "", "file with the serving certificate; without it a self-signed one is made in memory")
	f.StringVar(&o.keyFile, "tls-private-key-file", "", "file with the serving certificate's key")
	f.StringVar(&o.certDir, "cert-dir", "", "directory of certificates that are renewed; empty is pki below --root-dir")
	f.BoolVar(&o.rotateClient, "rotate-certificates", false, "renew the client certificate of --kubeconfig through the apiserver before it expires; the new ones are in --cert-dir")
	f.BoolVar(&o.rotateServing, "rotate-server-certificates", false, "get the serving certificate from the apiserver, and renew it before it expires; --tls-cert-file may hold the first one")
}

func (o *options) run(ctx context.Context) error {
	logger, err := o.logging.Logger(os.Stderr, "agent")
	if err != nil {
		return err
	}
	if err := o.complete(); err != nil {
		return err
	}
	w, err := o.wire(logger)
	if err != nil {
		return err
	}
	return w.group.Run(ctx)
}

// complete fills in what the flags leave open.
func (o *options) complete() error {
	for _, role := range o.roles {
		if !slices.Contains([]string{"pods", "proxy", "dns"}, role) {
			return fmt.Errorf("--roles: %q is none of pods, proxy, dns", role)
		}
	}
	if o.nodeName == "" {
		name, err := os.Hostname()
		if err != nil {
			return err
		}
		o.nodeName = strings.ToLower(name)
	}
	if o.initPath == "" {
		program, err := os.Executable()
		if err != nil {
			return err
		}
		o.initPath = filepath.Join(filepath.Dir(program), "init")
		if _, err := os.Stat(o.initPath); errors.Is(err, os.ErrNotExist) {
			o.initPath = "/usr/local/libexec/skiff/init" // where it isn't in the path, and not the machine's own
		}
	}
	o.containerd = strings.TrimPrefix(o.containerd, "unix://")
	if o.certDir == "" {
		o.certDir = filepath.Join(o.rootDir, "pki")
	}
	if o.rotateClient {
		file, err := rotation.Seed(o.certDir, o.client.Kubeconfig)
		if err != nil {
			return err
		}
		o.client.CertificateFile = file
	}
	return nil
}

func prefixes(flag string, texts []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("--%s: %w", flag, err)
		}
		out = append(out, p)
	}
	return out, nil
}

func addresses(flag string, texts []string) ([]netip.Addr, error) {
	var out []netip.Addr
	for _, text := range texts {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("--%s: %w", flag, err)
		}
		out = append(out, a)
	}
	return out, nil
}

// parseTaints reads "key=value:effect" and "key:effect".
func parseTaints(texts []string) ([]corev1.Taint, error) {
	var out []corev1.Taint
	for _, text := range texts {
		rest, effect, ok := strings.Cut(text, ":")
		key, value, _ := strings.Cut(rest, "=")
		known := []corev1.TaintEffect{corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute}
		if !ok || key == "" || !slices.Contains(known, corev1.TaintEffect(effect)) {
			return nil, fmt.Errorf("--register-with-taints: %q is not key=value:effect", text)
		}
		out = append(out, corev1.Taint{Key: key, Value: value, Effect: corev1.TaintEffect(effect)})
	}
	return out, nil
}

func quantities(texts map[string]string) (corev1.ResourceList, error) {
	out := corev1.ResourceList{}
	for name, text := range texts {
		q, err := resource.ParseQuantity(text)
		if err != nil {
			return nil, fmt.Errorf("--system-reserved: %s=%s: %w", name, text, err)
		}
		out[corev1.ResourceName(name)] = q
	}
	return out, nil
}
