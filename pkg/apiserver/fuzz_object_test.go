package apiserver_test

import (
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"skiff/pkg/api"
	"skiff/pkg/api/catalogue"
)

const asProtobuf = runtime.ContentTypeProtobuf

var bodyFormats = []string{asJSON, asYAML, asProtobuf}

// module is the directory of a dependency.
var module = sync.OnceValues(func() (map[string]string, error) {
	dirs := map[string]string{}
	for _, name := range []string{"k8s.io/api", "k8s.io/apiextensions-apiserver"} {
		out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", name).Output()
		if err != nil {
			return nil, err
		}
		dirs[name] = strings.TrimSpace(string(out))
	}
	return dirs, nil
})

// golden is Kubernetes' own test object of a kind, which has every field set.
func golden(t testing.TB, k *api.Kind) (asJSON, asProtobuf []byte) {
	t.Helper()
	dirs, err := module()
	if err != nil {
		t.Fatal(err)
	}
	dir, group := filepath.Join(dirs["k8s.io/api"], "testdata/HEAD"), k.Group
	switch group {
	case "":
		group = "core"
	case "apiextensions.k8s.io":
		dir = filepath.Join(dirs["k8s.io/apiextensions-apiserver"], "pkg/apis/testdata/HEAD")
	case "apiregistration.k8s.io": // Kubernetes has none
		dir = "../api/catalogue/testdata/golden"
	}
	var forms [2][]byte
	for i, extension := range []string{".json", ".pb"} {
		if forms[i], err = os.ReadFile(filepath.Join(dir, group+"."+k.Version+"."+k.Kind+extension)); err != nil {
			t.Fatal(err)
		}
	}
	return forms[0], forms[1]
}

// collection is the path of a kind's objects.
func collection(k *api.Kind) string {
	path := "/apis/" + k.Group + "/" + k.Version
	if k.Group == "" {
		path = "/api/" + k.Version
	}
	if k.Namespaced {
		path += "/namespaces/default"
	}
	return path + "/" + k.Resource
}

// subject is the golden object under a name and in a namespace that are allowed, with a number of things in
// it gone wrong.
func subject(t testing.TB, k *api.Kind, seed uint64) map[string]any {
	t.Helper()
	text, _ := golden(t, k)
	var document map[string]any
	if err := json.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	if meta, ok := document["metadata"].(map[string]any); ok {
		for _, name := range []string{"namespace", "uid", "resourceVersion", "generateName", "managedFields", "finalizers", "ownerReferences"} {
			delete(meta, name)
		}
		meta["name"] = "x"
	}
	random := rand.New(rand.NewPCG(seed, 0))
	for range seed % 8 {
		document, _ = spoil(document, random).(map[string]any)
		if document == nil {
			return map[string]any{}
		}
	}
	return document
}

// garbage is what no field expects, or few.
func garbage(random *rand.Rand) any {
	all := []any{
		nil, "", true, 0, -1, 1.5, 1e308, 1 << 62, json.Number("18446744073709551616"), json.Number("1e400"), []any{}, map[string]any{}, []any{nil}, map[string]any{"": nil},
		"x", "\x00", "%s%d", "../..", "a/b/c/d", "é\U0001f600", strings.Repeat("x", 300), strings.Repeat("9", 100), "-0", "1e999999999", "1Ei", "0x7f", "5%", "-5%",
		"2024-01-01T00:00:00Z", "0000-00-00T00:00:00Z", "1h", "-1ns", "1.2.3.4", "::1", "::ffff:1.2.3.4", "10.96.0.1/99", "example.com", "*.example.com", "system:masters",
		"self.x == oldSelf.x", "((((a+)+)+)+)$", "{.spec.x[?(@.y)]}", "$(VAR)", "=", "!", "a in (b", map[string]any{"$patch": "replace"}, map[string]any{"$ref": "#"},
		map[string]any{"matchExpressions": []any{map[string]any{"key": "", "operator": "Near", "values": []any{""}}}}, "All", "Always", "RollingUpdate", "LoadBalancer", "ExternalName", "None",
	}
	return all[random.IntN(len(all))]
}

