package match

import (
	"slices"
	"strings"

	v1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/pkg/apiserver/request"
)

// Exempt says that a write is about the configuration of admission itself, which no webhook and no policy
// is asked about.
func Exempt(a *request.Attributes) bool {
	if a.Kind.Group != v1.GroupName {
		return false
	}
	switch a.Kind.Kind {
	case "ValidatingWebhookConfiguration", "MutatingWebhookConfiguration",
		"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding",
		"MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding":
		return true
	}
	return false
}

var namespaces = schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}

// ruleMatches says whether a rule is about a write, when its resource is seen as resource.
func ruleMatches(rule *v1.NamedRuleWithOperations, a *request.Attributes, resource schema.GroupVersionResource) bool {
	return scopeMatches(rule.Scope, a.Namespace, resource) &&
		(slices.Contains(rule.Operations, v1.OperationAll) || slices.Contains(rule.Operations, v1.OperationType(a.Operation))) &&
		contains(rule.APIGroups, resource.Group) &&
		contains(rule.APIVersions, resource.Version) &&
		slices.ContainsFunc(rule.Resources, func(pattern string) bool {
			// A pattern without a slash is about the resource itself: "*" has no subresources.
			name, sub, _ := strings.Cut(pattern, "/")
			return (name == "*" || name == resource.Resource) && (sub == "*" || sub == a.Subresource)
		}) &&
		(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, a.Name))
}

// scopeMatches takes namespaces for the cluster-scoped objects that they are, although their requests carry a namespace.
func scopeMatches(scope *v1.ScopeType, namespace string, resource schema.GroupVersionResource) bool {
	namespaced := namespace != "" && resource != namespaces
	switch {
	case scope == nil || *scope == v1.AllScopes:
		return true
	case *scope == v1.NamespacedScope:
		return namespaced
	}
	return *scope == v1.ClusterScope && !namespaced
}

func contains(patterns []string, value string) bool {
	return slices.Contains(patterns, "*") || slices.Contains(patterns, value)
}
