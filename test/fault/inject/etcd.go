package inject

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"skiff/pkg/cluster"
	"skiff/pkg/etcd"
)

// EtcdLeader is the master with the etcd member that leads.
func EtcdLeader(ctx context.Context, spec *cluster.Spec) (string, error) {
	pki := filepath.Join(filepath.Dir(cluster.AdminKubeconfig(spec.Name)), "pki")
	pair, err := tls.LoadX509KeyPair(filepath.Join(pki, "apiserver-etcd-client.crt"), filepath.Join(pki, "apiserver-etcd-client.key"))
	if err != nil {
		return "", err
	}
	ca, err := os.ReadFile(filepath.Join(pki, "etcd/ca.crt"))
	if err != nil {
		return "", err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	config := &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}
	for _, m := range spec.Masters() {
		if leads(ctx, "https://"+netip.AddrPortFrom(m.IP, 2379).String(), config) {
			return m.Name, nil
		}
	}
	return "", errors.New("no etcd member leads")
}

func leads(ctx context.Context, url string, config *tls.Config) bool {
	c, err := etcd.Dial(etcd.DialConfig{Endpoints: []string{url}, TLS: config})
	if err != nil {
		return false
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	status, err := c.Status(ctx, url)
	return err == nil && status.Leader == status.Header.MemberId
}
