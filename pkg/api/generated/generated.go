// Package generated makes use of the schemas that Kubernetes' modules have generated for their types, for kinds that
// client-go knows nothing of (custom resource definitions, APIServices): in OpenAPI documents, and in server-side apply.
package generated

import (
	"encoding/json"
	"maps"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"skiff/pkg/api"
)

// Schemas are a module's, by the types' names; read when they are first asked for.
type Schemas func() map[string]common.OpenAPIDefinition

// Of takes what a module's generated package exports.
func Of(definitions func(common.ReferenceCallback) map[string]common.OpenAPIDefinition) Schemas {
	return sync.OnceValue(func() map[string]common.OpenAPIDefinition {
		return definitions(func(name string) spec.Ref {
			return spec.MustCreateRef(prefixV3 + common.EscapeJsonPointer(name))
		})
	})
}

// Models are the schemas of the types with these names, and of all that they refer to.
func (s Schemas) Models(names ...string) map[string]*spec.Schema {
	all := map[string]*spec.Schema{}
	for len(names) > 0 {
		name := names[len(names)-1]
		names = names[:len(names)-1]
		if _, ok := all[name]; ok {
			continue
		}
		d := s()[name]
		all[name] = &d.Schema
		names = append(names, d.Dependencies...)
	}
	return all
}

// Describe is [api.Kind.OpenAPI] for a kind with these types.
func (s Schemas) Describe(object, list string) func(v3 bool) (*api.Definitions, error) {
	return func(v3 bool) (*api.Definitions, error) {
		out := &api.Definitions{Object: object, List: list, All: map[string]map[string]any{}}
		for name, model := range s.Models(object, list) {
			plain, err := Plain(model, v3)
			if err != nil {
				return nil, err
			}
			out.All[name] = plain
		}
		return out, nil
	}
}

// Types is [api.Kind.Types] for a kind with this type.
func (s Schemas) Types(object string, gvk schema.GroupVersionKind) func() (managedfields.TypeConverter, error) {
	return func() (managedfields.TypeConverter, error) {
		models := s.Models(object)
		models[object] = WithKind(models[object], gvk)
		return managedfields.NewTypeConverter(models, false)
	}
}

// WithKind is a schema that says which kind it describes.
func WithKind(s *spec.Schema, gvk schema.GroupVersionKind) *spec.Schema {
	out := *s
	out.Extensions = maps.Clone(s.Extensions)
	out.AddExtension("x-kubernetes-group-version-kind", []any{map[string]any{"group": gvk.Group, "version": gvk.Version, "kind": gvk.Kind}})
	return &out
}

// Plain is a schema as the JSON object that stands in a document. OpenAPI v3 has nothing beside a
// reference, so it is wrapped there; v2 documents of Kubernetes hold no defaults.
func Plain(s *spec.Schema, v3 bool) (map[string]any, error) {
	if other, ok := s.Extensions[common.ExtensionV2Schema].(spec.Schema); ok && !v3 {
		s = &other
	}
	text, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	var plain map[string]any
	if err := json.Unmarshal(text, &plain); err != nil {
		return nil, err
	}
	delete(plain, common.ExtensionV2Schema)
	adapt(plain, v3)
	return plain, nil
}

const prefixV3, prefixV2 = "#/components/schemas/", "#/definitions/"

// adapt rewrites a schema in place, and those within it.
func adapt(s map[string]any, v3 bool) {
	if ref, ok := s["$ref"].(string); ok {
		if name, ok := strings.CutPrefix(ref, prefixV3); ok && !v3 {
			s["$ref"] = prefixV2 + name
		}
		if v3 && len(s) > 1 {
			delete(s, "$ref")
			s["allOf"] = []any{map[string]any{"$ref": ref}}
		}
	}
	if !v3 {
		delete(s, "default")
	}
	for _, key := range []string{"items", "additionalProperties", "not"} {
		if sub, ok := s[key].(map[string]any); ok {
			delete(sub, "default") // no element is left out
			adapt(sub, v3)
		}
	}
	for _, key := range []string{"allOf", "anyOf", "oneOf"} {
		list, _ := s[key].([]any)
		for _, one := range list {
			if sub, ok := one.(map[string]any); ok {
				adapt(sub, v3)
			}
		}
	}
	properties, _ := s["properties"].(map[string]any)
	for _, one := range properties {
		if sub, ok := one.(map[string]any); ok {
			adapt(sub, v3)
		}
	}
}
