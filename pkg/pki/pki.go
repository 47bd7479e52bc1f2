// Package pki makes the keys and certificates of a cluster: its certificate
// authorities, the certificates they sign, the key pair that signs service
// account tokens, and the kubeconfigs that carry them.
//
// Keys are ECDSA P-256 (making one takes tens of microseconds; an RSA key a
// tenth of a second). File names and subjects are kubeadm's, so that what an
// operator knows of a Kubernetes control plane holds here as well; see
// https://kubernetes.io/docs/setup/best-practices/certificates/.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/util/cert"
)

// How long what this package signs is valid, unless a Request says otherwise.
const (
	CAValidity   = 10 * 365 * 24 * time.Hour
	LeafValidity = 365 * 24 * time.Hour
)

// Clocks of cluster members may differ: certificates are valid from a little before they are made.
const backdate = 5 * time.Minute

// tolerance is backdate, or less for a short life.
func tolerance(life time.Duration) time.Duration { return min(backdate, life/10) }

// A Pair is a certificate and its private key, PEM-encoded.
type Pair struct {
	Cert, Key []byte
}

// Write stores the pair as FILE.crt and FILE.key, the key readable by its owner only.
func (p Pair) Write(file string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(file+".key", p.Key, 0o600); err != nil {
		return err
	}
	return os.WriteFile(file+".crt", p.Cert, 0o644)
}

// An Authority signs certificates.
type Authority struct {
	Certificate *x509.Certificate
	key         crypto.Signer
	pair        Pair
}

// NewAuthority makes a self-signed authority.
func NewAuthority(commonName string) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: commonName},
		DNSNames:              []string{commonName},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(CAValidity),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageKeyEncipherment | x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	if template.SerialNumber, err = serial(); err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", commonName, err)
	}
	pair, err := encode(der, key)
	if err != nil {
		return nil, err
	}
	return ParseAuthority(pair)
}

// ParseAuthority reads an authority from its certificate and key.
func ParseAuthority(pair Pair) (*Authority, error) {
	block, _ := pem.Decode(pair.Cert)
	if block == nil {
		return nil, fmt.Errorf("no PEM block in the authority's certificate")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, err := ParseKey(pair.Key)
	if err != nil {
		return nil, err
	}
	return &Authority{Certificate: cert, key: key, pair: pair}, nil
}

// LoadAuthority reads FILE.crt and FILE.key.
func LoadAuthority(file string) (*Authority, error) {
	pair, err := Load(file)
	if err != nil {
		return nil, err
	}
	authority, err := ParseAuthority(pair)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return authority, nil
}

// Load reads the pair FILE.crt and FILE.key.
func Load(file string) (Pair, error) {
	cert, err := os.ReadFile(file + ".crt")
	if err != nil {
		return Pair{}, err
	}
	key, err := os.ReadFile(file + ".key")
	if err != nil {
		return Pair{}, err
	}
	return Pair{Cert: cert, Key: key}, nil
}

// Pair is the authority's own certificate and key.
func (a *Authority) Pair() Pair { return a.pair }

// Hash is the pin of the authority, in the form of kubeadm's
// --discovery-token-ca-cert-hash: "sha256:" and the hash of its public key info.
func (a *Authority) Hash() string { return hash(a.Certificate) }

func hash(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Hashes are the pins of the authorities in a PEM bundle, of which there is at least one.
func Hashes(bundle []byte) ([]string, error) {
	certificates, err := cert.ParseCertsPEM(bundle)
	var all []string
	for _, c := range certificates {
		all = append(all, hash(c))
	}
	return all, err
}

// Request describes a certificate.
type Request struct {
	CommonName    string
	Organizations []string
	// Hosts are the DNS names and IP addresses of a server's certificate.
	Hosts          []string
	Client, Server bool
	Validity       time.Duration // 0: LeafValidity
}

// Issue makes a key and signs a certificate for it.
func (a *Authority) Issue(r Request) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, err
	}
	if r.Validity == 0 {
		r.Validity = LeafValidity
	}
	now := time.Now()
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: r.CommonName, Organization: r.Organizations},
		NotBefore: now.Add(-tolerance(r.Validity)),
		NotAfter:  now.Add(r.Validity),
		KeyUsage:  x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
	}
	for _, host := range r.Hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	if r.Client {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	if r.Server {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	if template.SerialNumber, err = serial(); err != nil {
		return Pair{}, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.Certificate, key.Public(), a.key)
	if err != nil {
		return Pair{}, fmt.Errorf("sign %s: %w", r.CommonName, err)
	}
	return encode(der, key)
}

// NewSigningKey makes the key pair that signs service account tokens; Cert
// holds the public key ("PUBLIC KEY", as kubeadm's sa.pub).
func NewSigningKey() (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return Pair{}, err
	}
	private, err := encodeKey(key)
	if err != nil {
		return Pair{}, err
	}
	return Pair{Cert: pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), Key: private}, nil
}

// ParseKey reads a private key in any of the PEM forms that Kubernetes takes.
func ParseKey(data []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("no PEM block in the private key")
	}
	switch block.Type {
	case "EC PRIVATE KEY":
		return x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		return x509.ParsePKCS1PrivateKey(block.Bytes)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("private key of type %q: %w", block.Type, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a key of type %T can't sign", key)
	}
	return signer, nil
}

func encode(der []byte, key *ecdsa.PrivateKey) (Pair, error) {
	private, err := encodeKey(key)
	if err != nil {
		return Pair{}, err
	}
	return Pair{Cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), Key: private}, nil
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

func serial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	return n.Add(n, big.NewInt(1)), nil
}
