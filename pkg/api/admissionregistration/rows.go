// Package admissionregistration holds the catalogue's rows of the group admissionregistration.k8s.io (webhooks and admission policies).
package admissionregistration

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/pkg/api"
)

var gv = admissionregistrationv1.SchemeGroupVersion

// Kinds returns the group's rows.
func Kinds() []*api.Kind {
	return []*api.Kind{
		validatingWebhookConfigurationKind(),
		mutatingWebhookConfigurationKind(),
		validatingAdmissionPolicyKind(),
		validatingAdmissionPolicyBindingKind(),
		mutatingAdmissionPolicyKind(),
		mutatingAdmissionPolicyBindingKind(),
	}
}

func validatingWebhookConfigurationKind() *api.Kind {
	return api.Define[admissionregistrationv1.ValidatingWebhookConfiguration, admissionregistrationv1.ValidatingWebhookConfigurationList](gv, "validatingwebhookconfigurations", api.Kind{
		Categories:     []string{"api-extensions"},
		HasGeneration:  true,
		Default:        defaultValidatingWebhooks,
		Validate:       validateWebhooks,
		ValidateUpdate: validateWebhooksUpdate,
		AnyFinalizer:   true,
		NameValidation: validation.NameIsDNSSubdomain,
		Columns:        webhookColumns,
		Cells:          validatingWebhookCells,
	})
}

func mutatingWebhookConfigurationKind() *api.Kind {
	return api.Define[admissionregistrationv1.MutatingWebhookConfiguration, admissionregistrationv1.MutatingWebhookConfigurationList](gv, "mutatingwebhookconfigurations", api.Kind{
		Categories:     []string{"api-extensions"},
		HasGeneration:  true,
		Default:        defaultMutatingWebhooks,
		Validate:       validateWebhooks,
		ValidateUpdate: validateWebhooksUpdate,
		AnyFinalizer:   true,
		NameValidation: validation.NameIsDNSSubdomain,
		Columns:        webhookColumns,
		Cells:          mutatingWebhookCells,
	})
}

func validatingAdmissionPolicyKind() *api.Kind {
	return api.Define[admissionregistrationv1.ValidatingAdmissionPolicy, admissionregistrationv1.ValidatingAdmissionPolicyList](gv, "validatingadmissionpolicies", api.Kind{
		Categories:     []string{"api-extensions"},
		HasGeneration:  true,
		Default:        defaultValidatingPolicy,
		Validate:       validateValidatingPolicy,
		ValidateUpdate: validateValidatingPolicyUpdate,
		Warnings:       reservedName,
		AnyFinalizer:   true,
		NameValidation: validation.NameIsDNSSubdomain,
		Subresources:   map[string]*api.Subresource{"status": {KeepsMeta: true, ValidateUpdate: validatePolicyStatus}},
		Columns:        validatingPolicyColumns,
		Cells:          validatingPolicyCells,
	})
}

func validatingAdmissionPolicyBindingKind() *api.Kind {
	return api.Define[admissionregistrationv1.ValidatingAdmissionPolicyBinding, admissionregistrationv1.ValidatingAdmissionPolicyBindingList](gv, "validatingadmissionpolicybindings", api.Kind{
		Categories:     []string{"api-extensions"},
		HasGeneration:  true,
		Default:        defaultValidatingPolicyBinding,
		Validate:       validateValidatingPolicyBinding,
		ValidateUpdate: func(obj, _ api.Object) field.ErrorList { return validateValidatingPolicyBinding(obj) },
		Warnings:       reservedName,
		AnyFinalizer:   true,
		NameValidation: validation.NameIsDNSSubdomain,
		Columns:        bindingColumns,
		Cells:          validatingBindingCells,
	})
}

func mutatingAdmissionPolicyKind() *api.Kind {
	return api.Define[admissionregistrationv1.MutatingAdmissionPolicy, admissionregistrationv1.MutatingAdmissionPolicyList](gv, "mutatingadmissionpolicies", api.Kind{
		Categories:     []string{"api-extensions"},
		StorageVersion: "v1beta1",
		HasGeneration:  true,
		Default:        defaultMutatingPolicy,
		Validate:       validateMutatingPolicy,
		ValidateUpdate: validateMutatingPolicyUpdate,
		Warnings:       reservedName,
		AnyFinalizer:   true,
		NameValidation: validation.NameIsDNSSubdomain,
		Columns:        mutatingPolicyColumns,
		Cells:          mutatingPolicyCells,
	})
}

func mutatingAdmissionPolicyBindingKind() *api.Kind {
	return api.Define[admissionregistrationv1.MutatingAdmissionPolicyBinding, admissionregistrationv1.MutatingAdmissionPolicyBindingList](gv, "mutatingadmissionpolicybindings", api.Kind{
		Categories:     []string{"api-extensions"},
		StorageVersion: "v1beta1",
		HasGeneration:  true,
		Default:        defaultMutatingPolicyBinding,
		Validate:       validateMutatingPolicyBinding,
		ValidateUpdate: func(obj, _ api.Object) field.ErrorList { return validateMutatingPolicyBinding(obj) },
		Warnings:       reservedName,
		AnyFinalizer:   true,
		NameValidation: validation.NameIsDNSSubdomain,
		Columns:        bindingColumns,
		Cells:          mutatingBindingCells,
	})
}
