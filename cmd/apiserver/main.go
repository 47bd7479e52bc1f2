// Command apiserver serves the Kubernetes API over the objects in etcd: in the
// cluster that --etcd-servers names, or in a member of its own, embedded in this
// process. Its flags are kube-apiserver's, as far as they apply.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"

	"skiff/pkg/api"
	"skiff/pkg/api/catalogue"
	"skiff/pkg/apiserver"
	"skiff/pkg/apiserver/audit"
	"skiff/pkg/apiserver/stream"
	"skiff/pkg/component"
	"skiff/pkg/etcd"
	"skiff/pkg/store"
)

func main() { component.Main(command()) }

// options are the flags.
type options struct {
	logging component.Logging

	bindAddress, advertiseAddress string
	port                          int
	certFile, keyFile             string

	etcdServers                  []string
	etcdTLS                      etcdTLS
	compaction                   time.Duration
	member                       memberOptions
	serviceRange, nodePorts      string
	kubelet                      stream.Config
	proxyCert, proxyKey          string
	security                     apiserver.Security
	anonymous                    bool
	requestTimeout, drainTimeout time.Duration
	shutdownDelay                time.Duration
	minRequestTimeout            int
	maxInFlight, maxMutating     int
	eventTTL                     time.Duration
	audit                        audit.Options
	encryptionFile               string
	encryptionReload             bool
}

func command() *cobra.Command {
	o := &options{}
	c := &cobra.Command{
		Use:   "apiserver",
		Short: "serve the Kubernetes API",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkOIDC(c.Flags(), &o.security.OIDC); err != nil {
				return err
			}
			return o.run(c.Context())
		},
	}
	f := c.Flags()
	o.logging.AddFlags(f)
	f.StringVar(&o.bindAddress, "bind-address", "0.0.0.0", "address to serve HTTPS on")
	f.IntVar(&o.port, "secure-port", 6443, "port to serve HTTPS on")
	f.StringVar(&o.advertiseAddress, "advertise-address", "", "address at which other members of the cluster reach this server; empty is the bind address, or the host's first address")
	f.StringVar(&o.certFile, "tls-cert-file", "", "file with the serving certificate; read again when it changes")
	f.StringVar(&o.keyFile, "tls-private-key-file", "", "file with the serving certificate's key")
	f.StringVar(&o.security.ClientCAFile, "client-ca-file", "", "file with the authorities whose client certificates name users")
	f.BoolVar(&o.anonymous, "anonymous-auth", true, "let requests without credentials be those of system:anonymous")

	front := &o.security.FrontProxy
	f.StringVar(&front.CAFile, "requestheader-client-ca-file", "", "file with the authorities of proxies in front of this server, which say in headers who makes a request")
	f.StringSliceVar(&front.Names, "requestheader-allowed-names", nil, "common names that the certificates of --requestheader-client-ca-file may have; empty is any")
	f.StringSliceVar(&front.UserHeaders, "requestheader-username-headers", nil, "headers in which a proxy names the user; the first with a value counts")
	f.StringSliceVar(&front.UIDHeaders, "requestheader-uid-headers", nil, "headers in which a proxy has the user's UID; the first with a value counts")
	f.StringSliceVar(&front.GroupHeaders, "requestheader-group-headers", nil, "headers in which a proxy names groups of the user")
	f.StringSliceVar(&front.ExtraPrefixes, "requestheader-extra-headers-prefix", nil, "what the headers begin with in which a proxy has more about the user")
	f.StringVar(&o.proxyCert, "proxy-client-cert-file", "", "file with the client certificate by which servers of aggregated APIs know this one")
	f.StringVar(&o.proxyKey, "proxy-client-key-file", "", "file with the key of --proxy-client-cert-file")

	// On by default, other than in Kubernetes: it admits nobody until somebody who may write secrets in
	// kube-system, an administrator that is, makes a token, and then nothing else is missing for a machine to join.
	f.BoolVar(&o.security.BootstrapTokens, "enable-bootstrap-token-auth", true, "let joining machines authenticate by the tokens in secrets of type bootstrap.kubernetes.io/token in kube-system")

	f.StringSliceVar(&o.etcdServers, "etcd-servers", nil, "etcd servers (scheme://host:port); without any, an embedded member is started")
	o.etcdTLS.addFlags(f)
	f.DurationVar(&o.compaction, "etcd-compaction-interval", 5*time.Minute, "interval of etcd's compaction; 0 is never")
	o.member.addFlags(f)

	f.StringSliceVar(&o.security.KeyFiles, "service-account-key-file", nil, "file with keys that verify service account tokens; may be repeated; empty is the signing key")
	f.StringVar(&o.security.SigningKeyFile, "service-account-signing-key-file", "", "file with the key that signs service account tokens")
	f.StringSliceVar(&o.security.Issuers, "service-account-issuer", nil, "issuer of service account tokens; may be repeated, the first one signs")
	f.StringVar(&o.security.KeysURI, "service-account-jwks-uri", "", "where others find the keys of the issuer; empty is this server")
	f.StringSliceVar(&o.security.Audiences, "api-audiences", nil, "audiences of this server in service account tokens; empty is the issuer")
	f.DurationVar(&o.security.MaxExpiration, "service-account-max-token-expiration", 0, "longest validity of a service account token; 0 is no limit")
	f.BoolVar(&o.security.ExtendExpiration, "service-account-extend-token-expiration", true, "let the tokens of pods' default volumes live for a year, for clients that read them only once")

	f.StringVar(&o.serviceRange, "service-cluster-ip-range", "10.96.0.0/12", "range of services' cluster IPs (IPv4)")
	f.StringVar(&o.nodePorts, "service-node-port-range", "30000-32767", "range of services' node ports, both ends included")
	f.StringVar(&o.kubelet.CertFile, "kubelet-client-certificate", "", "file with this server's client certificate for the nodes' agents")
	f.StringVar(&o.kubelet.KeyFile, "kubelet-client-key", "", "file with the key of --kubelet-client-certificate")
	f.StringVar(&o.kubelet.CAFile, "kubelet-certificate-authority", "", "file with the authority of the agents' serving certificates")
	f.DurationVar(&o.eventTTL, "event-ttl", time.Hour, "how long events are kept")

	f.DurationVar(&o.requestTimeout, "request-timeout", time.Minute, "how long a request may take that is no watch or stream")
	f.IntVar(&o.minRequestTimeout, "min-request-timeout", 1800, "seconds that a watch without a timeout of its own lasts at least")
	f.IntVar(&o.maxInFlight, "max-requests-inflight", 400, "together with --max-mutating-requests-inflight how many requests are served at the same time; priority levels divide them")
	f.IntVar(&o.maxMutating, "max-mutating-requests-inflight", 200, "see --max-requests-inflight")
	f.DurationVar(&o.shutdownDelay, "shutdown-delay-duration", 0, "how long a server that is told to stop serves on while /readyz fails, so that load balancers notice")
	f.DurationVar(&o.drainTimeout, "shutdown-timeout", 10*time.Second, "how long running requests may take when the server stops")
	auditFlags(f, &o.audit)
	oidcFlags(f, &o.security.OIDC)
	f.StringVar(&o.encryptionFile, "encryption-provider-config", "", "file with the EncryptionConfiguration (apiserver.config.k8s.io/v1) by which objects are encrypted in etcd")
	f.BoolVar(&o.encryptionReload, "encryption-provider-config-automatic-reload", false, "read the file of --encryption-provider-config again when it changes")
	c.AddCommand(memberCommand())
	return c
}

