package join

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	certs "k8s.io/api/certificates/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"skiff/pkg/api"
	"skiff/pkg/api/catalogue"
	"skiff/pkg/apiserver"
	"skiff/pkg/component"
	"skiff/pkg/controller"
	"skiff/pkg/controller/certificates"
	"skiff/pkg/etcd"
	"skiff/pkg/pki"
	"skiff/pkg/pki/bootstrap"
	"skiff/pkg/store"
)

// cluster is a control plane on loopback: an apiserver with its own etcd, and the controllers
// that joining needs, each with its own rights.
type cluster struct {
	address   string // host:port
	authority *pki.Authority
	admin     kubernetes.Interface
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
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
	serving, err := authority.Issue(pki.Request{CommonName: "kube-apiserver", Hosts: []string{"127.0.0.1"}, Server: true})
	must(err)
	must(serving.Write(file("apiserver")))
	signing, err := pki.NewSigningKey()
	must(err)
	must(signing.Write(file("sa")))

	// The first to stop are the controllers, and the store is the last.
	var layers [3]sync.WaitGroup
	var stops [3]context.CancelFunc
	var contexts [3]context.Context
	for i := range layers {
		contexts[i], stops[i] = context.WithCancel(context.Background())
	}
	t.Cleanup(func() {
		for i := range layers {
			stops[i]()
			layers[i].Wait()
		}
	})
	part := func(layer int, run func(context.Context) error) {
		layers[layer].Go(func() {
			if err := run(contexts[layer]); err != nil && contexts[layer].Err() == nil {
				t.Errorf("a part of the cluster stopped: %v", err)
			}
		})
	}
	member, err := etcd.Start(contexts[2], etcd.Config{DataDir: t.TempDir(), NoSync: true, Log: slog.New(slog.DiscardHandler)})
	must(err)
	part(2, member.Run)
	rows := catalogue.Default()
	st := store.New(store.Config{Client: member.Client(), Stored: func(k *api.Kind) *api.Kind { return rows.View().Stored(k) }, Log: slog.New(slog.DiscardHandler)})
	part(2, st.Run)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	cfg := apiserver.Config{Listener: listener, AdvertiseAddress: netip.MustParseAddr("127.0.0.1"), CertFile: file("apiserver.crt"), KeyFile: file("apiserver.key"),
		Catalogue: rows, Store: st, Etcd: member.Client(), ServiceRange: netip.MustParsePrefix("10.96.0.0/16"), NodePorts: [2]int{30000, 32767}, Logger: slog.New(slog.DiscardHandler)}
	must(apiserver.Secure(&cfg, apiserver.Security{ClientCAFile: file("ca.crt"), SigningKeyFile: file("sa.key"),
		Issuers: []string{"https://kubernetes.default.svc"}, BootstrapTokens: true}))
	part(1, func(ctx context.Context) error { return apiserver.Run(ctx, cfg) })

	as := func(name string, groups ...string) *rest.Config {
		pair, err := authority.Issue(pki.Request{CommonName: name, Organizations: groups, Client: true})
		must(err)
		return &rest.Config{Host: "https://" + listener.Addr().String(), QPS: -1,
			TLSClientConfig: rest.TLSClientConfig{CAData: authority.Pair().Cert, CertData: pair.Cert, KeyData: pair.Key}}
	}
	admin := as("admin", "system:masters")
	c := &cluster{address: listener.Addr().String(), authority: authority, admin: kubernetes.NewForConfigOrDie(admin)}
	must(component.WaitForServer(limited(t), admin))
	part(0, func(ctx context.Context) error {
		signer := certificates.Authority{CertFile: file("ca.crt"), KeyFile: file("ca.key")}
		return controller.Run(ctx, controller.Config{
			Client: as("system:kube-controller-manager"), UseServiceAccountCredentials: true, SigningDuration: time.Hour, Logger: slog.New(slog.DiscardHandler),
			Controllers: []string{"bootstrap-signer-controller", "token-cleaner-controller", "skiff-kubelet-serving-approver",
				"certificatesigningrequest-approving-controller", "certificatesigningrequest-signing-controller"},
			Signers: map[string]certificates.Authority{certs.KubeAPIServerClientKubeletSignerName: signer, certs.KubeletServingSignerName: signer},
		})
	})
	_, err = c.admin.CoreV1().Services(metav1.NamespaceSystem).Create(t.Context(), &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "kube-dns"},
		Spec:       v1.ServiceSpec{ClusterIP: "10.96.0.10", Ports: []v1.ServicePort{{Port: 53, Protocol: v1.ProtocolUDP}}},
	}, metav1.CreateOptions{})
	must(err)
	return c
}

// open makes the cluster ready to be joined.
func (c *cluster) open(t *testing.T) {
	t.Helper()
	for range 2 { // it may be repeated
		err := bootstrap.Ensure(t.Context(), c.admin, bootstrap.Cluster{Server: "https://" + c.address, CA: c.authority.Pair().Cert, Settings: bootstrap.Settings{"cluster-cidr": "10.244.0.0/16"}})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func (c *cluster) token(t *testing.T, change func(*bootstrap.Grant)) string {
	t.Helper()
	token, err := bootstrap.NewToken()
	if err != nil {
		t.Fatal(err)
	}
	grant := bootstrap.Grant{Token: token, Expires: time.Now().Add(time.Hour), Groups: []string{bootstrap.NodeGroup}, Usages: []string{bootstrap.UsageSigning, bootstrap.UsageAuthentication}}
	if change != nil {
		change(&grant)
	}
	secret, err := grant.NewSecret()
	if err == nil {
		_, err = c.admin.CoreV1().Secrets(metav1.NamespaceSystem).Create(t.Context(), secret, metav1.CreateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	return token.String()
}

func limited(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func eventually(t *testing.T, check func() error) {
	t.Helper()
	ctx := limited(t)
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal(fmt.Errorf("still not: %w", err))
		case <-time.After(20 * time.Millisecond):
		}
	}
}
