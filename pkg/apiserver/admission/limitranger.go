package admission

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	resourcehelper "k8s.io/component-helpers/resource"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/lookup"
	"skiff/pkg/apiserver/request"
)

// limitRangerPlugin gives containers the default resources of their namespace's limit
// ranges, and refuses pods and claims outside of the ranges.
type limitRangerPlugin struct{ objects lookup.Reader }

// limits returns the limits that a write must respect.
func (p *limitRangerPlugin) limits(ctx context.Context, attrs *request.Attributes) ([]*corev1.LimitRange, error) {
	switch {
	case concerns(attrs, "pods", "") && attrs.Operation == request.Create:
	case concerns(attrs, "pods", "resize") && attrs.Operation == request.Update:
	case concerns(attrs, "persistentvolumeclaims", "") && (attrs.Operation == request.Create || attrs.Operation == request.Update):
	default:
		return nil, nil
	}
	// What is going may always be changed, so that it can go.
	if old, ok := attrs.Old.(api.Object); ok && old.GetDeletionTimestamp() != nil {
		return nil, nil
	}
	ranges, err := lookup.List[*corev1.LimitRange](ctx, p.objects, core("limitranges"), attrs.Namespace)
	if err != nil {
		return nil, forbidden(attrs, "unable to %s %v at this time because there was an error enforcing limit ranges", attrs.Operation, attrs.Kind.GroupVersionResource())
	}
	return ranges, nil
}

func (p *limitRangerPlugin) mutate(ctx context.Context, attrs *request.Attributes) error {
	pod, ok := attrs.Object.(*corev1.Pod)
	if !ok {
		return nil
	}
	ranges, err := p.limits(ctx, attrs)
	if err != nil {
		return err
	}
	for _, limits := range ranges {
		setDefaultResources(limits, pod)
	}
	return nil
}

// setDefaultResources notes in an annotation what it set.
func setDefaultResources(limits *corev1.LimitRange, pod *corev1.Pod) {
	requested, limited := corev1.ResourceList{}, corev1.ResourceList{}
	for i := range limits.Spec.Limits {
		if item := &limits.Spec.Limits[i]; item.Type == corev1.LimitTypeContainer {
			maps.Copy(requested, item.DefaultRequest)
			maps.Copy(limited, item.Default)
		}
	}
	var notes []string
	for _, group := range []struct {
		kind       string
		containers []corev1.Container
	}{{"container", pod.Spec.Containers}, {"init container", pod.Spec.InitContainers}} {
		for i := range group.containers {
			c := &group.containers[i]
			if set := addMissing(&c.Resources.Requests, requested); set != "" {
				notes = append(notes, fmt.Sprintf("%s request for %s %s", set, group.kind, c.Name))
			}
			if set := addMissing(&c.Resources.Limits, limited); set != "" {
				notes = append(notes, fmt.Sprintf("%s limit for %s %s", set, group.kind, c.Name))
			}
		}
	}
	if len(notes) == 0 {
		return
	}
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations["kubernetes.io/limit-ranger"] = "LimitRanger plugin set: " + strings.Join(notes, "; ")
}

// addMissing returns the names of what it added.
func addMissing(list *corev1.ResourceList, defaults corev1.ResourceList) string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(defaults)) {
		if _, ok := (*list)[name]; ok {
			continue
		}
		if *list == nil {
			*list = corev1.ResourceList{}
		}
		(*list)[name] = defaults[name].DeepCopy()
		names = append(names, string(name))
	}
	return strings.Join(names, ", ")
}

func (p *limitRangerPlugin) validate(ctx context.Context, attrs *request.Attributes) error {
	ranges, err := p.limits(ctx, attrs)
	if err != nil {
		return err
	}
	for _, limits := range ranges {
		var errs []error
		for i := range limits.Spec.Limits {
			item := &limits.Spec.Limits[i]
			switch obj := attrs.Object.(type) {
			case *corev1.Pod:
				errs = append(errs, checkPod(item, obj)...)
			case *corev1.PersistentVolumeClaim:
				errs = append(errs, checkClaim(item, obj)...)
			}
		}
		if err := utilerrors.NewAggregate(errs); err != nil {
			return forbidden(attrs, "%w", err)
		}
	}
	return nil
}

