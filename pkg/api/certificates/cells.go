package certificates

import (
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"skiff/pkg/api"
)

var requestColumns = api.Columns("Name, Age, SignerName, Requestor, RequestedDuration, Condition")

func requestCells(obj api.Object) []any {
	r := obj.(*certificatesv1.CertificateSigningRequest)
	requested := "<none>"
	if r.Spec.ExpirationSeconds != nil {
		requested = duration.HumanDuration(time.Duration(*r.Spec.ExpirationSeconds) * time.Second)
	}
	return []any{r.Name, api.Age(r), api.OrNone(r.Spec.SignerName), r.Spec.Username, requested, requestState(r)}
}

// requestState: a denial outweighs an approval.
func requestState(r *certificatesv1.CertificateSigningRequest) string {
	state, failed := "Pending", false
	for _, c := range r.Status.Conditions {
		switch {
		case c.Type == certificatesv1.CertificateDenied:
			state = "Denied"
		case c.Type == certificatesv1.CertificateApproved && state != "Denied":
			state = "Approved"
		case c.Type == certificatesv1.CertificateFailed:
			failed = true
		}
	}
	if failed {
		state += ",Failed"
	}
	if len(r.Status.Certificate) > 0 {
		state += ",Issued"
	}
	return state
}
