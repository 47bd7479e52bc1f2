package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"skiff/pkg/component"
	"skiff/pkg/etcd"
)

// memberOptions describe an etcd member, embedded or alone. The flags are etcd's.
type memberOptions struct {
	name, dataDir                       string
	listenPeers, advertisePeers         []string
	listenClients, advertiseClients     []string
	initialCluster, initialState, token string
	peerTLS, clientTLS                  etcd.Files
}

func (o *memberOptions) addFlags(f *pflag.FlagSet) {
	f.StringVar(&o.name, "etcd-name", "skiff", "name of the etcd member")
	f.StringVar(&o.dataDir, "data-dir", "/var/lib/skiff/etcd", "directory of the etcd member")
	f.StringSliceVar(&o.listenPeers, "listen-peer-urls", nil, "where other members reach this one; empty: it is alone")
	f.StringSliceVar(&o.advertisePeers, "initial-advertise-peer-urls", nil, "what other members are told; empty is --listen-peer-urls")
	f.StringSliceVar(&o.listenClients, "listen-client-urls", nil, "where clients of other processes reach the member; empty is nowhere")
	f.StringSliceVar(&o.advertiseClients, "advertise-client-urls", nil, "what clients are told; empty is --listen-client-urls")
	f.StringVar(&o.initialCluster, "initial-cluster", "", "members of a new cluster: name=url,…")
	f.StringVar(&o.initialState, "initial-cluster-state", "new", "new, or existing for a member that was added to a running cluster")
	f.StringVar(&o.token, "initial-cluster-token", "skiff", "keeps clusters apart that share a network")
	f.StringVar(&o.peerTLS.Cert, "peer-cert-file", "", "certificate among members")
	f.StringVar(&o.peerTLS.Key, "peer-key-file", "", "key of --peer-cert-file")
	f.StringVar(&o.peerTLS.CA, "peer-trusted-ca-file", "", "authority of the members' certificates")
	f.StringVar(&o.clientTLS.Cert, "member-cert-file", "", "certificate for clients")
	f.StringVar(&o.clientTLS.Key, "member-key-file", "", "key of --member-cert-file")
	f.StringVar(&o.clientTLS.CA, "member-trusted-ca-file", "", "authority of the clients' certificates")
}

func (o *memberOptions) config() (etcd.Config, error) {
	config := etcd.Config{
		Name: o.name, DataDir: o.dataDir, Token: o.token,
		Peers:   etcd.Endpoint{Listen: o.listenPeers, Advertise: o.advertisePeers, TLS: o.peerTLS},
		Clients: etcd.Endpoint{Listen: o.listenClients, Advertise: o.advertiseClients, TLS: o.clientTLS},
	}
	switch o.initialState {
	case "new":
	case "existing":
		config.Existing = true
	default:
		return config, fmt.Errorf("--initial-cluster-state: %q is neither new nor existing", o.initialState)
	}
	if o.initialCluster == "" {
		return config, nil
	}
	config.InitialCluster = map[string][]string{}
	for member := range strings.SplitSeq(o.initialCluster, ",") {
		name, url, ok := strings.Cut(member, "=")
		if !ok {
			return config, fmt.Errorf("--initial-cluster: %q is not name=url", member)
		}
		config.InitialCluster[name] = append(config.InitialCluster[name], url)
	}
	return config, nil
}

func (o *memberOptions) start(ctx context.Context) (*etcd.Member, error) {
	config, err := o.config()
	if err != nil {
		return nil, err
	}
	return etcd.Start(ctx, config)
}

// memberCommand is "apiserver etcd": a member alone.
func memberCommand() *cobra.Command {
	o := &memberOptions{}
	var logging component.Logging
	c := &cobra.Command{
		Use:   "etcd",
		Short: "run an etcd member and nothing else",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if _, err := logging.Logger(os.Stderr, "etcd"); err != nil {
				return err
			}
			member, err := o.start(c.Context())
			if err != nil {
				return err
			}
			return member.Run(c.Context())
		},
	}
	logging.AddFlags(c.Flags())
	o.addFlags(c.Flags())
	return c
}
