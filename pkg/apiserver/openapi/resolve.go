package openapi

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/cel/openapi/resolver"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// Schema describes a kind as its document of v3 does, with every reference replaced by what it refers to. For a
// kind that isn't described the error is [resolver.ErrSchemaNotFound].
func (s *Service) Schema(gvk schema.GroupVersionKind) (*spec.Schema, error) {
	d, err := s.get(groupPath(gvk.GroupVersion()))
	if err != nil {
		return nil, err
	}
	if d == nil {
		return nil, fmt.Errorf("%s: %w", gvk.GroupVersion(), resolver.ErrSchemaNotFound)
	}
	var content struct {
		Components struct {
			Schemas map[string]*spec.Schema `json:"schemas"`
		} `json:"components"`
	}
	if err := json.Unmarshal(d.json, &content); err != nil {
		return nil, err
	}
	find := func(reference string) (*spec.Schema, bool) {
		found, ok := content.Components.Schemas[strings.TrimPrefix(reference, v3.prefix)]
		return found, ok
	}
	for name, described := range content.Components.Schemas {
		var kinds []schema.GroupVersionKind
		if err := described.Extensions.GetObject("x-kubernetes-group-version-kind", &kinds); err != nil {
			return nil, err
		}
		if slices.Contains(kinds, gvk) {
			return resolver.PopulateRefs(find, name)
		}
	}
	return nil, fmt.Errorf("%s: %w", gvk, resolver.ErrSchemaNotFound)
}
