package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"skiff/pkg/cluster"
)

func newPrepare() *cobra.Command {
	var config, replace string
	c := &cobra.Command{
		Use:   "prepare DIRECTORY --config FILE",
		Short: "Write what real machines need to become a cluster",
		Long: `Write what real machines need to become a cluster, as FILE describes them: below
DIRECTORY/NODE the files for that machine's /etc/skiff and /etc/systemd/system, and
in DIRECTORY itself the authorities' keys, which are to be kept safe, and the
administrator's kubeconfig. See docs/operations.md.

It can be called again: what is there stays as it is, nodes that were added to
FILE are prepared.`,
		Example: `  ctl cluster prepare ./prod --config prod.yaml
  ctl cluster prepare ./prod --config prod.yaml --replace m2   # its disk is lost`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			nodes, err := cluster.Prepare(config, args[0], replace)
			for _, n := range nodes {
				fmt.Println(n)
			}
			if err == nil && len(nodes) == 0 {
				fmt.Fprintln(os.Stderr, "All nodes are prepared already.")
			}
			return err
		},
	}
	c.Flags().StringVar(&config, "config", "", "file that describes the machines")
	c.Flags().StringVar(&replace, "replace", "", "master that is prepared anew, to join the others with an empty disk")
	c.MarkFlagRequired("config")
	return c
}
