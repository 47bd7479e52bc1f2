// Package join makes a machine a node of a cluster: the counterpart of `kubeadm join` and of the
// kubelet's TLS bootstrap. What a person hands over is an address, a token and the
// hash of the cluster's authority; from these it finds, in this order,
//
//	discover.go  the cluster: what the server publishes is believed when the token has signed it
//	             and the authority has the hash, and is then fetched again over verified TLS
//	request.go   an identity: a client certificate for system:node:<name>, asked for with the token
//	files.go     what the agent needs at each start: kubeconfig, authority, flags
//
// Each step leaves a file, and a later run goes on where an earlier one was killed. The
// kubeconfig is written last: where it stands, the machine has joined. The certificate in
// it is renewed by the agent itself (package rotation).
package join

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"skiff/pkg/agent/rotation"
	"skiff/pkg/pki"
	"skiff/pkg/pki/bootstrap"
)

// Config says what to join, and as whom.
type Config struct {
	Servers []string // host:port of apiservers; the first that answers is taken
	Token   string
	// CAHashes pin the cluster's authority ("sha256:…"): one of them must be its. Without any, AnyCA must be set.
	CAHashes []string
	AnyCA    bool
	NodeName string
	Dir      string // for all files: /etc/skiff
	// Extra are further flags of the agent.
	Extra []string
	// Timeout is how long servers are looked for, and again how long an approval is waited for; 0 is a minute.
	Timeout time.Duration
	// Progress is called before each step.
	Progress func(text string)

	patience time.Duration // how long a token's signature may be missing; 0: as long as it may take to sign
}

// Joined is the outcome.
type Joined struct {
	NodeName string
	Already  bool     // it had joined before
	Flags    []string // of the agent
}

// Run joins, or goes on joining, or finds that the machine has joined.
func Run(ctx context.Context, c Config) (*Joined, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	if joined, err := c.joined(); joined != nil || err != nil {
		return joined, err
	}
	token, err := bootstrap.ParseToken(c.Token)
	if err != nil {
		return nil, fmt.Errorf("--token: %w", err)
	}
	c.Progress("Looking for the cluster at " + strings.Join(c.Servers, ", "))
	cluster, err := c.discover(ctx, token)
	if err != nil {
		return nil, err
	}
	if err := c.writeDiscovered(cluster, token); err != nil {
		return nil, err
	}
	bootstrapper, err := kubernetes.NewForConfig(&rest.Config{Host: cluster.Server, BearerToken: c.Token, TLSClientConfig: rest.TLSClientConfig{CAData: cluster.CertificateAuthorityData}})
	if err != nil {
		return nil, err
	}
	if !c.hasCertificate(cluster.CertificateAuthorityData) {
		c.Progress("Asking " + cluster.Server + " for the certificate of node " + c.NodeName)
		if err := c.request(ctx, bootstrapper); err != nil {
			return nil, err
		}
	}
	c.Progress("Reading the cluster's settings")
	flags, err := c.flags(ctx, cluster)
	if err != nil {
		return nil, err
	}
	return &Joined{NodeName: c.NodeName, Flags: flags}, c.finish(cluster, flags)
}

func (c *Config) complete() error {
	switch {
	case len(c.Servers) == 0:
		return errors.New("no server is named: agent join HOST:PORT")
	case len(c.CAHashes) == 0 && !c.AnyCA:
		return errors.New("without the hash of the cluster's authority anybody with the token can pose as the cluster: name it with --discovery-token-ca-cert-hash")
	case len(c.CAHashes) > 0 && c.AnyCA:
		return errors.New("a hash of the authority is named, and skipping its check as well")
	}
	if c.NodeName == "" {
		name, err := os.Hostname()
		if err != nil {
			return err
		}
		c.NodeName = name
	}
	c.NodeName = strings.ToLower(c.NodeName)
	for _, flag := range c.Extra {
		if strings.ContainsAny(flag, " \t\n\"'\\$") {
			return fmt.Errorf("flag %q: neither blanks nor quotes, dollars or backslashes can be kept for the agent", flag)
		}
	}
	if c.Timeout == 0 {
		c.Timeout = time.Minute
	}
	if c.patience == 0 {
		c.patience = 10 * time.Second
	}
	if c.Progress == nil {
		c.Progress = func(string) {}
	}
	return nil
}

// joined says what an earlier run has brought about; nil: not all of it, or its certificate has expired.
func (c *Config) joined() (*Joined, error) {
	if _, err := os.Stat(c.kubeconfig()); err != nil {
		return nil, nil //nolint:nilerr // it is missing, or will fail to be written
	}
	ca, err := os.ReadFile(c.caFile())
	if err != nil {
		return nil, nil //nolint:nilerr // begin anew
	}
	leaf := c.certificate()
	if leaf == nil || !time.Now().Before(leaf.NotAfter) {
		return nil, nil
	}
	name := strings.TrimPrefix(leaf.Subject.CommonName, "system:node:")
	if err := c.checkPins(ca); err != nil {
		return nil, fmt.Errorf("this machine has joined another cluster, as node %s: %w. To leave that one, stop the agent and remove %s", name, err, c.Dir)
	}
	if name != c.NodeName {
		return nil, fmt.Errorf("this machine has joined as node %s already, and not as %s. To leave, stop the agent and remove %s", name, c.NodeName, c.Dir)
	}
	flags, err := c.readFlags()
	if err != nil {
		return nil, nil //nolint:nilerr // begin anew
	}
	return &Joined{NodeName: name, Already: true, Flags: flags}, nil
}

// certificate is the current client certificate; nil: there is none that can be read.
func (c *Config) certificate() *x509.Certificate {
	file := rotation.ClientFile(c.pkiDir())
	pair, err := tls.LoadX509KeyPair(file, file)
	if err != nil {
		return nil
	}
	return pair.Leaf
}

// hasCertificate says that a run before this one got a certificate of this cluster for this node.
func (c *Config) hasCertificate(ca []byte) bool {
	leaf := c.certificate()
	if leaf == nil || leaf.Subject.CommonName != "system:node:"+c.NodeName {
		return false
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err == nil
}

// checkPins says why an authority (PEM) isn't the one whose hash was named.
func (c *Config) checkPins(ca []byte) error {
	hashes, err := pki.Hashes(ca)
	if err != nil {
		return fmt.Errorf("the cluster's authority: %w", err)
	}
	if c.AnyCA || slices.ContainsFunc(hashes, func(h string) bool {
		return slices.ContainsFunc(c.CAHashes, func(pin string) bool { return strings.EqualFold(pin, h) })
	}) {
		return nil
	}
	return fmt.Errorf("the cluster's authority has the hash %s, not %s as --discovery-token-ca-cert-hash says", strings.Join(hashes, ", "), strings.Join(c.CAHashes, ", "))
}
