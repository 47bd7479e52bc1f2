package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"skiff/pkg/component"
	"skiff/pkg/pki"
)

// TestWorkGoesOnPastTheEndOfCertificates lets the certificates of a server and of its client live for a few seconds, with
// somebody to renew them, and uses the same two past the end of the first ones. A watch goes on
// all the time, since nothing breaks the connection that it came by.
func TestWorkGoesOnPastTheEndOfCertificates(t *testing.T) {
	const life = 4 * time.Second
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	authority, err := pki.NewAuthority("kubernetes")
	must(err)
	must(authority.Pair().Write(file("ca")))
	signing, err := pki.NewSigningKey()
	must(err)
	must(signing.Write(file("sa")))
	server, err := authority.Issue(pki.Request{CommonName: "kube-apiserver", Hosts: []string{"127.0.0.1"}, Server: true, Validity: life})
	must(err)
	must(server.Write(file("etc/apiserver")))
	admin, err := authority.Issue(pki.Request{CommonName: "admin", Organizations: []string{"system:masters"}, Client: true, Validity: life})
	must(err)
	port := freePort(t)
	must(pki.Kubeconfig{Cluster: "c", User: "admin", Context: "c", Server: fmt.Sprintf("https://127.0.0.1:%d", port), CA: authority.Pair().Cert, Client: admin}.Write(file("etc/admin.conf")))
	first, err := tls.X509KeyPair(admin.Cert, admin.Key)
	must(err)
	serving, err := tls.X509KeyPair(server.Cert, server.Key)
	must(err)

	renewer := &pki.Renewer{Dirs: []string{file("etc")}, Authorities: []pki.AuthorityFiles{{Cert: file("ca.crt"), Key: file("ca.key")}}, Logger: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(context.Background())
	var renewing sync.WaitGroup
	renewing.Go(func() { _ = renewer.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		renewing.Wait()
	})
	start(t, "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", port), "--data-dir="+file("data"),
		"--client-ca-file="+file("ca.crt"), "--tls-cert-file="+file("etc/apiserver.crt"), "--tls-private-key-file="+file("etc/apiserver.key"),
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-signing-key-file="+file("sa.key"))

	config, err := (&component.Client{Kubeconfig: file("etc/admin.conf")}).Config("test")
	must(err)
	limit, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	must(component.WaitForServer(limit, config))
	client, err := kubernetes.NewForConfig(config)
	must(err)
	// Before anything was renewed or at least before the first certificates end: the watch stands on them.
	watch, err := client.CoreV1().ConfigMaps(metav1.NamespaceDefault).Watch(limit, metav1.ListOptions{})
	must(err)
	defer watch.Stop()

	shown := func() (string, error) {
		who, err := client.AuthenticationV1().SelfSubjectReviews().Create(limit, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		if err != nil {
			return "", err
		}
		return fmt.Sprint(who.Status.UserInfo.Extra["authentication.kubernetes.io/credential-id"]), nil
	}
	before, err := shown()
	must(err)
	pause := func(d time.Duration) {
		select {
		case <-time.After(d):
		case <-limit.Done():
			t.Fatal("the minute is over")
		}
	}
	for end := latest(first.Leaf, serving.Leaf); !time.Now().After(end); {
		pause(100 * time.Millisecond)
	}
	for {
		after, err := shown()
		if err == nil && after != before {
			break
		}
		t.Logf("%v: %s %v", time.Now().Format("05.000"), after, err)
		pause(100 * time.Millisecond)
	}
	select {
	case event, open := <-watch.ResultChan():
		if !open {
			t.Error("the watch was ended")
		} else {
			t.Logf("%v", event.Type) // kube-root-ca.crt, say
		}
	default:
	}
}

func latest(a, b *x509.Certificate) time.Time {
	if a.NotAfter.After(b.NotAfter) {
		return a.NotAfter
	}
	return b.NotAfter
}
