// Command controller runs the reconcilers of a cluster: the counterpart of
// kube-controller-manager, with its flags. One of several processes works, the others wait
// for its lease.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	certs "k8s.io/api/certificates/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	netutils "k8s.io/utils/net"

	"skiff/pkg/component"
	"skiff/pkg/controller"
	"skiff/pkg/controller/certificates"
	"skiff/pkg/controller/nodelifecycle"
	"skiff/pkg/election"
	"skiff/pkg/pki"
	"skiff/pkg/reconcile"
)

func main() { component.Main(command()) }

// options are the flags.
type options struct {
	client  component.Client
	serving component.Serving
	logging component.Logging
	elect   election.Config
	control controller.Config

	clientCAFile  string
	rootCAFile    string
	signing       certificates.Authority
	signers       map[string]*certificates.Authority
	clusterCIDR   string
	serviceRanges string
	nodeMask      int

	renewIn     []string
	renewBy     []string // CERT,KEY
	authorities []pki.AuthorityFiles
}

func command() *cobra.Command {
	o := &options{
		serving: component.Serving{BindAddress: "0.0.0.0", Port: 10257},
		elect:   election.Defaults("kube-controller-manager"),
		control: controller.Config{
			SigningDuration: 365 * 24 * time.Hour,
			Controllers:     []string{"*"}, NodeMaskIPv4: 24, NodeMaskIPv6: 64, MaxEndpointsPerSlice: 100, MirroringMaxEndpointsPerSubset: 1000,
			TerminatedPodThreshold: 12500, NodeLifecycle: nodelifecycle.Config{Rates: nodelifecycle.DefaultRates},
		},
	}
	c := &cobra.Command{
		Use:     "controller",
		Short:   "Keep a cluster as it was asked to be",
		Args:    cobra.NoArgs,
		Version: component.GitVersion,
		RunE:    func(c *cobra.Command, _ []string) error { return o.run(c.Context()) },
	}
	o.addFlags(c.Flags())
	return c
}

func (o *options) addFlags(flags *pflag.FlagSet) {
	o.client.AddFlags(flags)
	o.serving.AddFlags(flags)
	o.logging.AddFlags(flags)
	o.elect.AddFlags(flags)
	c := &o.control
	flags.StringSliceVar(&c.Controllers, "controllers", c.Controllers, "reconcilers to run: '*' all, 'foo' the one named foo, '-foo' all but foo. All: "+strings.Join(controller.Names(), ", "))
	flags.BoolVar(&c.UseServiceAccountCredentials, "use-service-account-credentials", false, "run each reconciler as a service account of its own; without it this process' identity needs the rights of all")
	flags.BoolVar(&c.AllocateNodeCIDRs, "allocate-node-cidrs", false, "give each node a range of --cluster-cidr for its pods")
	flags.StringVar(&o.clusterCIDR, "cluster-cidr", "", "pod range of the cluster, or one per address family separated by a comma")
	flags.IntVar(&o.nodeMask, "node-cidr-mask-size", 0, "prefix length of a node's range: 24 for IPv4 and 64 for IPv6 by default; not for two families")
	flags.IntVar(&c.NodeMaskIPv4, "node-cidr-mask-size-ipv4", c.NodeMaskIPv4, "prefix length of a node's IPv4 range")
	flags.IntVar(&c.NodeMaskIPv6, "node-cidr-mask-size-ipv6", c.NodeMaskIPv6, "prefix length of a node's IPv6 range")
	flags.StringVar(&o.serviceRanges, "service-cluster-ip-range", "", "service ranges, which are never given to nodes")
	flags.StringVar(&o.rootCAFile, "root-ca-file", "", "file with the certificate authority that is published in each namespace")
	flags.StringVar(&o.clientCAFile, "client-ca-file", "", "file with the authority of client certificates that may read metrics")
	o.addSigningFlags(flags)
	flags.StringArrayVar(&o.renewIn, "renew-certificates-in", nil, "directory whose certificates and kubeconfigs are renewed before they expire, on each machine and not only where reconcilers run; may be repeated")
	flags.StringArrayVar(&o.renewBy, "renew-authority", nil, "CERT,KEY: files of an authority whose certificates are renewed; may be repeated")
	flags.IntVar(&c.MaxEndpointsPerSlice, "max-endpoints-per-slice", c.MaxEndpointsPerSlice, "most endpoints that are put into one EndpointSlice")
	flags.IntVar(&c.MirroringMaxEndpointsPerSubset, "mirroring-max-endpoints-per-subset", c.MirroringMaxEndpointsPerSubset, "most addresses of a subset of hand-made Endpoints that are mirrored")
	flags.IntVar(&c.TerminatedPodThreshold, "terminated-pod-gc-threshold", c.TerminatedPodThreshold, "how many pods that have ended are kept; 0 keeps all")
	n := &c.NodeLifecycle
	flags.DurationVar(&n.MonitorGracePeriod, "node-monitor-grace-period", 0, "how long any node may give no sign of life; 0 leaves it to each node's lease: its duration and a quarter more")
	flags.Float64Var(&n.Rates.Normal, "node-eviction-rate", n.Rates.Normal, "nodes a second whose pods are evicted in a healthy zone")
	flags.Float64Var(&n.Rates.Secondary, "secondary-node-eviction-rate", n.Rates.Secondary, "nodes a second whose pods are evicted in a large unhealthy zone")
	flags.IntVar(&n.Rates.LargeZone, "large-cluster-size-threshold", n.Rates.LargeZone, "number of nodes above which a zone is large; in smaller unhealthy zones nothing is evicted")
	flags.Float64Var(&n.Rates.Unhealthy, "unhealthy-zone-threshold", n.Rates.Unhealthy, "share of nodes not ready (at least three) that makes a zone unhealthy")
}

