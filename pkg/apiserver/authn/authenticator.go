package authn

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"skiff/pkg/apiserver/request"
	"skiff/pkg/pki/bootstrap"
)

// Config says how users are recognized.
type Config struct {
	FrontProxy   *FrontProxy   // nil: nobody is believed who makes a request
	Certificates *Certificates // nil: client certificates are not looked at
	Tokens       *Tokens       // nil: service account tokens are refused
	// Bootstrap recognizes the tokens of joining machines; nil: they are refused.
	Bootstrap *BootstrapTokens
	// OIDC recognizes the users of another issuer; nil: they are refused.
	OIDC *OIDC
	// NoAnonymous refuses requests without credentials.
	NoAnonymous bool
}

// Authenticator recognizes users. It may be used concurrently.
type Authenticator struct{ config Config }

// New returns an Authenticator.
func New(config Config) *Authenticator { return &Authenticator{config: config} }

var (
	errInvalidToken  = errors.New("invalid bearer token")
	errNoCredentials = errors.New("no credentials found for request")
)

// Authenticate returns who makes the request. Any error means 401 Unauthorized; its text is for
// the log. Credentials are taken out of the request's headers, so that they can't be
// passed on.
func (a *Authenticator) Authenticate(r *http.Request) (*request.User, error) {
	user, err := a.identify(r)
	if err != nil {
		return nil, err
	}
	a.config.FrontProxy.strip(r.Header)
	if user == nil {
		if a.config.NoAnonymous {
			return nil, errNoCredentials
		}
		return request.AnonymousUser(), nil
	}
	r.Header.Del("Authorization")
	return authenticated(user), nil
}

// identify returns nil when there are no credentials.
func (a *Authenticator) identify(r *http.Request) (*request.User, error) {
	var failed error
	if a.config.FrontProxy != nil && r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		user, err := a.config.FrontProxy.identify(r)
		if user != nil {
			return user, nil
		}
		failed = err // it may be a user's certificate
	}
	if a.config.Certificates != nil && r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		user, err := a.config.Certificates.Verify(r.TLS.PeerCertificates)
		if user != nil {
			return user, nil
		}
		failed = errors.Join(failed, err) // a good token can still save the request
	}
	token, protocols, err := bearerToken(r)
	if err != nil {
		return nil, errors.Join(failed, err)
	}
	if token == "" {
		return nil, failed
	}
	user, _, err := a.bearer(r.Context(), token, nil)
	if err != nil {
		return nil, errors.Join(failed, err)
	}
	if protocols != nil {
		r.Header.Set(protocolHeader, strings.Join(protocols, ","))
	}
	return user, nil
}

// bearer returns the user that a token of any kind stands for, and those of the wanted
// audiences (nil: the server's own) that it is for.
func (a *Authenticator) bearer(ctx context.Context, token string, audiences []string) (*request.User, []string, error) {
	if short, err := bootstrap.ParseToken(token); err == nil && a.config.Bootstrap != nil {
		return a.own(audiences, func() (*request.User, error) { return a.config.Bootstrap.Authenticate(ctx, short) })
	}
	if a.config.OIDC != nil && a.config.OIDC.issued(token) {
		return a.own(audiences, func() (*request.User, error) { return a.config.OIDC.Authenticate(ctx, token) })
	}
	if a.config.Tokens == nil {
		return nil, nil, errInvalidToken
	}
	return a.config.Tokens.Authenticate(ctx, token, audiences)
}

// own is for tokens that say nothing of this server's audiences, and are for it and nobody else.
func (a *Authenticator) own(audiences []string, authenticate func() (*request.User, error)) (*request.User, []string, error) {
	own := audiences
	if a.config.Tokens != nil {
		own = a.config.Tokens.ownAudiences(audiences)
	}
	if len(audiences) > 0 && len(own) == 0 {
		return nil, nil, errInvalidToken
	}
	user, err := authenticate()
	return user, own, err
}

// authenticated adds the group that every recognized user is in.
func authenticated(user *request.User) *request.User {
	if user.Name == request.Anonymous || user.InGroup(request.Authenticated) || user.InGroup(request.Unauthenticated) {
		return user
	}
	out := *user
	out.Groups = append(slices.Clip(user.Groups), request.Authenticated)
	return &out
}

const (
	protocolHeader = "Sec-Websocket-Protocol"
	protocolPrefix = "base64url.bearer.authorization.k8s.io."
)

// bearerToken returns the token of the Authorization header, or the one that a
// browser's WebSocket carries as a subprotocol, together with the other subprotocols.
func bearerToken(r *http.Request) (token string, protocols []string, err error) {
	if scheme, value, found := strings.Cut(strings.TrimSpace(r.Header.Get("Authorization")), " "); found && strings.EqualFold(scheme, "bearer") {
		// Kubernetes takes what stands right after one space, and no token beginning with one.
		if value, _, _ = strings.Cut(value, " "); value != "" {
			return value, nil, nil
		}
	}
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return "", nil, nil
	}
	for _, header := range r.Header[protocolHeader] {
		for protocol := range strings.SplitSeq(header, ",") {
			protocol = strings.TrimSpace(protocol)
			encoded, found := strings.CutPrefix(protocol, protocolPrefix)
			if !found {
				protocols = append(protocols, protocol)
				continue
			}
			if token != "" {
				return "", nil, errors.New("multiple base64.bearer.authorization tokens specified")
			}
			decoded, err := base64.RawURLEncoding.DecodeString(encoded)
			if err != nil {
				return "", nil, errors.New("invalid base64.bearer.authorization token encoding")
			}
			if !utf8.Valid(decoded) {
				return "", nil, errors.New("invalid base64.bearer.authorization token")
			}
			token = string(decoded)
		}
	}
	if token != "" && len(protocols) == 0 {
		return "", nil, errors.New("missing additional subprotocol")
	}
	return token, protocols, nil
}

// serviceAccountUser is the name that a service account has as a user.
func serviceAccountUser(namespace, name string) string {
	return fmt.Sprintf("system:serviceaccount:%s:%s", namespace, name)
}

func serviceAccountGroups(namespace string) []string {
	return []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace}
}
