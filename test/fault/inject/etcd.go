package inject

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"skiff/pkg/cluster"
	"skiff/pkg/etcd"
)

// EtcdLeader is the master with the etcd member that leads.
func EtcdLeader(ctx context.Context, spec *cluster.Spec) (string, error) {
	for _, m := range spec.Masters() {
		leads := false
		err := withMember(ctx, spec, m, func(ctx context.Context, _ *clientv3.Client, status *clientv3.StatusResponse) error {
			leads = status.Leader == status.Header.MemberId
			return nil
		})
		if err == nil && leads {
			return m.Name, nil
		}
	}
	return "", errors.New("no etcd member leads")
}

// MoveEtcdLeader has a master's member lead.
func MoveEtcdLeader(ctx context.Context, spec *cluster.Spec, to string) error {
	leader, err := EtcdLeader(ctx, spec)
	if err != nil || leader == to {
		return err
	}
	masters := spec.Masters()
	at := func(name string) cluster.Node {
		return masters[slices.IndexFunc(masters, func(n cluster.Node) bool { return n.Name == name })]
	}
	var id uint64
	err = withMember(ctx, spec, at(to), func(_ context.Context, _ *clientv3.Client, status *clientv3.StatusResponse) error {
		id = status.Header.MemberId
		return nil
	})
	if err != nil {
		return err
	}
	return withMember(ctx, spec, at(leader), func(ctx context.Context, c *clientv3.Client, _ *clientv3.StatusResponse) error {
		_, err := c.MoveLeader(ctx, id)
		return err
	})
}

// FillDatabase raises etcd's alarm as if its database had reached its quota, which takes gigabytes: all that follows is etcd's own.
func FillDatabase(ctx context.Context, spec *cluster.Spec) error {
	m := spec.Masters()[0]
	return withMember(ctx, spec, m, func(ctx context.Context, c *clientv3.Client, status *clientv3.StatusResponse) error {
		_, err := etcdserverpb.NewMaintenanceClient(c.ActiveConnection()).Alarm(ctx, &etcdserverpb.AlarmRequest{
			Action: etcdserverpb.AlarmRequest_ACTIVATE, MemberID: status.Header.MemberId, Alarm: etcdserverpb.AlarmType_NOSPACE})
		return err
	})
}

// withMember calls f with a client of one member and what that says of itself.
func withMember(ctx context.Context, spec *cluster.Spec, m cluster.Node, f func(context.Context, *clientv3.Client, *clientv3.StatusResponse) error) error {
	access, err := etcdAccess(spec)
	if err != nil {
		return err
	}
	url := "https://" + netip.AddrPortFrom(m.IP, 2379).String()
	c, err := etcd.Dial(etcd.DialConfig{Endpoints: []string{url}, TLS: access})
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	status, err := c.Status(ctx, url)
	if err != nil {
		return err
	}
	return f(ctx, c, status)
}

// etcdAccess is how apiservers reach the members.
func etcdAccess(spec *cluster.Spec) (*tls.Config, error) {
	at, err := cluster.NodeFile(spec.Name, spec.Masters()[0].Name, "/run/skiff/etc/pki")
	if err != nil {
		return nil, err
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(at, "apiserver-etcd-client.crt"), filepath.Join(at, "apiserver-etcd-client.key"))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(filepath.Join(at, "etcd/ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}, nil
}
