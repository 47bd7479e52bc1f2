package crd

import (
	"bytes"
	"fmt"
	"slices"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	crdv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apimachinery/pkg/api/equality"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/util/cert"
)

// settle returns crd with the conditions that it should have, given all definitions of its group and whether
// it is served here, or nil when it has them already. crd is only read.
func settle(crd *crdv1.CustomResourceDefinition, group []*crdv1.CustomResourceDefinition, serving bool) *crdv1.CustomResourceDefinition {
	next := crd.DeepCopy()
	acceptNames(next, group)
	establish(next, serving)
	judgeSchema(next)
	judgeApproval(next)
	if equality.Semantic.DeepEqual(next.Status, crd.Status) {
		return nil
	}
	return next
}

// set changes a condition unless it says that already.
func set(crd *crdv1.CustomResourceDefinition, c crdv1.CustomResourceDefinitionCondition) {
	if !apihelpers.IsCRDConditionEquivalent(&c, apihelpers.FindCRDCondition(crd, c.Type)) {
		apihelpers.SetCRDCondition(crd, c)
	}
}

// taken are the names that the definitions of a group have.
type taken struct{ resources, kinds sets.Set[string] }

func takenIn(group []*crdv1.CustomResourceDefinition) taken {
	t := taken{sets.New[string](), sets.New[string]()}
	for _, crd := range group {
		names := crd.Status.AcceptedNames
		t.resources.Insert(names.Plural, names.Singular)
		t.resources.Insert(names.ShortNames...)
		t.kinds.Insert(names.Kind, names.ListKind)
	}
	return t
}

// acceptNames gives a definition the names that it asks for and nobody else in its group has. Each name
// is looked at by itself, so that it gets as many as possible; the last conflict is reported.
func acceptNames(crd *crdv1.CustomResourceDefinition, group []*crdv1.CustomResourceDefinition) {
	if equality.Semantic.DeepEqual(crd.Spec.Names, crd.Status.AcceptedNames) {
		return
	}
	t := takenIn(group)
	want, have := crd.Spec.Names, &crd.Status.AcceptedNames
	verdict := crdv1.CustomResourceDefinitionCondition{
		Type: crdv1.NamesAccepted, Status: crdv1.ConditionTrue, Reason: "NoConflicts", Message: "no conflicts found",
	}
	conflict := func(reason, message string) {
		verdict.Status, verdict.Reason, verdict.Message = crdv1.ConditionFalse, reason, message
	}
	accept := func(want string, have *string, used sets.Set[string], reason string) {
		if want != *have && used.Has(want) {
			conflict(reason, fmt.Sprintf("%q is already in use", want))
			return
		}
		*have = want
	}
	accept(want.Plural, &have.Plural, t.resources, "PluralConflict")
	accept(want.Singular, &have.Singular, t.resources, "SingularConflict")
	var errs []error
	for _, name := range want.ShortNames {
		if !slices.Contains(have.ShortNames, name) && t.resources.Has(name) {
			errs = append(errs, fmt.Errorf("%q is already in use", name))
		}
	}
	if err := utilerrors.NewAggregate(errs); err != nil {
		conflict("ShortNamesConflict", err.Error())
	} else {
		have.ShortNames = want.ShortNames
	}
	accept(want.Kind, &have.Kind, t.kinds, "KindConflict")
	accept(want.ListKind, &have.ListKind, t.kinds, "ListKindConflict")
	have.Categories = want.Categories
	set(crd, verdict)
}

