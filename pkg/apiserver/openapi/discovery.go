package openapi

import (
	"reflect"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/version"

	"skiff/pkg/api"
)

// discovery describes how clients find out what there is, by the v3 document that it stands in. Kubernetes has nothing
// of this kind for groups of custom resources.
func discovery(view *api.View) map[string]path {
	json := []string{"application/json"}
	get := func(template, tag, id, text string, answer model, types []string) path {
		o := operation{method: "get", id: "get" + id, text: text, tag: tag, produces: types, answers: map[string]model{"200": answer}}
		if answer != (model{}) {
			o.consumes = types
		}
		return path{template: template, operations: []operation{o}}
	}
	all := map[string]path{
		"api":     get("/api/", "core", "CoreAPIVersions", "get available API versions", of(reflect.TypeFor[metav1.APIVersions]()), plainTypes),
		"apis":    get("/apis/", "apis", "APIVersions", "get available API versions", of(reflect.TypeFor[metav1.APIGroupList]()), plainTypes),
		"version": get("/version/", "version", "CodeVersion", "get the version information for this server", of(reflect.TypeFor[version.Info]()), json),
		".well-known/openid-configuration": get("/.well-known/openid-configuration/", "WellKnown", "ServiceAccountIssuerOpenIDConfiguration",
			"get service account issuer OpenID configuration, also known as the 'OIDC discovery doc'", model{}, json),
		"openid/v1/jwks": get("/openid/v1/jwks/", "openid", "ServiceAccountIssuerOpenIDKeyset",
			"get service account issuer OpenID JSON Web Key Set (contains public token verification keys)", model{}, []string{"application/jwk-set+json"}),
	}
	for _, gv := range versions(view) {
		if !slices.ContainsFunc(view.In(gv), func(k *api.Kind) bool { return k.Custom == nil }) {
			continue
		}
		tag := tagOf(gv)
		all[groupPath(gv)] = get(root(gv)+"/", tag, groupID(gv)+"APIResources", "get available resources", of(reflect.TypeFor[metav1.APIResourceList]()), plainTypes)
		if gv.Group != "" {
			tag, _, _ = strings.Cut(tag, "_")
			all["apis/"+gv.Group] = get("/apis/"+gv.Group+"/", tag, title(tag)+"APIGroup", "get information of a group", of(reflect.TypeFor[metav1.APIGroup]()), plainTypes)
		}
	}
	return all
}