// signerFlags are the infixes of the flags that give one signer an authority of its own.
var signerFlags = map[string]string{
	"kubelet-serving":       certs.KubeletServingSignerName,
	"kubelet-client":        certs.KubeAPIServerClientKubeletSignerName,
	"kube-apiserver-client": certs.KubeAPIServerClientSignerName,
	"legacy-unknown":        certificates.LegacyUnknown,
}

func (o *options) addSigningFlags(flags *pflag.FlagSet) {
	flags.StringVar(&o.signing.CertFile, "cluster-signing-cert-file", "", "certificate of the authority that signs certificate signing requests")
	flags.StringVar(&o.signing.KeyFile, "cluster-signing-key-file", "", "key of --cluster-signing-cert-file")
	flags.DurationVar(&o.control.SigningDuration, "cluster-signing-duration", o.control.SigningDuration, "longest validity of a certificate that is signed")
	o.signers = map[string]*certificates.Authority{}
	for infix, signer := range signerFlags {
		authority := &certificates.Authority{}
		o.signers[signer] = authority
		flags.StringVar(&authority.CertFile, "cluster-signing-"+infix+"-cert-file", "", "certificate of the authority that signs for "+signer)
		flags.StringVar(&authority.KeyFile, "cluster-signing-"+infix+"-key-file", "", "key of --cluster-signing-"+infix+"-cert-file")
	}
}

// completeSigners works out each signer's authority: the general one, or its own.
func (o *options) completeSigners() error {
	o.control.Signers = map[string]certificates.Authority{}
	for signer, own := range o.signers {
		authority := *own
		if authority == (certificates.Authority{}) {
			authority = o.signing
		} else if o.signing != (certificates.Authority{}) {
			return fmt.Errorf("cannot specify --cluster-signing-{cert,key}-file and other --cluster-signing-*-file flags at the same time")
		}
		if (authority.CertFile == "") != (authority.KeyFile == "") {
			return fmt.Errorf("signer %s has a certificate or a key file, and needs both", signer)
		}
		if authority.CertFile != "" {
			o.control.Signers[signer] = authority
		}
	}
	return nil
}

