package differential

import (
	"fmt"
	"maps"
	"net/http"
	"strings"
)

// policyCase is a policy with a binding, about objects with its name as a label.
type policyCase struct {
	name    string
	spec    map[string]any // fields of the policy
	binding map[string]any // fields of the binding
}

func validations(all ...map[string]any) []any {
	out := make([]any, len(all))
	for i := range all {
		out[i] = all[i]
	}
	return out
}

// rule is a validation, with further fields by name.
func rule(expression string, more ...string) map[string]any {
	v := map[string]any{"expression": expression}
	for i := 0; i < len(more); i += 2 {
		v[more[i]] = more[i+1]
	}
	return v
}

func ruled(expression string, more ...string) map[string]any {
	return map[string]any{"validations": validations(rule(expression, more...))}
}

// and is a with the fields of b.
func and(a, b map[string]any) map[string]any {
	both := maps.Clone(a)
	maps.Copy(both, b)
	return both
}

func acts(actions ...any) map[string]any { return map[string]any{"validationActions": actions} }

func params(apiVersion, kind string) map[string]any {
	return map[string]any{"paramKind": map[string]any{"apiVersion": apiVersion, "kind": kind}}
}

func named(param, notFound string) map[string]any {
	return map[string]any{"paramRef": map[string]any{"name": param, "parameterNotFoundAction": notFound}}
}

func selected(label, notFound string) map[string]any {
	return map[string]any{"paramRef": map[string]any{"selector": map[string]any{"matchLabels": map[string]any{"param": label}}, "parameterNotFoundAction": notFound}}
}

func variables(pairs ...string) map[string]any {
	var all []any
	for i := 0; i < len(pairs); i += 2 {
		all = append(all, map[string]any{"name": pairs[i], "expression": pairs[i+1]})
	}
	return map[string]any{"variables": all}
}

func annotated(value string) map[string]any {
	return map[string]any{"auditAnnotations": []any{map[string]any{"key": "k", "valueExpression": value}}}
}

var (
	configMaps = params("v1", "ConfigMap")
	// A kind of its own: Kubernetes doesn't find parameters of a kind again that no policy had for a while.
	accounts = params("v1", "ServiceAccount")
	byParam  = and(ruled("object.data.a != params.data.forbidden", "messageExpression", "'not ' + params.data.forbidden"), configMaps)
)

