package apiserver_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	crdv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// simple is a definition of one version with a schema for spec.
func simple(kind, spec string) string {
	plural := strings.ToLower(kind) + "s"
	return fmt.Sprintf(`
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: %[1]s.test.example.com}
spec:
  group: test.example.com
  scope: Cluster
  names: {plural: %[1]s, kind: %[2]s}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: %[3]s}}}
`, plural, kind, spec)
}

func TestBadDefinitions(t *testing.T) {
	c := startCustom(t)
	const invalid = `CustomResourceDefinition.apiextensions.k8s.io "things.test.example.com" is invalid: `
	at := "spec.validation.openAPIV3Schema.properties[spec]" // of the only version
	for _, d := range []struct{ name, text, want string }{
		{"name", strings.Replace(simple("Thing", "{type: object}"), "name: things.test", "name: stuff.test", 1),
			`CustomResourceDefinition.apiextensions.k8s.io "stuff.test.example.com" is invalid: metadata.name: Invalid value: "stuff.test.example.com": must be spec.names.plural+"."+spec.group`},
		{"no schema", strings.Replace(simple("Thing", "{type: object}"), "schema: {", "deprecationWarning: x # {", 1), invalid},
		{"no type", simple("Thing", "{}"), invalid + at + `.type: Required value: must not be empty for specified object fields`},
		{"unknown type", simple("Thing", "{type: thing}"), invalid},
		{"default that doesn't fit", simple("Thing", "{type: object, properties: {a: {type: integer, default: x}}}"), invalid + at + `.properties[a].default: Invalid value: "string":  in body must be of type integer: "string"`},
		{"list without keys", simple("Thing", "{type: array, items: {type: object, properties: {a: {type: string}}}, x-kubernetes-list-type: map}"), invalid},
		{"rule that doesn't compile", simple("Thing", "{type: object, properties: {a: {type: string}}, x-kubernetes-validations: [{rule: self.b == 1}]}"),
			invalid + at + `.x-kubernetes-validations[0].rule: Invalid value: `},
		{"rule that costs too much", simple("Thing", "{type: object, properties: {a: {type: array, items: {type: string}}}, x-kubernetes-validations: [{rule: 'self.a.all(x, self.a.all(y, x == y))'}]}"),
			"estimated rule cost exceeds budget by factor of"},
		{"selectable field", strings.Replace(simple("Thing", "{type: object, properties: {a: {type: string}}}"), "storage: true", "storage: true\n    selectableFields: [{jsonPath: .spec.b}]", 1), invalid + `spec.selectableFields[0].jsonPath: Invalid value: ".spec.b": is an invalid path: does not refer to a valid field`},
		{"two stored", strings.Replace(simple("Thing", "{type: object}"), "  - name: v1", "  - {name: v0, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}\n  - name: v1", 1),
			"must have exactly one version marked as storage version"},
		{"protected group", strings.ReplaceAll(simple("Thing", "{type: object}"), "test.example.com", "test.k8s.io"), `protected groups must have approval annotation "api-approved.kubernetes.io"`},
	} {
		t.Run(d.name, func(t *testing.T) {
			_, err := c.crds.ApiextensionsV1().CustomResourceDefinitions().Create(limited(t), readCRD(t, d.text), metav1.CreateOptions{})
			if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), d.want) {
				t.Errorf("%v\nwant %s", err, d.want)
			}
		})
	}
}

const ruled = `{type: object, required: [low, high], properties: {low: {type: integer}, high: {type: integer, maximum: 100}, fixed: {type: string, x-kubernetes-validations: [{rule: self == oldSelf, message: is fixed}]}},
  x-kubernetes-validations: [{rule: self.low <= self.high, messageExpression: '"low is above " + (self.high == 2 ? "two" : "high")', reason: FieldValueForbidden, fieldPath: .low}]}`

