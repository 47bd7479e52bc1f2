package api

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// standardFinalizers are the only names without a domain.
var standardFinalizers = []string{string(corev1.FinalizerKubernetes), metav1.FinalizerOrphanDependents, metav1.FinalizerDeleteDependents}

// PathSegment is the loosest rule for names: whatever can stand in a URL ("system:node").
func PathSegment(name string, _ bool) []string { return content.IsPathSegmentName(name) }

// LongName is the rule for most names (a DNS subdomain), in the words of Kubernetes' declarative validation.
func LongName(name string, prefix bool) []string {
	if prefix {
		return validation.NameIsDNSSubdomain(name, prefix)
	}
	return content.IsDNS1123Subdomain(name)
}

// ValidateMeta checks the metadata of obj by the rules of all kinds and k's rule for names.
// old is nil on create, else the stored object that obj is to replace: a name that was once
// allowed may stay. What a client may leave out of an update (uid, creation and deletion time)
// the caller has filled in from old.
func ValidateMeta(k *Kind, obj, old Object) field.ErrorList {
	at := field.NewPath("metadata")
	rule := k.NameValidation
	if rule == nil || old != nil {
		rule = PathSegment
	}
	errs := validation.ValidateObjectMetaAccessor(obj, k.Namespaced, rule, at)
	if old != nil {
		errs = append(errs, validation.ValidateObjectMetaAccessorUpdate(obj, old, at)...)
	}
	for i, name := range obj.GetFinalizers() {
		if !k.AnyFinalizer && !strings.Contains(name, "/") && !slices.Contains(standardFinalizers, name) {
			errs = append(errs, field.Invalid(at.Child("finalizers").Index(i), name, "name is neither a standard finalizer name nor is it fully qualified"))
		}
	}
	return errs
}
