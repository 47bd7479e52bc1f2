package scheduler

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"skiff/pkg/election"
)

// watches are the informers. Their first lists are consistent reads, so what they start with is the present.
type watches struct {
	all, pods informers.SharedInformerFactory
}

func (w *watches) wait() {
	w.all.Shutdown()
	w.pods.Shutdown()
}

// startWatches fills the cluster and the queue, and keeps them up to date until ctx ends.
func (s *Scheduler) startWatches(ctx context.Context) error {
	s.watching.all = informers.NewSharedInformerFactoryWithOptions(s.client, 0, informers.WithTransform(trim), informers.WithTweakListOptions(election.FreshList))
	s.watching.pods = informers.NewSharedInformerFactoryWithOptions(s.client, 0, informers.WithTransform(trim),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			election.FreshList(o)
			o.FieldSelector = "status.phase!=" + string(corev1.PodSucceeded) + ",status.phase!=" + string(corev1.PodFailed)
		}))
	all := s.watching.all
	first := []watched{
		{all.Core().V1().Nodes().Informer(), handler(s, s.nodeChanged)},
		{all.Core().V1().Namespaces().Informer(), handler(s, s.namespaceChanged)},
		{all.Core().V1().Services().Informer(), handler(s, s.serviceChanged)},
		{all.Core().V1().PersistentVolumeClaims().Informer(), handler(s, changed(s, func(c *cluster) map[string]*corev1.PersistentVolumeClaim { return c.claims }))},
		{all.Core().V1().PersistentVolumes().Informer(), handler(s, changed(s, func(c *cluster) map[string]*corev1.PersistentVolume { return c.volumes }))},
		{all.Storage().V1().StorageClasses().Informer(), handler(s, changed(s, func(c *cluster) map[string]*storagev1.StorageClass { return c.storage }))},
		{all.Policy().V1().PodDisruptionBudgets().Informer(), handler(s, s.budgetChanged)},
	}
	// Pods come last, so that the first of them meets a complete cluster.
	for _, stage := range [][]watched{first, {{s.watching.pods.Core().V1().Pods().Informer(), handler(s, s.podChanged)}}} {
		if err := s.start(ctx, stage); err != nil {
			return err
		}
	}
	close(s.synced)
	return nil
}

type watched struct {
	informer cache.SharedIndexInformer
	handler  cache.ResourceEventHandler
}

// start runs informers, and returns when their handlers have seen the first list.
func (s *Scheduler) start(ctx context.Context, all []watched) error {
	var synced []cache.DoneChecker
	for _, w := range all {
		registration, err := w.informer.AddEventHandler(w.handler)
		if err != nil {
			return fmt.Errorf("watch: %w", err)
		}
		synced = append(synced, registration.HasSyncedChecker())
	}
	s.watching.all.StartWithContext(ctx)
	if len(all) == 1 {
		s.watching.pods.StartWithContext(ctx)
	}
	if !cache.WaitFor(ctx, "", synced...) {
		return context.Cause(ctx)
	}
	return nil
}

// handler calls change under the lock, with nil for what isn't there.
func handler[T any](s *Scheduler, change func(old, new *T)) cache.ResourceEventHandler {
	call := func(old, new *T) {
		s.mu.Lock()
		defer s.mu.Unlock()
		change(old, new)
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { call(nil, object.(*T)) },
		UpdateFunc: func(old, object any) { call(old.(*T), object.(*T)) },
		DeleteFunc: func(object any) {
			if unknown, ok := object.(cache.DeletedFinalStateUnknown); ok {
				object = unknown.Obj
			}
			if old, ok := object.(*T); ok {
				call(old, nil)
			}
		},
	}
}

// object is what has a name; T is a struct, its pointer an object.
type object[T any] interface {
	*T
	metav1.Object
}

func keyOf(o metav1.Object) string {
	if o.GetNamespace() == "" {
		return o.GetName()
	}
	return o.GetNamespace() + "/" + o.GetName()
}

