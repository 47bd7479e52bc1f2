package apiserver_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/rest"

	"skiff/pkg/api"
	"skiff/pkg/api/catalogue"
	"skiff/pkg/apiserver"
	"skiff/pkg/apiserver/authz"
	"skiff/pkg/apiserver/request"
	"skiff/pkg/etcd"
	"skiff/pkg/store"
)

// everyone lets all requests through, as an administrator, or as who the header names.
type everyone struct{}

func (everyone) Authenticate(r *http.Request) (*request.User, error) {
	if name := r.Header.Get("X-Test-User"); name != "" {
		return &request.User{Name: name, Groups: []string{request.Authenticated}}, nil
	}
	return &request.User{Name: "admin", Groups: []string{request.Masters, request.Authenticated}}, nil
}

// Authorize refuses only the user "nobody".
func (everyone) Authorize(_ context.Context, user *request.User, _ *request.Info) authz.Verdict {
	return authz.Verdict{Allowed: user.Name != "nobody"}
}

func (everyone) Review(_ context.Context, _ *api.Kind, _ string, obj api.Object) (api.Object, error) {
	return obj, nil
}

func (everyone) Token(_ context.Context, namespace, name string, req *authenticationv1.TokenRequest, _ func(*authenticationv1.TokenRequest) error) (*authenticationv1.TokenRequest, error) {
	req.Status.Token = "token-of-" + namespace + "/" + name
	return req, nil
}

// instance is a server on loopback with an etcd of its own.
type instance struct {
	address string
	config  *rest.Config
	store   *store.Store
	etcd    *etcd.Member
	rows    *api.Catalogue
	stop    func()

	certFile, keyFile string
}

// direct writes an object into the store, past the server.
func (i *instance) direct(t testing.TB) func(api.Object) {
	return func(obj api.Object) {
		t.Helper()
		gvks, _, err := api.Scheme.ObjectKinds(obj)
		if err != nil {
			t.Fatal(err)
		}
		kind := i.rows.View().ByKind(gvks[0])
		obj.SetUID(uuid.NewUUID())
		key := store.Key{Path: kind.StoragePath, Namespace: obj.GetNamespace(), Name: obj.GetName()}
		if _, err := i.store.Create(limited(t), kind, key, obj, store.Write{}); err != nil {
			t.Fatal(err)
		}
	}
}

// start runs a server; change may adapt its configuration.
func start(t testing.TB, change ...func(*apiserver.Config)) *instance {
	t.Helper()
	member, err := etcd.Start(t.Context(), etcd.Config{DataDir: t.TempDir(), NoSync: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(member.Close)
	return over(t, member, change...)
}

// over runs a server on a member of etcd.
func over(t testing.TB, member *etcd.Member, change ...func(*apiserver.Config)) *instance {
	t.Helper()
	logger := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
	ctx, cancel := context.WithCancel(context.Background())
	rows := catalogue.Default()
	st := store.New(store.Config{
		Client: member.Client(), Stored: func(k *api.Kind) *api.Kind { return rows.View().Stored(k) },
		Log: logger, BookmarkEvery: 50 * time.Millisecond,
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile, caPEM := certificates(t)
	ready := make(chan struct{})
	cfg := apiserver.Config{
		Listener: listener, AdvertiseAddress: netip.MustParseAddr("127.0.0.1"),
		CertFile: certFile, KeyFile: keyFile,
		Catalogue: rows, Store: st, Etcd: member.Client(),
		Authenticator: everyone{}, Authorizer: everyone{}, Reviews: everyone{},
		ServiceRange: netip.MustParsePrefix("10.96.0.0/16"), NodePorts: [2]int{30000, 32767},
		Logger: logger,
		Ready:  func(net.Addr) { close(ready) },
	}
	for _, c := range change {
		c(&cfg)
	}
	var group sync.WaitGroup
	storing, stopStore := context.WithCancel(context.Background()) // after the server
	group.Go(func() {
		if err := st.Run(storing); err != nil {
			t.Errorf("store: %v", err)
		}
	})
	group.Go(func() {
		defer stopStore()
		if err := apiserver.Run(ctx, cfg); err != nil {
			t.Errorf("apiserver: %v", err)
		}
	})
	stop := sync.OnceFunc(func() {
		cancel()
		group.Wait()
	})
	t.Cleanup(stop)
	<-ready
	return &instance{
		address: "https://" + listener.Addr().String(), store: st, etcd: member, stop: stop, rows: rows, certFile: certFile, keyFile: keyFile,
		config: &rest.Config{Host: listener.Addr().String(), TLSClientConfig: rest.TLSClientConfig{CAData: caPEM}, QPS: -1},
	}
}

func certificates(t testing.TB) (certFile, keyFile string, caPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	caPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
	for file, data := range map[string][]byte{certFile: caPEM, keyFile: keyPEM} {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile, caPEM
}
