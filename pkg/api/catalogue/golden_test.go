package catalogue

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/diff"
	"pgregory.net/rapid"

	"skiff/pkg/api"
)

// golden returns the objects of k8s.io/api's own test data, which have every field set.
func golden(t *testing.T, k *api.Kind) (asJSON, asProtobuf []byte) {
	t.Helper()
	group := k.Group
	if group == "" {
		group = "core"
	}
	base := filepath.Join(goldenDir(t, k), group+"."+k.Version+"."+k.Kind)
	asJSON, err := os.ReadFile(base + ".json")
	if err != nil {
		t.Fatal(err)
	}
	asProtobuf, err = os.ReadFile(base + ".pb")
	if err != nil {
		t.Fatal(err)
	}
	return asJSON, asProtobuf
}

var goldenPaths = map[string]string{}

// goldenDir is where Kubernetes keeps the golden objects of a kind.
func goldenDir(t *testing.T, k *api.Kind) string {
	if k.Group == "apiregistration.k8s.io" {
		return "testdata/golden" // Kubernetes has none, these are in the manner of the others
	}
	module, below := "k8s.io/api", "testdata/HEAD"
	if k.Group == "apiextensions.k8s.io" {
		module, below = "k8s.io/apiextensions-apiserver", "pkg/apis/testdata/HEAD"
	}
	if goldenPaths[module] == "" {
		out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
		if err != nil {
			t.Fatalf("where is %s? %v", module, err)
		}
		goldenPaths[module] = filepath.Join(strings.TrimSpace(string(out)), below)
	}
	return goldenPaths[module]
}

func decode(t *testing.T, k *api.Kind, data []byte) api.Object {
	t.Helper()
	obj, _, err := api.StrictJSON.Decode(data, &k.GroupVersionKind, k.New())
	if err != nil {
		t.Fatal(err)
	}
	return obj.(api.Object)
}

// What has been completed comes back from etcd as it was: an update that changes nothing changes nothing.
func TestDefaultedManifestsAreStoredWhole(t *testing.T) {
	inputs, err := filepath.Glob("testdata/defaults/*.in.yaml")
	if err != nil || len(inputs) == 0 {
		t.Fatal("no test data", err)
	}
	for _, input := range inputs {
		text, err := os.ReadFile(input)
		if err != nil {
			t.Fatal(err)
		}
		k, obj := defaulted(t, string(text))
		if k.Stored != (schema.GroupVersionKind{}) {
			continue
		}
		data, err := api.EncodeStored(k, obj)
		if err != nil {
			t.Fatal(err)
		}
		back, err := api.DecodeStored(k, data)
		if err != nil {
			t.Fatal(err)
		}
		back.GetObjectKind().SetGroupVersionKind(obj.GetObjectKind().GroupVersionKind())
		if !equality.Semantic.DeepEqual(obj, back) {
			t.Errorf("%s: %s", input, diff.Diff(obj, back))
		}
	}
}

// What etcd holds is what Kubernetes would hold, and nothing is lost on the way.
func TestStorageRoundTrip(t *testing.T) {
	view := Default().View()
	for _, k := range view.Kinds() {
		if k.Virtual {
			continue
		}
		t.Run(k.GroupVersionResource().String(), func(t *testing.T) {
			asJSON, asProtobuf := golden(t, k)
			obj := decode(t, k, asJSON)
			if k.Decoded != nil {
				k.Decoded(obj)
			}
			stored, kind := obj, k
			if k.ToStored != nil {
				kind = view.Stored(k)
				var err error
				if stored, err = k.ToStored(obj); err != nil {
					t.Fatal(err)
				}
			} else {
				read, err := api.DecodeStored(k, asProtobuf)
				if err != nil {
					t.Fatal(err)
				}
				same(t, "the protobuf and the JSON form", read, obj)
			}
			value, err := api.EncodeStored(kind, stored)
			if err != nil {
				t.Fatal(err)
			}
			if envelope := bytes.HasPrefix(value, []byte("k8s\x00")); envelope == k.StoredAsJSON {
				t.Errorf("not as it should be stored: %q", value[:8])
			}
			if stored.GetResourceVersion() == "" {
				t.Error("encoding took the resourceVersion from the caller's object")
			}
			read, err := api.DecodeStored(kind, value)
			if err != nil {
				t.Fatal(err)
			}
			if read.GetResourceVersion() != "" {
				t.Error("a resourceVersion was stored")
			}
			read.SetResourceVersion(obj.GetResourceVersion())
			read.SetSelfLink(obj.GetSelfLink())
			same(t, "what was stored and what was read", read, stored)
		})
	}
}

func same(t *testing.T, what string, got, want api.Object) {
	t.Helper()
	// As JSON: raw fields keep their formatting in Go.
	g, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	w, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(g, w) {
		t.Errorf("%s differ:\n%s", what, diff.Diff(got, want))
	}
}