// changed keeps a map of objects that volumes depend on.
func changed[T any, P object[T]](s *Scheduler, in func(*cluster) map[string]P) func(old, new *T) {
	return func(old, new *T) {
		if new == nil {
			delete(in(s.cluster), keyOf(P(old)))
		} else {
			in(s.cluster)[keyOf(P(new))] = P(new)
		}
		s.volumesChanged()
	}
}

func (s *Scheduler) budgetChanged(old, new *policyv1.PodDisruptionBudget) {
	if new == nil {
		delete(s.cluster.budgets, keyOf(old))
	} else {
		s.cluster.budgets[keyOf(new)] = new
	}
}

func (s *Scheduler) namespaceChanged(old, new *corev1.Namespace) {
	switch {
	case new == nil:
		delete(s.cluster.namespaces, old.Name)
	case old == nil || !maps.Equal(old.Labels, new.Labels):
		s.cluster.namespaces[new.Name] = labels.Set(new.Labels)
	default:
		return
	}
	if len(s.cluster.concerning) > 0 || len(s.queue.items) > 0 {
		s.everythingChanged()
	}
}

func (s *Scheduler) serviceChanged(old, new *corev1.Service) {
	if new == nil {
		s.cluster.setService(old.Namespace, old.Name, nil)
	} else {
		s.cluster.setService(new.Namespace, new.Name, new.Spec.Selector)
	}
}

func (s *Scheduler) nodeChanged(old, new *corev1.Node) {
	if new == nil {
		s.cluster.removeNode(old.Name)
		s.nodeMoved()
		return
	}
	if old != nil && maps.Equal(old.Labels, new.Labels) && old.Spec.Unschedulable == new.Spec.Unschedulable &&
		slices.EqualFunc(old.Spec.Taints, new.Spec.Taints, func(a, b corev1.Taint) bool { return a.Key == b.Key && a.Value == b.Value && a.Effect == b.Effect }) &&
		apiequality.Semantic.DeepEqual(old.Status.Allocatable, new.Status.Allocatable) {
		return // a heartbeat
	}
	slot := s.cluster.setNode(new)
	s.nodeMoved()
	s.roomOn(slot)
}

func (s *Scheduler) podChanged(old, new *corev1.Pod) {
	switch {
	case new == nil:
		s.podGone(old)
	case new.Spec.NodeName != "":
		s.podPlaced(old, new)
	case new.Spec.SchedulerName == s.config.Name:
		s.podWaits(old, new)
	}
}

func (s *Scheduler) podGone(old *corev1.Pod) {
	key := keyOf(old)
	if it := s.queue.items[key]; it != nil {
		s.queue.take(it)
	}
	s.roomOn(s.cluster.unreserve(key))
	if p := s.cluster.pods[key]; p != nil {
		slot := p.slot
		s.cluster.removePod(key)
		s.freed(p, slot)
	}
}

// podPlaced takes in a pod on a node: one that was bound just now, here or
// elsewhere, or one that changed.
func (s *Scheduler) podPlaced(old, new *corev1.Pod) {
	key := keyOf(new)
	if it := s.queue.items[key]; it != nil {
		s.queue.take(it)
	}
	s.cluster.unreserve(key)
	before := s.cluster.pods[key]
	if old != nil && before != nil && !before.assumed && !matters(old, new) {
		return
	}
	p := newPod(new)
	if before != nil && before.assumed && before.UID == new.UID && before.slot != none &&
		s.cluster.nodes[before.slot].name == new.Spec.NodeName && !matters(before.Pod.Pod, new) {
		before.assumed = false // as it was thought
		return
	}
	slot := none
	if before != nil {
		slot = before.slot
	}
	s.cluster.addPod(p, new.Spec.NodeName)
	s.counted(p)
	if before != nil {
		s.counted(before)
		if p.slot != slot || p.Requests.LessThan(&before.Requests) {
			s.roomOn(slot)
		}
	}
}

