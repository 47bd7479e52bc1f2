package crd

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	openapiv2 "k8s.io/apiextensions-apiserver/pkg/controller/openapi/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"skiff/pkg/api"
	"skiff/pkg/api/apiextensions"
	"skiff/pkg/api/generated"
)

// What is published of a custom resource follows Kubernetes' own, with its concessions to kubectl: a
// schema in OpenAPI v2 leaves out whatever would make old clients refuse unknown fields.

const preserve = "x-kubernetes-preserve-unknown-fields"

// modelName is the definition's name of a kind: com.example.v1.Foo.
func (v *version) modelName(kind string) string {
	parts := strings.Split(v.of.spec.Group, ".")
	slices.Reverse(parts)
	return fmt.Sprintf("%s.%s.%s", strings.Join(parts, "."), v.Name, kind)
}

func reference(model string) *spec.Schema {
	return spec.RefSchema("#/components/schemas/" + model)
}

var (
	typeTexts     = metav1.TypeMeta{}.SwaggerDoc()
	objectMeta    = metav1.ObjectMeta{}.OpenAPIModelName()
	listMeta      = metav1.ListMeta{}.OpenAPIModelName()
	metadataField = *reference(objectMeta).WithDescription(metav1.PartialObjectMetadata{}.SwaggerDoc()["metadata"])
)

// describe makes the OpenAPI definitions of a version and its list.
func (v *version) describe(v3 bool) (*api.Definitions, error) {
	names := v.of.names
	object, err := v.publish(v3)
	if err != nil {
		return nil, err
	}
	list := v.publishList()
	if selectable := v.publishSelectable(); selectable != nil {
		object.AddExtension("x-kubernetes-selectable-fields", selectable)
		list.AddExtension("x-kubernetes-selectable-fields", selectable)
	}
	out := &api.Definitions{Object: v.modelName(names.Kind), List: v.modelName(names.ListKind), All: map[string]map[string]any{}}
	if out.All[out.Object], err = generated.Plain(object, v3); err != nil {
		return nil, err
	}
	if out.All[out.List], err = generated.Plain(list, v3); err != nil {
		return nil, err
	}
	return out, nil
}

// publish is the schema of the version's objects with the fields that all objects have. A schema
// that isn't structural is not published.
func (v *version) publish(v3 bool) (*spec.Schema, error) {
	props, err := v.internalSchema()
	if err != nil {
		return nil, err
	}
	gvk := v.of.kind(v.Name)
	anything := generated.WithKind(&spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"object"}}}, gvk)
	if props == nil || validation.SchemaHasInvalidTypes(props) {
		return anything, nil
	}
	s, err := structural.NewStructural(props)
	if err != nil || len(structural.ValidateStructural(nil, s)) > 0 {
		return anything, nil
	}
	s = s.Unfold()
	if !v3 {
		if s.XPreserveUnknownFields || v.of.spec.PreserveUnknownFields {
			return anything, nil
		}
		s = openapiv2.ToStructuralOpenAPIV2(s)
	}
	out := s.ToKubeOpenAPI()
	out.SetProperty("metadata", metadataField)
	out.SetProperty("apiVersion", *spec.StringProperty().WithDescription(typeTexts["apiVersion"]))
	out.SetProperty("kind", *spec.StringProperty().WithDescription(typeTexts["kind"]))
	publishEmbedded(out, v3)
	return generated.WithKind(out, gvk), nil
}

// publishEmbedded gives embedded objects the fields that all objects have.
func publishEmbedded(s *spec.Schema, v3 bool) {
	for name, property := range s.Properties {
		publishEmbedded(&property, v3)
		s.Properties[name] = property
	}
	if s.Items != nil && s.Items.Schema != nil {
		publishEmbedded(s.Items.Schema, v3)
	}
	if s.AdditionalProperties != nil && s.AdditionalProperties.Schema != nil {
		publishEmbedded(s.AdditionalProperties.Schema, v3)
	}
	if open, _ := s.Extensions.GetBool(preserve); open && !v3 {
		return // kubectl would refuse the unknown fields
	}
	if embedded, _ := s.Extensions.GetBool("x-kubernetes-embedded-resource"); !embedded {
		return
	}
	s.SetProperty("apiVersion", *spec.StringProperty().WithDescription("apiVersion defines the versioned schema of this representation of an object. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources"))
	s.SetProperty("kind", *spec.StringProperty().WithDescription("kind is a string value representing the type of this object. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds"))
	s.SetProperty("metadata", metadataField)
	for _, name := range []string{"kind", "apiVersion"} {
		if !slices.Contains(s.Required, name) {
			s.Required = append(s.Required, name)
		}
	}
}

func (v *version) publishList() *spec.Schema {
	names := v.of.names
	items := spec.ArrayProperty(reference(v.modelName(names.Kind))).WithDescription(
		fmt.Sprintf("List of %s. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md", names.Plural))
	list := new(spec.Schema).Typed("object", "").
		WithDescription(fmt.Sprintf("%s is a list of %s", names.ListKind, names.Kind)).
		WithRequired("items").
		SetProperty("items", *items).
		SetProperty("metadata", *reference(listMeta).WithDescription(metav1.PartialObjectMetadataList{}.SwaggerDoc()["metadata"])).
		SetProperty("apiVersion", *spec.StringProperty().WithDescription(typeTexts["apiVersion"])).
		SetProperty("kind", *spec.StringProperty().WithDescription(typeTexts["kind"]))
	gvk := v.of.kind(v.Name)
	gvk.Kind = names.ListKind
	return generated.WithKind(list, gvk)
}

func (v *version) publishSelectable() any {
	var all []any
	for _, f := range v.SelectableFields {
		all = append(all, map[string]any{"fieldPath": strings.TrimPrefix(f.JSONPath, ".")})
	}
	if all == nil {
		return nil
	}
	return all
}

// typeConverter has the schemas of all versions for server-side apply: a field may be owned in any.
func (d *definition) typeConverter() (managedfields.TypeConverter, error) {
	models := apiextensions.Schemas.Models(objectMeta)
	for _, v := range d.versions {
		schema, err := v.publish(true)
		if err != nil {
			return nil, err
		}
		models[v.modelName(d.names.Kind)] = schema
	}
	return managedfields.NewTypeConverter(models, d.spec.PreserveUnknownFields)
}
