package authn

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	authenticationv1 "k8s.io/api/authentication/v1"

	"skiff/pkg/apiserver/request"
)

// testIssuer is an OpenID issuer on loopback.
type testIssuer struct {
	*httptest.Server
	caFile  string
	keys    atomic.Pointer[jose.JSONWebKeySet]
	fetched atomic.Int64
}

func newTestIssuer(t *testing.T) *testIssuer {
	t.Helper()
	i := &testIssuer{caFile: filepath.Join(t.TempDir(), "ca.crt")}
	i.keys.Store(&jose.JSONWebKeySet{Keys: []jose.JSONWebKey{testKeys()["RS256"].jwk(), testKeys()["ES256"].jwk()}})
	mux := http.NewServeMux()
	mux.HandleFunc(DiscoveryPath, func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(map[string]any{"issuer": i.URL, "jwks_uri": i.URL + "/keys"}) //nolint:errcheck // the client is gone
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		i.fetched.Add(1)
		json.NewEncoder(w).Encode(i.keys.Load()) //nolint:errcheck // the client is gone
	})
	i.Server = httptest.NewTLSServer(mux)
	t.Cleanup(i.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.Certificate().Raw})
	if err := os.WriteFile(i.caFile, ca, 0o600); err != nil {
		t.Fatal(err)
	}
	return i
}

