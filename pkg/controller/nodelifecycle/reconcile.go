// Package nodelifecycle notices that nodes fall silent, and says so: Ready becomes
// Unknown, the node is tainted, its pods are no longer ready, and after their toleration
// they are evicted (by package tainteviction).
//
// How long a node may be silent is the node's own choice: the duration of its lease, and a quarter
// of it (at least 1.5 s) more. Skiff's agents renew leases of five seconds, a kubelet's forty are
// given fifty, as Kubernetes does. Only this process' clock measures, from one observed change to the next. Before a node is given
// up the apiserver is asked twice, a margin apart, whether the lease is still as it was: if it can't be reached,
// the silence is not the node's, and all clocks start anew.
//
// Eviction is slowed down as in Kubernetes: one node in ten seconds per zone, slower or not at
// all where most of a zone is unhealthy, and not at all when no node of the cluster is ready.
package nodelifecycle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	coordination "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	coordinationinformers "k8s.io/client-go/informers/coordination/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"skiff/pkg/controller/reconciler"
	"skiff/pkg/controller/workload"
	"skiff/pkg/reconcile"
)

// Config is what can be set beyond what every reconciler has.
type Config struct {
	Rates Rates
	// MonitorGracePeriod, when not 0, is the silence allowed to all nodes, whatever their leases say.
	MonitorGracePeriod time.Duration
}

// Reconciler watches over the nodes. Its keys are their names, and it has one
// worker, to which everything but health belongs.
type Reconciler struct {
	config Config
	client kubernetes.Interface
	reader kubernetes.Interface
	nodes  corelisters.NodeLister
	store  cache.SharedIndexInformer
	pods   cache.SharedIndexInformer
	leases cache.SharedIndexInformer
	events record.EventRecorder
	health *health
	zones  *zones
	ready  map[string]bool // what was last known of each node
	loop   *reconcile.Loop[string]
	log    *slog.Logger
}

// New makes the reconciler.
func New(c reconciler.Config, config Config) *Reconciler {
	nodes := c.Informers.Core().V1().Nodes()
	r := &Reconciler{
		config: config, client: c.Client, reader: c.Reader, nodes: nodes.Lister(), store: nodes.Informer(),
		pods: c.Informers.Core().V1().Pods().Informer(),
		// Leases of nodes only: those of elections change several times a second.
		leases: coordinationinformers.NewLeaseInformer(c.Reader, v1.NamespaceNodeLease, 0, cache.Indexers{}),
		events: c.Events, health: newHealth(), zones: newZones(config.Rates), ready: map[string]bool{}, log: c.Logger,
	}
	r.loop = reconciler.Loop(c, "node_lifecycle_controller", 1, reconcile.Config[string]{Reconcile: r.reconcile, MaxDelay: 10 * time.Second})
	workload.IndexPodsByNode(r.pods)
	reconciler.OnChange(r.leases, func(_, lease *coordination.Lease) {
		if lease != nil {
			r.leaseSeen(lease)
		}
	})
	reconciler.OnChange(r.store, func(old, current *v1.Node) {
		switch {
		case current == nil:
			r.health.forget(old.Name)
			r.events.Eventf(reference(old), v1.EventTypeNormal, "RemovingNode", "Node %s event: Removing Node %v from Controller", old.Name, old.Name)
			current = old
		case old == nil:
			r.events.Eventf(reference(current), v1.EventTypeNormal, "RegisteredNode", "Node %s event: Registered Node %v in Controller", current.Name, current.Name)
			r.health.statusSeen(current.Name, heartbeat(current), time.Now())
		default:
			r.health.statusSeen(current.Name, heartbeat(current), time.Now())
		}
		r.loop.Add(current.Name)
	})
	return r
}

// Run works until ctx ends.
func (r *Reconciler) Run(ctx context.Context) error {
	return reconciler.RunWith(ctx, []cache.SharedIndexInformer{r.leases}, []cache.InformerSynced{r.store.HasSynced, r.pods.HasSynced}, r.loop.Run)
}

func (r *Reconciler) leaseSeen(lease *coordination.Lease) {
	duration := defaultLease
	if seconds := lease.Spec.LeaseDurationSeconds; seconds != nil && *seconds > 0 {
		duration = time.Duration(*seconds) * time.Second
	}
	renewed := string(lease.UID)
	if lease.Spec.RenewTime != nil {
		renewed += lease.Spec.RenewTime.String()
	}
	r.health.leaseSeen(lease.Name, renewed, duration, r.config.MonitorGracePeriod, time.Now())
}

// heartbeat is what changes in a node's status each time the node posts it, and only then.
func heartbeat(node *v1.Node) string {
	for _, c := range node.Status.Conditions {
		if c.Type == v1.NodeReady && !c.LastHeartbeatTime.IsZero() && c.Reason != "NodeStatusNeverUpdated" {
			return c.LastHeartbeatTime.String()
		}
	}
	return ""
}

