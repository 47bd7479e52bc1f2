// Package apiregistration holds the catalogue's row of the group apiregistration.k8s.io: APIServices, each of
// which says who serves a version of a group. What the apiserver makes of them is in pkg/apiserver/aggregate.
package apiregistration

import (
	"context"

	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"
	openapi "k8s.io/kube-aggregator/pkg/generated/openapi"

	"skiff/pkg/api"
	"skiff/pkg/api/generated"
)

var schemas = generated.Of(openapi.GetOpenAPIDefinitions)

// Kinds returns the group's rows.
func Kinds() []*api.Kind { return []*api.Kind{serviceKind()} }

func serviceKind() *api.Kind {
	object, list := v1.APIService{}.OpenAPIModelName(), v1.APIServiceList{}.OpenAPIModelName()
	return api.Define[v1.APIService, v1.APIServiceList](v1.SchemeGroupVersion, "apiservices", api.Kind{
		Categories:       []string{"api-extensions"},
		StoragePath:      v1.GroupName + "/apiservices",
		StoredAsJSON:     true,
		Default:          func(obj api.Object) { v1.SetObjectDefaults_APIService(obj.(*v1.APIService)) },
		PrepareForCreate: prepareForCreate,
		NameValidation:   api.PathSegment,
		AnyFinalizer:     true,
		Validate:         validate,
		ValidateUpdate:   func(obj, _ api.Object) field.ErrorList { return validate(obj) },
		Subresources:     map[string]*api.Subresource{"status": {KeepsMeta: true, ValidateUpdate: validateStatus}},
		Columns:          columns,
		Cells:            cells,
		OpenAPI:          schemas.Describe(object, list),
		Types:            schemas.Types(object, v1.SchemeGroupVersion.WithKind("APIService")),
	})
}

// prepareForCreate: what this server answers by itself is available from the beginning.
func prepareForCreate(_ context.Context, obj api.Object) {
	if s := obj.(*v1.APIService); s.Spec.Service == nil {
		helper.SetAPIServiceCondition(s, helper.NewLocalAvailableAPIServiceCondition())
	}
}
