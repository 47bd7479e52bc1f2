package differential

import (
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// general is what isn't about one kind.
func general(run string) map[string]func(*side) {
	return map[string]func(*side){
		"discovery": discovery, "openapi": openapi, "errors": func(s *side) { mistakes(s, run) }, "paging": func(s *side) { paging(s, run) },
		"rights": func(s *side) { rights(s, run) }, "reviews": func(s *side) { reviews(s, run) }, "pods": func(s *side) { pods(s, run) },
		"services": func(s *side) { services(s, run) }, "custom": func(s *side) { custom(s, run) }, "bounds": func(s *side) { bounds(s, run) }, "jobs": func(s *side) { jobs(s, run) }, "devices": func(s *side) { devices(s, run) },
	}
}

func get(s *side, path string) map[string]any {
	return s.do(call{name: "GET " + path, method: http.MethodGet, path: path})
}

func discovery(s *side) {
	for _, path := range []string{"/api", "/apis"} {
		get(s, path)
		s.do(call{name: "aggregated " + path, method: http.MethodGet, path: path, accept: "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"})
	}
	get(s, "/api/v1")
	groups := []string{"apps", "batch", "autoscaling", "policy", "networking.k8s.io", "rbac.authorization.k8s.io", "storage.k8s.io", "admissionregistration.k8s.io", "apiextensions.k8s.io", "apiregistration.k8s.io",
		"scheduling.k8s.io", "coordination.k8s.io", "node.k8s.io", "discovery.k8s.io", "resource.k8s.io", "flowcontrol.apiserver.k8s.io", "certificates.k8s.io", "events.k8s.io", "authentication.k8s.io", "authorization.k8s.io"}
	for _, group := range groups {
		get(s, "/apis/"+group)
		get(s, "/apis/"+group+"/v1")
	}
	get(s, "/apis/autoscaling/v2")
	for _, path := range []string{"/", "/version", "/healthz", "/livez", "/readyz", "/readyz?verbose", "/livez/ping", "/livez/nonsense", "/apis/nonsense.example.com", "/apis/apps/v9", "/api/v2", "/nonsense", "/apis/", "/api/", "/.well-known/openid-configuration", "/openid/v1/jwks"} {
		get(s, path)
	}
}

// openapi compares all documents, save for the historic paths below /watch/.
func openapi(s *side) {
	e := s.send(call{name: "GET /openapi/v3", method: http.MethodGet, path: "/openapi/v3"})
	paths, _ := at(e.Body, "paths").(map[string]any)
	s.log = append(s.log, exchange{call: call{name: "groups"}, Status: e.Status, Type: e.Type, Body: names(paths)})
	documents := []string{"/openapi/v2"}
	for _, group := range names(paths) {
		documents = append(documents, "/openapi/v3/"+group.(string))
	}
	for _, document := range documents {
		e := s.send(call{name: document, method: http.MethodGet, path: document})
		shared, _ := at(e.Body, "parameters").(map[string]any)
		e.Body = inOrder(e.Body, shared)
		if body, ok := e.Body.(map[string]any); ok {
			delete(body, "parameters")
		}
		s.log = append(s.log, e)
	}
}

// inOrder is a document with parameters by their names, in whose order there is no meaning. Those that operations
// share are put in their places.
func inOrder(v any, shared map[string]any) any {
	switch v := v.(type) {
	case []any:
		all := make([]any, len(v))
		for i := range v {
			all[i] = inOrder(v[i], shared)
		}
		return all
	case map[string]any:
		all := map[string]any{}
		for key, below := range v {
			if strings.Contains(key, "/watch/") {
				continue
			}
			all[key] = inOrder(below, shared)
			list, _ := below.([]any)
			if key != "parameters" || list == nil {
				continue
			}
			byName := map[string]any{}
			for _, one := range list {
				if ref, ok := at(one, "$ref").(string); ok {
					one = shared[ref[strings.LastIndex(ref, "/")+1:]]
				}
				byName[fmt.Sprint(at(one, "in"), " ", at(one, "name"))] = one
			}
			all[key] = byName
		}
		return all
	}
	return v
}

func names(m map[string]any) []any {
	all := []any{}
	for _, name := range slices.Sorted(maps.Keys(m)) {
		all = append(all, name)
	}
	return all
}

func mistakes(s *side, run string) {
	maps := "/api/v1/namespaces/" + run + "/configmaps"
	object := map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "x"}}
	post := func(name, path, contentType string, body any) {
		s.do(call{name: name, method: http.MethodPost, path: path, contentType: contentType, body: body})
	}
	post("no body", maps, "application/json", nil)
	post("empty body", maps, "application/json", "")
	post("broken JSON", maps, "application/json", `{"metadata":`)
	post("JSON with rubbish behind", maps, "application/json", short(object)+"rubbish")
	post("a list", maps, "application/json", "[]")
	post("a number", maps, "application/json", "5")
	post("null", maps, "application/json", "null")
	post("no kind", maps+"?dryRun=All", "application/json", `{"metadata":{"name":"a"}}`)
	post("a kind that isn't known", maps, "application/json", with(object, "Nonsense", "kind"))
	post("another kind", maps, "application/json", with(object, "Secret", "kind"))
	post("another version", maps, "application/json", with(object, "v2", "apiVersion"))
	post("a list of the kind", maps, "application/json", `{"apiVersion":"v1","kind":"ConfigMapList","items":[]}`)
	post("a content type that isn't known", maps, "text/plain", short(object))
	post("a bad content type", maps, ";;", short(object))
	post("protobuf that is none", maps, "application/vnd.kubernetes.protobuf", "k8s\x00rubbish")
	post("protobuf without its head", maps, "application/vnd.kubernetes.protobuf", "rubbish")
	post("YAML that is none", maps, "application/yaml", "a: [")
	post("deep JSON", maps, "application/json", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"x":`+strings.Repeat("[", 20000)+strings.Repeat("]", 20000)+"}")
	post("a large body", maps, "application/json", `{"x":"`+strings.Repeat("a", 4<<20)+`"}`)
	post("into all namespaces", "/api/v1/configmaps", "application/json", object)
	post("into a namespace that isn't there", "/api/v1/namespaces/absent/configmaps", "application/json", object)
	post("with a name in the path", maps+"/x", "application/json", object)
	post("without a name", maps, "application/json", with(object, nil, "metadata", "name"))
	post("with a resource version", maps, "application/json", with(object, "5", "metadata", "resourceVersion"))
	post("with a bad field validation", maps+"?fieldValidation=x", "application/json", object)
	post("with a long manager", maps+"?dryRun=All&fieldManager="+strings.Repeat("a", 129), "application/json", object)
	for _, method := range []string{http.MethodPut, http.MethodPatch, "OPTIONS", "TRACE", "BREW"} {
		s.do(call{name: method + " of a collection", method: method, path: maps, body: object})
	}
	for _, path := range []string{
		"/api/v1/nonsense", "/api/v1/namespaces/" + run + "/nonsense", "/api/v1/namespaces/" + run + "/nonsense/x", "/apis/apps/v1/nonsense", "/api/v1/namespaces/" + run + "/nodes",
		maps + "/x/nonsense", maps + "/x/status", "/api/v1/configmaps/x", "/api/v1/nodes/x/y/z", maps + "/Bad_Name", maps + "/..", maps + "/%2F", "//api/v1/nodes", "/api/v1//nodes", maps + "/",
		"/api/v1/watch/namespaces/" + run + "/configmaps?timeoutSeconds=1", "/api/v1/watch/nonsense", "/api/v1/componentstatuses/nonsense", "/api/v1/namespaces/absent", "/api/v1/namespaces/absent/pods", "/api/v1/namespaces//pods",
	} {
		get(s, path)
	}
	for _, path := range []string{"/api/v1/nodes?resourceVersion=999999999&timeoutSeconds=1", "/api/v1/nodes?watch=x&timeoutSeconds=1", "/api/v1/nodes?timeoutSeconds=x", "/api/v1/nodes?limit=-1", "/api/v1/nodes?resourceVersionMatch=x", "/api/v1/nodes?resourceVersion=5&resourceVersionMatch=x", "/api/v1/nodes?nonsense=x", "/api/v1/nodes?pretty=1&limit=1&fieldSelector=metadata.name%3Dabsent"} {
		get(s, path)
	}
}

func paging(s *side, run string) {
	maps := "/api/v1/namespaces/" + run + "/configmaps"
	for i := range 5 {
		s.do(call{name: "create", method: http.MethodPost, path: maps, body: map[string]any{"metadata": map[string]any{"name": fmt.Sprint("page-", i), "labels": map[string]any{"page": "y"}}}})
	}
	s.do(call{name: "generate a name", method: http.MethodPost, path: maps, body: map[string]any{"metadata": map[string]any{"generateName": "generated-", "labels": map[string]any{"page": "n"}}}})
	path, token := maps+"?labelSelector=page%3Dy&limit=2", ""
	for {
		page := s.do(call{name: "page", method: http.MethodGet, path: path + token})
		next, _ := at(page, "metadata", "continue").(string)
		if next == "" {
			break
		}
		token = query("continue", next)
		token = "&" + token[1:]
	}
	s.do(call{name: "page with a version", method: http.MethodGet, path: path + "&resourceVersion=1" + "&continue=abc"})
	first := s.do(call{name: "first table", method: http.MethodGet, path: path, accept: tableAccept})
	version := fmt.Sprint(at(first, "metadata", "resourceVersion"))
	s.do(call{name: "exact", method: http.MethodGet, path: maps + "?labelSelector=page%3Dy&resourceVersionMatch=Exact&resourceVersion=" + version})
	s.do(call{name: "not older", method: http.MethodGet, path: maps + "?labelSelector=page%3Dy&resourceVersionMatch=NotOlderThan&resourceVersion=" + version})
	s.do(call{name: "delete some", method: http.MethodDelete, path: maps + "?labelSelector=page%3Dy&limit=3"})
	s.do(call{name: "delete the rest", method: http.MethodDelete, path: maps + "?labelSelector=page"})
}

func rights(s *side, run string) {
	jane := map[string]string{"Impersonate-User": "jane", "Impersonate-Group": "dev"}
	ask := func(method, path string, header map[string]string) {
		s.do(call{name: method + " " + path + " as " + header["Impersonate-User"], method: method, path: path, header: header, body: map[string]any{}})
	}
	for _, user := range []map[string]string{jane, {"Impersonate-User": "system:anonymous"}, {"Impersonate-User": "system:serviceaccount:" + run + ":default"}, {"Impersonate-User": "system:node:n", "Impersonate-Group": "system:nodes"}} {
		ask(http.MethodGet, "/api/v1/namespaces/"+run+"/configmaps/x", user)
		ask(http.MethodGet, "/api/v1/secrets", user)
		ask(http.MethodGet, "/api/v1/nodes?watch=1", user)
		ask(http.MethodPost, "/apis/apps/v1/namespaces/"+run+"/deployments", user)
		ask(http.MethodDelete, "/api/v1/namespaces/"+run+"/configmaps", user)
		ask(http.MethodPatch, "/api/v1/namespaces/"+run+"/pods/p/status", user)
		ask(http.MethodPost, "/api/v1/namespaces/"+run+"/pods/p/exec", user)
		ask(http.MethodGet, "/metrics", user)
		ask(http.MethodGet, "/nonsense", user)
		ask(http.MethodGet, "/version", user)
		ask(http.MethodGet, "/api", user)
		ask(http.MethodGet, "/apis/nonsense.example.com/v1/things", user)
	}
	ask(http.MethodGet, "/api/v1/nodes", map[string]string{"Impersonate-Group": "dev"})
	ask(http.MethodGet, "/api/v1/nodes", map[string]string{"Authorization": "Bearer nonsense", "Impersonate-User": ""})
	roles := "/apis/rbac.authorization.k8s.io/v1/namespaces/" + run
	s.do(call{name: "make a role", method: http.MethodPost, path: roles + "/roles", body: map[string]any{"metadata": map[string]any{"name": "rights"}, "rules": []any{map[string]any{"apiGroups": []any{"", "rbac.authorization.k8s.io"}, "resources": []any{"configmaps", "roles", "rolebindings"}, "verbs": []any{"get", "create", "update"}}}}})
	s.do(call{name: "bind it", method: http.MethodPost, path: roles + "/rolebindings", body: map[string]any{"metadata": map[string]any{"name": "rights"}, "roleRef": map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "rights"}, "subjects": []any{map[string]any{"kind": "User", "name": "jane"}}}})
	s.eventually(call{name: "allowed", method: http.MethodGet, path: "/api/v1/namespaces/" + run + "/configmaps/absent", header: jane}, func(e exchange) bool { return e.Status == http.StatusNotFound })
	s.do(call{name: "escalate a role", method: http.MethodPost, path: roles + "/roles", header: jane, body: map[string]any{"metadata": map[string]any{"name": "more"}, "rules": []any{map[string]any{"apiGroups": []any{""}, "resources": []any{"secrets", "pods"}, "verbs": []any{"get", "list"}}}}})
	s.do(call{name: "bind what one hasn't", method: http.MethodPost, path: roles + "/rolebindings", header: jane, body: map[string]any{"metadata": map[string]any{"name": "more"}, "roleRef": map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:aggregate-to-view"}, "subjects": []any{map[string]any{"kind": "User", "name": "jane"}}}})
	additions := regexp.MustCompile("^skiff:|openshift|service-ca-cert-publisher") // either server's own
	for _, what := range []string{"clusterroles", "clusterrolebindings", "roles", "rolebindings"} {
		list := s.send(call{method: http.MethodGet, path: "/apis/rbac.authorization.k8s.io/v1/" + what})
		items, _ := at(list.Body, "items").([]any)
		for _, item := range items {
			if name := fmt.Sprint(at(item, "metadata", "name")); !additions.MatchString(name) {
				s.log = append(s.log, exchange{call: call{name: what + " " + name}, Body: item})
			}
		}
	}
}

func reviews(s *side, run string) {
	review := func(name, path string, spec map[string]any) map[string]any {
		return s.do(call{name: name, method: http.MethodPost, path: path, body: map[string]any{"spec": spec}})
	}
	access := "/apis/authorization.k8s.io/v1/subjectaccessreviews"
	pods := map[string]any{"verb": "get", "resource": "pods", "namespace": run}
	review("allowed", access, map[string]any{"user": "root", "groups": []any{"system:masters"}, "resourceAttributes": pods})
	review("not allowed", access, map[string]any{"user": "john", "resourceAttributes": pods})
	review("by a role", access, map[string]any{"user": "system:kube-scheduler", "resourceAttributes": map[string]any{"verb": "list", "resource": "pods"}})
	review("a path", access, map[string]any{"user": "john", "groups": []any{"system:authenticated"}, "nonResourceAttributes": map[string]any{"verb": "get", "path": "/openapi/v2"}})
	review("a node", access, map[string]any{"user": "system:node:n", "groups": []any{"system:nodes"}, "resourceAttributes": map[string]any{"verb": "get", "resource": "secrets", "namespace": run, "name": "s"}})
	review("nothing", access, map[string]any{})
	review("both", access, map[string]any{"user": "john", "resourceAttributes": pods, "nonResourceAttributes": map[string]any{"verb": "get", "path": "/"}})
	review("no user", access, map[string]any{"resourceAttributes": pods})
	review("self", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", map[string]any{"resourceAttributes": pods})
	review("local elsewhere", "/apis/authorization.k8s.io/v1/namespaces/"+run+"/localsubjectaccessreviews", map[string]any{"user": "john", "resourceAttributes": map[string]any{"verb": "get", "resource": "pods", "namespace": "other"}})
	review("local", "/apis/authorization.k8s.io/v1/namespaces/"+run+"/localsubjectaccessreviews", map[string]any{"user": "john", "resourceAttributes": pods})
	review("rules", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", map[string]any{"namespace": run})
	review("rules nowhere", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", map[string]any{})
	review("who am I", "/apis/authentication.k8s.io/v1/selfsubjectreviews", map[string]any{})
	review("a bad token", "/apis/authentication.k8s.io/v1/tokenreviews", map[string]any{"token": "nonsense"})
	review("no token", "/apis/authentication.k8s.io/v1/tokenreviews", map[string]any{})
	tokens := "/api/v1/namespaces/" + run + "/serviceaccounts/default/token"
	token := review("a token", tokens, map[string]any{"expirationSeconds": 600})
	review("review it", "/apis/authentication.k8s.io/v1/tokenreviews", map[string]any{"token": at(token, "status", "token")})
	review("review it for others", "/apis/authentication.k8s.io/v1/tokenreviews", map[string]any{"token": at(token, "status", "token"), "audiences": []any{"others"}})
	review("a short token", tokens, map[string]any{"expirationSeconds": 1})
	review("a token for a pod that isn't there", tokens, map[string]any{"boundObjectRef": map[string]any{"kind": "Pod", "apiVersion": "v1", "name": "absent"}})
	review("a token for a deployment", tokens, map[string]any{"boundObjectRef": map[string]any{"kind": "Deployment", "apiVersion": "apps/v1", "name": "absent"}})
	review("a token of nobody", "/api/v1/namespaces/"+run+"/serviceaccounts/absent/token", map[string]any{})
	get(s, "/apis/authorization.k8s.io/v1/subjectaccessreviews")
}
