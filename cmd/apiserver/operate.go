package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"

	"skiff/pkg/etcd"
)

// operations are the subcommands of "apiserver etcd". Those for a running cluster have etcdctl's flags; those for the
// data of a stopped member have the member's.
func operations() []*cobra.Command {
	return []*cobra.Command{
		online("members", "list the members and what is wrong with them", 0, members),
		online("snapshot FILE", "save all data to a file", 1, func(c *cobra.Command, client *clientv3.Client, args []string) error {
			if err := etcd.Snapshot(c.Context(), client, args[0]); err != nil {
				return err
			}
			return say(c, "saved %s\n", args[0])
		}),
		online("remove NAME|ID", "take a member out of the cluster, for good", 1, remove),
		online("compact", "forget all revisions before the present one", 0, func(c *cobra.Command, client *clientv3.Client, _ []string) error {
			revision, err := etcd.Compact(c.Context(), client)
			if err != nil {
				return err
			}
			return say(c, "compacted at revision %d; \"defrag\" gives the space back to the file system\n", revision)
		}),
		online("defrag", "give free space back to the file system, member by member", 0, func(c *cobra.Command, client *clientv3.Client, _ []string) error {
			if err := etcd.Defragment(c.Context(), client); err != nil {
				return err
			}
			return members(c, client, nil)
		}),
		alarms(), restore(), recovery(),
	}
}

// online is a command that talks to a running cluster.
func online(use, short string, args int, run func(*cobra.Command, *clientv3.Client, []string) error) *cobra.Command {
	var endpoints []string
	var files etcdTLS
	c := &cobra.Command{Use: use, Short: short, Args: cobra.ExactArgs(args), RunE: func(c *cobra.Command, args []string) error {
		config, err := files.dial(endpoints)
		if err != nil {
			return err
		}
		client, err := etcd.Dial(config)
		if err != nil {
			return err
		}
		defer client.Close()
		return run(c, client, args)
	}}
	c.Flags().StringSliceVar(&endpoints, "endpoints", []string{"https://127.0.0.1:2379"}, "client URLs of members; one that is up is enough")
	c.Flags().StringVar(&files.ca, "cacert", "", "file with the authority of etcd's certificates")
	c.Flags().StringVar(&files.cert, "cert", "", "file with the certificate to show")
	c.Flags().StringVar(&files.key, "key", "", "file with the key of --cert")
	return c
}

func say(c *cobra.Command, format string, args ...any) error {
	_, err := fmt.Fprintf(c.OutOrStdout(), format, args...)
	return err
}

func members(c *cobra.Command, client *clientv3.Client, _ []string) error {
	list, err := etcd.Members(c.Context(), client)
	if err != nil {
		return err
	}
	if err := printMembers(c.OutOrStdout(), list); err != nil {
		return err
	}
	if problem := etcd.Diagnose(c.Context(), client); problem != nil {
		return say(c, "\n%v\n", problem)
	}
	return nil
}

func printMembers(out io.Writer, list []etcd.MemberStatus) error {
	w := tabwriter.NewWriter(out, 0, 8, 3, ' ', 0)
	fmt.Fprintln(w, "NAME\tID\tROLE\tVERSION\tSIZE\tIN USE\tTERM\tAPPLIED\tALARMS\tCLIENTS\tPEERS")
	for _, m := range list {
		urls := strings.Join(m.ClientURLs, ",") + "\t" + strings.Join(m.PeerURLs, ",")
		if m.Err != nil {
			fmt.Fprintf(w, "%s\t%x\tunreachable\t\t\t\t\t\t\t%s\n", m.Name, m.ID, urls)
			continue
		}
		role := "follower"
		switch {
		case m.Leader:
			role = "leader"
		case m.Learner:
			role = "learner"
		}
		fmt.Fprintf(w, "%s\t%x\t%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\n", m.Name, m.ID, role, m.Version, mib(m.DBSize), mib(m.DBInUse),
			m.Term, m.Applied, strings.Join(m.Alarms, ","), urls)
	}
	return w.Flush()
}

func mib(bytes int64) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }

func remove(c *cobra.Command, client *clientv3.Client, args []string) error {
	m, err := find(c.Context(), client, args[0])
	if err != nil {
		return err
	}
	if err := etcd.Leave(c.Context(), client, m.ID); err != nil {
		return err
	}
	return say(c, "removed %v (%x); its data directory is of no use any more\n", m, m.ID)
}

func find(ctx context.Context, client *clientv3.Client, nameOrID string) (etcd.MemberStatus, error) {
	list, err := etcd.Members(ctx, client)
	if err != nil {
		return etcd.MemberStatus{}, err
	}
	return etcd.Find(list, nameOrID)
}

func alarms() *cobra.Command {
	var disarm bool
	c := online("alarms", "list the alarms, or take them back", 0, func(c *cobra.Command, client *clientv3.Client, _ []string) error {
		if disarm {
			if err := etcd.Disarm(c.Context(), client); err != nil {
				return err
			}
		}
		list, err := etcd.Members(c.Context(), client)
		if err != nil {
			return err
		}
		for _, m := range list {
			for _, alarm := range m.Alarms {
				if err := say(c, "%v\t%s\n", m, alarm); err != nil {
					return err
				}
			}
		}
		return nil
	})
	c.Flags().BoolVar(&disarm, "disarm", false, "take all alarms back whose cause is gone")
	return c
}

func restore() *cobra.Command {
	var config etcd.RestoreConfig
	var initial string
	c := &cobra.Command{
		Use:   "restore FILE",
		Short: "make a member of a new cluster from a snapshot: run it for each of them, before any starts",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) (err error) {
			config.Snapshot = args[0]
			if config.InitialCluster, err = parseCluster(initial); err != nil {
				return err
			}
			if err := etcd.Restore(config); err != nil {
				return err
			}
			return say(c, "restored %s to %s\n", args[0], config.DataDir)
		},
	}
	f := c.Flags()
	f.StringVar(&config.Name, "etcd-name", "skiff", "name of the etcd member")
	f.StringVar(&config.DataDir, "data-dir", "/var/lib/skiff/etcd", "directory of the etcd member; it must be without data")
	f.StringSliceVar(&config.Peers.Advertise, "initial-advertise-peer-urls", nil, "where other members reach this one; empty: it is alone")
	f.StringVar(&initial, "initial-cluster", "", "members of the new cluster: name=url,…; empty: this one alone")
	f.StringVar(&config.Token, "initial-cluster-token", "", "equal for all members of the new cluster; empty: derived from the snapshot")
	addBump(c, &config.Bump)
	return c
}

func recovery() *cobra.Command {
	var config etcd.RecoverConfig
	c := &cobra.Command{
		Use:   "recover",
		Short: "make a cluster of one from a stopped member whose cluster has lost its quorum for good",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			r, err := etcd.Recover(c.Context(), config)
			if err != nil {
				return err
			}
			return say(c, "%s (%s) is a cluster of its own now. Its former data are in %s.\n"+
				"Start it, then let the others join: empty their data directories first, and never start them on their old data.\n",
				r.Name, strings.Join(r.PeerURLs, ","), r.Backup)
		},
	}
	c.Flags().StringVar(&config.DataDir, "data-dir", "/var/lib/skiff/etcd", "directory of the stopped etcd member")
	addBump(c, &config.Bump)
	return c
}

func addBump(c *cobra.Command, bump *uint64) {
	c.Flags().Uint64Var(bump, "bump-revision", etcd.RevisionBump, "how far revisions jump, so that none is given out twice")
}
