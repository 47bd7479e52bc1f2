package differential

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"skiff/pkg/api"
	"skiff/pkg/api/catalogue"
)

//go:embed testdata/objects.yaml
var objectsYAML string

// subject is a kind with a valid object of it.
type subject struct {
	resource   string // with its group: "deployments.apps"
	collection string // path of the collection: "/apis/apps/v1/namespaces/n/deployments"
	everywhere string // path over all namespaces
	namespace  string
	object     map[string]any
	kind       *api.Kind // nil for the custom resource
}

func (s subject) name() string { return at(s.object, "metadata", "name").(string) }
func (s subject) path() string { return s.collection + "/" + s.name() }

func (s subject) has(subresource string) bool {
	if s.kind == nil {
		return subresource == "status" || subresource == "scale"
	}
	return s.kind.Subresources[subresource] != nil
}

// subjects are the objects of the test data, for a run of this name.
func subjects(t *testing.T, run string) []subject {
	t.Helper()
	view := catalogue.Default().View()
	var all []subject
	for _, text := range strings.Split(objectsYAML, "\n---\n")[1:] {
		var object map[string]any
		if err := yaml.Unmarshal([]byte(strings.ReplaceAll(text, "NAME", run)), &object); err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		all = append(all, newSubject(view, run, object))
	}
	return all
}

func newSubject(view *api.View, run string, object map[string]any) subject {
	apiVersion, kind := object["apiVersion"].(string), object["kind"].(string)
	group, version, found := strings.Cut(apiVersion, "/")
	base := "/apis/" + apiVersion
	if !found {
		group, version, base = "", apiVersion, "/api/"+apiVersion
	}
	s := subject{object: object}
	plural, namespaced := strings.ToLower(kind)+"s", true
	for _, k := range view.Kinds() {
		if k.Group == group && k.Version == version && k.GroupVersionKind.Kind == kind {
			s.kind, plural, namespaced = k, k.Resource, k.Namespaced
		}
	}
	s.resource, s.everywhere = strings.TrimSuffix(plural+"."+group, "."), base+"/"+plural
	s.collection = s.everywhere
	if namespaced {
		s.namespace = run
		s.collection = base + "/namespaces/" + run + "/" + plural
	}
	return s
}

// Every kind that is stored takes part.
func TestEveryKindHasAnObject(t *testing.T) {
	have := map[string]bool{}
	for _, s := range subjects(t, "name") {
		have[s.everywhere] = true
		if s.kind == nil {
			continue
		}
		if _, _, err := api.StrictJSON.Decode([]byte(short(s.object)), nil, nil); err != nil {
			t.Errorf("%s: %v", s.path(), err)
		}
	}
	for _, k := range catalogue.Default().View().Kinds() {
		base := "/apis/" + k.GroupVersion().String()
		if k.Group == "" {
			base = "/api/v1"
		}
		twice := k.Group == "autoscaling" && k.Version == "v1" // of the kind in v2
		if path := base + "/" + k.Resource; !k.Virtual && !twice && !have[path] {
			t.Errorf("testdata/objects.yaml has no object of %s", path)
		}
	}
}

// at is what is below v by keys and indices.
func at(v any, path ...any) any {
	for _, step := range path {
		switch x := v.(type) {
		case map[string]any:
			v = x[step.(string)]
		case []any:
			v = x[step.(int)]
		default:
			return nil
		}
	}
	return v
}

func clone(object map[string]any) map[string]any {
	data, err := json.Marshal(object)
	if err != nil {
		panic(err)
	}
	var copied map[string]any
	if err := json.Unmarshal(data, &copied); err != nil {
		panic(err)
	}
	return copied
}