var validatingPolicies = []policyCase{
	{"message", ruled("object.data.a != 'x'", "message", "x is taken"), nil},
	{"no-message", ruled("object.data.a != 'x'"), nil},
	{"many-lines", ruled("object.data.a != 'x' &&\n object.data.b != 'y'", "message", "one line"), nil},
	{"unauthorized", ruled("false", "reason", "Unauthorized", "message", "who are you"), nil},
	{"forbidden", ruled("false", "reason", "Forbidden"), nil},
	{"invalid", ruled("false", "reason", "Invalid"), nil},
	{"too-large", ruled("false", "reason", "RequestEntityTooLarge"), nil},
	{"message-expression", ruled("false", "messageExpression", "'a is ' + object.data.a", "message", "unused"), nil},
	{"message-fails", ruled("false", "messageExpression", "'a is ' + object.data.absent", "message", "instead"), nil},
	{"message-empty", ruled("false", "messageExpression", "''", "message", "instead"), nil},
	{"message-blank", ruled("false", "messageExpression", "'  '"), nil},
	{"message-lines", ruled("false", "messageExpression", `'a\nb'`, "message", "instead"), nil},
	{"message-long", ruled("false", "messageExpression", "'"+strings.Repeat("long ", 1200)+"'", "message", "instead"), nil},
	{"two-faults", map[string]any{"validations": validations(rule("false", "message", "first"), rule("true", "message", "fine"), rule("false", "message", "second", "reason", "Forbidden"))}, nil},
	{"error", ruled("object.data.absent == 'x'", "message", "m"), nil},
	{"error-ignored", and(ruled("object.data.absent == 'x'"), ignored), nil},
	{"error-and-fault", map[string]any{"validations": validations(rule("object.data.absent == 'x'"), rule("false", "message", "second"))}, nil},
	{"error-ignored-and-fault", and(map[string]any{"validations": validations(rule("object.data.absent == 'x'"), rule("false", "message", "second"))}, ignored), nil},
	{"division", ruled("1 / (size(object.data) - 2) == 0"), nil},
	{"conversion", ruled("int(object.data.a) == 0"), nil},
	{"unknown-field", ruled("object.nonsense == 'x'"), nil},
	{"costly", ruled("object.metadata.labels.all(k, [1,2,3,4,5,6,7,8,9].all(a, [1,2,3,4,5,6,7,8,9].all(b, [1,2,3,4,5,6,7,8,9].all(c, [1,2,3,4,5,6,7,8,9].all(d, [1,2,3,4,5,6,7,8,9].all(e, [1,2,3,4,5,6,7,8,9].all(f, a+b+c+d+e+f > 0)))))))"), nil},
	{"warn", ruled("false", "message", "careful"), acts("Warn")},
	{"audit", ruled("false", "message", "noted"), acts("Audit")},
	{"warn-and-audit", ruled("false", "message", "careful"), acts("Warn", "Audit")},
	{"deny-and-audit", ruled("false", "message", "noted"), acts("Deny", "Audit")},
	{"warn-of-error", ruled("object.data.absent == 'x'"), acts("Warn")},
	{"warn-twice", map[string]any{"validations": validations(rule("false", "message", "first"), rule("false", "message", "second"))}, acts("Warn")},
	{"variables", and(ruled("variables.b != 'xy'", "messageExpression", "variables.b"), variables("a", "object.data.a", "b", "variables.a + object.data.b")), nil},
	{"variable-fails", and(ruled("variables.a == 'x'"), variables("a", "object.data.absent")), nil},
	{"variable-unused", and(ruled("true"), variables("a", "object.data.absent")), nil},
	{"condition-false", and(ruled("false"), condition("false", "Fail")), nil},
	{"condition-fails", and(ruled("true"), condition("object.data.absent == 'x'", "Fail")), nil},
	{"condition-fails-warn", and(ruled("true"), condition("object.data.absent == 'x'", "Fail")), acts("Warn")},
	{"condition-ignored", and(ruled("false"), condition("object.data.absent == 'x'", "Ignore")), nil},
	{"conditions", and(ruled("false", "message", "unused"), map[string]any{"matchConditions": []any{
		map[string]any{"name": "c", "expression": "object.data.absent == 'x'"}, map[string]any{"name": "d", "expression": "false"}}}), nil},
	{"annotation", annotated("'seen ' + object.data.a"), nil},
	{"annotation-null", annotated("null"), nil},
	{"annotation-fails", annotated("object.data.absent"), nil},
	{"annotation-fails-warn", annotated("object.data.absent"), acts("Warn")},
	{"namespace", ruled("namespaceObject.metadata.name == 'other'", "messageExpression", "'in ' + namespaceObject.metadata.labels['kubernetes.io/metadata.name']"), nil},
	{"request", ruled("request.operation != 'CREATE'", "messageExpression", "request.operation + ' ' + request.resource.resource + ' ' + request.kind.kind + ' ' + string(request.dryRun) + ' ' + request.name + string(request.options.dryRun.size())"), nil},
	{"user", ruled("request.userInfo.username == ''", "messageExpression", "request.userInfo.username + string(request.userInfo.groups.size())"), nil},
	{"authorizer", ruled("!authorizer.group('').resource('configmaps').namespace('x').check('get').allowed()", "message", "you may"), nil},
	{"own-resource", ruled("!authorizer.requestResource.check('create').allowed()", "message", "you may"), nil},
	{"old-object", ruled("oldObject != null", "message", "nothing was there"), nil},
	{"param-found", byParam, named("param", "Deny")},
	{"param-fine", and(ruled("object.data.a == params.data.forbidden"), configMaps), named("param", "Deny")},
	{"param-missing", byParam, named("absent", "Deny")},
	{"param-missing-warn", byParam, and(named("absent", "Deny"), acts("Warn"))},
	{"param-missing-ignored", and(byParam, ignored), named("absent", "Deny")},
	{"param-allowed", byParam, named("absent", "Allow")},
	{"params-selected", byParam, selected("y", "Deny")},
	{"params-none", byParam, selected("n", "Deny")},
	{"params-none-allowed", byParam, selected("n", "Allow")},
	{"no-reference", byParam, nil},
	{"reference-for-nothing", ruled("false", "message", "m"), named("param", "Deny")},
	{"unknown-kind", and(ruled("params.spec.a == 'x'"), params("nothing.example.com/v1", "Thing")), named("param", "Deny")},
	{"unknown-kind-ignored", and(and(ruled("params.spec.a == 'x'"), params("nothing.example.com/v1", "Thing")), ignored), named("param", "Deny")},
	{"cluster-kind", and(ruled("false", "messageExpression", "params.metadata.name"), params("v1", "Namespace")), named("default", "Deny")},
	{"cluster-kind-in-namespace", and(ruled("false"), params("v1", "Namespace")), map[string]any{"paramRef": map[string]any{"name": "default", "namespace": "default", "parameterNotFoundAction": "Deny"}}},
	{"unbound", ruled("false"), map[string]any{"policyName": "absent.example.com"}},
	{"ready", ruled("false", "message", "ready"), nil},
}