func TestRules(t *testing.T) {
	c := startCustom(t)
	c.define(t, simple("Range", ruled))
	ranges := c.of("test.example.com", "v1", "ranges", "")
	ctx := limited(t)
	create := func(spec string) error {
		_, err := ranges.Create(ctx, object(t, `{apiVersion: test.example.com/v1, kind: Range, metadata: {generateName: r-}, spec: `+spec+`}`), metav1.CreateOptions{})
		return err
	}
	for spec, want := range map[string]string{
		`{low: 1, high: 2}`:   "",
		`{low: 3, high: 2}`:   `spec.low: Forbidden: low is above two`,
		`{low: x, high: 2}`:   `[spec.low: Invalid value: "string": spec.low in body must be of type integer: "string", <nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation]`,
		`{low: 1}`:            `[spec.high: Required value, <nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation]`,
		`{low: 1, high: 101}`: `spec.high: Invalid value: 101: spec.high in body should be less than or equal to 100`,
	} {
		err := create(spec)
		if want == "" && err != nil || want != "" && (err == nil || !strings.HasSuffix(err.Error(), " is invalid: "+want)) {
			t.Errorf("%s: %v\nwant %s", spec, err, want)
		}
	}
	t.Run("transition", func(t *testing.T) {
		if _, err := ranges.Create(ctx, object(t, `{apiVersion: test.example.com/v1, kind: Range, metadata: {name: f}, spec: {low: 1, high: 2, fixed: a}}`), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		_, err := ranges.Patch(ctx, "f", types.MergePatchType, []byte(`{"spec":{"fixed":"b"}}`), metav1.PatchOptions{})
		if err == nil || !strings.Contains(err.Error(), `spec.fixed: Invalid value: "string": is fixed`) && !strings.Contains(err.Error(), `spec.fixed: Invalid value: "b": is fixed`) {
			t.Error(err)
		}
	})
	t.Run("ratcheting", func(t *testing.T) {
		definitions := c.crds.ApiextensionsV1().CustomResourceDefinitions()
		crd, err := definitions.Get(ctx, "ranges.test.example.com", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		spec := crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"]
		high := spec.Properties["high"]
		*high.Maximum = 1
		spec.Properties["high"] = high
		if _, err := definitions.Update(ctx, crd, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		until(t, "the new schema isn't used", func() bool { return create(`{low: 1, high: 2}`) != nil })
		if _, err := ranges.Patch(ctx, "f", types.MergePatchType, []byte(`{"metadata":{"labels":{"a":"b"}},"spec":{"low":0}}`), metav1.PatchOptions{}); err != nil {
			t.Errorf("what was there already: %v", err)
		}
		if _, err := ranges.Patch(ctx, "f", types.MergePatchType, []byte(`{"spec":{"high":3}}`), metav1.PatchOptions{}); err == nil {
			t.Error("a new value passes")
		}
	})
}

// Unknown and doubled fields are refused, warned of or ignored, by all the ways to write.
func TestCustomFieldValidation(t *testing.T) {
	c := startCustom(t)
	c.define(t, simple("Thing", `{type: object, properties: {a: {type: string}, embedded: {type: object, x-kubernetes-embedded-resource: true, x-kubernetes-preserve-unknown-fields: true}}}`))
	const things = "/apis/test.example.com/v1/things"
	head := `{"apiVersion":"test.example.com/v1","kind":"Thing","metadata":{"name":"%s"`
	write := func(t *testing.T, method, path, contentType, body, validation string) (int, []string, string) {
		code, header, answer := raw(t, c.instance, method, path+"?fieldManager=m&fieldValidation="+validation, contentType, body)
		return code, header["Warning"], string(answer)
	}
	for _, w := range []struct {
		name, method, contentType, body string
		violations                      []string
	}{
		{"create", "POST", asJSON, head + `},"spec":{"a":"x","b":1,"a":"y"}}`, []string{`duplicate field "spec.a"`, `unknown field "spec.b"`}},
		{"metadata", "POST", asJSON, head + `,"label":{}},"spec":{"embedded":{"apiVersion":"v1","kind":"K","metadata":{"name":"e","foo":1}}}}`,
			[]string{`unknown field "metadata.label"`, `unknown field "spec.embedded.metadata.foo"`}},
		{"YAML", "POST", "application/yaml", "apiVersion: test.example.com/v1\nkind: Thing\nmetadata: {name: %s}\nspec: {a: x, b: 1}\n", []string{`unknown field "spec.b"`}},
		{"merge patch", "PATCH", string(types.MergePatchType), `{"spec":{"b":1}}`, []string{`unknown field "spec.b"`}},
		{"JSON patch", "PATCH", string(types.JSONPatchType), `[{"op":"add","path":"/spec","value":{"c":1}}]`, []string{`unknown field "spec.c"`}},
	} {
		t.Run(w.name, func(t *testing.T) {
			for _, validation := range []string{"Strict", "Warn", "Ignore"} {
				name := strings.ToLower(strings.ReplaceAll(w.name, " ", "") + validation)
				body, path := w.body, things
				if strings.Contains(body, "%s") {
					body = fmt.Sprintf(body, name)
				} else {
					if code, _, answer := write(t, "POST", things, asJSON, fmt.Sprintf(head+"}}", name), ""); code != http.StatusCreated {
						t.Fatal(answer)
					}
					path += "/" + name
				}
				code, warned, answer := write(t, w.method, path, w.contentType, body, validation)
				if refused := code >= 400; refused != (validation == "Strict") {
					t.Errorf("%s: %d %s", validation, code, answer)
				}
				for _, v := range w.violations {
					found := slices.ContainsFunc(warned, func(text string) bool { return strings.Contains(strings.ReplaceAll(text, `\"`, `"`), v) })
					if found != (validation == "Warn") {
						t.Errorf("%s: warnings %q", validation, warned)
					}
					if told := strings.Contains(strings.ReplaceAll(answer, `\"`, `"`), v); told != (validation == "Strict") {
						t.Errorf("%s: %s", validation, answer)
					}
				}
			}
		})
	}
	t.Run("apply", func(t *testing.T) {
		code, _, answer := write(t, "PATCH", things+"/applied", string(types.ApplyYAMLPatchType), fmt.Sprintf(head+`},"spec":{"a":"x","b":1}}`, "applied"), "Strict")
		if code != 500 || !strings.Contains(answer, `.spec.b: field not declared in schema`) {
			t.Errorf("%d %s", code, answer)
		}
		code, _, answer = write(t, "PATCH", things+"/applied", string(types.ApplyYAMLPatchType), fmt.Sprintf(head+`},"spec":{"a":"x","a":"y"}}`, "applied"), "Strict")
		if code != 400 || !strings.Contains(answer, `key \"a\" already set in map`) {
			t.Errorf("%d %s", code, answer)
		}
	})
}

// Server-side apply merges lists by their keys and tells of conflicts.
func TestCustomApply(t *testing.T) {
	c := startCustom(t)
	c.define(t, boats)
	objects := c.of("sea.example.com", "v1", "boats", "default")
	ctx := limited(t)
	apply := func(owner, spec string, force bool) (string, error) {
		u, err := objects.Apply(ctx, "a", object(t, boat("a", spec)), metav1.ApplyOptions{FieldManager: owner, Force: force})
		if err != nil {
			return "", err
		}
		return text(t, u, "spec"), nil
	}
	if got, err := apply("one", `{"color":"red","masts":[{"name":"main","height":9}]}`, false); err != nil || got != `{"color":"red","length":7,"masts":[{"height":9,"name":"main"}]}` {
		t.Fatalf("%v %s", err, got)
	}
	if got, err := apply("two", `{"masts":[{"name":"mizzen"}],"crew":1}`, false); err != nil || got != `{"color":"red","crew":1,"length":7,"masts":[{"height":9,"name":"main"},{"height":3,"name":"mizzen"}]}` {
		t.Fatalf("%v %s", err, got)
	}
	_, err := apply("two", `{"color":"blue"}`, false)
	if !apierrors.IsConflict(err) || err.Error() != `Apply failed with 1 conflict: conflict with "one": .spec.color` {
		t.Errorf("%v", err)
	}
	if got, err := apply("two", `{"color":"blue"}`, true); err != nil || got != `{"color":"blue","length":7,"masts":[{"height":9,"name":"main"}]}` {
		t.Errorf("%v %s", err, got)
	}
	// The status is not for those who write the main resource to own.
	if _, err := objects.ApplyStatus(ctx, "a", object(t, `{apiVersion: sea.example.com/v1, kind: Boat, metadata: {name: a}, status: {crew: 4}}`), metav1.ApplyOptions{FieldManager: "three"}); err != nil {
		t.Fatal(err)
	}
	u, err := objects.Get(ctx, "a", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var owners []string
	for _, e := range u.GetManagedFields() {
		owners = append(owners, fmt.Sprintf("%s/%s %s", e.Manager, e.Subresource, e.FieldsV1.Raw))
	}
	want := []string{
		`one/ {"f:spec":{"f:masts":{"k:{\"name\":\"main\"}":{".":{},"f:height":{},"f:name":{}}}}}`,
		`three/status {"f:status":{"f:crew":{}}}`,
		`two/ {"f:spec":{"f:color":{}}}`,
	}
	slices.Sort(owners) // all of them have the same second
	if !slices.Equal(owners, want) {
		t.Errorf("%q", owners)
	}
	t.Run("definitions", func(t *testing.T) {
		code, _, answer := raw(t, c.instance, "PATCH", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/applieds.test.example.com?fieldManager=m", string(types.ApplyYAMLPatchType), simple("Applied", "{type: object}"))
		if code != http.StatusCreated {
			t.Fatalf("%d %s", code, answer)
		}
		c.await(t, "applieds.test.example.com", crdv1.Established, crdv1.ConditionTrue)
	})
}
