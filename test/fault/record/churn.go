package record

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Churn keeps the controller and the scheduler at work: it creates replica sets,
// one after the other, whose pods fit only a node that has no agent, so that
// they are created and bound and cost nothing else.
type Churn struct {
	// Undisturbed apiservers let no set ever have too many pods: see [CheckPods].
	Undisturbed bool

	client    kubernetes.Interface
	namespace string
	node      string
	stop      context.CancelFunc
	done      chan struct{}
	pods      *Watcher

	mu   sync.Mutex
	made map[string]time.Time // when a replica set was asked for
	sets []string             // acknowledged
}

// ChurnReplicas is how many pods each of a churn's replica sets wants.
const ChurnReplicas = 3

// StartChurn begins, in a namespace that nothing else is in.
func StartChurn(ctx context.Context, config *rest.Config, namespace string) (*Churn, error) {
	client, err := kubernetes.NewForConfig(Foreign(config))
	if err != nil {
		return nil, err
	}
	c := &Churn{client: client, namespace: namespace, node: "nobody-" + namespace, done: make(chan struct{}), made: map[string]time.Time{}}
	capacity := v1.ResourceList{v1.ResourcePods: resource.MustParse("100000"), v1.ResourceCPU: resource.MustParse("1000"), v1.ResourceMemory: resource.MustParse("1Ti")}
	node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: c.node, Labels: map[string]string{"churn": namespace}},
		Status: v1.NodeStatus{Capacity: capacity, Allocatable: capacity}}
	if _, err := client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
		return nil, fmt.Errorf("the churn's node: %w", err)
	}
	if c.pods, err = Watch(ctx, config, v1.SchemeGroupVersion.WithResource("pods"), namespace); err != nil {
		return nil, err
	}
	ctx, c.stop = context.WithCancel(context.Background())
	go func() { defer close(c.done); c.run(ctx) }()
	return c, nil
}

func (c *Churn) run(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		name := fmt.Sprintf("churn-%d", n)
		c.mu.Lock()
		c.made[name] = time.Now()
		c.mu.Unlock()
		// One that isn't answered is left: it may be there or not.
		limited, cancel := context.WithTimeout(ctx, patience)
		_, err := c.client.AppsV1().ReplicaSets(c.namespace).Create(limited, c.set(name), metav1.CreateOptions{})
		if cancel(); err == nil {
			c.mu.Lock()
			c.sets = append(c.sets, name)
			c.mu.Unlock()
		}
		select {
		case <-ctx.Done():
		case <-time.After(5 * pause):
		}
	}
}

func (c *Churn) set(name string) *appsv1.ReplicaSet {
	labels := map[string]string{"set": name}
	replicas := int32(ChurnReplicas)
	return &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.ReplicaSetSpec{
		Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: v1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: v1.PodSpec{
			TerminationGracePeriodSeconds: new(int64),
			NodeSelector:                  map[string]string{"churn": c.namespace},
			Tolerations:                   []v1.Toleration{{Operator: v1.TolerationOpExists}},
			Containers:                    []v1.Container{{Name: "none", Image: "none"}},
		}},
	}}
}

// Created waits for the first pod of a replica set that was asked for after a moment, and
// returns how long after it was seen: the controller works.
func (c *Churn) Created(ctx context.Context, since time.Time) (time.Duration, error) {
	return c.first(ctx, since, "a pod is created", func(Event) bool { return true })
}

// Bound is the same for the first such pod with a node: the scheduler works.
func (c *Churn) Bound(ctx context.Context, since time.Time) (time.Duration, error) {
	return c.first(ctx, since, "a pod is bound", func(e Event) bool { return nodeOf(e.Object) != "" })
}

func (c *Churn) first(ctx context.Context, since time.Time, what string, is func(Event) bool) (at time.Duration, err error) {
	err = c.pods.Wait(ctx, what, func(events []Event) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, e := range events {
			if made := c.made[ownerOf(e.Object)]; e.At.After(since) && made.After(since) && is(e) {
				at = e.At.Sub(since)
				return true
			}
		}
		return false
	})
	return at, err
}

// Stop ends the churn, waits until every pod of it is there and bound, checks
// them, and takes the node away.
func (c *Churn) Stop(ctx context.Context) error {
	c.stop()
	<-c.done
	wait := c.pods.Wait(ctx, "all pods are bound", c.complete)
	wrong := []error{wait, CheckPods(c.pods.Events(), ChurnReplicas, c.Undisturbed), c.pods.Stop()}
	if err := c.client.CoreV1().Nodes().Delete(ctx, c.node, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		wrong = append(wrong, err)
	}
	return errors.Join(wrong...)
}

func (c *Churn) complete(events []Event) bool {
	bound := map[string]map[string]bool{}
	for _, e := range events {
		if owner := ownerOf(e.Object); nodeOf(e.Object) != "" {
			if bound[owner] == nil {
				bound[owner] = map[string]bool{}
			}
			bound[owner][e.Object.GetName()] = true
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, set := range c.sets {
		if len(bound[set]) < ChurnReplicas {
			return false
		}
	}
	return true
}
