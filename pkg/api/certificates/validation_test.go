package certificates

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func request(t *testing.T) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	r := &certificatesv1.CertificateSigningRequest{}
	r.Spec.Request = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	r.Spec.SignerName, r.Spec.Usages = "example.com/signer", []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth}
	return r
}

func expect(t *testing.T, errs field.ErrorList, want string) {
	t.Helper()
	var texts []string
	for _, e := range errs {
		texts = append(texts, e.Error())
	}
	if got := strings.Join(texts, "; "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestNewRequests(t *testing.T) {
	expect(t, validateRequest(request(t)), "")
	for want, change := range map[string]func(*certificatesv1.CertificateSigningRequest){
		`spec.request: Invalid value: "eA==": PEM block type must be CERTIFICATE REQUEST`: func(r *certificatesv1.CertificateSigningRequest) { r.Spec.Request = []byte("x") },
		`spec.usages: Required value`: func(r *certificatesv1.CertificateSigningRequest) { r.Spec.Usages = nil },
		`spec.usages[1]: Duplicate value: "client auth"`: func(r *certificatesv1.CertificateSigningRequest) {
			r.Spec.Usages = append(r.Spec.Usages, certificatesv1.UsageClientAuth)
		},
		`spec.signerName: Required value`: func(r *certificatesv1.CertificateSigningRequest) { r.Spec.SignerName = "" },
		`spec.signerName: Invalid value: "a": should be a domain with at least two segments separated by dots`: func(r *certificatesv1.CertificateSigningRequest) {
			r.Spec.SignerName = "a/b"
		},
		`spec.signerName: Invalid value: "a.b/c/d": must be a fully qualified domain and path of the form 'example.com/signer-name'`: func(r *certificatesv1.CertificateSigningRequest) {
			r.Spec.SignerName = "a.b/c/d"
		},
		`spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 600 seconds (10 minutes)`: func(r *certificatesv1.CertificateSigningRequest) {
			seconds := int32(599)
			r.Spec.ExpirationSeconds = &seconds
		},
	} {
		r := request(t)
		change(r)
		expect(t, validateRequest(r), want)
	}
	tampered := request(t)
	block, _ := pem.Decode(tampered.Spec.Request)
	block.Bytes[len(block.Bytes)-1] ^= 1
	tampered.Spec.Request = pem.EncodeToMemory(block)
	if len(validateRequest(tampered)) == 0 {
		t.Error("a request with a bad signature was accepted")
	}
}

// Only approval gives a verdict, only status a certificate, and neither is taken back.
func TestWhoMayChangeWhat(t *testing.T) {
	approved := certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue}
	denied := certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateDenied, Status: corev1.ConditionTrue}
	plain := request(t)
	judged := plain.DeepCopy()
	judged.Status.Conditions = append(judged.Status.Conditions, approved)
	const mayNotAdd = `status.conditions: Forbidden: updates may not add a condition of type "Approved"`
	expect(t, validateRequestUpdate(judged, plain), mayNotAdd)
	expect(t, validateStatus(judged, plain), mayNotAdd)
	expect(t, validateApproval(judged, plain), "")
	expect(t, validateApproval(plain, judged), `status.conditions: Forbidden: updates may not remove a condition of type "Approved"`)
	both := judged.DeepCopy()
	both.Status.Conditions = append(both.Status.Conditions, denied)
	expect(t, validateApproval(both, judged), `status.conditions: Invalid value: "Denied": Approved and Denied conditions are mutually exclusive`)
	wrong := plain.DeepCopy()
	wrong.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionFalse}}
	expect(t, validateApproval(wrong, plain), `status.conditions[0].status: Unsupported value: "False": supported values: "True"`)

	issued := judged.DeepCopy()
	issued.Status.Certificate = []byte("x")
	expect(t, validateStatus(issued, judged), `status.certificate: Invalid value: "<certificate data>": must contain at least one CERTIFICATE PEM block`)
	expect(t, validateRequestUpdate(judged, issued), `status.certificate: Forbidden: updates may not set certificate content`)
	expect(t, validateStatus(judged, issued), `status.certificate: Forbidden: updates may not modify existing certificate content`)
}
