package crd

import (
	"context"
	"fmt"
	"maps"
	"strings"

	corev1 "k8s.io/api/core/v1"
	crdv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/sets"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	k8sversion "k8s.io/apimachinery/pkg/version"

	"skiff/pkg/api"
)

// rows are the catalogue's rows of a definition, one per served version. terminating says that
// the definition is being deleted.
func (d *definition) rows(terminating bool) []*api.Kind {
	var rows []*api.Kind
	for _, v := range d.servedVersions() {
		rows = append(rows, v.row(terminating))
	}
	return rows
}

func (v *version) row(terminating bool) *api.Kind {
	d := v.of
	columns, cells := table(v.AdditionalPrinterColumns)
	return api.DefineCustom(d.kind(v.Name), d.names.Plural, api.Kind{
		Singular: d.names.Singular, ListKind: d.names.ListKind, ShortNames: d.names.ShortNames, Categories: d.names.Categories,
		Namespaced:       d.spec.Scope == crdv1.NamespaceScoped,
		HasGeneration:    true,
		AnyFinalizer:     true,
		NameValidation:   validation.NameIsDNSSubdomain,
		Default:          d.setDefaults,
		Validate:         v.validate,
		ValidateUpdate:   v.validateUpdate,
		Warnings:         finalizerWarnings,
		Subresources:     v.subresources(),
		SelectableFields: selectableFields(v.SelectableFields),
		Columns:          columns,
		Cells:            cells,
		ToStored:         d.toStored,
		FromStored:       func(obj api.Object) (api.Object, error) { return d.convert(obj, v.Name) },
		OpenAPI:          v.describe,
		Types:            func() (managedfields.TypeConverter, error) { return d.types() },
		Custom: &api.Custom{
			Stored: d.stored, Coerce: d.coerceRequest, Convert: d.convertCopy,
			Warnings: v.warnings(), Terminating: terminating,
		},
	})
}

// storedRow is the row of etcd's objects: they stay in the versions that they were written in.
func (d *definition) storedRow(version string) *api.Kind {
	return api.DefineCustom(d.kind(version), d.names.Plural, api.Kind{
		ListKind: d.names.ListKind, Namespaced: d.spec.Scope == crdv1.NamespaceScoped,
		Custom: &api.Custom{Decode: d.decode},
	})
}

func (v *version) subresources() map[string]*api.Subresource {
	subs := map[string]*api.Subresource{}
	if v.hasStatus() {
		subs["status"] = &api.Subresource{KeepsMeta: true, PrepareForUpdate: keepMetadata, ValidateUpdate: v.validateStatusUpdate}
	}
	if v.scale() != nil {
		subs["scale"] = api.ScaleView(v.scaleView())
	}
	return subs
}

// keepMetadata is the rule of the status subresource: it changes no metadata but the record of who owns what.
func keepMetadata(_ context.Context, obj, old api.Object) {
	u, before := obj.(*unstructured.Unstructured), old.(*unstructured.Unstructured)
	owners := u.GetManagedFields()
	metadata, _ := before.Object["metadata"].(map[string]any)
	u.Object["metadata"] = runtime.DeepCopyJSON(maps.Clone(metadata))
	u.SetManagedFields(owners)
}

// warnings of a version that is on its way out.
func (v *version) warnings() []string {
	if !v.Deprecated {
		return nil
	}
	if v.DeprecationWarning != nil {
		return []string{*v.DeprecationWarning}
	}
	text := fmt.Sprintf("%s/%s %s is deprecated", v.of.spec.Group, v.Name, v.of.names.Kind)
	instead := ""
	for _, other := range v.of.servedVersions() {
		if !other.Deprecated && k8sversion.CompareKubeAwareVersionStrings(v.Name, other.Name) < 0 &&
			(instead == "" || k8sversion.CompareKubeAwareVersionStrings(instead, other.Name) < 0) {
			instead = other.Name
		}
	}
	if instead != "" {
		text += fmt.Sprintf("; use %s/%s %s", v.of.spec.Group, instead, v.of.names.Kind)
	}
	return []string{text}
}

var standardFinalizers = sets.New(metav1.FinalizerOrphanDependents, metav1.FinalizerDeleteDependents, string(corev1.FinalizerKubernetes))

// finalizerWarnings advise about the names of new finalizers.
func finalizerWarnings(obj, old api.Object) []string {
	added := sets.New(obj.GetFinalizers()...)
	if old != nil {
		added.Delete(old.GetFinalizers()...)
	}
	var texts []string
	for _, name := range sets.List(added) {
		head := fmt.Sprintf("metadata.finalizers: %q: ", name)
		for _, problem := range utilvalidation.IsQualifiedName(name) {
			texts = append(texts, head+problem)
		}
		switch {
		case strings.Contains(name, "/") || standardFinalizers.Has(name):
		case strings.Contains(name, "."):
			texts = append(texts, head+"prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other finalizer writers")
		default:
			texts = append(texts, head+"prefer a domain-qualified finalizer name to avoid accidental conflicts with other finalizer writers")
		}
	}
	return texts
}