// matters reports whether two states of a pod on a node differ for the scheduler.
func matters(a, b *corev1.Pod) bool {
	differ := func(x, y any) bool { return !apiequality.Semantic.DeepEqual(x, y) }
	return a.UID != b.UID || (a.DeletionTimestamp == nil) != (b.DeletionTimestamp == nil) || !maps.Equal(a.Labels, b.Labels) ||
		differ(a.Spec.Containers, b.Spec.Containers) || differ(a.Spec.Resources, b.Spec.Resources) || differ(a.Spec.InitContainers, b.Spec.InitContainers) ||
		differ(a.Status.ContainerStatuses, b.Status.ContainerStatuses) || differ(a.Status.InitContainerStatuses, b.Status.InitContainerStatuses) ||
		differ(marks(a), marks(b))
}

// marks are the conditions that decisions look at.
func marks(p *corev1.Pod) (all []string) {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.DisruptionTarget || c.Type == corev1.PodResizePending {
			all = append(all, string(c.Type)+string(c.Status)+c.Reason)
		}
	}
	return all
}

// podWaits takes in a pod that has no node.
func (s *Scheduler) podWaits(old, new *corev1.Pod) {
	key, now := keyOf(new), time.Now()
	it := s.queue.items[key]
	if new.DeletionTimestamp != nil {
		if it != nil && it.place != flight {
			s.queue.take(it)
			s.cluster.unreserve(key)
		}
		return
	}
	if it != nil && it.UID != new.UID {
		s.queue.take(it)
		it = nil
	}
	if it != nil && it.place == flight {
		return // it will be bound, or come back
	}
	p := newPod(new)
	if it == nil {
		it = &item{pod: p, since: now, queued: now}
	} else if old != nil && apiequality.Semantic.DeepEqual(old.Spec, new.Spec) && maps.Equal(old.Labels, new.Labels) {
		it.pod = p // its status: what was written here
		return
	}
	wasGated := it.place == gated
	s.queue.take(it)
	it.pod, it.class = p, p.signature()
	if new.Status.NominatedNodeName != "" {
		s.cluster.reserve(p, new.Status.NominatedNodeName)
	}
	if len(new.Spec.SchedulingGates) > 0 {
		s.queue.put(it, gated)
		return
	}
	if wasGated {
		it.until = time.Time{}
	}
	s.queue.retry(it, now)
	s.wake()
}

// trim drops what the scheduler doesn't look at, before it is stored.
func trim(object any) (any, error) {
	switch o := object.(type) {
	case *corev1.Pod:
		trimPod(o)
	case *corev1.Node:
		o.ManagedFields, o.Annotations = nil, nil
		o.Status = corev1.NodeStatus{Allocatable: o.Status.Allocatable}
	case *corev1.Service:
		o.ManagedFields, o.Annotations, o.Status = nil, nil, corev1.ServiceStatus{}
	case metav1.Object:
		o.SetManagedFields(nil)
	}
	return object, nil
}

func trimPod(p *corev1.Pod) {
	p.ManagedFields, p.Annotations, p.Finalizers = nil, nil, nil
	containers := func(all []corev1.Container) {
		for i, c := range all {
			all[i] = corev1.Container{Name: c.Name, Resources: c.Resources, Ports: c.Ports, RestartPolicy: c.RestartPolicy}
		}
	}
	containers(p.Spec.InitContainers)
	containers(p.Spec.Containers)
	p.Spec.EphemeralContainers = nil
	p.Spec.Volumes = slices.DeleteFunc(p.Spec.Volumes, func(v corev1.Volume) bool { return v.PersistentVolumeClaim == nil && v.Ephemeral == nil })
	statuses := func(all []corev1.ContainerStatus) []corev1.ContainerStatus {
		var kept []corev1.ContainerStatus
		for _, c := range all {
			if c.Resources != nil || c.AllocatedResources != nil {
				kept = append(kept, corev1.ContainerStatus{Name: c.Name, Resources: c.Resources, AllocatedResources: c.AllocatedResources})
			}
		}
		return kept
	}
	p.Status = corev1.PodStatus{Phase: p.Status.Phase, StartTime: p.Status.StartTime, NominatedNodeName: p.Status.NominatedNodeName,
		Conditions: slices.DeleteFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type != corev1.PodScheduled && c.Type != corev1.DisruptionTarget && c.Type != corev1.PodResizePending
		}),
		ContainerStatuses: statuses(p.Status.ContainerStatuses), InitContainerStatuses: statuses(p.Status.InitContainerStatuses)}
}
