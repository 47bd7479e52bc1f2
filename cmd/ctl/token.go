package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"skiff/pkg/pki"
	"skiff/pkg/pki/bootstrap"
)

// newTokenCommand is kubeadm's "token", with which machines are let into a cluster.
func newTokenCommand() *cobra.Command {
	flags := genericclioptions.NewConfigFlags(true)
	c := &cobra.Command{
		Use:   "token",
		Short: "Let machines join a cluster",
		Long: `Bootstrap tokens let machines join a cluster. "create" makes one, sees to it that the cluster is
ready to be joined, and prints the command for the new machine.`,
		Args: cobra.NoArgs,
		Run:  func(c *cobra.Command, _ []string) { _ = c.Help() },
	}
	flags.AddFlags(c.PersistentFlags())
	c.AddCommand(newTokenCreateCommand(flags), newTokenListCommand(flags), newTokenDeleteCommand(flags), &cobra.Command{
		Use: "generate", Short: "Print a random token, without making anything", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			token, err := bootstrap.NewToken()
			if err == nil {
				fmt.Fprintln(c.OutOrStdout(), token)
			}
			return err
		},
	})
	return c
}

type createOptions struct {
	ttl       time.Duration
	grant     bootstrap.Grant
	server    string
	printJoin bool
	settings  map[string]*string
}

func newTokenCreateCommand(flags *genericclioptions.ConfigFlags) *cobra.Command {
	o := &createOptions{settings: map[string]*string{}}
	c := &cobra.Command{
		Use: "create [TOKEN]", Short: "Make a token, and print how to join with it", Args: cobra.MaximumNArgs(1),
		Example: "  ctl token create\n  ctl token create --ttl 2h --description \"for the new rack\"",
		RunE: func(c *cobra.Command, args []string) error {
			client, config, err := connect(flags)
			if err != nil {
				return err
			}
			o.grant.Token, err = bootstrap.NewToken()
			if len(args) > 0 {
				o.grant.Token, err = bootstrap.ParseToken(args[0])
			}
			if err != nil {
				return err
			}
			return o.run(c.Context(), c.OutOrStdout(), client, config)
		},
	}
	f := c.Flags()
	f.DurationVar(&o.ttl, "ttl", 24*time.Hour, "how long the token holds; 0 is for ever")
	f.StringVar(&o.grant.Description, "description", "", "what the token is for")
	f.StringSliceVar(&o.grant.Groups, "groups", []string{bootstrap.NodeGroup}, "groups of who authenticates with the token, beside system:bootstrappers")
	f.StringSliceVar(&o.grant.Usages, "usages", []string{bootstrap.UsageSigning, bootstrap.UsageAuthentication}, "what the token is for: signing, authentication")
	f.BoolVar(&o.printJoin, "print-join-command", true, "print the command for the new machine; else the token alone")
	f.StringVar(&o.server, "publish-server", "", "https:// address of the apiserver for those who join; by default what is published already, or that of the kubeconfig")
	for name, usage := range map[string]string{
		"cluster-dns": "addresses of the cluster's name server", "cluster-domain": "domain of the cluster",
		"cluster-cidr": "ranges of all pods' addresses", "service-cluster-ip-range": "ranges of services' addresses",
	} {
		o.settings[name] = f.String(name, "", usage+", as the new machine's agent is told; by default what is published already or can be found out")
	}
	return c
}

func (o *createOptions) run(ctx context.Context, out io.Writer, client kubernetes.Interface, config *rest.Config) error {
	if o.ttl < 0 {
		return errors.New("--ttl: a token can't hold for less than no time")
	}
	if o.ttl > 0 {
		o.grant.Expires = time.Now().Add(o.ttl)
	}
	secret, err := o.grant.NewSecret()
	if err != nil {
		return err
	}
	published, err := o.prepare(ctx, client, config)
	if err != nil {
		return err
	}
	if _, err := client.CoreV1().Secrets(secret.Namespace).Create(ctx, secret, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("make the token: %w", err)
	}
	if !o.printJoin {
		fmt.Fprintln(out, o.grant.Token)
		return nil
	}
	server, err := url.Parse(published.Server)
	if err != nil {
		return err
	}
	hashes, err := pki.Hashes(published.CertificateAuthorityData)
	if err != nil {
		return err
	}
	command := []string{"agent join", hostPort(server), "--token", o.grant.Token.String()}
	for _, hash := range hashes {
		command = append(command, "--discovery-token-ca-cert-hash", hash)
	}
	fmt.Fprintln(out, strings.Join(command, " "))
	return nil
}