func applied(expression string) map[string]any {
	return map[string]any{"patchType": "ApplyConfiguration", "applyConfiguration": map[string]any{"expression": expression}}
}

func operated(expression string) map[string]any {
	return map[string]any{"patchType": "JSONPatch", "jsonPatch": map[string]any{"expression": expression}}
}

func mutates(all ...map[string]any) map[string]any {
	return map[string]any{"mutations": validations(all...)}
}

var mutatingPolicies = []policyCase{
	{"m-apply", mutates(applied("Object{metadata: Object.metadata{labels: {'new': 'y'}}, data: {'c': object.data.a}}")), nil},
	{"m-apply-nothing", mutates(applied("Object{}")), nil},
	{"m-apply-fails", mutates(applied("Object{data: {'c': object.data.absent}}")), nil},
	{"m-apply-ignored", and(mutates(applied("Object{data: {'c': object.data.absent}}")), ignored), nil},
	{"m-apply-type", mutates(applied("Object{data: {'c': 5}}")), nil},
	{"m-apply-unknown", mutates(applied("Object{nonsense: 'x'}")), nil},
	{"m-apply-name", mutates(applied("Object{metadata: Object.metadata{name: 'other'}}")), nil},
	{"m-apply-invalid", mutates(applied("Object{metadata: Object.metadata{labels: {'new': 'bad value!'}}}")), nil},
	{"m-apply-immutable", mutates(applied("Object{immutable: true}")), nil},
	{"m-apply-finalizer", mutates(applied("Object{metadata: Object.metadata{finalizers: ['example.com/f']}}")), nil},
	{"m-apply-managed", mutates(applied("Object{metadata: Object.metadata{managedFields: []}}")), nil},
	{"m-json", mutates(operated("[JSONPatch{op: 'add', path: '/metadata/labels/new', value: 'y'}]")), nil},
	{"m-json-nothing", mutates(operated("[]")), nil},
	{"m-json-map", mutates(operated("[JSONPatch{op: 'replace', path: '/data', value: {'z': object.data.a}}]")), nil},
	{"m-json-object", mutates(operated("[JSONPatch{op: 'replace', path: '/metadata/labels', value: Object.metadata.labels{new: 'y'}}]")), nil},
	{"m-json-escaped", mutates(operated("[JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('example.com/l'), value: 'y'}]")), nil},
	{"m-json-copy", mutates(operated("[JSONPatch{op: 'copy', from: '/data/a', path: '/data/c'}, JSONPatch{op: 'move', from: '/data/b', path: '/data/d'}]")), nil},
	{"m-json-test", mutates(operated("[JSONPatch{op: 'test', path: '/data/a', value: 'other'}, JSONPatch{op: 'remove', path: '/data/a'}]")), nil},
	{"m-json-absent", mutates(operated("[JSONPatch{op: 'remove', path: '/data/absent'}]")), nil},
	{"m-json-absent-ignored", and(mutates(operated("[JSONPatch{op: 'remove', path: '/data/absent'}]")), ignored), nil},
	{"m-json-operation", mutates(operated("[JSONPatch{op: 'turn', path: '/data/a'}]")), nil},
	{"m-json-no-operation", mutates(operated("[JSONPatch{path: '/data/a'}]")), nil},
	{"m-json-type", mutates(operated("[JSONPatch{op: 'replace', path: '/data/a', value: 5}]")), nil},
	{"m-json-fails", mutates(operated("[JSONPatch{op: 'replace', path: '/data/a', value: object.data.absent}]")), nil},
	{"m-json-name", mutates(operated("[JSONPatch{op: 'replace', path: '/metadata/name', value: 'other'}]")), nil},
	{"m-json-kind", mutates(operated("[JSONPatch{op: 'replace', path: '/kind', value: 'Secret'}]")), nil},
	{"m-json-unknown", mutates(operated("[JSONPatch{op: 'add', path: '/nonsense', value: 'x'}]")), nil},
	{"m-json-invalid", mutates(operated("[JSONPatch{op: 'add', path: '/metadata/labels/new', value: 'bad value!'}]")), nil},
	{"m-two", mutates(applied("Object{data: {'c': 'first'}}"), operated("[JSONPatch{op: 'replace', path: '/data/c', value: object.data.c + ' second'}]")), nil},
	{"m-two-fail", mutates(applied("Object{data: {'c': 'first'}}"), applied("Object{data: {'d': object.data.absent}}")), nil},
	{"m-variables", and(mutates(applied("Object{data: {'c': variables.a}}")), variables("a", "object.data.a + object.data.b")), nil},
	{"m-variable-fails", and(mutates(applied("Object{data: {'c': variables.a}}")), variables("a", "object.data.absent")), nil},
	{"m-condition-false", and(mutates(applied("Object{data: {'c': 'y'}}")), condition("false", "Fail")), nil},
	{"m-condition-fails", and(mutates(applied("Object{data: {'c': 'y'}}")), condition("object.data.absent == 'x'", "Fail")), nil},
	{"m-condition-ignored", and(mutates(applied("Object{data: {'c': 'y'}}")), condition("object.data.absent == 'x'", "Ignore")), nil},
	{"m-authorizer", mutates(applied("Object{data: {'c': string(authorizer.group('').resource('configmaps').check('get').allowed())}}")), nil},
	{"m-request", mutates(applied("Object{data: {'c': request.operation + namespaceObject.metadata.labels['kubernetes.io/metadata.name']}}")), nil},
	{"m-param-found", and(mutates(applied("Object{data: {'c': params.metadata.name}}")), accounts), named("param", "Deny")},
	{"m-param-missing", and(mutates(applied("Object{data: {'c': params.metadata.name}}")), accounts), named("absent", "Deny")},
	{"m-param-missing-ignored", and(and(mutates(applied("Object{data: {'c': params.metadata.name}}")), accounts), ignored), named("absent", "Deny")},
	{"m-param-allowed", and(mutates(applied("Object{data: {'c': params.metadata.name}}")), accounts), named("absent", "Allow")},
	{"m-params-selected", and(mutates(applied("Object{data: {params.metadata.name: 'y'}}")), accounts), selected("y", "Deny")},
	{"m-no-reference", and(mutates(applied("Object{data: {'c': params.metadata.name}}")), accounts), nil},
	{"m-unknown-kind", and(mutates(applied("Object{data: {'c': params.spec.a}}")), params("nothing.example.com/v1", "Thing")), named("param", "Deny")},
	{"ready", mutates(applied("Object{data: {'ready': 'y'}}")), nil},
}

