package crd

import (
	"context"
	"fmt"
	"math"
	"strings"

	crdv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/model"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	schemavalidation "k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/common"

	"skiff/pkg/api"
)

// compiled is a version's schemas, or why there are none, as a refusal.
func (v *version) compiled() (*schemas, field.ErrorList) {
	s, err := v.schemas()
	if err != nil {
		return nil, field.ErrorList{field.InternalError(nil, err)}
	}
	return s, nil
}

// validate reports what is wrong with a new object beyond its metadata.
func (v *version) validate(obj api.Object) field.ErrorList {
	s, errs := v.compiled()
	if errs != nil {
		return errs
	}
	u := obj.(*unstructured.Unstructured).Object
	errs = append(errs, schemavalidation.ValidateCustomResource(nil, u, s.object)...)
	errs = append(errs, validateScale(v.scale(), u, true)...)
	errs = append(errs, objectmeta.Validate(nil, u, s.structural, false)...)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, s.structural, u)...)
	if obj.GetName() == "" { // which is found elsewhere, and keeps rules from being checked as well
		return append(errs, s.checkRules(field.ErrorList{field.Required(nil, "")}, u, nil)...)
	}
	return append(errs, s.checkRules(errs, u, nil)...)
}

// validateUpdate is more lenient than validate: what was wrong before and hasn't changed may stay (ratcheting).
func (v *version) validateUpdate(obj, old api.Object) field.ErrorList {
	s, errs := v.compiled()
	if errs != nil {
		return errs
	}
	u, before := obj.(*unstructured.Unstructured).Object, old.(*unstructured.Unstructured).Object
	change := common.NewCorrelatedObject(u, before, &model.Structural{Structural: s.structural})
	errs = append(errs, schemavalidation.ValidateCustomResourceUpdate(nil, u, before, s.object, schemavalidation.WithRatcheting(change))...)
	errs = append(errs, validateScale(v.scale(), u, true)...)
	errs = append(errs, objectmeta.Validate(nil, u, s.structural, false)...)
	errs = append(errs, s.checkLists(u, before)...)
	return append(errs, s.checkRules(errs, u, before, cel.WithRatcheting(change))...)
}

// validateStatusUpdate checks the status only, but all rules: they may compare it with the rest.
func (v *version) validateStatusUpdate(obj, old api.Object) field.ErrorList {
	s, errs := v.compiled()
	if errs != nil {
		return errs
	}
	u, before := obj.(*unstructured.Unstructured).Object, old.(*unstructured.Unstructured).Object
	change := common.NewCorrelatedObject(u, before, &model.Structural{Structural: s.structural})
	if status, ok := u["status"]; ok && s.status != nil {
		var options []schemavalidation.ValidationOption
		if s.structural != nil {
			options = append(options, schemavalidation.WithRatcheting(change.Key("status")))
		}
		errs = append(errs, schemavalidation.ValidateCustomResourceUpdate(field.NewPath("status"), status, before["status"], s.status, options...)...)
	}
	errs = append(errs, validateScale(v.scale(), u, false)...)
	errs = append(errs, s.checkLists(u, before)...)
	return append(errs, s.checkRules(errs, u, before, cel.WithRatcheting(change))...)
}

// checkLists holds lists that are sets or maps to it, unless they were no such before.
func (s *schemas) checkLists(u, before map[string]any) field.ErrorList {
	if len(listtype.ValidateListSetsAndMaps(nil, s.structural, before)) > 0 {
		return nil
	}
	return listtype.ValidateListSetsAndMaps(nil, s.structural, u)
}

// checkRules evaluates the CEL rules, if errs leave a sound object to do so on.
func (s *schemas) checkRules(errs field.ErrorList, u, before map[string]any, options ...cel.Option) field.ErrorList {
	rules := s.rules()
	if rules == nil {
		return nil
	}
	for _, err := range errs {
		switch err.Type {
		case field.ErrorTypeNotSupported, field.ErrorTypeRequired, field.ErrorTypeTooLong, field.ErrorTypeTooMany, field.ErrorTypeTypeInvalid:
			return field.ErrorList{field.Invalid(nil, nil, "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation")}
		}
	}
	var old any
	if before != nil {
		old = before
	}
	failed, _ := rules.Validate(context.Background(), nil, s.structural, u, old, celconfig.RuntimeCELCostBudget, options...)
	return failed
}

// validateScale checks the fields that the scale subresource shows; spec says whether its count is looked at.
func validateScale(scale *crdv1.CustomResourceSubresourceScale, u map[string]any, spec bool) field.ErrorList {
	if scale == nil {
		return nil
	}
	var errs field.ErrorList
	if spec {
		errs = append(errs, validateCount(u, scale.SpecReplicasPath)...)
	}
	errs = append(errs, validateCount(u, scale.StatusReplicasPath)...)
	if scale.LabelSelectorPath != nil {
		if selector, _, err := unstructured.NestedString(u, steps(*scale.LabelSelectorPath)...); err != nil {
			errs = append(errs, field.Invalid(field.NewPath(*scale.LabelSelectorPath), selector, err.Error()))
		}
	}
	return errs
}

func validateCount(u map[string]any, path string) field.ErrorList {
	count, _, err := unstructured.NestedInt64(u, steps(path)...)
	detail := ""
	switch {
	case err != nil:
		detail = err.Error()
	case count < 0:
		detail = "should be a non-negative integer"
	case count > math.MaxInt32:
		detail = fmt.Sprintf("should be less than or equal to %v", math.MaxInt32)
	default:
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath(path), count, detail)}
}

// steps are the fields that a simple JSON path (".spec.replicas") leads through.
func steps(path string) []string { return strings.Split(strings.TrimPrefix(path, "."), ".") }
