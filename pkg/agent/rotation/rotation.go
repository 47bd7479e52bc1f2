// Package rotation keeps a node's certificates alive, as the kubelet does: when 70 to 90 % of
// their life is over it asks the apiserver for new ones (certificate signing requests), and
// stores them in a directory, in the kubelet's layout: kubelet-client-current.pem and
// kubelet-server-current.pem are links to the newest file, which holds certificate and key.
//
// Nothing has to be restarted. Whoever uses the client certificate reads the file anew
// (component.Client does); the serving certificate is asked for at each connection.
package rotation

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	certs "k8s.io/api/certificates/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/certificate"
)

// Config says whose certificates are kept where.
type Config struct {
	Client   kubernetes.Interface // acts as the node
	NodeName string
	Dir      string
}

// Rotation keeps one certificate alive.
type Rotation struct{ manager certificate.Manager }

// The stores' names; the kubelet's.
const (
	clientPair = "kubelet-client"
	serverPair = "kubelet-server"
)

// ClientFile is the file with the current client certificate and its key.
func ClientFile(dir string) string { return filepath.Join(dir, clientPair+"-current.pem") }

// Store puts a client certificate and its key, both PEM, into a directory as the current ones.
func Store(dir string, cert, key []byte) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	store, err := certificate.NewFileStore(clientPair, dir, dir, "", "")
	if err == nil {
		_, err = store.Update(cert, key)
	}
	return err
}

// Seed makes the directory's client certificate the kubeconfig's, if it has none that is valid, and
// returns its file.
func Seed(dir, kubeconfig string) (string, error) {
	file := ClientFile(dir)
	if pair, err := tls.LoadX509KeyPair(file, file); err == nil && time.Now().Before(pair.Leaf.NotAfter) {
		return file, nil
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err == nil {
		err = rest.LoadTLSFiles(config)
	}
	if err != nil {
		return "", fmt.Errorf("kubeconfig %q: %w", kubeconfig, err)
	}
	pair, err := tls.X509KeyPair(config.CertData, config.KeyData)
	if err != nil {
		return "", fmt.Errorf("kubeconfig %q: the client certificate: %w", kubeconfig, err)
	}
	if !time.Now().Before(pair.Leaf.NotAfter) {
		return "", fmt.Errorf("the client certificate of this node expired at %s: join again, with a new token (agent join)", pair.Leaf.NotAfter.Format(time.RFC3339))
	}
	return file, Store(dir, config.CertData, config.KeyData)
}

// NewClient makes a Rotation of the node's client certificate, which is in the directory already.
func NewClient(c Config) (*Rotation, error) {
	return c.rotation(clientPair, "", "", certificate.Config{
		SignerName: certs.KubeAPIServerClientKubeletSignerName,
		GetUsages:  certificate.DefaultKubeletClientGetUsages,
		Template:   &x509.CertificateRequest{Subject: c.subject()},
	})
}

// NewServing makes a Rotation of the node's serving certificate, for its name and addresses. The first one may be in
// files; else it is asked for.
func NewServing(c Config, addresses []netip.Addr, certFile, keyFile string) (*Rotation, error) {
	template := &x509.CertificateRequest{Subject: c.subject(), DNSNames: []string{c.NodeName}}
	for _, a := range addresses {
		template.IPAddresses = append(template.IPAddresses, a.AsSlice())
	}
	return c.rotation(serverPair, certFile, keyFile, certificate.Config{
		SignerName: certs.KubeletServingSignerName,
		GetUsages:  certificate.DefaultKubeletServingGetUsages,
		// Asking for it has the current certificate compared with it, so that one for other addresses is replaced.
		GetTemplate: func() *x509.CertificateRequest { return template },
	})
}

func (c Config) subject() pkix.Name {
	return pkix.Name{CommonName: "system:node:" + c.NodeName, Organization: []string{"system:nodes"}}
}

func (c Config) rotation(name, certFile, keyFile string, config certificate.Config) (*Rotation, error) {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, err
	}
	store, err := certificate.NewFileStore(name, c.Dir, c.Dir, certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("certificates in %s: %w", c.Dir, err)
	}
	config.Name, config.CertificateStore = name, store
	config.ClientsetFn = func(*tls.Certificate) (kubernetes.Interface, error) { return c.Client, nil }
	manager, err := certificate.NewManager(&config)
	if err != nil {
		return nil, fmt.Errorf("certificates in %s: %w", c.Dir, err)
	}
	return &Rotation{manager}, nil
}

// Run works until ctx ends.
func (r *Rotation) Run(ctx context.Context) error {
	r.manager.Start()
	<-ctx.Done()
	r.manager.Stop()
	return ctx.Err()
}

var errNone = errors.New("there is no certificate yet")

// Certificate is the current one, or an error as long as there is none that is valid.
func (r *Rotation) Certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if current := r.manager.Current(); current != nil {
		return current, nil
	}
	return nil, errNone
}