// policySpec completes the fields of a policy: it is about config maps of the run's namespace that are labelled so.
func policySpec(class, run, label string, fields map[string]any) map[string]any {
	constraints := map[string]any{"resourceRules": only("CREATE"), "objectSelector": map[string]any{"matchLabels": map[string]any{"case": label}},
		"namespaceSelector": map[string]any{"matchLabels": map[string]any{"kubernetes.io/metadata.name": run}}}
	spec := and(map[string]any{"failurePolicy": "Fail", "matchConstraints": constraints}, fields)
	if class == "Mutating" && spec["reinvocationPolicy"] == nil {
		spec["reinvocationPolicy"] = "Never"
	}
	return spec
}

// policies are made one after the other; objects choose theirs by a label, and the last one says when all are there.
func policies(s *side, run, class string, cases []policyCase) {
	objects, base := "/api/v1/namespaces/"+run+"/configmaps", "/apis/admissionregistration.k8s.io/v1/"+strings.ToLower(class)+"admissionpolic"
	for _, name := range []string{"param", "param-too"} {
		param := map[string]any{"metadata": map[string]any{"name": name, "labels": map[string]any{"param": "y"}}}
		s.send(call{method: http.MethodPost, path: objects, body: and(param, map[string]any{"data": map[string]any{"forbidden": "x"}})})
		s.send(call{method: http.MethodPost, path: "/api/v1/namespaces/" + run + "/serviceaccounts", body: param})
	}
	for _, c := range cases {
		name := c.name + "." + run + ".example.com"
		binding := and(map[string]any{"policyName": name}, c.binding)
		if class == "Validating" && binding["validationActions"] == nil {
			binding["validationActions"] = []any{"Deny"}
		}
		s.do(call{name: "make " + c.name, method: http.MethodPost, path: base + "ies", body: map[string]any{"metadata": map[string]any{"name": name}, "spec": policySpec(class, run, c.name, c.spec)}})
		s.do(call{name: "bind " + c.name, method: http.MethodPost, path: base + "ybindings", body: map[string]any{"metadata": map[string]any{"name": name}, "spec": binding}})
	}
	try := func(name string, satisfied func(exchange) bool) {
		s.eventually(call{name: name, method: http.MethodPost, path: objects + "?dryRun=All", body: configMap(name)}, satisfied)
	}
	try("ready", func(e exchange) bool {
		return e.Status == http.StatusUnprocessableEntity || at(e.Body, "data", "ready") != nil
	})
	for _, c := range cases { // Kubernetes reads parameters when it has a policy about them
		if strings.Contains(c.name, "param-f") || strings.Contains(c.name, "params-selected") {
			try(c.name, func(e exchange) bool { return !strings.Contains(fmt.Sprint(at(e.Body, "message")), "no params found") })
		}
	}
	for _, c := range cases {
		s.do(call{name: "create " + c.name, method: http.MethodPost, path: objects + "?dryRun=All", body: configMap(c.name)})
	}
	for _, c := range cases {
		name := c.name + "." + run + ".example.com"
		s.send(call{method: http.MethodDelete, path: base + "ybindings/" + name})
		s.send(call{method: http.MethodDelete, path: base + "ies/" + name})
	}
	s.send(call{method: http.MethodDelete, path: objects})
	try("ready", func(e exchange) bool { return e.Status == http.StatusCreated && at(e.Body, "data", "ready") == nil })
}

