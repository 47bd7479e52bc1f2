package authn

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff/pkg/apiserver/lookup"
	"skiff/pkg/apiserver/request"
)

const issuerURL = "https://kubernetes.default.svc.cluster.local"

var testKeys = sync.OnceValue(func() map[string]*Key {
	keys := map[string]*Key{}
	add := func(name string, private any, err error) {
		if err == nil {
			keys[name], err = NewKey(private)
		}
		if err != nil {
			panic(err)
		}
	}
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	add("RS256", rs, err)
	es, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	add("ES256", es, err)
	es, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	add("ES384", es, err)
	return keys
})

func meta(namespace, name, uid string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(uid)}
}

// issuance is an issuer and a verifier over one fake cluster, which has the service
// account ns/sa, its pod ns/pod on node, the secret ns/secret, and a foreign pod.
type issuance struct {
	*lookup.Fake
	issuer *Issuer
	tokens *Tokens
}

func newIssuance(t *testing.T, change func(*IssuerConfig, *TokensConfig)) *issuance {
	t.Helper()
	f := lookup.NewFake(
		&corev1.ServiceAccount{ObjectMeta: meta("ns", "sa", "sa-uid")},
		&corev1.Pod{ObjectMeta: meta("ns", "pod", "pod-uid"), Spec: corev1.PodSpec{ServiceAccountName: "sa", NodeName: "node"}},
		&corev1.Pod{ObjectMeta: meta("ns", "foreign", "foreign-uid"), Spec: corev1.PodSpec{ServiceAccountName: "other", NodeName: "node"}},
		&corev1.Secret{ObjectMeta: meta("ns", "secret", "secret-uid")},
		&corev1.Node{ObjectMeta: meta("", "node", "node-uid")},
	)
	sign := IssuerConfig{Issuer: issuerURL, Key: testKeys()["ES256"], Audiences: []string{"api"}, Objects: f}
	verify := TokensConfig{Issuers: []string{issuerURL}, Keys: []*Key{testKeys()["ES256"]}, Audiences: []string{"api"}, Objects: f}
	if change != nil {
		change(&sign, &verify)
	}
	issuer, err := NewIssuer(sign)
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := NewTokens(verify)
	if err != nil {
		t.Fatal(err)
	}
	return &issuance{f, issuer, tokens}
}

func boundRef(kind, name, uid string) *authenticationv1.BoundObjectReference {
	return &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: kind, Name: name, UID: types.UID(uid)}
}

func (i *issuance) token(t *testing.T, spec authenticationv1.TokenRequestSpec) string {
	t.Helper()
	answer, err := i.issuer.Request(t.Context(), "ns", "sa", &authenticationv1.TokenRequest{Spec: spec}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return answer.Status.Token
}

func TestTokenRoundTrip(t *testing.T) {
	for name, key := range testKeys() {
		i := newIssuance(t, func(s *IssuerConfig, v *TokensConfig) { s.Key, v.Keys = key, []*Key{testKeys()["ES256"], key} })
		noted := map[string]string{}
		ctx := request.WithAnnotate(t.Context(), func(key, value string) { noted[key] = value })
		answer, err := i.issuer.Request(ctx, "ns", "sa", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: boundRef("Pod", "pod", "pod-uid")}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		token := answer.Status.Token
		for range 2 { // the second time from memory
			user, audiences, err := i.tokens.Authenticate(t.Context(), token, nil)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			id := user.Extra[credentialID]
			if len(id) != 1 || noted["authentication.kubernetes.io/issued-credential-id"] != id[0] || !strings.HasPrefix(id[0], "JTI=") || len(id[0]) != len("JTI=")+36 {
				t.Errorf("%s: credential id %v", name, id)
			}
			want := &request.User{Name: "system:serviceaccount:ns:sa", UID: "sa-uid", Groups: []string{"system:serviceaccounts", "system:serviceaccounts:ns"},
				Extra: map[string][]string{
					"authentication.kubernetes.io/pod-name":  {"pod"},
					"authentication.kubernetes.io/pod-uid":   {"pod-uid"},
					"authentication.kubernetes.io/node-name": {"node"},
					"authentication.kubernetes.io/node-uid":  {"node-uid"},
					credentialID:                             id,
				}}
			if !reflect.DeepEqual(user, want) || !slices.Equal(audiences, []string{"api"}) {
				t.Errorf("%s: %+v for %v", name, user, audiences)
			}
		}
	}
}

// The claims are those of Kubernetes, by name.
func TestTokenClaims(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuance(t, nil)
		parsed, err := jwt.ParseSigned(i.token(t, authenticationv1.TokenRequestSpec{BoundObjectRef: boundRef("Pod", "pod", "")}), algorithms)
		if err != nil {
			t.Fatal(err)
		}
		var claims map[string]any
		if err := parsed.UnsafeClaimsWithoutVerification(&claims); err != nil {
			t.Fatal(err)
		}
		now := float64(time.Now().Unix())
		delete(claims, "jti")
		want := map[string]any{
			"iss": issuerURL, "sub": "system:serviceaccount:ns:sa", "aud": []any{"api"}, "exp": now + 3600, "iat": now, "nbf": now,
			"kubernetes.io": map[string]any{
				"namespace":      "ns",
				"serviceaccount": map[string]any{"name": "sa", "uid": "sa-uid"},
				"pod":            map[string]any{"name": "pod", "uid": "pod-uid"},
				"node":           map[string]any{"name": "node", "uid": "node-uid"},
			},
		}
		if !reflect.DeepEqual(claims, want) {
			t.Errorf("%v", claims)
		}
	})
}

