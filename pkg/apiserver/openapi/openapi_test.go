package openapi

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/applyconfigurations"

	"skiff/pkg/api"
	"skiff/pkg/api/catalogue"
)

var types = sync.OnceValue(func() managedfields.TypeConverter { return applyconfigurations.NewTypeConverter(api.Scheme) })

func service() *Service {
	return New(Config{Catalogue: catalogue.Default(), Types: types, Version: "v1"})
}

// at follows keys into a document.
func at(t *testing.T, from any, keys ...string) any {
	t.Helper()
	for _, key := range keys {
		m, ok := from.(map[string]any)
		if !ok || m[key] == nil {
			t.Fatalf("no %s in %.300v", key, from)
		}
		from = m[key]
	}
	return from
}

func text(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}

func parsed(t *testing.T, s *Service, path string) any {
	t.Helper()
	d, err := s.get(path)
	if err != nil || d == nil {
		t.Fatalf("%s: %v", path, err)
	}
	var v any
	if err := json.Unmarshal(d.json, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestSchemas(t *testing.T) {
	s := service()
	core3, core2 := parsed(t, s, "api/v1"), parsed(t, s, "")
	v3Of := func(name string, keys ...string) any {
		return at(t, core3, append([]string{"components", "schemas", name}, keys...)...)
	}
	v2Of := func(name string, keys ...string) any {
		return at(t, core2, append([]string{"definitions", name}, keys...)...)
	}
	const v1 = "io.k8s.api.core.v1."
	for name, got := range map[string]struct {
		value any
		want  string
	}{
		"a list with keys":        {without(v3Of(v1+"Container", "properties", "ports")), `{"items":{"$ref":"#/components/schemas/io.k8s.api.core.v1.ContainerPort"},"type":"array","x-kubernetes-list-map-keys":["containerPort","protocol"],"x-kubernetes-list-type":"map","x-kubernetes-patch-merge-key":"containerPort","x-kubernetes-patch-strategy":"merge"}`},
		"an atomic list":          {without(v3Of(v1+"Container", "properties", "command")), `{"items":{"type":"string"},"type":"array","x-kubernetes-list-type":"atomic"}`},
		"a struct":                {without(v3Of(v1+"Pod", "properties", "spec")), `{"allOf":[{"$ref":"#/components/schemas/io.k8s.api.core.v1.PodSpec"}],"default":{}}`},
		"a struct in v2":          {without(v2Of(v1+"Pod", "properties", "spec")), `{"$ref":"#/definitions/io.k8s.api.core.v1.PodSpec"}`},
		"a pointer to a struct":   {without(v3Of(v1+"Container", "properties", "livenessProbe")), `{"allOf":[{"$ref":"#/components/schemas/io.k8s.api.core.v1.Probe"}]}`},
		"bytes":                   {without(v3Of(v1+"Secret", "properties", "data")), `{"additionalProperties":{"format":"byte","type":"string"},"type":"object"}`},
		"an embedded struct":      {without(v3Of(v1+"Volume", "properties", "emptyDir")), `{"allOf":[{"$ref":"#/components/schemas/io.k8s.api.core.v1.EmptyDirVolumeSource"}]}`},
		"int or string":           {without(v3Of("io.k8s.apimachinery.pkg.util.intstr.IntOrString")), `{"format":"int-or-string","oneOf":[{"type":"integer"},{"type":"string"}]}`},
		"int or string in v2":     {without(v2Of("io.k8s.apimachinery.pkg.util.intstr.IntOrString")), `{"format":"int-or-string","type":"string"}`},
		"time":                    {without(v3Of("io.k8s.apimachinery.pkg.apis.meta.v1.Time")), `{"format":"date-time","type":"string"}`},
		"required":                {v3Of(v1+"PodSpec", "required"), `["containers"]`},
		"not required":            {v2Of(v1+"Event", "required"), `["metadata","involvedObject"]`},
		"which kind it is":        {v3Of(v1+"Pod", "x-kubernetes-group-version-kind"), `[{"group":"","kind":"Pod","version":"v1"}]`},
		"an atomic map":           {v3Of(v1+"NodeSelector", "x-kubernetes-map-type"), `"atomic"`},
		"kinds of delete options": {v3Of("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions", "x-kubernetes-group-version-kind"), `[{"group":"","kind":"DeleteOptions","version":"v1"}]`},
	} {
		var want any
		if err := json.Unmarshal([]byte(got.want), &want); err != nil {
			t.Fatal(err)
		}
		if name == "not required" {
			if !strings.Contains(text(got.value), "involvedObject") || strings.Contains(text(got.value), "reportingComponent") {
				t.Errorf("%s: %s", name, text(got.value))
			}
			continue
		}
		if text(got.value) != text(want) {
			t.Errorf("%s:\ngot  %s\nwant %s", name, text(got.value), text(want))
		}
	}
}

// without drops descriptions.
func without(v any) any {
	m := v.(map[string]any)
	out := map[string]any{}
	for k, e := range m {
		if k != "description" {
			out[k] = e
		}
	}
	return out
}

// TestPatchParameters has what kubectl looks for: whether the server validates fields and can
// rehearse.
func TestPatchParameters(t *testing.T) {
	s := service()
	for _, gv := range versions(s.config.Catalogue.View()) {
		doc := parsed(t, s, groupPath(gv))
		for _, k := range s.config.Catalogue.View().In(gv) {
			if !k.HasVerb("patch") {
				continue
			}
			path := root(gv) + "/" + k.Resource + "/{name}"
			if k.Namespaced {
				path = root(gv) + "/namespaces/{namespace}/" + k.Resource + "/{name}"
			}
			patch := at(t, doc, "paths", path, "patch")
			for _, name := range []string{"fieldValidation", "fieldManager", "dryRun", "force"} {
				if !strings.Contains(text(at(t, patch, "parameters")), `"name":"`+name+`"`) {
					t.Errorf("%s: no %s", path, name)
				}
			}
			want := text(map[string]any{"group": k.Group, "kind": k.Kind, "version": k.Version})
			if got := text(at(t, patch, "x-kubernetes-group-version-kind")); got != want {
				t.Errorf("%s: %s", path, got)
			}
		}
	}
}

// TestReferences finds references that lead nowhere.
func TestReferences(t *testing.T) {
	s := service()
	check := func(path string, defined map[string]any, prefix string, doc any) {
		var walk func(any)
		walk = func(v any) {
			switch v := v.(type) {
			case map[string]any:
				if ref, ok := v["$ref"].(string); ok {
					if _, ok := defined[strings.TrimPrefix(ref, prefix)]; !ok {
						t.Errorf("%s: %s is not defined", path, ref)
					}
				}
				for _, e := range v {
					walk(e)
				}
			case []any:
				for _, e := range v {
					walk(e)
				}
			}
		}
		walk(doc)
	}
	doc := parsed(t, s, "")
	check("v2", at(t, doc, "definitions").(map[string]any), v2.prefix, doc)
	for _, gv := range versions(s.config.Catalogue.View()) {
		doc := parsed(t, s, groupPath(gv))
		check(groupPath(gv), at(t, doc, "components", "schemas").(map[string]any), v3.prefix, doc)
	}
}

func TestServe(t *testing.T) {
	s := service()
	ask := func(path string, headers ...string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", path, nil)
		for n := 0; n+1 < len(headers); n += 2 {
			r.Header.Set(headers[n], headers[n+1])
		}
		w := httptest.NewRecorder()
		if _, err := s.V3(w, r); err != nil {
			t.Fatal(err)
		}
		return w
	}
	index, err := s.indexDocument()
	if err != nil {
		t.Fatal(err)
	}
	var paths struct {
		Paths map[string]struct{ ServerRelativeURL string }
	}
	if err := json.Unmarshal(index.json, &paths); err != nil {
		t.Fatal(err)
	}
	hashed := paths.Paths["apis/apps/v1"].ServerRelativeURL
	w := ask(hashed)
	if w.Code != 200 || w.Header().Get("Cache-Control") != "public, immutable" || !strings.Contains(hashed, strings.Trim(w.Header().Get("Etag"), `"`)) {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	if w := ask("/openapi/v3/apis/apps/v1?hash=OLD"); w.Code != http.StatusMovedPermanently || w.Header().Get("Location") != hashed {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	if w := ask(hashed, "If-None-Match", w.Header().Get("Etag")); w.Code != http.StatusNotModified {
		t.Errorf("%d", w.Code)
	}
	if w := ask(hashed, "Accept", "text/html"); w.Code != http.StatusNotAcceptable {
		t.Errorf("%d", w.Code)
	}
	if found, _ := s.V3(httptest.NewRecorder(), httptest.NewRequest("GET", "/openapi/v3/apis/none/v1", nil)); found {
		t.Error("a group that isn't there has a document")
	}
	for accept, want := range map[string]string{
		"application/com.github.proto-openapi.spec.v2@v1.0+protobuf":                   "p",
		"application/json, application/com.github.proto-openapi.spec.v2@v1.0+protobuf": "application/json",
		"*/*": "application/json", "": "application/json", "text/html": "",
	} {
		if got := negotiate(accept, "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"); got != want && (want != "p" || !strings.HasSuffix(got, "protobuf")) {
			t.Errorf("%q: %q", accept, got)
		}
	}
}

func TestNames(t *testing.T) {
	for gv, want := range map[schema.GroupVersion]string{
		{Version: "v1"}:                                        "CoreV1 core_v1 /api/v1",
		{Group: "apps", Version: "v1"}:                         "AppsV1 apps_v1 /apis/apps/v1",
		{Group: "rbac.authorization.k8s.io", Version: "v1"}:    "RbacAuthorizationV1 rbacAuthorization_v1 /apis/rbac.authorization.k8s.io/v1",
		{Group: "flowcontrol.apiserver.k8s.io", Version: "v1"}: "FlowcontrolApiserverV1 flowcontrolApiserver_v1 /apis/flowcontrol.apiserver.k8s.io/v1",
	} {
		if got := groupID(gv) + " " + tagOf(gv) + " " + root(gv); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// others stands for one other server.
type others struct{ v2 string }

func (o others) Documents() map[string]string {
	return map[string]string{"apis/fish.io/v1": "/openapi/v3/apis/fish.io/v1?hash=A"}
}

func (o others) Swagger(context.Context) map[string][]byte {
	return map[string][]byte{"/apis/fish.io/v1/": []byte(o.v2)}
}

func TestOthers(t *testing.T) {
	s := New(Config{Catalogue: catalogue.Default(), Types: types, Version: "v1"})
	alone, err := s.swagger(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var own map[string]any
	if err := json.Unmarshal(alone.json, &own); err != nil {
		t.Fatal(err)
	}
	const meta = "io.k8s.apimachinery.pkg.apis.meta.v1."
	status := text(at(t, own, "definitions", meta+"Status"))
	s = New(Config{Catalogue: catalogue.Default(), Types: types, Version: "v1", Others: others{`{
		"paths": {"/apis/fish.io/v1/": {"get": {"p": [{"$ref": "#/parameters/pretty-x"}]}},
			"/apis/fish.io/v1/fish": {"get": {"schema": {"$ref": "#/definitions/io.fish.Fish"}, "error": {"$ref": "#/definitions/` + meta + `Status"}}},
			"/apis/apps/v1/deployments": {"get": {"schema": {"$ref": "#/definitions/io.fish.Stolen"}}}},
		"parameters": {"pretty-x": {"name": "pretty"}},
		"definitions": {"io.fish.Fish": {"properties": {"metadata": {"$ref": "#/definitions/` + meta + `ObjectMeta"}, "school": {"items": {"$ref": "#/definitions/io.fish.Fish"}}}},
			"io.fish.Stolen": {}, "` + meta + `ObjectMeta": {"type": "fishy"}, "` + meta + `Status": ` + status + `}}`}})
	d, err := s.swagger(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(d.json, &doc); err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string]struct{ value, want string }{
		"an operation":             {text(at(t, doc, "paths", "/apis/fish.io/v1/fish", "get")), `{"error":{"$ref":"#/definitions/` + meta + `Status"},"schema":{"$ref":"#/definitions/io.fish.Fish"}}`},
		"another's metadata":       {text(at(t, doc, "definitions", "io.fish.Fish", "properties", "metadata")), `{"$ref":"#/definitions/` + meta + `ObjectMeta_v2"}`},
		"the same, renamed":        {text(at(t, doc, "definitions", meta+"ObjectMeta_v2")), `{"type":"fishy"}`},
		"this server's":            {text(at(t, doc, "definitions", meta+"ObjectMeta", "type")), `"object"`},
		"what refers to itself":    {text(at(t, doc, "definitions", "io.fish.Fish", "properties", "school")), `{"items":{"$ref":"#/definitions/io.fish.Fish"}}`},
		"a shared parameter":       {text(at(t, doc, "parameters", "pretty-x")), `{"name":"pretty"}`},
		"a path of another's":      {text(at(t, doc, "paths", "/apis/apps/v1/deployments")), text(at(t, own, "paths", "/apis/apps/v1/deployments"))},
		"what nothing refers to":   {text(doc["definitions"].(map[string]any)["io.fish.Stolen"]), "null"},
		"the same, under its name": {text(doc["definitions"].(map[string]any)[meta+"Status_v2"]), "null"},
	} {
		if got.value != got.want {
			t.Errorf("%s:\ngot  %.300s\nwant %.300s", name, got.value, got.want)
		}
	}
	index, err := s.indexDocument()
	if err != nil || !strings.Contains(string(index.json), `"apis/fish.io/v1":{"serverRelativeURL":"/openapi/v3/apis/fish.io/v1?hash=A"}`) || !strings.Contains(string(index.json), `"apis/apps/v1"`) {
		t.Errorf("%s %v", index.json, err)
	}
}
