package main

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"skiff/pkg/component"
	"skiff/pkg/pki"
)

// start runs the command with some arguments until the function returned is called.
func start(t *testing.T, args ...string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	root := command()
	root.SetArgs(args)
	ended := make(chan error, 1)
	go func() { ended <- root.ExecuteContext(ctx) }()
	stop = func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("%s: %v", args[0], err)
			}
			ended <- nil
		case <-time.After(30 * time.Second):
			t.Errorf("%s doesn't stop", args[0])
		}
	}
	t.Cleanup(stop)
	return stop
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// site has what servers on this machine need.
type site struct {
	dir       string
	authority *pki.Authority
	admin     pki.Pair
	port      int
	etcd      string // where the etcd of startEtcd listens
}

func newSite(t *testing.T) *site {
	t.Helper()
	authority, err := pki.NewAuthority("kubernetes")
	if err != nil {
		t.Fatal(err)
	}
	s := &site{dir: t.TempDir(), authority: authority, port: freePort(t)}
	if err := authority.Pair().Write(s.file("ca")); err != nil {
		t.Fatal(err)
	}
	issue := func(name string, r pki.Request) pki.Pair {
		pair, err := authority.Issue(r)
		if err == nil {
			err = pair.Write(s.file(name))
		}
		if err != nil {
			t.Fatal(err)
		}
		return pair
	}
	issue("server", pki.Request{CommonName: "kube-apiserver", Hosts: []string{"127.0.0.1"}, Server: true})
	issue("etcd", pki.Request{CommonName: "etcd", Hosts: []string{"127.0.0.1"}, Server: true, Client: true})
	s.admin = issue("admin", pki.Request{CommonName: "admin", Organizations: []string{"system:masters"}, Client: true})
	signing, err := pki.NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := signing.Write(s.file("sa")); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *site) file(name string) string { return filepath.Join(s.dir, name) }

// config is a client's, without a user.
func (s *site) config() *rest.Config {
	return &rest.Config{Host: fmt.Sprintf("https://127.0.0.1:%d", s.port), TLSClientConfig: rest.TLSClientConfig{CAData: s.authority.Pair().Cert}}
}

// server runs an apiserver until the function returned is called, and waits until it is ready.
func (s *site) server(t *testing.T, more ...string) (*kubernetes.Clientset, func()) {
	t.Helper()
	stop := start(t, append([]string{"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", s.port),
		"--client-ca-file=" + s.file("ca.crt"), "--tls-cert-file=" + s.file("server.crt"), "--tls-private-key-file=" + s.file("server.key"),
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=" + s.file("sa.crt"),
		"--service-account-signing-key-file=" + s.file("sa.key"), "--service-cluster-ip-range=10.96.0.0/16"}, more...)...)
	config := s.config()
	config.CertData, config.KeyData = s.admin.Cert, s.admin.Key
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := component.WaitForServer(ctx, config); err != nil {
		t.Fatalf("the server isn't ready: %v", err)
	}
	return kubernetes.NewForConfigOrDie(config), stop
}

// startEtcd runs a member by itself. with are the flags of a server that uses it.
func (s *site) startEtcd(t *testing.T) (stop func(), with []string) {
	t.Helper()
	s.etcd = fmt.Sprintf("https://127.0.0.1:%d", freePort(t))
	stop = start(t, "etcd", "--data-dir="+s.file("data"), "--listen-client-urls="+s.etcd,
		"--member-cert-file="+s.file("etcd.crt"), "--member-key-file="+s.file("etcd.key"), "--member-trusted-ca-file="+s.file("ca.crt"))
	return stop, []string{"--etcd-servers=" + s.etcd, "--etcd-cafile=" + s.file("ca.crt"), "--etcd-certfile=" + s.file("etcd.crt"), "--etcd-keyfile=" + s.file("etcd.key")}
}

// TestEtcdApart runs a member by itself and a server that is told where it is;
// afterwards a server with an embedded member finds everything on the same disk.
func TestEtcdApart(t *testing.T) {
	s := newSite(t)
	stopEtcd, with := s.startEtcd(t)
	client, stopServer := s.server(t, with...)
	made, err := client.CoreV1().ConfigMaps("default").Create(t.Context(),
		&v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kept"}, Data: map[string]string{"a": "b"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	stopServer()
	stopEtcd()

	client, _ = s.server(t, "--data-dir="+s.file("data"))
	found, err := client.CoreV1().ConfigMaps("default").Get(t.Context(), "kept", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if found.UID != made.UID || found.ResourceVersion != made.ResourceVersion || found.Data["a"] != "b" {
		t.Errorf("found %+v, made %+v", found, made)
	}
}