var malformedValidating = []map[string]any{
	ruled("object.metadata.name"), ruled("1 +"), ruled("nonsense == 1"), ruled("object.nonsense()"), ruled("params.a == 'x'"), ruled(""), ruled("  "), ruled("'a' == 1"), ruled("variables.a"), ruled("size(object)"),
	ruled("object.a.b.c == true ? 1 : 2"), ruled("dyn(1)"), ruled("request.nonsense == 'x'"), ruled("namespaceObject.nonsense == 'x'"), ruled("authorizer.group('x')"), ruled("has(object)"), ruled("[1].all(x, y)"), ruled("'a'.matches('[')"),
	ruled("true", "messageExpression", "1"), ruled("true", "messageExpression", "object."), ruled("true", "messageExpression", "authorizer.group('x')"), ruled("true", "messageExpression", " "),
	ruled("true", "message", " "), ruled("true", "message", "a\nb"), ruled("a\n&& b"), ruled("true", "reason", "Sorry"),
	and(ruled("true"), condition("1", "Fail")), and(ruled("true"), condition("object.", "Fail")), and(ruled("true"), condition("params.a == 'x'", "Fail")), and(ruled("true"), condition("variables.a == 'x'", "Fail")),
	and(ruled("true"), variables("a", "b")), and(ruled("true"), variables("a", "variables.b", "b", "1")), and(ruled("true"), variables("a", "1", "a", "2")), and(ruled("true"), variables("a-b", "1")), and(ruled("true"), variables("", "1")),
	and(ruled("variables.a"), variables("a", "1")), and(ruled("variables.a.b == 1"), variables("a", "1")), and(ruled("true"), variables("a", "1 +")),
	annotated("1"), annotated("object."), annotated(""), and(annotated("'x'"), map[string]any{"validations": []any{}}),
	and(ruled("true"), params("v1", "")), and(ruled("true"), params("a/b/c", "X")), and(ruled("params.a"), params("v1", "ConfigMap")),
	and(ruled("true"), map[string]any{"failurePolicy": "Maybe"}), and(ruled("true"), map[string]any{"matchConstraints": map[string]any{"resourceRules": []any{}}}), and(ruled("true"), map[string]any{"matchConstraints": nil}),
	{"validations": []any{}}, {},
}

