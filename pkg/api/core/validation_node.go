package core

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"skiff/pkg/api"
	"skiff/pkg/api/check"
)

func validateNode(obj api.Object) field.ErrorList {
	n := obj.(*corev1.Node)
	errs := slices.Concat(nodeAlways(n), nodeSwap(n), podRanges(n))
	return errs
}

// nodeAlways holds for every write of a node, its status included. (Taints and swap
// are reported below metadata in Kubernetes as well.)
func nodeAlways(n *corev1.Node) check.Errors {
	return slices.Concat(
		nodeAnnotations(n.Annotations),
		taints(field.NewPath("metadata", "taints"), n.Spec.Taints),
		nodeAmounts(statusPath.Child("capacity"), n.Status.Capacity),
		nodeAmounts(statusPath.Child("allocatable"), n.Status.Allocatable),
		declaredFeatures(statusPath.Child("declaredFeatures"), n.Status.DeclaredFeatures),
	)
}

func nodeAmounts(at *field.Path, list corev1.ResourceList) check.Errors {
	var errs check.Errors
	for n, q := range list {
		errs = append(errs, amount(at.Child(string(n)), n, q)...)
	}
	return errs
}

func nodeSwap(n *corev1.Node) check.Errors {
	if s := n.Status.NodeInfo.Swap; s != nil && s.Capacity != nil {
		return check.Positive(field.NewPath("metadata", "nodeSwapStatus", "capacity"), *s.Capacity)
	}
	return nil
}

func podRanges(n *corev1.Node) check.Errors {
	at, ranges := specPath.Child("podCIDRs"), n.Spec.PodCIDRs
	var errs check.Errors
	for i, r := range ranges {
		errs = append(errs, check.CIDR(at.Index(i), r)...)
	}
	if len(ranges) < 2 {
		return errs
	}
	dual, err := netutils.IsDualStackCIDRStrings(ranges)
	if err != nil {
		errs = append(errs, field.InternalError(at, fmt.Errorf("invalid PodCIDRs. failed to check with dual stack with error:%v", err)))
	}
	if !dual || len(ranges) > 2 {
		errs = append(errs, field.Invalid(at, ranges, "may specify no more than one CIDR for each IP family"))
	}
	return errs
}

func taints(list *field.Path, taints []corev1.Taint) check.Errors {
	type key struct {
		name   string
		effect corev1.TaintEffect
	}
	seen := map[key]bool{}
	var errs check.Errors
	for i, t := range taints {
		at := list.Index(i)
		errs = append(errs, metavalidation.ValidateLabelName(t.Key, at.Child("key"))...)
		if wrong := utilvalidation.IsValidLabelValue(t.Value); len(wrong) > 0 {
			errs = append(errs, field.Invalid(at.Child("value"), t.Value, strings.Join(wrong, ";")))
		}
		errs = append(errs, taintEffect(at.Child("effect"), t.Effect)...)
		if k := (key{t.Key, t.Effect}); seen[k] {
			e := field.Duplicate(at, t)
			e.Detail = "taints must be unique by key and effect pair"
			errs = append(errs, e)
		} else {
			seen[k] = true
		}
	}
	return errs
}

func nodeAnnotations(annotations map[string]string) check.Errors {
	var errs check.Errors
	if text := annotations[corev1.TaintsAnnotationKey]; text != "" {
		var list []corev1.Taint
		if err := json.Unmarshal([]byte(text), &list); err != nil {
			errs = append(errs, field.Invalid(annotationPath, corev1.TaintsAnnotationKey, err.Error()))
		} else {
			errs = append(errs, taints(annotationPath.Child(corev1.TaintsAnnotationKey), list)...)
		}
	}
	text := annotations[corev1.PreferAvoidPodsAnnotationKey]
	if text == "" {
		return errs
	}
	var avoid corev1.AvoidPods
	if err := json.Unmarshal([]byte(text), &avoid); err != nil {
		return append(errs, field.Invalid(annotationPath.Child("AvoidPods"), corev1.PreferAvoidPodsAnnotationKey, err.Error()))
	}
	for i, entry := range avoid.PreferAvoidPods {
		at, owner := annotationPath.Child(corev1.PreferAvoidPodsAnnotationKey).Index(i).Child("PodSignature"), entry.PodSignature.PodController
		if owner == nil {
			errs = append(errs, field.Required(at, ""))
		} else if owner.Controller == nil || !*owner.Controller {
			errs = append(errs, field.Invalid(at.Child("PodController", "Controller"), false, "must point to a controller"))
		}
	}
	return errs
}

