package authn

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"skiff/pkg/apiserver/request"
)

func TestFrontProxy(t *testing.T) {
	front, clients := newAuthority(t), newAuthority(t)
	dir := t.TempDir()
	for name, a := range map[string]*authority{"front": front, "clients": clients} {
		if err := os.WriteFile(filepath.Join(dir, name), a.pem(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	certificates, err := NewCertificates(filepath.Join(dir, "clients"))
	if err != nil {
		t.Fatal(err)
	}
	proxy, err := NewFrontProxy(FrontProxyConfig{
		CAFile: filepath.Join(dir, "front"), Names: []string{"front"}, UserHeaders: []string{"X-Remote-User", "X-User"}, UIDHeaders: []string{"X-Remote-Uid"},
		GroupHeaders: []string{"X-Remote-Group"}, ExtraPrefixes: []string{"X-Remote-Extra-", "X-More-"},
	})
	if err != nil {
		t.Fatal(err)
	}
	by := func(a *authority, name string) *x509.Certificate {
		cert, _ := a.issue(t, client(pkix.Name{CommonName: name}))
		return cert
	}
	full := http.Header{"X-Remote-User": {"bob"}, "X-Remote-Uid": {"7"}, "X-Remote-Group": {"g", "", "h"}, "X-Remote-Extra-Example.com%2fscopes": {"a", "b"}, "X-More-Color": {"red"}}
	for _, c := range []struct {
		name   string
		cert   *x509.Certificate
		header http.Header
		user   string
		err    string
	}{
		{"a proxy", by(front, "front"), full, "bob 7 [g h system:authenticated] map[color:[red] example.com/scopes:[a b]]", ""},
		{"by the second header", by(front, "front"), http.Header{"X-User": {"eve"}}, "eve  [system:authenticated] map[]", ""},
		{"a proxy that names nobody", by(front, "front"), nil, "", "signed by unknown authority"},
		{"a stranger of the proxies' authority", by(front, "back"), full, "", "x509: subject with cn=back is not in the allowed list"},
		{"a client with the proxy's name", by(clients, "front"), full, "front  [system:authenticated]", ""},
		{"a client", by(clients, "alice"), http.Header{"X-Remote-User": {"root"}, "X-User": {"root"}, "X-Remote-Group": {request.Masters}}, "alice  [system:authenticated]", ""},
		{"nobody", nil, full, "system:anonymous  [system:unauthenticated]", ""},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header = c.header.Clone()
		if r.Header == nil {
			r.Header = http.Header{}
		}
		r.Header.Set("Accept", "x")
		if c.cert != nil {
			r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{c.cert}}
		}
		user, err := New(Config{FrontProxy: proxy, Certificates: certificates}).Authenticate(r)
		if c.err != "" {
			if !strings.Contains(text(err), c.err) {
				t.Errorf("%s: %v %v", c.name, user, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := fmt.Sprint(user.Name, " ", user.UID, " ", user.Groups, " ", user.Extra); !strings.HasPrefix(got, c.user) {
			t.Errorf("%s: %s, want %s", c.name, got, c.user)
		}
		if len(r.Header) != 1 {
			t.Errorf("%s: these are passed on: %v", c.name, r.Header)
		}
	}
	if p, err := NewFrontProxy(FrontProxyConfig{}); p != nil || err != nil {
		t.Errorf("without proxies: %v %v", p, err)
	}
	if _, err := NewFrontProxy(FrontProxyConfig{CAFile: filepath.Join(dir, "none")}); err == nil {
		t.Error("a missing file was accepted")
	}
}
