package authz

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"

	"skiff/pkg/apiserver/request"
)

// allows reports whether any of the rules permits the request. It does not allocate.
func allows(rules []rbacv1.PolicyRule, info *request.Info) bool {
	for i := range rules {
		if ruleAllows(&rules[i], info) {
			return true
		}
	}
	return false
}

func ruleAllows(rule *rbacv1.PolicyRule, info *request.Info) bool {
	if !anyOf(rule.Verbs, info.Verb) {
		return false
	}
	if !info.IsResourceRequest {
		return slices.ContainsFunc(rule.NonResourceURLs, func(pattern string) bool {
			return matchesURL(pattern, info.Path)
		})
	}
	return anyOf(rule.APIGroups, info.APIGroup) &&
		matchesResource(rule.Resources, info.Resource, info.Subresource) &&
		(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, info.Name))
}

func anyOf(set []string, value string) bool {
	for _, s := range set {
		if s == "*" || s == value {
			return true
		}
	}
	return false
}

// matchesResource understands "*", "pods", "pods/log" and "*/scale".
func matchesResource(set []string, resource, subresource string) bool {
	for _, s := range set {
		if s == "*" {
			return true
		}
		if subresource == "" {
			if s == resource {
				return true
			}
			continue
		}
		prefix, found := strings.CutSuffix(s, subresource)
		if !found || !strings.HasSuffix(prefix, "/") {
			continue
		}
		if prefix = prefix[:len(prefix)-1]; prefix == "*" || prefix == resource {
			return true
		}
	}
	return false
}

// matchesURL understands "*", an exact path and a prefix that ends with "*".
func matchesURL(pattern, path string) bool {
	if pattern == path {
		return true
	}
	prefix, wild := strings.CutSuffix(pattern, "*")
	return wild && strings.HasPrefix(path, strings.TrimRight(prefix, "*"))
}