var featureName = regexp.MustCompile(`^[A-Z][a-zA-Z0-9]*(\/[a-zA-Z][a-zA-Z0-9]*)*$`)

func declaredFeatures(at *field.Path, features []string) check.Errors {
	var errs check.Errors
	for i, f := range features {
		if len(f) > utilvalidation.DNS1123SubdomainMaxLength {
			errs = append(errs, field.Invalid(at.Index(i), f, fmt.Sprintf("invalid feature name %q: must be no more than %d characters", f, utilvalidation.DNS1123SubdomainMaxLength)))
		} else if !featureName.MatchString(f) {
			errs = append(errs, field.Invalid(at.Index(i), f, fmt.Sprintf("invalid feature name %q: must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes", f)))
		}
		if i > 0 && f == features[i-1] {
			errs = append(errs, field.Duplicate(at.Index(i), f))
		} else if i > 0 && f < features[i-1] {
			errs = append(errs, field.Invalid(at.Index(i), f, "list must be sorted alphabetically"))
		}
	}
	return errs
}

func validateNodeUpdate(obj, old api.Object) field.ErrorList {
	return slices.Concat(validateNode(obj), nodeKept(obj.(*corev1.Node), old.(*corev1.Node)))
}

func validateNodeStatus(obj, old api.Object) field.ErrorList {
	n := obj.(*corev1.Node)
	return slices.Concat(nodeAlways(n), nodeKept(n, old.(*corev1.Node)))
}

// nodeKept is what can't change, by the status either, and what only updates are asked.
func nodeKept(n, was *corev1.Node) check.Errors {
	var errs check.Errors
	for i, a := range n.Status.Addresses {
		if slices.Contains(n.Status.Addresses[:i], a) {
			errs = append(errs, field.Duplicate(statusPath.Child("addresses").Index(i), a))
		}
	}
	if len(was.Spec.PodCIDRs) > 0 && !slices.Equal(n.Spec.PodCIDRs, was.Spec.PodCIDRs) {
		errs = append(errs, field.Forbidden(specPath.Child("podCIDRs"), `node updates may not change podCIDR except from "" to valid`))
	}
	if was.Spec.ProviderID != "" && n.Spec.ProviderID != was.Spec.ProviderID {
		errs = append(errs, field.Forbidden(specPath.Child("providerID"), `node updates may not change providerID except from "" to valid`))
	}
	if n.Spec.DoNotUseExternalID != was.Spec.DoNotUseExternalID {
		errs = append(errs, field.Forbidden(specPath.Child("externalID"), "may not be updated"))
	}
	if c := n.Spec.ConfigSource; c != nil {
		errs = append(errs, configSource(specPath.Child("configSource"), c, false)...)
	}
	if c := n.Status.Config; c != nil {
		for name, source := range map[string]*corev1.NodeConfigSource{"assigned": c.Assigned, "active": c.Active, "lastKnownGood": c.LastKnownGood} {
			if source != nil {
				errs = append(errs, configSource(statusPath.Child("config", name), source, true)...)
			}
		}
	}
	return errs
}

// configSource is what is left of dynamic kubelet configuration: old objects may have it.
func configSource(at *field.Path, s *corev1.NodeConfigSource, inStatus bool) check.Errors {
	m := s.ConfigMap
	if m == nil {
		return check.Errors{field.Invalid(at, s, "exactly one reference subfield must be non-nil")}
	}
	at = at.Child("configMap")
	var errs check.Errors
	if inStatus {
		errs = append(errs, need(at, "uid", string(m.UID), "resourceVersion", m.ResourceVersion)...)
	} else {
		if m.UID != "" {
			errs = append(errs, field.Forbidden(at.Child("uid"), "uid must not be set in spec"))
		}
		if m.ResourceVersion != "" {
			errs = append(errs, field.Forbidden(at.Child("resourceVersion"), "resourceVersion must not be set in spec"))
		}
	}
	errs = append(errs, check.RequiredLabel(at.Child("namespace"), m.Namespace)...)
	errs = append(errs, need(at, "name", m.Name, "kubeletConfigKey", m.KubeletConfigKey)...)
	if m.Name != "" {
		errs = append(errs, check.Subdomain(at.Child("name"), m.Name)...)
	}
	if m.KubeletConfigKey != "" {
		errs = append(errs, check.ConfigKey(at.Child("kubeletConfigKey"), m.KubeletConfigKey)...)
	}
	return errs
}
