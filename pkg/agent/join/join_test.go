package join

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	certs "k8s.io/api/certificates/v1"
	v1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"skiff/pkg/agent/rotation"
	"skiff/pkg/component"
	"skiff/pkg/pki"
	"skiff/pkg/pki/bootstrap"
)

// TestJoin goes the whole way against a real control plane, and tries what may go wrong on it.
func TestJoin(t *testing.T) {
	c := newCluster(t)
	config := func(token string) Config {
		return Config{Servers: []string{c.address}, Token: token, CAHashes: []string{c.authority.Hash()}, NodeName: "worker-1", Dir: t.TempDir(),
			Timeout: 30 * time.Second, Progress: func(text string) { t.Log(text) }}
	}
	requests := func() int {
		list, err := c.admin.CertificatesV1().CertificateSigningRequests().List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return len(list.Items)
	}
	refused := func(name, want string, change func(*Config)) {
		t.Helper()
		o := config("abcdef.0123456789abcdef")
		o.Timeout, o.patience = time.Second, 100*time.Millisecond
		change(&o)
		before := requests()
		joined, err := Run(limited(t), o)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %+v %v", name, joined, err)
		}
		if _, err := os.Stat(filepath.Join(o.Dir, "agent.conf")); err == nil {
			t.Errorf("%s: there is a kubeconfig all the same", name)
		}
		if requests() != before {
			t.Errorf("%s: a certificate was asked for", name)
		}
	}
	refused("a cluster that nobody opened", "ctl token create", func(*Config) {})
	c.open(t)
	token := c.token(t, nil)
	o := config(token)

	// Killed after it got its certificate, it doesn't ask for another one.
	ctx, kill := context.WithCancel(limited(t))
	o.Progress = func(text string) {
		if strings.HasPrefix(text, "Reading") {
			kill()
		}
	}
	if _, err := Run(ctx, o); err == nil {
		t.Fatal("it was not killed in time")
	}
	before := requests()
	o.Progress = nil
	joined, err := Run(limited(t), o)
	if err != nil {
		t.Fatal(err)
	}
	if joined.NodeName != "worker-1" || joined.Already || before != 1 || requests() != 1 {
		t.Errorf("%+v, %d requests and then %d", joined, before, requests())
	}
	for _, flag := range []string{"--cluster-dns=10.96.0.10", "--cluster-domain=cluster.local", "--cluster-cidr=10.244.0.0/16", "--service-cluster-ip-range=10.96.0.0/16", "--kubeconfig=" + filepath.Join(o.Dir, "agent.conf")} {
		if !slices.Contains(joined.Flags, flag) {
			t.Errorf("%s is not among the flags %v", flag, joined.Flags)
		}
	}
	for _, gone := range []string{"bootstrap-agent.conf", "pki/kubelet-client.key.tmp"} {
		if _, err := os.Stat(filepath.Join(o.Dir, gone)); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", gone, err)
		}
	}
	again, err := Run(limited(t), o)
	if err != nil || !again.Already || !slices.Equal(again.Flags, joined.Flags) {
		t.Errorf("%+v %v", again, err)
	}
	t.Run("as a node", func(t *testing.T) { testNode(t, c, o.Dir) })

	refused("a wrong pin", "has the hash "+c.authority.Hash(), func(o *Config) { o.Token, o.CAHashes = token, []string{"sha256:" + strings.Repeat("0", 64)} })
	refused("no pin", "--discovery-token-ca-cert-hash", func(o *Config) { o.Token, o.CAHashes = token, nil })
	refused("a wrong secret half", "secret half is another", func(o *Config) { o.Token = token[:7] + "0123456789abcdef" })
	refused("an unknown token", "unknown to the cluster, or has expired", func(*Config) {})
	expired := c.token(t, func(g *bootstrap.Grant) { g.Expires = time.Now().Add(-time.Minute) })
	refused("an expired token", "unknown to the cluster, or has expired", func(o *Config) { o.Token = expired })
	refused("no token", "not a bootstrap token", func(o *Config) { o.Token = "abcdef" })
	refused("a token that is only for signing", "doesn't accept the token", func(o *Config) {
		o.Token = c.token(t, func(g *bootstrap.Grant) { g.Usages = []string{bootstrap.UsageSigning} })
		o.patience = 10 * time.Second
	})
	refused("nobody there", "connection refused", func(o *Config) { o.Token, o.Servers = token, []string{closedPort(t)} })
	elsewhere := o
	elsewhere.CAHashes = []string{"sha256:" + strings.Repeat("0", 64)}
	if _, err := Run(limited(t), elsewhere); err == nil || !strings.Contains(err.Error(), "has joined another cluster, as node worker-1") {
		t.Errorf("another cluster: %v", err)
	}
	elsewhere = o
	elsewhere.NodeName = "worker-9"
	if _, err := Run(limited(t), elsewhere); err == nil || !strings.Contains(err.Error(), "has joined as node worker-1 already") {
		t.Errorf("another name: %v", err)
	}
	t.Run("denied", func(t *testing.T) { testDenied(t, c, config) })
	t.Run("a name that is taken", func(t *testing.T) {
		node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "taken"}}
		node.Status.Conditions = []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionTrue}}
		if _, err := c.admin.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		refused("taken", "has a node taken already", func(o *Config) { o.Token, o.NodeName = token, "taken" })
	})
	t.Run("the second server", func(t *testing.T) {
		n := config(token)
		n.Servers, n.NodeName = []string{closedPort(t), c.address}, "worker-2"
		if _, err := Run(limited(t), n); err != nil {
			t.Error(err)
		}
	})
}

