package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"skiff/manifests"
	"skiff/pkg/agent/join"
)

const (
	defaultDir = "/etc/skiff"
	unitName   = "skiff-agent.service"
	unitDir    = "/etc/systemd/system"
	unitStarts = "/usr/local/bin/agent"
)

type joinOptions struct {
	join.Config
	foreground bool
}

func newJoinCommand() *cobra.Command {
	o := &joinOptions{}
	c := &cobra.Command{
		Use:   "join HOST:PORT[,HOST:PORT…] [-- FLAGS OF THE AGENT]",
		Short: "makes this machine a node of a cluster, and starts the agent",
		Long: `Makes this machine a node of the cluster whose apiservers are named, and starts the agent: as a systemd
unit, or with --foreground (and where there is no systemd) in place of this command.

On the cluster's side "ctl token create" prints the whole command. It may be repeated: what is done already stays.`,
		Example: "  agent join 10.0.0.10:6443 --token abcdef.0123456789abcdef --discovery-token-ca-cert-hash sha256:…",
		Args:    cobra.MinimumNArgs(1),
		RunE:    func(c *cobra.Command, args []string) error { return o.run(c.Context(), c.OutOrStdout(), args) },
	}
	f := c.Flags()
	f.StringVar(&o.Token, "token", "", "bootstrap token")
	f.StringSliceVar(&o.CAHashes, "discovery-token-ca-cert-hash", nil, "hash of the cluster's certificate authority (sha256:…); may be repeated, one must match")
	f.BoolVar(&o.AnyCA, "discovery-token-unsafe-skip-ca-verification", false, "take any authority that the token vouches for: whoever knows the token can then pose as the cluster")
	f.StringVar(&o.NodeName, "node-name", "", "name of the node; empty is the machine's hostname")
	f.StringVar(&o.Dir, "dir", defaultDir, "directory for certificates and configuration")
	f.DurationVar(&o.Timeout, "timeout", time.Minute, "how long to look for a server, and to wait for an approval")
	f.BoolVar(&o.foreground, "foreground", false, "become the agent, instead of starting a systemd unit")
	return c
}

func (o *joinOptions) run(ctx context.Context, out io.Writer, args []string) error {
	if o.Token == "" {
		return errors.New("--token is required; ctl token create makes one")
	}
	o.Servers, o.Extra = strings.Split(args[0], ","), args[1:]
	o.Progress = func(text string) { fmt.Fprintln(out, text) }
	_, err := os.Stat("/run/systemd/system") // as sd_booted(3) finds out
	systemd := err == nil && !o.foreground
	program, err := os.Executable()
	if err != nil {
		return err
	}
	if systemd && o.Dir != defaultDir {
		return fmt.Errorf("the unit %s reads %s: with --dir %s there is only --foreground", unitName, defaultDir, o.Dir)
	}
	if systemd && program != unitStarts {
		return fmt.Errorf("the unit %s starts %s, and this is %s: install it there, or start it with --foreground", unitName, unitStarts, program)
	}
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return err
	}
	joined, err := join.Run(ctx, o.Config)
	if err != nil {
		return err
	}
	if joined.Already {
		fmt.Fprintf(out, "This machine has joined already, as node %s.\n", joined.NodeName)
	} else {
		fmt.Fprintf(out, "This machine has joined as node %s.\n", joined.NodeName)
	}
	if systemd {
		return startUnit(ctx, out, joined.Flags)
	}
	fmt.Fprintln(out, "Starting the agent here.")
	return syscall.Exec(program, append([]string{program}, joined.Flags...), os.Environ())
}

// startUnit starts the agent's unit, now and at each boot. One that is installed is left as it is.
func startUnit(ctx context.Context, out io.Writer, flags []string) error {
	systemctl := func(args ...string) error {
		output, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(output)))
		}
		return nil
	}
	if systemctl("cat", unitName) != nil {
		dns, err := nameServer(flags)
		if err != nil {
			return err
		}
		if err := manifests.WriteUnits(unitDir, []string{"agent"}, dns); err != nil {
			return err
		}
		fmt.Fprintln(out, "Wrote the units of the agent to "+unitDir)
		if err := systemctl("daemon-reload"); err != nil {
			return err
		}
	}
	if err := systemctl("enable", "--now", unitName); err != nil {
		return err
	}
	fmt.Fprintf(out, "The agent runs: systemctl status %s; its log: journalctl -u %s\n", unitName, unitName)
	return nil
}

// nameServer is the address at which systemd is to listen for the agent.
func nameServer(flags []string) (netip.Addr, error) {
	for _, flag := range flags {
		if value, found := strings.CutPrefix(flag, "--cluster-dns="); found {
			first, _, _ := strings.Cut(value, ",")
			return netip.ParseAddr(first)
		}
	}
	return netip.Addr{}, errors.New("the flags of the agent don't name the cluster's name server (--cluster-dns)")
}
