package authn

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"

	"github.com/go-jose/go-jose/v4"
)

// algorithms are the signatures accepted on service account tokens.
var algorithms = []jose.SignatureAlgorithm{jose.RS256, jose.ES256, jose.ES384, jose.ES512}

// Key is a key that service account tokens are signed or verified with.
type Key struct {
	ID        string // of the public half; derived from it, as Kubernetes does
	Algorithm jose.SignatureAlgorithm
	Public    crypto.PublicKey
	Private   crypto.Signer // nil when only the public half is known
}

// NewKey returns the Key of an RSA or ECDSA key, public or private.
func NewKey(key any) (*Key, error) {
	k := &Key{}
	if signer, ok := key.(crypto.Signer); ok {
		k.Private = signer
		key = signer.Public()
	}
	k.Public = key
	switch public := key.(type) {
	case *rsa.PublicKey:
		k.Algorithm = jose.RS256
	case *ecdsa.PublicKey:
		switch public.Curve {
		case elliptic.P256():
			k.Algorithm = jose.ES256
		case elliptic.P384():
			k.Algorithm = jose.ES384
		case elliptic.P521():
			k.Algorithm = jose.ES512
		default:
			return nil, fmt.Errorf("unknown private key curve, must be 256, 384, or 521")
		}
	default:
		return nil, fmt.Errorf("unknown key type %T, must be RSA or ECDSA", key)
	}
	der, err := x509.MarshalPKIXPublicKey(k.Public)
	if err != nil {
		return nil, fmt.Errorf("failed to serialize public key to DER format: %w", err)
	}
	hash := sha256.Sum256(der)
	k.ID = base64.RawURLEncoding.EncodeToString(hash[:])
	return k, nil
}

// ReadKeys returns all keys in PEM files: public keys, private keys and certificates.
func ReadKeys(paths ...string) ([]*Key, error) {
	var keys []*Key
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("service account key: %w", err)
		}
		before := len(keys)
		for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
			parsed, err := parseKey(block)
			if err != nil {
				return nil, fmt.Errorf("service account key %s: %w", path, err)
			}
			if parsed == nil {
				continue // EC PARAMETERS and the like
			}
			key, err := NewKey(parsed)
			if err != nil {
				return nil, fmt.Errorf("service account key %s: %w", path, err)
			}
			keys = append(keys, key)
		}
		if len(keys) == before {
			return nil, fmt.Errorf("service account key %s: data does not contain a valid RSA or ECDSA key", path)
		}
	}
	return keys, nil
}

func parseKey(block *pem.Block) (any, error) {
	switch block.Type {
	case "RSA PRIVATE KEY":
		return x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		return x509.ParseECPrivateKey(block.Bytes)
	case "PRIVATE KEY":
		return x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PUBLIC KEY":
		return x509.ParsePKCS1PublicKey(block.Bytes)
	case "PUBLIC KEY":
		return x509.ParsePKIXPublicKey(block.Bytes)
	case "CERTIFICATE":
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		return cert.PublicKey, nil
	}
	return nil, nil
}

func (k *Key) jwk() jose.JSONWebKey {
	return jose.JSONWebKey{Key: k.Public, KeyID: k.ID, Algorithm: string(k.Algorithm), Use: "sig"}
}
