package pki

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func newAuthority(t *testing.T) *Authority {
	t.Helper()
	authority, err := NewAuthority("kubernetes")
	if err != nil {
		t.Fatal(err)
	}
	return authority
}

func issue(t *testing.T, authority *Authority, file string, r Request) Pair {
	t.Helper()
	pair, err := authority.Issue(r)
	if err == nil && file != "" {
		err = pair.Write(file)
	}
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func leaf(t *testing.T, data []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(data)
	if block == nil {
		t.Fatal("no PEM")
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestRenew(t *testing.T) {
	authority, other := newAuthority(t), newAuthority(t)
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	request := Request{CommonName: "kube-apiserver", Organizations: []string{"o1", "o2"}, Hosts: []string{"kubernetes", "10.96.0.1"}, Server: true, Validity: 90 * time.Hour}
	old := issue(t, authority, file("apiserver"), request)
	issue(t, authority, file("etcd/peer"), Request{CommonName: "peer", Hosts: []string{"10.0.0.1"}, Client: true, Server: true, Validity: 90 * time.Hour})
	issue(t, authority, file("young"), Request{CommonName: "young", Client: true, Validity: 900 * time.Hour})
	issue(t, other, file("others"), Request{CommonName: "others", Client: true, Validity: 90 * time.Hour})
	if err := authority.Pair().Write(file("ca")); err != nil {
		t.Fatal(err)
	}
	issue(t, authority, file("torn"), Request{CommonName: "torn", Client: true, Validity: 900 * time.Hour})
	if err := os.WriteFile(file("torn.key"), old.Key, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file("torn.key"), 0o640); err != nil {
		t.Fatal(err)
	}
	client := issue(t, authority, "", Request{CommonName: "admin", Organizations: []string{"system:masters"}, Client: true, Validity: 90 * time.Hour})
	if err := (Kubeconfig{Cluster: "c", User: "u", Context: "x", Server: "https://1:2", CA: authority.Pair().Cert, Client: client}).Write(file("admin.conf")); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"resolv.conf": "nameserver 10.0.0.1\n", "orphan.crt": string(old.Cert), "rubbish.crt": "x", "rubbish.key": "y"} {
		if err := os.WriteFile(file(name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	before := contents(t, dir)

	// Before two thirds of the life only what is torn is mended.
	was := leaf(t, old.Cert)
	done, err := Renew(dir, authority, was.NotBefore.Add(59*time.Hour))
	if err != nil || !slices.Equal(done.Files, []string{file("torn.crt")}) || !done.Next.Equal(Due(was)) {
		t.Errorf("%v, next %v after the beginning: %v", done.Files, done.Next.Sub(was.NotBefore), err)
	}
	if mended, err := tls.LoadX509KeyPair(file("torn.crt"), file("torn.key")); err != nil || mended.Leaf.Subject.CommonName != "torn" {
		t.Errorf("%v", err)
	}
	if info, err := os.Stat(file("torn.key")); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("the mode of a file that exists is not kept: %v %v", info.Mode(), err)
	}

	at := was.NotBefore.Add(62 * time.Hour)
	done, err = Renew(dir, authority, at)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(done.Files)
	if want := []string{file("admin.conf"), file("apiserver.crt"), file("etcd/peer.crt")}; !slices.Equal(done.Files, want) {
		t.Errorf("renewed %v, want %v", done.Files, want)
	}
	after := contents(t, dir)
	for name := range before {
		changed := string(before[name]) != string(after[name])
		base, _, _ := strings.Cut(filepath.Base(name), ".")
		if want := slices.Contains([]string{"admin", "apiserver", "peer", "torn"}, base); changed != want {
			t.Errorf("%s: changed %t", name, changed)
		}
	}
	if len(before) != len(after) {
		t.Errorf("%d files, %d before", len(after), len(before))
	}
	pair, err := tls.LoadX509KeyPair(file("apiserver.crt"), file("apiserver.key"))
	if err != nil {
		t.Fatal(err)
	}
	is := pair.Leaf
	if is.Subject.String() != was.Subject.String() || !slices.Equal(is.DNSNames, was.DNSNames) || !reflect.DeepEqual(is.IPAddresses, was.IPAddresses) ||
		is.KeyUsage != was.KeyUsage || !slices.Equal(is.ExtKeyUsage, was.ExtKeyUsage) {
		t.Errorf("it says something else: %+v", is)
	}
	if is.NotAfter.Sub(is.NotBefore) != was.NotAfter.Sub(was.NotBefore) || is.NotBefore.After(at) || is.NotAfter.Before(at.Add(80*time.Hour)) {
		t.Errorf("it lives from %v to %v", is.NotBefore, is.NotAfter)
	}
	if is.SerialNumber.Cmp(was.SerialNumber) == 0 || reflect.DeepEqual(is.PublicKey, was.PublicKey) || is.CheckSignatureFrom(authority.Certificate) != nil {
		t.Error("it is the same, or nobody's")
	}
}

func contents(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			all[path], err = os.ReadFile(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestRenewNotPastTheAuthority(t *testing.T) {
	authority := newAuthority(t)
	dir := t.TempDir()
	issue(t, authority, filepath.Join(dir, "a"), Request{CommonName: "a", Client: true})
	end := authority.Certificate.NotAfter
	if _, err := Renew(dir, authority, end.Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	pair, err := Load(filepath.Join(dir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	if got := leaf(t, pair.Cert).NotAfter; !got.Equal(end) {
		t.Errorf("valid until %v, the authority until %v", got, end)
	}
	if _, err := Renew(dir, authority, end); err == nil || !strings.Contains(err.Error(), "has expired") {
		t.Errorf("an authority that has expired signs: %v", err)
	}
}

// Who reads a certificate and then a key finds the certificate's key, or one that is newer still: never an older one.
func TestTheKeyComesFirst(t *testing.T) {
	authority := newAuthority(t)
	name := filepath.Join(t.TempDir(), "a")
	last := issue(t, authority, name, Request{CommonName: "a", Client: true, Validity: time.Hour})
	written := []Pair{last}
	stop := make(chan struct{})
	var seen []Pair
	var reader sync.WaitGroup
	reader.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			pair, err := Load(name)
			if err != nil {
				t.Error(err)
				return
			}
			if len(seen) == 0 || !reflect.DeepEqual(pair, seen[len(seen)-1]) {
				seen = append(seen, pair)
			}
		}
	})
	for range 50 {
		if _, err := Renew(filepath.Dir(name), authority, leaf(t, last.Cert).NotAfter); err != nil {
			t.Fatal(err)
		}
		var err error
		if last, err = Load(name); err != nil {
			t.Fatal(err)
		}
		written = append(written, last)
	}
	close(stop)
	reader.Wait()
	generation := func(part func(Pair) []byte, of Pair) int {
		return slices.IndexFunc(written, func(w Pair) bool { return string(part(w)) == string(part(of)) })
	}
	for _, pair := range seen {
		cert, key := generation(func(p Pair) []byte { return p.Cert }, pair), generation(func(p Pair) []byte { return p.Key }, pair)
		if cert < 0 || key < cert {
			t.Errorf("certificate %d was read, and then key %d", cert, key)
		}
	}
}
