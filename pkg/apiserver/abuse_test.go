package apiserver_test

import (
	"bytes"
	"fmt"
	goruntime "runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/pkg/api"
)

// heap is how much memory a garbage collection leaves, and how much was ever asked for.
func heap() (live, allocated uint64) {
	goruntime.GC()
	var m goruntime.MemStats
	goruntime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse, m.TotalAlloc
}

// What is small on the wire and large when taken apart costs no more than a few of its own size.
func TestBombs(t *testing.T) {
	p := startProber(t)
	var copies strings.Builder
	for i := range 60 { // each doubles the object
		fmt.Fprintf(&copies, `{"op":"copy","from":"/data","path":"/data/x%d"},`, i)
	}
	const most = 512 << 20
	big := strings.Repeat("x", 3<<20)
	for _, c := range []struct {
		name, method, path, contentType, accept, body string
		code                                          int
	}{
		{name: "YAML aliases", method: "POST", path: maps, contentType: asYAML, body: bomb(), code: 400},
		{name: "YAML aliases in an apply", method: "PATCH", path: maps + "/x?fieldManager=m", contentType: "application/apply-patch+yaml", body: bomb(), code: 400},
		{name: "deep JSON", method: "POST", path: maps, contentType: asJSON, body: `{"metadata":` + nested("[", "]", 1<<20), code: 400},
		{name: "deep YAML", method: "POST", path: maps, contentType: asYAML, body: nested("[", "]", 1<<20), code: 400},
		{name: "deep merge patch", method: "PATCH", path: maps + "/here", contentType: "application/merge-patch+json", body: nested(`{"a":`, "}", 500000), code: 400},
		{name: "JSON patch that doubles", method: "PATCH", path: maps + "/here", contentType: "application/json-patch+json", body: "[" + strings.TrimSuffix(copies.String(), ",") + "]", code: 422},
		{name: "many clauses", method: "GET", path: maps, accept: ascending(), code: 406},
		{name: "too large", method: "POST", path: maps, contentType: asJSON, body: `{"a":"` + big + `"}`, code: 413},
		{name: "too large a patch", method: "PATCH", path: maps + "/here", contentType: "application/merge-patch+json", body: `{"a":"` + big + `"}`, code: 413},
		{name: "too large an update", method: "PUT", path: maps + "/here", contentType: asYAML, body: `a: "` + big + `"`, code: 413},
		{name: "too large a deletion", method: "DELETE", path: maps + "/here", contentType: asJSON, body: `{"a":"` + big + `"}`, code: 413},
	} {
		t.Run(c.name, func(t *testing.T) {
			p.direct(t)(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "here", Namespace: "default"}, Data: map[string]string{"a": strings.Repeat("x", 1000)}})
			defer raw(t, p.instance, "DELETE", maps+"/here", "", "")
			_, before := heap()
			began := time.Now()
			code := p.expect(t, probe{method: c.method, target: c.path, contentType: c.contentType, accept: c.accept, body: []byte(c.body)})
			_, after := heap()
			t.Logf("%d bytes: %d in %v, %d MB allocated", len(c.body)+len(c.accept), code, time.Since(began).Round(time.Millisecond), (after-before)>>20)
			if code != c.code {
				t.Errorf("%d, want %d", code, c.code)
			}
			if after-before > most {
				t.Errorf("%d MB allocated", (after-before)>>20)
			}
		})
	}
}

// ascending is an Accept header of which each clause is better than the last.
func ascending() string {
	var b strings.Builder
	for i := range 60000 {
		fmt.Fprintf(&b, "a/b;q=%d,", i)
	}
	return b.String()
}

// deep is a definition in protobuf whose schema is {not: {not: …}}, as deep as its bytes allow.
func deep(size int) []byte {
	var heads [][]byte // innermost first
	inner := 0
	wrap := func(number protowire.Number) {
		head := protowire.AppendVarint(protowire.AppendTag(nil, number, protowire.BytesType), uint64(inner))
		heads = append(heads, head)
		inner += len(head)
	}
	for inner < size {
		wrap(28)
	}
	for _, number := range []protowire.Number{1, 4, 7, 2, 2} { // openAPIV3Schema, schema, versions, spec, raw
		wrap(number)
	}
	slices.Reverse(heads)
	body := []byte("k8s\x00")
	kind := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "apiextensions.k8s.io/v1")
	kind = protowire.AppendString(protowire.AppendTag(kind, 2, protowire.BytesType), "CustomResourceDefinition")
	body = protowire.AppendBytes(protowire.AppendTag(body, 1, protowire.BytesType), kind)
	return append(body, bytes.Join(heads, nil)...)
}

// Protobuf may be deeper than any stack, and so may be the JSON inside of it: that would be the end of the process.
func TestDeepProtobuf(t *testing.T) {
	p := startProber(t)
	owned := func(depth int) []byte {
		body, err := runtime.Encode(api.Protobuf, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x", ManagedFields: []metav1.ManagedFieldsEntry{{
			Manager: "m", Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: "v1", FieldsType: "FieldsV1", FieldsV1: &metav1.FieldsV1{Raw: []byte(nested(`{"f:a":`, "}", depth))},
		}}}})
		if err != nil {
			t.Fatal(err)
		}
		return body
	}
	for _, c := range []struct {
		name, path string
		body       []byte
		code       int
	}{
		{"schema", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", deep(2 << 20), 400},
		{"schema, as another kind", "/apis/authentication.k8s.io/v1/selfsubjectreviews", deep(2 << 20), 400},
		{"owned fields", maps, owned(200000), 201}, // without them: they can't be read, as in Kubernetes
	} {
		t.Run(c.name, func(t *testing.T) {
			if code := p.expect(t, probe{method: "POST", target: c.path, contentType: asProtobuf, body: c.body}); code != c.code {
				t.Errorf("%d, want %d", code, c.code)
			}
		})
	}
	if code := p.expect(t, probe{method: "DELETE", target: maps + "/x", contentType: asProtobuf, body: deep(2 << 20)}); code != 400 {
		t.Errorf("as options of a deletion: %d", code)
	}
}
