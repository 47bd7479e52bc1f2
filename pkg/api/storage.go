package api

import (
	"bytes"
	"encoding/json"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// envelope is what Kubernetes puts before a runtime.Unknown in protobuf.
// https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding
var envelope = []byte("k8s\x00")

// EncodeStored encodes obj, which is of k's stored version, as etcd holds it: with apiVersion and
// kind, without resourceVersion (that is the key's revision). obj is changed during the call and
// then restored, so nobody else may use it meanwhile.
//
// A custom resource is stored as what it says it is: while its definition is being replaced by one that stores another version, it
// may have been made by the old one, and under the new version's name it would lose its fields.
func EncodeStored(k *Kind, obj Object) ([]byte, error) {
	revision, link, gvk := obj.GetResourceVersion(), obj.GetSelfLink(), obj.GetObjectKind().GroupVersionKind()
	defer func() {
		obj.SetResourceVersion(revision)
		obj.SetSelfLink(link)
		obj.GetObjectKind().SetGroupVersionKind(gvk)
	}()
	obj.SetResourceVersion("")
	obj.SetSelfLink("")
	if stored := k.envelopeKind(); k.Custom == nil || gvk.GroupKind() != stored.GroupKind() || gvk.Version == "" {
		obj.GetObjectKind().SetGroupVersionKind(stored)
	}

	var out bytes.Buffer
	var codec runtime.Encoder = Protobuf
	if k.StoredAsJSON {
		codec = JSON
	}
	if err := codec.Encode(obj, &out); err != nil {
		return nil, fmt.Errorf("encoding %s %s/%s for storage: %w", k.Resource, obj.GetNamespace(), obj.GetName(), err)
	}
	return out.Bytes(), nil
}

// DecodeStored decodes what etcd holds into a new object of k's type, which must be the
// stored version. Its apiVersion and kind are set, its resourceVersion is left to the caller.
func DecodeStored(k *Kind, data []byte) (Object, error) {
	if k.Custom != nil && k.Custom.Decode != nil {
		obj, err := k.Custom.Decode(data)
		if err != nil {
			return nil, fmt.Errorf("decoding stored %s: %w", k.Resource, err)
		}
		return obj, nil
	}
	obj, err := older(k, data)
	if err == nil && obj == nil {
		obj = k.New()
		err = decodeInto(k, data, obj)
	}
	if err != nil {
		return nil, fmt.Errorf("decoding stored %s: %w", k.Resource, err)
	}
	obj.GetObjectKind().SetGroupVersionKind(k.StoredKind())
	if k.Decoded != nil {
		k.Decoded(obj)
	}
	return obj, nil
}

// AsStored is obj as it would be read after it was stored, which is what a dry run promises: protobuf doesn't tell an empty
// list from none, and another version may not hold everything.
func AsStored(k *Kind, obj Object) (Object, error) {
	if k.ToStored != nil {
		stored, err := k.ToStored(obj)
		if err != nil {
			return nil, err
		}
		return k.FromStored(stored)
	}
	if k.StoredAsJSON {
		return obj, nil
	}
	data, err := EncodeStored(k, obj)
	if err != nil {
		return nil, err
	}
	stored, err := DecodeStored(k, data)
	if err != nil {
		return nil, err
	}
	stored.SetResourceVersion(obj.GetResourceVersion())
	return stored, nil
}

// older is the object if it is stored in another version that the kind can read, else nil.
func older(k *Kind, data []byte) (Object, error) {
	if k.Older == nil || bytes.HasPrefix(data, envelope) {
		return nil, nil
	}
	var head metav1.TypeMeta
	if err := json.Unmarshal(data, &head); err != nil {
		return nil, fmt.Errorf("neither protobuf envelope nor JSON: %w", err)
	}
	gvk := head.GroupVersionKind()
	if gvk == k.StoredKind() || gvk.GroupKind() != k.StoredKind().GroupKind() {
		return nil, nil
	}
	return k.Older(gvk.Version, data)
}

func decodeInto(k *Kind, data []byte, obj Object) error {
	body, ok := bytes.CutPrefix(data, envelope)
	if !ok {
		return decodeJSON(k, data, obj)
	}
	var unknown runtime.Unknown
	if err := unknown.Unmarshal(body); err != nil {
		return fmt.Errorf("envelope: %w", err)
	}
	if err := k.readable(unknown.APIVersion, unknown.Kind); err != nil {
		return err
	}
	message, ok := obj.(interface{ Unmarshal([]byte) error })
	if !ok {
		return fmt.Errorf("%T has no protobuf form", obj)
	}
	return message.Unmarshal(unknown.Raw)
}

func decodeJSON(k *Kind, data []byte, obj Object) error {
	var head struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return fmt.Errorf("neither protobuf envelope nor JSON: %w", err)
	}
	if err := k.readable(head.APIVersion, head.Kind); err != nil {
		return err
	}
	if u, ok := obj.(runtime.Unstructured); ok {
		return u.(json.Unmarshaler).UnmarshalJSON(data)
	}
	_, _, err := JSON.Decode(data, nil, obj)
	return err
}

// readable refuses an encoding in a version that k's Go type doesn't describe.
func (k *Kind) readable(apiVersion, kind string) error {
	got := schema.FromAPIVersionAndKind(apiVersion, kind)
	if got == k.StoredKind() || got == k.envelopeKind() {
		return nil
	}
	return fmt.Errorf("stored as %s, Kind=%s: only %s can be read", apiVersion, kind, k.StoredKind())
}

func (k *Kind) envelopeKind() schema.GroupVersionKind {
	gvk := k.StoredKind()
	if k.StorageVersion != "" {
		gvk.Version = k.StorageVersion
	}
	return gvk
}
