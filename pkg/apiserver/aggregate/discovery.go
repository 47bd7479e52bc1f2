package aggregate

import (
	"cmp"
	"strings"

	discoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// resourcesOf is what a server says of its resources in the form of aggregated discovery, where subresources
// are parts of their resources.
func resourcesOf(list *metav1.APIResourceList, gv schema.GroupVersion) []discoveryv2.APIResourceDiscovery {
	var all []discoveryv2.APIResourceDiscovery
	at := map[string]int{}
	resource := func(name string, r *metav1.APIResource) *discoveryv2.APIResourceDiscovery {
		i, known := at[name]
		if !known {
			i, at[name] = len(all), len(all)
			all = append(all, discoveryv2.APIResourceDiscovery{Resource: name, Scope: scopeOf(r), ResponseKind: &metav1.GroupVersionKind{}})
		}
		return &all[i]
	}
	for i := range list.APIResources {
		r := &list.APIResources[i]
		kind := &metav1.GroupVersionKind{Group: cmp.Or(r.Group, gv.Group), Version: cmp.Or(r.Version, gv.Version), Kind: r.Kind}
		name, sub, isSub := strings.Cut(r.Name, "/")
		one := resource(name, r)
		if isSub {
			one.Subresources = append(one.Subresources, discoveryv2.APISubresourceDiscovery{Subresource: sub, ResponseKind: kind, Verbs: r.Verbs})
			continue
		}
		one.ResponseKind, one.Scope, one.SingularResource = kind, scopeOf(r), r.SingularName
		one.Verbs, one.ShortNames, one.Categories = r.Verbs, r.ShortNames, r.Categories
	}
	return all
}

func scopeOf(r *metav1.APIResource) discoveryv2.ResourceScope {
	if r.Namespaced {
		return discoveryv2.ScopeNamespace
	}
	return discoveryv2.ScopeCluster
}
