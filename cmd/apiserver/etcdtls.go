package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"

	"github.com/spf13/pflag"

	"skiff/pkg/component"
	"skiff/pkg/etcd"
)

// etcdTLS names the files by which this process and the etcd that it calls know each other.
type etcdTLS struct{ ca, cert, key string }

// addFlags adds them under kube-apiserver's names.
func (o *etcdTLS) addFlags(f *pflag.FlagSet) {
	f.StringVar(&o.ca, "etcd-cafile", "", "file with the authority of etcd's certificates")
	f.StringVar(&o.cert, "etcd-certfile", "", "file with the certificate to show to etcd")
	f.StringVar(&o.key, "etcd-keyfile", "", "file with the key of --etcd-certfile")
}

// dial says how to reach these servers.
func (o *etcdTLS) dial(endpoints []string) (etcd.DialConfig, error) {
	config := etcd.DialConfig{Endpoints: endpoints}
	if o.ca != "" || o.cert != "" {
		config.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if o.ca != "" {
		pem, err := os.ReadFile(o.ca)
		if err != nil {
			return config, fmt.Errorf("etcd's authority: %w", err)
		}
		config.TLS.RootCAs = x509.NewCertPool()
		if !config.TLS.RootCAs.AppendCertsFromPEM(pem) {
			return config, fmt.Errorf("etcd's authority: no certificate in %s", o.ca)
		}
	}
	if o.cert != "" {
		if _, err := tls.LoadX509KeyPair(o.cert, o.key); err != nil {
			return config, fmt.Errorf("the certificate to show to etcd: %w", err)
		}
		config.TLS.GetClientCertificate = component.ReloadingClientCertificate(o.cert, o.key)
	}
	return config, nil
}
