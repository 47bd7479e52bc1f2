package crd

import (
	"errors"
	"fmt"
	"maps"

	crdv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/pkg/api"
	"skiff/pkg/apiserver/hookclient"
	"skiff/pkg/apiserver/request"
)

// converter makes objects of another version. It may change the object given, which is of a
// version of the definition, but not of the one wanted.
type converter interface {
	convert(u *unstructured.Unstructured, to schema.GroupVersion) (*unstructured.Unstructured, error)
}

func newConverter(crd *crdv1.CustomResourceDefinition, services hookclient.Resolver) (converter, error) {
	c := crd.Spec.Conversion
	switch {
	case c == nil || c.Strategy == crdv1.NoneConverter:
		return renaming{}, nil
	case c.Strategy == crdv1.WebhookConverter:
		return newWebhook(crd, services)
	}
	return nil, fmt.Errorf("unknown conversion strategy %q for CRD %s", c.Strategy, crd.Name)
}

// renaming is the conversion that changes nothing but the version's name.
type renaming struct{}

func (renaming) convert(u *unstructured.Unstructured, to schema.GroupVersion) (*unstructured.Unstructured, error) {
	u.SetAPIVersion(to.String())
	return u, nil
}

// convert makes obj one of a version, and gives it that version's schema. obj may be changed.
func (d *definition) convert(obj api.Object, version string) (api.Object, error) {
	u := obj.(*unstructured.Unstructured)
	gvk := u.GroupVersionKind()
	if _, err := d.version(gvk); err != nil {
		return nil, err
	}
	to := schema.GroupVersion{Group: d.spec.Group, Version: version}
	if _, err := d.version(to.WithKind(gvk.Kind)); err != nil {
		return nil, err
	}
	if gvk.Version == version {
		return u, nil
	}
	out, err := d.converter.convert(u, to)
	if err != nil {
		return nil, request.Plain(errors.New(err.Error())) // without the status that a webhook has answered
	}
	_, err = d.coerce(out, coercion{})
	return out, err
}

// convertCopy is convert that leaves obj as it is.
func (d *definition) convertCopy(obj api.Object, version string) (api.Object, error) {
	return d.convert(obj.DeepCopyObject().(api.Object), version)
}

// toStored makes obj one of the storage version, within its schema whatever admission has added. It shares
// memory with obj.
func (d *definition) toStored(obj api.Object) (api.Object, error) {
	u := &unstructured.Unstructured{Object: maps.Clone(obj.(*unstructured.Unstructured).Object)}
	if u.GroupVersionKind().Version != d.stored.Version {
		return d.convertCopy(u, d.stored.Version)
	}
	_, err := d.coerce(u, coercion{})
	return u, err
}
