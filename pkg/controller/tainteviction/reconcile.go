// Package tainteviction deletes pods from nodes whose taints they don't tolerate (effect
// NoExecute), or no longer: a toleration may be limited in time. The time counts from
// when this process first saw pod and taint together, on its own clock; a taint that goes before it is
// over cancels the eviction.
package tainteviction

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"skiff/pkg/controller/reconciler"
	"skiff/pkg/controller/workload"
	"skiff/pkg/reconcile"
)

type key = reconciler.Key

// Reconciler evicts pods. Its keys are pods.
type Reconciler struct {
	client kubernetes.Interface
	nodes  corelisters.NodeLister
	pods   cache.SharedIndexInformer
	synced []cache.InformerSynced
	events record.EventRecorder
	loop   *reconcile.Loop[key]
	log    *slog.Logger

	mu    sync.Mutex
	since map[types.UID]time.Time // when a pod was first seen to have to go, some time
}

// New makes the reconciler.
func New(c reconciler.Config) *Reconciler {
	nodes, pods := c.Informers.Core().V1().Nodes(), c.Informers.Core().V1().Pods()
	r := &Reconciler{
		client: c.Client, nodes: nodes.Lister(), pods: pods.Informer(), events: c.Events, log: c.Logger,
		synced: []cache.InformerSynced{nodes.Informer().HasSynced, pods.Informer().HasSynced},
		since:  map[types.UID]time.Time{},
	}
	r.loop = reconciler.Loop(c, "taint_eviction", 8, reconcile.Config[key]{Reconcile: r.reconcile, MaxDelay: time.Minute})
	workload.IndexPodsByNode(r.pods)
	reconciler.OnChange(nodes.Informer(), func(old, current *v1.Node) {
		if current == nil || (old != nil && apiequality.Semantic.DeepEqual(old.Spec.Taints, current.Spec.Taints)) {
			return
		}
		for _, pod := range workload.PodsOnNode(r.pods.GetIndexer(), current.Name) {
			r.loop.Add(reconciler.KeyOf(pod))
		}
	})
	reconciler.OnChange(r.pods, func(old, current *v1.Pod) {
		switch {
		case current == nil:
			r.cancel(old)
		case current.Spec.NodeName != "" && (old == nil || old.Spec.NodeName == "" || !apiequality.Semantic.DeepEqual(old.Spec.Tolerations, current.Spec.Tolerations)):
			r.loop.Add(reconciler.KeyOf(current))
		}
	})
	return r
}

// Run works until ctx ends.
func (r *Reconciler) Run(ctx context.Context) error { return reconciler.Run(ctx, r.synced, r.loop.Run) }

func (r *Reconciler) reconcile(ctx context.Context, key key) (time.Duration, error) {
	object, exists, err := r.pods.GetStore().GetByKey(key.String())
	if err != nil || !exists {
		return 0, err
	}
	pod := object.(*v1.Pod)
	node, err := r.nodes.Get(pod.Spec.NodeName)
	if err != nil || pod.DeletionTimestamp != nil {
		return 0, nil // no node, no taints; and a pod that goes needn't be told
	}
	plan := Decide(pod, node.Spec.Taints)
	if !plan.Evict {
		if r.cancel(pod) {
			r.events.Eventf(pod, v1.EventTypeNormal, "TaintManagerEviction", "Cancelling deletion of Pod %s", key)
		}
		return 0, nil
	}
	if wait := plan.After - time.Since(r.start(pod)); wait > 0 {
		return wait, nil
	}
	return 0, r.evict(ctx, key, pod)
}

// start is when the pod's time began to run.
func (r *Reconciler) start(pod *v1.Pod) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, running := r.since[pod.UID]; !running {
		r.since[pod.UID] = time.Now()
	}
	return r.since[pod.UID]
}

func (r *Reconciler) cancel(pod *v1.Pod) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, running := r.since[pod.UID]
	delete(r.since, pod.UID)
	return running
}

func (r *Reconciler) evict(ctx context.Context, key key, pod *v1.Pod) error {
	r.log.Info("evicting pod from a tainted node", "pod", key, "node", pod.Spec.NodeName)
	r.events.Eventf(pod, v1.EventTypeNormal, "TaintManagerEviction", "Marking for deletion Pod %s", key)
	err := workload.SetCondition(ctx, r.client, pod, "", &v1.PodCondition{
		Type: v1.DisruptionTarget, Status: v1.ConditionTrue, ObservedGeneration: pod.Generation,
		Reason: "DeletionByTaintManager", Message: "Taint manager: deleting due to NoExecute taint",
	})
	if err == nil {
		err = r.client.CoreV1().Pods(key.Namespace).Delete(ctx, key.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
	}
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("evict pod %s: %w", key, err)
	}
	r.loop.Deleted(key, r.pods.GetStore(), key.String(), pod.UID)
	return nil
}
