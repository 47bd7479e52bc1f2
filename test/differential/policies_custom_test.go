package differential

import (
	"net/http"
	"strings"
)

// about says which requests for widgets a policy concerns.
func about(version, resource, operation, match string) map[string]any {
	return map[string]any{"matchConstraints": map[string]any{"matchPolicy": match, "resourceRules": []any{map[string]any{
		"operations": []any{operation}, "apiGroups": []any{"GROUP"}, "apiVersions": []any{version}, "resources": []any{resource}}}}}
}

// labelled is about the creation of widgets with a label.
func labelled(label string) map[string]any {
	match := about("v1", "widgets", "CREATE", "Exact")
	match["matchConstraints"].(map[string]any)["objectSelector"] = map[string]any{"matchLabels": map[string]any{"case": label}}
	return match
}

// customPolicies are about custom resources: in one version or any, and about parts of them. Their types are known.
var customPolicies = map[string][]policyCase{
	"Validating": {
		{"size", and(ruled("object.spec.size < 5", "messageExpression", "'size ' + string(object.spec.size)"), about("v1", "widgets", "CREATE", "Exact")), nil},
		{"absent", and(ruled("object.spec.absent == 'x'"), labelled("absent")), nil},
		{"equivalent", and(ruled("object.spec.size != 4", "messageExpression", "request.resource.version + ' ' + request.requestResource.version + ' ' + object.apiVersion"), about("v2", "widgets", "CREATE", "Equivalent")), nil},
		{"scale", and(ruled("object.spec.replicas < 3", "messageExpression", "object.kind + ' ' + string(oldObject.spec.replicas) + ' ' + request.subResource"), about("v1", "widgets/scale", "UPDATE", "Exact")), nil},
		{"status", and(ruled("object.status.phase != 'bad'", "messageExpression", "request.subResource + ' ' + object.status.phase"), about("v1", "widgets/status", "UPDATE", "Exact")), nil},
		{"change", and(ruled("object.spec.name == oldObject.spec.name", "message", "named for ever"), about("v1", "widgets", "UPDATE", "Exact")), nil},
		{"deletion", and(ruled("object != null || oldObject.spec.name != 'abc'", "messageExpression", "'not ' + oldObject.metadata.name"), about("v1", "widgets", "DELETE", "Exact")), nil},
		{"ready", and(ruled("false", "message", "ready"), labelled("ready")), nil},
	},
	"Mutating": {
		{"m-size", and(mutates(applied("Object{spec: Object.spec{size: 7}}")), labelled("m-size")), nil},
		{"m-list", and(mutates(applied("Object{spec: Object.spec{list: [Object.spec.list{k: 'a', v: 9}, Object.spec.list{k: 'c', v: 1}]}}")), labelled("m-list")), nil},
		{"m-type", and(mutates(applied("Object{spec: Object.spec{size: 'x'}}")), labelled("m-type")), nil},
		{"m-unknown", and(mutates(applied("Object{spec: Object.spec{nonsense: 'x'}}")), labelled("m-unknown")), nil},
		{"m-invalid", and(mutates(applied("Object{spec: Object.spec{size: 0}}")), labelled("m-invalid")), nil},
		{"m-json", and(mutates(operated("[JSONPatch{op: 'add', path: '/spec/list/-', value: Object.spec.list{k: 'z'}}]")), labelled("m-json")), nil},
		{"m-json-type", and(mutates(operated("[JSONPatch{op: 'replace', path: '/spec/size', value: 'x'}]")), labelled("m-json-type")), nil},
		{"m-json-unknown", and(mutates(operated("[JSONPatch{op: 'add', path: '/spec/nonsense', value: 'x'}]")), labelled("m-json-unknown")), nil},
		{"m-json-kind", and(mutates(operated("[JSONPatch{op: 'replace', path: '/kind', value: 'Other'}]")), labelled("m-json-kind")), nil},
		{"m-status", and(mutates(applied("Object{status: Object.status{phase: 'mutated'}}")), about("v1", "widgets/status", "UPDATE", "Exact")), nil},
		{"ready", and(mutates(applied("Object{spec: Object.spec{name: 'ready'}}")), labelled("ready")), nil},
	},
}

// policiesOfCustom has both classes of policies for the definition of the test data.
func policiesOfCustom(s *side, run, class string) {
	group := run + ".example.com"
	s.send(call{method: http.MethodPost, path: "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", body: s.definition(run)})
	path := func(version string) string {
		return "/apis/" + group + "/" + version + "/namespaces/" + run + "/widgets"
	}
	s.eventually(call{name: "served", method: http.MethodGet, path: path("v1")}, func(e exchange) bool { return e.Status == http.StatusOK })
	defer s.undefine(run)
	widget := func(version, label string, size int) map[string]any {
		return map[string]any{"apiVersion": group + "/" + version, "kind": "Widget", "metadata": map[string]any{"name": label, "labels": map[string]any{"case": label}},
			"spec": map[string]any{"size": size, "name": "abc", "list": []any{map[string]any{"k": "a", "v": 1}}, "replicas": 2}}
	}
	base := "/apis/admissionregistration.k8s.io/v1/" + strings.ToLower(class) + "admissionpolic"
	for _, c := range customPolicies[class] {
		name := c.name + "." + group
		binding := map[string]any{"policyName": name}
		if class == "Validating" {
			binding["validationActions"] = []any{"Deny"}
		}
		constraints := c.spec["matchConstraints"].(map[string]any)
		constraints = with(constraints, []any{group}, "resourceRules", 0, "apiGroups")
		spec := policySpec(class, run, c.name, and(c.spec, map[string]any{"matchConstraints": constraints}))
		s.do(call{name: "make " + c.name, method: http.MethodPost, path: base + "ies", body: map[string]any{"metadata": map[string]any{"name": name}, "spec": spec}})
		s.do(call{name: "bind " + c.name, method: http.MethodPost, path: base + "ybindings", body: map[string]any{"metadata": map[string]any{"name": name}, "spec": binding}})
		defer s.send(call{method: http.MethodDelete, path: base + "ies/" + name})
		defer s.send(call{method: http.MethodDelete, path: base + "ybindings/" + name})
	}
	create := func(version, label string, size int, options string) call {
		return call{name: "create " + label + " in " + version, method: http.MethodPost, path: path(version) + options, body: widget(version, label, size)}
	}
	s.eventually(create("v1", "ready", 2, "?dryRun=All"), func(e exchange) bool {
		return e.Status == http.StatusUnprocessableEntity || at(e.Body, "spec", "name") == "ready"
	})
	for _, c := range customPolicies[class] {
		s.do(create("v1", c.name, 2, "?dryRun=All"))
	}
	for _, version := range []string{"v1", "v2"} {
		s.do(create(version, "large", 6, "?dryRun=All"))
		s.do(create(version, "four", 4, "?dryRun=All"))
	}
	s.do(create("v1", "w", 2, ""))
	patch := func(name, below, body string) {
		s.do(call{name: name, method: http.MethodPatch, path: path("v1") + "/w" + below, contentType: mergeType, body: body})
	}
	patch("scale", "/scale", `{"spec":{"replicas":5}}`)
	patch("scale less", "/scale", `{"spec":{"replicas":1}}`)
	patch("status", "/status", `{"status":{"phase":"bad"}}`)
	patch("good status", "/status", `{"status":{"phase":"good"}}`)
	patch("rename", "", `{"spec":{"name":"xyz"}}`)
	s.do(call{name: "delete", method: http.MethodDelete, path: path("v1") + "/w"})
	s.do(call{name: "delete in v2", method: http.MethodDelete, path: path("v2") + "/w"})
}
