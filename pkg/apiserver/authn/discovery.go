package authn

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"github.com/go-jose/go-jose/v4"
)

// The paths that [Discovery] serves, which any authenticated service account may read.
const (
	DiscoveryPath = "/.well-known/openid-configuration"
	KeysPath      = "/openid/v1/jwks"
)

// Discovery serves what others need to verify service account tokens: the issuer's metadata and
// its public keys, as OpenID Connect Discovery 1.0 has it.
type Discovery struct{ metadata, keys []byte }

// NewDiscovery returns the Discovery of an issuer, which must be an https URL.
// keysURL is where others find the keys; when empty it is https://<address>/openid/v1/jwks.
func NewDiscovery(issuer, keysURL, address string, keys []*Key) (*Discovery, error) {
	for name, raw := range map[string]string{"issuer": issuer, "JWKS": keysURL} {
		u, err := url.Parse(raw)
		if err != nil {
			return nil, fmt.Errorf("OpenID discovery: %s URL: %w", name, err)
		}
		if raw == "" && name == "JWKS" {
			continue
		}
		if u.Scheme != "https" || u.RawQuery != "" || u.Fragment != "" {
			return nil, fmt.Errorf("OpenID discovery: %s URL must use https scheme and have neither query nor fragment, got: %s", name, raw)
		}
	}
	if keysURL == "" {
		keysURL = (&url.URL{Scheme: "https", Host: address, Path: KeysPath}).String()
	}
	var set jose.JSONWebKeySet
	var algs []string
	for _, key := range keys {
		set.Keys = append(set.Keys, key.jwk())
		algs = append(algs, string(key.Algorithm))
	}
	slices.Sort(algs)
	metadata, err := json.Marshal(struct {
		Issuer        string   `json:"issuer"`
		JWKSURI       string   `json:"jwks_uri"`
		ResponseTypes []string `json:"response_types_supported"`
		SubjectTypes  []string `json:"subject_types_supported"`
		SigningAlgs   []string `json:"id_token_signing_alg_values_supported"`
	}{issuer, keysURL, []string{"id_token"}, []string{"public"}, slices.Compact(algs)})
	if err != nil {
		return nil, err
	}
	keysJSON, err := json.Marshal(set)
	if err != nil {
		return nil, fmt.Errorf("OpenID discovery: %w", err)
	}
	return &Discovery{metadata: metadata, keys: keysJSON}, nil
}

// ServeHTTP serves both paths.
func (d *Discovery) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, contentType := d.metadata, "application/json"
	if r.URL.Path == KeysPath {
		body, contentType = d.keys, "application/jwk-set+json" // RFC 7517, 8.5.1
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "public, max-age=3600")
	w.Write(body) //nolint:errcheck // the client is gone
}
