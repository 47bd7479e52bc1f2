package component

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Access decides who may use an endpoint of a component.
type Access interface {
	// Check returns http.StatusOK, or the status and reason of a refusal.
	Check(r *http.Request) (code int, reason string)
}

// Delegated asks the apiserver: who is behind a bearer token (TokenReview),
// and may that user do this (SubjectAccessReview). A client certificate of
// ClientCAFile is checked here. Answers are kept for a few seconds, as
// Kubernetes' delegating authorizers do.
type Delegated struct {
	Client       kubernetes.Interface
	ClientCAFile string
	// Attributes are what the user must be allowed to do; nil is the request's method
	// on its path (a non-resource URL).
	Attributes func(r *http.Request) (*authorizationv1.ResourceAttributes, *authorizationv1.NonResourceAttributes)

	mu      sync.Mutex
	users   map[[32]byte]remembered[*authorizationv1.SubjectAccessReviewSpec]
	allowed map[string]remembered[bool]
	pool    *x509.CertPool
}

type remembered[T any] struct {
	value T
	until time.Time
}

// How long answers are kept, and how many.
const (
	keepUser    = 10 * time.Second
	keepAllowed = 10 * time.Second
	keepDenied  = 5 * time.Second
	keepAtMost  = 1024
)

// Check authenticates and authorizes a request.
func (d *Delegated) Check(r *http.Request) (int, string) {
	user, err := d.user(r)
	if err != nil {
		return http.StatusInternalServerError, "authentication: " + err.Error()
	}
	if user == nil {
		return http.StatusUnauthorized, "Unauthorized"
	}
	allowed, err := d.may(r, user)
	if err != nil {
		return http.StatusInternalServerError, "authorization: " + err.Error()
	}
	if !allowed {
		return http.StatusForbidden, fmt.Sprintf("Forbidden (user=%s, verb=%s, path=%s)", user.User, strings.ToLower(r.Method), r.URL.Path)
	}
	return http.StatusOK, ""
}

func (d *Delegated) user(r *http.Request) (*authorizationv1.SubjectAccessReviewSpec, error) {
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 && d.ClientCAFile != "" {
		if user := d.fromCertificate(r.TLS.PeerCertificates); user != nil {
			return user, nil
		}
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || token == "" {
		return nil, nil
	}
	key := sha256.Sum256([]byte(token))
	d.mu.Lock()
	known, ok := d.users[key]
	d.mu.Unlock()
	if ok && time.Now().Before(known.until) {
		return known.value, nil
	}
	ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
	defer cancel()
	review, err := d.Client.AuthenticationV1().TokenReviews().Create(ctx,
		&authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	var user *authorizationv1.SubjectAccessReviewSpec
	if review.Status.Authenticated {
		u := review.Status.User
		user = &authorizationv1.SubjectAccessReviewSpec{User: u.Username, UID: u.UID, Groups: u.Groups, Extra: map[string]authorizationv1.ExtraValue{}}
		for k, v := range u.Extra {
			user.Extra[k] = authorizationv1.ExtraValue(v)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.users == nil || len(d.users) >= keepAtMost {
		d.users = map[[32]byte]remembered[*authorizationv1.SubjectAccessReviewSpec]{}
	}
	d.users[key] = remembered[*authorizationv1.SubjectAccessReviewSpec]{user, time.Now().Add(keepUser)}
	return user, nil
}

// fromCertificate returns the user that a client certificate names, or nil
// when the certificate isn't one of ours.
func (d *Delegated) fromCertificate(chain []*x509.Certificate) *authorizationv1.SubjectAccessReviewSpec {
	d.mu.Lock()
	if d.pool == nil {
		if pem, err := os.ReadFile(d.ClientCAFile); err == nil {
			d.pool = x509.NewCertPool()
			d.pool.AppendCertsFromPEM(pem)
		}
	}
	pool := d.pool
	d.mu.Unlock()
	if pool == nil {
		return nil
	}
	intermediates := x509.NewCertPool()
	for _, c := range chain[1:] {
		intermediates.AddCert(c)
	}
	leaf := chain[0]
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return nil
	}
	groups := append([]string{"system:authenticated"}, leaf.Subject.Organization...)
	return &authorizationv1.SubjectAccessReviewSpec{User: leaf.Subject.CommonName, Groups: groups}
}

func (d *Delegated) may(r *http.Request, user *authorizationv1.SubjectAccessReviewSpec) (bool, error) {
	spec := *user
	if d.Attributes != nil {
		spec.ResourceAttributes, spec.NonResourceAttributes = d.Attributes(r)
	} else {
		spec.NonResourceAttributes = &authorizationv1.NonResourceAttributes{Path: r.URL.Path, Verb: strings.ToLower(r.Method)}
	}
	key := spec.String()
	d.mu.Lock()
	known, ok := d.allowed[key]
	d.mu.Unlock()
	if ok && time.Now().Before(known.until) {
		return known.value, nil
	}
	ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
	defer cancel()
	review, err := d.Client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		return false, err
	}
	keep := keepDenied
	if review.Status.Allowed {
		keep = keepAllowed
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.allowed == nil || len(d.allowed) >= keepAtMost {
		d.allowed = map[string]remembered[bool]{}
	}
	d.allowed[key] = remembered[bool]{review.Status.Allowed, time.Now().Add(keep)}
	return review.Status.Allowed, nil
}