// sign makes a token with the usual claims, changed by more; nil takes one away.
func (i *testIssuer) sign(t *testing.T, key *Key, more map[string]any) string {
	t.Helper()
	claims := map[string]any{"iss": i.URL, "aud": "client", "sub": "jane", "exp": time.Now().Add(time.Hour).Unix()}
	maps.Copy(claims, more)
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: key.Algorithm, Key: jose.JSONWebKey{Key: key.Private, KeyID: key.ID}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// recognizer returns an OIDC that knows the issuer's keys.
func (i *testIssuer) recognizer(t *testing.T, change func(*OIDCConfig)) *OIDC {
	t.Helper()
	config := OIDCConfig{IssuerURL: i.URL, ClientID: "client", CAFile: i.caFile, UsernameClaim: "sub"}
	if change != nil {
		change(&config)
	}
	o, err := NewOIDC(config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.Authenticate(t.Context(), i.sign(t, testKeys()["RS256"], nil)); err == nil || !strings.Contains(err.Error(), "not initialized") {
		t.Errorf("before the issuer was reached: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- o.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	for o.verifier.Load() == nil {
		select {
		case err := <-ended:
			t.Fatal(err)
		case <-time.After(time.Millisecond):
		}
	}
	return o
}

func TestOIDC(t *testing.T) {
	issuer := newTestIssuer(t)
	full := func(c *OIDCConfig) {
		c.UsernameClaim, c.GroupsClaim, c.GroupsPrefix = "email", "roles", "corp:"
		c.RequiredClaims = map[string]string{"tenant": "a"}
	}
	mail := map[string]any{"email": "jane@example.com", "tenant": "a"}
	with := func(more map[string]any) map[string]any {
		all := maps.Clone(mail)
		maps.Copy(all, more)
		return all
	}
	for what, row := range map[string]struct {
		config func(*OIDCConfig)
		claims map[string]any
		key    string
		want   request.User // empty: refused
		says   string
	}{
		"plain":               {want: request.User{Name: issuer.URL + "#jane"}},
		"own prefix":          {config: func(c *OIDCConfig) { c.UsernamePrefix = "x:" }, want: request.User{Name: "x:jane"}},
		"no prefix":           {config: func(c *OIDCConfig) { c.UsernamePrefix = "-" }, want: request.User{Name: "jane"}},
		"several audiences":   {claims: map[string]any{"aud": []string{"other", "client"}}, want: request.User{Name: issuer.URL + "#jane"}},
		"another audience":    {claims: map[string]any{"aud": "other"}, says: "oidc: verify token"},
		"expired":             {claims: map[string]any{"exp": time.Now().Add(-time.Minute).Unix()}, says: "expired"},
		"not yet":             {claims: map[string]any{"nbf": time.Now().Add(time.Hour).Unix()}, says: "nbf"},
		"no user":             {claims: map[string]any{"sub": nil}, says: `parse username claims "sub": claim not present`},
		"a user of numbers":   {config: func(c *OIDCConfig) { c.UsernameClaim = "n" }, claims: map[string]any{"n": 7}, says: `parse username claims "n"`},
		"another algorithm":   {key: "ES256", says: "unexpected signature algorithm"},
		"allowed algorithm":   {config: func(c *OIDCConfig) { c.SigningAlgs = []string{"ES256"} }, key: "ES256", want: request.User{Name: issuer.URL + "#jane"}},
		"a key of others":     {config: func(c *OIDCConfig) { c.SigningAlgs = []string{"ES384"} }, key: "ES384", says: "failed to verify"},
		"email, no groups":    {config: full, claims: mail, want: request.User{Name: "jane@example.com"}},
		"groups":              {config: full, claims: with(map[string]any{"roles": []string{"dev", "ops"}}), want: request.User{Name: "jane@example.com", Groups: []string{"corp:dev", "corp:ops"}}},
		"one group":           {config: full, claims: with(map[string]any{"roles": "dev", "email_verified": true}), want: request.User{Name: "jane@example.com", Groups: []string{"corp:dev"}}},
		"groups of numbers":   {config: full, claims: with(map[string]any{"roles": 1}), says: `parse groups claim "roles"`},
		"an unverified email": {config: full, claims: with(map[string]any{"email_verified": false}), says: "oidc: email not verified"},
		"a claim missing":     {config: full, claims: with(map[string]any{"tenant": nil}), says: "oidc: required claim tenant not present in ID token"},
		"another value":       {config: full, claims: with(map[string]any{"tenant": "b"}), says: "oidc: required claim tenant value does not match. Got = b, want = a"},
	} {
		t.Run(what, func(t *testing.T) {
			o := issuer.recognizer(t, row.config)
			key := testKeys()["RS256"]
			if row.key != "" {
				key = testKeys()[row.key]
			}
			user, err := o.Authenticate(t.Context(), issuer.sign(t, key, row.claims))
			switch {
			case row.says != "":
				if err == nil || !strings.Contains(err.Error(), row.says) {
					t.Errorf("%v, %v", user, err)
				}
			case err != nil:
				t.Error(err)
			case user.Name != row.want.Name || !slices.Equal(user.Groups, row.want.Groups):
				t.Errorf("%+v", user)
			}
		})
	}
}

// The issuer's keys are fetched when a token names one that isn't known; and beside the issuer the server's own tokens are good.
func TestOIDCBesideOthers(t *testing.T) {
	issuer := newTestIssuer(t)
	o := issuer.recognizer(t, func(c *OIDCConfig) { c.UsernamePrefix, c.SigningAlgs = "-", []string{"RS256", "ES384"} })
	i := newIssuance(t, nil)
	a := New(Config{Tokens: i.tokens, OIDC: o})
	ask := func(token string) (*request.User, error) {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		return a.Authenticate(r)
	}
	token := issuer.sign(t, testKeys()["RS256"], nil)
	if user, err := ask(token); err != nil || user.Name != "jane" || !user.InGroup(request.Authenticated) {
		t.Errorf("%+v, %v", user, err)
	}
	if user, err := ask(i.token(t, authenticationv1.TokenRequestSpec{})); err != nil || user.Name != "system:serviceaccount:ns:sa" {
		t.Errorf("%+v, %v", user, err)
	}
	next := issuer.sign(t, testKeys()["ES384"], nil)
	if _, err := ask(next); err == nil {
		t.Error("a key that the issuer hasn't got")
	}
	issuer.keys.Store(&jose.JSONWebKeySet{Keys: []jose.JSONWebKey{testKeys()["ES384"].jwk()}})
	before := issuer.fetched.Load()
	for begun := time.Now(); time.Since(begun) < time.Minute; { // the fetch before may be about to end: who comes now is given its keys
		if _, err := ask(next); err == nil {
			break
		}
	}
	for range 2 {
		if _, err := ask(next); err != nil {
			t.Errorf("after the issuer changed its key: %v", err)
		}
	}
	if n := issuer.fetched.Load() - before; n != 1 {
		t.Errorf("the keys were fetched %d times", n)
	}
	// Such tokens are for this server's audiences, and no others.
	review := func(audiences ...string) authenticationv1.TokenReviewStatus {
		out, err := a.ReviewToken(t.Context(), &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: next, Audiences: audiences}})
		if err != nil {
			t.Fatal(err)
		}
		return out.Status
	}
	if s := review(); !s.Authenticated || s.User.Username != "jane" || !slices.Equal(s.Audiences, []string{"api"}) {
		t.Errorf("%+v", s)
	}
	if s := review("api", "other"); !s.Authenticated || !slices.Equal(s.Audiences, []string{"api"}) {
		t.Errorf("%+v", s)
	}
	if s := review("other"); s.Authenticated || s.Error == "" {
		t.Errorf("%+v", s)
	}
}

func TestOIDCBadConfigurations(t *testing.T) {
	for what, row := range map[string]struct {
		change func(*OIDCConfig)
		says   string
	}{
		"no client":      {func(c *OIDCConfig) { c.ClientID = "" }, "must be specified together"},
		"http":           {func(c *OIDCConfig) { c.IssuerURL = "http://issuer" }, "must be an https URL"},
		"a query":        {func(c *OIDCConfig) { c.IssuerURL += "?a" }, "must be an https URL"},
		"no claim":       {func(c *OIDCConfig) { c.UsernameClaim = "" }, "a claim"},
		"algorithm none": {func(c *OIDCConfig) { c.SigningAlgs = []string{"none"} }, `unsupported signing alg: "none"`},
		"no authority":   {func(c *OIDCConfig) { c.CAFile = "/dev/null" }, "holds no certificate"},
		"no file":        {func(c *OIDCConfig) { c.CAFile = "/nowhere" }, "no such file"},
	} {
		config := OIDCConfig{IssuerURL: "https://issuer", ClientID: "client", UsernameClaim: "sub"}
		row.change(&config)
		if _, err := NewOIDC(config); err == nil || !strings.Contains(err.Error(), row.says) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
