package apiserver_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/metadata"
	"sigs.k8s.io/yaml"
)

func TestFormats(t *testing.T) {
	i := start(t)
	put(t, i, "a")
	get := func(path, accept string) (http.Header, string) {
		t.Helper()
		code, headers, body := raw(t, i, "GET", path, "", "", "Accept", accept)
		if code != http.StatusOK {
			t.Fatalf("%d %s", code, body)
		}
		return headers, string(body)
	}
	t.Run("JSON", func(t *testing.T) {
		h, body := get(maps+"/a", "application/json")
		if h.Get("Content-Type") != "application/json" || !strings.HasPrefix(body, `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a","namespace":"default","uid":"`) {
			t.Error(body)
		}
		_, body = get(maps+"?fieldSelector=metadata.name%3Da", "application/json")
		if !strings.HasPrefix(body, `{"kind":"ConfigMapList","apiVersion":"v1","metadata":{"resourceVersion":"`) || !strings.Contains(body, `"items":[{"metadata":{"name":"a",`) {
			t.Error(body)
		}
		_, body = get(maps+"?labelSelector=no%3Done", "application/json")
		if !strings.Contains(body, `"items":[]`) {
			t.Error(body)
		}
	})
	t.Run("YAML", func(t *testing.T) {
		_, body := get(maps+"/a", "application/yaml")
		var m corev1.ConfigMap
		if err := yaml.Unmarshal([]byte(body), &m); err != nil || m.Name != "a" || m.Kind != "ConfigMap" {
			t.Errorf("%v %s", err, body)
		}
		code, _, created := raw(t, i, "POST", maps, asYAML, "metadata: {name: from-yaml}\ndata: {a: b}\n")
		if code != http.StatusCreated {
			t.Errorf("%d %s", code, created)
		}
	})
	t.Run("table", func(t *testing.T) {
		_, body := get("/api/v1/namespaces?includeObject=None", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")
		var table metav1.Table
		if err := json.Unmarshal([]byte(body), &table); err != nil || table.Kind != "Table" || table.APIVersion != "meta.k8s.io/v1" || len(table.Rows) < 4 || table.Rows[0].Object.Raw != nil && string(table.Rows[0].Object.Raw) != "null" {
			t.Errorf("%v %s", err, body)
		}
		_, body = get("/api/v1/namespaces/default?includeObject=Object", "application/json;as=Table;v=v1;g=meta.k8s.io")
		if err := json.Unmarshal([]byte(body), &table); err != nil || len(table.Rows) != 1 || !strings.Contains(string(table.Rows[0].Object.Raw), `"kind":"Namespace"`) {
			t.Errorf("%v %s", err, body)
		}
		code, _, refused := raw(t, i, "GET", "/api/v1/namespaces?includeObject=All", "", "", "Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
		if code != http.StatusBadRequest {
			t.Errorf("%d %s", code, refused)
		}
	})
	t.Run("metadata", func(t *testing.T) {
		client, err := metadata.NewForConfig(i.config) // protobuf
		if err != nil {
			t.Fatal(err)
		}
		list, err := client.Resource(corev1.SchemeGroupVersion.WithResource("configmaps")).Namespace("default").List(limited(t), metav1.ListOptions{})
		if err != nil || len(list.Items) != 2 || list.Items[0].Name != "a" {
			t.Errorf("%v %+v", err, list)
		}
		_, body := get(maps+"/a", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io")
		if !strings.HasPrefix(body, `{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{"name":"a"`) {
			t.Error(body)
		}
		code, _, refused := raw(t, i, "GET", maps, "", "", "Accept", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io")
		if code != http.StatusNotAcceptable {
			t.Errorf("%d %s", code, refused)
		}
	})
	t.Run("review", func(t *testing.T) {
		reviews, question := "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", `{"spec":{"nonResourceAttributes":{"path":"/","verb":"get"}}}`
		for accept, want := range map[string]string{
			"application/json;as=Table;v=v1;g=meta.k8s.io,application/json": `{"kind":"SelfSubjectAccessReview","apiVersion":"authorization.k8s.io/v1",`,
			"application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io":  `{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1",`,
		} {
			code, _, body := raw(t, i, "POST", reviews, asJSON, question, "Accept", accept)
			if code != http.StatusCreated || !strings.HasPrefix(string(body), want) {
				t.Errorf("%s: %d %s", accept, code, body)
			}
		}
	})
	t.Run("gzip", func(t *testing.T) {
		for n := range 3 {
			big := strings.Repeat("x", 60<<10)
			if code, _, body := raw(t, i, "POST", maps, asJSON, fmt.Sprintf(`{"metadata":{"name":"big%d"},"data":{"x":%q}}`, n, big)); code != http.StatusCreated {
				t.Fatalf("%d %s", code, body)
			}
		}
		code, headers, body := raw(t, i, "GET", maps, "", "", "Accept-Encoding", "gzip")
		if code != 200 || headers.Get("Content-Encoding") != "gzip" {
			t.Fatalf("%d %v", code, headers)
		}
		unpacked, err := gzip.NewReader(bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		var list corev1.ConfigMapList
		if err := json.NewDecoder(unpacked).Decode(&list); err != nil || len(list.Items) != 5 {
			t.Errorf("%v %d", err, len(list.Items))
		}
		if _, headers, _ := raw(t, i, "GET", maps+"/a", "", "", "Accept-Encoding", "gzip"); headers.Get("Content-Encoding") != "" {
			t.Error("a small answer was compressed")
		}
	})
	t.Run("pages", func(t *testing.T) {
		client := typed(t, i, "application/vnd.kubernetes.protobuf")
		var names []string
		o := metav1.ListOptions{Limit: 2}
		for {
			page, err := client.CoreV1().ConfigMaps("default").List(limited(t), o)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range page.Items {
				names = append(names, m.Name)
			}
			if o.Continue = page.Continue; o.Continue == "" {
				break
			}
			if page.RemainingItemCount == nil {
				t.Error("no remaining count")
			}
		}
		if got := strings.Join(names, " "); got != "a big0 big1 big2 from-yaml" {
			t.Error(got)
		}
	})
}

// TestDiscovery compares the two ways to discover, and asks for each document.
func TestDiscovery(t *testing.T) {
	i := start(t)
	client, err := discovery.NewDiscoveryClientForConfig(i.config)
	if err != nil {
		t.Fatal(err)
	}
	groups, byVersion, failed, err := client.GroupsAndMaybeResources()
	if err != nil || len(failed) > 0 || len(groups.Groups) < 15 {
		t.Fatalf("%v %v %d", err, failed, len(groups.Groups))
	}
	if byVersion == nil {
		t.Fatal("no aggregated discovery")
	}
	plain := discovery.NewDiscoveryClient(client.RESTClient())
	plain.UseLegacyDiscovery = true
	for gv, aggregated := range byVersion {
		single, err := plain.ServerResourcesForGroupVersion(gv.String())
		if err != nil {
			t.Fatal(err)
		}
		names := func(list *metav1.APIResourceList) string {
			var all []string
			for _, r := range list.APIResources {
				all = append(all, fmt.Sprint(r.Name, r.Kind, r.Namespaced, r.Verbs, r.ShortNames))
			}
			return strings.Join(all, "\n")
		}
		if names(single) != names(aggregated) {
			t.Errorf("%s:\n%s\n%s", gv, names(single), names(aggregated))
		}
	}
	version, err := client.ServerVersion()
	if err != nil || !strings.HasPrefix(version.GitVersion, "v1.36.") {
		t.Errorf("%v %+v", err, version)
	}
	code, headers, _ := raw(t, i, "GET", "/apis", "", "", "Accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")
	if code != 200 || headers.Get("Etag") == "" || headers.Get("Content-Type") != "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList" {
		t.Errorf("%d %v", code, headers)
	}
	if code, _, _ := raw(t, i, "GET", "/apis", "", "", "Accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", "If-None-Match", headers.Get("Etag")); code != http.StatusNotModified {
		t.Errorf("with its ETag: %d", code)
	}

	t.Run("OpenAPI", func(t *testing.T) {
		old, err := client.OpenAPISchema() // protobuf
		if err != nil || len(old.Definitions.AdditionalProperties) < 300 {
			t.Fatalf("%v", err)
		}
		paths, err := client.OpenAPIV3().Paths()
		if err != nil || len(paths) < 18 {
			t.Fatalf("%v %d", err, len(paths))
		}
		for name, p := range paths {
			doc, err := p.Schema("application/json")
			if err != nil || !json.Valid(doc) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := paths["apis/apps/v1"].Schema("application/com.github.proto-openapi.spec.v3.v1.0+protobuf"); err != nil {
			t.Error(err)
		}
		if _, ok := paths["api/v1"]; !ok {
			t.Error("no core")
		}
	})
}

func TestHealth(t *testing.T) {
	i := start(t)
	put(t, i, "a")
	until(t, "the server isn't ready", func() bool {
		code, _, _ := raw(t, i, "GET", "/readyz", "", "")
		return code == 200
	})
	for path, want := range map[string]string{
		"/healthz": "ok", "/livez": "ok", "/livez/ping": "ok", "/readyz?verbose": "[+]etcd ok", "/readyz/etcd": "ok",
		"/metrics": "apiserver_request_total", "/version": `"gitVersion": "v1.36.`, "/": `"/apis/apps/v1"`, "/debug/pprof/goroutine?debug=1": "goroutine profile: total",
	} {
		code, _, body := raw(t, i, "GET", path, "", "")
		if code != 200 || !strings.Contains(string(body), want) {
			t.Errorf("%s: %d %.200s", path, code, body)
		}
	}
}

// YAML has characters that JSON has no need to escape.
func TestYAMLOfControlCharacters(t *testing.T) {
	i := start(t)
	const maps = "/api/v1/namespaces/default/configmaps"
	want := "a\x7fb\u0085c\ufeffd"
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "control"}, Data: map[string]string{"x": want}}
	body, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	code, _, answer := raw(t, i, "POST", maps, asJSON, string(body), "Accept", "application/yaml")
	var got corev1.ConfigMap
	if err := yaml.Unmarshal(answer, &got); code != 201 || err != nil || got.Data["x"] != want {
		t.Errorf("%d %s: %v", code, answer, err)
	}
	if code, _, answer := raw(t, i, "POST", maps, "application/yaml", "{\x7f", "Accept", "application/yaml"); code != 400 {
		t.Errorf("%d %s", code, answer)
	}
}