func TestTokenDiesWithWhatItIsBoundTo(t *testing.T) {
	for _, c := range []struct {
		name   string
		ref    *authenticationv1.BoundObjectReference
		change func(*issuance)
		want   string
	}{
		{"nothing happened", boundRef("Pod", "pod", ""), func(*issuance) {}, ""},
		{"pod gone", boundRef("Pod", "pod", ""), func(i *issuance) { i.Remove(&corev1.Pod{ObjectMeta: meta("ns", "pod", "")}) }, "service account token has been invalidated"},
		{"pod replaced", boundRef("Pod", "pod", ""), func(i *issuance) { i.Put(&corev1.Pod{ObjectMeta: meta("ns", "pod", "new")}) },
			"pod UID (new) does not match service account pod ref claim (pod-uid)"},
		{"pod being deleted", boundRef("Pod", "pod", ""), func(i *issuance) { i.Put(&corev1.Pod{ObjectMeta: deletedAt("ns", "pod", "pod-uid", time.Now())}) }, ""},
		{"pod deleted long ago", boundRef("Pod", "pod", ""),
			func(i *issuance) {
				i.Put(&corev1.Pod{ObjectMeta: deletedAt("ns", "pod", "pod-uid", time.Now().Add(-2*time.Minute))})
			}, "service account token has been invalidated"},
		{"node of the pod gone", boundRef("Pod", "pod", ""), func(i *issuance) { i.Remove(&corev1.Node{ObjectMeta: meta("", "node", "")}) }, ""},
		{"node gone", boundRef("Node", "node", ""), func(i *issuance) { i.Remove(&corev1.Node{ObjectMeta: meta("", "node", "")}) }, "service account token has been invalidated"},
		{"node replaced", boundRef("Node", "node", ""), func(i *issuance) { i.Put(&corev1.Node{ObjectMeta: meta("", "node", "new")}) },
			"node UID (new) does not match service account node ref claim (node-uid)"},
		{"secret gone", boundRef("Secret", "secret", ""), func(i *issuance) { i.Remove(&corev1.Secret{ObjectMeta: meta("ns", "secret", "")}) }, "service account token has been invalidated"},
		{"secret replaced", boundRef("Secret", "secret", ""), func(i *issuance) { i.Put(&corev1.Secret{ObjectMeta: meta("ns", "secret", "new")}) },
			"secret UID (new) does not match service account secret ref claim (secret-uid)"},
		{"account gone", nil, func(i *issuance) { i.Remove(&corev1.ServiceAccount{ObjectMeta: meta("ns", "sa", "")}) }, `serviceaccounts "sa" not found`},
		{"account replaced", nil, func(i *issuance) { i.Put(&corev1.ServiceAccount{ObjectMeta: meta("ns", "sa", "new")}) }, "service account UID (new) does not match claim (sa-uid)"},
		{"account deleted", nil, func(i *issuance) {
			i.Put(&corev1.ServiceAccount{ObjectMeta: deletedAt("ns", "sa", "sa-uid", time.Now().Add(-2*time.Minute))})
		}, "service account ns/sa has been deleted"},
		{"expired", nil, func(*issuance) { time.Sleep(time.Hour + leeway + time.Second) }, "service account token has expired"},
		{"not quite expired", nil, func(*issuance) { time.Sleep(time.Hour) }, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			i := newIssuance(t, nil)
			token := i.token(t, authenticationv1.TokenRequestSpec{BoundObjectRef: c.ref})
			if _, _, err := i.tokens.Authenticate(t.Context(), token, nil); err != nil {
				t.Errorf("%s: at first: %v", c.name, err)
			}
			c.change(i)
			if _, _, err := i.tokens.Authenticate(t.Context(), token, nil); text(err) != c.want {
				t.Errorf("%s: %v", c.name, err)
			}
		})
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func deletedAt(namespace, name, uid string, at time.Time) metav1.ObjectMeta {
	m := meta(namespace, name, uid)
	m.DeletionTimestamp = &metav1.Time{Time: at}
	return m
}

func TestForgedTokens(t *testing.T) {
	i := newIssuance(t, nil)
	good := i.token(t, authenticationv1.TokenRequestSpec{})
	parts := strings.Split(good, ".")
	otherKey := newIssuance(t, func(s *IssuerConfig, _ *TokensConfig) { s.Key = testKeys()["RS256"] }).token(t, authenticationv1.TokenRequestSpec{})
	otherIssuer := newIssuance(t, func(s *IssuerConfig, _ *TokensConfig) { s.Issuer = "https://elsewhere" }).token(t, authenticationv1.TokenRequestSpec{})
	// A verifier that used the public key as an HMAC secret would take this one.
	der, err := x509.MarshalPKIXPublicKey(testKeys()["ES256"].Public)
	if err != nil {
		t.Fatal(err)
	}
	hmac, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: der}, nil)
	if err != nil {
		t.Fatal(err)
	}
	confused, err := jwt.Signed(hmac).Claims(jwt.Claims{Issuer: issuerURL, Audience: jwt.Audience{"api"}}).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]string{
		"empty":           "",
		"no token":        "abc",
		"JSON":            `{"iss":"` + issuerURL + `"}`,
		"unsigned":        "eyJhbGciOiJub25lIn0." + parts[1] + ".",
		"no signature":    parts[0] + "." + parts[1] + ".",
		"other signature": parts[0] + "." + parts[1] + "." + strings.Split(otherKey, ".")[2],
		"other content":   parts[0] + "." + strings.Split(otherKey, ".")[1] + "." + parts[2],
		"other key":       otherKey,
		"other issuer":    otherIssuer,
		"symmetric":       confused,
	} {
		if user, _, err := i.tokens.Authenticate(t.Context(), token, nil); err == nil {
			t.Errorf("%s: accepted as %+v", name, user)
		}
	}
	if len(i.tokens.verified) != 0 {
		t.Error("a forged token is remembered")
	}
}

