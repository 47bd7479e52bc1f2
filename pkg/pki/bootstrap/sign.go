package bootstrap

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
)

// A config map kube-public/cluster-info, which anybody may read, holds a kubeconfig with the
// cluster's address and authority, and signatures of it: one for each token that is for signing.
const (
	ClusterInfo      = "cluster-info"
	ClusterInfoKey   = "kubeconfig"
	SignaturePrefix  = "jws-kubeconfig-"
	signingAlgorithm = "HS256"
)

// header is a JWS header, its fields in the order of their names (RFC 7515).
type header struct {
	Algorithm string `json:"alg"`
	KeyID     string `json:"kid"`
}

// Sign returns the token's signature of content: a JWS without its payload. (Made by hand: go-jose
// refuses keys as short as a token's secret.)
func (t Token) Sign(content string) string {
	// A struct of strings can always be marshalled.
	protected, _ := json.Marshal(header{signingAlgorithm, t.ID})
	head := base64.RawURLEncoding.EncodeToString(protected)
	return head + ".." + base64.RawURLEncoding.EncodeToString(t.mac(head, content))
}

// Verify checks a signature of content by this token.
func (t Token) Verify(content, signature string) error {
	head, rest, ok := strings.Cut(signature, "..")
	mac, err := base64.RawURLEncoding.DecodeString(rest)
	if !ok || err != nil {
		return errors.New("the signature is not a detached JWS")
	}
	protected, err := base64.RawURLEncoding.DecodeString(head)
	if err != nil {
		return errors.New("the signature is not a detached JWS")
	}
	var h header
	if err := json.Unmarshal(protected, &h); err != nil || h.Algorithm != signingAlgorithm || h.KeyID != t.ID {
		return errors.New("the signature was not made with this kind of token")
	}
	if !hmac.Equal(mac, t.mac(head, content)) {
		return errors.New("the signature doesn't match: the token's secret half is another, or the content was changed")
	}
	return nil
}

func (t Token) mac(head, content string) []byte {
	mac := hmac.New(sha256.New, []byte(t.Secret))
	mac.Write([]byte(head + "." + base64.RawURLEncoding.EncodeToString([]byte(content))))
	return mac.Sum(nil)
}
