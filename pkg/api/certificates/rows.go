// Package certificates holds the catalogue's rows of the group certificates.k8s.io (signing requests).
package certificates

import (
	certificatesv1 "k8s.io/api/certificates/v1"

	"skiff/pkg/api"
)

var gv = certificatesv1.SchemeGroupVersion

// Kinds returns the group's rows.
func Kinds() []*api.Kind {
	return []*api.Kind{certificateSigningRequestKind()}
}

func certificateSigningRequestKind() *api.Kind {
	return api.Define[certificatesv1.CertificateSigningRequest, certificatesv1.CertificateSigningRequestList](gv, "certificatesigningrequests", api.Kind{
		ShortNames:          []string{"csr"},
		UnconditionalUpdate: true,
		PrepareForCreate:    prepareRequestCreate,
		PrepareForUpdate:    prepareRequestUpdate,
		Kept:                []string{"spec", "status"},
		NameValidation:      api.PathSegment,
		Validate:            validateRequest,
		ValidateUpdate:      validateRequestUpdate,
		SelectableFields:    signingRequestFields,
		Subresources: map[string]*api.Subresource{
			"status":   {PrepareForUpdate: prepareRequestStatus, ValidateUpdate: validateStatus, Kept: []string{"spec", "status.conditions"}},
			"approval": {PrepareForUpdate: prepareRequestApproval, ValidateUpdate: validateApproval, Kept: []string{"spec", "status.certificate"}},
		},
		Columns: requestColumns,
		Cells:   requestCells,
	})
}
