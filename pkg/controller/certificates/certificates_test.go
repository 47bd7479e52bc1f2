package certificates

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	certs "k8s.io/api/certificates/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/pki"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func request(t *testing.T, change func(*x509.CertificateRequest)) (*x509.CertificateRequest, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:n1", Organization: []string{"system:nodes"}}}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	return parsed, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func TestCheck(t *testing.T) {
	client := []certs.KeyUsage{certs.UsageDigitalSignature, certs.UsageClientAuth}
	server := []certs.KeyUsage{certs.UsageServerAuth, certs.UsageKeyEncipherment, certs.UsageDigitalSignature}
	address := func(r *x509.CertificateRequest) { r.IPAddresses = []net.IP{net.IPv4(1, 2, 3, 4)} }
	const kubelet, serving, apiClient = certs.KubeAPIServerClientKubeletSignerName, certs.KubeletServingSignerName, certs.KubeAPIServerClientSignerName
	for name, c := range map[string]struct {
		signer string
		change func(*x509.CertificateRequest)
		usages []certs.KeyUsage
		want   string // part of the refusal
	}{
		"kubelet client":         {kubelet, nil, client, ""},
		"with key encipherment":  {kubelet, nil, append(slices.Clone(client), certs.UsageKeyEncipherment), ""},
		"usage of a server":      {kubelet, nil, server, "usages did not match"},
		"with an address":        {kubelet, address, client, "IP subjectAltNames are not allowed"},
		"another organization":   {kubelet, func(r *x509.CertificateRequest) { r.Subject.Organization = []string{"system:masters"} }, client, "organization is not system:nodes"},
		"two organizations":      {kubelet, func(r *x509.CertificateRequest) { r.Subject.Organization = []string{"system:nodes", "system:masters"} }, client, "organization"},
		"another name":           {kubelet, func(r *x509.CertificateRequest) { r.Subject.CommonName = "admin" }, client, "common name does not begin"},
		"kubelet serving":        {serving, address, server, ""},
		"serving without a name": {serving, nil, server, "subjectAltName is required"},
		"serving as a client":    {serving, address, client, "usages did not match"},
		"serving with an email":  {serving, func(r *x509.CertificateRequest) { address(r); r.EmailAddresses = []string{"a@b"} }, server, "Email"},
		"client":                 {apiClient, func(r *x509.CertificateRequest) { r.Subject = pkix.Name{CommonName: "jane"} }, client, ""},
		"client and server":      {apiClient, nil, append(slices.Clone(client), certs.UsageServerAuth), "invalid usage for client certificate: server auth"},
		"no client":              {apiClient, nil, client[:1], "missing required usage"},
		"legacy":                 {LegacyUnknown, nil, nil, ""},
	} {
		parsed, _ := request(t, c.change)
		err := check(c.signer, parsed, c.usages)
		if (err == nil) != (c.want == "") || (err != nil && !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestApprovals(t *testing.T) {
	parsed, _ := request(t, nil)
	csr := &certs.CertificateSigningRequest{Spec: certs.CertificateSigningRequestSpec{
		SignerName: certs.KubeAPIServerClientKubeletSignerName, Usages: []certs.KeyUsage{certs.UsageDigitalSignature, certs.UsageClientAuth},
	}}
	subresources := func() (all []string) {
		for _, a := range approvals(csr, parsed) {
			all = append(all, a.subresource)
		}
		return all
	}
	csr.Spec.Username = "bootstrapper"
	if got := subresources(); !slices.Equal(got, []string{"nodeclient"}) {
		t.Error(got)
	}
	csr.Spec.Username = "system:node:n1"
	if got := subresources(); !slices.Equal(got, []string{"selfnodeclient", "nodeclient"}) {
		t.Error(got)
	}
	csr.Spec.SignerName = certs.KubeletServingSignerName
	if got := subresources(); got != nil {
		t.Error(got)
	}
}

func TestSign(t *testing.T) {
	ca, err := pki.NewAuthority("ca")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca")
	if err := ca.Pair().Write(file); err != nil {
		t.Fatal(err)
	}
	authority := Authority{CertFile: file + ".crt", KeyFile: file + ".key"}
	parsed, _ := request(t, nil)
	at := time.Now().Truncate(time.Second)
	for _, validity := range []time.Duration{time.Hour, 24 * time.Hour, 100 * 365 * 24 * time.Hour} {
		data, err := authority.sign(parsed, []certs.KeyUsage{certs.UsageDigitalSignature, certs.UsageClientAuth}, validity, at)
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(data)
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		until := at.Add(validity)
		if validity >= shortLived {
			until = until.Add(-backdate)
		}
		if until.After(ca.Certificate.NotAfter) {
			until = ca.Certificate.NotAfter
		}
		if !cert.NotBefore.Equal(at.Add(-backdate)) || !cert.NotAfter.Equal(until) {
			t.Errorf("%v: valid from %v to %v", validity, cert.NotBefore, cert.NotAfter)
		}
		if cert.Subject.CommonName != "system:node:n1" || cert.IsCA || cert.KeyUsage != x509.KeyUsageDigitalSignature || !slices.Equal(cert.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) {
			t.Errorf("%+v", cert)
		}
		if err := cert.CheckSignatureFrom(ca.Certificate); err != nil {
			t.Error(err)
		}
	}
	if _, err := authority.sign(parsed, []certs.KeyUsage{"dance"}, time.Hour, at); err == nil || !strings.Contains(err.Error(), "dance") {
		t.Error(err)
	}
	if _, err := authority.sign(parsed, nil, time.Hour, ca.Certificate.NotAfter); err == nil {
		t.Error("an expired authority signs")
	}
}

func TestValidity(t *testing.T) {
	for seconds, want := range map[int32]time.Duration{1: shortest, 3600: time.Hour, 1 << 30: 24 * time.Hour} {
		if got := validity(&seconds, 24*time.Hour); got != want {
			t.Errorf("%d: %v", seconds, got)
		}
	}
	if got := validity(nil, 24*time.Hour); got != 24*time.Hour {
		t.Error(got)
	}
}

func TestStaleAndSignable(t *testing.T) {
	made := func(age time.Duration, issued bool, conditions ...certs.RequestConditionType) *certs.CertificateSigningRequest {
		csr := &certs.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(now.Add(-age))}}
		csr.Spec.SignerName = certs.KubeletServingSignerName
		for _, c := range conditions {
			csr.Status.Conditions = append(csr.Status.Conditions, certs.CertificateSigningRequestCondition{Type: c, Status: v1.ConditionTrue, LastUpdateTime: csr.CreationTimestamp})
		}
		if issued {
			csr.Status.Certificate = []byte("x")
		}
		return csr
	}
	for name, c := range map[string]struct {
		csr             *certs.CertificateSigningRequest
		stale, signable bool
	}{
		"pending":           {made(2*time.Hour, false), false, false},
		"pending long":      {made(25*time.Hour, false), true, false},
		"approved":          {made(2*time.Hour, false, certs.CertificateApproved), false, true},
		"approved long ago": {made(25*time.Hour, false, certs.CertificateApproved), true, true},
		"issued":            {made(time.Minute, true, certs.CertificateApproved), false, false},
		"issued long ago":   {made(2*time.Hour, true, certs.CertificateApproved), true, false},
		"denied":            {made(2*time.Hour, false, certs.CertificateDenied), true, false},
		"failed":            {made(time.Minute, false, certs.CertificateApproved, certs.CertificateFailed), false, false},
	} {
		if got := stale(c.csr, now); (got != "") != c.stale {
			t.Errorf("%s: stale %q", name, got)
		}
		if signable(c.csr) != c.signable {
			t.Errorf("%s: signable %t", name, !c.signable)
		}
	}
}