// establish says of a definition that it is served, when it is: it has names before. Once it was, it stays so.
func establish(crd *crdv1.CustomResourceDefinition, serving bool) {
	verdict := crdv1.CustomResourceDefinitionCondition{
		Type: crdv1.Established, Status: crdv1.ConditionFalse, Reason: "NotAccepted", Message: "not all names are accepted",
	}
	old := apihelpers.FindCRDCondition(crd, crdv1.Established)
	switch {
	case old != nil && old.Status == crdv1.ConditionTrue:
		return
	case !apihelpers.IsCRDConditionTrue(crd, crdv1.NamesAccepted):
		if old != nil || apihelpers.FindCRDCondition(crd, crdv1.NamesAccepted) == nil { // or names were accepted before, and somebody took that away
			return
		}
	case !soundCABundle(crd):
		verdict.Reason, verdict.Message = "InvalidCABundle", "The conversion webhook CABundle is invalid"
	case !serving:
		verdict.Reason, verdict.Message = "Installing", "the initial names have been accepted"
	default:
		verdict.Status, verdict.Reason, verdict.Message = crdv1.ConditionTrue, "InitialNamesAccepted", "the initial names have been accepted"
	}
	set(crd, verdict)
}

func soundCABundle(crd *crdv1.CustomResourceDefinition) bool {
	c := crd.Spec.Conversion
	if c == nil || c.Webhook == nil || c.Webhook.ClientConfig == nil || len(bytes.TrimSpace(c.Webhook.ClientConfig.CABundle)) == 0 {
		return true
	}
	_, err := cert.ParseCertsPEM(c.Webhook.ClientConfig.CABundle)
	return err == nil
}

// judgeSchema tells of schemas that aren't structural, which only very old definitions can have.
func judgeSchema(crd *crdv1.CustomResourceDefinition) {
	verdict := crdv1.CustomResourceDefinitionCondition{Type: crdv1.NonStructuralSchema, Status: crdv1.ConditionTrue, Reason: "Violations"}
	var errs field.ErrorList
	if crd.Spec.PreserveUnknownFields {
		errs = append(errs, field.Invalid(field.NewPath("spec", "preserveUnknownFields"), true, "must be false"))
	}
	for i := range crd.Spec.Versions {
		v := &version{CustomResourceDefinitionVersion: &crd.Spec.Versions[i]}
		props, err := v.internalSchema()
		if err != nil || props == nil {
			continue
		}
		s, err := structural.NewStructural(props)
		if err != nil {
			verdict.Status, verdict.Reason = crdv1.ConditionUnknown, "StructuralError"
			verdict.Message = fmt.Sprintf("failed to check validation schema for version %s: %v", v.Name, err)
			set(crd, verdict)
			return
		}
		errs = append(errs, structural.ValidateStructural(field.NewPath("spec", "versions").Index(i).Child("schema", "openAPIV3Schema"), s)...)
	}
	if len(errs) == 0 {
		if apihelpers.FindCRDCondition(crd, crdv1.NonStructuralSchema) != nil {
			apihelpers.RemoveCRDCondition(crd, crdv1.NonStructuralSchema)
		}
		return
	}
	verdict.Message = errs.ToAggregate().Error()
	set(crd, verdict)
}

// judgeApproval tells whether an API in Kubernetes' own groups was approved.
func judgeApproval(crd *crdv1.CustomResourceDefinition) {
	if !apihelpers.IsProtectedCommunityGroup(crd.Spec.Group) {
		return
	}
	verdict := crdv1.CustomResourceDefinitionCondition{Type: crdv1.KubernetesAPIApprovalPolicyConformant, Status: crdv1.ConditionFalse}
	var state apihelpers.APIApprovalState
	state, verdict.Message = apihelpers.GetAPIApprovalState(crd.Annotations)
	switch state {
	case apihelpers.APIApprovalInvalid:
		verdict.Reason = "InvalidAnnotation"
	case apihelpers.APIApprovalMissing:
		verdict.Reason = "MissingAnnotation"
	case apihelpers.APIApproved:
		verdict.Status, verdict.Reason = crdv1.ConditionTrue, "ApprovedAnnotation"
	case apihelpers.APIApprovalBypassed:
		verdict.Reason = "UnapprovedAnnotation"
	default:
		verdict.Status, verdict.Reason = crdv1.ConditionUnknown, "UnknownAnnotation"
	}
	set(crd, verdict)
}
