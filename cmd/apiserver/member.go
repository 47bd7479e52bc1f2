package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

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
	join                                []string
	heartbeat, election                 uint
	quota                               int64
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
	f.StringSliceVar(&o.join, "join", nil, "client URLs of a running cluster that a member without data joins; with data it means nothing")
	f.StringVar(&o.token, "initial-cluster-token", "skiff", "keeps clusters apart that share a network")
	f.UintVar(&o.heartbeat, "heartbeat-interval", 0, "milliseconds between a leader's heartbeats; 0 is made for members on one network")
	f.UintVar(&o.election, "election-timeout", 0, "milliseconds without a leader until another is elected; 0 is ten heartbeats")
	f.Int64Var(&o.quota, "quota-backend-bytes", 0, "size of the database above which writes are refused; 0 is 8 GiB")
	f.StringVar(&o.peerTLS.Cert, "peer-cert-file", "", "certificate among members")
	f.StringVar(&o.peerTLS.Key, "peer-key-file", "", "key of --peer-cert-file")
	f.StringVar(&o.peerTLS.CA, "peer-trusted-ca-file", "", "authority of the members' certificates")
	f.StringVar(&o.clientTLS.Cert, "member-cert-file", "", "certificate for clients")
	f.StringVar(&o.clientTLS.Key, "member-key-file", "", "key of --member-cert-file")
	f.StringVar(&o.clientTLS.CA, "member-trusted-ca-file", "", "authority of the clients' certificates")
}

func (o *memberOptions) config() (etcd.Config, error) {
	config := etcd.Config{
		Name: o.name, DataDir: o.dataDir, Token: o.token, Quota: o.quota,
		Heartbeat: time.Duration(o.heartbeat) * time.Millisecond, Election: time.Duration(o.election) * time.Millisecond,
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
	if len(o.join) > 0 && (o.initialCluster != "" || config.Existing) {
		return config, errors.New("--join finds the cluster by itself: leave --initial-cluster and --initial-cluster-state out")
	}
	var err error
	config.InitialCluster, err = parseCluster(o.initialCluster)
	return config, err
}

// parseCluster reads the form of --initial-cluster.
func parseCluster(flag string) (map[string][]string, error) {
	if flag == "" {
		return nil, nil
	}
	cluster := map[string][]string{}
	for member := range strings.SplitSeq(flag, ",") {
		name, url, ok := strings.Cut(member, "=")
		if !ok {
			return nil, fmt.Errorf("--initial-cluster: %q is not name=url", member)
		}
		cluster[name] = append(cluster[name], url)
	}
	return cluster, nil
}

// start starts the member; client is what it shows to a cluster that it joins.
func (o *memberOptions) start(ctx context.Context, client etcdTLS) (*etcd.Member, error) {
	config, err := o.config()
	if err != nil {
		return nil, err
	}
	if config.Join, err = client.dial(o.join); err != nil {
		return nil, err
	}
	return etcd.Start(ctx, config)
}

// memberCommand is "apiserver etcd": a member alone.
func memberCommand() *cobra.Command {
	o := &memberOptions{}
	client := &etcdTLS{}
	var logging component.Logging
	c := &cobra.Command{
		Use:   "etcd",
		Short: "run an etcd member and nothing else; its subcommands look after a cluster of them",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if _, err := logging.Logger(os.Stderr, "etcd"); err != nil {
				return err
			}
			member, err := o.start(c.Context(), *client)
			if err != nil {
				return err
			}
			return member.Run(c.Context())
		},
	}
	logging.AddFlags(c.Flags())
	o.addFlags(c.Flags())
	client.addFlags(c.Flags())
	c.AddCommand(operations()...)
	return c
}