func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func testDenied(t *testing.T, c *cluster, config func(string) Config) {
	// A group that may ask, and whose requests nobody approves by himself.
	const group = "system:bootstrappers:by-hand"
	_, err := c.admin.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "by-hand"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:node-bootstrapper"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "Group", Name: group}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	o := config(c.token(t, func(g *bootstrap.Grant) { g.Groups = []string{group} }))
	o.NodeName = "stranger"
	done := make(chan error, 1)
	go func() {
		_, err := Run(limited(t), o)
		done <- err
	}()
	csrs := c.admin.CertificatesV1().CertificateSigningRequests()
	eventually(t, func() error {
		list, err := csrs.List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, csr := range list.Items {
			if slices.Contains(csr.Spec.Groups, group) {
				csr.Status.Conditions = append(csr.Status.Conditions, certs.CertificateSigningRequestCondition{Type: certs.CertificateDenied, Status: v1.ConditionTrue, Reason: "Unknown", Message: "who is that?"})
				_, err := csrs.UpdateApproval(t.Context(), csr.Name, &csr, metav1.UpdateOptions{})
				return err
			}
		}
		return errors.New("no request")
	})
	if err := <-done; err == nil || !strings.Contains(err.Error(), "denied") || !strings.Contains(err.Error(), "who is that?") {
		t.Error(err)
	}
	o.Timeout = time.Second
	if _, err := Run(limited(t), o); err == nil || !strings.Contains(err.Error(), "ctl certificate approve node-csr-") {
		t.Errorf("the second try: %v", err)
	}
}

// testNode works with what joining has left, and has its certificates renewed.
func testNode(t *testing.T, c *cluster, dir string) {
	client := component.Client{Kubeconfig: filepath.Join(dir, "agent.conf")}
	config, err := client.Config("test")
	if err != nil {
		t.Fatal(err)
	}
	node, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	who, err := node.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil || who.Status.UserInfo.Username != "system:node:worker-1" {
		t.Fatalf("%+v %v", who, err)
	}
	// What kube-proxy's identity is for elsewhere.
	if _, err := node.DiscoveryV1().EndpointSlices("").List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := node.CoreV1().Services("").List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := node.CoreV1().Secrets(metav1.NamespaceSystem).List(t.Context(), metav1.ListOptions{}); err == nil {
		t.Error("a node lists secrets")
	}

	certificatesOf := rotation.Config{Client: node, NodeName: "worker-1", Dir: filepath.Join(dir, "pki")}
	address := netip.MustParseAddr("10.1.2.3")
	serving, err := rotation.NewServing(certificatesOf, []netip.Addr{address}, "", "")
	if err != nil {
		t.Fatal(err)
	}
	run(t, serving.Run)
	if _, err := serving.Certificate(nil); err == nil {
		t.Error("there is a serving certificate already")
	}
	object := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "worker-1"}}
	if object, err = node.CoreV1().Nodes().Create(t.Context(), object, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	object.Status.Addresses = []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: address.String()}, {Type: v1.NodeHostName, Address: "worker-1"}}
	if _, err := node.CoreV1().Nodes().UpdateStatus(t.Context(), object, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(c.authority.Certificate)
	eventually(t, func() error {
		pair, err := serving.Certificate(nil)
		if err != nil {
			return err
		}
		for _, name := range []string{"worker-1", address.String()} {
			if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name}); err != nil {
				return err
			}
		}
		return nil
	})

	// A client certificate near its end is renewed, and the node's client goes over to it.
	old, err := c.authority.Issue(pki.Request{CommonName: "system:node:worker-1", Organizations: []string{"system:nodes"}, Client: true, Validity: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if err := rotation.Store(certificatesOf.Dir, old.Cert, old.Key); err != nil {
		t.Fatal(err)
	}
	clientCertificate, err := rotation.NewClient(certificatesOf)
	if err != nil {
		t.Fatal(err)
	}
	run(t, clientCertificate.Run)
	file := rotation.ClientFile(certificatesOf.Dir)
	var current tls.Certificate
	eventually(t, func() error {
		var err error
		if current, err = tls.LoadX509KeyPair(file, file); err != nil {
			return err
		}
		if until := time.Until(current.Leaf.NotAfter); until < time.Minute {
			return fmt.Errorf("the certificate ends in %v", until)
		}
		return nil
	})
	eventually(t, func() error {
		who, err := node.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		if shown := who.Status.UserInfo.Extra["authentication.kubernetes.io/credential-id"]; len(shown) != 1 || shown[0] != fingerprint(current.Leaf) {
			return fmt.Errorf("the apiserver sees %v", shown)
		}
		return nil
	})
}

func fingerprint(c *x509.Certificate) string {
	return fmt.Sprintf("X509SHA256=%x", sha256.Sum256(c.Raw))
}

func run(t *testing.T, part func(context.Context) error) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = part(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
}