// complete turns flags into the configuration.
func (o *options) complete() error {
	c := &o.control
	if o.clusterCIDR != "" {
		c.ClusterCIDRs = strings.Split(o.clusterCIDR, ",")
	}
	if o.nodeMask != 0 {
		if len(c.ClusterCIDRs) > 1 {
			return fmt.Errorf("--node-cidr-mask-size is for one address family; use --node-cidr-mask-size-ipv4 and -ipv6")
		}
		c.NodeMaskIPv4, c.NodeMaskIPv6 = o.nodeMask, o.nodeMask
	}
	if o.serviceRanges != "" {
		ranges, err := netutils.ParseCIDRs(strings.Split(o.serviceRanges, ","))
		if err != nil {
			return fmt.Errorf("--service-cluster-ip-range: %w", err)
		}
		c.ServiceCIDRs = ranges
	}
	if c.MaxEndpointsPerSlice < 1 || c.MaxEndpointsPerSlice > 1000 {
		return fmt.Errorf("--max-endpoints-per-slice: %d is not between 1 and 1000", c.MaxEndpointsPerSlice)
	}
	if c.MirroringMaxEndpointsPerSubset < 1 || c.MirroringMaxEndpointsPerSubset > 1000 {
		return fmt.Errorf("--mirroring-max-endpoints-per-subset: %d is not between 1 and 1000", c.MirroringMaxEndpointsPerSubset)
	}
	if err := o.completeSigners(); err != nil {
		return err
	}
	for _, text := range o.renewBy {
		cert, key, ok := strings.Cut(text, ",")
		if !ok || cert == "" || key == "" {
			return fmt.Errorf("--renew-authority: %q is not CERT,KEY", text)
		}
		o.authorities = append(o.authorities, pki.AuthorityFiles{Cert: cert, Key: key})
	}
	if (len(o.renewIn) == 0) != (len(o.authorities) == 0) {
		return fmt.Errorf("--renew-certificates-in and --renew-authority belong together")
	}
	if o.rootCAFile != "" {
		bundle, err := os.ReadFile(o.rootCAFile)
		if err != nil {
			return fmt.Errorf("--root-ca-file: %w", err)
		}
		c.RootCA = bundle
	}
	return nil
}

func (o *options) run(ctx context.Context) error {
	if err := o.complete(); err != nil {
		return err
	}
	logger, err := o.logging.Logger(os.Stderr, "controller")
	if err != nil {
		return err
	}
	config, err := o.client.Config("controller")
	if err != nil {
		return err
	}
	if o.control.Anonymous, err = component.Shared(rest.AnonymousClientConfig(config)); err != nil {
		return err
	}
	if config, err = component.Shared(config); err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	registry := component.Metrics()
	o.control.Logger, o.control.Metrics = logger, reconcile.NewMetrics(registry)
	o.elect.Client, o.elect.Logger, o.elect.Metrics = config, logger, registry
	elect, err := election.New(o.elect)
	if err != nil {
		return err
	}
	var health component.Health
	health.Live("leaderElection", elect.Healthy)

	var group component.Group
	group.Add("endpoint", func(ctx context.Context) error {
		return o.serving.Run(ctx, component.Endpoint{
			Health: &health, Metrics: registry, Logger: logger,
			Access: &component.Delegated{Client: client, ClientCAFile: o.clientCAFile},
		})
	})
	if len(o.renewIn) > 0 {
		renewer := &pki.Renewer{Dirs: o.renewIn, Authorities: o.authorities, Logger: logger}
		group.Add("certificates", renewer.Run)
	}
	group.Add("reconcilers", func(ctx context.Context) error {
		if err := component.WaitForServer(ctx, config); err != nil {
			return err
		}
		return elect.Run(ctx, func(ctx context.Context, won election.Won) error {
			c := o.control
			c.Client = won.Config
			return controller.Run(ctx, c)
		})
	})
	return group.Run(ctx)
}
