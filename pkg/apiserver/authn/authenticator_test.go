package authn

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"skiff/pkg/apiserver/request"
)

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{}
	a.cert, a.key = (&authority{}).issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return a
}

// issue signs a certificate by this authority, or by itself when it is empty.
func (a *authority) issue(t *testing.T, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(1)
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(time.Hour)
	}
	template.NotBefore = time.Now().Add(-2 * time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

func client(name pkix.Name) *x509.Certificate {
	return &x509.Certificate{Subject: name, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
}

func TestCertificates(t *testing.T) {
	ca, strange := newAuthority(t), newAuthority(t)
	path := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(path, ca.pem(), 0o600); err != nil {
		t.Fatal(err)
	}
	certificates, err := NewCertificates(path)
	if err != nil {
		t.Fatal(err)
	}
	uid := func(values ...string) pkix.Name {
		name := pkix.Name{CommonName: "alice"}
		for _, v := range values {
			name.ExtraNames = append(name.ExtraNames, pkix.AttributeTypeAndValue{Type: uidOID, Value: v})
		}
		return name
	}
	middle, middleKey := ca.issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: "middle"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	expired := client(pkix.Name{CommonName: "alice"})
	expired.NotAfter = time.Now().Add(-time.Hour)
	server := &x509.Certificate{Subject: pkix.Name{CommonName: "alice"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, c := range []struct {
		name     string
		by       *authority
		template *x509.Certificate
		more     []*x509.Certificate
		user     string // name groups uid
		err      string
	}{
		{"plain", ca, client(pkix.Name{CommonName: "alice", Organization: []string{"g", "h"}}), nil, "alice [g h] ", ""},
		{"with uid", ca, client(uid("1-2")), nil, "alice [] 1-2", ""},
		{"two uids", ca, client(uid("1", "2")), nil, "", "expected 1 UID, but found multiple: [1 2]"},
		{"empty uid", ca, client(uid("")), nil, "", "UID cannot be an empty string"},
		{"nobody", ca, client(pkix.Name{}), nil, "", ""},
		{"of a stranger", strange, client(pkix.Name{CommonName: "alice"}), nil, "", "signed by unknown authority"},
		{"expired", ca, expired, nil, "", "expired"},
		{"a server's", ca, server, nil, "", "incompatible key usage"},
		{"with an intermediate", &authority{middle, middleKey}, client(pkix.Name{CommonName: "alice"}), []*x509.Certificate{middle}, "alice [] ", ""},
		{"without the intermediate", &authority{middle, middleKey}, client(pkix.Name{CommonName: "alice"}), nil, "", "signed by unknown authority"},
	} {
		cert, _ := c.by.issue(t, c.template)
		for range 2 {
			user, err := certificates.Verify(append([]*x509.Certificate{cert}, c.more...))
			got := ""
			if user != nil {
				got = fmt.Sprintf("%s %s %s", user.Name, user.Groups, user.UID)
				if id := user.Extra[credentialID]; len(id) != 1 || len(id[0]) != len("X509SHA256=")+64 {
					t.Errorf("%s: %v", c.name, id)
				}
			}
			if got != c.user || !strings.Contains(text(err), c.err) || (c.err == "") != (err == nil) {
				t.Errorf("%s: %q %v", c.name, got, err)
			}
		}
	}
}

func TestCertificatesAreReadAgain(t *testing.T) {
	before, after := newAuthority(t), newAuthority(t)
	path := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(path, before.pem(), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := NewCertificates(path)
	if err != nil {
		t.Fatal(err)
	}
	old, _ := before.issue(t, client(pkix.Name{CommonName: "old"}))
	young, _ := after.issue(t, client(pkix.Name{CommonName: "young"}))
	verify := func(want ...bool) {
		t.Helper()
		for i, cert := range []*x509.Certificate{old, young} {
			if user, err := c.Verify([]*x509.Certificate{cert}); (user != nil) != want[i] {
				t.Errorf("%s: %v %v", cert.Subject.CommonName, user, err)
			}
		}
	}
	verify(true, false)
	replace := func(data []byte) {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		c.checked = time.Time{} // as if a second had passed
		c.stamp.size = -1       // as if the time stamps could tell files of this test apart
	}
	replace(after.pem())
	verify(false, true)
	replace([]byte("half a fi"))
	verify(false, true)
	replace(slices.Concat(before.pem(), after.pem()))
	verify(true, true)
	if _, err := NewCertificates(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a missing file was accepted")
	}
}

func TestAuthenticate(t *testing.T) {
	ca := newAuthority(t)
	path := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(path, ca.pem(), 0o600); err != nil {
		t.Fatal(err)
	}
	certificates, err := NewCertificates(path)
	if err != nil {
		t.Fatal(err)
	}
	i := newIssuance(t, nil)
	token := i.token(t, authenticationv1.TokenRequestSpec{})
	good, _ := ca.issue(t, client(pkix.Name{CommonName: "alice"}))
	bad, _ := newAuthority(t).issue(t, client(pkix.Name{CommonName: "mallory"}))
	socket := func(protocols ...string) http.Header {
		return http.Header{"Upgrade": {"websocket"}, "Connection": {"Upgrade"}, protocolHeader: {strings.Join(protocols, ", ")}}
	}
	inProtocol := protocolPrefix + base64.RawURLEncoding.EncodeToString([]byte(token))
	for _, c := range []struct {
		name   string
		cert   *x509.Certificate
		header http.Header
		user   string
		err    string
	}{
		{"nothing", nil, nil, request.Anonymous, ""},
		{"certificate", good, nil, "alice", ""},
		{"token", nil, http.Header{"Authorization": {"Bearer " + token}}, "system:serviceaccount:ns:sa", ""},
		{"token, lower case", nil, http.Header{"Authorization": {"bearer " + token}}, "system:serviceaccount:ns:sa", ""},
		{"both", good, http.Header{"Authorization": {"Bearer " + token}}, "alice", ""},
		{"bad certificate", bad, nil, "", "verifying certificate"},
		{"bad certificate, good token", bad, http.Header{"Authorization": {"Bearer " + token}}, "system:serviceaccount:ns:sa", ""},
		{"bad token", nil, http.Header{"Authorization": {"Bearer x"}}, "", "invalid bearer token"},
		{"empty token", nil, http.Header{"Authorization": {"Bearer "}}, request.Anonymous, ""},
		{"password", nil, http.Header{"Authorization": {"Basic dTpw"}}, request.Anonymous, ""},
		{"in a subprotocol", nil, socket("v5.channel.k8s.io", inProtocol), "system:serviceaccount:ns:sa", ""},
		{"in the only subprotocol", nil, socket(inProtocol), "", "missing additional subprotocol"},
		{"in two subprotocols", nil, socket("x", inProtocol, inProtocol), "", "multiple base64.bearer.authorization tokens specified"},
		{"bad subprotocol", nil, socket("x", protocolPrefix+"!"), "", "invalid base64.bearer.authorization token encoding"},
		{"not a socket", nil, http.Header{protocolHeader: {"x, " + inProtocol}}, request.Anonymous, ""},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		if c.header != nil {
			r.Header = c.header
		}
		if c.cert != nil {
			r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{c.cert}}
		}
		user, err := New(Config{Certificates: certificates, Tokens: i.tokens}).Authenticate(r)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if err != nil || user.Name != c.user {
			t.Errorf("%s: %v %v", c.name, user, err)
			continue
		}
		group, headers := request.Authenticated, fmt.Sprint(r.Header)
		if c.user == request.Anonymous {
			group = request.Unauthenticated
		} else if strings.Contains(headers, token) || strings.Contains(headers, inProtocol) {
			t.Errorf("%s: the token is passed on: %v", c.name, headers)
		}
		if !user.InGroup(group) || user.InGroup(request.Authenticated) == user.InGroup(request.Unauthenticated) {
			t.Errorf("%s: groups %v", c.name, user.Groups)
		}
	}
	if _, err := New(Config{NoAnonymous: true}).Authenticate(httptest.NewRequest("GET", "/", nil)); err == nil {
		t.Error("anonymous where nobody may be")
	}
}

func TestImpersonate(t *testing.T) {
	for _, c := range []struct {
		name   string
		header http.Header
		asked  string
		user   string
		err    string
	}{
		{"nobody", http.Header{"Accept": {"x"}}, "", "<nil>", ""},
		{"a user", http.Header{impersonateUser: {"bob"}}, "/users=bob", "bob [system:authenticated]", ""},
		{"with groups", http.Header{impersonateUser: {"bob"}, impersonateGroup: {"g", "h"}}, "/users=bob /groups=g /groups=h", "bob [g h system:authenticated]", ""},
		{"a superuser", http.Header{impersonateUser: {"bob"}, impersonateGroup: {request.Masters}}, "/users=bob /groups=system:masters", "bob [system:masters system:authenticated]", ""},
		{"anonymous", http.Header{impersonateUser: {request.Anonymous}}, "/users=system:anonymous", "system:anonymous [system:unauthenticated]", ""},
		{"said to be authenticated", http.Header{impersonateUser: {"bob"}, impersonateGroup: {request.Authenticated}}, "/users=bob /groups=system:authenticated", "bob [system:authenticated]", ""},
		{"unauthenticated", http.Header{impersonateUser: {"bob"}, impersonateGroup: {request.Unauthenticated}}, "/users=bob /groups=system:unauthenticated", "bob [system:unauthenticated]", ""},
		{"a service account", http.Header{impersonateUser: {"system:serviceaccount:ns:sa"}}, "ns/serviceaccounts=sa",
			"system:serviceaccount:ns:sa [system:serviceaccounts system:serviceaccounts:ns system:authenticated]", ""},
		{"not quite one", http.Header{impersonateUser: {"system:serviceaccount:NS:sa"}}, "/users=system:serviceaccount:NS:sa", "system:serviceaccount:NS:sa [system:authenticated]", ""},
		{"all of it", http.Header{impersonateUser: {"bob"}, impersonateUID: {"1"}, "Impersonate-Extra-Acme.com%2fproject": {"x", "y"}},
			"/users=bob /authentication.k8s.io/userextras/acme.com/project=x /authentication.k8s.io/userextras/acme.com/project=y /authentication.k8s.io/uids=1",
			"bob [system:authenticated] 1 map[acme.com/project:[x y]]", ""},
		{"denied", http.Header{impersonateUser: {"bob"}, impersonateGroup: {"denied"}}, "/users=bob /groups=denied", "", "denied"},
		{"no user", http.Header{impersonateGroup: {"g"}}, "", "", "without impersonating a user"},
		{"uid alone", http.Header{impersonateUID: {"1"}}, "", "", "without impersonating a user"},
	} {
		var asked []string
		user, err := Impersonate(c.header, func(info *request.Info) error {
			what := info.Namespace + "/"
			if info.APIGroup != "" {
				what += info.APIGroup + "/"
			}
			what += info.Resource
			if info.Subresource != "" {
				what += "/" + info.Subresource
			}
			asked = append(asked, what+"="+info.Name)
			if info.Name == "denied" || info.Verb != "impersonate" {
				return errors.New("denied")
			}
			return nil
		})
		if got := strings.Join(asked, " "); got != c.asked {
			t.Errorf("%s: asked for %s", c.name, got)
		}
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) || c.err != "denied" && !apierrors.IsBadRequest(err) {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		got := "<nil>"
		if user != nil {
			got = fmt.Sprintf("%s %s", user.Name, user.Groups)
			if user.UID != "" {
				got += fmt.Sprintf(" %s %v", user.UID, user.Extra)
			}
		}
		if err != nil || got != c.user {
			t.Errorf("%s: %s %v", c.name, got, err)
		}
		for name := range c.header {
			if strings.HasPrefix(name, "Impersonate-") {
				t.Errorf("%s: header %s is left", c.name, name)
			}
		}
	}
}
