// Package podgc removes pods that nobody else will: those whose node is gone, those
// deleted before they had a node, those terminating on a node that is out of service for good, and, when more than
// a threshold have ended, the oldest of these.
package podgc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"skiff/pkg/controller/reconciler"
	"skiff/pkg/controller/workload"
	"skiff/pkg/reconcile"
)

// interval between two looks. A pod deleted before it had a node is noticed at once.
const interval = 20 * time.Second

// everyPod is the only key.
type everyPod struct{}

// Reconciler removes pods.
type Reconciler struct {
	client    kubernetes.Interface
	nodes     corelisters.NodeLister
	pods      corelisters.PodLister
	synced    []cache.InformerSynced
	threshold int
	missing   map[string]time.Time // touched by the single worker only
	loop      *reconcile.Loop[everyPod]
	log       *slog.Logger
}

// New makes the reconciler, which keeps up to threshold ended pods (0: any number).
func New(c reconciler.Config, threshold int) *Reconciler {
	nodes, pods := c.Informers.Core().V1().Nodes(), c.Informers.Core().V1().Pods()
	r := &Reconciler{
		client: c.Client, nodes: nodes.Lister(), pods: pods.Lister(), threshold: threshold, log: c.Logger,
		synced:  []cache.InformerSynced{nodes.Informer().HasSynced, pods.Informer().HasSynced},
		missing: map[string]time.Time{},
	}
	r.loop = reconciler.Loop(c, "pod_gc", 1, reconcile.Config[everyPod]{Reconcile: r.reconcile, MaxDelay: interval})
	r.loop.Add(everyPod{})
	reconciler.OnChange(pods.Informer(), func(_, current *v1.Pod) {
		if current != nil && current.DeletionTimestamp != nil && current.Spec.NodeName == "" {
			r.loop.Add(everyPod{})
		}
	})
	return r
}

// Run works until ctx ends.
func (r *Reconciler) Run(ctx context.Context) error { return reconciler.Run(ctx, r.synced, r.loop.Run) }

func (r *Reconciler) reconcile(ctx context.Context, _ everyPod) (time.Duration, error) {
	s, err := r.snapshot()
	if err != nil {
		return 0, err
	}
	var errs []error
	exists := map[string]bool{}
	for _, step := range Decide(s) {
		if step.Orphaned {
			node := step.Pod.Spec.NodeName
			if _, asked := exists[node]; !asked {
				_, err := r.client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
				exists[node] = !apierrors.IsNotFound(err)
			}
			if exists[node] {
				continue // it is back, or can't be asked for
			}
		}
		errs = append(errs, r.remove(ctx, step))
	}
	return interval, errors.Join(errs...)
}

func (r *Reconciler) snapshot() (Snapshot, error) {
	s := Snapshot{Nodes: map[string]*v1.Node{}, Missing: r.missing, Threshold: r.threshold, Now: time.Now()}
	nodes, err := r.nodes.List(labels.Everything())
	if err != nil {
		return s, err
	}
	for _, node := range nodes {
		s.Nodes[node.Name] = node
	}
	if s.Pods, err = r.pods.List(labels.Everything()); err != nil {
		return s, err
	}
	needed := map[string]bool{}
	for _, pod := range s.Pods {
		if name := pod.Spec.NodeName; name != "" && s.Nodes[name] == nil {
			needed[name] = true
			if _, known := r.missing[name]; !known {
				r.missing[name] = s.Now
			}
		}
	}
	for name := range r.missing {
		if !needed[name] {
			delete(r.missing, name)
		}
	}
	return s, nil
}

// remove marks a pod as failed, if it hasn't ended, and deletes it without grace.
func (r *Reconciler) remove(ctx context.Context, step Step) error {
	pod := step.Pod
	r.log.Info("removing pod", "pod", reconciler.KeyOf(pod), "reason", step.Reason)
	var err error
	if !workload.Ended(pod) {
		var condition *v1.PodCondition
		if step.Orphaned {
			condition = &v1.PodCondition{
				Type: v1.DisruptionTarget, Status: v1.ConditionTrue, ObservedGeneration: pod.Generation,
				Reason: "DeletionByPodGC", Message: "PodGC: node no longer exists",
			}
		}
		err = workload.SetCondition(ctx, r.client, pod, v1.PodFailed, condition)
	}
	if err == nil {
		now := int64(0)
		err = r.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
			GracePeriodSeconds: &now, Preconditions: metav1.NewUIDPreconditions(string(pod.UID)),
		})
	}
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("remove pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}
