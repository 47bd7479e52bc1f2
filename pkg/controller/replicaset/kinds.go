package replicaset

import (
	"context"

	apps "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"

	"skiff/pkg/controller/reconciler"
)

// kind is how the reconciler reaches one of the two kinds. Everything it
// sees is a replica set.
type kind struct {
	gvk      schema.GroupVersionKind
	informer cache.SharedIndexInformer
	onEach   func(func(metav1.Object))
	get      func(key) *apps.ReplicaSet // nil when there is none
	list     func(namespace string) []*apps.ReplicaSet
	fresh    func(context.Context, key) (metav1.Object, error)
	// updateStatus returns the new resource version.
	updateStatus func(ctx context.Context, set *apps.ReplicaSet, status apps.ReplicaSetStatus) (string, error)
	// reportsTerminating: the kind's status has terminatingReplicas.
	reportsTerminating bool
	// subject is what events are about.
	subject func(*apps.ReplicaSet) runtime.Object
}

func replicaSets(c reconciler.Config) kind {
	informer := c.Informers.Apps().V1().ReplicaSets()
	return kind{
		gvk:                apps.SchemeGroupVersion.WithKind("ReplicaSet"),
		informer:           informer.Informer(),
		reportsTerminating: true,
		onEach: func(handle func(metav1.Object)) {
			reconciler.OnEach(informer.Informer(), func(rs *apps.ReplicaSet) { handle(rs) })
		},
		get: func(key key) *apps.ReplicaSet {
			rs, err := informer.Lister().ReplicaSets(key.Namespace).Get(key.Name)
			if err != nil {
				return nil
			}
			return rs
		},
		list: func(namespace string) []*apps.ReplicaSet {
			sets, _ := informer.Lister().ReplicaSets(namespace).List(labels.Everything())
			return sets
		},
		fresh: func(ctx context.Context, key key) (metav1.Object, error) {
			return c.Client.AppsV1().ReplicaSets(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
		},
		updateStatus: func(ctx context.Context, set *apps.ReplicaSet, status apps.ReplicaSetStatus) (string, error) {
			set = set.DeepCopy()
			set.Status = status
			updated, err := c.Client.AppsV1().ReplicaSets(set.Namespace).UpdateStatus(ctx, set, metav1.UpdateOptions{})
			if err != nil {
				return "", err
			}
			return updated.ResourceVersion, nil
		},
		subject: func(set *apps.ReplicaSet) runtime.Object { return set },
	}
}

func replicationControllers(c reconciler.Config) kind {
	informer := c.Informers.Core().V1().ReplicationControllers()
	gvk := v1.SchemeGroupVersion.WithKind("ReplicationController")
	return kind{
		gvk:      gvk,
		informer: informer.Informer(),
		onEach: func(handle func(metav1.Object)) {
			reconciler.OnEach(informer.Informer(), func(rc *v1.ReplicationController) { handle(rc) })
		},
		get: func(key key) *apps.ReplicaSet {
			rc, err := informer.Lister().ReplicationControllers(key.Namespace).Get(key.Name)
			if err != nil {
				return nil
			}
			return asReplicaSet(rc)
		},
		list: func(namespace string) []*apps.ReplicaSet {
			rcs, _ := informer.Lister().ReplicationControllers(namespace).List(labels.Everything())
			sets := make([]*apps.ReplicaSet, 0, len(rcs))
			for _, rc := range rcs {
				sets = append(sets, asReplicaSet(rc))
			}
			return sets
		},
		fresh: func(ctx context.Context, key key) (metav1.Object, error) {
			return c.Client.CoreV1().ReplicationControllers(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
		},
		updateStatus: func(ctx context.Context, set *apps.ReplicaSet, status apps.ReplicaSetStatus) (string, error) {
			rc := &v1.ReplicationController{ObjectMeta: set.ObjectMeta, Spec: asSpec(set), Status: asStatus(status)}
			updated, err := c.Client.CoreV1().ReplicationControllers(set.Namespace).UpdateStatus(ctx, rc, metav1.UpdateOptions{})
			if err != nil {
				return "", err
			}
			return updated.ResourceVersion, nil
		},
		subject: func(set *apps.ReplicaSet) runtime.Object {
			return &v1.ObjectReference{
				APIVersion: gvk.GroupVersion().String(), Kind: gvk.Kind,
				Namespace: set.Namespace, Name: set.Name, UID: set.UID, ResourceVersion: set.ResourceVersion,
			}
		},
	}
}

// asReplicaSet sees a replication controller as the replica set that does the same.
func asReplicaSet(rc *v1.ReplicationController) *apps.ReplicaSet {
	set := &apps.ReplicaSet{
		ObjectMeta: rc.ObjectMeta,
		Spec: apps.ReplicaSetSpec{
			Replicas:        rc.Spec.Replicas,
			MinReadySeconds: rc.Spec.MinReadySeconds,
			Selector:        &metav1.LabelSelector{MatchLabels: rc.Spec.Selector},
		},
		Status: apps.ReplicaSetStatus{
			Replicas:             rc.Status.Replicas,
			FullyLabeledReplicas: rc.Status.FullyLabeledReplicas,
			ReadyReplicas:        rc.Status.ReadyReplicas,
			AvailableReplicas:    rc.Status.AvailableReplicas,
			ObservedGeneration:   rc.Status.ObservedGeneration,
		},
	}
	if rc.Spec.Template != nil {
		set.Spec.Template = *rc.Spec.Template
	}
	for _, c := range rc.Status.Conditions {
		set.Status.Conditions = append(set.Status.Conditions, apps.ReplicaSetCondition{
			Type: apps.ReplicaSetConditionType(c.Type), Status: c.Status,
			LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	return set
}

func asSpec(set *apps.ReplicaSet) v1.ReplicationControllerSpec {
	return v1.ReplicationControllerSpec{
		Replicas:        set.Spec.Replicas,
		MinReadySeconds: set.Spec.MinReadySeconds,
		Selector:        set.Spec.Selector.MatchLabels,
		Template:        &set.Spec.Template,
	}
}

// asStatus drops terminatingReplicas, which replication controllers don't report.
func asStatus(status apps.ReplicaSetStatus) v1.ReplicationControllerStatus {
	s := v1.ReplicationControllerStatus{
		Replicas:             status.Replicas,
		FullyLabeledReplicas: status.FullyLabeledReplicas,
		ReadyReplicas:        status.ReadyReplicas,
		AvailableReplicas:    status.AvailableReplicas,
		ObservedGeneration:   status.ObservedGeneration,
	}
	for _, c := range status.Conditions {
		s.Conditions = append(s.Conditions, v1.ReplicationControllerCondition{
			Type: v1.ReplicationControllerConditionType(c.Type), Status: c.Status,
			LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	return s
}
