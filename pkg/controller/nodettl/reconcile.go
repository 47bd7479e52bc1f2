// Package nodettl tells kubelets, by the annotation node.alpha.kubernetes.io/ttl, for how
// many seconds they may keep secrets and config maps without asking: the more nodes, the longer.
package nodettl

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"skiff/pkg/controller/reconciler"
	"skiff/pkg/reconcile"
)

// steps overlap, so that a node more or less doesn't change all annotations to and fro.
var steps = []struct{ least, most, seconds int }{
	{0, 100, 0},
	{90, 500, 15},
	{450, 1000, 30},
	{900, 2000, 60},
	{1800, math.MaxInt, 300},
}

// step returns the step for a number of nodes, coming from the current one.
func step(current, nodes int) int {
	for nodes > steps[current].most {
		current++
	}
	for nodes < steps[current].least {
		current--
	}
	return current
}

// Reconciler annotates nodes. Its keys are their names.
type Reconciler struct {
	client  kubernetes.Interface
	nodes   corelisters.NodeLister
	store   cache.SharedIndexInformer
	current int // touched by the single worker only
	loop    *reconcile.Loop[string]
}

// New makes the reconciler.
func New(c reconciler.Config) *Reconciler {
	nodes := c.Informers.Core().V1().Nodes()
	r := &Reconciler{client: c.Client, nodes: nodes.Lister(), store: nodes.Informer()}
	r.loop = reconciler.Loop(c, "ttlcontroller", 1, reconcile.Config[string]{Reconcile: r.reconcile})
	reconciler.OnEach(r.store, func(n *v1.Node) { r.loop.Add(n.Name) })
	return r
}

// Run works until ctx ends.
func (r *Reconciler) Run(ctx context.Context) error {
	return reconciler.Run(ctx, []cache.InformerSynced{r.store.HasSynced}, r.loop.Run)
}

func (r *Reconciler) reconcile(ctx context.Context, name string) (time.Duration, error) {
	r.current = step(r.current, len(r.store.GetStore().ListKeys()))
	seconds := strconv.Itoa(steps[r.current].seconds)
	node, err := r.nodes.Get(name)
	if err != nil || node.Annotations[v1.ObjectTTLAnnotationKey] == seconds {
		return 0, nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{v1.ObjectTTLAnnotationKey: seconds}}})
	if err != nil {
		return 0, err
	}
	patched, err := r.client.CoreV1().Nodes().Patch(ctx, name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("annotate node %s: %w", name, err)
	}
	r.loop.Wrote(name, r.store.GetStore(), patched.ResourceVersion)
	return 0, nil
}
