package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"skiff/pkg/cluster"
)

func newClusterCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "cluster",
		Short: "Create, look at and delete clusters on this machine",
		Args:  cobra.NoArgs,
		Run:   func(c *cobra.Command, _ []string) { c.Help() },
	}
	// kubectl's global flags say which cluster to talk to; these commands make their own.
	c.AddCommand(newCreate(), newList(), newStatus(), newDelete(), newStart(), newStop(),
		newLoad(), newExec(), newLogs(), newExport(), newKubeconfig(), newPrepare(),
		newEtcd(), newSnapshot(), newRestore(), newLeave(), newJoin(), newReplace(), newRecover(), newUpgrade())
	for _, sub := range c.Commands() {
		sub.SilenceUsage = true
	}
	return c
}

// nameOf is the cluster that a command's first argument names, or the default one.
func nameOf(args []string) string {
	if len(args) > 0 {
		return args[0]
	}
	return cluster.DefaultName
}

func newCreate() *cobra.Command {
	o := cluster.CreateOptions{}
	o.Masters = 1
	var config string
	c := &cobra.Command{
		Use:   "create [NAME]",
		Short: "Create a cluster, or start it if it exists",
		Example: `  ctl cluster create                      # one node
  ctl cluster create big --workers 3      # a master and three workers
  ctl cluster create ha --masters 3       # highly available, behind one address
  ctl cluster create --config lab.yaml    # as a file describes it
  ctl cluster create lab --isolated       # without a way out of the machine`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if config != "" {
				if err := described(&o, config, c.Flags()); err != nil {
					return err
				}
			}
			self, err := os.Executable()
			if err != nil {
				return err
			}
			if len(args) > 0 || o.Name == "" {
				o.Name = nameOf(args)
			}
			o.Bin, o.Progress = filepath.Dir(self), newProgress(os.Stderr)
			ctx, cancel := interruptible()
			defer cancel()
			begin := time.Now()
			s, err := cluster.Create(ctx, o)
			if err != nil {
				return err
			}
			fmt.Fprintf(os.Stderr, "Cluster %s is up after %s: %s\n", s.Name, seconds(time.Since(begin)), s.Server())
			fmt.Fprintf(os.Stderr, "The current context is skiff-%s. Try: ctl get nodes\n", s.Name)
			return nil
		},
	}
	flags := c.Flags()
	flags.IntVar(&o.Masters, "masters", o.Masters, "number of masters")
	flags.IntVar(&o.Workers, "workers", o.Workers, "number of workers; without any, the masters take pods")
	flags.StringVar(&o.LoadBalancer, "load-balancer", "", "what spreads requests over several masters: haproxy (the default) or nginx")
	flags.Uint16Var(&o.Registry, "registry", 0, "port of this machine's loopback for an image registry of the cluster's own; 0 makes none")
	flags.StringVar(&config, "config", "", "file that describes the cluster (see docs/clusters.md); flags win over it")
	flags.BoolVar(&o.Isolated, "isolated", false, "give the nodes no way out of the machine")
	flags.DurationVar(&o.Wait, "wait", time.Minute, "how long to wait for the nodes to be Ready; 0 doesn't wait")
	flags.BoolVar(&o.Retain, "retain", false, "keep what is there when creation fails")
	return c
}

// described fills options from a configuration file, but for those that flags name.
func described(o *cluster.CreateOptions, file string, flags *pflag.FlagSet) error {
	read, err := cluster.ReadConfig(file)
	if err != nil {
		return err
	}
	given := o.Options
	o.Options = read
	if flags.Changed("masters") || flags.Changed("workers") {
		if len(read.Nodes) > 0 {
			return fmt.Errorf("--masters and --workers: %s names the nodes already", file)
		}
		o.Masters, o.Workers = given.Masters, given.Workers
	}
	if flags.Changed("isolated") {
		o.Isolated = given.Isolated
	}
	if flags.Changed("registry") {
		o.Registry = given.Registry
	}
	if flags.Changed("load-balancer") {
		o.LoadBalancer = given.LoadBalancer
	}
	return nil
}

func newList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the clusters on this machine",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			all, err := cluster.List()
			if err != nil {
				return err
			}
			if len(all) == 0 {
				fmt.Fprintln(os.Stderr, "There is no cluster. Make one: ctl cluster create")
				return nil
			}
			return table(func(w io.Writer) {
				fmt.Fprintln(w, "NAME\tMASTERS\tWORKERS\tRUNNING\tSERVER")
				for _, s := range all {
					running := 0
					for _, n := range s.Nodes {
						if cluster.InitPid(s.Name, n.Name) != 0 {
							running++
						}
					}
					fmt.Fprintf(w, "%s\t%d\t%d\t%d/%d\t%s\n", s.Name, len(s.Masters()), len(s.Workers()), running, len(s.Nodes), s.Server())
				}
			})
		},
	}
}

func newStatus() *cobra.Command {
	return &cobra.Command{
		Use:   "status [NAME]",
		Short: "Show what a cluster is doing, and what is wrong with it; fails when something is",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			ctx, cancel := interruptible()
			defer cancel()
			status, err := cluster.GetStatus(ctx, nameOf(args))
			if err != nil {
				return err
			}
			if err := table(func(w io.Writer) { statusRows(w, status) }); err != nil {
				return err
			}
			causes := status.Causes()
			if len(causes) == 0 {
				return nil
			}
			return fmt.Errorf("cluster %s: %s", status.Spec.Name, strings.Join(causes, "\n  "))
		},
	}
}

