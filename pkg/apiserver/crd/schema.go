package crd

import (
	"fmt"
	"sync"

	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	schemavalidation "k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	celconfig "k8s.io/apiserver/pkg/apis/cel"

	"skiff/pkg/api"
)

// schemas are what a version's schema was compiled to. Without a schema, structural is nil.
type schemas struct {
	structural *structural.Structural
	object     schemavalidation.SchemaValidator
	status     schemavalidation.SchemaValidator // nil: the status may be anything
	rules      func() *cel.Validator            // nil: there are none
}

func (v *version) compile() (*schemas, error) {
	props, err := v.internalSchema()
	if err != nil {
		return nil, err
	}
	s := &schemas{}
	if props != nil {
		s.structural, err = structural.NewStructural(props)
		if err == nil && !v.of.spec.PreserveUnknownFields {
			s.structural = s.structural.DeepCopy() // defaults are shared, and pruned now
			err = defaulting.PruneDefaults(s.structural)
		}
		if err != nil && !v.of.spec.PreserveUnknownFields {
			return nil, fmt.Errorf("%w: %w", errSchema, err)
		}
		if status, ok := props.Properties["status"]; ok && v.hasStatus() {
			if s.status, _, err = schemavalidation.NewSchemaValidator(&status); err != nil {
				return nil, fmt.Errorf("%w: %w", errSchema, err)
			}
		}
	}
	if s.object, _, err = schemavalidation.NewSchemaValidator(props); err != nil {
		return nil, fmt.Errorf("%w: %w", errSchema, err)
	}
	s.rules = sync.OnceValue(func() *cel.Validator { return cel.NewValidator(s.structural, true, celconfig.PerCallLimit) })
	return s, nil
}

// setDefaults fills in the defaults of the object's own version.
func (d *definition) setDefaults(obj api.Object) {
	u := obj.(*unstructured.Unstructured)
	v, err := d.version(u.GroupVersionKind())
	if err != nil {
		return
	}
	if s, err := v.schemas(); err == nil {
		defaulting.Default(u.Object, s.structural)
	}
}

// decode reads what etcd holds, in whatever version.
func (d *definition) decode(data []byte) (api.Object, error) {
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(data); err != nil {
		return nil, err
	}
	if _, err := d.coerce(u, coercion{stored: true}); err != nil {
		return nil, err
	}
	d.setDefaults(u)
	return u, nil
}

func (d *definition) coerceRequest(obj api.Object, report bool) ([]string, error) {
	u := obj.(*unstructured.Unstructured)
	if gvk := u.GroupVersionKind(); gvk.Group != d.spec.Group || d.versions[gvk.Version] == nil || gvk.Kind != d.names.Kind {
		return nil, nil // whoever decodes it refuses it
	}
	return d.coerce(u, coercion{report: report})
}

// coercion is how [definition.coerce] goes about it.
type coercion struct {
	stored bool // malformed metadata is dropped, not refused: it may be older than its validation
	report bool // return the paths of what isn't in the schema
}

// coerce does to an unstructured object what decoding does to a Go type: metadata gets its types,
// unknown fields go, and so do nulls where a field can't be null and has no default.
func (d *definition) coerce(u *unstructured.Unstructured, how coercion) (unknown []string, err error) {
	gvk := u.GroupVersionKind()
	v, err := d.version(gvk)
	if err != nil {
		return nil, err
	}
	s, err := v.schemas()
	if err != nil {
		return nil, err
	}
	meta, hasMeta, unknown, err := objectmeta.GetObjectMetaWithOptions(u.Object, objectmeta.ObjectMetaOptions{
		DropMalformedFields: how.stored, ReturnUnknownFieldPaths: how.report,
	})
	if err != nil {
		return nil, err
	}
	if !d.spec.PreserveUnknownFields {
		unknown = append(unknown, pruning.PruneWithOptions(u.Object, s.structural, true, structural.UnknownFieldPathOptions{TrackUnknownFieldPaths: how.report})...)
		defaulting.PruneNonNullableNullsWithoutDefaults(u.Object, s.structural)
	}
	problem, more := objectmeta.CoerceWithOptions(nil, u.Object, s.structural, false, objectmeta.CoerceOptions{
		DropInvalidFields: how.stored, ReturnUnknownFieldPaths: how.report,
	})
	if problem != nil {
		return nil, problem
	}
	unknown = append(unknown, more...)
	u.SetGroupVersionKind(gvk)
	if !hasMeta {
		return unknown, nil
	}
	if how.stored && meta.Generation == 0 {
		meta.Generation = 1 // very old objects have none
	}
	return unknown, objectmeta.SetObjectMeta(u.Object, meta)
}
