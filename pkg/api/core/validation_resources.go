package core

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	podresource "k8s.io/component-helpers/resource"

	"skiff/pkg/api/check"
)

// counted are the resources of a quota that count objects.
var counted = []corev1.ResourceName{
	corev1.ResourcePods, corev1.ResourceQuotas, corev1.ResourceServices, corev1.ResourceReplicationControllers, corev1.ResourceSecrets,
	corev1.ResourceConfigMaps, corev1.ResourcePersistentVolumeClaims, corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers,
}

// measured are the resources of a quota that sum up what pods and claims ask for.
var measured = []corev1.ResourceName{
	corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage,
	corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceRequestsStorage, corev1.ResourceRequestsEphemeralStorage,
	corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceLimitsEphemeralStorage,
}

func isQuotaResource(n corev1.ResourceName) bool {
	return slices.Contains(counted, n) || slices.Contains(measured, n) || isHugePage(n) || strings.HasPrefix(string(n), corev1.ResourceRequestsHugePagesPrefix)
}

func isHugePage(n corev1.ResourceName) bool {
	return strings.HasPrefix(string(n), corev1.ResourceHugePagesPrefix)
}

// IsNativeResource: names without a domain are Kubernetes' own.
func IsNativeResource(n corev1.ResourceName) bool {
	return !strings.Contains(string(n), "/") || strings.Contains(string(n), corev1.ResourceDefaultNamespacePrefix)
}

// IsExtendedResource: a resource of somebody else, by its domain.
func IsExtendedResource(n corev1.ResourceName) bool {
	return !IsNativeResource(n) && !strings.HasPrefix(string(n), corev1.DefaultResourceRequestsPrefix) &&
		len(utilvalidation.IsQualifiedName(corev1.DefaultResourceRequestsPrefix+string(n))) == 0
}

// canOvercommit: limits may exceed requests.
func canOvercommit(n corev1.ResourceName) bool { return IsNativeResource(n) && !isHugePage(n) }

// resourceName is a rule for names of resources; there is one per place.
type resourceName func(at *field.Path, n corev1.ResourceName) check.Errors

func anyResourceName(at *field.Path, n corev1.ResourceName) check.Errors {
	if errs := check.Messages(at, n, utilvalidation.IsQualifiedName(string(n))); len(errs) > 0 {
		return errs
	}
	if !strings.Contains(string(n), "/") && n != corev1.ResourceStorage && !isQuotaResource(n) {
		return check.Errors{field.Invalid(at, n, "must be a standard resource type or fully qualified")}
	}
	return nil
}

// ContainerResourceName is the name of a resource that a container can have.
func ContainerResourceName(at *field.Path, n corev1.ResourceName) check.Errors {
	errs := anyResourceName(at, n)
	switch {
	case !strings.Contains(string(n), "/"):
		if n != corev1.ResourceCPU && n != corev1.ResourceMemory && n != corev1.ResourceEphemeralStorage && !isHugePage(n) {
			errs = append(errs, field.Invalid(at, n, "must be a standard resource for containers"))
		}
	case !IsNativeResource(n) && !IsExtendedResource(n):
		errs = append(errs, field.Invalid(at, n, "doesn't follow extended resource name standard"))
	}
	return errs
}

func podResourceName(at *field.Path, n corev1.ResourceName) check.Errors {
	if errs := anyResourceName(at, n); len(errs) > 0 || podresource.IsSupportedPodLevelResource(n) {
		return errs
	}
	return check.Errors{field.NotSupported(at, n, slices.Sorted(maps.Keys(podresource.SupportedPodLevelResources())))}
}

func quotaResourceName(at *field.Path, n corev1.ResourceName) check.Errors {
	errs := anyResourceName(at, n)
	if !strings.Contains(string(n), "/") && !isQuotaResource(n) {
		errs = append(errs, field.Invalid(at, n, "must be a standard resource for quota"))
	}
	return errs
}

// amount checks a quantity of a resource: some come in whole numbers only.
func amount(at *field.Path, n corev1.ResourceName, q resource.Quantity) check.Errors {
	errs := check.NonNegativeQuantity(at, q)
	if (slices.Contains(counted, n) || IsExtendedResource(n)) && q.MilliValue()%1000 != 0 {
		errs = append(errs, field.Invalid(at, q, "must be an integer"))
	}
	return errs
}

