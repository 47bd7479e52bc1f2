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

// TestEtcdApart runs a member by itself and a server that is told where it is;
// afterwards a server with an embedded member finds everything on the same disk.
func TestEtcdApart(t *testing.T) {
	dir := t.TempDir()
	authority, err := pki.NewAuthority("kubernetes")
	if err != nil {
		t.Fatal(err)
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	if err := authority.Pair().Write(file("ca")); err != nil {
		t.Fatal(err)
	}
	issue := func(name string, r pki.Request) pki.Pair {
		pair, err := authority.Issue(r)
		if err == nil {
			err = pair.Write(file(name))
		}
		if err != nil {
			t.Fatal(err)
		}
		return pair
	}
	issue("server", pki.Request{CommonName: "kube-apiserver", Hosts: []string{"127.0.0.1"}, Server: true})
	issue("etcd", pki.Request{CommonName: "etcd", Hosts: []string{"127.0.0.1"}, Server: true, Client: true})
	admin := issue("admin", pki.Request{CommonName: "admin", Organizations: []string{"system:masters"}, Client: true})
	signing, err := pki.NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := signing.Write(file("sa")); err != nil {
		t.Fatal(err)
	}

	port := freePort(t)
	server := func(more ...string) (kubernetes.Interface, func()) {
		args := append([]string{"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", port),
			"--client-ca-file=" + file("ca.crt"), "--tls-cert-file=" + file("server.crt"), "--tls-private-key-file=" + file("server.key"),
			"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=" + file("sa.crt"),
			"--service-account-signing-key-file=" + file("sa.key"), "--service-cluster-ip-range=10.96.0.0/16"}, more...)
		stop := start(t, args...)
		config := &rest.Config{Host: fmt.Sprintf("https://127.0.0.1:%d", port),
			TLSClientConfig: rest.TLSClientConfig{CAData: authority.Pair().Cert, CertData: admin.Cert, KeyData: admin.Key}}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if err := component.WaitForServer(ctx, config); err != nil {
			t.Fatalf("the server isn't ready: %v", err)
		}
		return kubernetes.NewForConfigOrDie(config), stop
	}

	etcd := fmt.Sprintf("https://127.0.0.1:%d", freePort(t))
	stopEtcd := start(t, "etcd", "--data-dir="+file("data"), "--listen-client-urls="+etcd,
		"--member-cert-file="+file("etcd.crt"), "--member-key-file="+file("etcd.key"), "--member-trusted-ca-file="+file("ca.crt"))
	client, stopServer := server("--etcd-servers="+etcd, "--etcd-cafile="+file("ca.crt"), "--etcd-certfile="+file("etcd.crt"), "--etcd-keyfile="+file("etcd.key"))
	made, err := client.CoreV1().ConfigMaps("default").Create(t.Context(),
		&v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kept"}, Data: map[string]string{"a": "b"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	stopServer()
	stopEtcd()

	client, _ = server("--data-dir=" + file("data"))
	found, err := client.CoreV1().ConfigMaps("default").Get(t.Context(), "kept", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if found.UID != made.UID || found.ResourceVersion != made.ResourceVersion || found.Data["a"] != "b" {
		t.Errorf("found %+v, made %+v", found, made)
	}
}
