package store

import (
	"fmt"
	"maps"
	"strconv"
	"sync"
	"weak"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"skiff/pkg/api"
)

// Entry is one object at one revision: immutable, shared by everyone who reads it.
// What it was stored as can be had in four ways: decoded as a private copy
// ([Entry.Object], [Entry.As]), decoded and shared ([Entry.Shared]), as the stored protobuf message
// ([Entry.Protobuf]), or in whatever encoding a caller makes once for all ([Entry.Encoding]).
type Entry struct {
	Key      Key
	Kind     *api.Kind // the kind it was decoded as: the stored version
	Revision int64     // of the last write: metadata.resourceVersion
	Labels   labels.Set
	Fields   fields.Set // the kind's selectable fields, metadata.name and .namespace included

	value []byte // as stored, without encryption
	with  string // what it was encrypted with; empty: nothing
	err   error  // why the value can't be read; nil for all sound objects

	budget *budget

	mu        sync.Mutex
	encodings map[string]*encoding
	used      bool // since the last sweep
	shared    weak.Pointer[decoded]
	versions  map[*api.Kind]fields.Set // of custom resources: see fieldsAs
}

type decoded struct{ object api.Object }

// Object decodes a private copy, with its resourceVersion set.
func (e *Entry) Object() (api.Object, error) {
	if e.err != nil {
		return nil, e.err
	}
	obj, err := api.DecodeStored(e.Kind, e.value)
	if err != nil {
		return nil, fmt.Errorf("%s at revision %d: %w", e.Key, e.Revision, err)
	}
	obj.SetResourceVersion(strconv.FormatInt(e.Revision, 10))
	return obj, nil
}

// Shared is Object for those who only read: all callers get the same one, and it must
// not be changed. It is decoded again when memory was needed elsewhere meanwhile.
func (e *Entry) Shared() (api.Object, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if d := e.shared.Value(); d != nil {
		return d.object, nil
	}
	obj, err := e.Object()
	if err != nil {
		return nil, err
	}
	e.shared = weak.Make(&decoded{obj})
	return obj, nil
}

// As decodes a private copy in the version that kind serves. It differs from Object
// for the few kinds that store another version (events, horizontal pod autoscalers).
func (e *Entry) As(kind *api.Kind) (api.Object, error) {
	obj, err := e.Object()
	if err != nil || kind.FromStored == nil || kind == e.Kind {
		return obj, err
	}
	return kind.FromStored(obj)
}

// fieldsAs are the selectable fields of a custom resource in the version of kind.
func (e *Entry) fieldsAs(kind *api.Kind) (fields.Set, error) {
	e.mu.Lock()
	known, ok := e.versions[kind]
	e.mu.Unlock()
	if ok {
		return known, nil
	}
	obj, err := e.As(kind)
	if err != nil {
		return nil, err
	}
	set := kind.SelectableFields(obj)
	maps.Copy(set, e.Fields)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.versions == nil {
		e.versions = map[*api.Kind]fields.Set{}
	}
	e.versions[kind] = set
	return set, nil
}

// describe sets what selectors look at. Labels and fields are copied from obj, which is
// the decoded value and stays the caller's; nil is an object that can't be read.
func (e *Entry) describe(obj api.Object) *Entry {
	if obj != nil {
		e.Labels = maps.Clone(obj.GetLabels())
		if e.Kind.SelectableFields != nil {
			e.Fields = e.Kind.SelectableFields(obj)
		}
	}
	if e.Fields == nil {
		e.Fields = fields.Set{}
	}
	e.Fields["metadata.name"] = e.Key.Name
	if e.Kind.Namespaced {
		e.Fields["metadata.namespace"] = e.Key.Namespace
	}
	return e
}

// at is the same object under another revision: the state that a deletion reports.
func (e *Entry) at(revision int64) *Entry {
	return &Entry{Key: e.Key, Kind: e.Kind, Revision: revision, Labels: e.Labels, Fields: e.Fields,
		value: e.value, with: e.with, err: e.err, budget: e.budget}
}
