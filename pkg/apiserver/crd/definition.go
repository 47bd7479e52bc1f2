package crd

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	crdv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/hookclient"
)

// definition is a CustomResourceDefinition as it is served. It is made anew when its spec or its
// accepted names change, and immutable else. Schemas are compiled when they are needed.
type definition struct {
	spec      crdv1.CustomResourceDefinitionSpec // not to be changed
	names     crdv1.CustomResourceDefinitionNames
	versions  map[string]*version
	stored    *api.Kind // the row as which etcd's objects are decoded
	converter converter
	types     func() (managedfields.TypeConverter, error)
}

// version is one version of a definition.
type version struct {
	*crdv1.CustomResourceDefinitionVersion
	of      *definition
	schemas func() (*schemas, error)
}

// served says whether a definition has names that are its own.
func served(crd *crdv1.CustomResourceDefinition) bool {
	return crd.Status.AcceptedNames.Plural != "" &&
		(apihelpers.IsCRDConditionTrue(crd, crdv1.NamesAccepted) || apihelpers.IsCRDConditionTrue(crd, crdv1.Established))
}

// newDefinition makes what is served of a definition whose names are accepted. crd must not be changed afterwards.
func newDefinition(crd *crdv1.CustomResourceDefinition, services hookclient.Resolver) (*definition, error) {
	d := &definition{spec: crd.Spec, names: crd.Status.AcceptedNames, versions: map[string]*version{}}
	storage, err := apihelpers.GetCRDStorageVersion(crd)
	if err != nil {
		return nil, err
	}
	for i := range d.spec.Versions {
		v := &version{CustomResourceDefinitionVersion: &d.spec.Versions[i], of: d}
		v.schemas = sync.OnceValues(v.compile)
		d.versions[v.Name] = v
	}
	if d.converter, err = newConverter(crd, services); err != nil {
		return nil, err
	}
	d.types = sync.OnceValues(d.typeConverter)
	d.stored = d.storedRow(storage)
	return d, nil
}

// same says that d is what is served of crd.
func (d *definition) same(crd *crdv1.CustomResourceDefinition) bool {
	return equality.Semantic.DeepEqual(d.spec, crd.Spec) && equality.Semantic.DeepEqual(d.names, crd.Status.AcceptedNames)
}

func (d *definition) kind(version string) schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: d.spec.Group, Version: version, Kind: d.names.Kind}
}

// version finds the version of an object.
func (d *definition) version(gvk schema.GroupVersionKind) (*version, error) {
	v := d.versions[gvk.Version]
	if v == nil || gvk.Group != d.spec.Group {
		return nil, fmt.Errorf("request to convert CR from an invalid group/version: %s", gvk.GroupVersion())
	}
	return v, nil
}

// errSchema is what clients see of a schema that can't be used; validation of definitions should
// keep such ones out.
var errSchema = errors.New("the server could not properly serve the CR schema")

// internalSchema is a version's schema in the form that Kubernetes' packages work on; nil if there is none.
func (v *version) internalSchema() (*apiextensions.JSONSchemaProps, error) {
	if v.Schema == nil || v.Schema.OpenAPIV3Schema == nil {
		return nil, nil
	}
	out := &apiextensions.CustomResourceValidation{}
	if err := crdv1.Convert_v1_CustomResourceValidation_To_apiextensions_CustomResourceValidation(v.Schema.DeepCopy(), out, nil); err != nil {
		return nil, fmt.Errorf("%w: %w", errSchema, err)
	}
	return out.OpenAPIV3Schema, nil
}

func (v *version) hasStatus() bool { return v.Subresources != nil && v.Subresources.Status != nil }

func (v *version) scale() *crdv1.CustomResourceSubresourceScale {
	if v.Subresources == nil {
		return nil
	}
	return v.Subresources.Scale
}

// servedVersions are those that clients can ask for, in the order of the definition.
func (d *definition) servedVersions() []*version {
	var all []*version
	for i := range d.spec.Versions {
		if v := d.versions[d.spec.Versions[i].Name]; v.Served {
			all = append(all, v)
		}
	}
	return slices.Clip(all)
}
