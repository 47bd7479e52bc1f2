// Package apiextensions holds the catalogue's row of the group apiextensions.k8s.io:
// custom resource definitions. What they define is made into rows by pkg/apiserver/crd.
//
// The language of their schemas (structural schemas, CEL rules and what they may cost) is validated by
// Kubernetes' own package, which knows the internal form of the type.
package apiextensions

import (
	"context"
	"slices"
	"time"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	crdv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	openapi "k8s.io/apiextensions-apiserver/pkg/generated/openapi"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/api"
	"skiff/pkg/api/generated"
)

// Schemas are those of this group's types, and of those they are made of, metadata above all.
var Schemas = generated.Of(openapi.GetOpenAPIDefinitions)

var (
	objectModel = crdv1.CustomResourceDefinition{}.OpenAPIModelName()
	listModel   = crdv1.CustomResourceDefinitionList{}.OpenAPIModelName()
)

// Kinds returns the group's rows.
func Kinds() []*api.Kind {
	return []*api.Kind{definitionKind()}
}

func definitionKind() *api.Kind {
	return api.Define[crdv1.CustomResourceDefinition, crdv1.CustomResourceDefinitionList](crdv1.SchemeGroupVersion, "customresourcedefinitions", api.Kind{
		ShortNames:       []string{"crd", "crds"},
		Categories:       []string{"api-extensions"},
		StoragePath:      crdv1.GroupName + "/customresourcedefinitions",
		StoredAsJSON:     true,
		Older:            readOlder,
		HasGeneration:    true,
		AnyFinalizer:     true,
		Default:          setDefaults,
		PrepareForCreate: func(_ context.Context, obj api.Object) { rememberStored(obj) },
		PrepareForUpdate: func(_ context.Context, obj, _ api.Object) { rememberStored(obj) },
		PrepareForDelete: prepareForDelete,
		NameValidation:   func(string, bool) []string { return nil }, // validate looks at names
		Validate:         validate,
		ValidateUpdate:   validateUpdate,
		Warnings:         warnings,
		Subresources:     map[string]*api.Subresource{"status": {ValidateUpdate: validateStatusUpdate}},
		OpenAPI:          Schemas.Describe(objectModel, listModel),
		Types:            Schemas.Types(objectModel, crdv1.SchemeGroupVersion.WithKind("CustomResourceDefinition")),
	})
}

func setDefaults(obj api.Object) {
	crd := obj.(*crdv1.CustomResourceDefinition)
	crdv1.SetDefaults_CustomResourceDefinition(crd)
	if c := crd.Spec.Conversion; c != nil && c.Webhook != nil && c.Webhook.ClientConfig != nil && c.Webhook.ClientConfig.Service != nil {
		crdv1.SetDefaults_ServiceReference(c.Webhook.ClientConfig.Service)
	}
}

// rememberStored keeps in the status every version in which objects may have been stored.
func rememberStored(obj api.Object) {
	crd := obj.(*crdv1.CustomResourceDefinition)
	version, err := apihelpers.GetCRDStorageVersion(crd)
	if err == nil && !slices.Contains(crd.Status.StoredVersions, version) {
		crd.Status.StoredVersions = append(slices.Clip(crd.Status.StoredVersions), version)
	}
}

// prepareForDelete holds the definition until its objects are gone.
func prepareForDelete(obj api.Object, now time.Time) {
	crd := obj.(*crdv1.CustomResourceDefinition)
	stamp := metav1.NewTime(now.Truncate(time.Second))
	crd.DeletionTimestamp = &stamp
	if !slices.Contains(crd.Finalizers, crdv1.CustomResourceCleanupFinalizer) {
		crd.Finalizers = append(crd.Finalizers, crdv1.CustomResourceCleanupFinalizer)
	}
	apihelpers.SetCRDCondition(crd, crdv1.CustomResourceDefinitionCondition{
		Type: crdv1.Terminating, Status: crdv1.ConditionTrue, Reason: "InstanceDeletionPending",
		Message: "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
	})
}