// prepare makes the cluster ready to be joined.
func (o *createOptions) prepare(ctx context.Context, client kubernetes.Interface, config *rest.Config) (*clientcmdapi.Cluster, error) {
	if err := rest.LoadTLSFiles(config); err != nil {
		return nil, err
	}
	cluster := bootstrap.Cluster{Server: o.server, CA: config.CAData, Settings: bootstrap.Settings{}}
	for name, value := range o.settings {
		if *value != "" {
			cluster.Settings[name] = *value
		}
	}
	if cluster.Server == "" {
		if _, err := bootstrap.ReadClusterInfo(ctx, client); err != nil {
			cluster.Server = config.Host
		}
	}
	if cluster.Server != "" {
		server, err := url.Parse(cluster.Server)
		if err != nil || server.Scheme != "https" || server.Host == "" {
			return nil, fmt.Errorf("%q is not the https:// address of a server (--publish-server)", cluster.Server)
		}
		ip := net.ParseIP(server.Hostname())
		if o.server == "" && (server.Hostname() == "localhost" || ip.IsLoopback() || ip.IsUnspecified()) {
			return nil, fmt.Errorf("other machines can't reach the apiserver as %s: name an address with --publish-server", cluster.Server)
		}
	}
	if err := bootstrap.Ensure(ctx, client, cluster); err != nil {
		return nil, err
	}
	return bootstrap.ReadClusterInfo(ctx, client)
}

func hostPort(server *url.URL) string {
	if server.Port() == "" {
		return net.JoinHostPort(server.Hostname(), "443")
	}
	return server.Host
}

func newTokenListCommand(flags *genericclioptions.ConfigFlags) *cobra.Command {
	output := ""
	c := &cobra.Command{
		Use: "list", Short: "List the tokens", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			client, _, err := connect(flags)
			if err != nil {
				return err
			}
			if output != "" && output != "json" {
				return fmt.Errorf("--output: %q is not json", output)
			}
			secrets, err := client.CoreV1().Secrets(metav1.NamespaceSystem).List(c.Context(), metav1.ListOptions{FieldSelector: "type=" + string(bootstrap.SecretType)})
			if err != nil {
				return err
			}
			var grants []bootstrap.Grant
			for i := range secrets.Items {
				grant, err := bootstrap.ReadSecret(&secrets.Items[i])
				if err != nil {
					fmt.Fprintf(c.ErrOrStderr(), "not a usable token: %v\n", err)
					continue
				}
				grants = append(grants, grant)
			}
			if output == "json" {
				return json.NewEncoder(c.OutOrStdout()).Encode(grants)
			}
			return printTokens(c.OutOrStdout(), grants, time.Now())
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "", "json, or a table")
	return c
}

func printTokens(out io.Writer, grants []bootstrap.Grant, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 8, 3, ' ', 0)
	fmt.Fprintln(w, "TOKEN\tTTL\tEXPIRES\tUSAGES\tDESCRIPTION\tEXTRA GROUPS")
	for _, g := range grants {
		ttl, expires := "<forever>", "<never>"
		if !g.Expires.IsZero() {
			expires = g.Expires.UTC().Format(time.RFC3339)
			ttl = "<expired>"
			if now.Before(g.Expires) {
				ttl = duration.HumanDuration(g.Expires.Sub(now))
			}
		}
		fmt.Fprintln(w, strings.Join([]string{g.Token.String(), ttl, expires, orNone(g.Usages), orNone([]string{g.Description}), orNone(g.Groups)}, "\t"))
	}
	return w.Flush()
}

func orNone(values []string) string {
	if text := strings.Join(values, ","); text != "" {
		return text
	}
	return "<none>"
}

func newTokenDeleteCommand(flags *genericclioptions.ConfigFlags) *cobra.Command {
	return &cobra.Command{
		Use: "delete TOKEN…", Short: "Delete tokens, by their ids or in full", Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			client, _, err := connect(flags)
			if err != nil {
				return err
			}
			for _, id := range slices.Clone(args) {
				if token, err := bootstrap.ParseToken(id); err == nil {
					id = token.ID
				}
				if err := client.CoreV1().Secrets(metav1.NamespaceSystem).Delete(c.Context(), bootstrap.SecretPrefix+id, metav1.DeleteOptions{}); err != nil {
					return fmt.Errorf("delete token %s: %w", id, err)
				}
				fmt.Fprintf(c.OutOrStdout(), "bootstrap token %q deleted\n", id)
			}
			return nil
		},
	}
}

func connect(flags *genericclioptions.ConfigFlags) (kubernetes.Interface, *rest.Config, error) {
	config, err := flags.ToRESTConfig()
	if err != nil {
		return nil, nil, err
	}
	client, err := kubernetes.NewForConfig(config)
	return client, config, err
}
