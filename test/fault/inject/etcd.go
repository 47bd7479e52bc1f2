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
	at, err := cluster.NodeFile(spec.Name, spec.Masters()[0].Name, "/run/skiff/etc/pki")
	if err != nil {
		return "", err
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(at, "apiserver-etcd-client.crt"), filepath.Join(at, "apiserver-etcd-client.key"))
	if err != nil {
		return "", err
	}
	ca, err := os.ReadFile(filepath.Join(at, "etcd/ca.crt"))
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
