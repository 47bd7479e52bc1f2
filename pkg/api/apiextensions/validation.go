package apiextensions

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	crdv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	schemavalidation "k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"skiff/pkg/api"
)

// internal is the definition in the form that Kubernetes' validation works on.
func internal(obj api.Object) (*apiextensions.CustomResourceDefinition, error) {
	out := &apiextensions.CustomResourceDefinition{}
	in := obj.(*crdv1.CustomResourceDefinition).DeepCopy() // the conversion shares memory
	err := crdv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(in, out, nil)
	return out, err
}

func unreadable(err error) field.ErrorList {
	return field.ErrorList{field.InternalError(field.NewPath("spec"), err)}
}

func validate(obj api.Object) field.ErrorList {
	crd, err := internal(obj)
	if err != nil {
		return unreadable(err)
	}
	return own(validation.ValidateCustomResourceDefinition(context.Background(), crd))
}

func validateUpdate(obj, old api.Object) field.ErrorList {
	return validateChange(obj, old, func(crd, before *apiextensions.CustomResourceDefinition) field.ErrorList {
		return validation.ValidateCustomResourceDefinitionUpdate(context.Background(), crd, before)
	})
}

func validateStatusUpdate(obj, old api.Object) field.ErrorList {
	return validateChange(obj, old, validation.ValidateUpdateCustomResourceDefinitionStatus)
}

func validateChange(obj, old api.Object, check func(crd, before *apiextensions.CustomResourceDefinition) field.ErrorList) field.ErrorList {
	crd, err := internal(obj)
	if err != nil {
		return unreadable(err)
	}
	before, err := internal(old)
	if err != nil {
		return unreadable(err)
	}
	return own(check(crd, before))
}

// own leaves out what [api.ValidateMeta] says already: of metadata, only names and the annotation of approval
// have rules of their own here.
func own(errs field.ErrorList) field.ErrorList {
	return slices.DeleteFunc(errs, func(e *field.Error) bool {
		named := (e.Field == "metadata.name" || e.Field == "metadata.generateName") && e.Type != field.ErrorTypeRequired
		return strings.HasPrefix(e.Field, "metadata.") && !named && !strings.Contains(e.Field, crdv1.KubeAPIApprovedAnnotation)
	})
}

// warnings tell of formats that nobody checks, if they are new.
func warnings(obj, old api.Object) []string {
	known := map[string]bool{}
	if old != nil {
		for _, format := range unknownFormats(old) {
			known[format] = true
		}
	}
	var texts []string
	for _, format := range unknownFormats(obj) {
		if !known[format] {
			texts = append(texts, fmt.Sprintf("unrecognized format %q", format))
		}
	}
	return texts
}

func unknownFormats(obj api.Object) []string {
	crd, err := internal(obj)
	if err != nil {
		return nil
	}
	var formats []string
	look := func(v *apiextensions.CustomResourceValidation) {
		if v == nil || v.OpenAPIV3Schema == nil {
			return
		}
		validation.SchemaHas(v.OpenAPIV3Schema, func(s *apiextensions.JSONSchemaProps) bool {
			if s.Format != "" {
				one := &spec.Schema{SchemaProps: spec.SchemaProps{Format: s.Format, Type: []string{s.Type}}}
				formats = append(formats, schemavalidation.GetUnrecognizedFormats(one, environment.DefaultCompatibilityVersion())...)
			}
			return false // go on
		})
	}
	look(crd.Spec.Validation)
	for i := range crd.Spec.Versions {
		look(crd.Spec.Versions[i].Schema)
	}
	return formats
}