func (o *options) run(ctx context.Context) error {
	logger, err := o.logging.Logger(os.Stderr, "apiserver")
	if err != nil {
		return err
	}
	cfg, err := o.config()
	if err != nil {
		return err
	}
	cfg.Logger = logger
	if cfg.Audit, err = audit.Open(o.audit); err != nil {
		return err
	}
	encryption, err := o.openEncryption()
	if err != nil {
		return err
	}
	var group component.Group
	client, err := o.openEtcd(ctx, &group)
	if err != nil {
		return err
	}
	rows := catalogue.Default()
	o.keepEvents(rows)
	every := o.compaction
	if every == 0 {
		every = -1
	}
	config := store.Config{
		Client: client, CompactEvery: every, Log: logger,
		Stored: func(k *api.Kind) *api.Kind { return rows.View().Stored(k) },
	}
	if encryption != nil {
		config.Transformer = encryption.Transformer
	}
	st := store.New(config)
	if o.encryptionReload {
		group.Add("encryption", func(ctx context.Context) error { return encryption.Follow(ctx, st.Reread) })
	}
	cfg.Catalogue, cfg.Store, cfg.Etcd = rows, st, client
	if err := apiserver.Secure(cfg, o.security); err != nil {
		return err
	}
	group.Add("store", st.Run)
	return serve(ctx, &group, *cfg)
}