var malformedMutating = []map[string]any{
	mutates(applied("1")), mutates(applied("Object{")), mutates(applied("")), mutates(applied("object")), mutates(applied("Object{metadata: Object.spec{}}")), mutates(applied("Object{metadata: {}}")), mutates(applied("Object.metadata{}")),
	mutates(applied("nonsense")), mutates(applied("[JSONPatch{}]")), mutates(applied("dyn(Object{})")), mutates(applied("variables.a")),
	mutates(operated("1")), mutates(operated("[1]")), mutates(operated("JSONPatch{}")), mutates(operated("[JSONPatch{nonsense: 'x'}]")), mutates(operated("[JSONPatch{op: 1}]")), mutates(operated("")), mutates(operated("[Object{}]")), mutates(operated("[JSONPatch{op: 'add', path: 5}]")),
	mutates(map[string]any{"patchType": "Other"}), mutates(map[string]any{"patchType": "JSONPatch"}), mutates(map[string]any{"patchType": "ApplyConfiguration"}), mutates(map[string]any{}), mutates(and(applied("Object{}"), operated("[]"))), mutates(and(operated("[]"), applied("Object{}"))),
	and(mutates(applied("Object{}")), map[string]any{"reinvocationPolicy": "Sometimes"}), and(mutates(applied("Object{}")), map[string]any{"reinvocationPolicy": ""}), and(mutates(applied("Object{}")), condition("1", "Fail")), and(mutates(applied("Object{}")), variables("a", "b")),
	and(mutates(applied("Object{}")), params("v1", "")), and(mutates(applied("Object{}")), map[string]any{"matchConstraints": nil}), mutates(), {},
}

// malformed policies are refused when they are made.
func malformed(s *side, run, class string, specs []map[string]any) {
	path := "/apis/admissionregistration.k8s.io/v1/" + strings.ToLower(class) + "admissionpolicies?dryRun=All"
	for i, fields := range specs {
		s.do(call{name: fmt.Sprintf("%d %s", i, short(fields)), method: http.MethodPost, path: path, body: map[string]any{"metadata": map[string]any{"name": run}, "spec": policySpec(class, run, "x", fields)}})
	}
}