func checkPod(item *corev1.LimitRangeItem, pod *corev1.Pod) (errs []error) {
	switch item.Type {
	case corev1.LimitTypeContainer:
		for _, c := range slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers) {
			errs = append(errs, checkResources(item, c.Resources.Requests, c.Resources.Limits)...)
		}
	case corev1.LimitTypePod:
		options := resourcehelper.PodResourcesOptions{ExcludeOverhead: true}
		errs = checkResources(item, resourcehelper.PodRequests(pod, options), resourcehelper.PodLimits(pod, options))
	}
	return errs
}

func checkClaim(item *corev1.LimitRangeItem, claim *corev1.PersistentVolumeClaim) (errs []error) {
	if item.Type != corev1.LimitTypePersistentVolumeClaim {
		return nil
	}
	requests := claim.Spec.Resources.Requests
	for _, name := range slices.Sorted(maps.Keys(item.Min)) {
		errs = appendError(errs, checkMin(item.Type, name, item.Min[name], requests, nil))
	}
	for _, name := range slices.Sorted(maps.Keys(item.Max)) {
		limit := item.Max[name]
		if request, ok := requests[name]; !ok {
			errs = append(errs, fmt.Errorf("maximum %s usage per %s is %s.  No request is specified", name, item.Type, limit.String()))
		} else if request.Cmp(limit) > 0 {
			errs = append(errs, fmt.Errorf("maximum %s usage per %s is %s, but request is %s", name, item.Type, limit.String(), request.String()))
		}
	}
	return errs
}

func checkResources(item *corev1.LimitRangeItem, requests, limits corev1.ResourceList) (errs []error) {
	for _, name := range slices.Sorted(maps.Keys(item.Min)) {
		errs = appendError(errs, checkMin(item.Type, name, item.Min[name], requests, limits))
	}
	for _, name := range slices.Sorted(maps.Keys(item.Max)) {
		errs = appendError(errs, checkMax(item.Type, name, item.Max[name], requests, limits))
	}
	for _, name := range slices.Sorted(maps.Keys(item.MaxLimitRequestRatio)) {
		errs = appendError(errs, checkRatio(item.Type, name, item.MaxLimitRequestRatio[name], requests, limits))
	}
	return errs
}

func appendError(errs []error, err error) []error {
	if err != nil {
		errs = append(errs, err)
	}
	return errs
}

func checkMin(kind corev1.LimitType, name corev1.ResourceName, least resource.Quantity, requests, limits corev1.ResourceList) error {
	request, requested := requests[name]
	limit, limited := limits[name]
	switch {
	case !requested:
		return fmt.Errorf("minimum %s usage per %s is %s.  No request is specified", name, kind, least.String())
	case request.Cmp(least) < 0:
		return fmt.Errorf("minimum %s usage per %s is %s, but request is %s", name, kind, least.String(), request.String())
	case limited && limit.Cmp(least) < 0:
		return fmt.Errorf("minimum %s usage per %s is %s, but limit is %s", name, kind, least.String(), limit.String())
	}
	return nil
}

func checkMax(kind corev1.LimitType, name corev1.ResourceName, most resource.Quantity, requests, limits corev1.ResourceList) error {
	request, requested := requests[name]
	limit, limited := limits[name]
	switch {
	case !limited:
		return fmt.Errorf("maximum %s usage per %s is %s.  No limit is specified", name, kind, most.String())
	case limit.Cmp(most) > 0:
		return fmt.Errorf("maximum %s usage per %s is %s, but limit is %s", name, kind, most.String(), limit.String())
	case requested && request.Cmp(most) > 0:
		return fmt.Errorf("maximum %s usage per %s is %s, but request is %s", name, kind, most.String(), request.String())
	}
	return nil
}

func checkRatio(kind corev1.LimitType, name corev1.ResourceName, most resource.Quantity, requests, limits corev1.ResourceList) error {
	request, limit := requests[name], limits[name]
	switch {
	case request.IsZero():
		return fmt.Errorf("%s max limit to request ratio per %s is %s, but no request is specified or request is 0", name, kind, most.String())
	case limit.IsZero():
		return fmt.Errorf("%s max limit to request ratio per %s is %s, but no limit is specified or limit is 0", name, kind, most.String())
	}
	if ratio := limit.AsApproximateFloat64() / request.AsApproximateFloat64(); ratio > most.AsApproximateFloat64() {
		return fmt.Errorf("%s max limit to request ratio per %s is %s, but provided ratio is %f", name, kind, most.String(), ratio)
	}
	return nil
}
