package apiserver

import (
	"context"
	"fmt"
	"maps"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/api"
	"skiff/pkg/api/core"
	"skiff/pkg/apiserver/request"
)

// legacyBind is bind for POST /bindings.
func (s *server) legacyBind(w http.ResponseWriter, r *http.Request, c *call, binding *corev1.Binding, options *metav1.CreateOptions) error {
	pods := s.kind(corev1.SchemeGroupVersion.WithKind("Pod"))
	if pods == nil {
		return notFoundPath()
	}
	c.Info.Name, c.key.Name = binding.Name, binding.Name
	pod := *c
	pod.kind = pods
	pod.key.Path = pods.StoragePath
	return s.bindTo(w, r, c, &pod, binding, options)
}

// bind assigns a pod to a node, once.
func (s *server) bind(w http.ResponseWriter, r *http.Request, c *call, binding *corev1.Binding, options *metav1.CreateOptions) error {
	return s.bindTo(w, r, c, c, binding, options)
}

// bindTo is bind for the pod of another call than the one that was made.
func (s *server) bindTo(w http.ResponseWriter, r *http.Request, c, pod *call, binding *corev1.Binding, options *metav1.CreateOptions) error {
	if binding.Name != c.key.Name {
		return apierrors.NewBadRequest("name in URL does not match name in Binding object")
	}
	if err := s.mutate(r.Context(), c.attributes(r.Context(), request.Create, binding, nil, options, isDryRun(options.DryRun))); err != nil {
		return err
	}
	if errs := core.ValidateBinding(binding); len(errs) > 0 {
		return request.Plain(errs.ToAggregate())
	}
	if err := s.validate(r.Context(), c.attributes(r.Context(), request.Create, binding.DeepCopy(), nil, options, isDryRun(options.DryRun))); err != nil {
		return err
	}
	if err := s.assign(r.Context(), pod, binding, isDryRun(options.DryRun)); err != nil {
		return err
	}
	s.writeSuccess(w, r, &call{accept: c.plain(s)})
	return nil
}

// assign writes the node into the pod, if it has none yet.
func (s *server) assign(ctx context.Context, c *call, binding *corev1.Binding, dryRun bool) error {
	write, err := s.newWrite(ctx, c, nil)
	if err != nil {
		return err
	}
	if binding.UID != "" {
		write.UID = &binding.UID
	}
	write.ResourceVersion = binding.ResourceVersion
	try := func(current api.Object) (api.Object, error) {
		pod := current.(*corev1.Pod)
		if reason := unassignable(pod); reason != nil {
			return nil, apierrors.NewConflict(corev1.Resource("pods/binding"), pod.Name, reason)
		}
		pod.Spec.NodeName = binding.Target.Name
		pod.Status.NominatedNodeName = "" // a hint that has served its purpose
		pod.Annotations = merge(pod.Annotations, binding.Annotations)
		pod.Labels = merge(pod.Labels, binding.Labels)
		setPodCondition(&pod.Status, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue})
		return pod, nil
	}
	if !dryRun {
		_, err = s.store.Update(ctx, c.kind, c.key, write, try)
		return err
	}
	entry, err := s.store.Get(ctx, c.kind, c.key, 0)
	if err != nil {
		return err
	}
	obj, err := entry.As(c.kind)
	if err != nil {
		return err
	}
	_, err = try(obj)
	return err
}

func unassignable(pod *corev1.Pod) error {
	switch {
	case pod.DeletionTimestamp != nil:
		return fmt.Errorf("pod %s is being deleted, cannot be assigned to a host", pod.Name)
	case pod.Spec.NodeName != "":
		return fmt.Errorf("pod %v is already assigned to node %q", pod.Name, pod.Spec.NodeName)
	case len(pod.Spec.SchedulingGates) > 0:
		return fmt.Errorf("pod %v has non-empty .spec.schedulingGates", pod.Name)
	}
	return nil
}

func merge(into, from map[string]string) map[string]string {
	if len(from) == 0 {
		return into
	}
	if into == nil {
		into = map[string]string{}
	}
	maps.Copy(into, from)
	return into
}

// setPodCondition adds or replaces a condition; its transition time moves only when its
// status does.
func setPodCondition(status *corev1.PodStatus, condition corev1.PodCondition) {
	condition.LastTransitionTime = metav1.Now().Rfc3339Copy()
	for i := range status.Conditions {
		old := &status.Conditions[i]
		if old.Type != condition.Type {
			continue
		}
		if old.Status == condition.Status {
			condition.LastTransitionTime = old.LastTransitionTime
		}
		*old = condition
		return
	}
	status.Conditions = append(status.Conditions, condition)
}