func (r *Reconciler) reconcile(ctx context.Context, name string) (time.Duration, error) {
	node, err := r.nodes.Get(name)
	if apierrors.IsNotFound(err) {
		delete(r.ready, name)
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	now := time.Now()
	verdict, again := r.health.judge(name, now)
	if verdict != alive && readiness(node) != v1.ConditionUnknown {
		if verdict, again, err = r.ask(ctx, name, verdict, again); err != nil {
			return 0, err
		}
	}
	if err := r.noteReadiness(ctx, node); err != nil {
		return 0, err
	}
	all, err := r.nodes.List(labels.Everything())
	if err != nil {
		return 0, err
	}
	r.zones.count(all, now)
	evict, wait := r.zones.mayEvict(zoneOf(node), now)
	plan := Decide(Snapshot{Node: node, Silent: verdict == silent, Evict: evict, Disrupted: r.zones.disrupted(), Now: now})
	if plan.Waiting && wait > 0 {
		again = min(again, wait)
	}
	return again, r.execute(ctx, node, plan)
}

// ask makes sure that it is the node that is silent and not the apiserver.
func (r *Reconciler) ask(ctx context.Context, name string, v verdict, again time.Duration) (verdict, time.Duration, error) {
	leases, err := r.reader.CoordinationV1().Leases(v1.NamespaceNodeLease).List(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, name).String(),
	})
	now := time.Now()
	if err != nil {
		r.health.doubtAll(now)
		return alive, 0, fmt.Errorf("node %s is silent, but so is the apiserver: %w", name, err)
	}
	for i := range leases.Items {
		if leases.Items[i].Name == name {
			r.leaseSeen(&leases.Items[i])
		}
	}
	r.health.confirm(name, now)
	if v == suspect {
		r.log.Debug("node is suspected", "node", name)
		return alive, again, nil
	}
	v, again = r.health.judge(name, now)
	return v, again, nil
}

// noteReadiness tells a node's pods that it is no longer ready: once when it says so
// itself, and as long as nothing is heard of it.
func (r *Reconciler) noteReadiness(ctx context.Context, node *v1.Node) error {
	status := readiness(node)
	wasReady, known := r.ready[node.Name]
	if status == v1.ConditionUnknown || (known && wasReady && status == v1.ConditionFalse) {
		if wasReady || !known {
			r.events.Eventf(reference(node), v1.EventTypeNormal, "NodeNotReady", "Node %s status is now: %s", node.Name, "NodeNotReady")
		}
		if err := r.markPods(ctx, node.Name); err != nil {
			return err
		}
	}
	r.ready[node.Name] = status == v1.ConditionTrue
	return nil
}

func (r *Reconciler) markPods(ctx context.Context, node string) error {
	var errs []error
	for _, pod := range workload.PodsOnNode(r.pods.GetIndexer(), node) {
		if !workload.Ready(pod) {
			continue
		}
		condition := *workload.Condition(pod, v1.PodReady)
		condition.Status = v1.ConditionFalse
		err := workload.SetCondition(ctx, r.client, pod, "", &condition)
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			errs = append(errs, fmt.Errorf("mark pod %s/%s not ready: %w", pod.Namespace, pod.Name, err))
			continue
		}
		r.events.Event(pod, v1.EventTypeWarning, "NodeNotReady", "Node is not ready")
	}
	return errors.Join(errs...)
}

func (r *Reconciler) execute(ctx context.Context, node *v1.Node, plan Plan) error {
	switch {
	case plan.Conditions != nil:
		r.log.Info("node gave no sign of life, its status is unknown", "node", node.Name)
		updated := node.DeepCopy()
		updated.Status.Conditions = plan.Conditions
		written, err := r.client.CoreV1().Nodes().UpdateStatus(ctx, updated, metav1.UpdateOptions{})
		return r.wrote(node, written, err)
	case plan.Retaint:
		taints := plan.Taints
		if taints == nil {
			taints = []v1.Taint{}
		}
		patch, err := json.Marshal(map[string]any{
			"metadata": map[string]any{"uid": node.UID, "resourceVersion": node.ResourceVersion},
			"spec":     map[string]any{"taints": taints},
		})
		if err != nil {
			return err
		}
		written, err := r.client.CoreV1().Nodes().Patch(ctx, node.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		if err == nil && plan.Evicted {
			r.zones.evicted(zoneOf(node), time.Now())
		}
		return r.wrote(node, written, err)
	}
	return nil
}

func (r *Reconciler) wrote(node, written *v1.Node, err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("node %s: %w", node.Name, err)
	}
	r.loop.Wrote(node.Name, r.store.GetStore(), written.ResourceVersion)
	return nil
}

func reference(node *v1.Node) *v1.ObjectReference {
	return &v1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}
}
