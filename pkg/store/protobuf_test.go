package store

import (
	"bytes"
	"math"
	"math/rand"
	"reflect"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/randfill"

	"skiff/pkg/api"
)

type message interface {
	api.Object
	Marshal() ([]byte, error)
	Unmarshal([]byte) error
}

// Every kind of the scheme, filled at random: the stored message with a revision appended decodes to the object with that revision.
func TestProtobufHoldsForEveryKind(t *testing.T) {
	kinds := 0
	for gvk, typ := range api.Scheme.AllKnownTypes() {
		obj, ok := reflect.New(typ).Interface().(message)
		if !ok {
			continue
		}
		kinds++
		kind := &api.Kind{GroupVersionKind: gvk, Resource: gvk.Kind, StoragePath: gvk.Kind,
			New: func() api.Object { return reflect.New(typ).Interface().(api.Object) }}
		for seed := range int64(5) {
			filler().RandSource(rand.NewSource(seed)).Fill(obj)
			obj.SetResourceVersion([]string{"", "77"}[seed%2])
			value, err := api.EncodeStored(kind, obj)
			if err != nil {
				t.Fatalf("%s: %v", gvk, err)
			}
			e := &Entry{Kind: kind, Revision: 9_000_000_000, value: value}
			got := reflect.New(typ).Interface().(message)
			stored, ok := e.Protobuf()
			if err := got.Unmarshal(AppendRevision(slices.Clone(stored), e.Revision)); err != nil || !ok {
				t.Fatalf("%s: %v, %v", gvk, ok, err)
			}
			want, err := e.Object()
			if err != nil {
				t.Fatalf("%s: %v", gvk, err)
			}
			want.GetObjectKind().SetGroupVersionKind(got.GetObjectKind().GroupVersionKind())
			if !reflect.DeepEqual(got, want) || got.GetResourceVersion() != "9000000000" {
				t.Fatalf("%s differs:\n%v\n%v", gvk, got, want)
			}
			again, err := got.Marshal()
			direct, err2 := want.(message).Marshal()
			if err != nil || err2 != nil || !bytes.Equal(again, direct) {
				t.Errorf("%s encodes differently once merged", gvk)
			}
		}
	}
	if size := len(AppendRevision(nil, math.MaxInt64)); size > RevisionSize {
		t.Errorf("a revision takes %d bytes", size)
	}
	if kinds < 60 {
		t.Errorf("only %d kinds were tried", kinds)
	}
}

func filler() *randfill.Filler {
	return randfill.New().NilChance(.3).NumElements(0, 3).MaxDepth(12).Funcs(
		func(f *metav1.FieldsV1, c randfill.Continue) { f.Raw = []byte(`{"f:metadata":{}}`) },
		func(t *metav1.Time, c randfill.Continue) { *t = metav1.Unix(c.Int63n(2e9), 0).Rfc3339Copy() },
		func(t *metav1.MicroTime, c randfill.Continue) {
			*t = metav1.NewMicroTime(metav1.Unix(c.Int63n(2e9), 0).Time)
		},
		func(r *runtime.RawExtension, c randfill.Continue) { r.Raw = []byte(`{"a":1}`); r.Object = nil },
	)
}

// Arbitrary bytes are refused or cut, never a panic.
func FuzzProtobufMessage(f *testing.F) {
	f.Add([]byte("k8s\x00\x0a\x00\x12\x03abc"))
	f.Add([]byte("k8s\x00\x12\xff\xff\xff\xff\x0f"))
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, value []byte) {
		var unknown runtime.Unknown
		raw, ok := protobufMessage(value)
		if !ok || unknown.Unmarshal(value[len(protobufMagic):]) != nil {
			return
		}
		if !bytes.Equal(raw, unknown.Raw) && bytes.Count(value, []byte{0x12}) == 1 {
			t.Errorf("%x holds %x, not %x", value, unknown.Raw, raw)
		}
	})
}