// serve runs the server on top of what it stands on, which stops after it: running requests
// still need their store.
func serve(ctx context.Context, base *component.Group, cfg apiserver.Config) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	baseCtx, stopBase := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBase()
	baseDone := make(chan error, 1)
	go func() {
		err := base.Run(baseCtx)
		cancel()
		baseDone <- err
	}()
	err := apiserver.Run(ctx, cfg)
	stopBase()
	return errors.Join(err, <-baseDone)
}

// config turns flags into what the server wants, without its etcd.
func (o *options) config() (*apiserver.Config, error) {
	if o.certFile == "" || o.keyFile == "" {
		return nil, errors.New("--tls-cert-file and --tls-private-key-file are required")
	}
	if o.security.SigningKeyFile == "" || len(o.security.Issuers) == 0 {
		return nil, errors.New("--service-account-signing-key-file and --service-account-issuer are required")
	}
	if (o.proxyCert == "") != (o.proxyKey == "") {
		return nil, errors.New("--proxy-client-cert-file and --proxy-client-key-file go together")
	}
	if front := o.security.FrontProxy; front.CAFile != "" && len(front.UserHeaders) == 0 {
		return nil, errors.New("--requestheader-client-ca-file needs --requestheader-username-headers: without, nobody is recognized")
	}
	o.security.NoAnonymous = !o.anonymous
	prefix, err := netip.ParsePrefix(o.serviceRange)
	if err != nil || !prefix.Addr().Is4() {
		return nil, fmt.Errorf("--service-cluster-ip-range: %q is no IPv4 range", o.serviceRange)
	}
	var ports [2]int
	if _, err := fmt.Sscanf(o.nodePorts, "%d-%d", &ports[0], &ports[1]); err != nil || ports[0] < 1 || ports[1] > 65535 || ports[0] > ports[1] {
		return nil, fmt.Errorf("--service-node-port-range: %q is not <first>-<last>", o.nodePorts)
	}
	if o.maxInFlight < 0 || o.maxMutating < 0 || o.maxInFlight+o.maxMutating == 0 {
		return nil, errors.New("--max-requests-inflight and --max-mutating-requests-inflight must not be negative, and not both be 0")
	}
	advertise, err := o.advertised()
	if err != nil {
		return nil, err
	}
	return &apiserver.Config{
		BindAddress: o.bindAddress, Port: o.port, AdvertiseAddress: advertise, AdvertisePort: o.port,
		CertFile: o.certFile, KeyFile: o.keyFile,
		ServiceRange: prefix.Masked(), NodePorts: ports, Kubelet: o.kubelet,
		ProxyCertFile: o.proxyCert, ProxyKeyFile: o.proxyKey,
		RequestTimeout: o.requestTimeout, MinWatch: time.Duration(o.minRequestTimeout) * time.Second,
		Seats: o.maxInFlight + o.maxMutating, DrainTimeout: o.drainTimeout, ShutdownDelay: o.shutdownDelay,
		Ready: func(address net.Addr) { slog.Info("serving", "address", address.String()) },
	}, nil
}

// advertised is the address that others find in the kubernetes service's endpoints.
func (o *options) advertised() (netip.Addr, error) {
	text := o.advertiseAddress
	if text == "" {
		text = o.bindAddress
	}
	address, err := netip.ParseAddr(text)
	if err != nil {
		return address, fmt.Errorf("--advertise-address: %w", err)
	}
	if !address.IsUnspecified() {
		return address, nil
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return address, fmt.Errorf("find an address to advertise: %w", err)
	}
	for _, a := range own {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil && prefix.Addr().Is4() && prefix.Addr().IsGlobalUnicast() {
			return prefix.Addr(), nil
		}
	}
	return address, errors.New("no address to advertise: set --advertise-address")
}

// keepEvents sets how long events live.
func (o *options) keepEvents(rows *api.Catalogue) {
	for _, k := range rows.View().Kinds() {
		if k.Resource == "events" {
			k.TTL = func(api.Object) time.Duration { return o.eventTTL }
		}
	}
}

// openEtcd returns a client to the servers that flags name, or to a member that it starts.
func (o *options) openEtcd(ctx context.Context, group *component.Group) (*clientv3.Client, error) {
	if len(o.etcdServers) == 0 {
		member, err := o.member.start(ctx, o.etcdTLS)
		if err != nil {
			return nil, err
		}
		group.Add("etcd", member.Run)
		return member.Client(), nil
	}
	config, err := o.etcdTLS.dial(o.etcdServers)
	if err != nil {
		return nil, err
	}
	return etcd.Dial(config)
}
