// Package controller assembles the reconcilers, each a package below this one, into
// the process that keeps a cluster as it was asked to be: the counterpart of
// kube-controller-manager, with its names for controllers, service accounts and events.
//
// To read it: [workload.Hash] and its neighbours in controller/workload hold what
// pod-owning kinds share; then take one reconciler, say controller/replicaset, and read plan.go,
// which decides and does no I/O, and reconcile.go, which carries out. catalogue.go
// here lists them all. One set of informers is shared by all reconcilers, so that a
// resource is listed, watched and kept once.
package controller

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"

	"skiff/pkg/component"
	"skiff/pkg/controller/certificates"
	"skiff/pkg/controller/nodelifecycle"
	"skiff/pkg/controller/reconciler"
	"skiff/pkg/election"
	"skiff/pkg/reconcile"
)

// Config says which reconcilers run, as whom, and with what.
type Config struct {
	// Client is the process' own identity. Its writes are fenced if it was won in an election.
	Client *rest.Config
	// Anonymous leads to the same apiserver, without credentials: the clients of service accounts are made
	// of it. nil: Client without its credentials.
	Anonymous *rest.Config
	// Controllers selects reconcilers by Kubernetes' names: "foo" is on, "-foo" off, "*" all that are on by default.
	Controllers []string
	// UseServiceAccountCredentials has each reconciler act as a service account of its
	// own, which has the rights it needs and no others. Otherwise all act as Client.
	UseServiceAccountCredentials bool

	// AllocateNodeCIDRs gives each node a range of ClusterCIDRs (one, or one per family).
	AllocateNodeCIDRs              bool
	ClusterCIDRs                   []string
	NodeMaskIPv4, NodeMaskIPv6     int
	ServiceCIDRs                   []*net.IPNet
	RootCA                         []byte // PEM, published in each namespace; empty: not published
	MaxEndpointsPerSlice           int
	Signers                        map[string]certificates.Authority // by signer name
	SigningDuration                time.Duration                     // longest validity of what they sign
	MirroringMaxEndpointsPerSubset int
	TerminatedPodThreshold         int // ended pods that are kept; 0: any number
	NodeLifecycle                  nodelifecycle.Config

	Logger  *slog.Logger
	Metrics *reconcile.Metrics
}

// Run starts the selected reconcilers and returns when all have stopped: because
// ctx ended, or because one of them failed for good.
func Run(ctx context.Context, c Config) error {
	rows, err := selected(c.Controllers)
	if err != nil {
		return err
	}
	root, err := kubernetes.NewForConfig(c.Client)
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	a := &assembly{Config: c, root: root, informers: sharedInformers(root)}
	defer a.stop()
	var group component.Group
	for _, row := range rows {
		run, err := a.assemble(row)
		if err != nil {
			return fmt.Errorf("%s: %w", row.name, err)
		}
		if run == nil {
			c.Logger.Info("controller is off: its configuration is missing", "controller", row.name)
			continue
		}
		group.Add(row.name, run)
	}
	group.Add("informers", a.runInformers)
	return group.Run(ctx)
}

// sharedInformers keep objects without their managed fields, which nobody here
// reads. An update without them leaves them as they are.
func sharedInformers(client kubernetes.Interface) informers.SharedInformerFactory {
	return informers.NewSharedInformerFactoryWithOptions(client, 0,
		informers.WithTweakListOptions(election.FreshList),
		informers.WithTransform(func(object any) (any, error) {
			if accessor, err := meta.Accessor(object); err == nil {
				accessor.SetManagedFields(nil)
			}
			return object, nil
		}))
}

// assembly is what Run builds up.
type assembly struct {
	Config
	root         kubernetes.Interface
	informers    informers.SharedInformerFactory
	broadcasters []record.EventBroadcaster
}

// assemble makes one reconciler. The function is nil when its configuration is missing.
func (a *assembly) assemble(row row) (func(context.Context) error, error) {
	config := a.Client
	if a.UseServiceAccountCredentials {
		config = asAccount(a.Client, cmp.Or(a.Anonymous, rest.AnonymousClientConfig(a.Client)), a.root, row.account)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	partial, err := metadata.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	broadcaster := record.NewBroadcaster()
	broadcaster.StartRecordingToSink(&coreclient.EventSinkImpl{Interface: client.CoreV1().Events("")})
	a.broadcasters = append(a.broadcasters, broadcaster)
	return row.make(parts{
		Config: reconciler.Config{
			Client:    client,
			Reader:    a.root,
			Informers: a.informers,
			Events:    broadcaster.NewRecorder(scheme.Scheme, v1.EventSource{Component: row.source}),
			Logger:    a.Logger.With("controller", row.name),
			Metrics:   a.Metrics,
		},
		metadata: partial,
		of:       a.Config,
	})
}

func (a *assembly) runInformers(ctx context.Context) error {
	a.informers.StartWithContext(ctx)
	<-ctx.Done()
	a.informers.Shutdown()
	return nil
}

func (a *assembly) stop() {
	var all sync.WaitGroup
	for _, broadcaster := range a.broadcasters {
		all.Go(broadcaster.Shutdown)
	}
	all.Wait()
}
