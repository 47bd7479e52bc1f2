package authn

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"skiff/pkg/apiserver/request"
)

// credentialID is the key in a user's extra that names the certificate or token used.
const credentialID = "authentication.kubernetes.io/credential-id"

// uidOID marks the UID within a client certificate's subject.
// https://kubernetes.io/docs/reference/access-authn-authz/authentication/#x509-client-certificates
var uidOID = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57683, 2}

// Certificates recognizes users by client certificates: the subject's common name is
// the user, its organizations are the groups. The file of certificate authorities is
// read again when it changes.
type Certificates struct {
	path string

	mu       sync.Mutex
	checked  time.Time // when the file was last looked at
	stamp    fileStamp
	pool     *x509.CertPool
	verified map[[sha256.Size]byte]verifiedCertificate
}

type fileStamp struct {
	modified time.Time
	size     int64
}

type verifiedCertificate struct {
	user   *request.User
	expiry time.Time
}

// verifiedLimit bounds how many certificates are remembered.
const verifiedLimit = 4096

// NewCertificates returns a Certificates that trusts the authorities in a PEM file.
func NewCertificates(path string) (*Certificates, error) {
	c := &Certificates{path: path}
	if err := c.load(); err != nil {
		return nil, err
	}
	c.checked = time.Now()
	return c, nil
}

// load reads the file if it changed. The caller holds mu, or nobody else has c.
func (c *Certificates) load() error {
	info, err := os.Stat(c.path)
	if err != nil {
		return fmt.Errorf("client CA file: %w", err)
	}
	stamp := fileStamp{info.ModTime(), info.Size()}
	if c.pool != nil && stamp == c.stamp {
		return nil
	}
	data, err := os.ReadFile(c.path)
	if err != nil {
		return fmt.Errorf("client CA file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return fmt.Errorf("client CA file %s holds no certificate", c.path)
	}
	c.stamp, c.pool, c.verified = stamp, pool, map[[sha256.Size]byte]verifiedCertificate{}
	return nil
}

// refresh looks at the file once a second at most. A file that can't be read, or is
// being written, leaves the authorities as they are. The caller holds mu.
func (c *Certificates) refresh(now time.Time) {
	if now.Sub(c.checked) < time.Second {
		return
	}
	c.checked = now
	if err := c.load(); err != nil {
		slog.Warn("keeping the client CAs as they were", "error", err)
	}
}

// Pool returns the authorities, for a TLS server to name to its clients.
func (c *Certificates) Pool() *x509.CertPool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refresh(time.Now())
	return c.pool
}

// Verify returns the user that a chain of certificates, as a client presented it,
// stands for; nil without an error when the certificate is good but names nobody.
func (c *Certificates) Verify(chain []*x509.Certificate) (*request.User, error) {
	leaf, now := chain[0], time.Now()
	fingerprint := sha256.Sum256(leaf.Raw)

	c.mu.Lock()
	c.refresh(now)
	pool := c.pool
	known, ok := c.verified[fingerprint]
	c.mu.Unlock()
	if ok && now.Before(known.expiry) {
		return known.user, nil
	}

	options := x509.VerifyOptions{
		Roots:         pool,
		Intermediates: x509.NewCertPool(),
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		CurrentTime:   now,
	}
	for _, cert := range chain[1:] {
		options.Intermediates.AddCert(cert)
	}
	chains, err := leaf.Verify(options)
	if err != nil {
		return nil, fmt.Errorf("verifying certificate SN=%s, CN=%s failed: %w", leaf.SerialNumber, leaf.Subject.CommonName, err)
	}
	user, err := certificateUser(leaf, fingerprint)
	if err != nil || user == nil {
		return nil, err
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pool == pool {
		if len(c.verified) >= verifiedLimit {
			clear(c.verified)
		}
		c.verified[fingerprint] = verifiedCertificate{user, earliestExpiry(chains)}
	}
	return user, nil
}

// earliestExpiry is until when at least one of the chains stays good.
func earliestExpiry(chains [][]*x509.Certificate) time.Time {
	var latest time.Time
	for _, chain := range chains {
		expiry := chain[0].NotAfter
		for _, cert := range chain {
			if cert.NotAfter.Before(expiry) {
				expiry = cert.NotAfter
			}
		}
		if expiry.After(latest) {
			latest = expiry
		}
	}
	return latest
}

func certificateUser(cert *x509.Certificate, fingerprint [sha256.Size]byte) (*request.User, error) {
	if cert.Subject.CommonName == "" {
		return nil, nil
	}
	var uids []string
	for _, name := range cert.Subject.Names {
		if !name.Type.Equal(uidOID) {
			continue
		}
		uid, ok := name.Value.(string)
		if !ok {
			return nil, errors.New("unable to parse UID into a string")
		}
		uids = append(uids, uid)
	}
	user := &request.User{
		Name:   cert.Subject.CommonName,
		Groups: cert.Subject.Organization,
		Extra:  map[string][]string{credentialID: {"X509SHA256=" + hex.EncodeToString(fingerprint[:])}},
	}
	switch {
	case len(uids) > 1:
		return nil, fmt.Errorf("expected 1 UID, but found multiple: %v", uids)
	case len(uids) == 1 && uids[0] == "":
		return nil, errors.New("UID cannot be an empty string")
	case len(uids) == 1:
		user.UID = uids[0]
	}
	return user, nil
}
