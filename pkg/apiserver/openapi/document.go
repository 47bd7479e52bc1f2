package openapi

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	smd "sigs.k8s.io/structured-merge-diff/v6/schema"

	"skiff/pkg/api"
)

// source is what documents are made of.
type source struct {
	view    *api.View
	apply   *smd.Schema
	version string
}

// described says that there is something to make a kind's description of.
func described(k *api.Kind) bool { return k.Custom == nil || k.OpenAPI != nil }

// kinds adds what there is about rows to a document's paths and definitions.
func (s *source) kinds(d *definitions, paths object, rows []*api.Kind) error {
	for _, k := range rows {
		if !described(k) {
			continue
		}
		var own *api.Definitions
		if k.OpenAPI != nil {
			var err error
			if own, err = k.OpenAPI(d.v3); err != nil {
				return fmt.Errorf("describe %s: %w", k.GroupVersionKind, err)
			}
			d.adopt(own)
		}
		s.render(d, paths, pathsOf(k, own))
	}
	return nil
}

// v2Document is everything at once.
func (s *source) v2Document() (object, error) {
	d := &definitions{dialect: v2, apply: s.apply, all: object{}}
	paths := object{}
	if err := s.kinds(d, paths, s.view.Kinds()); err != nil {
		return nil, err
	}
	for _, p := range discovery(s.view) {
		s.render(d, paths, []path{p})
	}
	s.mark(d, versions(s.view)...)
	return object{
		"swagger": "2.0", "info": object{"title": "Kubernetes", "version": s.version},
		"paths": paths, "definitions": d.all,
		"securityDefinitions": object{"BearerToken": object{
			"type": "apiKey", "name": "authorization", "in": "header", "description": "Bearer Token authentication"}},
		"security": []object{{"BearerToken": []string{}}},
	}, nil
}

// v3Document is one group and version, or one part of [discovery] by itself (gv is empty then).
func (s *source) v3Document(name string, gv schema.GroupVersion) (object, error) {
	d := &definitions{dialect: v3, apply: s.apply, all: object{}}
	paths := object{}
	if err := s.kinds(d, paths, s.view.In(gv)); err != nil {
		return nil, err
	}
	if p, ok := discovery(s.view)[name]; ok {
		s.render(d, paths, []path{p})
	}
	s.mark(d, schema.GroupVersion{Version: "v1"}, gv)
	components := object{"securitySchemes": object{"BearerToken": object{
		"type": "apiKey", "name": "authorization", "in": "header", "description": "Bearer Token authentication"}}}
	if len(d.all) > 0 {
		components["schemas"] = d.all
	}
	return object{
		"openapi": "3.0.0", "info": object{"title": "Kubernetes", "version": s.version},
		"paths": paths, "components": components,
	}, nil
}

// mark adds to the definitions of kinds which kinds they are, in these versions.
func (s *source) mark(d *definitions, gvs ...schema.GroupVersion) {
	for _, gv := range gvs {
		for _, k := range s.view.In(gv) {
			s.markRow(d, k)
		}
		markKind(d, deleteType, gv.WithKind("DeleteOptions"))
	}
	for _, t := range metaTypes {
		markKind(d, t, schema.GroupVersionKind{Version: "v1", Kind: t.Name()})
	}
}

func (s *source) markRow(d *definitions, k *api.Kind) {
	if k.Custom == nil {
		markKind(d, reflect.TypeOf(k.New()).Elem(), k.GroupVersionKind)
		if list := typeOf(k.NewList); list != nil {
			markKind(d, list, k.GroupVersion().WithKind(k.ListKind))
		}
	}
	for _, name := range sortedSubresources(k) {
		if sub := k.Subresources[name]; sub.New != nil {
			markKind(d, typeOf(sub.New), sub.GroupVersionKind)
		}
	}
}

func markKind(d *definitions, t reflect.Type, gvk schema.GroupVersionKind) {
	definition, ok := d.all[modelName(t)].(object)
	if !ok {
		return
	}
	entry := object{"group": gvk.Group, "version": gvk.Version, "kind": gvk.Kind}
	known, _ := definition["x-kubernetes-group-version-kind"].([]object)
	if !slices.ContainsFunc(known, func(o object) bool { return reflect.DeepEqual(o, entry) }) {
		definition["x-kubernetes-group-version-kind"] = append(known, entry)
	}
}

func (s *source) render(d *definitions, into object, paths []path) {
	for _, p := range paths {
		if len(p.operations) == 1 {
			p.params, p.operations[0].params = append(p.params, p.operations[0].params...), nil
		}
		item := object{}
		if len(p.params) > 0 {
			item["parameters"] = d.params(p.params)
		}
		for _, o := range p.operations {
			item[o.method] = d.operation(o)
		}
		into[p.template] = item
	}
}

func (d *definitions) params(params []param) []object {
	all := make([]object, 0, len(params))
	for _, p := range params {
		one := object{"name": p.name, "in": p.in}
		describe(one, p.text)
		if p.required {
			one["required"] = true
		}
		if d.v3 {
			one["schema"] = object{"type": p.kind, "uniqueItems": true}
		} else {
			one["type"], one["uniqueItems"] = p.kind, true
		}
		all = append(all, one)
	}
	return all
}

func (d *definitions) operation(o operation) object {
	op := object{
		"operationId": o.id, "description": o.text, "tags": []string{o.tag},
	}
	if o.action != "" {
		op["x-kubernetes-action"] = o.action
		op["x-kubernetes-group-version-kind"] = object{"group": o.kind.Group, "version": o.kind.Version, "kind": o.kind.Kind}
	}
	params := d.params(o.params)
	if o.body != (model{}) {
		schema := d.model(o.body)
		required := o.body.goType != deleteType
		if d.v3 {
			body := object{"content": content(o.consumes, schema)}
			if required {
				body["required"] = true
			}
			op["requestBody"] = body
		} else {
			body := object{"name": "body", "in": "body", "schema": schema}
			if required {
				body["required"] = true
			}
			params = append(params, body)
		}
	}
	if len(params) > 0 {
		op["parameters"] = params
	}
	answers := object{"401": object{"description": "Unauthorized"}}
	for code, t := range o.answers {
		answer := object{"description": meanings[code]}
		schema := object{"type": "string"}
		if t != (model{}) {
			schema = d.model(t)
		}
		if d.v3 {
			answer["content"] = content(o.produces, schema)
		} else {
			answer["schema"] = schema
		}
		answers[code] = answer
	}
	op["responses"] = answers
	if !d.v3 {
		op["produces"], op["schemes"] = o.produces, []string{"https"}
		if o.consumes != nil {
			op["consumes"] = o.consumes
		}
	}
	return op
}

var meanings = map[string]string{"200": "OK", "201": "Created", "202": "Accepted"}

func content(types []string, schema object) object {
	all := object{}
	for _, t := range types {
		all[t] = object{"schema": schema}
	}
	return all
}

// groupPath is how the index of v3 names a group and version: "api/v1", "apis/apps/v1".
func groupPath(gv schema.GroupVersion) string { return strings.TrimPrefix(root(gv), "/") }
