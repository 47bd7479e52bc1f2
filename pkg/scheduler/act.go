package scheduler

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// callTimeout bounds each request: an answer that doesn't come is an error, and the pod is tried again.
const callTimeout = 10 * time.Second

// bind tells the apiserver where a pod goes. If that fails, the place is given
// up and the pod tried again; the apiserver takes only one binding of a pod, so a binding that succeeded
// unnoticed does no harm.
func (s *Scheduler) bind(ctx context.Context, it *item, d Decision, start time.Time) {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	binding := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Namespace: it.Namespace, Name: it.Name, UID: it.UID},
		Target: corev1.ObjectReference{Kind: "Node", Name: d.Node}}
	err := s.client.CoreV1().Pods(it.Namespace).Bind(call, binding, metav1.CreateOptions{})
	if err == nil {
		s.metrics.scheduled(it, s.config.Name, start)
		s.events.Eventf(it.Pod.Pod, nil, corev1.EventTypeNormal, "Scheduled", "Binding", "Successfully assigned %v/%v to %v", it.Namespace, it.Name, d.Node)
		s.mu.Lock()
		if s.queue.items[it.key] == it {
			s.queue.take(it)
		}
		s.mu.Unlock()
		return
	}
	if ctx.Err() != nil {
		return
	}
	s.metrics.tried("error", s.config.Name, start)
	s.config.Logger.Warn("binding failed", "pod", it.key, "node", d.Node, "error", err)
	s.mu.Lock()
	p := it.pod // may be replaced once it waits again
	s.forget(it)
	current := s.queue.items[it.key] == it
	if current {
		if apierrors.IsNotFound(err) { // the watch will tell
			s.queue.take(it)
		} else {
			it.errors++
			it.until = time.Now().Add(delay(it.errors))
			it.queued = time.Now()
			s.queue.put(it, backoff)
		}
	}
	s.mu.Unlock()
	s.wake()
	if current && !apierrors.IsNotFound(err) {
		message := fmt.Sprintf("binding rejected: %v", err)
		s.report(ctx, p, Decision{Pod: p.key, Message: message}, p.Status.NominatedNodeName, true)
	}
}

// forget takes back an assumed placement that the watch has not confirmed.
func (s *Scheduler) forget(it *item) {
	if p := s.cluster.pods[it.key]; p == it.pod && p.assumed {
		slot := p.slot
		s.cluster.removePod(it.key)
		p.assumed = false
		s.freed(p, slot)
	}
}

// report tells why a pod has no node: in its condition, in an event, and by
// making room if that was decided.
func (s *Scheduler) report(ctx context.Context, p *pod, d Decision, nominate string, speak bool) {
	reason := corev1.PodReasonUnschedulable
	if d.Nodes == 0 && d.Message != messageNoNodes {
		reason = corev1.PodReasonSchedulerError
	}
	if speak {
		s.events.Eventf(p.Pod.Pod, nil, corev1.EventTypeWarning, "FailedScheduling", "Scheduling", "%s", truncate(d.Message))
	}
	condition := corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: reason, Message: d.Message, ObservedGeneration: p.Generation}
	if err := s.patchStatus(ctx, p, condition, nominate); err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
		s.config.Logger.Warn("pod status", "pod", p.key, "error", err)
	}
	if d.Preemption != nil {
		for _, victim := range d.Preemption.victims {
			if err := s.evict(ctx, victim, p, d.Preemption.Node); err != nil && ctx.Err() == nil {
				s.config.Logger.Warn("preemption", "pod", p.key, "victim", victim.key, "error", err)
			}
		}
	}
}

// truncate keeps a message within what an event may hold.
func truncate(message string) string {
	const limit, suffix = 1024, " ..."
	if len(message) <= limit {
		return message
	}
	return message[:limit-len(suffix)] + suffix
}

// patchStatus sets a condition and the nominated node, if they are news.
func (s *Scheduler) patchStatus(ctx context.Context, p *pod, condition corev1.PodCondition, nominate string) error {
	i := slices.IndexFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == condition.Type })
	status := map[string]any{}
	if p.Status.NominatedNodeName != nominate {
		status["nominatedNodeName"] = nominate
	}
	if i < 0 || !same(p.Status.Conditions[i], condition) {
		c := map[string]any{"type": condition.Type, "status": condition.Status, "reason": condition.Reason, "message": condition.Message,
			"observedGeneration": condition.ObservedGeneration}
		if i < 0 || p.Status.Conditions[i].Status != condition.Status {
			c["lastTransitionTime"] = metav1.Now()
		}
		status["conditions"] = []any{c}
	}
	if len(status) == 0 {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": p.UID}, "status": status})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err = s.client.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil {
		return fmt.Errorf("patch status of pod %s: %w", p.key, err)
	}
	return nil
}

func same(a, b corev1.PodCondition) bool {
	return a.Status == b.Status && a.Reason == b.Reason && a.Message == b.Message && a.ObservedGeneration == b.ObservedGeneration
}

// evict deletes a pod to make room for another.
func (s *Scheduler) evict(ctx context.Context, victim, preemptor *pod, node string) error {
	if victim.DeletionTimestamp != nil {
		return nil
	}
	condition := corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonPreemptionByScheduler,
		Message: s.config.Name + ": preempting to accommodate a higher priority pod", ObservedGeneration: victim.Generation}
	if err := s.patchStatus(ctx, victim, condition, victim.Status.NominatedNodeName); err != nil {
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := s.client.CoreV1().Pods(victim.Namespace).Delete(call, victim.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(victim.UID))})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete pod %s: %w", victim.key, err)
	}
	s.events.Eventf(victim.Pod.Pod, preemptor.Pod.Pod, corev1.EventTypeNormal, "Preempted", "Preempting", "Preempted by pod %v on node %v", preemptor.UID, node)
	return nil
}
