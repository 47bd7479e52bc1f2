// Command ctl is the user's hand: the whole kubectl command tree, and beside it
// `ctl cluster`, which makes local clusters.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/plugin"
	"k8s.io/kubectl/pkg/cmd/util"

	// Log and exit-code conventions of kubectl's own main.
	"k8s.io/component-base/cli"
)

func main() {
	command := newCommand()
	if err := cli.RunNoErrOutput(command); err != nil {
		util.CheckErr(err)
	}
}

func newCommand() *cobra.Command {
	root := cmd.NewDefaultKubectlCommandWithArgs(cmd.KubectlOptions{
		PluginHandler: cmd.NewDefaultPluginHandler(plugin.ValidPluginFilenamePrefixes),
		Arguments:     os.Args,
		ConfigFlags: genericclioptions.NewConfigFlags(true).WithDeprecatedPasswordFlag().
			WithDiscoveryBurst(300).WithDiscoveryQPS(50),
		IOStreams: genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr},
	})
	root.Use = "ctl"
	root.Short = "ctl controls Skiff and Kubernetes clusters"
	root.Long = "ctl controls Skiff and Kubernetes clusters: every kubectl command, and `ctl cluster` for clusters on this machine."
	root.AddCommand(newClusterCommand(), newTokenCommand())
	return root
}

// interruptible is a context that the first SIGINT or SIGTERM cancels.
func interruptible() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
}
