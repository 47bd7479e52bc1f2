package component

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/rest"

	"skiff/pkg/pki"
)

// eventually waits: files are looked at once a second.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

func TestClientFollowsItsFiles(t *testing.T) {
	authority, err := pki.NewAuthority("ca")
	if err != nil {
		t.Fatal(err)
	}
	serving, err := authority.Issue(pki.Request{CommonName: "server", Hosts: []string{"127.0.0.1"}, Server: true})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(serving.Cert, serving.Key)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := "nobody"
		if len(r.TLS.PeerCertificates) > 0 {
			name = r.TLS.PeerCertificates[0].Subject.CommonName
		}
		io.WriteString(w, name) //nolint:errcheck
		if r.URL.Path == "/slow" {
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}
	}))
	server.EnableHTTP2 = true
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequestClientCert}
	server.StartTLS()
	defer server.Close()

	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	embed := func(name string) {
		client, err := authority.Issue(pki.Request{CommonName: name, Client: true})
		if err == nil {
			err = pki.Kubeconfig{Cluster: "c", User: "u", Context: "c", Server: server.URL, CA: authority.Pair().Cert, Client: client}.Write(file("a.conf"))
		}
		if err == nil {
			err = os.WriteFile(file("pair.pem"), append(client.Cert, client.Key...), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	seen := func(c *http.Client) string {
		response, err := c.Get(server.URL)
		if err != nil {
			return err.Error()
		}
		defer response.Body.Close()
		body, _ := io.ReadAll(response.Body)
		return string(body)
	}
	embed("first")
	made := map[string]*http.Client{}
	for name, client := range map[string]Client{"embedded": {Kubeconfig: file("a.conf")}, "beside": {Kubeconfig: file("a.conf"), CertificateFile: file("pair.pem")}} {
		config, err := client.Config("test")
		if err != nil {
			t.Fatal(err)
		}
		if made[name], err = rest.HTTPClientFor(config); err != nil {
			t.Fatal(err)
		}
		// As for service accounts: the transport's wrappers are kept, the certificate isn't.
		without := rest.AnonymousClientConfig(config)
		without.WrapTransport = config.WrapTransport
		anonymous, err := rest.HTTPClientFor(without)
		if err != nil {
			t.Fatal(err)
		}
		if got := seen(anonymous); got != "nobody" {
			t.Errorf("%s: without credentials it is %s", name, got)
		}
	}
	slow := map[string]*http.Response{}
	for name, c := range made {
		if got := seen(c); got != "first" {
			t.Errorf("%s: %s", name, got)
		}
		if slow[name], err = c.Get(server.URL + "/slow"); err != nil {
			t.Fatal(err)
		}
		defer slow[name].Body.Close()
	}

	for _, name := range []string{"a.conf", "pair.pem"} {
		if err := os.WriteFile(file(name), []byte("being written"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	end := time.Now().Add(1500 * time.Millisecond) // it looks, and finds nothing it could use
	for time.Now().Before(end) {
		for name, c := range made {
			if got := seen(c); got != "first" {
				t.Fatalf("%s: %s while the files are being written", name, got)
			}
		}
	}
	embed("second")
	for name, c := range made {
		eventually(t, func() error {
			if got := seen(c); got != "second" {
				return fmt.Errorf("%s: still %s", name, got)
			}
			return nil
		})
		first := make([]byte, 5)
		if _, err := io.ReadFull(slow[name].Body, first); err != nil || string(first) != "first" {
			t.Errorf("%s: what was under way has ended: %q %v", name, first, err)
		}
	}
}

func TestReloadingKeepsWhatWorks(t *testing.T) {
	synctest.Test(t, testReloading)
}

func testReloading(t *testing.T) {
	authority, err := pki.NewAuthority("ca")
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "a")
	written := time.Now()
	put := func(pair pki.Pair) {
		written = written.Add(time.Second) // two writes in one tick of the disk's clock look like one
		if err := errors.Join(pair.Write(name), os.Chtimes(name+".crt", written, written)); err != nil {
			t.Fatal(err)
		}
	}
	issue := func(commonName string) pki.Pair {
		pair, err := authority.Issue(pki.Request{CommonName: commonName, Server: true})
		if err != nil {
			t.Fatal(err)
		}
		return pair
	}
	client := ReloadingClientCertificate(name+".crt", name+".key")
	if pair, err := client(nil); err == nil {
		t.Errorf("there is no file, and a certificate: %v", pair)
	}
	if _, err := ReloadingCertificate(name+".crt", name+".key"); err == nil {
		t.Error("a server starts without its certificate")
	}
	first, second := issue("first"), issue("second")
	put(first)
	server, err := ReloadingCertificate(name+".crt", name+".key")
	if err != nil {
		t.Fatal(err)
	}
	expect := func(want, when string) {
		t.Helper()
		time.Sleep(time.Second)
		for _, get := range []func() (*tls.Certificate, error){func() (*tls.Certificate, error) { return server(nil) }, func() (*tls.Certificate, error) { return client(nil) }} {
			if pair, err := get(); err != nil || pair.Leaf.Subject.CommonName != want {
				t.Errorf("%s: %v %v, want %s", when, pair, err, want)
			}
		}
	}
	expect("first", "at first")
	put(pki.Pair{Cert: second.Cert, Key: first.Key})
	expect("first", "with halves of two pairs")
	put(second)
	expect("second", "with the second pair")
	if err := os.Remove(name + ".crt"); err != nil {
		t.Fatal(err)
	}
	expect("second", "without a file")
}
