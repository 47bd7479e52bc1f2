package certificates

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	certs "k8s.io/api/certificates/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// LegacyUnknown signs whatever was approved, for clients of the oldest API.
const LegacyUnknown = "kubernetes.io/legacy-unknown"

// Signers are the names that this package can sign for.
var Signers = []string{certs.KubeletServingSignerName, certs.KubeAPIServerClientKubeletSignerName, certs.KubeAPIServerClientSignerName, LegacyUnknown}

// How long requests are kept, by what became of them.
const (
	keepDone    = time.Hour
	keepPending = 24 * time.Hour
)

func parse(csr *certs.CertificateSigningRequest) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(csr.Spec.Request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	return x509.ParseCertificateRequest(block.Bytes)
}

func condition(csr *certs.CertificateSigningRequest, kind certs.RequestConditionType) *certs.CertificateSigningRequestCondition {
	for i := range csr.Status.Conditions {
		if csr.Status.Conditions[i].Type == kind {
			return &csr.Status.Conditions[i]
		}
	}
	return nil
}

// approval is what a request may be approved for without a person looking at it, if its
// requestor may create the subresource.
type approval struct{ subresource, message string }

// approvals of a request, in the order in which to try them: a node may renew its own
// client certificate, and somebody who bootstraps may get one for a node.
func approvals(csr *certs.CertificateSigningRequest, request *x509.CertificateRequest) []approval {
	if csr.Spec.SignerName != certs.KubeAPIServerClientKubeletSignerName || checkKubeletClient(request, csr.Spec.Usages) != nil {
		return nil
	}
	found := []approval{{"nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview."}}
	if csr.Spec.Username == request.Subject.CommonName {
		found = slices.Insert(found, 0, approval{"selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview."})
	}
	return found
}

// undecided says that a request waits for an approval.
func undecided(csr *certs.CertificateSigningRequest) bool {
	return len(csr.Status.Certificate) == 0 && condition(csr, certs.CertificateApproved) == nil && condition(csr, certs.CertificateDenied) == nil
}

// signable says that a request is approved and waits for its certificate.
func signable(csr *certs.CertificateSigningRequest) bool {
	approved := condition(csr, certs.CertificateApproved)
	failed := condition(csr, certs.CertificateFailed)
	return len(csr.Status.Certificate) == 0 && approved != nil && approved.Status == v1.ConditionTrue &&
		condition(csr, certs.CertificateDenied) == nil && (failed == nil || failed.Status != v1.ConditionTrue) &&
		slices.Contains(Signers, csr.Spec.SignerName)
}

// check says why a signer refuses a request.
func check(signer string, request *x509.CertificateRequest, usages []certs.KeyUsage) error {
	switch signer {
	case certs.KubeletServingSignerName:
		return checkKubeletServing(request, usages)
	case certs.KubeAPIServerClientKubeletSignerName:
		return checkKubeletClient(request, usages)
	case certs.KubeAPIServerClientSignerName:
		return checkClientUsages(usages)
	}
	return nil // legacy-unknown has no rules
}

func checkNode(request *x509.CertificateRequest) error {
	switch {
	case !slices.Equal(request.Subject.Organization, []string{"system:nodes"}):
		return errors.New("subject organization is not system:nodes")
	case len(request.EmailAddresses) > 0:
		//lint:ignore ST1005 Kubernetes' own text
		return errors.New("Email subjectAltNames are not allowed")
	case len(request.URIs) > 0:
		return errors.New("URI subjectAltNames are not allowed")
	case !strings.HasPrefix(request.Subject.CommonName, "system:node:"):
		//lint:ignore ST1005 Kubernetes' own text
		return errors.New("subject common name does not begin with system:node:")
	}
	return nil
}

func checkKubeletServing(request *x509.CertificateRequest, usages []certs.KeyUsage) error {
	if err := checkNode(request); err != nil {
		return err
	}
	if len(request.DNSNames) == 0 && len(request.IPAddresses) == 0 {
		return errors.New("DNS or IP subjectAltName is required")
	}
	return checkUsages(usages, certs.UsageServerAuth)
}

func checkKubeletClient(request *x509.CertificateRequest, usages []certs.KeyUsage) error {
	if err := checkNode(request); err != nil {
		return err
	}
	if len(request.DNSNames) > 0 {
		return errors.New("DNS subjectAltNames are not allowed")
	}
	if len(request.IPAddresses) > 0 {
		return errors.New("IP subjectAltNames are not allowed")
	}
	return checkUsages(usages, certs.UsageClientAuth)
}

// checkUsages wants a kubelet's usages: signatures, one role, and key encipherment at most (for RSA keys).
func checkUsages(usages []certs.KeyUsage, role certs.KeyUsage) error {
	required := []certs.KeyUsage{role, certs.UsageDigitalSignature, certs.UsageKeyEncipherment}
	slices.Sort(required)
	got := slices.Clone(usages)
	slices.Sort(got)
	got = slices.Compact(got)
	withoutRSA := slices.DeleteFunc(slices.Clone(required), func(u certs.KeyUsage) bool { return u == certs.UsageKeyEncipherment })
	if !slices.Equal(got, required) && !slices.Equal(got, withoutRSA) {
		return fmt.Errorf("usages did not match %v", required)
	}
	return nil
}

func checkClientUsages(usages []certs.KeyUsage) error {
	for _, usage := range usages {
		switch usage {
		case certs.UsageDigitalSignature, certs.UsageKeyEncipherment, certs.UsageClientAuth:
		default:
			return fmt.Errorf("invalid usage for client certificate: %s", usage)
		}
	}
	if !slices.Contains(usages, certs.UsageClientAuth) {
		return fmt.Errorf("missing required usage for client certificate: %s", certs.UsageClientAuth)
	}
	return nil
}

// stale says why a request isn't worth keeping; empty: it is.
func stale(csr *certs.CertificateSigningRequest, now time.Time) string {
	older := func(t metav1.Time, age time.Duration) bool { return !t.IsZero() && now.Sub(t.Time) > age }
	approved, issued := condition(csr, certs.CertificateApproved), len(csr.Status.Certificate) > 0
	denied, failed := condition(csr, certs.CertificateDenied), condition(csr, certs.CertificateFailed)
	switch {
	case len(csr.Status.Conditions) == 0 && older(csr.CreationTimestamp, keepPending):
		return "nobody decided about it"
	case denied != nil && older(denied.LastUpdateTime, keepDone):
		return "it was denied"
	case failed != nil && older(failed.LastUpdateTime, keepDone):
		return "it failed"
	case approved != nil && issued && older(approved.LastUpdateTime, keepDone):
		return "its certificate was issued"
	case approved != nil && !issued && older(approved.LastUpdateTime, keepPending):
		return "nobody issued its certificate"
	case approved != nil && issued && expired(csr.Status.Certificate, now):
		return "its certificate has expired"
	}
	return ""
}

func expired(certificate []byte, now time.Time) bool {
	block, _ := pem.Decode(certificate)
	if block == nil {
		return false
	}
	parsed, err := x509.ParseCertificate(block.Bytes)
	return err == nil && now.After(parsed.NotAfter)
}
