package pki

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
)

func TestIssuedCertificateVerifies(t *testing.T) {
	authority, err := NewAuthority("kubernetes")
	if err != nil {
		t.Fatal(err)
	}
	other, err := NewAuthority("kubernetes")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := authority.Issue(Request{CommonName: "kube-apiserver", Organizations: []string{"o"},
		Hosts: []string{"kubernetes.default.svc", "10.96.0.1"}, Server: true})
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	verify := func(a *Authority, host string, usage x509.ExtKeyUsage) error {
		roots := x509.NewCertPool()
		roots.AddCert(a.Certificate)
		_, err := loaded.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: host, KeyUsages: []x509.ExtKeyUsage{usage}})
		return err
	}
	for _, host := range []string{"kubernetes.default.svc", "10.96.0.1"} {
		if err := verify(authority, host, x509.ExtKeyUsageServerAuth); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	if verify(authority, "10.96.0.2", x509.ExtKeyUsageServerAuth) == nil {
		t.Error("an address that wasn't asked for is accepted")
	}
	if verify(authority, "10.96.0.1", x509.ExtKeyUsageClientAuth) == nil {
		t.Error("a server's certificate is accepted as a client's")
	}
	if verify(other, "10.96.0.1", x509.ExtKeyUsageServerAuth) == nil {
		t.Error("an authority of the same name is accepted")
	}
}

func TestAuthorityRoundTrip(t *testing.T) {
	authority, err := NewAuthority("etcd-ca")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "pki", "ca")
	if err := authority.Pair().Write(file); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(file + ".key"); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("key file: %v %v, want mode 0600", info, err)
	}
	loaded, err := LoadAuthority(file)
	if err != nil {
		t.Fatal(err)
	}
	if loaded.Hash() != authority.Hash() {
		t.Error("the hash changed on the way through the file")
	}
	if _, err := loaded.Issue(Request{CommonName: "x", Client: true}); err != nil {
		t.Error(err)
	}
}

func TestParseKeyRefusesRubbish(t *testing.T) {
	for _, data := range []string{"", "rubbish", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"} {
		if _, err := ParseKey([]byte(data)); err == nil {
			t.Errorf("ParseKey(%q) took it", data)
		}
	}
}

func TestKubeconfigIsReadByClientGo(t *testing.T) {
	authority, err := NewAuthority("kubernetes")
	if err != nil {
		t.Fatal(err)
	}
	client, err := authority.Issue(Request{CommonName: "kubernetes-admin", Organizations: []string{"system:masters"}, Client: true})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "admin.conf")
	k := Kubeconfig{Cluster: "c", User: "u", Context: "x", Server: "https://127.0.0.1:6443", CA: authority.Pair().Cert, Client: client}
	if err := k.Write(file); err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", file)
	if err != nil {
		t.Fatal(err)
	}
	if config.Host != k.Server || string(config.CertData) != string(client.Cert) {
		t.Errorf("client-go read host %q and another certificate than was written", config.Host)
	}
}
