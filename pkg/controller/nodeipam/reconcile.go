// Package nodeipam gives each node a range of pod addresses out of the cluster's.
//
// A turn looks at all nodes at once and writes spec.podCIDR and spec.podCIDRs of those
// without; the next turn waits until the cache has those writes. There is no state
// but the nodes, so a restart or a new leader goes on where the last one stopped. A write
// names the node's resourceVersion, and the API refuses to change a range once it is set,
// so that two controllers can't give one node two ranges.
package nodeipam

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"skiff/pkg/controller/reconciler"
	"skiff/pkg/reconcile"
)

// everyNode is the only key: ranges are decided for all nodes together.
type everyNode struct{}

// Reconciler gives out the ranges.
type Reconciler struct {
	client   kubernetes.Interface
	nodes    corelisters.NodeLister
	informer cache.SharedIndexInformer
	events   record.EventRecorder
	ranges   []Range
	reserved []*net.IPNet
	next     []int // touched by the single worker only
	loop     *reconcile.Loop[everyNode]
	log      *slog.Logger
}

// New makes the reconciler; reserved ranges (the services') are not given out.
func New(c reconciler.Config, ranges []Range, reserved []*net.IPNet) *Reconciler {
	nodes := c.Informers.Core().V1().Nodes()
	r := &Reconciler{
		client: c.Client, nodes: nodes.Lister(), informer: nodes.Informer(), events: c.Events,
		ranges: ranges, reserved: reserved, log: c.Logger,
	}
	r.loop = reconciler.Loop(c, "node_ipam", 1, reconcile.Config[everyNode]{Reconcile: r.reconcile, MaxDelay: 30 * time.Second})
	reconciler.OnChange(r.informer, func(_, current *v1.Node) {
		// A deleted node frees a range that another may be waiting for.
		if current == nil || len(nodeCIDRs(current)) == 0 {
			r.loop.Add(everyNode{})
		}
	})
	return r
}

// Run works until ctx ends.
func (r *Reconciler) Run(ctx context.Context) error {
	return reconciler.Run(ctx, []cache.InformerSynced{r.informer.HasSynced}, r.loop.Run)
}

func (r *Reconciler) reconcile(ctx context.Context, key everyNode) (time.Duration, error) {
	nodes, err := r.nodes.List(labels.Everything())
	if err != nil {
		return 0, err
	}
	slices.SortFunc(nodes, func(a, b *v1.Node) int { return strings.Compare(a.Name, b.Name) })
	plan := Decide(r.ranges, nodes, r.reserved, r.next)
	var errs []error
	for _, assignment := range plan.Assign {
		if err := r.assign(ctx, key, assignment); err != nil {
			errs = append(errs, err)
		}
	}
	for _, node := range plan.Without {
		r.events.Eventf(reference(node), v1.EventTypeNormal, "CIDRNotAvailable", "Node %s status is now: %s", node.Name, "CIDRNotAvailable")
		errs = append(errs, fmt.Errorf("node %s: no pod range is left in %v", node.Name, r.ranges))
	}
	if len(errs) == 0 { // otherwise what wasn't given out is tried again first
		r.next = plan.Next
	}
	return 0, errors.Join(errs...)
}

func (r *Reconciler) assign(ctx context.Context, key everyNode, a Assignment) error {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": a.Node.UID, "resourceVersion": a.Node.ResourceVersion},
		"spec":     map[string]any{"podCIDR": a.CIDRs[0], "podCIDRs": a.CIDRs},
	})
	if err != nil {
		return err
	}
	patched, err := r.client.CoreV1().Nodes().Patch(ctx, a.Node.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		if !apierrors.IsConflict(err) {
			r.events.Eventf(reference(a.Node), v1.EventTypeNormal, "CIDRAssignmentFailed", "Node %s status is now: %s", a.Node.Name, "CIDRAssignmentFailed")
		}
		return fmt.Errorf("give node %s the pod range %v: %w", a.Node.Name, a.CIDRs, err)
	}
	r.loop.Wrote(key, r.informer.GetStore(), patched.ResourceVersion)
	r.log.Info("pod range assigned", "node", a.Node.Name, "cidrs", a.CIDRs)
	return nil
}

// reference names a node in events; nodes have no namespace, their events go to "default".
func reference(node *v1.Node) *v1.ObjectReference {
	return &v1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}
}
