package certificates

import (
	"context"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/api"
)

func TestRequestor(t *testing.T) {
	kind := certificateSigningRequestKind()
	ctx := api.WithUser(context.Background(), &api.User{Name: "ann", UID: "1", Groups: []string{"g"}, Extra: map[string][]string{"k": {"v"}}})
	r := &certificatesv1.CertificateSigningRequest{}
	r.Spec.Username, r.Spec.Groups = "root", []string{"system:masters"}
	r.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved}}
	kind.PrepareCreate(ctx, r)
	if r.Spec.Username != "ann" || r.Spec.UID != "1" || r.Spec.Groups[0] != "g" || r.Spec.Extra["k"][0] != "v" || len(r.Status.Conditions) != 0 {
		t.Errorf("%+v", r)
	}
	stolen := r.DeepCopy()
	stolen.Spec.Username = "root"
	kind.PrepareUpdate(ctx, stolen, r)
	if stolen.Spec.Username != "ann" {
		t.Error("an update changed who asked")
	}
	kind.PrepareCreate(context.Background(), r)
	if r.Spec.Username != "" || r.Spec.Groups != nil {
		t.Errorf("nobody asked, and it says %+v", r.Spec)
	}
}

func TestVerdicts(t *testing.T) {
	kind := certificateSigningRequestKind()
	long := metav1.Unix(1000, 0)
	old := &certificatesv1.CertificateSigningRequest{}
	old.Spec.SignerName = "s"
	old.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{
		{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "why", LastTransitionTime: long, LastUpdateTime: long}}

	issued := old.DeepCopy()
	issued.Spec.SignerName = "other"
	issued.Status.Conditions[0].Reason = "changed"
	issued.Status.Certificate = []byte("pem")
	kind.Subresources["status"].PrepareForUpdate(context.Background(), issued, old)
	if issued.Status.Conditions[0].Reason != "why" || issued.Spec.SignerName != "s" || issued.Status.Certificate == nil {
		t.Errorf("%+v", issued)
	}
	if got := requestState(issued); got != "Approved,Issued" {
		t.Errorf("state %q", got)
	}

	denied := old.DeepCopy()
	denied.Status.Certificate = []byte("forged")
	denied.Status.Conditions[0].LastTransitionTime = metav1.Time{}
	denied.Status.Conditions = append(denied.Status.Conditions,
		certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateDenied, Status: corev1.ConditionTrue},
		certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue})
	kind.Subresources["approval"].PrepareForUpdate(context.Background(), denied, old)
	if denied.Status.Certificate != nil {
		t.Error("an approver issued a certificate")
	}
	c := denied.Status.Conditions
	if len(c) != 3 || !c[0].LastTransitionTime.Equal(&long) || c[1].LastTransitionTime.IsZero() || c[1].LastUpdateTime.IsZero() {
		t.Errorf("conditions %+v", c)
	}
	if got := requestState(denied); got != "Denied,Failed" {
		t.Errorf("state %q", got)
	}
}
