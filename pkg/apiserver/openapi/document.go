package openapi

import (
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
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

// isTyped says that a kind has a Go type to reflect on.
func isTyped(k *api.Kind) bool {
	_, custom := k.New().(runtime.Unstructured)
	return !custom
}

// v2Document is everything at once.
func (s *source) v2Document() object {
	d := &definitions{dialect: v2, apply: s.apply, all: object{}}
	paths := object{}
	for _, k := range s.view.Kinds() {
		if isTyped(k) {
			s.render(d, paths, pathsOf(k))
		}
	}
	s.mark(d, versions(s.view)...)
	return object{
		"swagger": "2.0", "info": object{"title": "Kubernetes", "version": s.version},
		"paths": paths, "definitions": d.all,
		"securityDefinitions": object{"BearerToken": object{
			"type": "apiKey", "name": "authorization", "in": "header", "description": "Bearer Token authentication"}},
		"security": []object{{"BearerToken": []string{}}},
	}
}

// v3Document is one group and version.
func (s *source) v3Document(gv schema.GroupVersion) object {
	d := &definitions{dialect: v3, apply: s.apply, all: object{}}
	paths := object{}
	for _, k := range s.view.In(gv) {
		if isTyped(k) {
			s.render(d, paths, pathsOf(k))
		}
	}
	s.mark(d, schema.GroupVersion{Version: "v1"}, gv)
	return object{
		"openapi": "3.0.0", "info": object{"title": "Kubernetes", "version": s.version},
		"paths": paths,
		"components": object{"schemas": d.all, "securitySchemes": object{"BearerToken": object{
			"type": "apiKey", "name": "authorization", "in": "header", "description": "Bearer Token authentication"}}},
	}
}

// mark adds to the definitions of kinds which kinds they are, in these versions.
func (s *source) mark(d *definitions, gvs ...schema.GroupVersion) {
	for _, gv := range gvs {
		for _, k := range s.view.In(gv) {
			s.markRow(d, k)
		}
		markKind(d, deleteType, gv.WithKind("DeleteOptions"))
	}
	markKind(d, statusType, schema.GroupVersionKind{Version: "v1", Kind: "Status"})
}

func (s *source) markRow(d *definitions, k *api.Kind) {
	if !isTyped(k) {
		return
	}
	markKind(d, reflect.TypeOf(k.New()).Elem(), k.GroupVersionKind)
	if list := typeOf(k.NewList); list != nil {
		markKind(d, list, k.GroupVersion().WithKind(k.Kind+"List"))
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
		item := object{"parameters": d.params(p.params)}
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
		"operationId": o.id, "description": o.text, "tags": []string{o.tag}, "x-kubernetes-action": o.action,
		"x-kubernetes-group-version-kind": object{"group": o.kind.Group, "version": o.kind.Version, "kind": o.kind.Kind},
	}
	params := d.params(o.params)
	if o.body != nil {
		schema := d.ref(d.add(o.body))
		required := o.body != deleteType
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
		if t != nil {
			schema = d.ref(d.add(t))
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
		op["consumes"], op["produces"], op["schemes"] = o.consumes, o.produces, []string{"https"}
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
