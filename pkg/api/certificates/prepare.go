package certificates

import (
	"context"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/api"
)

// prepareRequestCreate writes down who asks; signers rely on it.
func prepareRequestCreate(ctx context.Context, obj api.Object) {
	r := obj.(*certificatesv1.CertificateSigningRequest)
	r.Spec.Username, r.Spec.UID, r.Spec.Groups, r.Spec.Extra = "", "", nil, nil
	user := api.UserFrom(ctx)
	if user == nil {
		return
	}
	r.Spec.Username, r.Spec.UID, r.Spec.Groups = user.Name, user.UID, user.Groups
	if len(user.Extra) > 0 {
		r.Spec.Extra = make(map[string]certificatesv1.ExtraValue, len(user.Extra))
		for key, values := range user.Extra {
			r.Spec.Extra[key] = values
		}
	}
}

// prepareRequestUpdate: what was asked for doesn't change.
func prepareRequestUpdate(_ context.Context, obj, old api.Object) {
	obj.(*certificatesv1.CertificateSigningRequest).Spec = old.(*certificatesv1.CertificateSigningRequest).Spec
}

// prepareRequestStatus keeps the verdict as it stands. Adding or taking away one changes their number, and
// is refused by validation.
func prepareRequestStatus(_ context.Context, obj, old api.Object) {
	r, was := obj.(*certificatesv1.CertificateSigningRequest), old.(*certificatesv1.CertificateSigningRequest)
	keepVerdicts(r, was, certificatesv1.CertificateApproved)
	keepVerdicts(r, was, certificatesv1.CertificateDenied)
	stampConditions(r, was)
}

// prepareRequestApproval changes conditions alone.
func prepareRequestApproval(_ context.Context, obj, old api.Object) {
	r, was := obj.(*certificatesv1.CertificateSigningRequest), old.(*certificatesv1.CertificateSigningRequest)
	stampConditions(r, was)
	conditions := r.Status.Conditions
	r.Spec, r.Status = was.Spec, was.Status
	r.Status.Conditions = conditions
}

func keepVerdicts(r, was *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) {
	now, before := indices(r, t), indices(was, t)
	if len(now) != len(before) {
		return
	}
	for i := range now {
		r.Status.Conditions[now[i]] = was.Status.Conditions[before[i]]
	}
}

func indices(r *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) []int {
	var found []int
	for i := range r.Status.Conditions {
		if r.Status.Conditions[i].Type == t {
			found = append(found, i)
		}
	}
	return found
}

func stampConditions(r, was *certificatesv1.CertificateSigningRequest) {
	now := metav1.Now()
	for i := range r.Status.Conditions {
		c := &r.Status.Conditions[i]
		if c.LastUpdateTime.IsZero() {
			c.LastUpdateTime = now
		}
		if !c.LastTransitionTime.IsZero() {
			continue
		}
		c.LastTransitionTime = now
		for _, b := range was.Status.Conditions {
			if b.Type == c.Type && b.Status == c.Status && !b.LastTransitionTime.IsZero() {
				c.LastTransitionTime = b.LastTransitionTime
				break
			}
		}
	}
}