// with returns a copy that holds value at a path; nil takes away what is there.
func with(object map[string]any, value any, path ...any) map[string]any {
	copied := clone(object)
	switch in := at(copied, path[:len(path)-1]...).(type) {
	case map[string]any:
		key := path[len(path)-1].(string)
		if in[key] = value; value == nil {
			delete(in, key)
		}
	case []any:
		i := path[len(path)-1].(int)
		if in[i] = value; value == nil {
			rest := slices.Delete(in, i, i+1)
			return with(copied, rest, path[:len(path)-1]...)
		}
	}
	return copied
}

// mutation is an object with one thing changed.
type mutation struct {
	what   string
	object map[string]any
}

// mutations change one field below the metadata at a time, to what is wrong more often than not.
func mutations(object map[string]any) []mutation {
	var all []mutation
	add := func(what string, value any, path []any) {
		all = append(all, mutation{fmt.Sprintf("%s at %s", what, dotted(path)), with(object, value, path...)})
	}
	var walk func(v any, path []any)
	walk = func(v any, path []any) {
		path = slices.Clip(path)
		if len(path) > 0 {
			add("nothing", nil, path)
		}
		switch v := v.(type) {
		case map[string]any:
			if len(path) > 0 {
				add("empty object", map[string]any{}, path)
			}
			for _, key := range slices.Sorted(maps.Keys(v)) {
				if len(path) > 0 || key != "metadata" && key != "apiVersion" && key != "kind" {
					walk(v[key], append(path, key))
				}
			}
		case []any:
			add("empty list", []any{}, path)
			add("first twice", append([]any{v[0]}, v...), path)
			for i := range v {
				walk(v[i], append(path, i))
			}
		case string:
			add("empty", "", path)
			add("bad text", "Bad Välue!", path)
			add("long text", strings.Repeat("a", 300), path)
			add("number", 5, path)
		case float64, int64:
			add("negative", -1, path)
			add("zero", 0, path)
			add("huge", 1<<40, path)
			add("text", "x", path)
		case bool:
			add("turned", !v, path)
			add("text", "x", path)
		}
	}
	walk(object, nil)
	return all
}

func dotted(path []any) string {
	var b strings.Builder
	for _, step := range path {
		fmt.Fprintf(&b, ".%v", step)
	}
	return b.String()
}

// invalid sends each mutation as a new object, for nothing but the answer.
func invalid(sub subject) func(*side) {
	return func(s *side) {
		for _, m := range mutations(sub.object) {
			s.do(call{name: "create with " + m.what, method: http.MethodPost, path: sub.collection + "?dryRun=All", body: m.object})
		}
		for _, name := range []string{"", "Bad_Name", strings.Repeat("a", 260), "a/b", ".."} {
			s.do(call{name: "create named " + name, method: http.MethodPost, path: sub.collection + "?dryRun=All", body: with(sub.object, name, "metadata", "name")})
		}
		for _, metadata := range []map[string]any{
			{"labels": map[string]any{"bad key!": "bad value!"}}, {"annotations": map[string]any{"bad key!": "x"}},
			{"finalizers": []any{"nodomain", "bad one!"}}, {"ownerReferences": []any{map[string]any{"apiVersion": "v1", "kind": "", "name": "", "uid": ""}}},
			{"name": "", "generateName": "generated-"}, {"namespace": "elsewhere"},
		} {
			object := clone(sub.object)
			maps.Copy(object["metadata"].(map[string]any), metadata)
			what := slices.Sorted(maps.Keys(metadata))[0]
			s.do(call{name: "create with metadata " + what, method: http.MethodPost, path: sub.collection + "?dryRun=All", body: object})
		}
	}
}

// changed sends each mutation as an update of the existing object, for nothing but the answer.
func changed(sub subject) func(*side) {
	return func(s *side) {
		for _, m := range mutations(sub.object) {
			s.do(call{name: "update with " + m.what, method: http.MethodPut, path: sub.path() + "?dryRun=All", body: m.object})
		}
	}
}

func query(pairs ...string) string {
	values := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		values.Add(pairs[i], pairs[i+1])
	}
	return "?" + values.Encode()
}
