package main

import (
	"context"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"skiff/pkg/cluster"
)

// newEtcd passes commands on to the members of a cluster: what an operator of
// real machines types there.
func newEtcd() *cobra.Command {
	return &cobra.Command{
		Use:   "etcd NAME COMMAND [ARGUMENT...]",
		Short: "Look after a cluster's etcd: members, compact, defrag, alarms",
		Long: `Look after a cluster's etcd, with the commands of ` + "`apiserver etcd`" + `, which is run in
one of the masters: members, compact, defrag, alarms. See its help for their flags.`,
		Example: `  ctl cluster etcd ha members
  ctl cluster etcd ha defrag
  ctl cluster etcd ha alarms -- --disarm`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			node, command, err := cluster.EtcdCommand(args[0], args[1:])
			if err != nil {
				return err
			}
			return runInside(args[0], node, command)
		},
	}
}

// ofTwo is a command about a cluster and one thing more: a node, or a file.
func ofTwo(use, short string, do func(ctx context.Context, name, other string, progress cluster.Progress) error) *cobra.Command {
	return &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			ctx, cancel := interruptible()
			defer cancel()
			return do(ctx, args[0], args[1], newProgress(os.Stderr))
		},
	}
}

func newLeave() *cobra.Command {
	return ofTwo("leave NAME NODE", "Take a master's etcd member out of the cluster", cluster.Leave)
}

func newJoin() *cobra.Command {
	return ofTwo("join NAME NODE", "Give a master that left an etcd member again", cluster.Join)
}

func newReplace() *cobra.Command {
	return ofTwo("replace NAME NODE", "Give a master a new etcd member: the old one is dead, or its disk is lost", cluster.Replace)
}

func newRecover() *cobra.Command {
	return ofTwo("recover NAME NODE", "Go on from one master's data when etcd has lost its quorum for good", cluster.Recover)
}

func newSnapshot() *cobra.Command {
	return ofTwo("snapshot NAME FILE", "Save all that a cluster's etcd holds", cluster.Snapshot)
}

func newRestore() *cobra.Command {
	return ofTwo("restore NAME FILE", "Begin anew with what a snapshot holds", cluster.Restore)
}

func newUpgrade() *cobra.Command {
	var bin string
	c := &cobra.Command{
		Use:   "upgrade NAME [--bin DIRECTORY]",
		Short: "Replace the binaries of a running cluster, node by node",
		Long: `Replace the binaries of a running cluster, node by node and masters first. The next
node's turn comes when the one before is well again; pods are not touched.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if bin == "" {
				self, err := os.Executable()
				if err != nil {
					return err
				}
				bin = filepath.Dir(self)
			}
			ctx, cancel := interruptible()
			defer cancel()
			return cluster.Upgrade(ctx, args[0], bin, newProgress(os.Stderr))
		},
	}
	c.Flags().StringVar(&bin, "bin", "", "directory of the new binaries; by default the one of this program")
	return c
}