func TestAudiences(t *testing.T) {
	i := newIssuance(t, nil)
	token := i.token(t, authenticationv1.TokenRequestSpec{Audiences: []string{"vault", "api"}})
	for _, c := range []struct {
		wanted, matching []string
	}{
		{nil, []string{"api"}}, {[]string{"vault"}, []string{"vault"}}, {[]string{"x", "api", "vault"}, []string{"vault", "api"}}, {[]string{"x"}, nil},
	} {
		_, matching, err := i.tokens.Authenticate(t.Context(), token, c.wanted)
		if (err == nil) != (c.matching != nil) || !slices.Equal(matching, c.matching) {
			t.Errorf("%v: %v %v", c.wanted, matching, err)
		}
	}
	foreign := i.token(t, authenticationv1.TokenRequestSpec{Audiences: []string{"vault"}})
	if _, _, err := i.tokens.Authenticate(t.Context(), foreign, nil); text(err) != `token audiences ["vault"] is invalid for the target audiences ["api"]` {
		t.Error(err)
	}
}

func TestMemoryOfTokensIsBounded(t *testing.T) {
	i := newIssuance(t, nil)
	token := i.token(t, authenticationv1.TokenRequestSpec{})
	for n := range verifiedLimit {
		i.tokens.verified[[32]byte{byte(n), byte(n >> 8)}] = &claims{}
	}
	if _, _, err := i.tokens.Authenticate(t.Context(), token, nil); err != nil || len(i.tokens.verified) > verifiedLimit {
		t.Error(len(i.tokens.verified), err)
	}
}

