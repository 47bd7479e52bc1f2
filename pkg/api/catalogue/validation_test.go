package catalogue

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"pgregory.net/rapid"

	"skiff/pkg/api"
)

// What defaults complete is valid, and may be written back as it is.
func TestDefaultedManifestsAreValid(t *testing.T) {
	inputs, err := filepath.Glob("testdata/defaults/*.in.yaml")
	if err != nil || len(inputs) == 0 {
		t.Fatal("no test data", err)
	}
	view := Default().View()
	for _, input := range inputs {
		if name := filepath.Base(input); name == "pod.in.yaml" || name == "service.in.yaml" || name == "job-indexed.in.yaml" {
			continue // they show every default, and are no valid objects; pkg/api/core has valid ones
		}
		t.Run(filepath.Base(input), func(t *testing.T) {
			text, err := os.ReadFile(input)
			if err != nil {
				t.Fatal(err)
			}
			decoded, gvk, err := api.StrictYAML.Decode(text, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			k, obj := view.ByKind(*gvk), decoded.(api.Object)
			if obj.GetName() == "" {
				obj.SetName("n")
			}
			if k.Namespaced {
				obj.SetNamespace("default")
			}
			obj.SetUID("1")
			if k.Default != nil {
				k.Default(obj)
			}
			ctx := context.Background()
			k.PrepareCreate(ctx, obj)
			if k.Validate != nil {
				if errs := k.Validate(obj); len(errs) > 0 {
					t.Errorf("new: %v", errs.ToAggregate())
				}
			}
			again := obj.DeepCopyObject().(api.Object)
			k.PrepareUpdate(ctx, again, obj)
			if k.ValidateUpdate != nil {
				if errs := k.ValidateUpdate(again, obj); len(errs) > 0 {
					t.Errorf("unchanged: %v", errs.ToAggregate())
				}
			}
			for name, sub := range k.Subresources {
				if sub.ValidateUpdate == nil {
					continue
				}
				if errs := sub.ValidateUpdate(again, obj); len(errs) > 0 {
					t.Errorf("%s unchanged: %v", name, errs.ToAggregate())
				}
			}
		})
	}
}

// Every stored kind of the groups that are complete has its rules.
func TestKindsAreValidated(t *testing.T) {
	free := map[string]bool{"ServiceAccount": true, "ComponentStatus": true}
	complete := map[string]bool{"": true, "apps": true, "discovery.k8s.io": true, "coordination.k8s.io": true, "rbac.authorization.k8s.io": true}
	for _, k := range Default().View().Kinds() {
		if !complete[k.Group] || k.Virtual || free[k.Kind] {
			continue
		}
		if k.Validate == nil || k.ValidateUpdate == nil {
			t.Errorf("%s has no validation", k.Kind)
		}
		if s := k.Subresources["status"]; s != nil && s.ValidateUpdate == nil && k.Kind != "PersistentVolume" {
			t.Errorf("%s/status has no validation", k.Kind)
		}
	}
}

// Whatever a client sends, validation answers and changes nothing.
func TestValidationOfAnyObject(t *testing.T) {
	for _, k := range Default().View().Kinds() {
		if k.Validate == nil && k.ValidateUpdate == nil && k.Warnings == nil {
			continue
		}
		t.Run(k.GroupVersionResource().String(), func(t *testing.T) {
			asJSON, _ := golden(t, k)
			rapid.Check(t, func(t *rapid.T) { judge(t, k, thinned(t, k, asJSON, "new"), thinned(t, k, asJSON, "old")) })
		})
	}
}

func judge(t *rapid.T, k *api.Kind, obj, old api.Object) {
	if k.Default != nil && rapid.Bool().Draw(t, "defaulted") {
		k.Default(obj)
		k.Default(old)
	}
	before, oldBefore := obj.DeepCopyObject().(api.Object), old.DeepCopyObject().(api.Object)
	named := func(errs field.ErrorList) {
		for _, e := range errs {
			if e.Error() == "" {
				t.Fatalf("an error without text: %#v", e)
			}
		}
	}
	valid := k.Validate == nil || len(k.Validate(obj)) == 0
	if k.ValidateUpdate != nil {
		named(k.ValidateUpdate(obj, old))
	}
	if k.Warnings != nil && valid {
		k.Warnings(obj, nil)
		k.Warnings(obj, old)
	}
	for _, sub := range k.Subresources {
		if sub.ValidateUpdate != nil {
			named(sub.ValidateUpdate(obj, old))
		}
	}
	if !equality.Semantic.DeepEqual(before, obj) || !equality.Semantic.DeepEqual(oldBefore, old) {
		t.Fatal("validation changed an object")
	}
}
