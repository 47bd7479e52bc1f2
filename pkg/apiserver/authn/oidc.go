package authn

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"skiff/pkg/apiserver/request"
)

// OIDCConfig says whose tokens are believed, beside the server's own, and who their bearers are. The fields are those of
// kube-apiserver's --oidc flags.
type OIDCConfig struct {
	IssuerURL string // empty: nobody else's
	ClientID  string // the audience that tokens are for
	CAFile    string // of the issuer's certificate; empty: the host's authorities
	// UsernameClaim names the user. The prefix is the issuer's URL and "#" when it is empty, other than for the claim
	// "email"; "-" is none.
	UsernameClaim, UsernamePrefix string
	GroupsClaim, GroupsPrefix     string
	RequiredClaims                map[string]string
	SigningAlgs                   []string
}

// check refuses what contradicts itself.
func (c *OIDCConfig) check() error {
	switch u, err := url.Parse(c.IssuerURL); {
	case c.IssuerURL == "" || c.ClientID == "":
		return errors.New("oidc-issuer-url and oidc-client-id must be specified together when any oidc-* flags are set")
	case err != nil:
		return fmt.Errorf("oidc: issuer URL: %w", err)
	case u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		return fmt.Errorf("oidc: issuer URL %q must be an https URL with neither user, query nor fragment", c.IssuerURL)
	case c.UsernameClaim == "":
		return errors.New("oidc: a claim that names the user is needed")
	}
	for _, alg := range c.SigningAlgs {
		if !slices.Contains(signingAlgs, alg) {
			return fmt.Errorf("oidc: unsupported signing alg: %q", alg)
		}
	}
	return nil
}

var signingAlgs = []string{oidc.RS256, oidc.RS384, oidc.RS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.PS256, oidc.PS384, oidc.PS512}

// OIDC recognizes users by the ID tokens of an OpenID Connect issuer.
type OIDC struct {
	config   OIDCConfig
	client   *http.Client
	verifier atomic.Pointer[oidc.IDTokenVerifier] // nil until the issuer was reached
}

// NewOIDC returns an OIDC that recognizes nobody before [OIDC.Run] has found the issuer's keys.
func NewOIDC(config OIDCConfig) (*OIDC, error) {
	if err := config.check(); err != nil {
		return nil, err
	}
	if len(config.SigningAlgs) == 0 {
		config.SigningAlgs = []string{oidc.RS256}
	}
	if config.UsernamePrefix == "" && config.UsernameClaim != "email" {
		config.UsernamePrefix = config.IssuerURL + "#"
	}
	if config.UsernamePrefix == "-" {
		config.UsernamePrefix = ""
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if config.CAFile != "" {
		pem, err := os.ReadFile(config.CAFile)
		if err != nil {
			return nil, fmt.Errorf("oidc: authority of the issuer: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("oidc: authority of the issuer: %s holds no certificate", config.CAFile)
		}
		transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}
	}
	return &OIDC{config: config, client: &http.Client{Transport: transport, Timeout: 30 * time.Second}}, nil
}

// discoverEvery is the time between tries to reach the issuer.
const discoverEvery = 10 * time.Second

// Run finds the issuer's keys, trying until it succeeds; they are fetched again when a token names another. It returns
// when ctx ends.
func (o *OIDC) Run(ctx context.Context) error {
	for {
		// The provider keeps this context, to fetch keys with.
		provider, err := oidc.NewProvider(oidc.ClientContext(ctx, o.client), o.config.IssuerURL)
		if err == nil {
			o.verifier.Store(provider.Verifier(&oidc.Config{ClientID: o.config.ClientID, SupportedSigningAlgs: o.config.SigningAlgs}))
			<-ctx.Done()
			return ctx.Err()
		}
		slog.Warn("the OpenID issuer can't be discovered, to be tried again", "issuer", o.config.IssuerURL, "error", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(discoverEvery):
		}
	}
}

// issued says that a token claims to be of this issuer.
func (o *OIDC) issued(token string) bool { return unverifiedIssuer(token) == o.config.IssuerURL }

// Authenticate returns the user that a token of the issuer stands for.
func (o *OIDC) Authenticate(ctx context.Context, token string) (*request.User, error) {
	verifier := o.verifier.Load()
	if verifier == nil {
		return nil, errors.New("oidc: authenticator not initialized")
	}
	verified, err := verifier.Verify(ctx, token)
	if err != nil {
		return nil, fmt.Errorf("oidc: verify token: %w", err)
	}
	var claims map[string]json.RawMessage
	if err := verified.Claims(&claims); err != nil {
		return nil, fmt.Errorf("oidc: parse claims: %w", err)
	}
	return o.user(claims)
}

// user is who claims are about.
func (o *OIDC) user(claims map[string]json.RawMessage) (*request.User, error) {
	var name string
	if err := claim(claims, o.config.UsernameClaim, &name); err != nil {
		return nil, fmt.Errorf("oidc: parse username claims %q: %w", o.config.UsernameClaim, err)
	}
	if verified, told := claims["email_verified"]; told && o.config.UsernameClaim == "email" {
		var is bool
		if err := json.Unmarshal(verified, &is); err != nil {
			return nil, fmt.Errorf("oidc: parse 'email_verified' claim: %w", err)
		}
		if !is {
			return nil, errors.New("oidc: email not verified")
		}
	}
	user := &request.User{Name: o.config.UsernamePrefix + name}
	if _, some := claims[o.config.GroupsClaim]; some && o.config.GroupsClaim != "" {
		var groups stringOrList
		if err := claim(claims, o.config.GroupsClaim, &groups); err != nil {
			return nil, fmt.Errorf("oidc: parse groups claim %q: %w", o.config.GroupsClaim, err)
		}
		for _, group := range groups {
			user.Groups = append(user.Groups, o.config.GroupsPrefix+group)
		}
	}
	for name, want := range o.config.RequiredClaims {
		if _, some := claims[name]; !some {
			return nil, fmt.Errorf("oidc: required claim %s not present in ID token", name)
		}
		var got string
		if err := claim(claims, name, &got); err != nil {
			return nil, fmt.Errorf("oidc: parse claim %s: %w", name, err)
		}
		if got != want {
			return nil, fmt.Errorf("oidc: required claim %s value does not match. Got = %s, want = %s", name, got, want)
		}
	}
	return user, nil
}

func claim(claims map[string]json.RawMessage, name string, into any) error {
	raw, ok := claims[name]
	if !ok {
		return errors.New("claim not present")
	}
	return json.Unmarshal(raw, into)
}

// stringOrList reads a claim like "role", of which people have just one, as well as a list.
type stringOrList []string

// UnmarshalJSON implements [json.Unmarshaler].
func (s *stringOrList) UnmarshalJSON(data []byte) error {
	if json.Unmarshal(data, (*[]string)(s)) == nil {
		return nil
	}
	var one string
	if err := json.Unmarshal(data, &one); err != nil {
		return err
	}
	*s = []string{one}
	return nil
}
