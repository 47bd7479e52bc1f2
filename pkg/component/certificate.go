package component

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"os"
	"sync"
	"time"
)

type certificateFunc = func(*tls.ClientHelloInfo) (*tls.Certificate, error)

// certificate returns the serving certificate: the files', or a self-signed
// one that lives as long as the process.
func (s *Serving) certificate() (certificateFunc, error) {
	if s.CertFile != "" {
		return ReloadingCertificate(s.CertFile, s.KeyFile)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	host, _ := os.Hostname()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: host},
		DNSNames:     []string{host, "localhost"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().AddDate(1, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	pair := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return pair, nil }, nil
}

// ReloadingCertificate serves a certificate from files, and reads them anew
// when they have changed: at most once a second, and only when somebody
// connects. A pair that can't be read, or doesn't match, keeps the previous one in use.
func ReloadingCertificate(certFile, keyFile string) (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	r := &reloading{certFile: certFile, keyFile: keyFile}
	if _, err := r.get(); err != nil {
		return nil, fmt.Errorf("serving certificate: %w", err)
	}
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return r.get() }, nil
}

// ReloadingClientCertificate is the same for a client's certificate, whose files need not exist
// before they are needed.
func ReloadingClientCertificate(certFile, keyFile string) func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	r := &reloading{certFile: certFile, keyFile: keyFile}
	return func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return r.get() }
}

type reloading struct {
	certFile, keyFile string

	mu       sync.Mutex
	pair     *tls.Certificate
	modified time.Time
	checked  time.Time
}

// get returns the pair. Who writes the files replaces the key first: when the certificate's
// file has changed, both are there.
func (r *reloading) get() (*tls.Certificate, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pair != nil && time.Since(r.checked) < time.Second {
		return r.pair, nil
	}
	r.checked = time.Now()
	info, err := os.Stat(r.certFile)
	if err == nil && (r.pair == nil || !info.ModTime().Equal(r.modified)) {
		var pair tls.Certificate
		if pair, err = tls.LoadX509KeyPair(r.certFile, r.keyFile); err == nil {
			r.pair, r.modified = &pair, info.ModTime()
		}
	}
	if r.pair == nil {
		return nil, err
	}
	return r.pair, nil
}
