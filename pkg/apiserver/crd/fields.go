package crd

import (
	"fmt"
	"strings"

	crdv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/util/jsonpath"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"skiff/pkg/api"
)

// selectableFields reads the fields that selectors may name.
func selectableFields(selectable []crdv1.SelectableField) func(api.Object) fields.Set {
	paths := map[string]*jsonpath.JSONPath{}
	for _, f := range selectable {
		path := jsonpath.New("selectableField").AllowMissingKeys(true)
		if path.Parse("{"+f.JSONPath+"}") == nil { // validation has tried it
			paths[strings.TrimPrefix(f.JSONPath, ".")] = path
		}
	}
	return func(obj api.Object) fields.Set {
		set := fields.Set{}
		for name, path := range paths {
			set[name] = ""
			results, err := path.FindResults(obj.(*unstructured.Unstructured).Object)
			if err == nil && len(results) == 1 && len(results[0]) == 1 {
				if value := results[0][0].Interface(); value != nil {
					set[name] = fmt.Sprint(value)
				}
			}
		}
		return set
	}
}

// scaleView is the scale subresource of a version.
func (v *version) scaleView() api.Scale {
	scale := v.scale()
	spec, status := steps(scale.SpecReplicasPath), steps(scale.StatusReplicasPath)
	var selector []string
	if scale.LabelSelectorPath != nil && *scale.LabelSelectorPath != "" {
		selector = steps(*scale.LabelSelectorPath)
	}
	read := func(obj api.Object) (want, have int64, selected string, set bool, err error) {
		u := obj.(*unstructured.Unstructured).Object
		if want, set, err = unstructured.NestedInt64(u, spec...); err != nil {
			return
		}
		if have, _, err = unstructured.NestedInt64(u, status...); err != nil || selector == nil {
			return
		}
		selected, _, err = unstructured.NestedString(u, selector...)
		return
	}
	return api.Scale{
		Paths: v.of.scalePaths(),
		Check: func(obj api.Object) error {
			_, _, _, set, err := read(obj)
			if err == nil && !set {
				err = api.NoReplicas{Path: scale.SpecReplicasPath}
			}
			return err
		},
		Get: func(obj api.Object) (int32, int32, string) {
			want, have, selected, _, _ := read(obj)
			return int32(want), int32(have), selected
		},
		Set: func(obj api.Object, replicas int32) {
			// Check has found a way to the field, or none that anything stands in.
			_ = unstructured.SetNestedField(obj.(*unstructured.Unstructured).Object, int64(replicas), spec...)
		},
	}
}

// scalePaths say in which field each version has its count.
func (d *definition) scalePaths() managedfields.ResourcePathMappings {
	paths := managedfields.ResourcePathMappings{}
	for name, v := range d.versions {
		gv := schema.GroupVersion{Group: d.spec.Group, Version: name}.String()
		paths[gv] = nil
		if scale := v.scale(); scale != nil {
			var path fieldpath.Path
			for _, step := range steps(scale.SpecReplicasPath) {
				path = append(path, fieldpath.PathElement{FieldName: &step})
			}
			paths[gv] = path
		}
	}
	return paths
}
