// Package certificates handles certificate signing requests: it approves those by which nodes get
// and renew their client certificates, signs what is approved for Kubernetes' own
// signers, and removes requests that are done with.
//
// They are separate reconcilers, so that each can be switched off: somebody else may approve
// or sign. Serving certificates of nodes, which Kubernetes never approves by itself, are a matter of a reconciler
// of their own, [ServingApprover], which says what it believes and why.
package certificates

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	authorization "k8s.io/api/authorization/v1"
	certs "k8s.io/api/certificates/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	certslisters "k8s.io/client-go/listers/certificates/v1"
	"k8s.io/client-go/tools/cache"

	"skiff/pkg/controller/reconciler"
	"skiff/pkg/reconcile"
)

// Reconciler is one of them. Its keys are names of requests.
type Reconciler struct {
	client   kubernetes.Interface
	requests certslisters.CertificateSigningRequestLister
	store    cache.SharedIndexInformer
	loop     *reconcile.Loop[string]
	log      *slog.Logger

	signers map[string]Authority
	longest time.Duration
}

func newReconciler(c reconciler.Config) *Reconciler {
	requests := c.Informers.Certificates().V1().CertificateSigningRequests()
	return &Reconciler{client: c.Client, requests: requests.Lister(), store: requests.Informer(), log: c.Logger}
}

func (r *Reconciler) perRequest(c reconciler.Config, name string, turn func(context.Context, *certs.CertificateSigningRequest) (time.Duration, error)) *Reconciler {
	r.loop = reconciler.Loop(c, name, 5, reconcile.Config[string]{
		MinDelay: 200 * time.Millisecond,
		Reconcile: func(ctx context.Context, name string) (time.Duration, error) {
			csr, err := r.requests.Get(name)
			if err != nil {
				return 0, nil
			}
			return turn(ctx, csr.DeepCopy())
		},
	})
	reconciler.OnEach(r.store, func(csr *certs.CertificateSigningRequest) { r.loop.Add(csr.Name) })
	return r
}

// once is a turn that doesn't ask for another.
func once(turn func(context.Context, *certs.CertificateSigningRequest) error) func(context.Context, *certs.CertificateSigningRequest) (time.Duration, error) {
	return func(ctx context.Context, csr *certs.CertificateSigningRequest) (time.Duration, error) {
		return 0, turn(ctx, csr)
	}
}

// Run works until ctx ends.
func (r *Reconciler) Run(ctx context.Context) error {
	return reconciler.Run(ctx, []cache.InformerSynced{r.store.HasSynced}, r.loop.Run)
}

// NewApprover makes the reconciler that approves client certificates of nodes.
func NewApprover(c reconciler.Config) *Reconciler {
	r := newReconciler(c)
	return r.perRequest(c, "certificate-csrapproving", once(r.approve))
}

func (r *Reconciler) approve(ctx context.Context, csr *certs.CertificateSigningRequest) error {
	if !undecided(csr) {
		return nil
	}
	request, err := parse(csr)
	if err != nil {
		return fmt.Errorf("unable to parse csr %q: %w", csr.Name, err)
	}
	for _, a := range approvals(csr, request) {
		allowed, err := r.mayCreate(ctx, csr, a.subresource)
		if err != nil {
			return fmt.Errorf("csr %q: %w", csr.Name, err)
		}
		if !allowed {
			continue
		}
		csr.Status.Conditions = append(csr.Status.Conditions, certs.CertificateSigningRequestCondition{
			Type: certs.CertificateApproved, Status: v1.ConditionTrue, Reason: "AutoApproved", Message: a.message,
		})
		written, err := r.client.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, csr.Name, csr, metav1.UpdateOptions{})
		return r.wrote(csr.Name, written, "approve", err)
	}
	return nil
}

func (r *Reconciler) mayCreate(ctx context.Context, csr *certs.CertificateSigningRequest, subresource string) (bool, error) {
	extra := map[string]authorization.ExtraValue{}
	for key, values := range csr.Spec.Extra {
		extra[key] = authorization.ExtraValue(values)
	}
	review, err := r.client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorization.SubjectAccessReview{
		Spec: authorization.SubjectAccessReviewSpec{
			User: csr.Spec.Username, UID: csr.Spec.UID, Groups: csr.Spec.Groups, Extra: extra,
			ResourceAttributes: &authorization.ResourceAttributes{
				Group: certs.GroupName, Version: "*", Resource: "certificatesigningrequests", Subresource: subresource, Verb: "create",
			},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return false, err
	}
	return review.Status.Allowed, nil
}

// NewSigner makes the reconciler that signs approved requests, each signer's with its authority, for longest at most.
func NewSigner(c reconciler.Config, signers map[string]Authority, longest time.Duration) *Reconciler {
	r := newReconciler(c)
	r.signers, r.longest = signers, longest
	return r.perRequest(c, "certificate-csrsigning", once(r.sign))
}

func (r *Reconciler) sign(ctx context.Context, csr *certs.CertificateSigningRequest) error {
	authority, ours := r.signers[csr.Spec.SignerName]
	if !ours || !signable(csr) {
		return nil
	}
	request, err := parse(csr)
	if err != nil {
		return fmt.Errorf("unable to parse csr %q: %w", csr.Name, err)
	}
	if refusal := check(csr.Spec.SignerName, request, csr.Spec.Usages); refusal != nil {
		csr.Status.Conditions = append(csr.Status.Conditions, certs.CertificateSigningRequestCondition{
			Type: certs.CertificateFailed, Status: v1.ConditionTrue, Reason: "SignerValidationFailure",
			Message: refusal.Error(), LastUpdateTime: metav1.Now(),
		})
	} else {
		csr.Status.Certificate, err = authority.sign(request, csr.Spec.Usages, validity(csr.Spec.ExpirationSeconds, r.longest), time.Now())
		if err != nil {
			return fmt.Errorf("error auto signing csr %q: %w", csr.Name, err)
		}
	}
	written, err := r.client.CertificatesV1().CertificateSigningRequests().UpdateStatus(ctx, csr, metav1.UpdateOptions{})
	return r.wrote(csr.Name, written, "sign", err)
}

func (r *Reconciler) wrote(name string, written *certs.CertificateSigningRequest, operation string, err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s csr %q: %w", operation, name, err)
	}
	r.loop.Wrote(name, r.store.GetStore(), written.ResourceVersion)
	return nil
}

// NewCleaner makes the reconciler that removes requests that are done with.
func NewCleaner(c reconciler.Config) *Reconciler {
	const interval = time.Hour
	r := newReconciler(c)
	r.loop = reconciler.Loop(c, "certificate-csrcleaner", 1, reconcile.Config[string]{
		Reconcile: func(ctx context.Context, _ string) (time.Duration, error) { return interval, r.clean(ctx) },
		MaxDelay:  interval,
	})
	r.loop.Add("") // one key: all requests
	return r
}

func (r *Reconciler) clean(ctx context.Context) error {
	all, err := r.requests.List(labels.Everything())
	if err != nil {
		return err
	}
	var errs []error
	for _, csr := range all {
		reason := stale(csr, time.Now())
		if reason == "" {
			continue
		}
		r.log.Info("removing certificate signing request", "name", csr.Name, "reason", reason)
		err := r.client.CertificatesV1().CertificateSigningRequests().Delete(ctx, csr.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(csr.UID))})
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("unable to delete CSR %q: %w", csr.Name, err))
		}
	}
	return errors.Join(errs...)
}
