package certificates

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	certs "k8s.io/api/certificates/v1"
)

const (
	// backdate is by how much a certificate is valid before it was made, for clocks that are behind.
	backdate = 5 * time.Minute
	// shortest is the shortest validity that is granted.
	shortest = 10 * time.Minute
	// shortLived certificates have the whole time they were granted after they were made.
	shortLived = 8 * time.Hour
)

// Authority is where a signer finds its certificate and key. The files are read for each
// signature, so that they can be replaced.
type Authority struct {
	CertFile, KeyFile string
}

// sign issues the certificate that a request asks for. The usages are the request object's, the names the
// X.509 request's, its extensions are dropped.
func (a Authority) sign(request *x509.CertificateRequest, usages []certs.KeyUsage, validity time.Duration, now time.Time) ([]byte, error) {
	pair, err := tls.LoadX509KeyPair(a.CertFile, a.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("signing authority: %w", err)
	}
	key, ok := pair.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("signing authority: %s can't sign", a.KeyFile)
	}
	parent := pair.Leaf
	if !now.Before(parent.NotAfter) {
		return nil, fmt.Errorf("refusing to sign a certificate that expired in the past: NotAfter=%v", parent.NotAfter)
	}
	if err := request.CheckSignature(); err != nil {
		return nil, fmt.Errorf("unable to verify certificate request signature: %w", err)
	}
	template := &x509.Certificate{
		Subject:               request.Subject,
		DNSNames:              request.DNSNames,
		IPAddresses:           request.IPAddresses,
		EmailAddresses:        request.EmailAddresses,
		URIs:                  request.URIs,
		BasicConstraintsValid: true,
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(validity),
	}
	if validity >= shortLived {
		template.NotAfter = template.NotAfter.Add(-backdate)
	}
	if template.NotAfter.After(parent.NotAfter) {
		template.NotAfter = parent.NotAfter
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 128)); err != nil {
		return nil, err
	}
	if template.KeyUsage, template.ExtKeyUsage, err = translate(usages); err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, request.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("failed to sign certificate: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// validity is what was asked for, between the shortest and the longest.
func validity(seconds *int32, longest time.Duration) time.Duration {
	if seconds == nil {
		return longest
	}
	return min(longest, max(shortest, time.Duration(*seconds)*time.Second))
}

var keyUsages = map[certs.KeyUsage]x509.KeyUsage{
	certs.UsageSigning:           x509.KeyUsageDigitalSignature,
	certs.UsageDigitalSignature:  x509.KeyUsageDigitalSignature,
	certs.UsageContentCommitment: x509.KeyUsageContentCommitment,
	certs.UsageKeyEncipherment:   x509.KeyUsageKeyEncipherment,
	certs.UsageKeyAgreement:      x509.KeyUsageKeyAgreement,
	certs.UsageDataEncipherment:  x509.KeyUsageDataEncipherment,
	certs.UsageCertSign:          x509.KeyUsageCertSign,
	certs.UsageCRLSign:           x509.KeyUsageCRLSign,
	certs.UsageEncipherOnly:      x509.KeyUsageEncipherOnly,
	certs.UsageDecipherOnly:      x509.KeyUsageDecipherOnly,
}

var extendedUsages = map[certs.KeyUsage]x509.ExtKeyUsage{
	certs.UsageAny:             x509.ExtKeyUsageAny,
	certs.UsageServerAuth:      x509.ExtKeyUsageServerAuth,
	certs.UsageClientAuth:      x509.ExtKeyUsageClientAuth,
	certs.UsageCodeSigning:     x509.ExtKeyUsageCodeSigning,
	certs.UsageEmailProtection: x509.ExtKeyUsageEmailProtection,
	certs.UsageSMIME:           x509.ExtKeyUsageEmailProtection,
	certs.UsageIPsecEndSystem:  x509.ExtKeyUsageIPSECEndSystem,
	certs.UsageIPsecTunnel:     x509.ExtKeyUsageIPSECTunnel,
	certs.UsageIPsecUser:       x509.ExtKeyUsageIPSECUser,
	certs.UsageTimestamping:    x509.ExtKeyUsageTimeStamping,
	certs.UsageOCSPSigning:     x509.ExtKeyUsageOCSPSigning,
	certs.UsageMicrosoftSGC:    x509.ExtKeyUsageMicrosoftServerGatedCrypto,
	certs.UsageNetscapeSGC:     x509.ExtKeyUsageNetscapeServerGatedCrypto,
}

func translate(usages []certs.KeyUsage) (x509.KeyUsage, []x509.ExtKeyUsage, error) {
	var plain x509.KeyUsage
	var extended []x509.ExtKeyUsage
	var errs []error
	for _, usage := range usages {
		if u, ok := keyUsages[usage]; ok {
			plain |= u
		} else if u, ok := extendedUsages[usage]; ok {
			extended = append(extended, u)
		} else {
			errs = append(errs, fmt.Errorf("unrecognized usage values: %q", usage))
		}
	}
	slices.Sort(extended)
	return plain, slices.Compact(extended), errors.Join(errs...)
}