func TestTokenRequests(t *testing.T) {
	seconds := func(n int64) *int64 { return &n }
	for _, c := range []struct {
		name string
		req  authenticationv1.TokenRequest
		want string
	}{
		{"defaults", authenticationv1.TokenRequest{}, ""},
		{"ten minutes", authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: seconds(600)}}, ""},
		{"too short", authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: seconds(599)}},
			`TokenRequest.authentication.k8s.io "" is invalid: spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes`},
		{"too long", authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: seconds(1<<32 + 1)}}, "may not specify a duration larger than 2^32 seconds"},
		{"other name", authenticationv1.TokenRequest{ObjectMeta: meta("", "x", "")}, "metadata.name: Invalid value: \"x\": must match the service account name if specified"},
		{"other namespace", authenticationv1.TokenRequest{ObjectMeta: meta("x", "", "")}, "must match the service account namespace if specified"},
		{"other account", authenticationv1.TokenRequest{ObjectMeta: meta("", "", "x")}, "the UID in the token request (x) does not match the UID of the service account (sa-uid)"},
		{"foreign pod", authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: boundRef("Pod", "foreign", "")}},
			`cannot bind token for serviceaccount "sa" to pod running with different serviceaccount name.`},
		{"missing pod", authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: boundRef("Pod", "gone", "")}}, `pods "gone" not found`},
		{"older pod", authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: boundRef("Pod", "pod", "old")}},
			"the UID in the bound object reference (old) does not match the UID in record. The object might have been deleted and then recreated"},
		{"other kind", authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: boundRef("ConfigMap", "x", "")}}, "cannot bind token to object of type /v1, Kind=ConfigMap"},
	} {
		i := newIssuance(t, nil)
		out, err := i.issuer.Request(t.Context(), "ns", "sa", &c.req, nil)
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if err != nil || out.Name != "sa" || out.Namespace != "ns" || out.Status.Token == "" || out.Status.ExpirationTimestamp.IsZero() {
			t.Errorf("%s: %+v %v", c.name, out, err)
		}
	}
}

func TestLifetimes(t *testing.T) {
	hour := int64(extendedRequest)
	for _, c := range []struct {
		name           string
		max            time.Duration
		pod            bool
		audience       string
		status, really int64
		warns          bool
	}{
		{"extended", 0, true, "", hour, extendedExpiration, true},
		{"not a pod's", 0, false, "", hour, hour, false},
		{"for others", 0, true, "vault", hour, hour, false},
		{"extended up to the limit", 24 * time.Hour, true, "", hour, 24 * 3600, true},
		{"shortened", 20 * time.Minute, true, "", 1200, 1200, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			i := newIssuance(t, func(s *IssuerConfig, _ *TokensConfig) { s.ExtendExpiration, s.MaxExpiration = true, c.max })
			spec := authenticationv1.TokenRequestSpec{ExpirationSeconds: &hour}
			if c.pod {
				spec.BoundObjectRef = boundRef("Pod", "pod", "")
			}
			if c.audience != "" {
				spec.Audiences = []string{c.audience}
			}
			var warnings []string
			ctx := request.WithWarn(t.Context(), func(w string) { warnings = append(warnings, w) })
			out, err := i.issuer.Request(ctx, "ns", "sa", &authenticationv1.TokenRequest{Spec: spec}, nil)
			if err != nil {
				t.Fatal(err)
			}
			parsed, err := jwt.ParseSigned(out.Status.Token, algorithms)
			if err != nil {
				t.Fatal(err)
			}
			var public jwt.Claims
			var private kubernetesClaims
			if err := parsed.Claims(testKeys()["ES256"].Public, &public, &private); err != nil {
				t.Fatal(err)
			}
			now := time.Now().Unix()
			if got := out.Status.ExpirationTimestamp.Unix() - now; got != c.status {
				t.Errorf("%s: the status says %d s", c.name, got)
			}
			if got := public.Expiry.Time().Unix() - now; got != c.really {
				t.Errorf("%s: the token holds %d s", c.name, got)
			}
			if warns := private.Kubernetes.WarnAfter; (warns != nil) != c.warns || warns != nil && warns.Time().Unix()-now != hour {
				t.Errorf("%s: warns after %v", c.name, warns)
			}
			if shortened := c.status < hour; shortened != (len(warnings) == 1) {
				t.Errorf("%s: %v", c.name, warnings)
			}
		})
	}
}