func quantities(at *field.Path, list corev1.ResourceList, name resourceName) check.Errors {
	var errs check.Errors
	for _, n := range slices.Sorted(maps.Keys(list)) {
		at := at.Key(string(n))
		errs = slices.Concat(errs, name(at, n), amount(at, n, list[n]))
	}
	return errs
}

// ValidateOverhead checks what a pod costs beyond its containers, as if it were a container's limits.
func ValidateOverhead(at *field.Path, list corev1.ResourceList) check.Errors {
	return podCheck{}.resources(at, &corev1.ResourceRequirements{Limits: list}, ContainerResourceName, nil)
}

func (c podCheck) resources(at *field.Path, r *corev1.ResourceRequirements, name resourceName, claims map[string]bool) check.Errors {
	limits, requests := at.Child("limits"), at.Child("requests")
	errs := slices.Concat(quantities(limits, r.Limits, name), c.hugePages(limits, r.Limits), quantities(requests, r.Requests, name))
	for _, n := range slices.Sorted(maps.Keys(r.Requests)) {
		q := r.Requests[n]
		limit, limited := r.Limits[n]
		switch {
		case !limited && !canOvercommit(n):
			errs = append(errs, field.Required(limits, "Limit must be set for non overcommitable resources"))
		case !limited:
		case !canOvercommit(n) && q.Cmp(limit) != 0:
			errs = append(errs, field.Invalid(requests, q.String(), fmt.Sprintf("must be equal to %s limit of %s", n, limit.String())))
		case q.Cmp(limit) > 0:
			errs = append(errs, field.Invalid(requests, q.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", n, limit.String())))
		}
	}
	errs = append(errs, c.hugePages(requests, r.Requests)...)
	if (usesHugePages(r.Limits) || usesHugePages(r.Requests)) && !hasComputing(r.Limits) && !hasComputing(r.Requests) {
		errs = append(errs, field.Forbidden(at, "HugePages require cpu or memory"))
	}
	return append(errs, usedClaims(at.Child("claims"), r.Claims, claims)...)
}

func usesHugePages(list corev1.ResourceList) bool {
	for n := range list {
		if isHugePage(n) {
			return true
		}
	}
	return false
}

func hasComputing(list corev1.ResourceList) bool {
	_, cpu := list[corev1.ResourceCPU]
	_, memory := list[corev1.ResourceMemory]
	return cpu || memory
}

func (c podCheck) hugePages(at *field.Path, list corev1.ResourceList) check.Errors {
	var errs check.Errors
	for n, q := range list {
		if !isHugePage(n) || wholePages(n, q) || c.had(hasPartialPages) {
			continue
		}
		errs = append(errs, field.Invalid(at.Key(string(n)), q.String(), fmt.Sprintf("%s is not positive integer multiple of %s", q.String(), n)))
	}
	return errs
}

func wholePages(n corev1.ResourceName, q resource.Quantity) bool {
	size, err := resource.ParseQuantity(strings.TrimPrefix(string(n), corev1.ResourceHugePagesPrefix))
	return err == nil && size.Sign() > 0 && size.MilliValue()%1000 == 0 && q.Value()%size.Value() == 0
}

func hasPartialPages(s *corev1.PodSpec) bool {
	for ctr := range containersOf(s) {
		for _, list := range []corev1.ResourceList{ctr.Resources.Limits, ctr.Resources.Requests} {
			for n, q := range list {
				if isHugePage(n) && !wholePages(n, q) {
					return true
				}
			}
		}
	}
	return false
}

// usedClaims are the pod's resource claims, or single requests of one, that a container uses.
func usedClaims(at *field.Path, used []corev1.ResourceClaim, claims map[string]bool) check.Errors {
	var errs check.Errors
	whole, parts := map[string]bool{}, map[string]bool{} // of claims, as "claim" and "claim/request"
	for i, u := range used {
		at := at.Index(i)
		if u.Name == "" {
			errs = append(errs, field.Required(at, ""))
			continue
		}
		switch key := u.Name + "/" + u.Request; {
		case whole[u.Name]:
			errs = append(errs, field.Duplicate(at, u.Name))
		case u.Request == "":
			for part := range parts {
				if strings.HasPrefix(part, key) {
					errs = append(errs, field.Duplicate(at, u.Name))
				}
			}
			whole[u.Name] = true
		default:
			errs = append(errs, check.Label(at.Child("request"), u.Request)...)
			if parts[key] {
				errs = append(errs, field.Duplicate(at, key))
			}
			parts[key] = true
		}
		if !claims[u.Name] {
			e := field.NotFound(at, u.Name)
			e.Detail = "must be one of the names in pod.spec.resourceClaims"
			if len(claims) == 0 {
				e.Detail += " which is empty"
			} else {
				e.Detail += ": " + strings.Join(slices.Sorted(maps.Keys(claims)), ", ")
			}
			errs = append(errs, e)
		}
	}
	return errs
}

// podResources checks the resources of the pod as a whole (KEP-2837) against those of its containers.
func (c podCheck) podResources(at *field.Path, s *corev1.PodSpec) check.Errors {
	r := s.Resources
	if r == nil {
		return nil
	}
	if isWindows(s) {
		return check.Errors{field.Forbidden(at, "may not be set for a windows pod")}
	}
	var errs check.Errors
	if r.Claims != nil {
		errs = append(errs, field.Forbidden(at.Child("claims"), "claims may not be set for Resources at pod-level"))
	}
	errs = append(errs, c.resources(at, r, podResourceName, nil)...)
	sum := &corev1.Pod{Spec: *s}
	requests := podresource.AggregateContainerRequests(sum, podresource.PodResourcesOptions{})
	for _, n := range slices.Sorted(maps.Keys(requests)) {
		q := requests[n]
		if whole, ok := r.Requests[n]; ok && q.Cmp(whole) > 0 {
			errs = append(errs, field.Invalid(at.Child("requests").Key(string(n)), whole.String(), "must be greater than or equal to aggregate container requests of "+q.String()))
		}
	}
	limits := podresource.AggregateContainerLimits(sum, podresource.PodResourcesOptions{})
	for _, n := range slices.Sorted(maps.Keys(limits)) {
		q := limits[n]
		if whole, ok := r.Limits[n]; ok && isHugePage(n) && q.Cmp(whole) > 0 {
			errs = append(errs, field.Invalid(at.Child("limits").Key(string(n)), whole.String(), "must be greater than or equal to aggregate container limits of "+q.String()))
		}
	}
	for i := range s.Containers {
		for _, n := range slices.Sorted(maps.Keys(s.Containers[i].Resources.Limits)) {
			q := s.Containers[i].Resources.Limits[n]
			if whole, ok := r.Limits[n]; ok && q.Cmp(whole) > 0 {
				errs = append(errs, field.Invalid(at.Child("containers").Index(i).Key(string(n)).Child("limits"), q.String(), "must be less than or equal to pod limits of "+whole.String()))
			}
		}
	}
	return errs
}

// podClaims checks the names by which containers refer to resource claims. mirror: the pod stands for one
// that its agent read from a file.
func podClaims(at *field.Path, list []corev1.PodResourceClaim, mirror bool) check.Errors {
	if mirror && len(list) > 0 {
		return check.Errors{field.Forbidden(field.NewPath(""), "static pods do not support resource claims")}
	}
	var errs check.Errors
	seen := map[string]bool{}
	for i := range list {
		claim, at := &list[i], at.Index(i)
		if seen[claim.Name] && claim.Name != "" {
			errs = append(errs, field.Duplicate(at.Child("name"), claim.Name))
		} else {
			errs = append(errs, check.RequiredLabel(at.Child("name"), claim.Name)...)
		}
		seen[claim.Name] = true
		switch byName, byTemplate := claim.ResourceClaimName != nil, claim.ResourceClaimTemplateName != nil; {
		case byName && byTemplate:
			errs = append(errs, field.Invalid(at, *claim, "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"))
		case !byName && !byTemplate:
			errs = append(errs, field.Invalid(at, *claim, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"))
		}
		if n := claim.ResourceClaimName; n != nil {
			errs = append(errs, check.Subdomain(at.Child("resourceClaimName"), *n)...)
		}
		if n := claim.ResourceClaimTemplateName; n != nil {
			errs = append(errs, check.Subdomain(at.Child("resourceClaimTemplateName"), *n)...)
		}
	}
	return errs
}
