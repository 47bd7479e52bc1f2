// Command scheduler gives pods their nodes: Skiff's kube-scheduler. It runs on
// every master; one of them is elected and works.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"

	"skiff/pkg/component"
	"skiff/pkg/election"
	"skiff/pkg/scheduler"
)

func main() { component.Main(newCommand()) }

// options is what the flags say.
type options struct {
	client   component.Client
	serving  component.Serving
	logging  component.Logging
	election election.Config
	clientCA string
	name     string
}

func newCommand() *cobra.Command {
	o := &options{serving: component.Serving{BindAddress: "0.0.0.0", Port: 10259}, election: election.Defaults("kube-scheduler")}
	c := &cobra.Command{Use: "scheduler", Short: "gives pods their nodes", Args: cobra.NoArgs, Version: component.GitVersion,
		RunE: func(c *cobra.Command, _ []string) error { return o.run(c.Context()) }}
	flags := c.Flags()
	o.client.AddFlags(flags)
	o.serving.AddFlags(flags)
	o.logging.AddFlags(flags)
	o.election.AddFlags(flags)
	flags.StringVar(&o.clientCA, "client-ca-file", "", "certificates of those who may sign client certificates for the metrics endpoint")
	flags.StringVar(&o.name, "scheduler-name", corev1.DefaultSchedulerName, "schedule pods with this schedulerName")
	return c
}

func (o *options) run(ctx context.Context) error {
	logger, err := o.logging.Logger(os.Stderr, "scheduler")
	if err != nil {
		return err
	}
	registry, health := component.Metrics(), &component.Health{}
	config, err := o.client.Config("scheduler")
	if err != nil {
		return err
	}
	if config, err = component.Shared(config); err != nil {
		return err
	}
	access, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	o.election.Client, o.election.Logger, o.election.Metrics = config, logger, registry
	candidate, err := election.New(o.election)
	if err != nil {
		return err
	}
	health.Live("leaderElection", candidate.Healthy)

	var group component.Group
	group.Add("endpoint", func(ctx context.Context) error {
		return o.serving.Run(ctx, component.Endpoint{Health: health, Metrics: registry, Logger: logger,
			Access: &component.Delegated{Client: access, ClientCAFile: o.clientCA}})
	})
	group.Add("scheduler", func(ctx context.Context) error {
		if err := component.WaitForServer(ctx, config); err != nil {
			return err
		}
		return candidate.Run(ctx, func(ctx context.Context, won election.Won) error {
			return o.lead(ctx, won, logger, registry, health)
		})
	})
	return group.Run(ctx)
}

func (o *options) lead(ctx context.Context, won election.Won, logger *slog.Logger, registry *prometheus.Registry, health *component.Health) error {
	s, err := scheduler.New(scheduler.Config{Client: won.Config, Name: o.name, Logger: logger, Metrics: registry})
	if err != nil {
		return err
	}
	health.Ready("sched-handler-sync", s.Ready)
	return s.Run(ctx)
}
