package controller

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// tokenLifetime is what is asked for; a token is renewed after four fifths of what is given.
const tokenLifetime = time.Hour

// asAccount returns a configuration whose requests are made as a service account of
// kube-system, as system:serviceaccount:kube-system:<name>. The tokens are asked for by root, when
// the first request needs one; a missing account is made. What wraps base's transport
// (the leader's fence) is kept, its credentials are not: anonymous leads to the same server without any.
func asAccount(base, anonymous *rest.Config, root kubernetes.Interface, name string) *rest.Config {
	config := rest.CopyConfig(anonymous)
	config.WrapTransport = base.WrapTransport
	config.UserAgent = base.UserAgent + "/system:serviceaccount:" + metav1.NamespaceSystem + ":" + name
	source := &tokenSource{root: root, name: name}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return &asBearer{source, next} })
	return config
}

// asBearer adds a source's token to requests.
type asBearer struct {
	source *tokenSource
	next   http.RoundTripper
}

// WrappedRoundTripper lets client-go find the transport below.
func (b *asBearer) WrappedRoundTripper() http.RoundTripper { return b.next }

// RoundTrip sends a copy of the request with the token.
func (b *asBearer) RoundTrip(request *http.Request) (*http.Response, error) {
	token, err := b.source.token(request.Context())
	if err != nil {
		if request.Body != nil {
			_ = request.Body.Close()
		}
		return nil, err
	}
	request = request.Clone(request.Context())
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := b.next.RoundTrip(request)
	if err == nil && response.StatusCode == http.StatusUnauthorized {
		b.source.reject(token)
	}
	return response, err
}

// tokenSource asks for tokens of one account.
type tokenSource struct {
	root kubernetes.Interface
	name string

	mu      sync.Mutex
	current string
	renew   time.Time
}

func (s *tokenSource) token(ctx context.Context) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != "" && time.Now().Before(s.renew) {
		return s.current, nil
	}
	seconds := int64(tokenLifetime / time.Second)
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}
	accounts := s.root.CoreV1().ServiceAccounts(metav1.NamespaceSystem)
	asked := time.Now()
	granted, err := accounts.CreateToken(ctx, s.name, request, metav1.CreateOptions{})
	if apierrors.IsNotFound(err) {
		account := &v1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: s.name}}
		if _, err := accounts.Create(ctx, account, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return "", fmt.Errorf("create service account %s: %w", s.name, err)
		}
		granted, err = accounts.CreateToken(ctx, s.name, request, metav1.CreateOptions{})
	}
	if err != nil {
		return "", fmt.Errorf("get a token of service account %s: %w", s.name, err)
	}
	s.current = granted.Status.Token
	// By what was asked for and not by the expiry's date, so that clocks needn't agree.
	lifetime := tokenLifetime
	if granted.Spec.ExpirationSeconds != nil {
		lifetime = time.Duration(*granted.Spec.ExpirationSeconds) * time.Second
	}
	s.renew = asked.Add(lifetime * 4 / 5)
	return s.current, nil
}

// reject drops a token that the apiserver didn't take: the account may have been
// deleted and made anew.
func (s *tokenSource) reject(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == token {
		s.current = ""
	}
}
