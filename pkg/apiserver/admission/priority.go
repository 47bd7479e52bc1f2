package admission

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/lookup"
	"skiff/pkg/apiserver/request"
)

// priorityPlugin turns a pod's priority class into its priority.
type priorityPlugin struct{ objects lookup.Reader }

var priorityClasses = schema.GroupResource{Group: "scheduling.k8s.io", Resource: "priorityclasses"}

func (p *priorityPlugin) mutate(ctx context.Context, attrs *request.Attributes) error {
	if !concerns(attrs, "pods", "") {
		return nil
	}
	pod, ok := attrs.Object.(*corev1.Pod)
	switch {
	case !ok:
		return nil
	case attrs.Operation == request.Create:
		return p.setPriority(ctx, attrs, pod)
	case attrs.Operation == request.Update:
		keepPriority(pod, attrs)
	}
	return nil
}

// keepPriority puts back what a client that never saw these fields left out.
func keepPriority(pod *corev1.Pod, attrs *request.Attributes) {
	old, ok := attrs.Old.(*corev1.Pod)
	if !ok {
		return
	}
	if pod.Spec.Priority == nil {
		pod.Spec.Priority = old.Spec.Priority
	}
	if pod.Spec.PreemptionPolicy == nil {
		pod.Spec.PreemptionPolicy = old.Spec.PreemptionPolicy
	}
}

func (p *priorityPlugin) setPriority(ctx context.Context, attrs *request.Attributes, pod *corev1.Pod) error {
	class, err := p.class(ctx, attrs, pod.Spec.PriorityClassName)
	if err != nil {
		return err
	}
	pod.Spec.PriorityClassName = class.Name
	if given := pod.Spec.Priority; given != nil && *given != class.Value {
		return forbidden(attrs, "the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d from the given PriorityClass name", *given, class.Value)
	}
	value := class.Value
	pod.Spec.Priority = &value
	if class.PreemptionPolicy == nil {
		return nil
	}
	policy := *class.PreemptionPolicy
	if given := pod.Spec.PreemptionPolicy; given != nil && *given != policy {
		return forbidden(attrs, "the string value of PreemptionPolicy (%s) must not be provided in pod spec; priority admission controller computed %s from the given PriorityClass name", *given, policy)
	}
	pod.Spec.PreemptionPolicy = &policy
	return nil
}

// class returns the class with this name, or the default one, or priority 0.
func (p *priorityPlugin) class(ctx context.Context, attrs *request.Attributes, name string) (*schedulingv1.PriorityClass, error) {
	if name == "" {
		class, err := p.defaultClass(ctx)
		if err == nil && class == nil {
			policy := corev1.PreemptLowerPriority
			class = &schedulingv1.PriorityClass{PreemptionPolicy: &policy}
		}
		return class, err
	}
	class, err := lookup.Get[*schedulingv1.PriorityClass](ctx, p.objects, priorityClasses, "", name)
	if apierrors.IsNotFound(err) {
		return nil, forbidden(attrs, "no PriorityClass with name %v was found", name)
	}
	return class, err
}

// defaultClass is the one marked so; of several (made at the same time) that with the
// lowest priority.
func (p *priorityPlugin) defaultClass(ctx context.Context) (*schedulingv1.PriorityClass, error) {
	classes, err := lookup.List[*schedulingv1.PriorityClass](ctx, p.objects, priorityClasses, "")
	if err != nil {
		return nil, fmt.Errorf("failed to get default priority class: %w", err)
	}
	var found *schedulingv1.PriorityClass
	for _, class := range classes {
		if class.GlobalDefault && (found == nil || class.Value < found.Value) {
			found = class
		}
	}
	return found, nil
}

func (p *priorityPlugin) validate(ctx context.Context, attrs *request.Attributes) error {
	class, ok := attrs.Object.(*schedulingv1.PriorityClass)
	if !ok || attrs.Kind.GroupResource() != priorityClasses || attrs.Subresource != "" || !class.GlobalDefault {
		return nil
	}
	current, err := p.defaultClass(ctx)
	if err != nil {
		return err
	}
	if current != nil && (attrs.Operation == request.Create || attrs.Operation == request.Update && current.Name != class.Name) {
		return forbidden(attrs, "PriorityClass %v is already marked as default. Only one default can exist", current.Name)
	}
	return nil
}

// SystemPriorityClasses are the classes that every cluster has.
func SystemPriorityClasses() []*schedulingv1.PriorityClass {
	policy := corev1.PreemptLowerPriority
	class := func(name string, value int32, description string) *schedulingv1.PriorityClass {
		return &schedulingv1.PriorityClass{
			ObjectMeta: metav1.ObjectMeta{Name: name, Generation: 1}, Value: value, Description: description, PreemptionPolicy: &policy}
	}
	return []*schedulingv1.PriorityClass{
		class("system-node-critical", 2000001000, "Used for system critical pods that must not be moved from their current node."),
		class("system-cluster-critical", 2000000000, "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary."),
	}
}

// Bootstrap creates the priority classes of [SystemPriorityClasses] that are missing. It
// tries until it succeeds or ctx ends.
func Bootstrap(ctx context.Context, w lookup.Writer) error {
	return lookup.Retry(ctx, "storing the system priority classes", func(ctx context.Context) error {
		for _, class := range SystemPriorityClasses() {
			err := w.Update(ctx, priorityClasses, "", class.Name, func(current api.Object) (api.Object, error) {
				if current != nil {
					return current, nil
				}
				return class, nil
			})
			if err != nil {
				return fmt.Errorf("priority class %s: %w", class.Name, err)
			}
		}
		return nil
	})
}