func statusRows(w io.Writer, status *cluster.Status) {
	fmt.Fprintln(w, "NODE\tROLE\tADDRESS\tPID\tSTATE\tDOWN\tHAS")
	for _, n := range status.Nodes {
		pid, down, has := "-", "-", "-"
		if n.Pid != 0 {
			pid = strconv.Itoa(n.Pid)
		}
		if len(n.Down) > 0 {
			down = strings.Join(n.Down, ",")
		}
		if list := status.Held(n.Name); len(list) > 0 {
			has = strings.Join(list, ",")
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", n.Name, n.Role, n.IP, pid, n.State, down, has)
	}
}

func newDelete() *cobra.Command {
	return &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete a cluster with everything in it",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return cluster.Delete(nameOf(args), newProgress(os.Stderr))
		},
	}
}

func newStart() *cobra.Command {
	wait := time.Minute
	c := &cobra.Command{
		Use:   "start NAME [NODE]",
		Short: "Start a stopped cluster, or one of its nodes",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			ctx, cancel := interruptible()
			defer cancel()
			return cluster.Start(ctx, args[0], at(args, 1), wait, newProgress(os.Stderr))
		},
	}
	c.Flags().DurationVar(&wait, "wait", wait, "how long to wait for the nodes to be Ready; 0 doesn't wait")
	return c
}

func newStop() *cobra.Command {
	return &cobra.Command{
		Use:   "stop NAME [NODE]",
		Short: "Stop a cluster, or one of its nodes; what is on disk stays",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			return cluster.Stop(args[0], at(args, 1), newProgress(os.Stderr))
		},
	}
}

func newLoad() *cobra.Command {
	return &cobra.Command{
		Use:   "load NAME ARCHIVE...",
		Short: "Load image archives into every node",
		Args:  cobra.MinimumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			ctx, cancel := interruptible()
			defer cancel()
			images, err := cluster.Load(ctx, args[0], args[1:], newProgress(os.Stderr))
			for _, image := range images {
				fmt.Println(image)
			}
			return err
		},
	}
}

func newExec() *cobra.Command {
	return &cobra.Command{
		Use:     "exec NAME NODE -- COMMAND...",
		Short:   "Run a command inside a node",
		Example: "  ctl cluster exec skiff skiff-master-1 -- ip route",
		Args:    cobra.MinimumNArgs(3),
		RunE: func(_ *cobra.Command, args []string) error {
			s, err := cluster.Get(args[0])
			if err != nil {
				return err
			}
			node, err := s.Node(args[1])
			if err != nil {
				return err
			}
			return runInside(s.Name, node, args[2:])
		},
	}
}

// runInside runs a command in a node, and exits with its exit code.
func runInside(name string, node cluster.Node, command []string) error {
	pid := cluster.InitPid(name, node.Name)
	if pid == 0 {
		return fmt.Errorf("node %s is not running", node.Name)
	}
	enter := append([]string{"--target", strconv.Itoa(pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--"}, command...)
	run := exec.Command("nsenter", enter...)
	run.Stdin, run.Stdout, run.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := run.Run()
	if exit, ok := err.(*exec.ExitError); ok {
		os.Exit(exit.ExitCode())
	}
	return err
}

func newLogs() *cobra.Command {
	return &cobra.Command{
		Use:     "logs NAME NODE COMPONENT",
		Short:   "Show the log of one process of a node",
		Long:    "Show the log of one process of a node: init, containerd, agent, and on masters apiserver, scheduler, controller.",
		Example: "  ctl cluster logs skiff skiff-master-1 apiserver",
		Args:    cobra.ExactArgs(3),
		RunE: func(_ *cobra.Command, args []string) error {
			s, err := cluster.Get(args[0])
			if err != nil {
				return err
			}
			node, err := s.Node(args[1])
			if err != nil {
				return err
			}
			file, err := os.Open(cluster.LogFile(s.Name, node.Name, filepath.Base(args[2])))
			if os.IsNotExist(err) {
				return fmt.Errorf("node %s has no log of %q", node.Name, args[2])
			}
			if err != nil {
				return err
			}
			defer file.Close()
			_, err = io.Copy(os.Stdout, file)
			return err
		},
	}
}

func newExport() *cobra.Command {
	return &cobra.Command{
		Use:   "export [NAME] DIRECTORY",
		Short: "Copy all logs of a cluster, with its nodes, pods and events, into a directory",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			ctx, cancel := interruptible()
			defer cancel()
			return cluster.Export(ctx, nameOf(args[:len(args)-1]), args[len(args)-1], newProgress(os.Stderr))
		},
	}
}

func newKubeconfig() *cobra.Command {
	return &cobra.Command{
		Use:   "kubeconfig [NAME]",
		Short: "Print a cluster's administrator kubeconfig",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			s, err := cluster.Get(nameOf(args))
			if err != nil {
				return err
			}
			data, err := os.ReadFile(cluster.AdminKubeconfig(s.Name))
			if err != nil {
				return err
			}
			_, err = os.Stdout.Write(data)
			return err
		},
	}
}

func at(args []string, i int) string {
	if i < len(args) {
		return args[i]
	}
	return ""
}

func table(rows func(io.Writer)) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 3, ' ', 0)
	rows(w)
	return w.Flush()
}