func TestReadKeys(t *testing.T) {
	key := testKeys()["ES256"]
	private, err := x509.MarshalPKCS8PrivateKey(key.Private)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(testKeys()["RS256"].Public)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "keys.pem")
	data := slices.Concat(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	keys, err := ReadKeys(path)
	if err != nil || len(keys) != 2 || keys[0].ID != key.ID || keys[0].Private == nil || keys[1].Private != nil || keys[1].Algorithm != jose.RS256 {
		t.Error(keys, err)
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadKeys(empty); err == nil {
		t.Error("a file without keys was read")
	}
}

func TestDiscovery(t *testing.T) {
	d, err := NewDiscovery(issuerURL, "", "10.0.0.1:6443", []*Key{testKeys()["RS256"], testKeys()["ES256"]})
	if err != nil {
		t.Fatal(err)
	}
	get := func(path, contentType string, into any) {
		t.Helper()
		w := httptest.NewRecorder()
		d.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if got := w.Header().Get("Content-Type"); got != contentType || w.Header().Get("Cache-Control") != "public, max-age=3600" {
			t.Errorf("%s: %v", path, w.Header())
		}
		if err := json.Unmarshal(w.Body.Bytes(), into); err != nil {
			t.Fatal(err)
		}
	}
	var metadata map[string]any
	get(DiscoveryPath, "application/json", &metadata)
	if want := map[string]any{
		"issuer": issuerURL, "jwks_uri": "https://10.0.0.1:6443/openid/v1/jwks", "response_types_supported": []any{"id_token"},
		"subject_types_supported": []any{"public"}, "id_token_signing_alg_values_supported": []any{"ES256", "RS256"},
	}; !reflect.DeepEqual(metadata, want) {
		t.Error(metadata)
	}
	var keys jose.JSONWebKeySet
	get(KeysPath, "application/jwk-set+json", &keys)
	if len(keys.Keys) != 2 {
		t.Fatal(keys)
	}
	// A stranger can verify a token with what is published.
	token, err := jwt.ParseSigned(newIssuance(t, nil).token(t, authenticationv1.TokenRequestSpec{}), algorithms)
	if err != nil {
		t.Fatal(err)
	}
	var claims jwt.Claims
	if err := token.Claims(keys.Key(token.Headers[0].KeyID)[0].Key, &claims); err != nil || claims.Subject != "system:serviceaccount:ns:sa" {
		t.Error(claims, err)
	}
	for _, issuer := range []string{"", "http://x", "https://x?y", "https://x#y", "kubernetes/serviceaccount"} {
		if _, err := NewDiscovery(issuer, "", "h", nil); err == nil {
			t.Errorf("issuer %q was accepted", issuer)
		}
	}
}

func TestReviewToken(t *testing.T) {
	i := newIssuance(t, nil)
	a := New(Config{Tokens: i.tokens})
	ask := func(token string, audiences ...string) authenticationv1.TokenReviewStatus {
		t.Helper()
		out, err := a.ReviewToken(t.Context(), &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: audiences}})
		if err != nil {
			t.Fatal(err)
		}
		return out.Status
	}
	token := i.token(t, authenticationv1.TokenRequestSpec{})
	status := ask(token)
	if !status.Authenticated || status.User.Username != "system:serviceaccount:ns:sa" || !slices.Contains(status.User.Groups, request.Authenticated) || !slices.Equal(status.Audiences, []string{"api"}) {
		t.Errorf("%+v", status)
	}
	for _, status := range []authenticationv1.TokenReviewStatus{ask("x"), ask(token, "vault")} {
		if status.Authenticated || status.Error == "" || status.User.Username != "" {
			t.Errorf("%+v", status)
		}
	}
	if _, err := a.ReviewToken(t.Context(), &authenticationv1.TokenReview{}); err == nil {
		t.Error("no token was needed")
	}
	self, err := ReviewSelf(request.WithUser(t.Context(), &request.User{Name: "u", Extra: map[string][]string{"k": {"v"}}}))
	if err != nil || self.Status.UserInfo.Username != "u" || self.Status.UserInfo.Extra["k"][0] != "v" || self.CreationTimestamp.IsZero() {
		t.Error(self, err)
	}
}
