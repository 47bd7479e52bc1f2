package catalogue

import (
	"context"
	"testing"

	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/pkg/api"
)

// Boat is a kind that nobody but its row knows.
type Boat struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              BoatSpec   `json:"spec"`
	Status            BoatStatus `json:"status"`
}

type BoatSpec struct {
	Sails int32 `json:"sails"`
}

type BoatStatus struct {
	Afloat bool `json:"afloat"`
}

func (b *Boat) DeepCopyObject() runtime.Object {
	out := *b
	b.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	return &out
}

type BoatList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []Boat `json:"items"`
}

func (l *BoatList) DeepCopyObject() runtime.Object {
	out := *l
	out.Items = nil
	for i := range l.Items {
		out.Items = append(out.Items, *l.Items[i].DeepCopyObject().(*Boat))
	}
	return &out
}

// boatKind is all that adding a kind takes.
func boatKind() *api.Kind {
	return api.Define[Boat, BoatList](schema.GroupVersion{Group: "sea.example", Version: "v1"}, "boats", api.Kind{
		ShortNames:     []string{"bo"},
		Namespaced:     true,
		StoragePath:    "sea.example/boats",
		StoredAsJSON:   true,
		HasGeneration:  true,
		NameValidation: validation.NameIsDNSLabel,
		Default: func(obj api.Object) {
			if s := &obj.(*Boat).Spec; s.Sails == 0 {
				s.Sails = 2
			}
		},
		SelectableFields: func(obj api.Object) fields.Set { return fields.Set{"metadata.uid": string(obj.GetUID())} },
		Subresources: map[string]*api.Subresource{
			"status": api.StatusView(),
			"scale": api.ScaleView(api.Scale{
				Get: func(obj api.Object) (int32, int32, string) { return obj.(*Boat).Spec.Sails, 0, "" },
				Set: func(obj api.Object, n int32) { obj.(*Boat).Spec.Sails = n },
			}),
		},
		Columns: api.Columns("Name, Sails#, +Afloat?"),
		Cells: func(obj api.Object) []any {
			b := obj.(*Boat)
			return []any{b.Name, int64(b.Spec.Sails), b.Status.Afloat}
		},
	})
}

// A new kind is one row: names, storage, lifecycle, validation and table follow from it.
func TestToyKind(t *testing.T) {
	c, k, ctx := Default(), boatKind(), context.Background()
	before := c.View()
	if err := c.Add(k); err != nil {
		t.Fatal(err)
	}
	view := c.View()
	if view.ByResource(k.GroupVersionResource()) != k || view.ByKind(k.GroupVersionKind) != k || before.ByKind(k.GroupVersionKind) != nil {
		t.Fatal("the row isn't found, or a view has changed")
	}
	if k.Kind != "Boat" || k.Singular != "boat" || k.Subresources["status"].Kind != "Boat" || k.Subresources["scale"].Kind != "Scale" {
		t.Errorf("derived names: %+v", k)
	}
	groups := view.Groups()
	if last := groups[len(groups)-1]; last.Name != "sea.example" {
		t.Errorf("a custom group must come last, not before %v", last)
	}

	boat := k.New().(*Boat)
	boat.Name, boat.Namespace, boat.UID, boat.Status.Afloat = "annie", "harbour", "1", true
	k.Default(boat)
	k.PrepareCreate(ctx, boat)
	if boat.Generation != 1 || boat.Status.Afloat || boat.Spec.Sails != 2 {
		t.Errorf("created as %+v", boat)
	}
	if errs := api.ValidateMeta(k, boat, nil); len(errs) > 0 {
		t.Error(errs)
	}
	value, err := api.EncodeStored(k, boat)
	if err != nil {
		t.Fatal(err)
	}
	read, err := api.DecodeStored(k, value)
	if err != nil {
		t.Fatal(err)
	}
	if got := read.(*Boat); got.Spec != boat.Spec || got.Kind != "Boat" || got.UID != "1" {
		t.Errorf("stored %s, read %+v", value, got)
	}

	reefed := boat.DeepCopyObject().(*Boat)
	k.Subresources["scale"].Scale.Set(reefed, 1)
	reefed.Status.Afloat = true
	k.PrepareUpdate(ctx, reefed, boat)
	if reefed.Generation != 2 || reefed.Status.Afloat || reefed.Spec.Sails != 1 {
		t.Errorf("updated to %+v", reefed)
	}
	launched := reefed.DeepCopyObject().(*Boat)
	launched.Spec.Sails, launched.Status.Afloat = 9, true
	k.Subresources["status"].PrepareForUpdate(ctx, launched, reefed)
	if launched.Generation != 2 || !launched.Status.Afloat || launched.Spec.Sails != 1 {
		t.Errorf("status written as %+v", launched)
	}

	table, err := api.MakeTable(k, metav1.IncludeMetadata, launched)
	if err != nil {
		t.Fatal(err)
	}
	if cells := table.Rows[0].Cells; len(cells) != 3 || cells[0] != "annie" || cells[1] != int64(1) || cells[2] != true {
		t.Errorf("cells %v", cells)
	}
	if partial := table.Rows[0].Object.Object.(*metav1.PartialObjectMetadata); partial.Name != "annie" || partial.Kind != "PartialObjectMetadata" {
		t.Errorf("object %+v", partial)
	}
}