// A resource that is served in two versions reads the same in both.
func TestConversionRoundTrip(t *testing.T) {
	view := Default().View()
	for _, k := range view.Kinds() {
		if k.FromStored == nil || k.Group == "autoscaling" { // whose golden object no metric could have: see its package
			continue
		}
		t.Run(k.GroupVersionResource().String(), func(t *testing.T) {
			asJSON, _ := golden(t, view.Stored(k))
			stored := decode(t, view.Stored(k), asJSON)
			before := stored.DeepCopyObject().(api.Object)
			served, err := k.FromStored(stored)
			if err != nil {
				t.Fatal(err)
			}
			again, err := k.ToStored(served)
			if err != nil {
				t.Fatal(err)
			}
			same(t, "an object and its way through "+k.Version, again, stored)
			same(t, "converting: the object before and after", stored, before)
		})
	}
}

// The envelope names the version that Kubernetes 1.36 stores, and both are read.
func TestStorageVersion(t *testing.T) {
	for _, k := range Default().View().Kinds() {
		if k.Kind != "MutatingAdmissionPolicy" {
			continue
		}
		asJSON, asProtobuf := golden(t, k)
		value, err := api.EncodeStored(k, decode(t, k, asJSON))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(value[:64], []byte("admissionregistration.k8s.io/v1beta1")) {
			t.Errorf("stored as %q", value[:64])
		}
		if _, err := api.DecodeStored(k, asProtobuf); err != nil {
			t.Errorf("v1 isn't read: %v", err)
		}
	}
}

func TestForeignVersionsAreRefused(t *testing.T) {
	view := Default().View()
	for _, k := range view.Kinds() {
		if k.Kind != "HorizontalPodAutoscaler" || k.Version != "v2" {
			continue
		}
		for _, data := range []string{
			`{"apiVersion":"autoscaling/v1","kind":"HorizontalPodAutoscaler"}`,
			`{"apiVersion":"v1","kind":"Pod"}`,
			"k8s\x00\xff\xff", "rubbish", "",
		} {
			if obj, err := api.DecodeStored(k, []byte(data)); err == nil {
				t.Errorf("%q became %v", data, obj)
			}
		}
	}
}

// Whatever a client leaves out, nothing here panics, and defaults are filled in once and for all.
func TestAnyObjectIsHandled(t *testing.T) {
	for _, k := range Default().View().Kinds() {
		if k.Virtual && k.Cells == nil {
			continue
		}
		t.Run(k.GroupVersionResource().String(), func(t *testing.T) {
			if testing.Short() {
				t.Skip()
			}
			asJSON, _ := golden(t, k)
			rapid.Check(t, func(t *rapid.T) { handle(t, k, asJSON) })
		})
	}
}

func handle(t *rapid.T, k *api.Kind, asJSON []byte) {
	obj, old := thinned(t, k, asJSON, "new"), thinned(t, k, asJSON, "old")
	if k.Default != nil {
		k.Default(obj)
		k.Default(old)
		once := obj.DeepCopyObject()
		k.Default(obj)
		if !equality.Semantic.DeepEqual(once, obj) {
			t.Fatalf("defaulting twice differs:\n%s", diff.Diff(once, obj))
		}
	}
	if got, want := len(k.TableRow(obj).Cells), len(k.TableColumns()); got != want {
		t.Fatalf("%d cells in %d columns", got, want)
	}
	if k.Virtual {
		return
	}
	if k.SelectableFields != nil {
		k.SelectableFields(obj)
	}
	before := old.DeepCopyObject().(api.Object)
	ctx := context.Background()
	k.PrepareCreate(ctx, obj.DeepCopyObject().(api.Object))
	k.PrepareUpdate(ctx, obj.DeepCopyObject().(api.Object), old)
	for _, sub := range k.Subresources {
		if sub.PrepareForUpdate != nil {
			sub.PrepareForUpdate(ctx, obj.DeepCopyObject().(api.Object), old)
		}
	}
	if !equality.Semantic.DeepEqual(before, old) {
		t.Fatalf("preparing changed the stored object:\n%s", diff.Diff(before, old))
	}
}

// thinned is the golden object with some of its fields and list entries left out.
func thinned(t *rapid.T, k *api.Kind, asJSON []byte, label string) api.Object {
	var document any
	if err := json.Unmarshal(asJSON, &document); err != nil {
		t.Fatal(err)
	}
	rate := rapid.IntRange(0, 9).Draw(t, label+" rate")
	random := rapid.Uint32().Draw(t, label+" seed")
	document = thin(document, func() bool {
		random = random*1664525 + 1013904223 // a generator of its own: one draw, and so one failure, is small
		return int(random>>16)%10 < rate
	})
	data, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	obj, _, err := api.JSON.Decode(data, &k.GroupVersionKind, k.New())
	if err != nil {
		t.Fatal(err)
	}
	return obj.(api.Object)
}

func thin(value any, drop func() bool) any {
	switch v := value.(type) {
	case map[string]any:
		for _, key := range sortedKeys(v) {
			if key != "apiVersion" && key != "kind" && drop() {
				delete(v, key)
			} else {
				v[key] = thin(v[key], drop)
			}
		}
	case []any:
		var kept []any
		for _, item := range v {
			if !drop() {
				kept = append(kept, thin(item, drop))
			}
		}
		return kept
	}
	return value
}

func sortedKeys(m map[string]any) []string { return slices.Sorted(maps.Keys(m)) }