// spoil changes one place of a document.
func spoil(value any, random *rand.Rand) any {
	if random.IntN(6) == 0 {
		return garbage(random)
	}
	switch v := value.(type) {
	case map[string]any:
		keys := make([]string, 0, len(v))
		for key := range v {
			if key != "apiVersion" && key != "kind" {
				keys = append(keys, key)
			}
		}
		if len(keys) == 0 {
			break
		}
		slices.Sort(keys)
		key := keys[random.IntN(len(keys))]
		switch random.IntN(20) {
		case 0:
			delete(v, key)
		case 1:
			v[key+"x"] = v[key]
		default:
			v[key] = spoil(v[key], random)
		}
		return v
	case []any:
		if len(v) == 0 {
			break
		}
		at := random.IntN(len(v))
		switch random.IntN(10) {
		case 0:
			return append(v, v[at])
		case 1:
			return slices.Delete(v, at, at+1)
		}
		v[at] = spoil(v[at], random)
		return v
	}
	return garbage(random)
}

// encode returns a document in a format; ok is false for what protobuf can't express.
func encode(t testing.TB, k *api.Kind, document map[string]any, format string) (body []byte, ok bool) {
	t.Helper()
	body, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	switch format {
	case asYAML:
		if body, err = yaml.JSONToYAML(body); err != nil {
			return nil, false
		}
	case asProtobuf:
		obj, _, err := api.JSON.Decode(body, &k.GroupVersionKind, k.New())
		if err != nil {
			return nil, false
		}
		if body, err = runtime.Encode(api.Protobuf, obj); err != nil {
			return nil, false
		}
	}
	return body, true
}

// FuzzObject takes an object of any kind in which something is wrong through its whole life.
func FuzzObject(f *testing.F) {
	p := startProber(f)
	kinds := catalogue.Default().View().Kinds()
	for i := range kinds {
		for format := range bodyFormats {
			for seed := range uint64(4) {
				f.Add(uint16(i), uint8(format), seed+8*uint64(i*len(bodyFormats)+format))
			}
		}
	}
	f.Fuzz(func(t *testing.T, index uint16, format uint8, seed uint64) {
		k := kinds[int(index)%len(kinds)]
		contentType := bodyFormats[int(format)%len(bodyFormats)]
		body, ok := encode(t, k, subject(t, k, seed), contentType)
		if !ok {
			t.Skip()
		}
		query := "?fieldValidation=" + []string{"", "Strict", "Ignore"}[seed%3]
		if k.Group == "admissionregistration.k8s.io" || k.Kind == "Namespace" {
			query += "&dryRun=All" // these would have a say in what follows
		}
		all := collection(k)
		p.expect(t, probe{method: "POST", target: all + query, contentType: contentType, accept: contentType, body: body})
		if k.Virtual {
			return
		}
		one := all + "/x"
		p.expect(t, probe{method: "PUT", target: one + query, contentType: contentType, body: body})
		for name, sub := range k.Subresources {
			if !sub.Action {
				p.expect(t, probe{method: "PUT", target: one + "/" + name + query, contentType: contentType, body: body})
			}
		}
		if contentType != asProtobuf {
			p.expect(t, probe{method: "PATCH", target: one + query + "&fieldManager=fuzz&force=true", contentType: "application/apply-patch+yaml", body: body})
		}
		if contentType == asJSON {
			p.expect(t, probe{method: "PATCH", target: one + query, contentType: "application/strategic-merge-patch+json", body: body})
			p.expect(t, probe{method: "PATCH", target: one + query, contentType: "application/merge-patch+json", body: body})
		}
		for _, accept := range []string{"application/json;as=Table;g=meta.k8s.io;v=v1", asYAML, asProtobuf} {
			p.expect(t, probe{method: "GET", target: all, accept: accept})
			p.expect(t, probe{method: "GET", target: one, accept: accept})
		}
		if code := p.expect(t, probe{method: "DELETE", target: one + "?gracePeriodSeconds=0"}); code == http.StatusOK && k.Kind != "Namespace" {
			p.expect(t, probe{method: "PATCH", target: one, contentType: "application/merge-patch+json", body: []byte(`{"metadata":{"finalizers":null}}`)})
		}
	})
}
