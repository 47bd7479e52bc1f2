package openapi

import (
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/pkg/api"
)

// param is a parameter of an operation or of a path.
type param struct {
	name, in, kind, text string
	required             bool
}

// operation is what one method of a path does.
type operation struct {
	method   string
	id       string
	action   string
	text     string
	kind     schema.GroupVersionKind
	params   []param
	body     model // zero: none
	consumes []string
	produces []string
	answers  map[string]model // by status; the zero model is text
	tag      string
}

// model is what a body is: a Go type, or what a kind's own definitions call so.
type model struct {
	goType reflect.Type
	name   string
}

func of(t reflect.Type) model { return model{goType: t} }

// path is a path with its operations.
type path struct {
	template   string
	params     []param
	operations []operation
}

var (
	plainTypes  = []string{"application/json", "application/yaml", "application/vnd.kubernetes.protobuf"}
	streamTypes = append(slices.Clone(plainTypes), "application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch")
	patchTypes  = []string{"application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml"}
	anyType     = []string{"*/*"}

	// Custom resources have neither protobuf nor Go types to merge by.
	customTypes      = []string{"application/json", "application/yaml"}
	customPatchTypes = []string{"application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"}

	// metaTypes are those whose objects are of version v1 of no group.
	metaTypes = []reflect.Type{
		statusType, reflect.TypeFor[metav1.APIVersions](), reflect.TypeFor[metav1.APIGroup](), reflect.TypeFor[metav1.APIGroupList](), reflect.TypeFor[metav1.APIResourceList](),
	}
	statusType = reflect.TypeFor[metav1.Status]()
	patchType  = of(reflect.TypeFor[metav1.Patch]())
	deleteType = reflect.TypeFor[metav1.DeleteOptions]()
)

// paramsOf are the fields of an options type as query parameters, by name.
func paramsOf(options any, without ...string) []param {
	t := reflect.TypeOf(options)
	docs := options.(documented).SwaggerDoc()
	var params []param
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if name == "" || slices.Contains(without, name) {
			continue
		}
		ft := t.Field(i).Type
		for ft.Kind() == reflect.Pointer || ft.Kind() == reflect.Slice {
			ft = ft.Elem()
		}
		kind := "string"
		switch ft.Kind() {
		case reflect.Struct:
			continue // Kubernetes describes no parameter of this type (a log's sinceTime)
		case reflect.Bool:
			kind = "boolean"
		case reflect.Int, reflect.Int32, reflect.Int64:
			kind = "integer"
		}
		params = append(params, param{name: name, in: "query", kind: kind, text: docs[name]})
	}
	slices.SortFunc(params, func(a, b param) int { return strings.Compare(a.name, b.name) })
	return params
}

var (
	pretty = param{name: "pretty", in: "query", kind: "string",
		text: "If 'true', then the output is pretty printed. Defaults to 'false' unless the user-agent indicates a browser or command-line HTTP tool (curl and wget)."}
	namespaceParam = param{name: "namespace", in: "path", kind: "string", required: true, text: "object name and auth scope, such as for teams and projects"}
	restParam      = param{name: "path", in: "path", kind: "string", required: true, text: "path to the resource"}

	listParams   = paramsOf(metav1.ListOptions{}, "shardSelector")
	customParams = paramsOf(metav1.ListOptions{}) // of lists: Kubernetes leaves the shard to custom resources
	selectParams = paramsOf(metav1.ListOptions{}, "shardSelector", "watch", "allowWatchBookmarks")
	getParams    = paramsOf(metav1.GetOptions{})
	createParams = paramsOf(metav1.CreateOptions{})
	updateParams = paramsOf(metav1.UpdateOptions{})
	patchParams  = paramsOf(metav1.PatchOptions{})
	deleteParams = paramsOf(metav1.DeleteOptions{}, "preconditions")
)

func nameParam(kind string) param {
	return param{name: "name", in: "path", kind: "string", required: true, text: "name of the " + kind}
}

// pathsOf are all paths of a kind. own are its definitions, if it brings them along.
func pathsOf(k *api.Kind, own *api.Definitions) []path {
	b := &builder{kind: k, gv: k.GroupVersion(), plain: plainTypes, streams: streamTypes, bodies: anyType, patches: patchTypes, lists: listParams}
	if k.Custom != nil {
		b.object, b.list = model{name: own.Object}, model{name: own.List}
		b.plain, b.streams, b.bodies, b.patches, b.lists = customTypes, customTypes, customTypes, customPatchTypes, customParams
	} else {
		b.object, b.list = of(reflect.TypeOf(k.New()).Elem()), of(typeOf(k.NewList))
	}
	b.collection()
	b.item()
	for _, name := range sortedSubresources(k) {
		b.subresource(name, k.Subresources[name])
	}
	return b.paths
}

