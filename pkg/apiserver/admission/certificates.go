package admission

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/pkg/apiserver/request"
)

// signerPlugin lets only those approve or sign a certificate request who have that
// right for the request's signer.
type signerPlugin struct{ authorizer Authorizer }

var signingRequests = schema.GroupResource{Group: "certificates.k8s.io", Resource: "certificatesigningrequests"}

func (p *signerPlugin) validateApproval(ctx context.Context, attrs *request.Attributes) error {
	if attrs.Operation != request.Update || attrs.Kind.GroupResource() != signingRequests || attrs.Subresource != "approval" {
		return nil
	}
	old, ok := attrs.Old.(*certificatesv1.CertificateSigningRequest)
	if !ok {
		return forbidden(attrs, "expected type CertificateSigningRequest, got: %T", attrs.Old)
	}
	if !p.may(ctx, attrs.User, "approve", old.Spec.SignerName) {
		return forbidden(attrs, "user not permitted to approve requests with signerName %q", old.Spec.SignerName)
	}
	return nil
}

func (p *signerPlugin) validateSigning(ctx context.Context, attrs *request.Attributes) error {
	if attrs.Operation != request.Update || attrs.Kind.GroupResource() != signingRequests || attrs.Subresource != "status" {
		return nil
	}
	old, ok := attrs.Old.(*certificatesv1.CertificateSigningRequest)
	csr, isCSR := attrs.Object.(*certificatesv1.CertificateSigningRequest)
	if !ok || !isCSR {
		return forbidden(attrs, "expected type CertificateSigningRequest, got: %T", attrs.Object)
	}
	if bytes.Equal(old.Status.Certificate, csr.Status.Certificate) && equality.Semantic.DeepEqual(old.Status.Conditions, csr.Status.Conditions) {
		return nil
	}
	if !p.may(ctx, attrs.User, "sign", old.Spec.SignerName) {
		return forbidden(attrs, "user not permitted to sign requests with signerName %q", old.Spec.SignerName)
	}
	return nil
}

// may asks for the signer itself and then for all signers of its domain.
func (p *signerPlugin) may(ctx context.Context, user *request.User, verb, signer string) bool {
	domain, _, _ := strings.Cut(signer, "/")
	for _, name := range []string{signer, domain + "/*"} {
		if p.authorizer.Authorize(ctx, user, &request.Info{
			IsResourceRequest: true, Verb: verb, APIGroup: "certificates.k8s.io", APIVersion: "*", Resource: "signers", Name: name,
		}).Allowed {
			return true
		}
	}
	return false
}

// validateCertificateSubject is the plugin CertificateSubjectRestriction: nobody asks
// to become a superuser.
func validateCertificateSubject(_ context.Context, attrs *request.Attributes) error {
	csr, ok := attrs.Object.(*certificatesv1.CertificateSigningRequest)
	if !ok || attrs.Operation != request.Create || attrs.Subresource != "" || csr.Spec.SignerName != certificatesv1.KubeAPIServerClientSignerName {
		return nil
	}
	parsed, err := parseCSR(csr.Spec.Request)
	if err != nil {
		return forbidden(attrs, "failed to parse CSR: %w", err)
	}
	if slices.Contains(parsed.Subject.Organization, request.Masters) {
		return forbidden(attrs, "use of %s signer with system:masters group is not allowed", csr.Spec.SignerName)
	}
	return nil
}

func parseCSR(data []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	return x509.ParseCertificateRequest(block.Bytes)
}