func sortedSubresources(k *api.Kind) []string {
	var names []string
	for name := range k.Subresources {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

type builder struct {
	kind *api.Kind
	gv   schema.GroupVersion
	// object and list are the kind's models; a virtual kind has no list.
	object, list model
	// plain are the formats of an object, streams those of a list or a watch, bodies those of what is sent, patches those of a patch.
	plain, streams, bodies, patches []string
	lists                           []param
	paths                           []path
}

// root is the path of a group and version.
func root(gv schema.GroupVersion) string {
	if gv.Group == "" {
		return "/api/" + gv.Version
	}
	return "/apis/" + gv.Group + "/" + gv.Version
}

// groupID is how operations and tags name a group: "CoreV1", "RbacAuthorizationV1".
func groupID(gv schema.GroupVersion) string {
	group := strings.TrimSuffix(gv.Group, ".k8s.io")
	if group == "" {
		group = "core"
	}
	var b strings.Builder
	for part := range strings.SplitSeq(group, ".") {
		b.WriteString(title(part))
	}
	return b.String() + title(gv.Version)
}

func tagOf(gv schema.GroupVersion) string {
	id := groupID(gv)
	return untitle(strings.TrimSuffix(id, title(gv.Version))) + "_" + gv.Version
}

func title(s string) string   { return strings.ToUpper(s[:1]) + s[1:] }
func untitle(s string) string { return strings.ToLower(s[:1]) + s[1:] }

func (b *builder) scope() string {
	if b.kind.Namespaced {
		return "Namespaced"
	}
	return ""
}

func (b *builder) base() string {
	if b.kind.Namespaced {
		return root(b.gv) + "/namespaces/{namespace}/" + b.kind.Resource
	}
	return root(b.gv) + "/" + b.kind.Resource
}

func (b *builder) scopeParams(more ...param) []param {
	params := slices.Clone(more)
	if b.kind.Namespaced {
		params = append(params, namespaceParam)
	}
	return append(params, pretty)
}

func (b *builder) op(method, verb, action, text string, answers map[string]model) operation {
	return operation{
		method: method, id: verb + groupID(b.gv) + b.scope() + b.kind.Kind, action: action, text: text,
		kind: b.kind.GroupVersionKind, consumes: b.bodies, produces: b.plain, answers: answers, tag: tagOf(b.gv),
	}
}

func (b *builder) collection() {
	k := b.kind
	self, list := b.object, b.list
	p := path{template: b.base(), params: b.scopeParams()}
	if k.HasVerb("list") && list != (model{}) {
		o := b.op("get", "list", "list", b.listText(), map[string]model{"200": list})
		o.params, o.produces = b.lists, b.streams
		p.operations = append(p.operations, o)
	}
	if k.HasVerb("create") {
		o := b.op("post", "create", "post", "create "+article(k.Kind), map[string]model{"200": self, "201": self, "202": self})
		o.params, o.body = createParams, self
		p.operations = append(p.operations, o)
	}
	if k.HasVerb("deletecollection") {
		o := b.op("delete", "delete", "deletecollection", "delete collection of "+k.Kind, map[string]model{"200": of(statusType)})
		o.id = "delete" + groupID(b.gv) + "Collection" + b.scope() + k.Kind
		o.params, o.body = distinct(deleteParams, selectParams), of(deleteType)
		if k.Custom != nil {
			o.params, o.body = b.lists, model{}
		}
		p.operations = append(p.operations, o)
	}
	b.paths = append(b.paths, p)
	if k.Namespaced && k.HasVerb("list") && list != (model{}) {
		o := b.op("get", "list", "list", b.listText(), map[string]model{"200": list})
		o.id = "list" + groupID(b.gv) + k.Kind + "ForAllNamespaces"
		o.produces, o.params = b.streams, b.lists
		p := path{template: root(b.gv) + "/" + k.Resource, params: []param{pretty}}
		if k.Custom != nil { // Kubernetes has all of them for the path, in order
			p.params, o.params = distinct(b.lists, p.params), nil
		}
		p.operations = []operation{o}
		b.paths = append(b.paths, p)
	}
}

func (b *builder) listText() string {
	if b.kind.Custom != nil || !b.kind.HasVerb("watch") {
		return "list objects of kind " + b.kind.Kind
	}
	return "list or watch objects of kind " + b.kind.Kind
}

// article is a kind with the article that its text has.
func article(kind string) string {
	switch {
	case strings.HasSuffix(kind, "s") && !strings.HasSuffix(kind, "ss"):
		return kind
	case strings.ContainsRune("AEIOU", rune(kind[0])):
		return "an " + kind
	}
	return "a " + kind
}

func distinct(a, b []param) []param {
	all := slices.Clone(a)
	for _, p := range b {
		if !slices.ContainsFunc(all, func(q param) bool { return q.name == p.name }) {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b param) int { return strings.Compare(a.name, b.name) })
	return all
}

func typeOf(make func() runtime.Object) reflect.Type {
	if make == nil {
		return nil
	}
	return reflect.TypeOf(make()).Elem()
}

func (b *builder) item() {
	k := b.kind
	self := b.object
	p := path{template: b.base() + "/{name}", params: b.scopeParams(nameParam(k.Kind))}
	p.operations = b.views(k.ServedVerbs(), self, "the specified "+k.Kind, "")
	if k.HasVerb("delete") {
		deleted := of(statusType)
		if k.ReturnsDeleted && k.Kind != "Namespace" { // which Kubernetes returns without saying so
			deleted = self
		}
		o := b.op("delete", "delete", "delete", "delete "+article(k.Kind), map[string]model{"200": deleted, "202": deleted})
		o.params, o.body = deleteParams, of(deleteType)
		p.operations = append(p.operations, o)
	}
	if len(p.operations) > 0 {
		b.paths = append(b.paths, p)
	}
}

// views are get, put and patch of an object or of a part of it.
func (b *builder) views(verbs []string, body model, what, suffix string) []operation {
	var all []operation
	add := func(o operation) {
		o.id += suffix
		all = append(all, o)
	}
	if slices.Contains(verbs, "get") {
		o := b.op("get", "read", "get", "read "+what, map[string]model{"200": body})
		if b.kind.Custom != nil {
			o.params = getParams
		}
		add(o)
	}
	if slices.Contains(verbs, "update") {
		o := b.op("put", "replace", "put", "replace "+what, map[string]model{"200": body, "201": body})
		o.params, o.body = updateParams, body
		add(o)
	}
	if slices.Contains(verbs, "patch") {
		o := b.op("patch", "patch", "patch", "partially update "+what, map[string]model{"200": body, "201": body})
		o.params, o.body, o.consumes = patchParams, patchType, b.patches
		if b.kind.Custom != nil {
			delete(o.answers, "201")
		}
		add(o)
	}
	return all
}

func (b *builder) subresource(name string, sub *api.Subresource) {
	k := b.kind
	named := sub.Kind
	if k.Custom != nil {
		named = k.Kind
	}
	p := path{template: b.base() + "/{name}/" + name, params: b.scopeParams(nameParam(named))}
	self := b.object
	if !sub.Action {
		if sub.New != nil {
			self = of(typeOf(sub.New))
		}
		p.operations = b.views(sub.Verbs, self, name+" of the specified "+k.Kind, title(name))
		for i := range p.operations {
			if k.Custom == nil {
				p.operations[i].kind = sub.GroupVersionKind
			}
		}
		b.paths = append(b.paths, p)
		return
	}
	if sub.New != nil { // an action with a body
		body := of(typeOf(sub.New))
		o := b.op("post", "create", "post", "create "+name+" of a "+k.Kind, map[string]model{"200": body, "201": body, "202": body})
		o.id += title(name)
		o.kind, o.body, o.params = sub.GroupVersionKind, body, createParams
		p.operations = []operation{o}
		b.paths = append(b.paths, p)
		return
	}
	if name == "log" {
		p.params = append(p.params, paramsOf(corev1.PodLogOptions{})...)
	} else {
		p.params = slices.DeleteFunc(p.params, func(q param) bool { return q.name == "pretty" })
		p.params = append(p.params, connectParams[sub.Kind]...)
	}
	p.operations = b.connects(name, sub, "")
	b.paths = append(b.paths, p)
	if name == "proxy" {
		deep := path{template: p.template + "/{path}", params: append(slices.Clone(p.params), restParam), operations: b.connects(name, sub, "WithPath")}
		b.paths = append(b.paths, deep)
	}
}

// connects are the methods of a stream.
func (b *builder) connects(name string, sub *api.Subresource, suffix string) []operation {
	var all []operation
	var names []string
	for _, verb := range sub.Verbs {
		names = append(names, methods[verb])
	}
	if name == "proxy" {
		names = append(names, "head", "options")
	}
	for _, method := range slices.Sorted(slices.Values(names)) {
		o := b.op(method, "connect", "connect", "connect "+strings.ToUpper(method)+" requests to "+name+" of "+b.kind.Kind, map[string]model{"200": {}})
		o.id = "connect" + groupID(b.gv) + title(method) + b.scope() + b.kind.Kind + title(name) + suffix
		o.kind, o.produces = sub.GroupVersionKind, anyType
		if name == "log" {
			o.id, o.action, o.text = "read"+groupID(b.gv)+b.scope()+b.kind.Kind+"Log", "get", "read log of the specified "+b.kind.Kind
			o.produces = append([]string{"text/plain"}, b.plain...)
		}
		all = append(all, o)
	}
	return all
}

var methods = map[string]string{"get": "get", "create": "post", "update": "put", "patch": "patch", "delete": "delete"}

// connectParams are those of a stream, by the kind of its options.
var connectParams = map[string][]param{
	"PodExecOptions":        paramsOf(corev1.PodExecOptions{}),
	"PodAttachOptions":      paramsOf(corev1.PodAttachOptions{}),
	"PodPortForwardOptions": paramsOf(corev1.PodPortForwardOptions{}),
	"PodProxyOptions":       paramsOf(corev1.PodProxyOptions{}),
	"ServiceProxyOptions":   paramsOf(corev1.ServiceProxyOptions{}),
	"NodeProxyOptions":      paramsOf(corev1.NodeProxyOptions{}),
}
